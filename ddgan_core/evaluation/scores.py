"""The table of scores: one row per evaluation, everything in it that is needed to compare honestly.

An evaluation is identified by `KEY` and written once, beside its run in evaluations.csv; what bounds every curve (real
images against real ones, and noise) is in results/baselines/<dataset>.csv.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ddgan_core import UserError
from ddgan_core.data import get_dataset
from ddgan_core.locks import locked
from ddgan_core.packing import refuse_cut
from ddgan_core.runs import all_runs, results_dir, write_atomic

KEY = (
    "sampler", "steps", "protocol",  # how the images were drawn; protocol: as_trained, respaced, or of PROTOCOLS
    "features", "features_hash", "reference", "reference_n", "n", "weights", "sample_seed",  # how they were scored
)  # fmt: skip
AXIS = ("features", "features_hash", "n", "reference", "reference_n")  # scores alike in these share an axis
COLUMNS = (
    "dataset", "run_id", "method", "divergence", "T", "seed", "preset", "tag", *KEY,
    "frechet", "frechet_error",  # squared Frechet distance in those features; _error: half of its 95 % interval
    # against as many reference images, and at most `scoring.NEAREST` of either
    "kernel", "kernel_error", "precision", "precision_error", "recall", "recall_error",
    "density", "density_error", "coverage", "coverage_error",
    # see metrics.class_statistics; only for FashionMNIST
    "top_probability", "top_probability_error", "classes_present", "class_entropy", "class_entropy_error",
    "class_kl", "class_kl_error",
    "seconds_per_image",  # of sampling alone
    "device", "torch", "commit",
)  # fmt: skip
# Samplers that are not the study's. The source paper's ways to fewer steps start from noise where the chain does not
# end in noise: a DDPM asked by a table of betas that is shortened, not re-spaced, at times 1 to n; a DDGAN whose first
# steps are left out. Controls tell what is wrong with them: a DDPM asked at the times of as much noise; a DDGAN whose
# last steps begin where they were trained to, at real images with noise.
PROTOCOLS = {
    "shortened": "as_published", "truncated": "as_published", "retimed": "control", "diffused": "control",
}  # fmt: skip
_WHOLE = {"T", "seed", "steps", "reference_n", "n", "sample_seed"}
_MEASURED = set(COLUMNS[COLUMNS.index("frechet") : COLUMNS.index("device")])


def load_evaluations(dataset: str, preset: str | None = None) -> pd.DataFrame:
    """All evaluations of a dataset's runs, of one preset or of all, followed by the dataset's baselines.

    A run that is damaged is left out, and told of. Raises UserError for a damaged table of scores.
    """
    get_dataset(dataset)
    runs = [run for run in all_runs(dataset) if preset in (None, run.config.preset)]
    paths = [run.path / "evaluations.csv" for run in runs] + [results_dir() / "baselines" / f"{dataset}.csv"]
    try:  # numbers in all of them at once, which takes as long as in one
        return _typed([line for path in paths for line in _lines(path)])
    except ValueError:
        for path in paths:
            read_evaluations(path)  # raises with the name of the file
        raise


def studied(table: pd.DataFrame) -> pd.DataFrame:
    """Without what is drawn in one of PROTOCOLS, which no claim, ranking or table of results is about.

    And without other draws of a run's samples than the first: they are no seeds of its training.
    """
    return table[~table["protocol"].isin(PROTOCOLS.values()) & (table["sample_seed"] == 0)]


def one_axis(table: pd.DataFrame) -> pd.DataFrame:
    """The rows measured in one way, AXIS: that of most runs without a tag; among equals Inception's, the larger n.

    Baselines, which are no runs, have no say.
    """
    if not len(table):
        return table
    ways = (
        table[(table["tag"] == "") & (table["method"] != "")]
        .groupby(list(AXIS))["run_id"]
        .nunique()
        .rename("runs")
        .reset_index()
    )
    if not len(ways):
        return table.iloc[:0]
    ways["inception"] = ways["features"] == "inception"
    chosen = ways.sort_values(["runs", "inception", "n"]).iloc[-1]
    return table[(table[list(AXIS)] == chosen[list(AXIS)]).all(axis=1)]


def bounds(evaluations: pd.DataFrame, measured: pd.DataFrame) -> dict[str, float]:
    """{"floor": real images' distance, "ceiling": noise's}, measured as these rows are; a bound not scored is left out.

    evaluations: with the baselines, as `load_evaluations` gives them. measured: rows of one axis.
    """
    names = {"real": "floor", "noise": "ceiling"}
    first = evaluations[evaluations["sampler"].isin(names) & (evaluations["sample_seed"] == 0)]
    alike = first.merge(measured[list(AXIS)].drop_duplicates())
    return {names[row.sampler]: row.frechet for row in alike.itertuples()}


def read_evaluations(path: Path) -> pd.DataFrame:
    """A table of evaluations, with text kept as text (a hash may look like a number); empty without a file.

    Raises UserError, naming the file, for anything that is no such table.
    """
    lines = _lines(path)
    try:
        return _typed(lines)
    except ValueError as error:
        raise _no_table(path, error) from None


def _lines(path: Path) -> list[dict[str, str]]:
    """By the csv module: two hundred small files take pandas ten times as long."""
    if not path.is_file():
        return []
    try:
        refuse_cut(path)
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file, strict=True)
            lines = list(table)
        if missing := {*COLUMNS[:2], *KEY} - set(table.fieldnames or ()):
            raise ValueError(f"it has no column {min(missing)}")
        if any(None in (*line, *line.values()) for line in lines):
            raise ValueError("a line has more or fewer values than there are columns")
    except (ValueError, csv.Error) as error:
        raise _no_table(path, error) from None
    return lines


def _no_table(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is no table of scores ({str(error).strip()}): restore it, or delete it")


def _typed(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Numbers as numbers, everything else as text, in the order of COLUMNS; nothing where a line has no such value."""
    table = pd.DataFrame(lines, columns=list(COLUMNS), dtype=object).fillna("")

    def typed(column: pd.Series) -> pd.Series:
        if column.name in _WHOLE | _MEASURED:
            number = pd.to_numeric(column)
            return number.astype(float) if column.name in _MEASURED else number
        return column.astype(str)

    return table.apply(typed) if len(table) else table


def same_key(table: pd.DataFrame, row: dict[str, Any]) -> pd.Series:
    """Which of a table's rows are this evaluation."""
    same = pd.Series(True, index=table.index)
    for column in KEY:
        same &= table[column] == row[column]
    return same


def add_evaluation(path: Path, row: dict[str, Any]) -> pd.DataFrame:
    """Put a row into a table, in place of one with its key; other processes may be at it. Returns the row."""
    new = _typed([row])
    with locked(path.parent):
        table = read_evaluations(path)
        kept = table[~same_key(table, row)]
        write_atomic(path, (pd.concat([kept, new]) if len(kept) else new).to_csv(index=False, float_format="%.6g"))
    return new
