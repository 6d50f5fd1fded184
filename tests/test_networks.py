"""Shapes at every image size, what each network listens to, and the one layer that looks across a batch."""

import math

import pytest
import torch
from torch import nn

from ddgan_core import UserError
from ddgan_core.networks import (
    Classifier,
    Discriminator,
    Generator,
    NoisePredictor,
    fine_detail,
    minibatch_std,
)

SIZES = [(1, 8, (8, 16)), (1, 28, (8, 16, 24)), (3, 32, (8, 16, 24, 32))]
sizes = pytest.mark.parametrize(("channels", "size", "widths"), SIZES, ids=["8x8", "28x28", "32x32x3"])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@sizes
@pytest.mark.parametrize("attention", [False, True])
def test_unets_keep_the_shape_and_train_every_weight(
    channels: int, size: int, widths: tuple[int, ...], attention: bool
) -> None:
    torch.manual_seed(0)
    x, t, z = noise(3, channels, size, size), torch.tensor([1, 2, 4]), noise(3, 5, seed=1)
    generator = Generator(channels, widths, 5, attention)
    predictor = NoisePredictor(channels, widths, attention)
    for network, y in ((generator, generator(x, t, z)), (predictor, predictor(x, t))):
        assert y.shape == x.shape
        assert y.isfinite().all()
        y.square().sum().backward()
        assert [n for n, p in network.named_parameters() if p.grad is None] == []
    assert generator(100 * x, t, z).abs().max() <= 1


@sizes
@pytest.mark.parametrize("detail", [False, True])
def test_the_critic_gives_one_logit_per_image_and_trains_every_weight(
    channels: int, size: int, widths: tuple[int, ...], detail: bool
) -> None:
    torch.manual_seed(0)
    critic = Discriminator(channels, widths, detail)
    logits = critic(noise(4, channels, size, size), noise(4, channels, size, size, seed=1), torch.tensor([1, 2, 3, 4]))
    assert logits.shape == (4,)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in critic.parameters())


def test_the_generator_listens_to_x_t_t_and_z() -> None:
    torch.manual_seed(0)
    network = Generator(1, (8, 16), 4, False)
    for block in [*network.down, *network.up]:  # blocks start as their skip connections: wake them
        torch.nn.init.normal_(block.conv_2.weight, std=0.05)
    x, t, z = noise(2, 1, 8, 8), torch.tensor([1, 1]), noise(2, 4, seed=1)
    y = network(x, t, z)
    assert not torch.allclose(y, network(noise(2, 1, 8, 8, seed=2), t, z), atol=1e-3)
    assert not torch.allclose(y, network(x, t + 1, z), atol=1e-4)
    assert not torch.allclose(y, network(x, t, noise(2, 4, seed=3)), atol=1e-4)
    assert torch.allclose(y, network(x, t, 3 * z), atol=1e-4)  # only z's direction counts: the mapping normalises it


def test_even_an_untrained_generator_answers_differently_to_another_z() -> None:
    torch.manual_seed(0)
    network = Generator(1, (8, 16), 4, False)
    x, t = noise(1, 1, 8, 8).expand(8, -1, -1, -1), torch.ones(8, dtype=torch.long)
    assert network(x, t, noise(8, 4, seed=1)).std(0).mean() > 1e-3


def test_the_critic_listens_to_x_prev_x_t_and_t() -> None:
    torch.manual_seed(0)
    critic = Discriminator(1, (8, 16))
    x_prev, x_t, t = noise(4, 1, 8, 8), noise(4, 1, 8, 8, seed=1), torch.ones(4, dtype=torch.long)
    v = critic(x_prev, x_t, t)
    assert not torch.allclose(v, critic(x_t, x_t, t), atol=1e-3)
    assert not torch.allclose(v, critic(x_prev, x_prev, t), atol=1e-3)
    assert not torch.allclose(v, critic(x_prev, x_t, t + 1), atol=1e-4)


def test_a_generator_treats_each_image_alone() -> None:
    torch.manual_seed(0)
    network = Generator(1, (8, 16), 4, True)
    x, t, z = noise(4, 1, 8, 8), torch.tensor([1, 2, 3, 4]), noise(4, 4, seed=1)
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1], z[i : i + 1]) for i in range(4)])
    assert torch.allclose(network(x, t, z), alone, atol=1e-5)


def test_fine_detail_by_hand() -> None:
    """A wave of the finest period is all detail, whatever its height; a ramp and a flat image have none inside."""
    wave = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 1, 8, 8)
    assert torch.allclose(fine_detail(0.3 * wave), wave, atol=1e-3)
    assert torch.allclose(fine_detail(0.3 * wave.mT), wave.mT, atol=1e-3)
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    assert fine_detail(ramp)[..., 1:-1].abs().max() < 1e-5
    assert fine_detail(torch.full((1, 1, 8, 8), 0.7)).abs().max() < 1e-4


