"""The toy study as a study: its cells, slots of time, what is left when something goes wrong, and what is committed."""

import lzma
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from disturbed import in_child, no_litter, results_in

from ddgan_core import UserError
from ddgan_core.__main__ import main
from ddgan_core.diffusion import vp_schedule
from ddgan_core.divergences import DIVERGENCES
from ddgan_core.locks import alone
from ddgan_core.provenance import device_name
from ddgan_core.study import Study, make_study, run, run_local, status, toys, toys_study
from ddgan_core.toys import toy_study
from ddgan_core.toys.gan import ToyGAN
from ddgan_core.toys.mixtures import true_posterior
from ddgan_core.toys.toy_study import ToyCell
from ddgan_core.toys.verdicts import verdicts

ROOT = Path(__file__).parent.parent
FOUR = toys_study("smoke", data=["two_near"], rows=["kl", "wasserstein"], steps=[2, 1])
PAIR = toys_study("smoke", data=["rare"], rows=["kl", "wasserstein"], steps=[1])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def measured(results: Path) -> pd.DataFrame:
    """Without what differs from time to time."""
    with results_in(results):
        lines = toy_study.load("smoke").drop(columns=["seconds", "device"])
    return lines.sort_values(["data", "row", "T", "seed", "t"], ignore_index=True).sort_index(axis=1)


def test_what_is_committed_is_done_and_left_as_it_is(results: Path) -> None:
    shutil.copytree(ROOT / "results" / "toys", results / "toys")
    whole = make_study("toys")
    assert len(whole.cells) == 6 * 6 * 4
    assert set(status(whole).state) == {"done"}
    assert set(run(whole, progress=False).minutes_left) == {0.0}
    assert files(results / "toys") == files(ROOT / "results" / "toys")


