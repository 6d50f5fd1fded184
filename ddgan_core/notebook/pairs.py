"""Rows beside JS in every setting in which both were trained alike: the same preset, tag, T and seed.

One run of each says little; that it is so in many settings says more. Each setting is a block, within which the row is
what differs (with its own penalty: Wasserstein's is another one), so that what differs between settings cancels in the
ratio.
"""

import math

import numpy as np
import pandas as pd

from ddgan_core.evaluation.scores import AXIS, load_evaluations, studied
from ddgan_core.figures.labels import CRITICS, training_label
from ddgan_core.metrics.intervals import mean_interval
from ddgan_core.notebook.breakdowns import broken
from ddgan_core.notebook.rows import SAME_NETWORKS
from ddgan_core.study import SCORES, SWEEP_SEED, configure

BESIDE = "non_saturating_js"
SETTING = ["preset", "tag", "T", "seed"]
COVERING = ("recall", "coverage")
CROSSED = rf".+-({'|'.join(CRITICS)})-critic(-r1x[\d.]+)?"  # tags of runs by another row's critic: no row of their own
LEAST = 3  # values of T, for an interval that says something
_WITH_ERRORS = [column for name in COVERING for column in (name, f"{name}_error")]


def paired(preset: str) -> pd.DataFrame:
    """For each row and setting: the distance over BESIDE's, differences of COVERING, and their 95 % errors.

    Columns: setting, T, row, ratio (of squared distances), low, high, broken (either run broke down), and for
    each of COVERING itself and its _error; settings in order of preset, tag and T. Errors are of both runs' draws of
    samples alone, NaN where a score has none.
    By the preset's main features and N, over all presets of its networks, against the test images (trials of the sweep
    against the training images, as they are scored); a setting without BESIDE is left out, and critics of other rows.
    """
    _, _, features, n = SCORES[preset]["ddgan"][0]
    presets = SAME_NETWORKS if preset in SAME_NETWORKS else (preset,)
    table = pd.concat([load_evaluations(configure(p).dataset, p) for p in presets])
    table = studied(table[(table["features"] == features) & (table["n"] == n) & (table["sample_seed"] == 0)])
    split = table["seed"].eq(SWEEP_SEED).map({True: "train", False: "test"})
    table = table[(table["method"] == "ddgan") & (table["reference"] == split) & ~table["tag"].str.fullmatch(CROSSED)]
    table = table.sort_values("reference_n")
    table = table.drop_duplicates([*SETTING, "divergence"], keep="last")  # by all images of the split
    table = table.assign(broken=broken(table))
    one = table[table["divergence"] == BESIDE].set_index([*SETTING, *AXIS])
    lines = []
    for line in table[table["divergence"] != BESIDE].sort_values(SETTING, kind="stable").itertuples():
        at = tuple(getattr(line, k) for k in (*SETTING, *AXIS))
        if at not in one.index:
            continue
        js = one.loc[[at]].iloc[0]
        error = math.hypot(line.frechet_error / line.frechet, js["frechet_error"] / js["frechet"])
        ratio = line.frechet / js["frechet"]
        low, high = ratio * math.exp(-error), ratio * math.exp(error)
        found = {"setting": _name(*at[:3], line.seed), "T": line.T, "row": line.divergence}
        found |= {"ratio": ratio, "low": low, "high": high, "broken": line.broken or bool(js["broken"])}
        for name in COVERING:
            found[name] = getattr(line, name) - js[name]
            found[f"{name}_error"] = math.hypot(getattr(line, f"{name}_error"), js[f"{name}_error"])
        lines.append(found)
    return pd.DataFrame(lines, columns=["setting", "T", "row", "ratio", "low", "high", "broken", *_WITH_ERRORS])


def _name(preset: str, tag: str, T: int, seed: int) -> str:
    return f"T = {T}, {training_label(preset, tag)}" + (f", seed {seed}" if seed else "")


def pooled(pairs: pd.DataFrame) -> pd.DataFrame:
    """For each row: the number of its settings and of their T, of settings in which it is nearer, and means over T.

    Settings in which a run broke down are counted as that, in `broke down`, and nowhere else.
    Settings of one T are averaged first: they share seeds and what a step has to do. ratio: geometric mean, from low to
    high (Student's 95 % interval over T); for each of COVERING the mean difference and half of its interval. NaN below
    LEAST values of T. The interval takes what a row gains or loses with T as noise, over T that nobody drew at random.
    """
    lines = {}
    for row, own in pairs.groupby("row", sort=False):
        every, own = own, own[~own["broken"].astype(bool)]
        at_T = own.assign(ratio=np.log(own["ratio"])).groupby("T")[["ratio", *COVERING]].mean()
        line = {"settings": len(own), "broke down": len(every) - len(own), "T": len(at_T)}
        line |= {"nearer in": int((own["ratio"] < 1).sum())}
        if len(at_T) >= LEAST:
            mean, half = mean_interval(at_T["ratio"])
            line |= {"ratio": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}
            for name in COVERING:
                line[name], line[f"{name}_error"] = mean_interval(at_T[name])
        lines[row] = line
    columns = ["settings", "broke down", "T", "nearer in", "ratio", "low", "high", *_WITH_ERRORS]
    return pd.DataFrame.from_dict(lines, orient="index").reindex(columns=columns).rename_axis("row")


def worst(pairs: pd.DataFrame, rows: tuple[str, ...], deviation: float) -> pd.DataFrame:
    """How far each of `rows`, `BESIDE` among them, was behind the nearest of them where it was farthest behind.

    settings: in which all of them are scored and none broke down; behind: the largest ratio of its distance to the
    setting's smallest, and in: that setting. chance, chance_high: median and 95 % quantile of that ratio for rows that
    do not differ, each log distance off by a normal error of `deviation` (of a seed), settings independent. beyond: in
    how many settings the row is farther behind than chance_high.
    """
    whole = pairs[~pairs["broken"].astype(bool)]
    ratios = whole.pivot(index="setting", columns="row", values="ratio").assign(**{BESIDE: 1.0})
    ratios = ratios.reindex(columns=list(rows)).dropna()
    behind = ratios.div(ratios.min(axis=1), axis=0)
    noise = deviation * np.random.default_rng(0).standard_normal((10_000, len(ratios), len(rows)))
    chance = np.exp((noise[..., 0] - noise.min(axis=-1)).max(axis=-1)) if len(ratios) else np.full(1, math.nan)
    found = pd.DataFrame({"settings": len(ratios), "behind": behind.max()}, index=pd.Index(rows, name="row"))
    found["in"] = behind.idxmax() if len(ratios) else ""
    high = np.quantile(chance, 0.95)
    return found.assign(chance=np.median(chance), chance_high=high, beyond=(behind > high).sum())
