"""What a training and its samples look like: one figure each, for any run or set of runs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ddgan_core.divergences import get_divergence
from ddgan_core.evaluation.textures import FINE
from ddgan_core.figures.labels import label_ends, label_of
from ddgan_core.figures.plots import COLOURS, FEATURE_LABELS, MARKERS, plain_numbers
from ddgan_core.penalties import gradient_penalty, r1_r2_penalty
from ddgan_core.runs import Run, RunConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMOOTHED = 20  # of a history's records are behind each point of a heavy line, or a tenth of a shorter history
LATE = 0.1  # of a training: what "at its end" means
PLAYERS = (("gradient_critic", "critic", "-"), ("gradient_generator", "generator", "--"))


def training_figure(history: pd.DataFrame, config: RunConfig) -> "Figure":
    """Four views of a DDGAN's training: bound and logits by t, both players' gradients, the slope of the critic.

    bound: minus the critic's loss, penalty left out. logits: mean over real images less that over fake ones, or
    of both where the first is the bound itself.
    slope: root mean square of |grad D| at real images, from R1; of | |grad f| - 1 |, from a gradient penalty.
    Gradients are norms over the whole batch, all t together. Thin lines are the records, heavy ones their running
    medians. What a history does not hold is said to be not recorded.
    """
    import matplotlib.pyplot as plt

    row = get_divergence(config.divergence)
    figure, axes = plt.subplots(2, 2, figsize=(11, 6.8))
    (bound, logits), (gradients, slope) = axes
    _by_t(bound, history, "critic", config.T, lambda v, _: -v)
    bound.set(title="Bound on the divergence, minus the critic's loss", ylabel="0: cannot tell real from fake")
    if row.penalty is gradient_penalty:  # a constant added to such a critic changes nothing, and the gap is the bound
        _by_t(logits, history, "logit_real", config.T, lambda v, k: (v + history[f"logit_fake_t{k}"]) / 2)
        logits.set(title="Mean logit of all images: its level is free", ylabel="any level is as good")
    else:  # not each by itself: in some rows they drift together until nothing else can be seen
        _by_t(logits, history, "logit_real", config.T, lambda v, k: v - history[f"logit_fake_t{k}"])
        logits.set(title="Mean logit of real images less that of fake ones", ylabel="0: no difference")
    for ax in (bound, logits):
        ax.axhline(0, color="0.6", lw=0.8, zorder=0)
    colour = COLOURS[config.divergence]
    ends = []
    for column, label, style in PLAYERS:
        if column in history:
            _record(gradients, history["step"], history[column], colour, style)
            ends.append((float(history["step"].iloc[-1]), float(_smooth(history[column]).iloc[-1]), label, colour))
    if ends:
        gradients.set_yscale("log")
    _finish(gradients, ends, bool(len(history)))
    gradients.set(title="Norm of the whole batch's gradient")
    scale, name = _slope_of(row)
    penalised = history.dropna(subset=["penalty"]) if "penalty" in history else history
    _by_t(slope, penalised, "penalty", config.T, scale)
    slope.set(title=name)
    return figure


def critics_figure(runs: Sequence[Run]) -> "Figure":
    """The bound of each run's critic over training in the first range of t: how well it told real x_0 from fake."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 3.6))
    ends = []
    for run in (r for r in runs if "critic_t1" in r.history):
        steps, bound, colour = run.history["step"], -run.history["critic_t1"], COLOURS[run.config.divergence]
        seen = run.config.critic_detail
        _record(ax, steps, bound, colour, "-" if seen else "--")
        label = f"{label_of(run.config.divergence)}, {'shown fine detail' if seen else 'plain'}"
        ends.append((float(steps.iloc[-1]), float(_smooth(bound).iloc[-1]), label, colour))
    _finish(ax, ends, bool(runs))
    if ends:
        ax.axhline(0, color="0.6", lw=0.8, zorder=0)
        ax.set(ylabel="bound at t = 1", title="Minus the critic's loss; 0: cannot tell real from fake")
    return figure


def _slope_of(row: Any) -> tuple[Callable[[pd.Series, int], pd.Series], str]:
    """From a row's penalty to a slope: the map, and what it is."""
    if row.penalty is gradient_penalty:
        return lambda v, _: v**0.5, "Slope of the critic: rms distance from 1, real to fake"
    if row.penalty is r1_r2_penalty:
        return lambda v, _: v**0.5, "Slope of the critic: rms, real and fake images"
    return lambda v, _: (2 * v) ** 0.5, "Slope of the critic: rms at real images"  # R1 has a half


