"""Files that runs leave in: their number and sizes, and what finds no room."""

import zipfile
from pathlib import Path

import pytest
from transferred import CONFIGS, A, B, imported

from ddgan_core import UserError
from ddgan_core.__main__ import main
from ddgan_core.runs import Run
from ddgan_core.study.transfer import export_runs


def test_files_and_their_sizes_are_bounded(made: Path, tmp_path: Path) -> None:
    """Room for one run to a file: one file leaves the other's weights out, and they are taken when they arrive."""
    sizes = [export_runs(tmp_path / name, [name])[0][0].stat().st_size for name in (A, B)]
    room = (max(sizes) + 1000) / 1e6
    paths, left_out = export_runs(tmp_path / "two", megabytes=room)
    assert (len(paths), left_out) == (2, {})
    assert all(path.stat().st_size <= room * 1e6 for path in paths)
    there = tmp_path / "elsewhere"
    paths, left_out = export_runs(tmp_path / "one", megabytes=room + 0.02, files=1)
    assert (len(paths), left_out) == (1, {B: "weights"})
    assert paths[0].stat().st_size <= (room + 0.02) * 1e6
    assert imported(paths, there) == {A: "new", B: "new"}
    assert [Run(config, there).weights is not None for config in CONFIGS] == [True, False]
    scores = Run(CONFIGS[1], there).evaluations
    more, left_out = export_runs(tmp_path / "rest", list(left_out), megabytes=room)
    assert left_out == {}
    assert imported([*more, *paths], there) == {B: "merged", A: "same"}
    assert Run(CONFIGS[1], there).weights is not None
    assert Run(CONFIGS[1], there).evaluations.equals(scores)


def test_weights_larger_than_a_file_block_nothing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, left_out = export_runs(tmp_path / "bare", megabytes=0.03)
    assert left_out == dict.fromkeys((A, B), "weights larger than a file")
    assert imported(paths, tmp_path / "elsewhere") == {A: "new", B: "new"}
    assert export_runs(tmp_path / "small", megabytes=0.001) == ([], dict.fromkeys((A, B), "all of it"))
    assert not (tmp_path / "small").exists()
    monkeypatch.setattr("ddgan_core.study.transfer.export_runs", lambda *_: export_runs(tmp_path, megabytes=0.03))
    assert main(["study", "export"]) == 0
    assert f"no room for {A}, {B} (weights larger than a file): copy what `study ship`" in capsys.readouterr().err


def test_what_has_not_ended_is_not_exported(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run(CONFIGS[0], made).set_status("running", "stopped", step=1)
    with pytest.raises(UserError, match=f"run {A} has not ended"):
        export_runs(tmp_path / "out", [A])
    assert main(["study", "export", "--run", B, "--run", B, "-o", str(tmp_path / "out")]) == 0
    with zipfile.ZipFile(tmp_path / "out" / "runs-1-of-1.zip") as archive:
        assert archive.namelist() == [f"digits/{B}.zip"]
    Run(CONFIGS[1], made).set_status("running", "stopped", step=1)
    assert main(["study", "export", "-o", str(tmp_path / "none")]) == 0
    assert "no run has ended" in capsys.readouterr().err


def test_runs_of_one_id_in_two_datasets_are_told_apart(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Run.create(CONFIGS[0].changed(dataset="cifar10")).set_status("done", step=2)
    assert main(["study", "export", "--run", A, "-o", str(tmp_path / "one")]) == 2
    assert "(cifar10, digits): say which by --dataset" in capsys.readouterr().err
    for k, (options, members) in enumerate(
        {
            ("--run", A, "--dataset", "digits"): [f"digits/{A}.zip"],
            ("--dataset", "digits"): [f"digits/{A}.zip", f"digits/{B}.zip"],
            (): [f"cifar10/{A}.zip", f"digits/{A}.zip", f"digits/{B}.zip"],
        }.items()
    ):
        assert main(["study", "export", *options, "-o", str(tmp_path / f"out-{k}")]) == 0
        with zipfile.ZipFile(tmp_path / f"out-{k}" / "runs-1-of-1.zip") as archive:
            assert sorted(archive.namelist()) == members
    _, left_out = export_runs(tmp_path / "none", megabytes=0.001)
    assert left_out == dict.fromkeys((f"{A} of cifar10", f"{A} of digits", B), "all of it")
    monkeypatch.setenv("DDGAN_RESULTS", str(tmp_path / "elsewhere"))
    capsys.readouterr()
    assert main(["study", "import", str(tmp_path / "out-2" / "runs-1-of-1.zip")]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == [f"{A} of cifar10: new", f"{A} of digits: new", f"{B}: new"]
