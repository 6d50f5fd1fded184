"""One look for all plots: the same colour for a row everywhere, curves of comparable numbers.

Figures made here are plain `matplotlib.figure.Figure`s: in a notebook, leave one as the last expression of a cell.
"""

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ddgan_core import UserError
from ddgan_core.data import DATASETS
from ddgan_core.divergences import DIVERGENCES
from ddgan_core.evaluation.scores import AXIS
from ddgan_core.figures.grids import DPI
from ddgan_core.figures.labels import label_ends, label_of, say, tag_label, with_room
from ddgan_core.metrics.intervals import geometric_mean
from ddgan_core.time_means import MAX_TIME_BINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# After Okabe and Ito (2008) and P. Tol: told apart with every common colour vision, all readable on white.
_LOOKS = {
    "ddpm": ("#333333", "D"),
    "non_saturating_js": ("#0072b2", "o"),
    "jensen_shannon": ("#56b4e9", "p"),
    "squared_hellinger": ("#d55e00", "s"),
    "reverse_kl": ("#009e73", "^"),
    "total_variation": ("#e69f00", "v"),
    "wasserstein": ("#cc79a7", "P"),
    "kl": ("#999933", "<"),
    "pearson": ("#882255", "X"),
}
_SPARE_LOOKS = (
    ("#332288", "h"), ("#117733", "*"), ("#aa4499", "8"), ("#661100", "d"), ("#44aa99", ">"), ("#6e8b00", "H"),
    ("#8c6bb1", "1"), ("#b15928", "2"),
)  # fmt: skip


class _Look(dict[str, str]):
    """Row name -> colour or marker; one that is registered later, or no more, gets a spare one, by its name."""

    def __init__(self, part: int) -> None:
        super().__init__({name: look[part] for name, look in _LOOKS.items()})
        self.part = part

    def __missing__(self, name: str) -> str:
        later = [row for row in DIVERGENCES if row not in _LOOKS]
        at = later.index(name) if name in later else zlib.crc32(name.encode())
        return self.setdefault(name, _SPARE_LOOKS[at % len(_SPARE_LOOKS)][self.part])


COLOURS, MARKERS = _Look(0), _Look(1)
DDPM_LOOKS: dict[str, tuple[str, Any]] = {  # a sampler's label, and its line
    "ancestral": ("ancestral", "-"), "ddim": ("DDIM", "--"),
    "dpm_solver": ("DPM-Solver++", (0, (6, 1.5, 1, 1.5, 1, 1.5))),
    "shortened": ("as published", ":"), "retimed": ("as published, retimed", "-."),
}  # fmt: skip


def sampler_label(name: str) -> str:
    """What a sampler of a DDPM is called in tables; a new one by its name."""
    return DDPM_LOOKS.get(name, (name,))[0]


FEATURE_NAMES = {
    "inception": "Inception features",
    "fashion_classifier": "FashionMNIST classifier features",
    "pixels": "pixels",
}
FEATURE_LABELS = {
    features: f"{'FID' if features == 'inception' else 'Fréchet distance'} ({name})"
    for features, name in FEATURE_NAMES.items()
}
NEAR = 4  # times the largest or smallest distance drawn: a bound farther off is named, and would only flatten the rest
COMPARABLE = ("dataset", "preset", *AXIS)


def use_style() -> None:
    """The look of every plot. Call it once, before the first figure of a notebook or script."""
    import matplotlib.pyplot as plt
    import seaborn

    seaborn.set_theme(context="notebook", style="ticks", palette=list(COLOURS.values())[1:])
    plt.rcParams.update({
        "figure.figsize": (7.2, 4.2), "figure.dpi": DPI, "figure.constrained_layout.use": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 12, "axes.titlelocation": "left",
        "axes.labelsize": 11, "xtick.labelsize": 10, "ytick.labelsize": 10, "legend.fontsize": 10,
        "legend.frameon": False, "axes.grid": True, "grid.color": "0.92", "lines.linewidth": 1.8, "lines.markersize": 7,
        "xtick.minor.pad": 5.5, "ytick.minor.pad": 5.5,  # so that numbers of both kinds of ticks stand in one line
        "image.cmap": "gray", "image.interpolation": "nearest", "font.family": "DejaVu Sans",
    })  # fmt: skip
    if plt.get_backend().lower().endswith("inline"):
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina", bbox_inches=None)  # cropping would move grids off whole pixels


