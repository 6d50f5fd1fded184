"""Runs packed, copied and merged: nothing lost, nothing doubled, nothing written that was not checked."""

import io
import json
import re
import zipfile
from pathlib import Path

import pytest
import torch

from ddgan_core import UserError
from ddgan_core.__main__ import main
from ddgan_core.checkpoints import read_weights
from ddgan_core.evaluation import evaluate
from ddgan_core.runner import train_run
from ddgan_core.runs import Run
from ddgan_core.study import Study, configure, run
from ddgan_core.transfer import export_runs, import_runs

CONFIGS = (configure("smoke", T=1, updates=2), configure("smoke", T=2, updates=2, divergence="wasserstein"))
A, B = (config.run_id for config in CONFIGS)


@pytest.fixture
def made(results: Path) -> Path:
    run(Study("", CONFIGS), results=results, progress=False)
    return results


def files(results: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(results)): p.read_bytes() for p in results.rglob("*") if p.is_file() and p.name != ".lock"
    }


def repack(path: Path, run_id: str, **members: bytes | None) -> Path:
    """The exported file with members of one run replaced, or left out where None."""
    with zipfile.ZipFile(path) as archive:
        inner = {m: archive.read(m) for m in archive.namelist()}
    name = f"digits/{run_id}.zip"
    with zipfile.ZipFile(io.BytesIO(inner[name])) as archive:
        parts: dict[str, bytes | None] = {m: archive.read(m) for m in archive.namelist()}
    parts |= {key.replace("_json", ".json").replace("_st", ".safetensors"): value for key, value in members.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in parts.items():
            if content is not None:
                archive.writestr(member, content)
    inner[name] = buffer.getvalue()
    target = path.with_name("repacked.zip")
    with zipfile.ZipFile(target, "w") as archive:
        for member, content in inner.items():
            archive.writestr(member, content)
    return target


def test_what_arrives_is_what_left(made: Path, tmp_path: Path) -> None:
    paths, left_out = export_runs(tmp_path / "out", results=made)
    assert [path.name for path in paths] == ["runs-1-of-1.zip"]
    assert left_out == []
    there = tmp_path / "elsewhere"
    assert import_runs(paths, there) == {A: "new", B: "new"}
    for config in CONFIGS:
        here, copy = Run(config, made), Run(config, there)
        for name in ("config.json", "status.json", "history.csv", "evaluations.csv", "samples.png"):
            assert (copy.path / name).read_bytes() == (here.path / name).read_bytes()
        assert copy.weights is not None
        assert here.weights is not None
        whole, half = read_weights(here.weights, config.hash), read_weights(copy.weights, config.hash)
        for name, value in whole.items():
            torch.testing.assert_close(half[name], value, rtol=1e-3, atol=1e-6)
        evaluate(copy, n=100, features="pixels", steps=config.T)  # it can be worked with


def test_a_second_import_changes_nothing(made: Path, tmp_path: Path) -> None:
    paths, _ = export_runs(tmp_path / "out", results=made)
    there = tmp_path / "elsewhere"
    import_runs(paths, there)
    before = files(there)
    assert import_runs(paths, there) == {A: "same", B: "same"}
    assert files(there) == before
    assert import_runs(paths, made) == {A: "same", B: "same"}


def test_scores_of_both_sides_are_merged_without_doubles(made: Path, tmp_path: Path) -> None:
    paths, _ = export_runs(tmp_path / "out", results=made)
    there = tmp_path / "elsewhere"
    import_runs(paths, there)
    evaluate(Run(CONFIGS[0], made), n=50, features="pixels")
    evaluate(Run(CONFIGS[0], there), n=60, features="pixels")
    paths, _ = export_runs(tmp_path / "again", results=made)
    assert import_runs(paths, there) == {A: "merged", B: "same"}
    assert sorted(Run(CONFIGS[0], there).evaluations.n) == [50, 60, 200]


def test_an_unfinished_run_stays_and_is_replaced_by_the_finished_one(made: Path, tmp_path: Path) -> None:
    there = tmp_path / "elsewhere"
    train_run(CONFIGS[0], minutes=1e-9, results=there, progress=False)
    paths, _ = export_runs(tmp_path / "none", results=there)
    assert paths == []
    paths, _ = export_runs(tmp_path / "out", results=made)
    assert import_runs(paths, there) == {A: "new", B: "new"}
    assert Run(CONFIGS[0], there).status["state"] == "done"


def test_files_and_their_sizes_are_bounded(made: Path, tmp_path: Path) -> None:
    sizes = [export_runs(tmp_path / name, [name], results=made)[0][0].stat().st_size for name in (A, B)]
    room = (max(sizes) + 1000) / 1e6
    paths, left_out = export_runs(tmp_path / "two", megabytes=room, results=made)
    assert len(paths) == 2
    assert all(path.stat().st_size <= room * 1e6 for path in paths)
    paths, left_out = export_runs(tmp_path / "one", megabytes=room, files=1, results=made)
    assert (len(paths), len(left_out)) == (1, 1)
    with pytest.raises(UserError, match="a file may have 0.001"):
        export_runs(tmp_path / "small", megabytes=0.001, results=made)
    assert not (tmp_path / "small").exists()


def edited(status: bytes, **changes: object) -> bytes:
    return json.dumps(json.loads(status) | changes).encode()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"config_json": None}, "no readable 'config.json'"),
        ({"status_json": b"{"}, "no readable"),
        ({"config_json": b'{"hash": "0", "T": 1}'}, "edited or renamed"),
        ({"config_json": b'{"hash": "0", "speed": 1}'}, "unknown setting speed"),
        ({"weights_st": b"not weights"}, "are damaged"),
        ({"../../evil.json": b"{}"}, "not a file of `study export`"),
        ({"checkpoint.pt": b"pickle"}, "not a file of `study export`"),
    ],
)
def test_a_foreign_or_damaged_run_is_refused_and_nothing_written(
    members: dict[str, bytes | None], message: str, made: Path, tmp_path: Path
) -> None:
    paths, _ = export_runs(tmp_path / "out", results=made)
    bad = repack(paths[0], B, **members)
    there = tmp_path / "elsewhere"
    with pytest.raises(UserError, match=message):
        import_runs([bad], there)
    assert not there.exists()


