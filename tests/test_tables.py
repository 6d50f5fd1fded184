"""Tables in files: what looks like a number stays text, rows are replaced whole, damage is one line."""

import lzma
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from ddgan_core import UserError, tables
from ddgan_core.tables import read_table, replace_rows


@pytest.mark.parametrize("name", ["some.csv", "some.csv.xz"])
def test_a_commit_that_looks_like_a_number_stays_as_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / "tables" / name
    for run in ("a", "b", "a"):
        replace_rows(path, {"run_id": run, "n": 2}, pd.DataFrame([{"run_id": run, "n": 2, "commit": "5680e93"}] * 2))
    table = read_table(path)
    assert table["run_id"].tolist() == ["b", "b", "a", "a"]
    assert set(table["commit"]) == {"5680e93"}
    replace_rows(path, {"run_id": "a", "n": 3}, pd.DataFrame([{"run_id": "a", "n": 3, "commit": "2054616"}]))
    assert read_table(path)["n"].tolist() == [2, 2, 2, 2, 3], "another n is another row"
    assert (path.read_bytes()[:4] == b"run_") == (path.suffix == ".csv"), "compressed where its name says so"


def test_hashes_that_look_like_numbers_stay_as_they_are(tmp_path: Path) -> None:
    line = {"hash": "001234567890", "features_hash": "12345e67"}
    replace_rows(tmp_path / "some.csv", {"hash": "0"}, pd.DataFrame([line]))
    assert read_table(tmp_path / "some.csv").to_dict("records") == [line]


def test_writers_at_once_lose_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with time enough, between what it reads and what it writes, for the others."""

    def slowly(path: Path, needs: Sequence[str]) -> pd.DataFrame:
        there = read_table(path, needs)
        time.sleep(0.01)
        return there

    monkeypatch.setattr(tables, "read_table", slowly)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: replace_rows(tmp_path / "some.csv", {"k": k}, pd.DataFrame({"k": [k]})), range(8)))
    assert sorted(read_table(tmp_path / "some.csv")["k"]) == list(range(8))


def test_what_is_no_table_is_one_line_that_names_it(tmp_path: Path) -> None:
    assert read_table(tmp_path / "none.csv").empty
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "conflict.csv").write_text("a,b\n<<<<<<< HEAD\n1,2,3,4\n=======\n")
    (tmp_path / "cut.csv.xz").write_bytes(lzma.compress(b"a,b\n1,2\n")[:-9])
    (tmp_path / "cut.csv").write_text("a,b\n1,8.37575\n"[:-4])  # 8.37: another number
    for name in ("empty.csv", "conflict.csv", "cut.csv", "cut.csv.xz"):
        with pytest.raises(UserError, match=rf"{name} is damaged \(.+\): restore it") as caught:
            read_table(tmp_path / name)
        assert "\n" not in str(caught.value)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"other.csv is damaged \(it has no column n\): restore it"):
        replace_rows(tmp_path / "other.csv", {"a": 1, "n": 2}, pd.DataFrame({"a": [1], "n": [2]}))
