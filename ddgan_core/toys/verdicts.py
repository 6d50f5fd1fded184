"""Which row suits which toy data: comparisons over the same seeds, corrected for how many there are."""

import math
from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
import pandas as pd

from ddgan_core import UserError
from ddgan_core.metrics.intervals import mean_interval

LEVEL = 0.05  # of the family of comparisons in one (data, T)


def verdicts(lines: pd.DataFrame, measure: str, largest: bool = False) -> pd.DataFrame:
    """For each (data, T): the row that is best in `measure`, those that cannot be told from it, and those that can.

    lines: of one `t`, or of several, which are averaged within a seed. A seed gives every row the same draws of data
    and noise, so rows are compared seed by seed: paired t-tests against the best row, adjusted by Holm (1979) for their
    number. That the best row is chosen by the same seeds makes the tests a little too eager. A row of which a seed
    diverged cannot be best and counts as worse. Raises UserError where the other rows' seeds are not the same.
    Columns: best, mean and half (its 95 % t-interval), tied and worse (tuples of rows, best first), worst (the row),
    worst_mean, worst_half.
    """
    found = []
    for (data, T), group in lines.groupby(["data", "T"], sort=False):
        values = group.groupby(["seed", "row"], observed=True)[measure].mean().unstack()
        bad = set(group.loc[group["diverged"], "row"])
        fine = values[[row for row in values if row not in bad]]
        if fine.isna().any(axis=None):
            missing = [f"{row}, seed {seed}" for row in fine for seed in fine.index[fine[row].isna()]]
            raise UserError(f"{data}, T = {T}: {'; '.join(missing)} missing; rows are compared over the same seeds")
        order = list(fine.mean().sort_values(ascending=not largest).index)
        if not order or values.shape[1] < 2:
            continue
        best = order[0]
        p = holm({row: _paired_p(fine[row], fine[best]) for row in order[1:]})
        mean, half = mean_interval(fine[best].tolist())
        worst_mean, worst_half = mean_interval(fine[order[-1]].tolist())
        found.append(
            {
                "data": data, "T": T, "best": best, "mean": mean, "half": half,
                "tied": tuple(row for row in order[1:] if p[row] >= LEVEL),
                "worse": (*(row for row in order[1:] if p[row] < LEVEL), *sorted(bad)),
                "worst": order[-1], "worst_mean": worst_mean, "worst_half": worst_half,
            }
        )  # fmt: skip
    return pd.DataFrame(found)


def decide(lines: pd.DataFrame, measure: str, within: float = 2.0) -> pd.DataFrame:
    """What an error, averaged over T within a seed, says of every row: not to be told from the best is not yet as good.

    Columns: data, row, mean and half (its 95 % t-interval over seeds) and told: "best" and "worse" as in `verdicts`;
    "as good", shown to err less than `within` times as much as the best: the 95 % interval of the paired difference
    ends below `within` - 1 times the best's mean; and "open", where the seeds say neither. Only values of T that all
    rows of the data have are averaged.
    """
    found = []
    for data, group in lines.groupby("data", sort=False):
        rows_at = group.groupby("T")["row"].nunique()
        group = group[group["T"].isin(rows_at.index[rows_at == group["row"].nunique()])]
        for v in verdicts(group.assign(T=0), measure).to_dict("records"):
            values = group.groupby(["seed", "row"], observed=True)[measure].mean().unstack()
            for row in (v["best"], *v["tied"], *v["worse"]):
                mean, half = mean_interval(values[row].tolist())
                more, error = mean_interval((values[row] - values[v["best"]]).tolist())
                told = "as good" if more + error < (within - 1) * v["mean"] else "open"
                told = "best" if row == v["best"] else "worse" if row in v["worse"] else told
                found.append({"data": data, "row": row, "mean": mean, "half": half, "told": told})
    return pd.DataFrame(found, columns=["data", "row", "mean", "half", "told"])


def _paired_p(a: pd.Series, b: pd.Series) -> float:
    """Two-sided p of the paired t-test; 1 where all differences are 0, 0 where all are one other number."""
    from scipy.stats import ttest_rel

    difference = a - b
    if len(difference) < 2 or (difference == 0).all():
        return 1.0
    return float(ttest_rel(a, b).pvalue) if difference.std() > 0 else 0.0


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted so that the chance of any false rejection among them is at most the level (Holm 1979)."""
    adjusted, least = {}, 0.0
    for k, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, (len(p) - k) * value))
        adjusted[name] = least
    return adjusted


def agreement(lines: pd.DataFrame, measure: str, predicted: Mapping[str, float]) -> dict[str, float]:
    """Does `measure` order the rows as `predicted` does? Kendall's tau-b over the rows of `predicted`.

    tau: mean over the (data, T) that have them all and over seeds; 1 is the predicted order, -1 its reverse, 0 neither,
    and what a cell counts in which all rows are equal. over_seeds, over_data: half of the 95 % interval, over seeds of
    training with the data as they are, and over kinds of data. place: where the predicted order stands among all
    `orders` of these rows by their mean tau, 1 if none agrees more: few rows have few orders, so that chance is not
    rare. cells: how many (data, T). NaN where no cell has all the rows.
    """
    names: Sequence[str] = list(predicted)
    wide = lines[~lines["diverged"]].groupby(["data", "T", "seed", "row"])[measure].mean().unstack()
    wide = wide.reindex(columns=names).dropna()
    if not len(wide):
        return dict.fromkeys(("tau", "over_seeds", "over_data", "place", "orders"), math.nan) | {"cells": 0}
    first, second = np.triu_indices(len(names), 1)

    def signs(values: np.ndarray) -> np.ndarray:
        """Of the differences of all pairs of rows, to unit length: tau-b is the product of two of these."""
        pairs = np.sign(values[..., second] - values[..., first])
        return pairs / np.maximum(np.sqrt(np.square(pairs).sum(-1, keepdims=True)), 1)

    found = signs(wide.to_numpy())
    values = np.array([predicted[name] for name in names])
    tau = pd.Series(found @ signs(values), wide.index)
    others = [float((found @ signs(values[list(order)])).mean()) for order in permutations(range(len(names)))]
    return {
        "tau": float(tau.groupby(level="seed").mean().mean()),
        "over_seeds": mean_interval(tau.groupby(level="seed").mean())[1],
        "over_data": mean_interval(tau.groupby(level="data").mean())[1],
        "place": 1 + sum(bool(other > tau.mean() + 1e-9) for other in others), "orders": len(others),
        "cells": wide.groupby(level=["data", "T"]).ngroups,
    }  # fmt: skip
