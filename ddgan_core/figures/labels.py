"""Names written beside the lines of a plot instead of in a legend, where there is room; or why there are none."""

import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np

from ddgan_core.divergences import DIVERGENCES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_SIZE = 9  # points
EDGE = 0.13  # of the axes' width: what ends this near to an edge is named beyond it
GAP = 7.0  # points between the end of a line and its name
CRITICS = {"js": "JS", "sh": "squared Hellinger", "rkl": "reverse KL"}  # as tags call them
End = tuple[float, float, str, Any]  # x, y, label, colour


def label_of(row: str) -> str:
    """What a reader calls a row of the table; the name itself of one that is not registered here."""
    return DIVERGENCES[row].label if row in DIVERGENCES else row


def tag_label(tag: str) -> str:
    """A run's tag in words; in the study of budgets "x5" is a length of training, "b64" a size of batches."""
    endings = {"-wide-critic": "critic twice as wide", "-wide-critic4": "critic four times as wide"}
    endings |= {"-bf16": "bfloat16", "-slow": "its rate a quarter", "-shared": "shared fakes"}
    endings |= {"-late": "last steps oftener", "-steep": "last step by far oftenest", "-middle": "t = 3 oftenest"}
    endings |= {f"-{short}-critic": f"critic of {whose}" for short, whose in CRITICS.items()}
    for ending, words in endings.items():
        if tag.endswith(ending):
            return f"{tag_label(tag.removesuffix(ending))}, {words}"
    if weighed := re.fullmatch(r"(.+)-r1x([\d.]+)", tag):
        return f"{tag_label(weighed[1])}, R1 × {weighed[2]}"
    if swept := re.fullmatch(r"sweep-lr([\d.]+)-penalty([\d.]+)", tag):
        changed = [f"{what} × {by}" for what, by in zip(("rates", "penalty"), swept.groups(), strict=True) if by != "1"]
        return ", ".join(changed) or "usual settings"
    named = {"long": "longest run", "plain": "plain critic", "bf16": "bfloat16", "wide-critic": "critic twice as wide"}
    named |= {"slow-critic": "critic's rate a quarter"}
    words = {"x": "{} × updates", "b": "batches of {}"}
    return words[tag[0]].format(tag[1:]) if re.fullmatch(r"[xb][\d.]+", tag) else named.get(tag, tag)


def training_label(preset: str, tag: str) -> str:
    """How long a run is trained, as the README names it, and what else tells it from others of its preset."""
    length = {"cpu": "long"}.get(preset, preset)
    if named := {("cpu", "long"): "longest", ("short", "x2"): "twice as long"}.get((preset, tag)):
        return named
    if preset == "full" and (larger := re.fullmatch(r"b128-bf16-wide-critic4(-slow)?", tag)):
        return "larger networks" + (", critic's rate a quarter" if larger[1] else "")
    if preset == "cpu" and (larger := re.fullmatch(r"b64(-.+)?", tag)):  # twice the images
        return "longer" + tag_label(larger[1] or "")
    return f"{length}, {tag_label(tag)}" if tag else length


def say(ax: "Axes", text: str) -> None:
    """In the middle of axes that have nothing to show: why."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="0.5")


def text_width(text: str, size: float) -> float:
    """In points."""
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), text, size=size).get_extents().x1


def with_room(ax: "Axes", ticks: Sequence[float]) -> list[float]:
    """Of ticks along x those whose labels, whole numbers of 10 points, do not touch; the largest first."""
    ax.autoscale_view()
    shown, width, edge = [], _size(ax)[0], math.inf
    for v in sorted(ticks, reverse=True):
        at, half = _at(ax, v, ax.get_ylim()[0])[0] * width, text_width(f"{v:,.0f}", 10) / 2
        if at + half + 4 < edge:
            shown.append(v)
            edge = at - half
    return shown


def label_ends(ax: "Axes", ends: Sequence[End]) -> None:
    """Write each (x, y, label, colour) beside the end (x, y) of its line; an x of NaN is the right edge of the axes.

    A line without an end, whose y is NaN, is not named.
    What ends at the right edge is named outside of it, and what ends where the data begin to the left of them, for
    which the axis is made longer: at their heights or, where names would overlap, near them. What ends between is named
    at the first of a few places beside it where no line and no other name is.
    """
    ends = [e for e in ends if math.isfinite(e[1])]
    ax.autoscale_view()
    first, last = _span(ax)
    left = [e for e in ends if first < last and _at(ax, *e[:2])[0] < _at(ax, first, e[1])[0] + EDGE]
    right = [e for e in ends if e not in left and _at(ax, *e[:2])[0] > 1 - EDGE]
    _beside(ax, right, "left", lambda _: 1.02)
    ax.figure.draw_without_rendering()  # what is named outside leaves less room inside
    width, height = _size(ax)
    if left:
        _make_room(ax, first, (max(text_width(e[2], LABEL_SIZE) for e in left) + 2 * GAP) / width)
    _beside(ax, left, "right", lambda _: _at(ax, first, 1.0)[0] - GAP / width)
    middle, apart = [e for e in ends if e not in left + right], 1.4 * LABEL_SIZE / height
    if not middle:
        return
    taken, lower = _taken(ax, left, first, width, apart), {}
    for end in sorted(middle, key=lambda e: _height(ax, e)):
        x, y = _at(ax, *end[:2])
        long, near = text_width(end[2], LABEL_SIZE) / width, GAP / width
        best = (np.inf, 0.0, 0.0, "left")
        for side, k in product(("left", "right"), (0, -1, 1, -2, 2, -3, 3, -4, 4, -5, 5)):
            begin, at = (x + near if side == "left" else x - near - long), y + 0.7 * k * apart
            crowd = _inside(taken, begin - near / 2, begin + long + near / 2, at, apart)
            beyond = max(0.0, begin + long - 1, -begin, at + apart / 2 - 1, apart / 2 - at)
            crossed = at < lower.get((end[0], side), -np.inf)  # of what ends at one x, the higher is named higher
            cost = 2 * crowd + 3 * abs(k) + (2 if side == "right" else 0) + 5000 * beyond + 1000 * crossed
            best = min(best, (cost, begin, at, side))
        _, begin, at, side = best
        lower[end[0], side] = at
        _write(ax, end, (begin if side == "left" else begin + long, at), side)
        taken = np.concatenate([taken, _box(begin, begin + long, at, apart)])


def _size(ax: "Axes") -> tuple[float, float]:
    """Width and height in points, the width a sixth less: other axes of the figure may yet get names outside."""
    width, height = ax.get_window_extent().size / ax.figure.dpi * 72
    return width / 1.2, height


def _beside(ax: "Axes", ends: Sequence[End], side: str, across: Callable[[End], float]) -> None:
    """Names in one column, each at the height of its line or as near as the others leave room."""
    ends = sorted(ends, key=lambda e: _height(ax, e))
    heights = _apart([_height(ax, e) for e in ends], 1.4 * LABEL_SIZE / _size(ax)[1])
    for at, end in zip(heights, ends, strict=True):
        _write(ax, end, (across(end), at), side)


def _span(ax: "Axes") -> tuple[float, float]:
    """The smallest and the largest x of what is drawn, lines across all of the axes left out."""
    xs = [np.asarray(line.get_xdata(), float) for line in ax.lines if line.get_transform() == ax.transData]
    x = np.concatenate([*xs, [np.nan]])
    return (np.nanmin(x), np.nanmax(x)) if np.isfinite(x).any() else (np.nan, np.nan)


def _make_room(ax: "Axes", first: float, share: float) -> None:
    """Move the left limit until `first` stands at `share` of the axes' width."""
    forth, back = ax.xaxis.get_transform(), ax.xaxis.get_transform().inverted()
    begin, end = forth.transform([first, ax.get_xlim()[1]])
    ax.set_xlim(left=float(back.transform([begin - (end - begin) * share / (1 - share)])[0]))


