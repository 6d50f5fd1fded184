"""What notebook 13 shows: how far a run gets by the updates that each of its steps had, and what each step decides."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ddgan_core.diffusion import make_schedule
from ddgan_core.evaluation.information import decided
from ddgan_core.figures.plots import FEATURE_LABELS, plain_numbers
from ddgan_core.notebook.rows import comparable, kin
from ddgan_core.runs import all_runs
from ddgan_core.study import configure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LATE = 0.25  # of a training's records: what its critics see "at the end"
# Marker of (schedule, are batches the preset's?), how it is filled, and its name.
LOOKS = {("vp", True): ("o", "full", ""), ("vp", False): ("s", "full", "other batches")}
LOOKS |= {("cosine", True): ("D", "none", "cosine schedule"), ("cosine", False): ("s", "none", "cosine, other batches")}
MEASURES = ("frechet", "frechet_error", "precision", "recall", "recall_error", "coverage", "coverage_error")


def by_updates(preset: str, row: str) -> pd.DataFrame:
    """A row's runs of seed 0 in all presets of these networks that differ in T, updates, batches and schedule only.

    Columns: run_id, preset, T, schedule, batch_size, usual_batch (is it the preset's?), updates, per_step = updates / T
    (t is uniform, so each step had as many),
    MEASURES in the presets' common ruler, and seen_t1 .. seen_tT: minus the critic's loss late in training. In order of
    per_step; empty where nothing is scored.
    """
    lines = []
    for name in kin(preset, row):
        scores = comparable(name)
        if not len(scores):
            continue
        scores = scores[scores["sampler"] == "ddgan"].set_index("run_id")
        for run in all_runs(configure(name).dataset):
            config = run.config
            free = {field: getattr(config, field) for field in ("schedule", "updates", "batch_size", "tag")}
            batch_size = configure(name).batch_size
            usual = configure(name, divergence=row, T=config.T).changed(**free)
            if config != usual or config.run_id not in scores.index:
                continue
            late = run.history.tail(max(1, round(LATE * len(run.history))))
            line = {"run_id": config.run_id, "preset": name, "T": config.T, "schedule": config.schedule}
            line |= {"batch_size": config.batch_size, "usual_batch": config.batch_size == batch_size}
            line |= {
                "updates": config.updates,
                "per_step": config.updates / config.T,
                "features": scores["features"].iloc[0],
            }
            line |= {"n": scores["n"].iloc[0]} | scores.loc[config.run_id, list(MEASURES)].to_dict()
            seen = {
                f"seen_t{t}": -late[f"critic_t{t}"].mean() for t in range(1, config.T + 1) if f"critic_t{t}" in late
            }
            lines.append(line | seen)
    return pd.DataFrame(lines).sort_values(["per_step", "T"], ignore_index=True) if lines else pd.DataFrame()


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """What a longer training brings: from each run to the next longer one with the same T.

    Columns: T, updates, longer (those of the next), frechet, then (its distance), power: by which power of the updates
    the distance falls between the two. By the usual schedule and batches.
    """
    own = table[(table["schedule"] == "vp") & table["usual_batch"]].sort_values(["T", "updates"])
    then = own.groupby("T")[["updates", "frechet"]].shift(-1)
    found = own[["T", "updates"]].assign(longer=then["updates"], frechet=own["frechet"], then=then["frechet"]).dropna()
    found["power"] = np.log(found["frechet"] / found["then"]) / np.log(found["longer"] / found["updates"])
    return found.astype({"longer": int}).reset_index(drop=True)


def equal_images(table: pd.DataFrame, within: float = 1.1) -> pd.DataFrame:
    """Runs whose steps were each shown as many images, set side by side: by the usual schedule, all batches.

    Index: images of each step, in thousands, lowest to highest; columns: T; a cell: distance (recall, coverage).
    Neighbours that differ by less than a factor `within` stand in one line; lines of one T are left out.
    """
    own = table[table["schedule"] == "vp"].assign(images=lambda runs: runs["per_step"] * runs["batch_size"] / 1000)
    own = own.sort_values("images")
    lines = {}
    for _, group in own.groupby((own["images"].pct_change() > within - 1).cumsum()):
        if group["T"].nunique() > 1:
            low, high = group["images"].iloc[[0, -1]]
            cells = {r.T: f"{r.frechet:.2f} ({r.recall:.2f}, {r.coverage:.2f})" for r in group.itertuples()}
            lines[f"{low:.0f}" + (f" to {high:.0f}" if high > low else "")] = cells
    return pd.DataFrame.from_dict(lines, orient="index").sort_index(axis=1).fillna("").rename_axis("thousand images")


def _tint(T: int) -> tuple[float, ...]:
    """viridis by the logarithm of T, dark for many."""
    import matplotlib.pyplot as plt

    return plt.get_cmap("viridis")(1 - np.log10(min(T, 10)))


def budget_figure(table: pd.DataFrame) -> "Figure":
    """Distance by all updates and by those of each step; recall and coverage by the latter; a point a run."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 7.4))
    views = (("updates", "frechet"), ("per_step", "frechet"), ("per_step", "recall"), ("per_step", "coverage"))
    for ax, (x, y) in zip(axes.flat, views, strict=True):
        for (T, *kind), own in table.groupby(["T", "schedule", "usual_batch"]):
            marker, fill, _ = LOOKS[tuple(kind)]
            colour = _tint(int(T))
            ax.errorbar(
                own[x], own[y], own[f"{y}_error"], color=colour, marker=marker, fillstyle=fill, ls="", lw=1,
                mec="0.2" if fill == "full" else colour, mew=0.6 if fill == "full" else 1.5, ms=8,
            )  # fmt: skip
        ax.set_xscale("log")
        ticks: list[float] = []
        for u in sorted(table[x].unique()):
            ticks += [u] if not ticks or u > 1.6 * ticks[-1] else []  # whose labels have room
        ax.set_xticks(ticks, [f"{u:,.0f}" for u in ticks])
        ax.minorticks_off()
        ax.margins(x=0.12)
    (by_all, by_each), (recall, coverage) = axes
    by_all.set(xlabel="updates, all steps together", title="Distance by the length of training")
    by_each.set(xlabel="updates of each step", title="Distance by what each step had of it")
    recall.set(xlabel="updates of each step", title="Recall: real images in a sample's ball", ylabel="higher is better")
    coverage.set(xlabel="updates of each step", title="Coverage: real images whose ball has a sample")
    for ax in (by_all, by_each):
        ax.set_yscale("log")
        plain_numbers(ax.yaxis)
    by_all.set_ylabel(
        f"{FEATURE_LABELS[table['features'].iloc[0]]}\nN = {int(table['n'].iloc[0]):,}: lower is better", size=9
    )
    handles = [
        plt.Line2D([], [], ls="", marker="o", color=_tint(int(T)), mec="0.2", mew=0.6, ms=8, label=f"T = {T}")
        for T in sorted(table["T"].unique())
    ]
    for kind in dict.fromkeys(zip(table["schedule"], table["usual_batch"], strict=True)):
        marker, fill, name = LOOKS[kind]
        if name:
            how = {"mfc": "0.4" if fill == "full" else "none", "mec": "0.4", "mew": 1.5, "ms": 8}
            handles.append(plt.Line2D([], [], ls="", marker=marker, label=name, **how))
    figure.legend(handles=handles, loc="outside right center")
    return figure


def equal_steps(table: pd.DataFrame, schedules: Sequence[str], times: Sequence[int]) -> pd.DataFrame:
    """As many steps that decide as much as each other as a chain's are worth: exp of the entropy of their shares.

    table: of `information.measure`. Index: schedules; columns: T. A step that decides nothing does not count.
    """

    def worth(name: str, T: int) -> float:
        share = decided(table, make_schedule(name, T))["share"].clip(lower=1e-12)
        return float(np.exp(-(share * np.log(share)).sum()))

    found = {T: [worth(name, T) for name in schedules] for T in times}
    return pd.DataFrame(found, index=pd.Index(schedules, name="schedule")).rename_axis(columns="T")


def schedule_figure(table: pd.DataFrame, schedules: Sequence[str], times: Sequence[int]) -> "Figure":
    """What noise leaves open against the signal-to-noise ratio, and the share of it that each step of a chain decides.

    table: of `information.measure`. A bar is a chain from noise (left) to image (right), cut where its steps meet.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.4), width_ratios=(1, 1.35))
    left.plot(table["snr"], table["error"] / table["error"].iloc[0], color="0.2")
    left.set(
        xscale="log", xlabel="signal-to-noise ratio", ylabel="open, as a share of the variance", ylim=(0, 1.05),
        title="What noise leaves open of an image",
    )  # fmt: skip
    bars = [(name, T) for T in times for name in schedules]
    for k, (name, T) in enumerate(bars):
        begin = 0.0
        for step in decided(table, make_schedule(name, T)).itertuples():
            shade = plt.get_cmap("cividis")(0.1 + 0.85 * (T - step.t) / max(1, T - 1))
            right.barh(k, step.share, left=begin, height=0.7, color=shade, edgecolor="white", lw=1)
            if step.share > 0.045:
                dark = (T - step.t) / max(1, T - 1) < 0.55
                text = f"t = {step.t}" if step.share > 0.09 else f"{step.t}"
                right.text(
                    begin + step.share / 2, k, text, ha="center", va="center", size=9, color="w" if dark else "k"
                )
            begin += step.share
    right.set_yticks(
        range(len(bars)), [f"T = {T}, {'variance-preserving' if name == 'vp' else name}" for name, T in bars]
    )
    right.invert_yaxis()
    right.grid(visible=False)
    right.set(
        xlim=(0, 1),
        xlabel="share of the variance decided, from noise on the left to the image on the right",
        title="By which step",
    )
    return figure
