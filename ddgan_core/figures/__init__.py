"""One look for all plots: `plots` of distances and histories, `curves` of trainings, `comparisons` of rows, `grids` of
images; `labels` beside their lines, `files` that do not change.
"""

from ddgan_core.figures.files import save
from ddgan_core.figures.plots import (
    COLOURS,
    FEATURE_LABELS,
    MARKERS,
    fid_curve,
    history_plot,
    panels,
    plain_numbers,
    use_style,
)

__all__ = [
    "COLOURS",
    "FEATURE_LABELS",
    "MARKERS",
    "fid_curve",
    "history_plot",
    "panels",
    "plain_numbers",
    "save",
    "use_style",
]
