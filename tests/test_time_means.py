"""Running means of a training, kept apart by t."""

import math

import pytest
import torch

from ddgan_core.time_means import TimeMeans


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