def test_no_name_leads_out_of_the_results(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../digits/evil.zip", b"")
    with pytest.raises(UserError, match="not a file of `study export`"):
        import_runs([path], made)


def test_a_partly_copied_file_is_refused(made: Path, tmp_path: Path) -> None:
    (path,), _ = export_runs(tmp_path / "out", results=made)
    whole = path.read_bytes()
    ends = [match.end() + 18 for match in re.finditer(b"PK\x05\x06", whole)]  # of each run inside, and of the file
    assert ends[-1] == len(whole)
    assert len(ends) == 3
    for size in (0, 1, len(whole) // 2, *ends[:-1], ends[0] + 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="not a whole zip file"):
            import_runs([path], tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_other_settings_or_other_weights_are_not_overwritten(made: Path, tmp_path: Path) -> None:
    paths, _ = export_runs(tmp_path / "out", results=made)
    there = tmp_path / "elsewhere"
    train_run(CONFIGS[1].changed(updates=3), results=there, progress=False)
    before = files(there)
    with pytest.raises(UserError, match=f"{B} is here with another configuration"):
        import_runs(paths, there)
    assert files(there) == before  # not even the other run was written
    status = (Run(CONFIGS[0], made).path / "status.json").read_bytes()
    other = repack(paths[0], A, status_json=edited(status, weights_hash="0" * 12))
    with pytest.raises(UserError, match=f"{A} is here with other weights"):
        import_runs([other], made)


def test_by_command(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert main(["study", "export", "-o", str(tmp_path / "out")]) == 0
    assert "runs-1-of-1.zip" in capsys.readouterr().out
    monkeypatch.setenv("DDGAN_RESULTS", str(tmp_path / "elsewhere"))
    assert main(["study", "import", str(tmp_path / "out" / "runs-1-of-1.zip")]) == 0
    assert f"{A}: new" in capsys.readouterr().out
    assert (tmp_path / "elsewhere" / "tables" / "evaluations_digits.csv").exists()
    assert main(["study", "import", str(tmp_path / "nothing.zip")]) == 2
    assert "nothing.zip" in capsys.readouterr().err
