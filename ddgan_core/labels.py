"""Names written beside the lines of a plot instead of in a legend: where there is room for them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

from ddgan_core.divergences import DIVERGENCES

SIZE = 9  # points


def label_of(row: str) -> str:
    """What a reader calls a row of the table; the name itself of one that is not registered here."""
    return DIVERGENCES[row].label if row in DIVERGENCES else row


def label_ends(ax: "Axes", ends: list[tuple[float, float, str, Any]]) -> None:
    """Write each (x, y, label, colour) at the end (x, y) of its line; an x of NaN is the right edge of the axes.

    What ends at the right edge is named outside of it, at its height or, where names would overlap, near it. What ends
    before is named beside its last point, at the first of a few heights where no line and no other name is.
    """
    ax.figure.canvas.draw_idle()
    ax.autoscale_view()
    to_axes = ax.transData + ax.transAxes.inverted()
    width, height = ax.get_window_extent().size / ax.figure.dpi * 72  # points
    gap = 1.4 * SIZE / height
    right = ax.get_xlim()[1]
    placed = [(*to_axes.transform((x if np.isfinite(x) else right, y)), x, y, la, c) for x, y, la, c in ends]
    placed.sort(key=lambda p: p[1])
    outside = [p for p in placed if p[0] > 0.9]
    texts = list(zip(_apart([p[1] for p in outside], gap), outside, strict=True))
    lines = [_in_axes(ax, line) for line in ax.lines if len(line.get_xdata()) > 1]
    taken = np.concatenate([*lines, *([p[:2]] for p in placed)])  # points where no name should be
    for p in placed:
        if p[0] > 0.9:
            continue
        left, length = p[0] + 0.015, 0.6 * SIZE * len(p[4]) / width
        heights = [p[1] + k * gap * 0.75 for k in (0, -1, 1, -2, 2, -3, 3)]
        crowd = [_inside(taken, left, left + length, at, gap) for at in heights]
        at = heights[int(np.argmin(crowd))]
        texts.append((at, p))
        below = at - gap / 2 * np.arange(8)  # what ends higher is named higher
        taken = np.concatenate([taken, *(_dense(np.array([[left, y], [left + length, y]])) for y in below)])
    for at, (across, _, x, y, label, colour) in texts:
        ax.annotate(
            label, xy=(1.0 if np.isnan(x) else x, y), xytext=(1.02 if across > 0.9 else across + 0.02, at),
            fontsize=SIZE, color=colour, va="center", annotation_clip=False, textcoords="axes fraction",
            xycoords=ax.get_yaxis_transform() if np.isnan(x) else "data",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.4, "shrinkA": 1, "shrinkB": 4},
        )  # fmt: skip


def _in_axes(ax: "Axes", line: "Line2D") -> np.ndarray:
    return _dense((line.get_transform() + ax.transAxes.inverted()).transform(np.column_stack(line.get_data())))


def _dense(corners: np.ndarray) -> np.ndarray:
    """Points along a polygonal line, two hundred to each of its segments."""
    steps = np.linspace(0, 1, 200)[:, None]
    return np.concatenate([a + (b - a) * steps for a, b in pairwise(corners)])


def _inside(points: np.ndarray, left: float, right: float, at: float, gap: float) -> int:
    """How many points lie in the box of a name."""
    x, y = points.T
    return int(((x > left) & (x < right) & (abs(y - at) < gap / 2)).sum())


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Sorted heights, neighbours pushing each other away until they are a gap apart."""
    apart = list(heights)
    for _ in range(100):
        for i, j in pairwise(range(len(apart))):
            if (overlap := gap - (apart[j] - apart[i])) > 1e-6:
                apart[i] -= overlap / 2
                apart[j] += overlap / 2
    return apart
