"""Rows side by side: stripes and modes of their samples, quality against coverage and time, and rows in pairs."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ddgan_core.evaluation.textures import FINE
from ddgan_core.figures.curves import finish
from ddgan_core.figures.labels import label_ends, label_of, with_room
from ddgan_core.figures.plots import COLOURS, DDPM_LOOKS, FEATURE_LABELS, FEATURE_NAMES, MARKERS, plain_numbers
from ddgan_core.metrics.intervals import geometric_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def textures_figure(textures: pd.DataFrame, classes: Sequence[str]) -> "Figure":
    """Median stripe power of piles over that of test images: by period and direction, and, fine ones, by class.

    textures: a table of `anatomy.measure`. classes: in the order to be drawn. Bands and bars are 95 % intervals over
    draws of images; grey is what other real images, the training split's, make of it.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), width_ratios=(1, 1, 1.2))
    if not len(textures):
        for ax in axes:
            finish(ax, [], False)
        return figure
    spectra = textures[(textures["classes"] == "all") & (textures["period"] > 0)]
    for ax, direction in zip(axes, ("horizontal", "vertical"), strict=False):
        ends = []
        for name, line in spectra[spectra["stripes"] == direction].groupby("row", sort=False):
            x, label, colour = 1 / line["period"], *_look(str(name))
            ax.fill_between(x, line["low"], line["high"], color=colour, alpha=0.15, lw=0)
            ax.plot(x, line["ratio"], color=colour)
            ends.append((float(x.iloc[-1]), float(line["ratio"].iloc[-1]), label, colour))
        periods = sorted(set(spectra["period"]))
        ax.set_xticks([1 / p for p in periods], [f"{p:.2g}" for p in periods])
        ax.set(xlabel="pixels per cycle; band: 95 %", title=f"{direction.capitalize()} stripes", yscale="log")
        ax.set_ylim(spectra["low"].min() / 1.1, spectra["high"].max() * 1.1)
        plain_numbers(ax.yaxis)
        label_ends(ax, ends)
    axes[0].set_ylabel("median power over that of test images")
    by_class = textures[(textures["stripes"] == "horizontal") & (textures["period"] == 0)]
    shown = [k for k in classes if k in set(by_class["classes"])]
    _dots(axes[2], by_class[by_class["classes"].isin(shown)], "classes", shown, "ratio")
    axes[2].set(
        xscale="log",
        title=f"Horizontal, {FINE:g} pixels or less, by class",
        xlabel="over that of test images; bars: 95 %",
    )
    axes[2].axvline(1, color="0.6", lw=0.8, zorder=0)
    plain_numbers(axes[2].xaxis)
    figure.legend(*axes[2].get_legend_handles_labels(), loc="outside lower center", ncols=7)
    return figure


