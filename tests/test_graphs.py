"""Updates replayed from graphs are the updates: on the CPU, where a stand-in plays what a GPU would have recorded."""

import copy
import gc
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from ddgan_core import training
from ddgan_core.data import load_images
from ddgan_core.graphs import WARM_UP, Graphs
from ddgan_core.runs import PRESETS, RunConfig
from ddgan_core.training import Trainer, TrainingDiverged, train

IMAGES = load_images("digits")[0]
KINDS: dict[str, dict[str, Any]] = {
    "ddgan": {"penalty_every": 3},
    "wasserstein": {"divergence": "wasserstein", "penalty_weight": 10.0, "critic_steps": 2, "penalty_every": 1},
    "shared": {"shared_fakes": True, "penalty_every": 3, "step_weights": (4, 3, 2, 1)},
    "ddpm": {"method": "ddpm", "divergence": "none", "T": 20},
}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Which graphs were recorded: with the penalty, or without."""
    flags: list[bool] = []

    def record(self: Graphs, flag: bool, step: Callable[[bool], None]) -> SimpleNamespace:
        flags.append(flag)
        for _ in range(WARM_UP + 1):  # to warm up, and what a GPU would only note down
            step(flag)
        return SimpleNamespace(replay=lambda: step(flag))

    monkeypatch.setattr(Graphs, "_recorded", record)
    monkeypatch.setattr(training, "can_record", lambda device: True)
    return flags


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, torch.device]]:
    """What torch.cuda was asked for, and its current device then. What would be recorded is done, a replay nothing."""
    current, asked = [torch.device("cuda:0")], []

    @contextmanager
    def device(wanted: torch.device) -> Iterator[None]:
        current.append(wanted)
        yield
        current.pop()

    def stand_in(name: str) -> Callable[..., MagicMock]:
        answer = MagicMock()
        if name == "CUDAGraph":
            answer.__class__ = torch.cuda.CUDAGraph  # as the signature says
        return lambda *_, **__: asked.append((name, current[-1])) or answer

    for name in ("current_stream", "Stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, stand_in(name))
    monkeypatch.setattr(torch.cuda, "device", device)
    return asked


def trainer(kind: str = "ddgan", graphs: bool = True) -> Trainer:
    config = RunConfig(**(PRESETS["smoke"] | {"updates": 7, "seed": 3} | KINDS[kind]))
    return Trainer(config, IMAGES, graphs=graphs)


def weights(each: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in (*each.model.parameters(), *each.ema.parameters())])


@pytest.mark.parametrize("kind", KINDS)
def test_a_replayed_training_is_the_training(kind: str, recorded: list[bool]) -> None:
    replayed, plain = trainer(kind), trainer(kind, graphs=False)
    histories = [list(train(each, record_every=2)) for each in (replayed, plain)]
    assert recorded == {"wasserstein": [True], "ddpm": [False]}.get(kind, [True, False])
    torch.testing.assert_close(weights(replayed), weights(plain), rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(*histories, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6, nan_ok=True)


def test_recording_moves_nothing(recorded: list[bool]) -> None:
    each = trainer()
    for _ in range(2):
        each.update()
    before, sums = weights(each), copy.deepcopy(each.means.sums)
    state = copy.deepcopy(each.optimiser.state_dict()["state"])
    with each._rehearsal():
        each._players(True)
    assert torch.equal(before, weights(each))
    assert all(torch.equal(total, sums[name]) for name, total in each.means.sums.items())
    for number, own in each.optimiser.state_dict()["state"].items():
        assert all(torch.equal(value, state[number][name]) for name, value in own.items())


@pytest.mark.parametrize(
    ("kind", "loss"), [("ddgan", "critic_loss"), ("ddgan", "generator_loss"), ("ddpm", "ddpm_loss")]
)
def test_from_what_is_not_finite_on_nothing_moves(
    kind: str, loss: str, recorded: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    each, good = trainer(kind), getattr(training, loss)
    each.update()
    before = torch.cat([p.detach().flatten() for p in each.model.parameters()])

    def spoilt(*args: Any) -> Any:
        found = good(*args)
        return (found[0] * math.nan, *found[1:]) if isinstance(found, tuple) else found * math.nan

    monkeypatch.setattr(training, loss, spoilt)
    each.update()
    monkeypatch.setattr(training, loss, good)
    each.update()  # finite again: it is not moved all the same
    after = torch.cat([p.detach().flatten() for p in each.model.parameters()])
    assert not after.isnan().any()
    if loss != "generator_loss":  # the critic comes first
        assert torch.equal(before, after)
    with pytest.raises(TrainingDiverged, match="since the last record a loss or gradient was not finite"):
        list(train(each, record_every=1))


def test_what_was_not_finite_is_not_forgotten_by_a_checkpoint(
    recorded: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    each, good = trainer("ddpm"), training.ddpm_loss
    monkeypatch.setattr(training, "ddpm_loss", lambda *args: good(*args) * math.nan)
    each.update()
    monkeypatch.setattr(training, "ddpm_loss", good)
    for graphs in (True, False):
        resumed = trainer("ddpm", graphs)
        resumed.load_state(copy.deepcopy(each.state()))  # between two records
        with pytest.raises(TrainingDiverged):
            list(train(resumed, record_every=3))


def test_graphs_of_tensors_that_were_replaced_are_recorded_again(recorded: list[bool]) -> None:
    each = trainer("ddpm")
    state = copy.deepcopy(each.state())
    each.update()
    each.load_state(state)
    each.update()
    assert recorded == [False, False]


def test_a_training_goes_on_with_graphs_or_without(recorded: list[bool]) -> None:
    """A checkpoint of either kind serves the other: learning rates are this device's own."""
    whole = trainer(graphs=False)
    list(train(whole, record_every=1))
    for first, second in ((True, False), (False, True)):
        begun, goes_on = trainer(graphs=first), trainer(graphs=second)
        for _ in range(3):
            begun.update()
        goes_on.load_state(copy.deepcopy(begun.state()))
        list(train(goes_on, record_every=1))
        torch.testing.assert_close(weights(goes_on), weights(whole), rtol=1e-5, atol=1e-7)


def test_all_is_recorded_on_the_device_of_the_step(asked: list[tuple[str, torch.device]]) -> None:
    """Whatever the current one is: on a machine with several GPUs each worker's is another."""
    device, done = torch.device("cuda:1"), []
    graphs = Graphs(device, [torch.Generator()])
    for flag in (True, True, False):
        graphs(flag, done.append, nullcontext)
    assert done == [True] * (WARM_UP + 1) + [False] * (WARM_UP + 1), "each is recorded once"
    names = ["current_stream", "Stream", "stream", "CUDAGraph", "graph"]
    assert asked == [(name, device) for name in names] * 2


@pytest.mark.parametrize("graphs", [True, False])
def test_a_trainer_that_is_let_go_is_gone_at_once(
    graphs: bool, asked: list[tuple[str, torch.device]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with it what it holds of a GPU's memory, not when Python next looks for cycles."""
    monkeypatch.setattr(training, "can_record", lambda device: True)
    each = trainer(graphs=graphs)
    gc.collect()  # frames that torch leaves in a cycle where it makes the first optimiser of a process
    gc.disable()
    try:
        each.update()
        kept = weakref.ref(each)
        del each
        assert kept() is None
    finally:
        gc.enable()
    assert bool(asked) == graphs