def test_fine_detail_is_what_a_blur_by_convolution_leaves() -> None:
    x = noise(3, 2, 9, 12)
    kernel = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])).div(16).expand(2, 1, 3, 3)
    fine = x - torch.nn.functional.conv2d(torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, groups=2)
    assert torch.allclose(fine_detail(x), fine / fine.square().mean((1, 2, 3), keepdim=True).sqrt(), atol=1e-3)


def test_minibatch_std_by_hand() -> None:
    """Eight images make two groups of four: {0, 2, 4, 6} and {1, 3, 5, 7}. One is constant; the other is 0, 2, 4, 6."""
    x = torch.zeros(8, 2, 3, 3)
    x[0::2] = torch.tensor([0.0, 2.0, 4.0, 6.0]).view(4, 1, 1, 1)
    std = minibatch_std(x)
    assert std.shape == (8, 1, 3, 3)
    assert std[0::2].unique().tolist() == pytest.approx([math.sqrt(5)])
    assert std[1::2].max() < 2e-4


@pytest.mark.parametrize(("n", "group"), [(1, 1), (2, 2), (3, 3), (5, 1), (6, 3), (9, 3)])
def test_minibatch_std_takes_any_batch(n: int, group: int) -> None:
    x = noise(n, 2, 3, 3)
    std = minibatch_std(x)[:, 0, 0, 0]
    for i in range(n):
        members = [j for j in range(n) if j % (n // group) == i % (n // group)]
        expected = x[members].var(0, unbiased=False).add(1e-8).sqrt().mean()
        assert std[i].item() == pytest.approx(expected.item(), rel=1e-4)


def test_identical_images_do_not_break_the_penalty() -> None:
    """The roots in the minibatch standard deviation and in the detail's size, differentiated twice where they are 0."""
    torch.manual_seed(0)
    critic = Discriminator(1, (8, 16), detail=True)
    x = torch.zeros(4, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(critic(x, x, torch.ones(4, dtype=torch.long)).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    gradients = [p.grad for p in critic.parameters() if p.grad is not None]
    assert len(gradients) > 5
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients), "a penalty that moves nothing"


def test_a_size_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(UserError, match="30x30.*3 levels.*divisible by 4"):
        NoisePredictor(1, (8, 8, 8), False)(torch.zeros(1, 1, 30, 30), torch.ones(1, dtype=torch.long))


def test_classifier_shapes() -> None:
    features, logits = Classifier(1, (8, 16), 10).eval()(noise(2, 1, 28, 28))
    assert features.shape == (2, 16)
    assert logits.shape == (2, 10)


def test_under_bf16_the_ends_of_both_networks_keep_their_precision() -> None:
    torch.manual_seed(0)
    generator, critic = Generator(1, (8, 16), z_dim=4, attention=False), Discriminator(1, (8, 16))
    x, t = torch.randn(4, 1, 8, 8), torch.ones(4, dtype=torch.long)
    with torch.no_grad():
        generator.head.bias.fill_(-3.6)
        critic.logit.bias.fill_(200.0)
    with torch.autocast("cpu", torch.bfloat16):
        images, logits = generator(x, t, torch.randn(4, 4)), critic(x, x, t)
    assert images.dtype == logits.dtype == torch.float32
    assert images.min() > -1, "an exact -1 has no slope"
    assert len(logits.unique()) == 4, "rounded to whole numbers they would be one"


def test_the_critic_sums_over_positions() -> None:
    critic = Discriminator(1, (8, 16))
    nn.init.zeros_(critic.last.weight)
    nn.init.ones_(critic.last.bias)
    nn.init.ones_(critic.logit.weight)
    assert critic(noise(3, 1, 8, 8), noise(3, 1, 8, 8), torch.ones(3, dtype=torch.long)).tolist() == [16 * 4 * 4] * 3


def test_networks_begin_as_their_comments_say() -> None:
    """The critic's convolutions keep their signal's size: variance 1 / inputs, 2 / 1.04 of it after a leaky ReLU."""
    critic = Discriminator(1, (64, 64))
    for conv, variance in ((critic.stem, 1 / 18), (critic.blocks[1].skip, 1 / 64), (critic.last, 2 / 1.04 / (65 * 9))):
        assert conv.weight.var().item() == pytest.approx(variance, rel=0.2)
    for block in critic.blocks:
        for conv in (block.conv_1, block.conv_2):
            assert conv.weight.var().item() == pytest.approx(2 / 1.04 / (64 * 9), rel=0.2)
            assert not conv.bias.any()
    assert critic.logit.weight.std().item() == pytest.approx(0.01, rel=0.4)
    x, t = noise(2, 1, 8, 8), torch.ones(2, dtype=torch.long)
    predictor = NoisePredictor(1, (8, 16), False)
    assert (predictor(x, t) == predictor.head.bias).all()
