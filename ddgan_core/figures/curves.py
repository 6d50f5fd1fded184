"""What a training looks like: figures and a table, for any run or set of runs."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ddgan_core.divergences import get_divergence
from ddgan_core.figures.labels import label_ends, label_of, say
from ddgan_core.figures.plots import COLOURS, plain_numbers
from ddgan_core.penalties import gradient_penalty, r1_r2_penalty
from ddgan_core.runs import Run, RunConfig
from ddgan_core.time_means import MAX_TIME_BINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas.api.typing import Rolling

SMOOTHED = 20  # of a history's records are behind each point of a line and its band, or a tenth of a shorter history
LATE = 0.1  # of a training: what "at its end" means
PLAYERS = (("gradient_critic", "critic", "-"), ("gradient_generator", "generator", "--"))


def training_figure(history: pd.DataFrame, config: RunConfig) -> "Figure":
    """Four views of a DDGAN's training: bound and logits by t, both players' gradients, the slope of the critic.

    bound: minus the critic's loss, penalty left out. logits: mean over real images less that over fake ones, or
    of both where the first is the bound itself.
    slope: root mean square of |grad D| at real images, from R1; of | |grad f| - 1 |, from a gradient penalty.
    Gradients are norms over the whole batch, all t together. Lines are running medians of the records, bands
    hold eight in ten of them; of a level that is free, which swings from record to record, all t alike, lines are the
    records. What a history does not hold is said to be not recorded.
    """
    import matplotlib.pyplot as plt

    row = get_divergence(config.divergence)
    figure, axes = plt.subplots(2, 2, figsize=(11, 6.8))
    (bound, logits), (gradients, slope) = axes
    _by_t(bound, history, "critic", config.T, lambda v, _: -v)
    bound.set(title="Bound on the divergence, minus the critic's loss", ylabel="0: cannot tell real from fake")
    if row.penalty is gradient_penalty:  # a constant added to such a critic changes nothing, and the gap is the bound
        _by_t(logits, history, "logit_real", config.T, lambda v, k: (v + history[f"logit_fake_t{k}"]) / 2, each=True)
        logits.set(title="Mean logit of all images, each record", ylabel="any level is as good")
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
    finish(gradients, ends, bool(len(history)))
    gradients.set(title="Norm of the whole batch's gradient")
    scale, name = _slope_of(row)
    penalised = history.dropna(subset=["penalty"]) if "penalty" in history else history
    _by_t(slope, penalised, "penalty", config.T, scale)
    slope.set(title=name)
    if len(history):
        said = "lines: running medians of the records; bands: eight in ten of them, cut off at the panel's edge"
        figure.supxlabel(said, size=10, color="0.45")
    return figure


def bound_figure(runs: Sequence[Run]) -> "Figure":
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
    finish(ax, ends, bool(runs))
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
    change: Callable[[pd.Series, int], pd.Series] = lambda v, _: v, *, each: bool = False,
) -> None:  # fmt: skip
    """A column of a history for each range of t, named at its end; each: its records instead of what they tend to."""
    from matplotlib import colormaps

    bins, ends = min(T, MAX_TIME_BINS), []
    for k in (k for k in range(1, bins + 1) if f"{column}_t{k}" in history):
        values = change(history[f"{column}_t{k}"], k)
        colour = colormaps["viridis"](0.8 * (k - 1) / max(bins - 1, 1))
        if each:
            ax.plot(history["step"], values, color=colour, lw=1.2)
            ax.set_xlabel("updates")
        else:
            _record(ax, history["step"], values, colour, "-")
        at = (float(history["step"].iloc[-1]), float((values if each else _smooth(values)).iloc[-1]))
        ends.append((*at, f"t = {k}" if bins == T else f"t ≤ {-(-k * T // bins)}", colour))
    finish(ax, ends, bool(len(history)))


def _record(ax: "Axes", steps: pd.Series, values: pd.Series, colour: Any, style: str) -> None:
    low, high = _window(values).quantile(0.1), _window(values).quantile(0.9)
    ax.fill_between(steps, low, high, color=colour, alpha=0.13, lw=0)
    ax.plot(steps, _smooth(values), color=colour, ls=style, lw=1.6)
    ax.set_xlabel("updates")


def _window(values: pd.Series) -> "Rolling":
    return values.rolling(max(1, min(SMOOTHED, len(values) // 10)), center=True, min_periods=1)


def _smooth(values: pd.Series) -> pd.Series:
    return _window(values).median()


def finish(ax: "Axes", ends: list[tuple[float, float, str, Any]], run: bool) -> None:
    """The names of the lines, or why there are none; the heights are those of heavy lines and bars, not of bands."""
    if not ends:
        say(ax, "not recorded when this run was made" if run else "not run yet")
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
