"""How hard R1 holds each row's critic, and what becomes of rows when it holds them alike (study `penalty`)."""

import math
import re
import textwrap
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from ddgan_core import UserError
from ddgan_core.divergences import DIVERGENCES, get_divergence
from ddgan_core.evaluation.scores import load_evaluations
from ddgan_core.figures.labels import CRITICS, label_of, say, training_label
from ddgan_core.figures.plots import COLOURS, FEATURE_LABELS, MARKERS, plain_numbers
from ddgan_core.metrics.intervals import geometric_mean
from ddgan_core.notebook.breakdowns import broken
from ddgan_core.notebook.latents import inception_scores
from ddgan_core.notebook.rows import comparable
from ddgan_core.objectives import blind_curvature, make_row
from ddgan_core.runs import PRESETS, RunConfig, all_runs
from ddgan_core.study import SMOOTH, configure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Tags of runs that differ in row, seed, precision, the weight of R1 and whose loss trains the critic, alone.
OF_OTHERS = rf"(-({'|'.join(CRITICS)})-critic)?"
AS_LONG = rf"b\d+(-bf16)?{OF_OTHERS}(-r1x[\d.]+)?"
TWICE = r"x2(-js-critic)?"  # the same of runs twice as long as their preset's
MEASURES = ("FID", "distance")
R1_WEIGHED = r"-r1x[\d.]+$"  # in tags of runs by another weight of R1 than usual
FEW = 4  # T up to which these critics see something (notebook 08)


def hardness(config: RunConfig) -> float:
    """The weight of R1 over the curvature of the critic's loss where it sees nothing, `objectives.blind_curvature`.

    NaN for rows whose logit is no multiple of a log ratio, up to a constant.
    """
    try:
        return config.penalty_weight / blind_curvature(make_row(config.divergence, config.critic_divergence))
    except UserError:
        return math.nan


def held(preset: str, T: int = 2, tags: str = AS_LONG) -> pd.DataFrame:
    """Scores at T of the preset's runs with one of these tags, by how hard R1 holds critics that have a hardness.

    A line for each run, row by row: run_id, divergence (the generator's), critic (the first row whose loss trains it),
    seed, features, weight (of R1), hardness, FID and distance with their _error (half of a 95 % interval over draws;
    the distance by the preset's main features and N), kid, recall.
    """
    configs = {run.config.run_id: run.config for run in all_runs(configure(preset).dataset)}
    scores, main = load_evaluations(configure(preset).dataset, preset), comparable(preset)
    columns = ["run_id", "divergence", "critic", "seed", "features", "weight", "hardness"]
    columns += [name for measure in MEASURES for name in (measure, f"{measure}_error")] + ["kid", "recall"]
    if not len(main):
        return pd.DataFrame(columns=columns)
    main = main[(main["sampler"] == "ddgan") & (main["T"] == T) & main["tag"].str.fullmatch(tags)]
    main = main[main["run_id"].isin(configs)].set_index("run_id")
    fid = inception_scores(scores)
    table = main[["divergence", "seed", "features", "recall"]].assign(
        critic=[first_of_loss(configs[name].critic_divergence or configs[name].divergence) for name in main.index],
        weight=[configs[name].penalty_weight for name in main.index],
        hardness=[hardness(configs[name]) for name in main.index],
        distance=main["frechet"], distance_error=main["frechet_error"],
        FID=fid["frechet"], FID_error=fid["frechet_error"], kid=fid["kernel"],
    )  # fmt: skip
    return (
        table.dropna(subset="hardness")
        .reset_index()[columns]
        .sort_values(["divergence", "hardness", "seed"], ignore_index=True)
    )


class Setting(NamedTuple):
    """The smooth rows' runs of one preset, tag and T, R1 at its usual weight or, `held`, as hard on all as on JS.

    distances, fids: by row the scores of its seeds, of one feature network and N each.
    """

    preset: str
    tag: str
    T: int
    held: bool
    images: int  # in all updates together
    distances: dict[str, pd.DataFrame]
    fids: dict[str, pd.DataFrame]


def settings(preset: str, most: int = FEW) -> list[Setting]:
    """Every setting of up to `most` steps in which each smooth row is scored against the test images.

    Of all presets of this one's dataset, fewest images first; the sweep is scored against the training images.
    """
    found = [one for name in presets_of(configure(preset).dataset) for one in _settings(name) if most >= one.T]
    return sorted(found, key=lambda one: (one.images, one.T))


def presets_of(dataset: str) -> list[str]:
    """The presets that are trained on a dataset."""
    return [name for name in PRESETS if configure(name).dataset == dataset]


