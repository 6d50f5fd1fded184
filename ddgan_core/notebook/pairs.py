"""Rows beside JS in every setting in which both were trained alike: the same preset, tag, T and seed.

One run of each says little; that it is so in many settings says more. Each setting is a block, within which the row is
what differs (with its own penalty: Wasserstein's is another one), so that what differs between settings cancels in the
ratio.
"""

import math

import numpy as np
import pandas as pd

from ddgan_core.evaluation.scores import AXIS, load_evaluations, studied
from ddgan_core.metrics.intervals import mean_interval
from ddgan_core.notebook.rows import SAME_NETWORKS
from ddgan_core.study import SCORES, SWEEP_SEED, configure

BESIDE = "non_saturating_js"
SETTING = ["preset", "tag", "T", "seed"]
LEAST = 3  # settings, for an interval that says something


def paired(preset: str, other: str = BESIDE) -> pd.DataFrame:
    """For each row and setting: the distance over `other`'s, the difference of recalls, and their 95 % errors.

    Columns: setting, row, ratio, low, high, recall, recall_error; settings in order of preset, tag and T. Errors are of
    both runs' draws of samples alone, NaN where a score has none. By the preset's main features and N, over all presets
    of its networks, against the test images (of the sweep, training images); a setting without `other` is left out.
    """
    _, _, features, n = SCORES[preset]["ddgan"][0]
    presets = SAME_NETWORKS if preset in SAME_NETWORKS else (preset,)
    table = pd.concat([load_evaluations(configure(p).dataset, p) for p in presets])
    table = studied(table[(table["features"] == features) & (table["n"] == n) & (table["sample_seed"] == 0)])
    split = np.where(table["seed"] == SWEEP_SEED, "train", "test")
    table = table[(table["method"] == "ddgan") & (table["reference"] == split)].sort_values("reference_n")
    table = table.drop_duplicates([*SETTING, "divergence"], keep="last")  # by all images of the split
    one = table[table["divergence"] == other].set_index([*SETTING, *AXIS])
    lines = []
    for line in table[table["divergence"] != other].sort_values(SETTING, kind="stable").itertuples():
        at = tuple(getattr(line, k) for k in (*SETTING, *AXIS))
        if at not in one.index:
            continue
        js = one.loc[[at]].iloc[0]
        error = math.hypot(line.frechet_error / line.frechet, js["frechet_error"] / js["frechet"])
        ratio = line.frechet / js["frechet"]
        lines.append({
            "setting": _name(*at[:3], line.seed), "row": line.divergence, "ratio": ratio,
            "low": ratio * math.exp(-error), "high": ratio * math.exp(error), "recall": line.recall - js["recall"],
            "recall_error": math.hypot(line.recall_error, js["recall_error"]),
        })  # fmt: skip
    columns = ["setting", "row", "ratio", "low", "high", "recall", "recall_error"]
    return pd.DataFrame(lines, columns=columns)


def _name(preset: str, tag: str, T: int, seed: int) -> str:
    return f"{preset}, T = {T}" + (f", {tag}" if tag else "") + (f", seed {seed}" if seed else "")


def pooled(pairs: pd.DataFrame) -> pd.DataFrame:
    """For each row, over its settings: their number, those in which it is nearer, and means with 95 % intervals.

    ratio: geometric mean of the distances' ratios, from low to high (Student's, over settings); recall: mean of the
    differences, recall_error half of its interval. NaN below LEAST settings. The interval takes what a row gains or
    loses with the setting as noise: it is of the settings at hand, which nobody drew at random.
    """
    lines = {}
    for row, own in pairs.groupby("row", sort=False):
        line = {"settings": len(own), "nearer in": int((own["ratio"] < 1).sum())}
        if len(own) >= LEAST:
            mean, half = mean_interval(np.log(own["ratio"]))
            recall, error = mean_interval(own["recall"])
            line |= {"ratio": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}
            line |= {"recall": recall, "recall_error": error}
        lines[row] = line
    columns = ["settings", "nearer in", "ratio", "low", "high", "recall", "recall_error"]
    table = pd.DataFrame.from_dict(lines, orient="index").reindex(columns=columns)
    return table.rename_axis("row")
