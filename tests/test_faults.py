"""Whatever happens to a run, it ends as one that was never disturbed, or says why it did not: the faults really happen.

A child is forked from this process, with checkpoints after every update, and killed, starved of disk or given damaged
files. "Ends as" means the same bytes of weights and history.
"""

import functools
import json
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ddgan_core import UserError, runner, training
from ddgan_core.evaluation import evaluate
from ddgan_core.runner import train_run
from ddgan_core.runs import Run, RunConfig
from ddgan_core.scores import read_evaluations
from ddgan_core.study import Study, configure, run, status

FORK = multiprocessing.get_context("fork")
CONFIGS = {
    "ddgan": configure("smoke", T=2, updates=40, penalty_every=3),
    "wasserstein": configure("smoke", T=2, updates=40, divergence="wasserstein"),
    "ddpm": configure("smoke", method="ddpm", updates=40),
}


@pytest.fixture(autouse=True)
def checkpoint_after_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", -1)


def outcome(results: Path, config: RunConfig) -> tuple[bytes, bytes]:
    folder = Run(config, results).path
    return (folder / "ema.safetensors").read_bytes(), (folder / "history.csv").read_bytes()


@functools.cache
def undisturbed(config: RunConfig) -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "CHECKPOINT_SECONDS", 1000)
        train_run(config, results=Path(folder), progress=False)
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGS)
def test_killed_at_twenty_points_it_ends_as_if_undisturbed(kind: str, results: Path) -> None:
    config = CONFIGS[kind]
    expected = undisturbed(config)
    rng = random.Random(0)
    for step in sorted(rng.choices(range(config.updates - 2), k=20)):
        process = in_child(lambda: train_run(config, results=results, progress=False))
        wait_for_step(Run(config, results).path, step)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert Run(config, results).status["state"] == "running"
    train_run(config, results=results, progress=False)
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
        train_run(config, results=results, progress=False)

    process = in_child(work)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert Run(config, results).status["state"] != "done"
    train_run(config, results=results, progress=False)
    assert outcome(results, config) == expected


def test_sigterm_leaves_a_checkpoint_and_143(results: Path) -> None:
    config = CONFIGS["ddgan"].changed(updates=10**6)
    process = in_child(lambda: train_run(config, results=results, progress=False))
    wait_for_step(Run(config, results).path, 1)
    process.terminate()
    process.join()
    assert process.exitcode == 143
    now = Run(config, results).status
    assert now["state"] == "running"
    assert "signal" in now["reason"]
    assert not runner.is_held(Run(config, results))
    (line,) = status(Study("", (config,)), results).to_dict("records")
    assert line["state"] == "stopped"