def _at(ax: "Axes", x: float, y: float) -> tuple[float, float]:
    """A point of the data in shares of the axes."""
    across, up = (ax.transData + ax.transAxes.inverted()).transform((ax.get_xlim()[1] if np.isnan(x) else x, y))
    return float(across), float(up)


def _height(ax: "Axes", end: End) -> float:
    return min(max(_at(ax, *end[:2])[1], 0.0), 1.0)


def _write(ax: "Axes", end: End, at: tuple[float, float], side: str) -> None:
    """A name, its `side` at this place of the axes, tied to the end of its line."""
    x, y, label, colour = end
    ax.annotate(
        label, xy=(1.0 if np.isnan(x) else x, y), xytext=at, fontsize=LABEL_SIZE, color=colour, ha=side, va="center",
        annotation_clip=False, textcoords="axes fraction", bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.6},
        xycoords=ax.get_yaxis_transform() if np.isnan(x) else "data",
        arrowprops={
            "arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.5, "shrinkA": 1, "shrinkB": 4,
            "relpos": (0 if side == "left" else 1, 0.5),
        },
    )  # fmt: skip


def _taken(ax: "Axes", named: Sequence[End], first: float, width: float, apart: float) -> np.ndarray:
    """Points where no name should be: along lines and error bars, on markers, on names that are there."""
    to_axes = ax.transAxes.inverted()
    corners = [(line.get_transform() + to_axes).transform(np.column_stack(line.get_data())) for line in ax.lines]
    for bars in ax.collections:
        if hasattr(bars, "get_segments"):
            corners += [(bars.get_transform() + to_axes).transform(part) for part in bars.get_segments() if len(part)]
    points = [_dense(c) if len(c) > 1 else c for c in corners]
    points += [np.repeat(c[np.isfinite(c).all(1)], 20, axis=0) for c in corners]  # what stands at them counts more
    for end in named:
        x, y = _at(ax, first, end[1])
        points.append(_box(x - (text_width(end[2], LABEL_SIZE) + GAP) / width, x, y, apart))
    return np.concatenate([p for p in points if len(p)] or [np.empty((0, 2))])


def _dense(corners: np.ndarray) -> np.ndarray:
    """Points along a polygonal line, some hundred to the width of the axes."""
    parts = [a + (b - a) * np.linspace(0, 1, max(2, int(100 * np.hypot(*(b - a))) + 1))[:, None]
             for a, b in pairwise(corners[np.isfinite(corners).all(1)])]  # fmt: skip
    return np.concatenate(parts or [corners])


def _box(left: float, right: float, at: float, height: float) -> np.ndarray:
    """Points all over a name, so many that no other is written there."""
    x, y = np.meshgrid(np.linspace(left, right, 40), at + height * np.linspace(-0.4, 0.4, 7))
    return np.column_stack([x.ravel(), y.ravel()])


def _inside(points: np.ndarray, left: float, right: float, at: float, gap: float) -> int:
    """How many points lie in the box of a name."""
    x, y = points.T
    return int(((x > left) & (x < right) & (abs(y - at) < 0.45 * gap)).sum())


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Sorted heights, neighbours pushing each other away until they are a gap apart."""
    apart = list(heights)
    for _ in range(100):
        for i, j in pairwise(range(len(apart))):
            if (overlap := gap - (apart[j] - apart[i])) > 1e-6:
                apart[i] -= overlap / 2
                apart[j] += overlap / 2
    return apart
