"""Runs packed, copied and merged: nothing lost, nothing doubled, nothing written that was not checked."""

import io
import json
import lzma
import re
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from disturbed import results_in
from safetensors.torch import save
from transferred import CONFIGS, A, B, imported

from ddgan_core import UserError
from ddgan_core.__main__ import main
from ddgan_core.checkpoints import read_weights, trained_here, write_weights
from ddgan_core.evaluation.scoring import evaluate
from ddgan_core.locks import alone, is_held
from ddgan_core.runner import train_run
from ddgan_core.runs import Run
from ddgan_core.study import transfer
from ddgan_core.study.transfer import export_runs, import_runs


def files(results: Path) -> dict[str, bytes]:
    found = [p for p in results.rglob("*") if p.is_file() and not p.name.endswith(".lock")]
    return {str(p.relative_to(results)): p.read_bytes() for p in found}


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
    paths, left_out = export_runs(tmp_path / "out")
    assert [path.name for path in paths] == ["runs-1-of-1.zip"]
    assert left_out == {}
    there = tmp_path / "elsewhere"
    assert imported(paths, there) == {A: "new", B: "new"}
    for config in CONFIGS:
        here, copy = Run(config, made), Run(config, there)
        for name in ("config.json", "status.json", "history.csv.xz", "evaluations.csv", "samples.png"):
            assert (copy.path / name).read_bytes() == (here.path / name).read_bytes()
        assert copy.weights is not None
        assert here.weights is not None
        whole, rounded = read_weights(here.weights, config.hash), read_weights(copy.weights, config.hash)
        for name, value in whole.items():
            torch.testing.assert_close(rounded[name], value, rtol=1 / 256, atol=1e-6)
        evaluate(copy, n=100, features="pixels", steps=config.T)  # it can be worked with


def test_an_export_replaces_no_file_of_another(made: Path, tmp_path: Path) -> None:
    kept = tmp_path / "out" / "runs-3-of-3.zip"
    kept.parent.mkdir()
    kept.write_bytes(b"of another machine")
    with pytest.raises(UserError, match="runs-3-of-3.zip is of an export before: import it, or delete it, or choose"):
        export_runs(tmp_path / "out")
    assert kept.read_bytes() == b"of another machine"


