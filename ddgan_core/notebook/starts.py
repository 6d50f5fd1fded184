"""How critics begin: what each sees over its training, from the first record on, and what its generator then learns."""

from typing import TYPE_CHECKING

import pandas as pd

from ddgan_core.figures.labels import label_ends, label_of, say
from ddgan_core.figures.plots import COLOURS, panels
from ddgan_core.notebook.latents import for_good, over_training
from ddgan_core.runs import all_runs
from ddgan_core.study import configure, make_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ["run_id", "divergence", "slowed", "images", "loss", "largest", "share"]
RECORDED = {"step", "critic_t1", "logit_largest"}
SEES = -0.1  # a critic's loss at t = 1: it sees something (JS's would end at -1.39, squared Hellinger's at -2)


def starts(study: str, preset: str, T: int) -> pd.DataFrame:
    """The records of a study's DDGANs of T steps, seed 0, in the order of its cells, a line for each record.

    slowed: by how much the critic's learning rate is below the study's first cell's. images: seen so far (millions, of
    all steps). loss: the critic's at t = 1, its bound with the other sign; 0 sees
    nothing. largest: the absolute logit, since the record before. share: what z draws of the first step, t = T; NaN
    where it is not recorded.
    """
    cells = [c for c in make_study(study, preset).cells if (c.method, c.T, c.seed) == ("ddgan", T, 0)]
    there = {run.config.run_id: run for run in all_runs(configure(preset).dataset)}
    drawn, lines = over_training(preset), []
    for config in cells:
        history = there[config.run_id].history if config.run_id in there else pd.DataFrame()
        if not set(history) >= RECORDED:  # just begun, or diverged before its first record
            continue
        own = drawn[(drawn["run_id"] == config.run_id) & (drawn["t"] == T)]
        record = pd.DataFrame({"images": history["step"] * config.batch_size / 1e6, "loss": history["critic_t1"]})
        record = record.assign(largest=history["logit_largest"], run_id=config.run_id, divergence=config.divergence)
        record = record.assign(slowed=cells[0].lr_critic / config.lr_critic)
        lines.append(record.merge(own[["images", "share"]], on="images", how="left"))
    return pd.concat(lines, ignore_index=True)[COLUMNS] if lines else pd.DataFrame(columns=COLUMNS)


def begun(table: pd.DataFrame) -> pd.DataFrame:
    """For each run the largest logit of its first record, and from which part of its training on its critic sees.

    Index: row, and its critic's rate where that is not the usual one. sees after: the share of its images from which on
    the critic's loss stays below SEES, NaN if never.
    """
    lines = []
    for _, own in table.groupby("run_id", sort=False):
        sees, end = for_good(own["images"], own["loss"] <= SEES) / own["images"].max(), own.iloc[-1]
        lines.append({
            "row": _name(own), "first largest logit": own["largest"].iloc[0],
            "sees after": sees, "loss at the end": end["loss"], "z at the end": end["share"],
        })  # fmt: skip
    return pd.DataFrame(lines).set_index("row") if lines else pd.DataFrame()


def _name(own: pd.DataFrame) -> str:
    slowed = own["slowed"].iloc[0]
    return label_of(own["divergence"].iloc[0]) + ("" if slowed == 1 else f", critic's rate / {slowed:g}")


def starts_figure(table: pd.DataFrame) -> "Figure":
    """Left the critics' loss at t = 1, its scale linear around 0; right what z draws of the first step."""
    figure, axes = panels(2, 4.6)
    ends: list[list[tuple[float, float, str, str]]] = [[], []]
    for _, own in table.groupby("run_id", sort=False):
        colour, style = COLOURS[own["divergence"].iloc[0]], "-" if own["slowed"].iloc[0] == 1 else "--"
        for ax, name, labels in zip(axes, ("loss", "share"), ends, strict=True):
            ax.plot(own["images"], own[name], color=colour, ls=style, lw=1.3)
            labels.append((float(own["images"].iloc[-1]), float(own[name].iloc[-1]), _name(own), colour))
    axes[0].set_yscale("symlog", linthresh=1)
    axes[0].axhline(0, color="0.8", lw=1, zorder=0)
    axes[0].set(xlabel="million images", ylabel="loss of the critic at t = 1 (0: sees nothing)")
    axes[1].set(xlabel="million images", ylabel="share of the variance drawn by z at t = T", ylim=(0, 1))
    for ax, labels in zip(axes, ends, strict=True):
        label_ends(ax, labels)
    if not len(table):
        say(axes[0], "no such run yet")
    return figure
