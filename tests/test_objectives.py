"""What each player minimises: which graph a loss reaches, and what it is worth."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import softplus

from ddgan_core import UserError, training
from ddgan_core.data import load_images
from ddgan_core.diffusion import diffuse, vp_schedule
from ddgan_core.divergences import DIVERGENCES, Divergence
from ddgan_core.networks import Discriminator, NoisePredictor
from ddgan_core.objectives import critic_loss, critic_penalty, ddpm_loss, generator_loss, make_row
from ddgan_core.penalties import gradient_penalty, r1_penalty, r1_r2_penalty
from ddgan_core.study import configure
from ddgan_core.training import Trainer

each_row = pytest.mark.parametrize("row", DIVERGENCES.values(), ids=lambda row: row.name)
N = 6
LINES = ["non_saturating_js", "squared_hellinger", "reverse_kl", "kl", "neyman"]  # logits that are a log ratio's lines


@pytest.fixture
def critic() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(1, (8, 16))


def images(seed: int) -> torch.Tensor:
    return torch.randn(N, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@each_row
def test_the_critic_does_not_reach_the_fakes(row: Divergence, critic: Discriminator) -> None:
    fake = images(1).requires_grad_(True)
    t = torch.arange(N) % 4 + 1
    loss, *_ = critic_loss(row, critic, images(0), fake, images(2), t)
    penalty = critic_penalty(row, critic, images(0), fake, images(2), t, torch.rand(N))
    (loss + penalty).sum().backward()
    assert loss.shape == penalty.shape == (N,)
    assert fake.grad is None
    assert all(p.grad is not None for name, p in critic.named_parameters() if name != "logit.bias")
    assert (penalty >= 0).all()


@each_row
def test_the_generator_reaches_the_fakes(row: Divergence, critic: Discriminator) -> None:
    fake = images(1).requires_grad_(True)
    generator_loss(row, critic, images(0), fake, images(2), torch.ones(N, dtype=torch.long)).sum().backward()
    assert fake.grad is not None
    assert fake.grad.abs().sum() > 0


@each_row
def test_losses_are_the_rows_values_on_the_critics_logits(row: Divergence, critic: Discriminator) -> None:
    real, fake, x_t, t = images(0), images(1), images(2), torch.arange(N) % 4 + 1
    v_real, v_fake = critic(real, x_t, t), critic(fake, x_t, t)
    found = critic_loss(row, critic, real, fake, x_t, t)
    assert all(map(torch.equal, found, (row.critic(v_real, v_fake), v_real, v_fake)))
    expected = row.generator(v_real if row.relativistic else None, v_fake)
    assert torch.equal(generator_loss(row, critic, real, fake, x_t, t), expected)


@each_row
def test_the_critic_looks_at_real_images_for_the_generator_only_where_the_row_reads_them(
    row: Divergence, critic: Discriminator
) -> None:
    real = torch.full_like(images(0), torch.nan)
    loss = generator_loss(row, critic, real, images(1), images(2), torch.ones(N, dtype=torch.long))
    assert loss.isnan().all() if row.relativistic else loss.isfinite().all()


@each_row
def test_a_penalty_is_the_finite_difference_of_the_critic(row: Divergence, critic: Discriminator) -> None:
    """Squared gradient norms at real (R1) and fake images (R2), or against 1 (GP at mix 1), by central differences."""
    real, fake, x_t, t = images(0)[:1], images(1)[:1], images(2)[:1], torch.ones(1, dtype=torch.long)

    def squared(at: torch.Tensor) -> float:
        step, total = 1e-2, 0.0  # the critic is piecewise linear in one image
        for nudge in (step * torch.eye(64)).view(64, 1, 1, 8, 8):
            with torch.no_grad():
                difference = critic(at + nudge, x_t, t) - critic(at - nudge, x_t, t)
            total += (difference.item() / (2 * step)) ** 2
        return total

    expected = {
        r1_penalty: lambda: squared(real) / 2,
        r1_r2_penalty: lambda: (squared(real) + squared(fake)) / 2,
        gradient_penalty: lambda: (squared(real) ** 0.5 - 1) ** 2,
    }[row.penalty]()
    penalty = critic_penalty(row, critic, real, fake, x_t, t, torch.ones(1))
    assert penalty.item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("critic", LINES)
@pytest.mark.parametrize("name", LINES)
def test_a_generator_descends_its_own_divergence_by_any_critic(name: str, critic: str) -> None:
    """Of E_P f(u) a sample sees f(u) - u f'(u), minus f* at f'(u), u the ratio that the critic's logit stands for."""
    row, own, judge = make_row(name, critic), DIVERGENCES[name], DIVERGENCES[critic]
    v = torch.linspace(-3, 3, 13, dtype=torch.float64, requires_grad=True)
    u = judge.log_ratio(v).exp()
    found, expected = (
        torch.autograd.grad(loss.sum(), v)[0] for loss in (row.generator(None, v), own.f(u) - u * own.f_prime(u))
    )
    assert torch.allclose(found, expected, rtol=1e-4)
    assert (row.name, row.critic, row.penalty) == (name, judge.critic, judge.penalty)
    assert (row.f, row.f_prime, row.log_ratio) == (own.f, own.f_prime, judge.log_ratio)


