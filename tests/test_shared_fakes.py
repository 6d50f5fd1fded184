"""Fakes that are made once for both players; resuming and replaying with them are in test_training and test_graphs."""

import pytest
import torch

from ddgan_core import training
from ddgan_core.data import load_images
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
