"""The study's results as one small table, and that table in the README: made by a command, never by hand."""

import math
from pathlib import Path

import pandas as pd

from ddgan_core import UserError
from ddgan_core.divergences import DIVERGENCES
from ddgan_core.runs import results_dir, write_atomic
from ddgan_core.scores import load_evaluations

SIZES = (10_000, 1_000)  # N of the distances shown; each has its own bias, so each its own column
BEGIN, END = "<!-- results: python -m ddgan_core study table --write README.md -->", "<!-- end of results -->"


def results_table(
    dataset: str = "fashion_mnist", preset: str = "cpu", features: str = "fashion_classifier",
    results: Path | None = None,
) -> pd.DataFrame:  # fmt: skip
    """One line for each trained model and number of steps, best first; real images and noise beside.

    Columns: model, steps, one distance for each of SIZES, precision and recall (at the larger N), seconds for 1,000
    images (`bench sampling`), preset, commit (of the scoring, with a + where files had changes). Every cell is text:
    half the width of the 95 % interval where there is one, a dash where nothing was measured. Runs with a tag, which
    are not the study's, are left out. Raises UserError where nothing is scored yet.
    """
    table = load_evaluations(dataset, preset, results)
    if len(table):
        table = table[(table["features"] == features) & (table["reference"] == "test") & (table["tag"] == "")]
        table = table[table["n"].isin(SIZES) & (table["sample_seed"] == 0)]
    if not len(table):
        raise UserError(f"no scores of preset {preset!r} in {features} features yet: python -m ddgan_core study run")
    speed = sampling_seconds(preset, table["device"].iloc[-1], results_dir() if results is None else results)
    lines = []
    for (_, sampler, steps), own in table.groupby(["run_id", "sampler", "steps"], sort=False):
        at = {n: own[own["n"] == n] for n in SIZES}
        first = own.sort_values("n").iloc[-1]
        most = at[SIZES[0]]
        line = {"model": _model(first), "steps": str(steps) if steps else ""}
        line |= {f"N = {n:,}": _with_error(at[n], "frechet", 2) for n in SIZES}
        line |= {name: _with_error(most, name, 3) for name in ("precision", "recall")}
        seconds = speed.get((sampler, int(steps)), math.nan)
        line |= {"s / 1,000 images": _short(seconds)}
        line |= {"preset": first["preset"], "commit": first["commit"] if first["preset"] else ""}
        key = tuple(at[n]["frechet"].min() if len(at[n]) else math.inf for n in reversed(SIZES))
        lines.append((key, line))
    return pd.DataFrame([line for _, line in sorted(lines, key=lambda entry: entry[0])])  # the smaller N has them all


def sampling_seconds(preset: str, device: str, results: Path) -> dict[tuple[str, int], float]:
    """{(sampler, steps): seconds for 1,000 images}, as `bench sampling` measured them in turns on one machine."""
    path = results / "tables" / f"bench_sampling_{'cpu' if device.startswith('CPU') else 'cuda'}.csv"
    if not path.exists():
        return {}
    table = pd.read_csv(path)
    table = table[table["preset"] == preset]
    return {(r.sampler, int(r.steps)): float(r.seconds_per_1000) for r in table.itertuples()}


def _short(seconds: float) -> str:
    return "" if math.isnan(seconds) else f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"


def _model(row: pd.Series) -> str:
    if row["run_id"] in ("real", "noise"):
        return "real training images" if row["run_id"] == "real" else "noise"
    if row["method"] == "ddpm":
        return f"DDPM, {'DDIM' if row['sampler'] == 'ddim' else row['sampler']}"
    name = row["divergence"]
    label = DIVERGENCES[name].label if name in DIVERGENCES else name
    return f"DDGAN, {label}" + (f", seed {row['seed']}" if row["seed"] else "")


def _with_error(rows: pd.DataFrame, name: str, digits: int) -> str:
    """The value of the only row, with its error; a dash without a row."""
    if not len(rows) or pd.isna(value := rows.iloc[-1][name]):
        return "–"
    error = rows.iloc[-1].get(f"{name}_error", math.nan)
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if pd.notna(error) else "")


def markdown(table: pd.DataFrame) -> str:
    """The table in GitHub's markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def write_table(path: Path, table: pd.DataFrame) -> bool:
    """Put the table between the two marks of a markdown file. Returns whether that changed it.

    Raises UserError for a file that is not there or does not have the marks, in their order.
    """
    try:
        text = path.read_text(encoding="utf-8")
        head, rest = text.split(BEGIN)
        _, tail = rest.split(END)
    except (OSError, ValueError):
        raise UserError(f"{path}: no such file, or not one {BEGIN} with an {END} after it") from None
    new = f"{head}{BEGIN}\n{markdown(table)}\n{END}{tail}"
    if new != text:
        write_atomic(path, new)
    return new != text
