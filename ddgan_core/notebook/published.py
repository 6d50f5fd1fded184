"""Published curves beside this study's by the same protocol, each as a multiple of its own longest chain.

The rulers differ (networks of features, images, training), so that values do not compare; what a protocol does to the
shape of a curve does. published.csv: FID as the authors' own repositories and papers give it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ddgan_core.evaluation.scores import AXIS, load_evaluations
from ddgan_core.figures.labels import label_ends
from ddgan_core.figures.plots import COLOURS, plain_numbers
from ddgan_core.metrics.intervals import geometric_mean
from ddgan_core.notebook.rows import beside_cut_short
from ddgan_core.study import configure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW = "non_saturating_js"
SOURCE = "okhotnikov2023"
AS_PUBLISHED, ITS_PROTOCOL, CORRECTED = "as published", "its protocol here", "corrected"
STYLES = {AS_PUBLISHED: ":", ITS_PROTOCOL: "--", CORRECTED: "-"}


def published() -> pd.DataFrame:
    """source (a key of references.bib), model, divergence, protocol, steps, fid: what others report."""
    return pd.read_csv(Path(__file__).with_name("published.csv"), keep_default_na=False)


def curves(preset: str) -> dict[str, pd.DataFrame]:
    """{model: a column for each of STYLES, by the number of steps}, over its own value at the most steps.

    "ddpm": as published and its protocol here are linspace betas for so many steps, corrected is re-spaced ancestral
    sampling; by the most images for which all are scored. "ddgan": one JS model of T = 10 whose chain is cut short, and
    a model trained for each T, geometric means over seeds. A column is empty where nothing is scored.
    """
    theirs = published()
    theirs = theirs[(theirs["source"] == SOURCE) & theirs["divergence"].isin(["", ROW])]
    scores = load_evaluations(configure(preset).dataset, preset)
    scores = scores[(scores["method"] == "ddpm") & (scores["tag"] == "") & (scores["reference"] == "test")]
    scores = scores[scores["sample_seed"] == 0]
    shortened = scores[scores["sampler"] == "shortened"].sort_values(["n", "features"])
    if len(shortened):  # all on its axis
        scores = scores[(scores[list(AXIS)] == shortened[list(AXIS)].iloc[-1]).all(axis=1)]
    shortened, chain = (scores[scores["sampler"] == sampler] for sampler in ("shortened", "ancestral"))
    full = chain[chain["protocol"] == "as_trained"]
    gans = beside_cut_short(preset)[1].reindex(columns=["divergence", "protocol", "T", "steps", "frechet"])
    gans = gans[gans["divergence"] == ROW]
    whole = gans[gans["protocol"] == "as_trained"]
    longest = whole[whole["T"] == whole["T"].max()]
    found = {}
    for model, cut, each in (
        ("ddpm", pd.concat([shortened, full]), chain),
        ("ddgan", pd.concat([gans[gans["protocol"] == "as_published"], longest]), whole),
    ):
        there = theirs[theirs["model"] == model].set_index("steps")["fid"]
        lines = {AS_PUBLISHED: there, ITS_PROTOCOL: _by_steps(cut), CORRECTED: _by_steps(each)}
        found[model] = pd.DataFrame({name: line / line.sort_index().iloc[-1:].sum() for name, line in lines.items()})
    return found


def _by_steps(scores: pd.DataFrame) -> pd.Series:
    """Geometric mean of the distance over seeds, by steps."""
    return scores["frechet"].astype(float).groupby(scores["steps"].astype(int)).agg(geometric_mean)


def published_figure(found: dict[str, pd.DataFrame]) -> "Figure":
    """`curves`: a panel for each model, its lines named at their ends."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2))
    panels = {
        "ddpm": ("DDPM", COLOURS["ddpm"], "re-spaced"),
        "ddgan": ("DDGAN, JS", COLOURS[ROW], "trained for each T"),
    }
    for ax, (model, table) in zip(axes, found.items(), strict=True):
        title, colour, how = panels[model]
        ends = []
        for name, style in STYLES.items():
            line = table[name].dropna()
            if len(line):
                ax.plot(line.index, line, style, color=colour, marker="o", ms=4)
                said = f"{name}: {how}" if name == CORRECTED else name
                ends.append((float(line.index[0]), float(line.iloc[0]), said, colour))
        ax.set(xscale="log", yscale="log", title=title, xlabel="steps from noise to image")
        plain_numbers(ax.yaxis)
        label_ends(ax, ends)
        ticks = [t for t in (1, 2, 3, 4, 5, 7, 10, 20, 50, 100, 200, 500, 1000) if t in table.index]
        ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
        ax.xaxis.minorticks_off()
    axes[0].set_ylabel("distance over that of the longest chain")
    return figure