def test_it_goes_on_where_it_was_stopped(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = toys.run_cell

    def stop_at_wasserstein(cell: ToyCell, progress: bool):
        if cell.row == "wasserstein":
            raise KeyboardInterrupt
        return real(cell, progress)

    monkeypatch.setattr(toys, "run_cell", stop_at_wasserstein)
    with pytest.raises(KeyboardInterrupt):
        run(FOUR, progress=False)
    assert status(FOUR).state.tolist() == ["done", "missing", "missing", "missing"]
    assert status(FOUR).scores.tolist() == ["3/3", "0/3", "0/2", "0/2"]
    first = toy_study.load("smoke")
    monkeypatch.setattr(toys, "run_cell", real)
    table = run(FOUR, progress=False)
    assert table.state.tolist() == ["done"] * 4
    assert table.step.tolist() == table.updates.tolist()
    after = toy_study.load("smoke")
    pd.testing.assert_frame_equal(after.iloc[: len(first)], first)
    assert len(after) == 2 * 2 * (3 + 2), "rows x seeds x (t = 2, 1, chain and 1, chain)"
    assert set(toy_study.load_shown("smoke", "two_near")["T"]) == {2}
    made = {path.name for path in (results / "toys_smoke").iterdir() if path.name != ".write.lock"}
    assert made == {"two_near.csv.xz", "two_near_shown.csv.xz"}, "no lock of a cell that is done"


def test_minutes_left_are_this_devices_own(results: Path) -> None:
    assert status(FOUR).minutes_left.isna().all()
    lines, shown = toy_study.run_cell(FOUR.cells[0])
    toy_study.keep(FOUR.cells[0], lines.assign(seconds=120.0, device=device_name("cpu")), shown)
    assert status(FOUR).minutes_left.tolist() == [0, 2, 2, 2]
    toy_study.keep(FOUR.cells[0], lines.assign(seconds=120.0, device="CPU, 64 threads"), shown)
    assert status(FOUR).minutes_left.tolist() == [0, 2, 2, 2]
    toy_study.keep(FOUR.cells[0], lines.assign(seconds=120.0, device="another"), shown)
    assert status(FOUR).minutes_left.isna()[1]


def test_no_cell_is_begun_that_would_end_too_late(results: Path) -> None:
    lines, shown = toy_study.run_cell(FOUR.cells[0])
    toy_study.keep(FOUR.cells[0], lines.assign(seconds=120.0, device=device_name("cpu")), shown)
    assert run(FOUR, minutes=1.9, progress=False).state.tolist() == ["done", "missing", "missing", "missing"]
    toys.complete(FOUR.cells[1], minutes=2.1, progress=False)
    assert status(FOUR).state.tolist() == ["done", "done", "missing", "missing"]


def test_of_two_processes_at_one_cell_one_does_it(results: Path) -> None:
    lock = results / "toys_smoke" / f"{PAIR.cells[0].run_id}.lock"
    with alone(lock, ""):
        assert status(PAIR).state.tolist() == ["running", "missing"]
        with pytest.raises(UserError, match="rare_kl_T01_toys_smoke is being trained"):
            toys.complete(PAIR.cells[0], progress=False)
        run(PAIR, progress=False)
        assert status(PAIR).state.tolist() == ["running", "done"]
    run(PAIR, progress=False)
    assert status(PAIR).state.tolist() == ["done", "done"]


def test_processes_lose_and_double_no_lines(results: Path, tmp_path: Path) -> None:
    with results_in(tmp_path):
        run(FOUR, progress=False)
    children = [in_child(lambda cell=cell: run(Study("", (cell,)), progress=False)) for cell in FOUR.cells]
    for child in children:
        child.join()
        assert child.exitcode == 0
    pd.testing.assert_frame_equal(measured(results), measured(tmp_path))
    no_litter(results)


@pytest.mark.slow
def test_workers_do_the_same(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with results_in(tmp_path):
        run(PAIR, progress=False)
    assert run_local(PAIR, "smoke", "toys", workers=2).state.tolist() == ["done", "done"]
    pd.testing.assert_frame_equal(measured(results), measured(tmp_path))


@pytest.mark.parametrize("call", [1, 2])
def test_killed_inside_a_save_it_ends_as_if_undisturbed(
    call: int, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with results_in(tmp_path):
        run(FOUR, progress=False)

    def work() -> None:
        calls = iter(range(1, 1000))
        monkeypatch.setattr(os, "fsync", lambda fd: os.kill(os.getpid(), signal.SIGKILL) if next(calls) == call else 0)
        run(FOUR, progress=False)

    child = in_child(work)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert status(FOUR).state.tolist() == ["missing"] * 4
    run(FOUR, progress=False)
    pd.testing.assert_frame_equal(measured(results), measured(tmp_path))
    shown = "toys_smoke/two_near_shown.csv.xz"
    assert (results / shown).read_bytes() == (tmp_path / shown).read_bytes()
    no_litter(results)


def test_a_file_that_is_not_the_studys_is_one_line_and_left_alone(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run(PAIR, progress=False)
    path = results / "toys_smoke" / "rare.csv.xz"
    whole = path.read_bytes()
    text = lzma.decompress(whole)
    lines = text.splitlines(keepends=True)
    changed = {
        b"": "No columns",
        b"\xff\x00": "rare.csv.xz is not this study's",
        b"a,b\n1,2\n": "data",
        b"".join(lines[:-1]): "wasserstein, T = 1 is not whole",
        text + lines[-1]: "wasserstein, T = 1 is not whole",
        text.replace(b"rare,", b"ring,"): "ring, kl, T = 1 is of other settings or data",
        text.replace(b",kl,", b",zebra,"): "divergence 'zebra'",
    }
    damaged = {b"": "ended", text: "format", whole[: len(whole) // 2]: "ended"}
    for content, words in damaged.items() | {lzma.compress(t): words for t, words in changed.items()}.items():
        path.write_bytes(content)
        for command in ("status", "run"):
            assert main(["study", command, "--study", "toys", "--preset", "smoke"]) == 2, content
            (line,) = capsys.readouterr().err.splitlines()
            assert str(path) in line
            assert words in line
        assert path.read_bytes() == content
    path.write_bytes(whole)
    monkeypatch.setitem(toy_study.SETTINGS, "smoke", replace(toy_study.SETTINGS["smoke"], updates=21))
    with pytest.raises(UserError, match="of other settings or data than there are now"):
        status(PAIR)


def test_a_diverged_cell_is_recorded_and_cannot_win(monkeypatch: pytest.MonkeyPatch) -> None:
    wild = replace(toy_study.SETTINGS["smoke"], lr_critic=1e30, lr_generator=1e30, updates=5)
    monkeypatch.setitem(toy_study.SETTINGS, "smoke", wild)
    (line,) = run(toys_study("smoke", data=["grid_25"], rows=["pearson"], steps=[2]), progress=False).to_dict("records")
    assert (line["state"], line["reason"]) == ("done", "2 of 2 seeds diverged")
    table = toy_study.load("smoke")
    assert table["diverged"].tolist() == [True] * 6
    assert not len(verdicts(table[table["t"] == "chain"], "w1"))


def test_a_seed_whose_weights_are_not_finite_has_diverged_whatever_was_measured(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = toy_study.train_toy

    def train_toy(*args, **how):
        gan = whole(*args, **how)
        gan.diverged = lambda: [True, False]
        return gan

    monkeypatch.setattr(toy_study, "train_toy", train_toy)
    lines, _ = toy_study.run_cell(PAIR.cells[0])
    assert lines.groupby("seed")["diverged"].agg(list).tolist() == [[True] * 2, [False] * 2]


def test_the_last_step_begins_at_true_x_1_and_is_told_from_the_chain(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a generator that gives back what it is given: at T = 1 the one has x_1, the other pure noise."""
    monkeypatch.setattr(ToyGAN, "predict", lambda self, x_t, t, z: x_t)
    monkeypatch.setattr(ToyGAN, "sample_chain", lambda self, n: torch.full((2, n, 1), 5.0, dtype=torch.float64))
    lines = toy_study.run_cell(replace(PAIR.cells[0], T=4))[0].set_index(["t", "seed"])
    assert lines.loc["chain", "smear"].tolist() == [1.0, 1.0]
    gan = ToyGAN(toy_study.TOYS["rare"].mixture, DIVERGENCES["kl"], 4, [0, 1], toy_study.SETTINGS["smoke"])
    _, variance = gan.mixture.diffused(gan.schedule, 1).moments()
    assert toy_study._last_step(gan).var(1).flatten().tolist() == pytest.approx([variance.item()] * 2, rel=0.1)
    assert lines.loc["1", "smear"].between(0.05, 0.95).all()


@pytest.mark.parametrize(("data", "T"), [("two_far", 2), ("rare", 4)])
def test_the_step_that_is_shown_begins_where_both_modes_may_have_been(data: str, T: int) -> None:
    q = true_posterior(toy_study.TOYS[data].mixture, vp_schedule(T), toy_study.shown_x_t(data, T), 2)
    assert q.weights.min() > 0.05


def test_by_command(results: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--study", "toys", "--preset", "smoke", "--cell", "rare_kl_T01_toys_smoke"]
    assert main(["study", "run", *words, "--threads", "1"]) == 0
    assert "1 done" in capsys.readouterr().out
    assert main(["study", "status", *words, "--json"]) == 0
    assert '"run_id":"rare_kl_T01_toys_smoke"' in capsys.readouterr().out.replace(" ", "")
    assert main(["study", "slurm", *words]) == 2
    assert "every run of toys-smoke is done" in capsys.readouterr().err
    for options in (["--device", "cpu"], ["--data-dir", "."], ["--on", "ray", "--gpus", "1"]):
        assert main(["study", "run", *words, *options]) == 2
        assert f"{options[-2]}: not with --study toys" in capsys.readouterr().err
    assert main(["study", "status", "--study", "toys", "--cell", "zebra"]) == 2
    assert "cell 'zebra' is not of study toys-cpu" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"data": "zebra"}, {"row": "zebra"}, {"preset": "zebra"}])
def test_what_is_not_known_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UserError, match="zebra"):
        ToyCell(**{"data": "rare", "row": "kl", "T": 2} | wrong)
