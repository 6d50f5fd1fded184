"""Tables in CSV files: read with one clear line where a file is damaged, rows replaced whole."""

import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ddgan_core import UserError
from ddgan_core.locks import locked
from ddgan_core.packing import pack_text, refuse_cut
from ddgan_core.runs import write_atomic

TEXT = ("hash", "features_hash", "commit", "classes", "settings", "t", "answer")  # what may look like a number


def read_table(path: Path, needs: Sequence[str] = ()) -> pd.DataFrame:
    """What a .csv, or a compressed .csv.xz, holds; no rows and no columns where there is no such file.

    Columns of `TEXT` are text. Raises UserError, naming the file, where it is no table, or lacks a column of `needs`.
    """
    if not path.is_file():
        return pd.DataFrame()
    try:
        refuse_cut(path)
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str))
        if missing := set(needs) - set(table):
            raise ValueError(f"it has no column {min(missing)}")
        return table
    except (ValueError, EOFError, lzma.LZMAError) as error:  # pandas' own are ValueErrors
        raise UserError(f"{path} is damaged ({str(error).strip()}): restore it, or move it away") from None


def replace_rows(path: Path, same: Mapping[str, Any], new: pd.DataFrame) -> None:
    """Put rows into a file in place of all that have these values in these columns; the file is made if need be.

    Its name says whether it is compressed, as in `read_table`.
    """
    with locked(path.parent):
        there = read_table(path, list(same))
        if len(there):
            there = there[(there[list(same)] != pd.Series(same)).any(axis=1)]
        everything = pd.concat([there, new], ignore_index=True) if len(there) else new
        text = everything.to_csv(index=False, float_format="%.6g")
        write_atomic(path, pack_text(text) if path.suffix == ".xz" else text)