def test_an_import_ends_a_run_that_stopped_here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checkpoint would let the other machine's pace pass for this one's."""
    paths, _ = export_runs(tmp_path / "out")
    with results_in(tmp_path / "elsewhere"):
        train_run(CONFIGS[0], minutes=0, progress=False)
        run = Run.open(A)
        assert trained_here(run)
        merge = transfer._merge

        def alone_with(arrived: Run) -> str:
            assert is_held(Run(arrived.config).lock), "nobody begins to train it meanwhile"
            return merge(arrived)

        monkeypatch.setattr(transfer, "_merge", alone_with)
        assert import_runs(paths) == {A: "new", B: "new"}
        assert not trained_here(run)


def test_a_second_import_changes_nothing(made: Path, tmp_path: Path) -> None:
    paths, _ = export_runs(tmp_path / "out")
    there = tmp_path / "elsewhere"
    imported(paths, there)
    before = files(there)
    assert imported(paths, there) == {A: "same", B: "same"}
    assert files(there) == before
    assert import_runs(paths) == {A: "same", B: "same"}


def test_scores_of_both_sides_are_merged_without_doubles(made: Path, tmp_path: Path) -> None:
    paths, _ = export_runs(tmp_path / "out")
    there = tmp_path / "elsewhere"
    imported(paths, there)
    evaluate(Run(CONFIGS[0], made), n=50, features="pixels")
    evaluate(Run(CONFIGS[0], there), n=60, features="pixels")
    paths, _ = export_runs(tmp_path / "again")
    assert imported(paths, there) == {A: "merged", B: "same"}
    assert sorted(Run(CONFIGS[0], there).evaluations.n) == [50, 60, 200]


def test_an_unfinished_run_stays_and_is_replaced_by_the_finished_one(made: Path, tmp_path: Path) -> None:
    there = tmp_path / "elsewhere"
    with results_in(there):
        train_run(CONFIGS[0], minutes=1e-9, progress=False)
        paths, _ = export_runs(tmp_path / "none")
    assert paths == []
    paths, _ = export_runs(tmp_path / "out")
    assert imported(paths, there) == {A: "new", B: "new"}
    assert Run(CONFIGS[0], there).status["state"] == "done"


def test_weights_of_a_training_that_was_killed_as_it_ended_give_way(made: Path, tmp_path: Path) -> None:
    paths, _ = export_runs(tmp_path / "out", [A])
    there = tmp_path / "elsewhere"
    with results_in(there):
        killed = train_run(CONFIGS[0], minutes=1e-9, progress=False)
    write_weights(killed.path / "ema.safetensors", {"other": torch.zeros(1)}, CONFIGS[0].hash)
    assert imported(paths, there) == {A: "new"}
    assert not (killed.path / "ema.safetensors").exists()
    evaluate(Run(CONFIGS[0], there), n=50, features="pixels")  # by those that arrived


NO_OBJECTS = (b"[]", b"null", b"{", b"\xff\xff", b"[" * 100_000)


def edited(status: bytes, **changes: object) -> bytes:
    return json.dumps(json.loads(status) | changes).encode()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"config_json": None}, "it has no config.json"),
        *(({"config_json": text}, r"config.json is damaged") for text in NO_OBJECTS),
        *(({"status_json": text}, r"status.json is damaged") for text in (*NO_OBJECTS, b"{}", b'{"state": "great"}')),
        ({"status_json": b'{"state": "running", "reason": ""}'}, "its state is 'running'"),
        ({"status_json": b'{"state": "done", "reason": "", "step": 1}'}, "edited by hand: done at step 1 of 2"),
        ({"config_json": b'{"hash": "0", "dataset": "../../etc"}'}, "dataset = '../../etc'"),
        ({"evaluations.csv": b"\xff\x00"}, "no table of scores"),
        ({"evaluations.csv": b"a,b\n1,2\n"}, "no table of scores"),
        ({"history.csv.xz": b"\xff\x00"}, "history.csv.xz is damaged"),
        ({"history.csv.xz": lzma.compress(bytes(65_000_000), preset=0)}, "history.csv.xz unpacks to more than 64 MB"),
        ({"history.csv.xz": lzma.compress(b"a\n1\n") * 2}, "or to more than one stream"),
        ({"samples.png": b"#!/bin/sh"}, "is no PNG"),
        ({"config_json": b'{"hash": "0", "T": 1}'}, "edited or renamed"),
        ({"config_json": b'{"hash": "0", "speed": 1}'}, "unknown setting speed"),
        ({"weights_st": b"not weights"}, "not a whole weights file"),
        ({"weights_st": save({"a": torch.zeros(1)}, {"config_hash": CONFIGS[1].hash})}, "not those of its network"),
        ({"../../evil.json": b"{}"}, "not a file of `study export`"),
        ({"checkpoint.pt": b"pickle"}, "not a file of `study export`"),
    ],
)
def test_a_foreign_or_damaged_run_is_refused_and_nothing_written(
    members: dict[str, bytes | None], message: str, made: Path, tmp_path: Path
) -> None:
    paths, _ = export_runs(tmp_path / "out")
    bad = repack(paths[0], B, **members)
    there = tmp_path / "elsewhere"
    with pytest.raises(UserError, match=message):
        imported([bad], there)
    assert not there.exists()


def test_no_name_leads_out_of_the_results(made: Path, tmp_path: Path) -> None:
    (good,), _ = export_runs(tmp_path / "out", [A])
    with zipfile.ZipFile(good) as archive:
        content = archive.read(f"digits/{A}.zip")
    for name in (f"../{A}.zip", f"/digits/{A}.zip", f"digits/../digits/{A}.zip", f"..\\{A}.zip", f"{A}.zip"):
        path = tmp_path / "bad.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)
        with pytest.raises(UserError, match="edited or renamed"):
            imported([path], tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_an_archive_of_another_kind_is_one_line(made: Path, tmp_path: Path) -> None:
    """Methods that zipfile does not know, a password, a name twice, too much to unpack, nothing at all."""
    (good,), _ = export_runs(tmp_path / "out", [A])
    whole = good.read_bytes()
    with zipfile.ZipFile(good) as archive:
        content = archive.read(f"digits/{A}.zip")

    def packed(*members: tuple[str, bytes], **how: int) -> bytes:
        buffer = io.BytesIO()
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w", **how) as archive:
            for name, inside in members:
                archive.writestr(name, inside)
        return buffer.getvalue()

    def patched(local: int, central: int, value: int) -> bytes:
        """A header's field, of the outer file alone: it starts with the first header and ends with the last."""
        changed = bytearray(whole)
        changed[local] = changed[whole.rindex(b"PK\x01\x02") + central] = value
        return bytes(changed)

    for bad, words in {
        patched(8, 10, 99): "compression method",
        patched(6, 8, 1): "password",
        packed((f"digits/{A}.zip", content), (f"digits/{A}.zip", content)): "a name twice",
        packed((f"digits/{A}.zip", bytes(70_000_000)), compression=zipfile.ZIP_DEFLATED): "more than 64 MB",
        packed(): "holds no runs",
    }.items():
        good.write_bytes(bad)
        with pytest.raises(UserError, match=words) as raised:
            imported([good], tmp_path / "elsewhere")
        assert str(good) in str(raised.value)
    assert not (tmp_path / "elsewhere").exists()


def test_two_versions_of_a_run_are_not_mixed(made: Path, tmp_path: Path) -> None:
    paths, _ = export_runs(tmp_path / "out", [A])
    status = (Run(CONFIGS[0], made).path / "status.json").read_bytes()
    other = repack(paths[0], A, status_json=edited(status, weights_hash="0" * 12))
    there = tmp_path / "elsewhere"
    with pytest.raises(UserError, match=f"{A} arrives twice, with other weights"):
        imported([*paths, other], there)
    assert not there.exists()
    assert imported([*paths, *paths], there) == {A: "new"}


