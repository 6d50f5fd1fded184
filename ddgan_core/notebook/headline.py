"""One row at one T trained ever longer: what more images bring by each ruler, and how many a goal would ask for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ddgan_core.evaluation.reference import shipped_moments
from ddgan_core.evaluation.scores import load_evaluations
from ddgan_core.figures.labels import label_ends, say
from ddgan_core.figures.plots import panels, plain_numbers
from ddgan_core.metrics.distances import frechet_distance
from ddgan_core.notebook.steps import by_updates
from ddgan_core.study import configure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GOALS = {"FID aimed at on a GPU": 8.0, "FID aimed at on a CPU": 30.0}  # of JS at T = 4, before anything was trained
FAR = 100  # times the longest run: as far as a power of two runs may be carried on
LOOKS = (("--", "o"), (":", "D"))  # lines and hollow points of other networks
TICKS = (1, 2, 3, 4, 6, 8, 10, 15, 20, 30, 40, 60, 80, 100, 200, 400)
# Name, features, number of images, reference; the last is what goals are set by.
RULERS = (
    ("classifier, N = 10,000", "fashion_classifier", 10_000, "test"),
    ("FID, N = 2,000, to test images", "inception", 2_000, "test"),
    ("FID, N = 10,000, to training images", "inception", 10_000, "train"),
)  # fmt: skip


def by_images(preset: str, row: str, T: int, critic_width: int = 1) -> pd.DataFrame:
    """Distances of a row's runs at T by the images that they were trained on, fewest first.

    Index: run_id. Columns: images (millions, of all steps), batch_size, arithmetic, then each of RULERS by its name,
    NaN where it was not scored. Runs: of `steps.by_updates`, by the usual schedule, the first of those alike.
    """
    runs = by_updates(preset, row, critic_width)
    runs = runs[(runs["T"] == T) & (runs["schedule"] == "vp")] if len(runs) else runs
    if not len(runs):
        return pd.DataFrame(columns=["images", "batch_size", "arithmetic", *(name for name, *_ in RULERS)])
    runs = runs.drop_duplicates(["batch_size", "updates"])
    runs = runs.assign(images=runs["updates"] * runs["batch_size"] / 1e6)
    table = runs.set_index("run_id")[["images", "batch_size", "arithmetic"]].sort_values("images")
    scores = load_evaluations(configure(preset).dataset)
    scores = scores[(scores["sampler"] == "ddgan") & (scores["sample_seed"] == 0)]
    for name, features, n, reference in RULERS:
        own = scores[(scores["features"] == features) & (scores["n"] == n) & (scores["reference"] == reference)]
        table[name] = own.set_index("run_id")["frechet"].reindex(table.index)
    return table


def powers(table: pd.DataFrame) -> pd.DataFrame:
    """By which power of the images each ruler's distance falls from the run before; NaN for the first, or as many."""
    found = {}
    for name, *_ in RULERS:
        own = table[["images", name]].dropna()
        found[name] = (-np.log(own[name]).diff() / np.log(own["images"]).diff().replace(0, np.nan)).reindex(table.index)
    return pd.DataFrame(found, index=table.index)


def asked(table: pd.DataFrame) -> pd.DataFrame:
    """For each of GOALS the images, in millions, and the multiple of the longest run's, if the last power went on.

    That is hoped for rather than known: no training falls for ever. The longest run's own where it is there already;
    infinite beyond `FAR` times them or where the distance has risen: length alone will not do. NaN where fewer than two
    runs are scored.
    """
    name = RULERS[-1][0]
    own, power = table[["images", name]].dropna(), powers(table)[name].dropna()
    lines = {}
    for goal, fid in GOALS.items():
        more = float("nan")
        if len(power):
            still = max(own[name].iloc[-1] / fid, 1.0)
            more = 1.0 if still == 1 else np.inf if power.iloc[-1] <= 0 else still ** (1 / power.iloc[-1])
            more = np.inf if more > FAR else more
        lines[f"{goal}, {fid:g}"] = {"images": more * own["images"].iloc[-1] if len(own) else more, "more": more}
    return pd.DataFrame.from_dict(lines, orient="index")


def floor(dataset: str) -> float:
    """What no model can be told from: the FID of the test images against the training images, NaN where not shipped.

    Of FashionMNIST's 10,000, as many as the last of RULERS has samples.
    """
    test, train = (shipped_moments(dataset, split, "inception") for split in ("test", "train"))
    return frechet_distance(test, train) if test and train else float("nan")


def headline_figure(
    table: pd.DataFrame, others: Mapping[str, pd.DataFrame] | None = None, floor: float = float("nan")
) -> "Figure":
    """`by_images`: FID with its goals, and the `floor` of the last of RULERS where it is a number; the classifier.

    others: at most as many as LOOKS of other networks, each its own `by_images`, by what is to be said of it.
    """
    others = {said: own for said, own in (others or {}).items() if len(own)}
    figure, axes = panels(2)
    if not len(table):
        for ax in axes:
            say(ax, "not scored yet")
            ax.set_axis_off()
        return figure
    colours = {name: colour for (name, *_), colour in zip(RULERS, ("0.3", "#d6246e", "#7a2ca0"), strict=True)}
    for ax, shown in zip(axes, ([name for name in colours if "FID" in name], [RULERS[0][0]]), strict=True):
        ends = []
        for name in shown:
            line = table.dropna(subset=name)
            ax.plot(line["images"], line[name], marker="o", color=colours[name])
            for (style, marker), own in zip(LOOKS, others.values(), strict=False):
                own = own.dropna(subset=name)
                ax.plot(own["images"], own[name], style, marker=marker, mfc="white", ms=8, color=colours[name])
            if len(line):
                ends.append((float(line["images"].iloc[-1]), float(line[name].iloc[-1]), name, colours[name]))
        for goal, fid in (GOALS | {"FID, test to training images": floor}).items() if ax is axes[0] else ():
            if np.isfinite(fid):
                ax.axhline(fid, color="0.6", lw=1, ls=":")
                ends.append((float("nan"), fid, goal, "0.45"))
        ax.set(xscale="log", yscale="log", xlabel="million images", ylabel="squared Fréchet distance")
        ax.set_xticks(table["images"], [f"{n:.2g}" for n in table["images"]])
        ax.minorticks_off()
        low, high = ax.get_ylim()
        ax.set_yticks([v for v in TICKS if low < v < high])
        plain_numbers(ax.yaxis)
        label_ends(ax, ends)
    if others:
        axes[1].plot([], [], marker="o", color="0.3", label="usual critic")
        for (style, marker), said in zip(LOOKS, others, strict=False):
            axes[1].plot([], [], style, marker=marker, mfc="white", ms=8, color="0.3", label=said)
        axes[1].legend(loc="lower left", frameon=False)
    return figure