def modes_figure(shares: pd.DataFrame, scores: pd.DataFrame, row: str) -> "Figure":
    """Which classes a row's samples hold, beside the real ones and other piles, and how much of the real they reach.

    shares, scores: of `anatomy.shares` and `anatomy.reach`, intervals in low and high. Of the classes the row and real
    images have theirs drawn; other piles are small marks behind them.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MultipleLocator, PercentFormatter

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), width_ratios=(1.5, 1))
    for ax, table, by in ((axes[0], shares, "class"), (axes[1], scores, "score")):
        if len(table):
            _dots(ax, table, by, list(dict.fromkeys(table[by])), "value", None if by == "score" else row)
        else:
            finish(ax, [], False)
    if len(shares):
        axes[0].set(title=f"Share of each class in the samples: {label_of(row)}", xlim=(0, None))
        axes[0].xaxis.set_major_locator(MultipleLocator(0.05))
        axes[0].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes[0].axvline(1 / len(set(shares["class"])), color="0.6", lw=0.8, zorder=0)
    if len(scores):
        axes[1].set(title="What is reached, by neighbours in feature space", xlim=(None, 1))
        for i, name in enumerate(dict.fromkeys(scores["row"])):
            label, colour = _look(name)
            weight = "bold" if name == row else "normal"
            at = (1.03, 1 - 0.07 * (i + 0.5))
            axes[1].text(*at, label, color=colour, fontsize=10, weight=weight, transform=axes[1].transAxes)
    return figure


def trilemma_figure(
    scored: pd.DataFrame, seconds: Mapping[tuple[str, int], float], floor: float | None = None
) -> "Figure":
    """Quality and recall of every model against the time it takes: the trilemma of Xiao et al. 2021, figure 1.

    scored: evaluations that share one axis. seconds: {(sampler, steps): seconds for 1,000 images}, as `bench sampling`
    has measured them in turns on one machine; what has no time there is left out. Bars are 95 % intervals over draws.
    A row's points are joined in the order of their steps, which stand above at the mean of their times where there is
    room. A training of another length (a tag) is hollow, and a line of its own. floor: the distance of real images.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12.5, 4.6))
    own = [seconds.get((r.sampler, int(r.steps)), np.nan) for r in scored.itertuples()]
    timed = scored.assign(seconds=own).dropna(subset=["seconds"])
    if not len(timed):
        for ax in axes:
            finish(ax, [], False)
        return figure
    keys: dict[tuple[bool, bool, str], dict[str, Any]] = {}  # (is it hollow, a DDPM, name): hollow ones stand last
    one = ["method", "divergence", "sampler", "tag", "seed"]
    for (method, name, sampler, tag, _), line in timed.groupby(one, sort=False):
        ddpm, line = method == "ddpm", line.sort_values("steps")
        who = "DDPM" if ddpm else label_of(str(name))
        row = "ddpm" if ddpm else str(name)
        look: dict[str, Any] = {"color": COLOURS[row], "marker": MARKERS[row], "lw": 1.2}
        how, line_style = DDPM_LOOKS.get(sampler, (sampler, "-"))
        look |= {"ls": line_style, "mfc": "white" if tag else look["color"]}
        for ax, score in zip(axes, ("frechet", "recall"), strict=True):
            error = line.get(f"{score}_error", pd.Series(np.nan, line.index))
            ax.vlines(line["seconds"], line[score] - error, line[score] + error, color=look["color"], lw=1)
            ax.plot(line["seconds"], line[score], **look)
        keys[False, ddpm, f"DDPM, {how}" if ddpm else who] = look | {"mfc": look["color"]}
        if tag:
            keys[True, True, "hollow: trained longer"] = {"color": "0.45", "marker": "o", "mfc": "white", "ls": ""}
    handles = [plt.Line2D([], [], label=k[2], **keys[k]) for k in sorted(keys, key=lambda k: k[:2])]
    if floor is not None:
        handles.append(axes[0].axhline(floor, color="0.6", lw=1.1, ls=":", label="real images"))
    figure.legend(handles=handles, loc="outside right center", handlelength=3)
    at = timed.groupby("steps")["seconds"].mean()
    for ax in axes:
        ax.set(xscale="log", xlabel="seconds for 1,000 images")
        plain_numbers(ax.xaxis)
        top = ax.secondary_xaxis("top")
        named = {second: steps for steps, second in at.items()}
        top.set_xticks(shown := with_room(ax, list(named)), [f"{named[k]:,}" for k in shown], color="0.45")
        top.minorticks_off()
        top.set_xlabel("steps", color="0.45", fontsize=10)
        top.spines["top"].set_visible(False)
    axes[0].set_yscale("log")
    plain_numbers(axes[0].yaxis)
    features, n = timed["features"].iloc[0], f"N = {timed['n'].iloc[0]:,}"
    axes[0].set(ylabel=f"{FEATURE_LABELS[features]}\n{n}: lower is better", title="Quality")
    axes[1].set(ylabel=f"recall ({FEATURE_NAMES[features]})\n{n}: higher is better", title="Recall")
    return figure


def pairs_figure(pairs: pd.DataFrame, pooled: pd.DataFrame, other: str) -> "Figure":
    """Each row's distance over `other`'s, its recall and coverage less that one's, a line a setting, and means over T.

    pairs, pooled: of `notebook.pairs`. Bars of a setting are 95 % intervals over draws of samples, those of means are
    over T; hollow: a run broke down, in no mean.
    """
    import matplotlib.pyplot as plt

    settings = list(dict.fromkeys(pairs["setting"]))
    figure, axes = plt.subplots(1, 3, figsize=(14, 1.6 + 0.38 * max(3, len(settings) + 1)), sharey=True)
    if not settings:
        for ax in axes:
            finish(ax, [], False)
        return figure
    over_all = pooled.dropna(subset=["ratio"]).reset_index().assign(setting="mean over T")
    table = pd.concat([pairs, over_all]) if len(over_all) else pairs
    order = list(dict.fromkeys(table["setting"]))
    _dots(axes[0], table, "setting", order, "ratio")
    for ax, name in zip(axes[1:], ("recall", "coverage"), strict=True):
        low, high = table[name] - table[f"{name}_error"], table[name] + table[f"{name}_error"]
        _dots(ax, table.assign(low=low, high=high), "setting", order, name)
        ax.set(title=name.capitalize(), xlabel=f"less that of {label_of(other)}\nabove 0: more of the data")
    axes[0].set(title="Squared distance", xlabel=f"over that of {label_of(other)}\nbelow 1: nearer", xscale="log")
    plain_numbers(axes[0].xaxis)
    for ax, same in zip(axes, (1, 0, 0), strict=True):
        ax.axvline(same, color=COLOURS[other], lw=1.4, zorder=1)
        if len(over_all):
            ax.axhline(len(settings) - 0.5, color="0.5", lw=0.8)
    for i, name in enumerate(dict.fromkeys(table["row"])):
        axes[2].text(1.03, 1 - 0.07 * (i + 0.5), label_of(str(name)), color=COLOURS[name], transform=axes[2].transAxes)
    return figure