def _by_t(
    ax: "Axes", history: pd.DataFrame, column: str, T: int,
    change: Callable[[pd.Series, int], pd.Series] = lambda v, _: v,
) -> None:  # fmt: skip
    """A column of a history for each range of t, named at its end."""
    from matplotlib import colormaps

    bins, ends = min(T, 10), []
    for k in (k for k in range(1, bins + 1) if f"{column}_t{k}" in history):
        values = change(history[f"{column}_t{k}"], k)
        colour = colormaps["viridis"](0.8 * (k - 1) / max(bins - 1, 1))
        _record(ax, history["step"], values, colour, "-")
        at = (float(history["step"].iloc[-1]), float(_smooth(values).iloc[-1]))
        ends.append((*at, f"t = {k}" if bins == T else f"t ≤ {-(-k * T // bins)}", colour))
    _finish(ax, ends, bool(len(history)))


def _record(ax: "Axes", steps: pd.Series, values: pd.Series, colour: Any, style: str) -> None:
    ax.plot(steps, values, color=colour, lw=0.6, alpha=0.25)
    ax.plot(steps, _smooth(values), color=colour, ls=style, lw=1.6)
    ax.set_xlabel("updates")


def _smooth(values: pd.Series) -> pd.Series:
    return values.rolling(max(1, min(SMOOTHED, len(values) // 10)), center=True, min_periods=1).median()


def _finish(ax: "Axes", ends: list[tuple[float, float, str, Any]], run: bool) -> None:
    """The names of the lines, or why there are none; the heights are those of heavy lines and bars, not of records."""
    if not ends:
        said = "not recorded when this run was made" if run else "not run yet"
        ax.text(0.5, 0.5, said, transform=ax.transAxes, ha="center", va="center", color="0.5")
        ax.set(xticks=[], yticks=[])
        return
    heavy = [np.asarray(line.get_ydata(), float) for line in ax.lines if line.get_linewidth() > 1]
    heavy += [
        part[:, 1]
        for bars in ax.collections
        if hasattr(bars, "get_segments")
        for part in bars.get_segments()
        if len(part)
    ]
    later = (every := np.concatenate(heavy))[np.isfinite(every)]
    if len(later):
        low, high, gap = later.min(), later.max(), 0.08 * (later.max() - later.min() or 1)
        ax.set_ylim(*((low / 1.15, high * 1.15) if ax.get_yscale() == "log" else (low - gap, high + gap)))
    if ax.get_yscale() == "log":
        plain_numbers(ax.yaxis)
    if ax.get_xscale() == "linear":
        ax.locator_params(axis="x", nbins=6)
        ax.xaxis.set_major_formatter("{x:,.0f}")
    label_ends(ax, ends)


def training_table(runs: Sequence[Run]) -> pd.DataFrame:
    """How hard each DDGAN was to train, a line per run, for rows to be set side by side.

    bound: overall and at t = 1, mean over the last tenth. critic, generator: median norm of the gradient after the
    first tenth. worst: the largest record of that norm over its median; a record is a mean over many updates, so that
    single spikes are flattened. largest logit: mean over updates of a batch's largest, last tenth; NaN: not recorded.
    """
    lines = {}
    for run in runs:
        history = run.history
        if run.config.method != "ddgan" or not len(history):
            continue
        tenth = max(1, int(len(history) * LATE))
        late, begun = history.tail(tenth).mean(), history.iloc[tenth:] if len(history) > tenth else history
        line = {"updates": int(history["step"].iloc[-1])}
        line |= {"bound": -late.get("critic", math.nan), "bound, t = 1": -late.get("critic_t1", math.nan)}
        for column, player, _ in PLAYERS:
            sizes = begun.get(column, pd.Series(dtype=float))
            line |= {player: sizes.median(), f"{player}, worst": sizes.max() / sizes.median()}
        line["largest logit"] = late.get("logit_largest", math.nan)
        lines[run.config.run_id] = line
    return pd.DataFrame(lines).T.rename_axis("run")


def textures_figure(textures: pd.DataFrame, classes: Sequence[str]) -> "Figure":
    """Median stripe power of piles over that of test images: by period and direction, and, fine ones, by class.

    textures: a table of `anatomy.measure`. classes: in the order to be drawn. Bands and bars are 95 % intervals over
    draws of images; grey is what other real images, the training split's, make of it.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.4), width_ratios=(1, 1, 1.2))
    if not len(textures):
        for ax in axes:
            _finish(ax, [], False)
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
        ax.set(xlabel="pixels per cycle", title=f"{direction.capitalize()} stripes", yscale="log")
        ax.set_ylim(spectra["low"].min() / 1.1, spectra["high"].max() * 1.1)
        plain_numbers(ax.yaxis)
        label_ends(ax, ends)
    axes[0].set_ylabel("median power over that of test images")
    by_class = textures[(textures["stripes"] == "horizontal") & (textures["period"] == 0)]
    shown = [k for k in classes if k in set(by_class["classes"])]
    _dots(axes[2], by_class[by_class["classes"].isin(shown)], "classes", shown, "ratio")
    axes[2].set(xscale="log", title=f"Horizontal, {FINE:g} pixels or less, by class", xlabel=axes[0].get_ylabel())
    axes[2].axvline(1, color="0.6", lw=0.8, zorder=0)
    plain_numbers(axes[2].xaxis)
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
            _finish(ax, [], False)
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


def trilemma_figure(scored: pd.DataFrame, seconds: Mapping[tuple[str, int], float]) -> "Figure":
    """Quality and coverage of every model against the time it takes: the trilemma of Xiao et al. 2021, figure 1.

    scored: evaluations that share one axis. seconds: {(sampler, steps): seconds for 1,000 images}, as `bench sampling`
    has measured them in turns on one machine; what has no time there is left out. Bars are 95 % intervals over draws.
    A row's points are joined in the order of their steps, which stand above at the mean of their times.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12.5, 5))
    own = [seconds.get((r.sampler, int(r.steps)), np.nan) for r in scored.itertuples()]
    timed = scored.assign(seconds=own).dropna(subset=["seconds"])
    for ax, score in zip(axes, ("frechet", "recall"), strict=True):
        ends = []
        for (name, sampler), line in timed.dropna(subset=[score]).groupby(["divergence", "sampler"], sort=False):
            ddpm, line = line["method"].iloc[0] == "ddpm", line.sort_values("steps")
            look, dashed = "ddpm" if ddpm else str(name), "--" if sampler == "ddim" else "-"
            error = line.get(f"{score}_error", pd.Series(np.nan, line.index))
            ax.plot(line["seconds"], line[score], dashed, marker=MARKERS[look], color=COLOURS[look], lw=1.2)
            ax.vlines(line["seconds"], line[score] - error, line[score] + error, color=COLOURS[look], lw=1)
            label = f"DDPM, {'DDIM' if sampler == 'ddim' else sampler}" if ddpm else label_of(str(name))
            ends.append((line["seconds"].iloc[-1], line[score].iloc[-1], label, COLOURS[look]))
        if ends:
            ax.set(xscale="log", xlabel="seconds for 1,000 images")
            plain_numbers(ax.xaxis)
            at = timed.groupby("steps")["seconds"].mean()
            top = ax.secondary_xaxis("top")
            top.set_xticks(at, [f"{int(k):,}" for k in at.index], color="0.45")
            top.minorticks_off()
            top.set_xlabel("steps", color="0.45", fontsize=10)
            top.spines["top"].set_visible(False)
        ax.set_yscale("log" if ends and score == "frechet" else "linear")
        _finish(ax, ends, bool(ends))
    ruler = f"{FEATURE_LABELS[timed['features'].iloc[0]]}\nN = {timed['n'].iloc[0]:,}" if len(timed) else "distance"
    axes[0].set(ylabel=f"{ruler}: lower is better", title="Quality")
    axes[1].set(ylabel="recall: higher is better", title="Coverage")
    return figure


def _dots(ax: "Axes", table: pd.DataFrame, by: str, order: Sequence[str], value: str, only: str | None = None) -> None:
    """A line of the plot for each of `order`, from the top; in it a dot with its interval for each row.

    only: the row that the plot is about; others than it and real images are small marks on one height.
    """
    names = list(dict.fromkeys(table["row"]))
    fore = [name for name in names if only in (None, name) or name == "real"]
    for name in names:
        label, colour = _look(name)
        points = table[table["row"] == name].set_index(by).reindex(order)
        marker = MARKERS[name] if name != "real" else "|"
        if name not in fore:
            y = np.arange(len(order)) + 0.3
            ax.plot(points[value], y, ls="", marker=marker, color=colour, ms=4.5, alpha=0.5, label=label)
            continue
        room = 0.8 if only is None else 0.5
        y = np.arange(len(order)) + (fore.index(name) - (len(fore) - 1) / 2) * room / len(fore) - (0.8 - room) / 2
        ax.hlines(y, points["low"], points["high"], color=colour, lw=1.2 if only is None else 2)
        ax.plot(points[value], y, ls="", marker=marker, color=colour, ms=5 if only is None else 7, label=label)
    ax.set_yticks(range(len(order)), order)
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    for k in range(1, len(order)):
        ax.axhline(k - 0.5, color="0.93", lw=0.8, zorder=0)


def _look(name: str) -> tuple[str, str]:
    """Label and colour of a row, of the DDPM, or of real images."""
    if name == "real":
        return "training images", "0.5"
    return "DDPM, ten steps" if name == "ddpm" else label_of(name), COLOURS[name]
