"""The tables of README and FINDINGS: made by a command, never by hand."""

import re
from pathlib import Path

import pandas as pd

from ddgan_core import UserError
from ddgan_core.divergences import DIVERGENCES
from ddgan_core.figures.labels import label_of
from ddgan_core.notebook.claims import gather, verdicts
from ddgan_core.notebook.summary import curves_table, results_table, rows_table, smooth_table, steps_table
from ddgan_core.runs import write_atomic
from ddgan_core.study import configure


def claims_table(preset: str = "cpu") -> pd.DataFrame:
    """One line for each of `claims.CLAIMS`: what the source paper says, the verdict here, the numbers it rests on."""
    table = verdicts(gather(preset, configure(preset).dataset)).reset_index()
    said = [
        re.sub(rf"\b({'|'.join(DIVERGENCES)})\b", lambda name: label_of(name[0]), text) for text in table["evidence"]
    ]
    table = table.assign(evidence=said)[["claim", "says", "verdict", "evidence"]]
    return table.set_axis(["", "the source paper says", "here", "by"], axis=1)


TABLES = {  # how it is made, of which preset, where it stands
    "rows": (rows_table, "cpu", "README.md"), "larger": (results_table, "full", "README.md"),
    "claims": (claims_table, "cpu", "FINDINGS.md"), "results": (results_table, "cpu", "FINDINGS.md"),
    "curves": (curves_table, "short", "FINDINGS.md"), "smooth": (smooth_table, "cpu", "FINDINGS.md"),
    "steps": (steps_table, "cpu", "FINDINGS.md"),
}  # fmt: skip


def markdown(table: pd.DataFrame) -> str:
    """The table in GitHub's markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def marks(name: str) -> tuple[str, str]:
    """What stands before and after one of TABLES in its document: the first is the command that makes it."""
    _, preset, document = TABLES[name]
    command = f"python -m ddgan_core study table --of {name} --preset {preset} --write {document}"
    return f"<!-- {command} -->", f"<!-- end of {name} -->"


def write_table(path: Path, table: pd.DataFrame, name: str = "results") -> bool:
    """Put the table between the marks of that name in a markdown file. Returns whether that changed it.

    Raises UserError for a file that is not there or does not have the marks, in their order.
    """
    begin, end = marks(name)
    try:
        text = path.read_text(encoding="utf-8")
        head, rest = text.split(begin)
        _, tail = rest.split(end)
    except (OSError, ValueError):
        raise UserError(f"{path}: no such file, or not one {begin} with an {end} after it") from None
    new = f"{head}{begin}\n{markdown(table)}\n{end}{tail}"
    if new != text:
        write_atomic(path, new)
    return new != text
