"""What the players are shown: steps, pairs and fakes by their laws, and fakes that are made once for both.

Resuming and replaying with those are in test_training and test_graphs.
"""

import pytest
import torch

from ddgan_core import training
from ddgan_core.data import load_images
from ddgan_core.diffusion import random_generator
from ddgan_core.objectives import critic_loss, generator_loss
from ddgan_core.study import configure
from ddgan_core.training import Trainer


@pytest.mark.parametrize("shared", [False, True])
def test_shared_fakes_are_those_of_the_last_critic_step(monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    """Made once, with the generator's graph; the critic that judges them has moved meanwhile."""
    config = configure("smoke", shared_fakes=shared, critic_steps=2)
    each, seen = Trainer(config, load_images("digits")[0]), []

    def critic(row, critic, x_prev, fake, *xt):  # type: ignore[no-untyped-def]
        seen.append(("critic", fake, critic.logit.weight.detach().clone()))
        return critic_loss(row, critic, x_prev, fake, *xt)

    def generator(row, critic, x_prev, fake, *xt):  # type: ignore[no-untyped-def]
        seen.append(("generator", fake, critic.logit.weight.detach().clone()))
        return generator_loss(row, critic, x_prev, fake, *xt)

    monkeypatch.setattr(training, "critic_loss", critic)
    monkeypatch.setattr(training, "generator_loss", generator)
    each.update()
    (_, first, _), (_, last, before), (player, its, after) = seen
    assert player == "generator"
    assert its.requires_grad
    assert not first.requires_grad
    assert torch.equal(its, last) == shared
    assert not torch.equal(first, last)
    assert not torch.equal(before, after)


def test_players_are_shown_pairs_of_the_forward_process_and_fakes_of_the_posterior() -> None:
    """Of one flat image, with a generator that answers it: a fake beside its x_t has the law of the real x_{t-1}."""
    x_0, latents = 200 / 127.5 - 1, []
    each = Trainer(configure("smoke", T=3, batch_size=2000), torch.full((4, 1, 8, 8), 200, dtype=torch.uint8))
    each.model = lambda x_t, t, z: latents.append(z) or torch.full_like(x_t, x_0)
    x_prev, fake, x_t, t = each._pairs("generator")
    for step in (1, 2, 3):
        (a_prev, a), beta = each.schedule.alpha_bar[step - 1 : step + 1].tolist(), each.schedule.beta[step].item()
        between = (1 - beta) ** 0.5 * (1 - a_prev)
        for x in (x_prev, fake):
            both = torch.stack([x[t == step].flatten(), x_t[t == step].flatten()])
            assert both.mean(1).tolist() == pytest.approx([a_prev**0.5 * x_0, a**0.5 * x_0], abs=0.03)
            covariance = torch.tensor([[1 - a_prev, between], [between, 1 - a]])
            torch.testing.assert_close(both.cov(), covariance, rtol=0, atol=0.03)
    (z,) = latents
    assert len(z.unique(dim=0)) == len(x_t.unique(dim=0)) == 2000, "each image has a latent and noise of its own"
    assert (z.mean().item(), z.std().item()) == pytest.approx((0, 1), abs=0.05)


def test_steps_are_drawn_by_their_weights() -> None:
    """But for what is looked at, which is the same for all weights."""
    images = load_images("digits")[0]
    alike = Trainer(configure("smoke", T=3, batch_size=10_000), images)
    each = Trainer(alike.config.changed(step_weights=(6, 1, 3)), images)
    _, t = each._draw(random_generator(0, "times"))
    assert t.bincount().tolist() == [0, *(pytest.approx(n, abs=200) for n in (6000, 1000, 3000))]
    _, t = each._draw(random_generator(0, "times"), equally=True)
    assert torch.equal(t, alike._draw(random_generator(0, "times"))[1])


def test_each_step_is_drawn_up_to_its_very_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure("smoke", T=3, batch_size=4, step_weights=(2, 1, 1))
    each, ends = Trainer(config, load_images("digits")[0]), torch.tensor([0.0, 0.5 - 2**-24, 0.5, 1 - 2**-24])
    monkeypatch.setattr(training.torch, "rand", lambda *_, **__: ends)
    assert each._draw(random_generator(0, "times"))[1].tolist() == [1, 1, 2, 3]