def _settings(preset: str) -> list[Setting]:
    dataset = configure(preset).dataset
    table, fid = comparable(preset), inception_scores(load_evaluations(dataset, preset)).reset_index()
    by_own = {run.config.run_id: run.config for run in all_runs(dataset) if not run.config.critic_divergence}
    if len(table):
        table = table[(table["sampler"] == "ddgan") & table["run_id"].isin(by_own)]
        table = table.assign(hardness=[hardness(by_own[run_id]) for run_id in table["run_id"]])
    found = []
    for (T, tag), usual in table.groupby(["T", "tag"]) if len(table) else ():
        js = usual.loc[usual["divergence"] == SMOOTH[0], ["run_id", "hardness"]]
        if not len(js) or re.search(R1_WEIGHED, tag):
            continue
        again = table[(table["T"] == T) & (table["tag"].str.replace(R1_WEIGHED, "", regex=True) == tag)]
        as_js = again[np.isclose(again["hardness"], js["hardness"].iloc[0])]
        of_js = by_own[js["run_id"].iloc[0]]
        for alike, chosen in ((False, usual), (True, as_js)):
            rows = {row: chosen[chosen["divergence"] == row] for row in SMOOTH}
            if all(map(len, rows.values())):
                fids = {row: fid[fid["run_id"].isin(own["run_id"])] for row, own in rows.items()}
                found.append(Setting(preset, tag, int(T), alike, of_js.updates * of_js.batch_size, rows, fids))
    return found


def firsts(found: list[Setting]) -> pd.DataFrame:
    """How often JS is the best of the smooth rows, of `settings` by seed (blocks) in which each row has a score.

    A line for each of MEASURES, R1 at its usual weight and as hard on all. Columns: blocks; first: those that JS leads;
    chance: of so many or more if in each block each row were first as easily. Runs that broke down are in no block.
    """
    from scipy.stats import binom

    lines = {}
    for held, measure in ((held, measure) for held in (False, True) for measure in MEASURES):
        blocks = [pd.DataFrame(columns=SMOOTH, dtype=float)]
        for one in (one for one in found if one.held == held):
            scores = one.fids if measure == "FID" else one.distances
            whole = {row: own[~broken(own)].set_index("seed")["frechet"] for row, own in scores.items()}
            blocks.append(pd.concat(whole, axis=1).dropna())
        every = pd.concat(blocks)
        first = int(every.min(axis=1).eq(every[SMOOTH[0]]).sum())
        chance = binom.sf(first - 1, len(every), 1 / len(SMOOTH))
        lines["as JS's" if held else "usual", measure] = {"blocks": len(every), "first": first, "chance": chance}
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis(["R1", "measure"])


def settings_figure(found: list[Setting]) -> "Figure":
    """FID and distance of each smooth row, a line for each of `settings`: geometric means and ranges over seeds.

    A single training has its 95 % interval over draws; what broke down is left out. Hollow: fewer seeds than another's.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 1.4 + 0.42 * max(4, len(found))), sharey=True)
    for ax, measure in zip(axes, MEASURES, strict=True):
        for place, one in enumerate(found):
            scores = one.fids if measure == "FID" else one.distances
            most = max(map(len, scores.values()))
            for k, (row, every) in enumerate(scores.items()):
                if not len(own := every[~broken(every)]):
                    continue
                mean, error, at = geometric_mean(own["frechet"]), own["frechet_error"].iloc[0], place + 0.22 * (k - 1)
                ends = (own["frechet"].min(), own["frechet"].max()) if len(own) > 1 else (mean - error, mean + error)
                ax.hlines(at, *ends, color=COLOURS[row], lw=1.6)
                look = {"mec": "white", "mew": 0.4} if len(every) == most else {"mfc": "white"}
                ax.plot(mean, at, MARKERS[row], color=COLOURS[row], ms=6, **look)
        ax.set(xscale="log", xlabel="lower is better")
        plain_numbers(ax.xaxis)
        if found:
            features = "inception" if measure == "FID" else found[0].distances[SMOOTH[0]]["features"].iloc[0]
            ax.set_title(FEATURE_LABELS[features])
        else:
            say(ax, "not run yet")
    alike = [", R1 as hard on all" if one.held else "" for one in found]
    names = [f"T = {one.T}, {training_label(one.preset, one.tag)}{a}" for one, a in zip(found, alike, strict=True)]
    axes[0].set_yticks(range(len(names)), [textwrap.fill(name, 36) for name in names])
    axes[0].invert_yaxis()
    for row in SMOOTH:
        axes[0].plot([], [], MARKERS[row], color=COLOURS[row], label=label_of(row))
    axes[0].legend(loc="upper right")
    return figure


def first_of_loss(row: str) -> str:
    """The first row of the table with its critic's loss; itself where it is not in the table (`register`)."""
    if row not in DIVERGENCES:
        return row
    loss = get_divergence(row).critic
    return next(name for name, other in DIVERGENCES.items() if other.critic is loss)
