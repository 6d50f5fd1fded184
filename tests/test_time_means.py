"""Running means of a training, kept apart by t."""

import math

import pytest
import torch

from ddgan_core import training
from ddgan_core.study import configure
from ddgan_core.time_means import TimeMeans, variance_by_latent


def test_time_means_keep_each_t_apart() -> None:
    means = TimeMeans(4, "cpu")
    means.add("loss", torch.tensor([1.0, 3.0, 10.0]), torch.tensor([1, 1, 4]))
    means.add("loss", torch.tensor([5.0]), torch.tensor([1]))
    read = means.read()
    assert (read["loss"], read["loss_t1"], read["loss_t4"]) == (4.75, 3.0, 10.0)
    assert math.isnan(read["loss_t2"])
    assert math.isnan(read["loss_t3"])
    assert len(read) == 5
    means.add("norm", torch.tensor(2.0))  # of the whole batch: of no t
    means.add("norm", torch.tensor(4.0))
    assert means.read() == {"norm": 3.0}
    assert means.read() == {}


def test_time_means_fold_long_chains_into_ten() -> None:
    means = TimeMeans(1000, "cpu")
    means.add("loss", torch.arange(1.0, 1001.0), torch.arange(1, 1001))
    read = means.read()
    assert read["loss"] == 500.5
    assert read["loss_t1"] == 50.5
    assert read["loss_t10"] == 950.5
    assert len(read) == 11


def test_a_total_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph would fill another with zeros at every replay, for nothing."""
    made, zeros = [], torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda shape, **how: made.append(shape) or zeros(shape, **how))
    means = TimeMeans(4, "cpu")
    for _ in range(3):
        means.add("norm", torch.tensor(2.0))
        means.add("loss", torch.tensor([1.0]), torch.tensor([1]))
        means.read()
    assert made == [(2,), (2, 4)]


def test_the_variance_by_the_latent_is_of_the_latent_alone() -> None:
    """x_t + t z_1 in each pixel varies by t^2, however different the x_t are."""
    x_t, t = 100 * torch.randn(3, 1, 4, 4), torch.tensor([0, 1, 2])
    random = torch.Generator().manual_seed(0)

    def model(x: torch.Tensor, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return x.double() + (t * z[:, 0])[:, None, None, None]

    found = variance_by_latent(model, x_t, t, 5, random, draws=4000)
    assert found.tolist() == pytest.approx([0.0, 1.0, 4.0], rel=0.1, abs=1e-9)
    mean = torch.stack([variance_by_latent(model, x_t, t, 5, random, draws=2) for _ in range(4000)]).mean(0)
    assert mean.tolist() == pytest.approx([0.0, 1.0, 4.0], rel=0.1, abs=1e-9)  # two draws are not biased either


def test_a_look_is_at_the_averaged_generator_and_at_one_batch_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(model: torch.nn.Module, x_t: torch.Tensor, t: torch.Tensor, *_: object) -> torch.Tensor:
        seen.append((model, x_t, t))
        return torch.zeros(len(t))

    monkeypatch.setattr(training, "variance_by_latent", watched)
    each = training.Trainer(configure("smoke", T=3), torch.arange(64).view(4, 1, 4, 4).byte())
    each.look()
    each.update()
    each.look()
    (model, x_t, t), (later, x_t_later, t_later) = seen
    assert model is later is each.ema
    assert torch.equal(x_t, x_t_later)
    assert torch.equal(t, t_later)
