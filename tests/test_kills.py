"""A run, a notebook or a scoring that is killed, or that another process meets, ends as if nothing had happened."""

import os
import random
import signal
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from disturbed import (
    CONFIGS,
    checkpoint_after_every_update,
    in_child,
    no_litter,
    outcome,
    undisturbed,
    wait_for_step,
)  # fmt: skip

from ddgan_core import UserError, runner
from ddgan_core.evaluation.scores import read_evaluations
from ddgan_core.evaluation.scoring import evaluate
from ddgan_core.locks import is_held
from ddgan_core.runner import train_run
from ddgan_core.runs import Run
from ddgan_core.study import Study, run, status

__all__ = ["checkpoint_after_every_update"]  # a fixture of every test here


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGS)
def test_killed_at_twenty_points_it_ends_as_if_undisturbed(kind: str, results: Path) -> None:
    config = CONFIGS[kind]
    expected = undisturbed(config)
    rng = random.Random(0)
    for step in sorted(rng.choices(range(config.updates - 2), k=20)):
        process = in_child(lambda: train_run(config, progress=False))
        wait_for_step(Run(config, results).path, step)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert Run(config, results).status["state"] == "running"
    train_run(config, progress=False)
    assert outcome(results, config) == expected


@pytest.mark.parametrize("call", range(1, 8))
def test_killed_inside_a_save_it_ends_as_if_undisturbed(
    call: int, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIGS["ddgan"]
    expected = undisturbed(config)

    def work() -> None:
        calls = iter(range(1, 1000))
        monkeypatch.setattr(os, "fsync", lambda fd: os.kill(os.getpid(), signal.SIGKILL) if next(calls) == call else 0)
        train_run(config, progress=False)

    process = in_child(work)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert Run(config, results).status["state"] != "done"
    train_run(config, progress=False)
    assert outcome(results, config) == expected
    no_litter(results)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_a_signal_leaves_a_checkpoint(results: Path, signum: signal.Signals, code: int) -> None:
    """Exit status 143, by which Slurm knows; Ctrl-C is a KeyboardInterrupt still."""
    config = CONFIGS["ddgan"].changed(updates=10**6)
    process = in_child(lambda: train_run(config, progress=False))
    wait_for_step(Run(config, results).path, 1)
    os.kill(process.pid, signum)
    process.join()
    assert process.exitcode == code
    now = Run(config, results).status
    assert now["state"] == "running"
    assert "signal" in now["reason"]
    assert not is_held(Run(config, results).lock)
    (line,) = status(Study("", (config,))).to_dict("records")
    assert line["state"] == "stopped"


def test_sigterm_while_a_run_ends_stops_the_study_when_it_is_done(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked would kill the next cell's training, and Slurm would not put it into the queue again."""
    first, second = CONFIGS["ddgan"], CONFIGS["wasserstein"]
    write = runner.write_weights

    def work() -> None:
        monkeypatch.setattr(runner, "write_weights", lambda *what: os.kill(os.getpid(), signal.SIGTERM) or write(*what))
        run(Study("", (first, second)), progress=False)

    process = in_child(work)
    process.join()
    assert process.exitcode == 143
    assert status(Study("", (first, second))).state.tolist() == ["done", "missing"]
    assert outcome(results, first) == undisturbed(first)


def test_of_two_processes_on_one_run_one_trains_it(results: Path) -> None:
    config = CONFIGS["ddgan"].changed(updates=10**6)
    process = in_child(lambda: train_run(config, progress=False))
    try:
        wait_for_step(Run(config, results).path, 1)
        (line,) = status(Study("", (config,))).to_dict("records")
        assert line["state"] == "running"
        with pytest.raises(UserError, match="being trained by another process"):
            train_run(config, progress=False)
    finally:
        process.kill()
        process.join()
    train_run(config, minutes=1e-9, progress=False)  # the lock died with its process


def test_a_run_killed_between_training_and_scoring_is_scored_later(results: Path) -> None:
    config = CONFIGS["ddgan"]
    train_run(config, progress=False)
    assert status(Study("", (config,))).scores.tolist() == ["0/1"]
    table = run(Study("", (config,)), progress=False)
    assert table.scores.tolist() == ["1/1"]
    kept = (Run(config, results).path / "evaluations.csv").read_bytes()
    run(Study("", (config,)), progress=False)
    assert (Run(config, results).path / "evaluations.csv").read_bytes() == kept


def test_of_eight_processes_that_score_at_once_no_row_is_lost_and_none_doubled(results: Path) -> None:
    config = CONFIGS["ddgan"].changed(updates=1)
    made = train_run(config, progress=False)
    scoring = {"n": 8, "features": "pixels"}
    children = [in_child(lambda k=k: evaluate(made, seed=k // 2, **scoring)) for k in range(8)]  # each score by two
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert sorted(read_evaluations(made.path / "evaluations.csv")["sample_seed"]) == list(range(4))
    no_litter(results)


@pytest.mark.slow
def test_a_killed_notebook_kernel_leaves_a_run_that_ends_as_if_undisturbed(results: Path) -> None:
    from jupyter_client.manager import start_new_kernel

    config = CONFIGS["ddgan"].changed(updates=300)
    cell = f"""
from ddgan_core import runner, study
from ddgan_core.runs import RunConfig
runner.CHECKPOINT_SECONDS = -1
made = study.ensure([RunConfig().changed(**{asdict(config)!r})], compute=True)
assert made[0].status["state"] == "done"
"""
    manager, client = start_new_kernel()
    client.execute(cell)
    wait_for_step(Run(config, results).path, 3)
    manager.signal_kernel(signal.SIGKILL)
    client.stop_channels()
    manager.cleanup_resources()
    assert Run(config, results).status["state"] == "running"
    manager, client = start_new_kernel()  # what "Restart kernel" does; the same cell goes on
    try:
        reply = client.execute_interactive(cell, timeout=300, output_hook=lambda message: None)
        assert reply["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert outcome(results, config) == undisturbed(config)
