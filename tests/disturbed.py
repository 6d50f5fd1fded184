"""What the tests of faults share: a checkpoint after every update, children to be killed, other results, what is left.

"Ends as" means the same bytes of weights and history, and the same scores.
"""

import functools
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ddgan_core import runner
from ddgan_core.evaluation.scoring import evaluate
from ddgan_core.runner import train_run
from ddgan_core.runs import Run, RunConfig
from ddgan_core.study import configure

FORK = multiprocessing.get_context("fork")
CONFIGS = {
    "ddgan": configure("smoke", T=2, updates=40, penalty_every=3),
    "wasserstein": configure("smoke", T=2, updates=40, divergence="wasserstein"),
    "ddpm": configure("smoke", method="ddpm", updates=40),
}


@pytest.fixture(autouse=True)
def checkpoint_after_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", -1)


@contextmanager
def results_in(folder: Path) -> Iterator[None]:
    """Within it, and in the children that are started there, results live in this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDGAN_RESULTS", str(folder))
        yield


def outcome(results: Path, config: RunConfig) -> tuple[bytes, bytes, str]:
    ended = Run(config, results)
    scores = evaluate(ended, n=50, features="pixels").drop(columns="seconds_per_image").to_csv()
    return (ended.path / "ema.safetensors").read_bytes(), (ended.path / "history.csv.xz").read_bytes(), scores


@functools.cache
def undisturbed(config: RunConfig) -> tuple[bytes, bytes, str]:
    with tempfile.TemporaryDirectory() as folder, results_in(Path(folder)), pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "CHECKPOINT_SECONDS", 1000)
        train_run(config, progress=False)
        return outcome(Path(folder), config)


def in_child(work: Callable[[], object]) -> "multiprocessing.process.BaseProcess":
    process = FORK.Process(target=work)
    process.start()
    return process


def wait_for_step(folder: Path, step: int) -> None:
    """Return when the run in this folder has a checkpoint of this step or a later one; at once for step 0."""
    for _ in range(60_000):
        if step == 0 or any(int(path.name[:8]) >= step for path in folder.glob("checkpoints/*.pt")):
            return
        time.sleep(0.001)
    raise AssertionError(f"no checkpoint of step {step} in {folder}")


def no_litter(results: Path) -> None:
    assert not list(results.rglob("*.part"))