def panels(n: int, height: float = 4.2) -> "tuple[Figure, list[Axes]]":
    """A figure and its n panels, one at least, two to a row: three beside each other are too small on a page."""
    import matplotlib.pyplot as plt

    n, columns = max(1, n), 1 if n < 2 else 2
    figure, axes = plt.subplots(
        -(-n // columns), columns, figsize=(7.5 * columns, height * -(-n // columns)), squeeze=False
    )
    for ax in axes.flat[n:]:
        ax.set_axis_off()
    return figure, list(axes.flat[:n])


def fid_curve(
    ax: "Axes",
    evaluations: pd.DataFrame,
    floor: float | None = None,
    ceiling: float | None = None,
    title: str = "",
) -> None:
    """`frechet` against the denoising steps, one line per row (DDPM: per sampler), labelled at its end.

    Several seeds are points about their geometric mean, with their range; a single one has its interval over draws of
    samples. Runs that broke down, by a column `broken` if there is one, are hollow and in no line. Chains cut short are
    dotted and end in the whole one. floor, ceiling: the distances of real images and of noise in the same features,
    lines where they are near the others', else named with their value. title: stands above the ruler. Baseline rows in
    `evaluations` are left out. Without rows the axes say so. Raises UserError when rows are not comparable: an axis has
    one dataset, preset, feature network, N and reference.
    """
    from matplotlib.lines import Line2D

    rows = evaluations[~evaluations["sampler"].isin(["real", "noise"])] if len(evaluations) else evaluations
    if not len(rows):
        say(ax, "not run yet")
        ax.set_axis_off()
        return
    for column in COMPARABLE:
        found = rows[column].drop_duplicates().tolist() if column in rows else []
        if len(found) > 1:
            raise UserError(f"{column} differs within one axis ({', '.join(map(str, found))}): select one of them")
    ends: list[tuple[float, float, str, str]] = []
    begins: dict[str, tuple[float, float]] = {}
    rows = rows.assign(broken=rows.get("broken", False))
    cut = rows[rows["sampler"] == "truncated"]
    # Chains cut short of several rows are named once, in a colour of none of them.
    of_all = sorted({label for _, label, _ in _line_of(cut)}) if cut["divergence"].nunique() > 1 else []
    for (name, label, ls), every in rows.groupby(_line_of(rows), sort=False):
        by_x = _draw_line(ax, every, (name, label, ls))
        is_cut, first = set(every["sampler"]) == {"truncated"}, every.iloc[0]
        if label not in of_all:
            ends.append((float(by_x.index[-1]), float(by_x["mean"].iloc[-1]), label, COLOURS[name]))
        own = rows[(rows["divergence"] == name) & (rows["sampler"] == "ddgan") & (rows["tag"] == first["tag"])]
        whole = own[(own["T"] == first["T"]) & (own["seed"] == first["seed"]) & ~own["broken"]] if is_cut else own[:0]
        if len(whole):
            last = [float(by_x.index[-1]), float(whole["steps"].iloc[0])]
            ax.plot(last, [by_x["mean"].iloc[-1], whole["frechet"].iloc[0]], color=COLOURS[name], ls=ls)
            if own["steps"].nunique() == 1:  # a point is named at the other end of this line
                begins[name] = (float(by_x.index[0]), float(by_x["mean"].iloc[0]))
    begins = {label_of(name): at for name, at in begins.items()}
    ends = [(*begins.get(label, (x_end, y_end)), label, colour) for x_end, y_end, label, colour in ends]
    low, high = rows["frechet"].min(), rows["frechet"].max()
    bounds = [(v, label) for v, label in ((floor, "real images"), (ceiling, "noise")) if v is not None]
    near = [(v, label) for v, label in bounds if low / NEAR < v < high * NEAR]
    for value, label in near:
        ax.axhline(value, color="0.6", lw=1, ls=":")
        ends.append((float("nan"), value, label, "0.45"))
    errors = rows.get("frechet_error", pd.Series(0.0, rows.index)).fillna(0)
    _scale_axes(ax, rows["steps"], [*(rows["frechet"] - errors), *(rows["frechet"] + errors), *(v for v, _ in near)])
    for value, label in set(bounds) - set(near):
        edge, arrow = (0, "↓") if value < low else (1, "↑")
        ends.append(
            (
                float("nan"),
                ax.get_ylim()[edge],
                f"{label} {value:,.0f} {arrow}" if value >= 10 else f"{label} {value:.2g} {arrow}",
                "0.45",
            )
        )
    first = rows.iloc[0]
    dataset = DATASETS[first["dataset"]].label if first["dataset"] in DATASETS else first["dataset"]
    ruler = FEATURE_LABELS.get(first["features"], first["features"])
    ax.set_xlabel("denoising steps (network evaluations)")
    ax.set_ylabel("FID, lower is better" if ruler.startswith("FID") else "distance, lower is better")
    which = f"{int(first['n']):,} samples, {int(first['reference_n']):,} {first['reference']} images"
    lines = (title, ruler, f"{dataset}, preset {first['preset']}: {which}")
    ax.set_title("\n".join(line for line in lines if line), fontsize=10)
    keys = [Line2D([], [], color="0.45", ls=":", label=said) for said in of_all]
    if rows["broken"].any():
        hollow = {"marker": "o", "ms": 6, "mfc": "white", "label": "broke down: in no mean"}
        keys.append(Line2D([], [], color="0.45", ls="", **hollow))
    if keys:
        ax.legend(handles=keys, loc="best")
    label_ends(ax, ends)


def _draw_line(ax: "Axes", every: pd.DataFrame, look: tuple[str, str, str]) -> pd.DataFrame:
    """One line of `fid_curve` with its points and bars. Returns mean, min, max and size by steps of the runs that the
    line joins or, where all broke down, of those."""
    name, label, ls = look
    line, fallen = every[~every["broken"]], every[every["broken"]]
    style: dict[str, Any] = {"color": COLOURS[name], "marker": MARKERS[name]}
    by_x = (line if len(line) else fallen).groupby("steps")["frechet"]
    by_x = by_x.agg(mean=geometric_mean, min="min", max="max", size="size")
    if len(line):
        ax.plot(by_x.index, by_x["mean"], label=label, ls=ls, ms=6, mec="white", mew=0.4, **style)
        if (by_x["size"] > 1).any():
            ax.vlines(by_x.index, by_x["min"], by_x["max"], color=COLOURS[name], lw=1)
            ax.plot(line["steps"], line["frechet"], ls="", marker=".", ms=3, color=COLOURS[name])
        if "frechet_error" in line:
            one = line[~line["steps"].duplicated(keep=False)]
            error = one["frechet_error"].fillna(0)
            ax.vlines(one["steps"], one["frechet"] - error, one["frechet"] + error, color=COLOURS[name], lw=1)
    if len(fallen):
        ax.plot(fallen["steps"], fallen["frechet"], ls="", ms=6, mfc="white", **style)
    return by_x


def _line_of(rows: pd.DataFrame) -> pd.Series:
    """(row name, label, line style) of the line each evaluation belongs to; dotted: the source paper's protocol."""

    def line(row: Any) -> tuple[str, str, str]:
        tag = "" if pd.isna(row.tag) or not row.tag else f", {tag_label(row.tag)}"
        if row.method == "ddpm":
            how, ls = DDPM_LOOKS.get(row.sampler, (row.sampler, "-"))
            return "ddpm", f"DDPM, {how}{tag}", ls
        cut = f"T = {int(row.T)} cut short" if row.sampler == "truncated" else ""  # its colour says whose
        return row.divergence, (cut or label_of(row.divergence)) + tag, ":" if cut else "-"

    return pd.Series([line(row) for row in rows.itertuples()], index=rows.index)


def _scale_axes(ax: "Axes", x: pd.Series, y: Sequence[float]) -> None:
    """Logarithmic where values span more than a factor of four (y) or twenty (x); ticks at the steps there are."""
    from matplotlib.ticker import NullFormatter

    if min(y) > 0 and max(y) / min(y) > 4:
        ax.set_yscale("log")
        ax.set_ylim(min(y) / 1.2, max(y) * 1.2)
        plain_numbers(ax.yaxis)
    if min(x) > 0 and max(x) / min(x) > 20:
        ax.set_xscale("log")
    values = sorted(set(x))
    if len(values) <= 12 and all(float(v).is_integer() for v in values):
        named = with_room(ax, values)
        ax.set_xticks(named, [f"{int(v):,}" for v in named])
        ax.set_xticks([v for v in values if v not in named], minor=True)
        ax.xaxis.set_minor_formatter(NullFormatter())


def plain_numbers(axis: Any) -> None:
    """Numbers as they are on a logarithmic axis, and between its powers of ten where these are few."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    low, high = sorted(axis.get_view_interval())
    shown = "25" if high / low > 10 else "2357" if high / low > 5 else "23456789"
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}" if v < 1e6 else f"{v:g}"))
    few = FuncFormatter(lambda v, _: f"{v:,g}" if f"{v:.0e}"[0] in shown else "")
    axis.set_minor_formatter(few if high / low < 300 else NullFormatter())


def history_plot(ax: "Axes", history: pd.DataFrame, columns: Sequence[str] | str, T: int | None = None) -> None:
    """Columns of a run's history against the updates; a column kept apart by t ("critic") is drawn for each range of t.

    T: the run's, to name the ranges where it has more than ten steps. Raises UserError for a column that is not there.
    """
    from matplotlib import colormaps

    columns = [columns] if isinstance(columns, str) else list(columns)
    if not len(history):
        say(ax, "not run yet")
        ax.set_axis_off()
        return
    for name, style in zip(columns, ("-", "--", ":", "-.") * len(columns), strict=False):
        if name not in history:
            raise UserError(f"history has no column {name!r}: it has {', '.join(history.columns)}")
        bins = sum(f"{name}_t{k}" in history for k in range(1, MAX_TIME_BINS + 1))
        prefix = f"{name}, " if len(columns) > 1 else ""
        for k in range(1, bins + 1):
            upper = k if T is None or bins == T else -(-k * T // bins)
            label = f"{prefix}t {'=' if T is None or bins == T else '≤'} {upper}"
            colour = colormaps["viridis"](0.8 * (k - 1) / max(bins - 1, 1))
            ax.plot(history["step"], history[f"{name}_t{k}"], ls=style, color=colour, lw=1.3, label=label)
        if not bins:
            ax.plot(history["step"], history[name], ls=style, label=name)
    ax.set_xlabel("updates")
    ax.set_ylabel(columns[0].replace("_", " ") if len(columns) == 1 else "mean since the record before")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