@pytest.mark.parametrize("damage", ["truncated", "bit flipped", "empty"])
def test_a_damaged_checkpoint_is_passed_over(damage: str, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = CONFIGS["ddgan"]
    expected = undisturbed(config)
    train_run(config, results=results, minutes=1e-9, progress=False)  # one update
    train_run(config, results=results, minutes=1e-9, progress=False)  # two
    newest = max((Run(config, results).path / "checkpoints").glob("*.pt"))
    assert newest.name.startswith("00000002-")
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes({"truncated": content[: len(content) // 2], "bit flipped": content, "empty": b""}[damage])
    train_run(config, results=results, progress=False)
    assert f"{newest.name} is damaged" in capsys.readouterr().out
    assert outcome(results, config) == expected


def test_with_every_checkpoint_damaged_it_starts_anew(results: Path) -> None:
    config = CONFIGS["ddgan"]
    expected = undisturbed(config)
    train_run(config, results=results, minutes=1e-9, progress=False)
    for path in (Run(config, results).path / "checkpoints").glob("*.pt"):
        path.write_bytes(b"no checkpoint")
    train_run(config, results=results, progress=False)
    assert outcome(results, config) == expected


def test_a_full_disk_stops_it_loudly_and_keeps_the_last_checkpoint(results: Path) -> None:
    config = CONFIGS["ddgan"]
    expected = undisturbed(config)
    train_run(config, results=results, minutes=1e-9, progress=False)
    folder = Run(config, results).path / "checkpoints"
    (kept,) = folder.glob("*.pt")

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write beyond the limit fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (kept.stat().st_size // 2,) * 2)
        try:
            train_run(config, results=results, progress=False)
        except OSError:
            os._exit(7)

    process = in_child(work)
    process.join()
    assert process.exitcode == 7
    assert list(folder.glob("*.pt")) == [kept]
    no_litter(results)
    train_run(config, results=results, progress=False)
    assert outcome(results, config) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_stops_it_loudly(results: Path) -> None:
    results.chmod(0o500)
    with pytest.raises(PermissionError):
        train_run(CONFIGS["ddgan"], results=results, progress=False)
    assert not list(results.iterdir())


def test_a_place_that_cannot_be_written_stops_it_loudly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        train_run(CONFIGS["ddgan"], results=tmp_path / "file" / "results", progress=False)


@pytest.mark.parametrize("step", [0, 7])
def test_a_loss_that_is_not_finite_fails_its_run_and_no_other(
    step: int, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = CONFIGS["ddgan"], CONFIGS["wasserstein"]
    whole = training.generator_loss

    def poisoned(row, critic, *rest):  # noqa: ANN001, ANN202
        loss = whole(row, critic, *rest)
        poisoned.calls += 1
        return loss * float("nan") if row.name == bad.divergence and poisoned.calls == step + 1 else loss

    poisoned.calls = 0
    monkeypatch.setattr(training, "generator_loss", poisoned)
    table = run(Study("", (bad, good)), results=results, progress=False).set_index("run_id")
    assert table.state.to_dict() == {bad.run_id: "failed", good.run_id: "done"}
    assert f"step {step}: the generator's loss is nan" in table.reason[bad.run_id]
    assert table.step[bad.run_id] == step
    assert Run(bad, results).weights is None
    assert f"step {step}" in capsys.readouterr().err


def test_another_configuration_under_a_run_is_refused_and_changes_nothing(results: Path) -> None:
    config = CONFIGS["ddgan"]
    train_run(config, results=results, minutes=1e-9, progress=False)
    before = {p: p.read_bytes() for p in results.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="lr_critic 0.0005 there, 0.001 asked for"):
        train_run(config.changed(lr_critic=1e-3), results=results, progress=False)
    assert {p: p.read_bytes() for p in results.rglob("*") if p.is_file()} == before
    (line,) = status(Study("", (config.changed(lr_critic=1e-3),)), results).to_dict("records")
    assert line["state"] == "differs"


def test_of_two_processes_on_one_run_one_trains_it(results: Path) -> None:
    config = CONFIGS["ddgan"].changed(updates=10**6)
    process = in_child(lambda: train_run(config, results=results, progress=False))
    try:
        wait_for_step(Run(config, results).path, 1)
        (line,) = status(Study("", (config,)), results).to_dict("records")
        assert line["state"] == "running"
        with pytest.raises(UserError, match="being trained by another process"):
            train_run(config, results=results, progress=False)
    finally:
        process.kill()
        process.join()
    train_run(config, results=results, minutes=1e-9, progress=False)  # the lock died with its process


def test_damaged_data_stop_it_before_a_folder_is_made(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (raw / f"{name}.gz").write_bytes(b"\x1f\x8b damaged")
    monkeypatch.setenv("DDGAN_DATA", str(tmp_path))
    with pytest.raises(UserError, match="train-images-idx3-ubyte"):
        train_run(configure("cpu", updates=1), results=results, progress=False)
    assert not list(results.iterdir())


def test_a_config_edited_by_hand_is_named(results: Path) -> None:
    config = CONFIGS["ddgan"]
    train_run(config, results=results, minutes=1e-9, progress=False)
    path = Run(config, results).path / "config.json"
    path.write_text(path.read_text().replace('"lr_critic": 0.0005', '"lr_critic": 0.5'))
    with pytest.raises(UserError, match="edited by hand"):
        train_run(config, results=results, progress=False)


def test_nothing_pickled_is_loaded(tmp_path: Path, results: Path) -> None:
    """A checkpoint with the right hash and code in it is refused by torch's weights_only."""
    import hashlib
    import pickle

    class Code:
        def __reduce__(self):  # noqa: ANN204
            return os.mkdir, (str(tmp_path / "executed"),)

    config = CONFIGS["ddgan"]
    train_run(config, results=results, minutes=1e-9, progress=False)
    folder = Run(config, results).path / "checkpoints"
    content = pickle.dumps(Code())
    (folder / f"99999999-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    torch.save({"step": Code()}, tmp_path / "code.pt")
    content = (tmp_path / "code.pt").read_bytes()
    (folder / f"99999998-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    with pytest.raises((pickle.UnpicklingError, UserError)):
        train_run(config, results=results, progress=False)
    assert not (tmp_path / "executed").exists()


def test_a_run_killed_between_training_and_scoring_is_scored_later(results: Path) -> None:
    config = CONFIGS["ddgan"]
    train_run(config, results=results, progress=False)
    assert status(Study("", (config,)), results).scores.tolist() == ["0/1"]
    table = run(Study("", (config,)), results=results, progress=False)
    assert table.scores.tolist() == ["1/1"]
    kept = (Run(config, results).path / "evaluations.csv").read_bytes()
    run(Study("", (config,)), results=results, progress=False)
    assert (Run(config, results).path / "evaluations.csv").read_bytes() == kept


def test_of_eight_processes_that_score_at_once_no_row_is_lost_and_none_doubled(results: Path) -> None:
    config = CONFIGS["ddgan"].changed(updates=1)
    made = train_run(config, results=results, progress=False)
    scoring = {"n": 8, "features": "pixels", "reference_n": 9}
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
made = study.ensure([RunConfig.from_json({config.to_json()!r})], compute=True)
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


def test_status_says_when_a_run_is_done_only_if_it_is(results: Path) -> None:
    config = CONFIGS["ddgan"]
    trained = train_run(config, results=results, progress=False)
    assert json.loads((trained.path / "status.json").read_text())["step"] == config.updates
    (trained.path / "ema.safetensors").unlink()
    (line,) = status(Study("", (config,)), results).to_dict("records")
    assert line["state"] == "done"
    assert line["reason"] == "its weights are not here"
