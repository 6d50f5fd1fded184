"""Rows at one T by several training seeds: what a seed is worth, and which rows differ by more than seeds do.

Distances are compared as logarithms, and all rows together say how much a seed moves one, as if they scattered alike.
At T = 4 nothing speaks against that; at T = 2 reverse KL scatters more than JS, at T = 1, trained twice as long, less.
A run that broke down is counted as that: its distance says where it stopped.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from ddgan_core.notebook.breakdowns import broken
from ddgan_core.notebook.rows import comparable, kin
from ddgan_core.study import PAPER_ROWS, SWEEP_SEED

T_OF_SEEDS = 4  # where the study trains each row by three seeds
SCORES = ("frechet", "recall", "coverage")


def by_seed(preset: str, T: int = T_OF_SEEDS, rows: Sequence[str] = PAPER_ROWS, tag: str = "") -> pd.DataFrame:
    """row, seed, SCORES and broken of each run of a tag at T: of the preset of these networks with most T (`rows.kin`).

    Rows in the order they are named, the source paper's by default, seeds rising. Empty where nothing is scored.
    """
    table = comparable(kin(preset)[0])
    if not len(table):
        return pd.DataFrame(columns=["row", "seed", *SCORES, "broken"])
    table = table[(table["sampler"] == "ddgan") & (table["T"] == T) & (table["tag"] == tag)]
    table = table[table["divergence"].isin(rows) & (table["seed"] != SWEEP_SEED)]
    order = table["divergence"].map(list(rows).index)
    table = table.assign(order=order, broken=broken(table)).sort_values(["order", "seed"])
    return table.rename(columns={"divergence": "row"})[["row", "seed", *SCORES, "broken"]].reset_index(drop=True)


def spread(table: pd.DataFrame) -> pd.DataFrame:
    """A line for each row of `by_seed`, and one for all.

    seeds; broke down: how many of them, which the other columns leave out; distance: geometric mean; lowest, highest;
    deviation: standard deviation of the distance's logarithm, for all rows pooled within them; recall, coverage: means.
    """
    lines = {}
    for row, every in table.groupby("row", sort=False):
        own = every[~every["broken"].astype(bool)]
        log = np.log(own["frechet"])
        lines[row] = {
            "seeds": len(every), "broke down": len(every) - len(own),
            "distance": math.exp(log.mean()), "lowest": own["frechet"].min(),
            "highest": own["frechet"].max(), "deviation": log.std(),
            "recall": own["recall"].mean(), "coverage": own["coverage"].mean(),
        }  # fmt: skip
    columns = ["seeds", "broke down", "distance", "lowest", "highest", "deviation", "recall", "coverage"]
    rows = pd.DataFrame.from_dict(lines, orient="index").reindex(columns=columns).rename_axis("row")
    free = (rows["seeds"] - rows["broke down"] - 1).clip(lower=0)
    if free.sum() > 0:
        pooled = math.sqrt((free * rows["deviation"].fillna(0) ** 2).sum() / free.sum())
        rows.loc["all, pooled", ["seeds", "broke down", "deviation"]] = [*rows[["seeds", "broke down"]].sum(), pooled]
    return rows


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """For each two rows with two seeds or more that did not break down: the ratio of their geometric mean distances.

    Tukey's honest significant differences of the logarithms: in 95 of 100 studies of so many rows that do not differ,
    and whose seeds scatter alike, all intervals, from low to high, hold 1. Columns: row, other, ratio, low, high; empty
    for fewer than two such rows.
    """
    from scipy.stats import tukey_hsd

    table = table[~table["broken"].astype(bool)]
    logs = {row: np.log(own["frechet"].to_numpy()) for row, own in table.groupby("row", sort=False) if len(own) > 1}
    lines = []
    if len(logs) > 1:
        found = tukey_hsd(*logs.values())
        interval = found.confidence_interval(0.95)
        for (i, row), (j, other) in combinations(enumerate(logs), 2):
            ratio, low, high = (math.exp(m[i, j]) for m in (found.statistic, interval.low, interval.high))
            lines.append({"row": row, "other": other, "ratio": ratio, "low": low, "high": high})
    return pd.DataFrame(lines, columns=["row", "other", "ratio", "low", "high"])


def power(ratios: Sequence[float], deviation: float, seeds: int = 3) -> pd.Series:
    """By the true ratio of two rows' distances: in what share of studies `compared` would tell them apart.

    Simulated: log distances are normal with a seed's `deviation`, `seeds` of each of PAPER_ROWS, none broken down.
    """
    from scipy.stats import studentized_range

    rows = len(PAPER_ROWS)
    random, free = np.random.default_rng(0), rows * (seeds - 1)
    apart = deviation * math.sqrt(2 / seeds) * random.standard_normal(20_000)
    seen = deviation * np.sqrt(random.chisquare(free, 20_000) / free)  # all rows' deviation, as it would be found
    edge = studentized_range.ppf(0.95, rows, free) * seen / math.sqrt(seeds)
    return pd.Series({ratio: float(np.mean(np.abs(math.log(ratio) + apart) > edge)) for ratio in ratios})