def seeds_figure(table: pd.DataFrame, compared: pd.DataFrame) -> "Figure":
    """Rows at one T: the distance of each training seed, and the ratio of every two rows' means with its interval.

    table, compared: of `notebook.seeds`. A tick is a row's geometric mean, hollow a run that broke down, which no mean
    counts; an interval that holds 1 is grey.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 1.4 + 0.32 * max(6, len(compared))), width_ratios=(1, 1.2))
    for ax, part in zip(axes, (table, compared), strict=True):
        if not len(part):
            finish(ax, [], False)
    rows = list(dict.fromkeys(table["row"]))
    for y, row in enumerate(rows):
        for broken, own in table.loc[table["row"] == row].groupby("broken")["frechet"]:
            look = {"marker": MARKERS[row], "color": COLOURS[row], "fillstyle": "none" if broken else "full"}
            axes[0].plot(own, [y] * len(own), ls="", ms=8, alpha=0.75, **look)
            if not broken:
                axes[0].vlines(geometric_mean(own), y - 0.3, y + 0.3, color=COLOURS[row], lw=2)
    if rows:
        hollow = "; hollow: broke down" if table["broken"].any() else ""
        axes[0].set(xlabel=f"squared distance of each seed{hollow}", title="Seeds")
        axes[0].set_yticks(range(len(rows)), [label_of(row) for row in rows])
    for y, pair in enumerate(compared.itertuples()):
        colour = "0.6" if pair.low <= 1 <= pair.high else "0.1"
        axes[1].hlines(y, pair.low, pair.high, color=colour, lw=2)
        axes[1].plot(pair.ratio, y, "o", color=colour, ms=6)
    if len(compared):
        names = [f"{label_of(pair.row)} / {label_of(pair.other)}" for pair in compared.itertuples()]
        axes[1].set(xscale="log", xlabel="ratio of mean distances, all intervals together 95 %", title="Pairs of rows")
        low, high = axes[1].get_xlim()
        ratios = [r for r in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10) if low < r < high]
        axes[1].set_xticks(ratios, [f"{r:g}" for r in ratios])
        axes[1].minorticks_off()
        axes[1].set_yticks(range(len(names)), names)
        axes[1].axvline(1, color="0.6", lw=0.8, zorder=0)
    for ax, part in zip(axes, (rows, compared), strict=True):
        if len(part):
            ax.set_ylim(len(part) - 0.5, -0.5)
            ax.grid(axis="y", visible=False)
    return figure


def _dots(ax: "Axes", table: pd.DataFrame, by: str, order: Sequence[str], value: str, only: str | None = None) -> None:
    """A line of the plot for each of `order`, from the top; in it a dot with its interval for each row.

    only: the row that the plot is about; others than it and real images are small marks on one height. Where the table
    says `broken` the mark is hollow.
    """
    names = list(dict.fromkeys(table["row"]))
    fore = [name for name in names if only in (None, name) or name == "real"]
    for name in names:
        label, colour = _look(name)
        points = table[table["row"] == name].set_index(by).reindex(order)
        marker = MARKERS[name] if name != "real" else "|"
        if name not in fore:
            y = np.arange(len(order)) + 0.3
            ax.plot(points[value], y, ls="", marker=marker, color=colour, ms=4, label=label)
            continue
        room = 0.8 if only is None else 0.5
        y = np.arange(len(order)) + (fore.index(name) - (len(fore) - 1) / 2) * room / len(fore) - (0.8 - room) / 2
        ax.hlines(y, points["low"], points["high"], color=colour, lw=1.2 if only is None else 2)
        size = 5 if only is None else 7
        ax.plot(points[value], y, ls="", marker=marker, color=colour, ms=size, label=label)
        hollow = points[value].where(points["broken"].eq(True)) if "broken" in points else []
        if np.isfinite(hollow).any():
            ax.plot(hollow, y, ls="", marker=marker, color=colour, ms=size, mfc="white")
    ax.set_yticks(range(len(order)), [fill(name, 44) for name in order])
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    for k in range(1, len(order)):
        ax.axhline(k - 0.5, color="0.93", lw=0.8, zorder=0)


def _look(name: str) -> tuple[str, str]:
    """Label and colour of a row, of the DDPM, or of real images."""
    if name == "real":
        return "training images", "0.5"
    return "DDPM, ten steps" if name == "ddpm" else label_of(name), COLOURS[name]