def test_scores_there_twice_or_of_another_run_are_refused(made: Path, tmp_path: Path) -> None:
    paths, _ = export_runs(tmp_path / "out")
    table = (Run(CONFIGS[1], made).path / "evaluations.csv").read_bytes()
    for scores in (table + table.splitlines(keepends=True)[1], table.replace(B.encode(), A.encode())):
        with pytest.raises(UserError, match="of another run, or one is there twice"):
            imported([repack(paths[0], B, **{"evaluations.csv": scores})], tmp_path / "elsewhere")


def test_a_run_that_failed_elsewhere_replaces_none(made: Path, tmp_path: Path) -> None:
    paths, _ = export_runs(tmp_path / "out", [A])
    status = (Run(CONFIGS[0], made).path / "status.json").read_bytes()
    facts = {"state": "failed", "reason": "step 1", "step": 1, "weights_hash": "0" * 12}
    failed = repack(paths[0], A, status_json=edited(status, **facts), weights_st=None)
    assert import_runs([failed]) == {A: "same"}
    there = tmp_path / "elsewhere"
    with results_in(there):
        train_run(CONFIGS[0], minutes=1e-9, progress=False)
    before = files(there)
    assert imported([failed], there) == {A: "same"}
    assert files(there) == before
    assert imported([failed], tmp_path / "third") == {A: "new"}
    assert imported([failed], tmp_path / "third") == {A: "same"}
    assert imported([*paths, failed], tmp_path / "third") == {A: "new"}
    assert Run(CONFIGS[0], tmp_path / "third").status["state"] == "done"


def test_weights_that_arrive_later_are_taken(made: Path, tmp_path: Path) -> None:
    paths, _ = export_runs(tmp_path / "out", [A])
    there = tmp_path / "elsewhere"
    bare = repack(paths[0], A, weights_st=None)
    assert imported([bare], there) == {A: "new"}
    assert Run(CONFIGS[0], there).weights is None
    assert imported(paths, there) == {A: "merged"}
    assert Run(CONFIGS[0], there).weights is not None


def test_a_run_that_is_being_trained_here_is_not_replaced(made: Path, tmp_path: Path) -> None:
    paths, _ = export_runs(tmp_path / "out")
    with results_in(tmp_path / "elsewhere"):
        lock = Run.create(CONFIGS[0]).lock
        with alone(lock, ""), pytest.raises(UserError, match="is being trained here"):
            import_runs(paths)


def test_beside_a_damaged_run_nothing_is_imported(made: Path, tmp_path: Path) -> None:
    paths, _ = export_runs(tmp_path / "out", [A])
    (Run(CONFIGS[1], made).path / "config.json").write_text("{}")
    before = files(made)
    with pytest.raises(UserError, match=f"{B}/config.json was edited by hand"):
        import_runs(paths)
    assert files(made) == before


def test_a_partly_copied_file_is_refused(made: Path, tmp_path: Path) -> None:
    (path,), _ = export_runs(tmp_path / "out")
    whole = path.read_bytes()
    ends = [match.end() + 18 for match in re.finditer(b"PK\x05\x06", whole)]  # of each run inside, and of the file
    assert ends[-1] == len(whole)
    assert len(ends) == 3
    for size in (0, 1, len(whole) // 2, *ends[:-1], ends[0] + 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="not a whole zip file"):
            imported([path], tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_other_settings_or_other_weights_are_not_overwritten(made: Path, tmp_path: Path) -> None:
    paths, _ = export_runs(tmp_path / "out")
    there = tmp_path / "elsewhere"
    with results_in(there):
        train_run(CONFIGS[1].changed(updates=3), progress=False)
    before = files(there)
    with pytest.raises(UserError, match=f"{B} is here with another configuration"):
        imported(paths, there)
    assert files(there) == before  # not even the other run was written
    status = (Run(CONFIGS[0], made).path / "status.json").read_bytes()
    other = repack(paths[0], A, status_json=edited(status, weights_hash="0" * 12))
    with pytest.raises(UserError, match=f"{A} is here with other weights"):
        import_runs([other])


def test_by_command(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert main(["study", "export", "-o", str(tmp_path / "out")]) == 0
    assert "runs-1-of-1.zip" in capsys.readouterr().out
    monkeypatch.setenv("DDGAN_RESULTS", str(tmp_path / "elsewhere"))
    assert main(["study", "import", str(tmp_path / "out" / "runs-1-of-1.zip")]) == 0
    assert f"{A}: new" in capsys.readouterr().out
    assert (tmp_path / "elsewhere" / "tables" / "evaluations_digits.csv.xz").exists()
    assert main(["study", "import", str(tmp_path / "nothing.zip")]) == 2
    assert f"there is no file {tmp_path / 'nothing.zip'}: name one" in capsys.readouterr().err
