"""Damaged files, a full disk, a loss that is not finite: a run ends as if undisturbed, or says why it did not."""

import itertools
import json
import os
import resource
import signal
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from disturbed import (
    CONFIGS,
    checkpoint_after_every_update,
    in_child,
    no_litter,
    outcome,
    results_in,
    undisturbed,
)  # fmt: skip

from ddgan_core import UserError, runner, training
from ddgan_core.checkpoints import save_checkpoint, write_weights
from ddgan_core.data import load_images
from ddgan_core.evaluation.samples import sample
from ddgan_core.provenance import device_name
from ddgan_core.runner import train_run
from ddgan_core.runs import Run
from ddgan_core.study import Study, configure, run, ship, status
from ddgan_core.study.transfer import export_runs

__all__ = ["checkpoint_after_every_update"]  # a fixture of every test here


@pytest.mark.parametrize("damage", ["truncated", "bit flipped", "empty"])
def test_a_damaged_checkpoint_is_passed_over(damage: str, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = CONFIGS["ddgan"]
    expected = undisturbed(config)
    train_run(config, minutes=1e-9, progress=False)  # one update
    train_run(config, minutes=1e-9, progress=False)  # two
    newest = max((Run(config, results).path / "checkpoints").glob("*.pt"))
    assert newest.name.startswith("00000002-")
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes({"truncated": content[: len(content) // 2], "bit flipped": content, "empty": b""}[damage])
    train_run(config, minutes=1e-9, progress=False)
    assert f"{newest.name} is damaged" in capsys.readouterr().out
    train_run(config, minutes=1e-9, progress=False)
    assert [path.name[:8] for path in sorted(newest.parent.glob("*.pt"))][-2:] == ["00000002", "00000003"]
    assert not newest.exists()  # in its place a whole one to fall back on
    train_run(config, progress=False)
    assert outcome(results, config) == expected


@pytest.mark.parametrize("damaged", ["00000002-" + "0" * 16, "00000002-" + "f" * 16, "00000003-" + "0" * 16])
def test_a_damaged_checkpoint_of_this_step_or_a_later_one_makes_room(damaged: str, tmp_path: Path) -> None:
    one, two = (save_checkpoint(tmp_path, step, {"step": step}) for step in (1, 2))
    two.rename(tmp_path / f"{damaged}.pt")
    again = save_checkpoint(tmp_path, 2, {"step": 2})
    assert sorted(tmp_path.glob("*.pt")) == [one, again], "a whole one to fall back on stays"


def test_with_every_checkpoint_damaged_it_starts_anew(results: Path) -> None:
    config = CONFIGS["ddgan"]
    expected = undisturbed(config)
    train_run(config, minutes=1e-9, progress=False)
    for path in (Run(config, results).path / "checkpoints").glob("*.pt"):
        path.write_bytes(b"no checkpoint")
    train_run(config, progress=False)
    assert outcome(results, config) == expected


def test_a_run_that_goes_on_on_another_device_says_so(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = CONFIGS["ddgan"]
    for _ in range(2):
        begun = train_run(config, minutes=1e-9, progress=False)
    assert "goes on" not in capsys.readouterr().out
    begun.set_status(**begun.status | {"device": "another"})
    train_run(config, minutes=1e-9, progress=False)
    said = f"{config.run_id}: goes on on {device_name('cpu')}, begun on another: the weights depend on both\n"
    assert said in capsys.readouterr().out


def test_a_full_disk_stops_it_loudly_and_keeps_the_last_checkpoint(results: Path) -> None:
    config = CONFIGS["ddgan"]
    expected = undisturbed(config)
    train_run(config, minutes=1e-9, progress=False)
    folder = Run(config, results).path / "checkpoints"
    (kept,) = folder.glob("*.pt")

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write beyond the limit fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (kept.stat().st_size // 2,) * 2)
        try:
            train_run(config, progress=False)
        except OSError:
            os._exit(7)

    process = in_child(work)
    process.join()
    assert process.exitcode == 7
    assert list(folder.glob("*.pt")) == [kept]
    no_litter(results)
    train_run(config, progress=False)
    assert outcome(results, config) == expected


@pytest.mark.parametrize("begun", [False, True])
def test_a_read_only_folder_stops_it_loudly_and_keeps_the_last_checkpoint(begun: bool) -> None:
    """As a user who may not write there: root, who may write anywhere, becomes nobody in the child."""
    config = CONFIGS["ddgan"]

    def work() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            train_run(config, progress=False)
        except PermissionError:
            os._exit(7)

    load_images("digits")  # which nobody might not find
    with tempfile.TemporaryDirectory() as name, results_in(folder := Path(name)):
        if begun:
            train_run(config, minutes=1e-9, progress=False)
        kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o555)
        process = in_child(work)
        process.join()
        assert process.exitcode == 7
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == kept
        for path in folders:
            path.chmod(0o755)
        train_run(config, progress=False)
        assert outcome(folder, config) == undisturbed(config)


def test_a_place_that_cannot_be_written_stops_it_loudly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with results_in(tmp_path / "file" / "results"), pytest.raises(OSError, match="file"):
        train_run(CONFIGS["ddgan"], progress=False)


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
    table = run(Study("", (bad, good)), progress=False).set_index("run_id")
    assert table.state.to_dict() == {bad.run_id: "failed", good.run_id: "done"}
    assert f"step {step}: the generator's loss is nan" in table.reason[bad.run_id]
    assert table.step[bad.run_id] == step
    assert Run(bad, results).weights is None
    assert f"step {step}" in capsys.readouterr().err


def test_a_run_of_another_configuration_stands_as_that_in_the_status(results: Path) -> None:
    Run.create(CONFIGS["ddgan"])
    (line,) = status(Study("", (CONFIGS["ddgan"].changed(lr_critic=1e-3),))).to_dict("records")
    assert line["state"] == "differs"


def test_slots_add_up_their_time(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves ten seconds whenever it is read."""
    ticks = itertools.count(step=10)
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    config = configure("smoke", T=1, updates=9)
    one, *more = (runner.train_run(config, minutes=0, progress=False).status["seconds"] for _ in range(3))
    assert [one > 0, *more] == [True, 2 * one, 3 * one]


def test_damaged_data_stop_it_before_a_folder_is_made(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (raw / f"{name}.gz").write_bytes(b"\x1f\x8b damaged")
    monkeypatch.setenv("DDGAN_DATA", str(tmp_path))
    with pytest.raises(UserError, match="train-images-idx3-ubyte"):
        train_run(configure("cpu", updates=1), progress=False)
    assert not list(results.iterdir())


def test_levels_that_the_images_have_no_room_for_stop_it_before_a_folder_is_made(results: Path) -> None:
    with pytest.raises(UserError, match="critic_widths"):
        train_run(configure("smoke", critic_widths=(8,) * 5), progress=False)
    assert not list(results.iterdir())


def test_nothing_pickled_is_loaded(tmp_path: Path, results: Path) -> None:
    """A checkpoint with the right hash and code in it is refused by torch's weights_only."""
    import hashlib
    import pickle

    class Code:
        def __reduce__(self):  # noqa: ANN204
            return os.mkdir, (str(tmp_path / "executed"),)

    config = CONFIGS["ddgan"]
    train_run(config, minutes=1e-9, progress=False)
    folder = Run(config, results).path / "checkpoints"
    content = pickle.dumps(Code())
    (folder / f"99999999-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    torch.save({"step": Code()}, tmp_path / "code.pt")
    content = (tmp_path / "code.pt").read_bytes()
    (folder / f"99999998-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    for name in ("99999999", "99999998"):
        with pytest.raises(UserError, match=f"{name}-.*no checkpoint of a training"):
            train_run(config, progress=False)
        next(folder.glob(f"{name}-*")).unlink()
    assert not (tmp_path / "executed").exists()


def test_weights_changed_after_the_training_are_named(results: Path) -> None:
    """A flipped bit, which safetensors does not notice, by the hash in status.json."""
    trained = train_run(CONFIGS["ddgan"], progress=False)
    path = trained.path / "ema.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)
    for use in (
        lambda: sample(trained, 1),
        lambda: export_runs(results / "out"),
        lambda: ship(trained),
    ):
        with pytest.raises(UserError, match=r"ema.safetensors was changed after the training"):
            use()
    write_weights(path, {"a": torch.zeros(1)}, trained.config.hash)
    trained.set_status("done")  # as if the hash had been edited, too
    with pytest.raises(UserError, match="does not hold the tensors"):
        sample(trained, 1)


def test_status_says_when_a_run_is_done_only_if_it_is() -> None:
    config = CONFIGS["ddgan"]
    trained = train_run(config, progress=False)
    assert json.loads((trained.path / "status.json").read_text())["step"] == config.updates
    (trained.path / "ema.safetensors").unlink()
    (line,) = status(Study("", (config,))).to_dict("records")
    assert line["state"] == "done"
    assert line["reason"] == "its weights are not here"