@pytest.mark.parametrize("critic", ["squared_hellinger", "reverse_kl"])
def test_a_loss_that_does_not_saturate_learns_by_any_critic(critic: str) -> None:
    """-log sigma of the log ratio: of JS's generator, which is no divergence's of its f."""
    row, judge = make_row("non_saturating_js", critic), DIVERGENCES[critic]
    v = torch.linspace(-3, 3, 13, dtype=torch.float64)
    assert torch.allclose(row.generator(None, v), softplus(-judge.log_ratio(v)))
    assert row.critic is judge.critic


def test_a_row_by_its_own_critic_is_the_row() -> None:
    assert make_row("kl") is make_row("kl", "kl") is DIVERGENCES["kl"]


@pytest.mark.parametrize("pair", [("reverse_kl", "wasserstein"), ("pearson", "kl"), ("kl", "total_variation")])
def test_a_logit_that_is_no_line_of_the_log_ratio_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="no multiple of the log ratio"):
        make_row(*pair)


def test_a_critic_is_trained_by_the_row_that_is_named_for_it() -> None:
    rows = {"divergence": "reverse_kl", "critic_divergence": "jensen_shannon"}
    players = []
    for chosen in (rows, {"divergence": "jensen_shannon"}, {"divergence": "reverse_kl"}):
        each = Trainer(configure("smoke", **chosen), load_images("digits")[0])
        each.update()
        players.append([torch.cat([p.flatten() for p in n.parameters()]) for n in (each.critic, each.model)])
    (critic, model), (js_critic, js_model), (own_critic, _) = players
    assert torch.equal(critic, js_critic)
    assert not torch.equal(critic, own_critic)
    assert not torch.equal(model, js_model)


def test_ddpm_loss_is_the_squared_error_per_pixel_of_the_noise() -> None:
    class Echo(NoisePredictor):
        """Answers with its input, and remembers the time it was told."""

        def forward(self, x: torch.Tensor, t: torch.Tensor, z: None = None) -> torch.Tensor:
            self.told = t
            return x

    network, schedule = Echo(1, (8, 16), False), vp_schedule(1000).respaced(10)
    t = torch.tensor([1, 5, 10, 2, 3, 4])
    loss = ddpm_loss(network, schedule, images(0), t, images(1))
    error = diffuse(schedule, images(0), t, images(1)) - images(1)
    assert torch.allclose(loss, error.square().mean(dim=(1, 2, 3)))
    assert network.told.tolist() == [100, 500, 1000, 200, 300, 400]  # in the network's own time


@pytest.mark.parametrize("method", ["ddgan", "ddpm"])
def test_players_descend_means_over_their_batch_and_the_history_says_which(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and penalty alike, so that a penalty's weight means the same in a batch of any size."""
    parts: dict[str, tuple[torch.Tensor, ...]] = {}
    descended: dict[str, float] = {}

    def noted(name: str) -> Callable[..., object]:
        whole = getattr(training, name)

        def note(*of: object) -> object:
            found = whole(*of)
            parts[name] = tuple(x.detach() for x in (found if isinstance(found, tuple) else (found,)))
            if name == "critic_penalty":
                assert len(of[-1].unique()) == N, "each image is looked at in a place of its own"
            return found

        return note

    for name in ("critic_loss", "critic_penalty", "generator_loss", "ddpm_loss"):
        monkeypatch.setattr(training, name, noted(name))
    descend = Trainer._descend

    def watched(self: Trainer, optimiser: torch.optim.Optimizer, loss: torch.Tensor, player: str) -> None:
        descended[player] = loss.item()
        descend(self, optimiser, loss, player)

    monkeypatch.setattr(Trainer, "_descend", watched)
    config = configure("smoke", method=method, batch_size=N, penalty_weight=3.0, penalty_every=2, level_weight=0.0)
    each = Trainer(config, torch.randint(0, 256, (9, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte())
    each.update()
    mean = {name: [x.mean().item() for x in found] for name, found in parts.items()}
    if method == "ddpm":
        expected, says = {"model": mean["ddpm_loss"][0]}, {"loss": mean["ddpm_loss"][0]}
    else:
        loss, v_real, v_fake = mean["critic_loss"]
        (penalty,), (generator,) = mean["critic_penalty"], mean["generator_loss"]
        expected = {"critic": loss + 3 * 2 * penalty, "generator": generator}
        says = {"critic": loss, "logit_real": v_real, "logit_fake": v_fake, "penalty": penalty, "generator": generator}
        assert v_real != v_fake
    assert descended == pytest.approx(expected, rel=1e-5)
    for player in descended:
        network = each.critic if player == "critic" else each.model
        gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        says[f"gradient_{player}"] = torch.cat(gradients).norm().item()
    history = each.means.read()
    assert {name: history[name] for name in says} == pytest.approx(says, rel=1e-5, abs=1e-6)
