"""One look for all plots: the same colour for a row everywhere, pixels shown as they are, files that do not change.

Figures made here are plain `matplotlib.figure.Figure`s: in a notebook, leave one as the last expression of a cell.
"""

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ddgan_core import UserError
from ddgan_core.data import DATASETS, to_uint8
from ddgan_core.divergences import DIVERGENCES
from ddgan_core.labels import label_ends, label_of
from ddgan_core.runs import write_atomic
from ddgan_core.scores import AXIS

if TYPE_CHECKING:  # training and sampling import this module for its PNG grids alone
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
    ("#332288", "h"), ("#117733", "*"), ("#aa4499", "8"), ("#661100", ">"), ("#88ccee", "d"), ("#6e8b00", "H"),
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
_DDPM_LOOKS = {"ddim": ("DDIM", "--"), "shortened": ("as published", ":"), "retimed": ("at its own times", "-.")}

FEATURE_LABELS = {
    "inception": "FID (Inception features)",
    "fashion_classifier": "Fréchet distance (FashionMNIST classifier features)",
    "pixels": "Fréchet distance (pixels)",
}
COMPARABLE = ("dataset", "preset", *AXIS)

GRID_WIDTH, IMAGE_HEIGHT = 700, 112  # pixels: grids are scaled by the largest whole number that stays within both
DPI = 100


def use_style() -> None:
    """The look of every plot. Call it once, before the first figure of a notebook or script."""
    import matplotlib.pyplot as plt
    import seaborn

    seaborn.set_theme(context="notebook", style="ticks", palette=list(COLOURS.values())[1:])
    plt.rcParams.update({
        "figure.figsize": (7.2, 4.2), "figure.dpi": DPI, "figure.constrained_layout.use": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 12, "axes.titlelocation": "left",
        "axes.labelsize": 11, "xtick.labelsize": 10, "ytick.labelsize": 10, "legend.fontsize": 10,
        "legend.frameon": False, "axes.grid": True, "grid.color": "0.92", "lines.linewidth": 1.8, "lines.markersize": 6,
        "image.cmap": "gray", "image.interpolation": "nearest", "font.family": "DejaVu Sans",
    })  # fmt: skip
    if plt.get_backend().lower().endswith("inline"):
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina", bbox_inches=None)  # cropping would move grids off whole pixels


def fid_curve(
    ax: "Axes",
    evaluations: pd.DataFrame,
    x: str = "steps",
    floor: float | None = None,
    ceiling: float | None = None,
) -> None:
    """`frechet` against `x`, one line per row (DDPM: per sampler), labelled at its end.

    Several seeds are points about their mean, with their range; a single one has its interval over draws of samples.
    floor, ceiling: the distances of real images and of noise in the same features, drawn where given. Baseline rows in
    `evaluations` are left out. Without rows the axes say so. Raises UserError when rows are not comparable: an axis
    has one dataset, preset, feature network, N and reference.
    """
    rows = evaluations[~evaluations["sampler"].isin(["real", "noise"])] if len(evaluations) else evaluations
    if not len(rows):
        ax.text(0.5, 0.5, "not run yet", transform=ax.transAxes, ha="center", va="center", color="0.5")
        ax.set_axis_off()
        return
    for column in COMPARABLE:
        found = rows[column].drop_duplicates().tolist() if column in rows else []
        if len(found) > 1:
            raise UserError(f"{column} differs within one axis ({', '.join(map(str, found))}): select one of them")
    ends = []
    for (name, label, ls), line in rows.groupby(_line_of(rows), sort=False):
        by_x = line.groupby(x)["frechet"].agg(["mean", "min", "max", "size"]).sort_index()
        style: dict[str, Any] = {"color": COLOURS[name], "marker": MARKERS[name], "ls": ls}
        ax.plot(by_x.index, by_x["mean"], label=label, markeredgecolor="white", markeredgewidth=0.6, **style)
        if (by_x["size"] > 1).any():
            ax.vlines(by_x.index, by_x["min"], by_x["max"], color=COLOURS[name], lw=1)
            ax.plot(line[x], line["frechet"], ls="", marker=".", ms=3, color=COLOURS[name])
        if "frechet_error" in line:
            one = line[~line[x].duplicated(keep=False)]
            error = one["frechet_error"].fillna(0)
            ax.vlines(one[x], one["frechet"] - error, one["frechet"] + error, color=COLOURS[name], lw=1)
        if label not in [end[2] for end in ends]:  # chains cut short have one name: the first of them is named
            ends.append((float(by_x.index[-1]), float(by_x["mean"].iloc[-1]), label, COLOURS[name]))
    for value, label in ((floor, "real images"), (ceiling, "noise")):
        if value is not None:
            ax.axhline(value, color="0.6", lw=1, ls=":")
            ends.append((float("nan"), value, label, "0.45"))
    _scale_axes(ax, rows[x], [*rows["frechet"], *(v for v in (floor, ceiling) if v is not None)])
    first = rows.iloc[0]
    dataset = DATASETS[first["dataset"]].label if first["dataset"] in DATASETS else first["dataset"]
    ax.set_xlabel({"steps": "denoising steps (network evaluations)", "T": "T"}.get(x, x.replace("_", " ")))
    ax.set_ylabel(
        f"{FEATURE_LABELS.get(first['features'], first['features'])}\n"
        f"{int(first['n']):,} samples, {int(first['reference_n']):,} {first['reference']} images", fontsize=10,
    )  # fmt: skip
    ax.set_title(f"{dataset}, preset {first['preset']}")
    label_ends(ax, ends)


def _line_of(rows: pd.DataFrame) -> pd.Series:
    """(row name, label, line style) of the line each evaluation belongs to; dotted: the source paper's protocol."""

    def line(row: Any) -> tuple[str, str, str]:
        tag = "" if pd.isna(row.tag) or not row.tag else f", {row.tag}"
        if row.method == "ddpm":
            how, ls = _DDPM_LOOKS.get(row.sampler, (row.sampler, "-"))
            return "ddpm", f"DDPM, {how}{tag}", ls
        cut = f"T = {int(row.T)} cut short" if row.sampler == "truncated" else ""  # its colour says whose
        return row.divergence, (cut or label_of(row.divergence)) + tag, ":" if cut else "-"

    return pd.Series([line(row) for row in rows.itertuples()], index=rows.index)


def _scale_axes(ax: "Axes", x: pd.Series, y: Sequence[float]) -> None:
    """Logarithmic where values span more than a factor of eight (y) or twenty (x); ticks at the steps there are."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    if min(y) > 0 and max(y) / min(y) > 8:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: f"{v:g}" if f"{v:.0e}"[0] in "25" else ""))
    if min(x) > 0 and max(x) / min(x) > 20:
        ax.set_xscale("log")
    values = sorted(set(x))
    if len(values) <= 12 and all(float(v).is_integer() for v in values):
        if ax.get_xscale() == "log":  # no label closer to the one before than it is wide
            values = [v for i, v in enumerate(values) if i == 0 or v / values[i - 1] > 1.2]
        ax.set_xticks(values, [f"{int(v):,}" for v in values])
        ax.xaxis.set_minor_locator(NullLocator())


def tile(images: Any, columns: int = 10) -> np.ndarray:
    """uint8 images [n, c, h, w] (c = 1 or 3) side by side, without gaps: uint8 [rows * h, columns * w, c].

    Places left in the last row are white. Gaps would lay a grid over the images, the very pattern one looks for.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise UserError(
            f"images of type {images.dtype} and shape {images.shape}: give uint8 [n, 1 or 3, h, w] (data.to_uint8)"
        )
    columns = min(columns, len(images))
    n, c, h, w = images.shape
    rows = -(-n // columns)
    full = np.full((rows * columns, c, h, w), 255, np.uint8)
    full[:n] = images
    return full.reshape(rows, columns, c, h, w).transpose(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c)


def png_grid(images: Any, columns: int = 10, scale: int = 2) -> bytes:
    """Images [n, c, h, w] uint8 as one PNG, every pixel `scale` x `scale`, nothing around it."""
    from PIL import Image

    pixels = tile(images, columns).repeat(scale, 0).repeat(scale, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_png_grid(images: Any, path: Path | str, columns: int = 10) -> None:
    """The same as a file, whole or not at all."""
    write_atomic(Path(path), png_grid(images, columns))


def read_png_grid(path: Path | str, size: int, scale: int = 2) -> Any:
    """The images of a file that `write_png_grid` made, uint8 [n, c, size, size] as a tensor, white places included."""
    import torch
    from PIL import Image

    pixels = np.asarray(Image.open(path))[::scale, ::scale]
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    rows, columns = pixels.shape[0] // size, pixels.shape[1] // size
    images = pixels.reshape(rows, size, columns, size, -1).transpose(0, 2, 4, 1, 3)
    return torch.from_numpy(images.reshape(rows * columns, -1, size, size).copy())


def image_grid(
    images: Any, columns: int = 10, labels: Sequence[str] | None = None, headings: Sequence[str] | None = None
) -> "Figure":
    """Images [n, c, h, w] uint8 in rows of `columns`, scaled by a whole number.

    labels: one a row, at its left. headings: one a column, above it.
    """
    return _pixel_figure(tile(images, columns), np.asarray(images).shape[2:], labels, headings)


def chain_strip(states: Sequence[Any], columns: int = 11) -> "Figure":
    """A reverse chain x_T, ..., x_0 ([n, c, h, w] each, floats in [-1, 1] or uint8): a row per image, a column per t.

    Chains of more than `columns` states are shown at so many times, evenly spaced, both ends among them.
    """
    T = len(states) - 1
    chosen = sorted(set(np.linspace(0, T, min(columns, T + 1)).round().astype(int).tolist()))
    shown = [np.asarray(s if "uint8" in str(s.dtype) else to_uint8(s)) for s in (states[i] for i in chosen)]
    by_image = np.stack(shown, 1)
    canvas = tile(by_image.reshape(-1, *by_image.shape[2:]), len(chosen))
    return _pixel_figure(canvas, by_image.shape[3:], None, [f"t = {T - i}" for i in chosen])


def _pixel_figure(
    pixels: np.ndarray, size: tuple[int, ...], row_labels: Sequence[str] | None, column_labels: Sequence[str] | None
) -> "Figure":
    """A figure whose axes have exactly one screen pixel, or a whole number of them, for each pixel of the image."""
    from matplotlib.figure import Figure

    height, width, channels = pixels.shape
    scale = max(1, min(GRID_WIDTH // width, IMAGE_HEIGHT // size[0]))
    left = 8 * max(map(len, row_labels)) + 8 if row_labels else 0
    top = 22 if column_labels else 0
    full = (left + width * scale, top + height * scale)
    figure = Figure(figsize=(full[0] / DPI, full[1] / DPI), dpi=DPI, facecolor="white")
    figure.set_layout_engine("none")
    ax = figure.add_axes((left / full[0], 0, width * scale / full[0], height * scale / full[1]))
    # "none" is nearest on screens, and keeps SVG files at one stored pixel for each.
    # As RGB, because a grey colour map is off by one in places.
    ax.imshow(pixels.repeat(3 // channels, 2), interpolation="none", aspect="auto")
    ax.set_axis_off()
    for i, label in enumerate(row_labels or ()):
        at = (-6 / (width * scale), 1 - (i + 0.5) * size[0] / height)
        ax.text(*at, label, transform=ax.transAxes, ha="right", va="center", fontsize=9)
    for i, label in enumerate(column_labels or ()):
        at = ((i + 0.5) * size[1] / width, 1 + 5 / (height * scale))
        ax.text(*at, label, transform=ax.transAxes, ha="center", fontsize=9)
    return figure


def history_plot(ax: "Axes", history: pd.DataFrame, columns: Sequence[str] | str, T: int | None = None) -> None:
    """Columns of a run's history against the updates; a column kept apart by t ("critic") is drawn for each range of t.

    T: the run's, to name the ranges where it has more than ten steps. Raises UserError for a column that is not there.
    """
    from matplotlib import colormaps

    columns = [columns] if isinstance(columns, str) else list(columns)
    if not len(history):
        ax.text(0.5, 0.5, "not run yet", transform=ax.transAxes, ha="center", va="center", color="0.5")
        ax.set_axis_off()
        return
    for name, style in zip(columns, ("-", "--", ":", "-.") * len(columns), strict=False):
        if name not in history:
            raise UserError(f"history has no column {name!r}: it has {', '.join(history.columns)}")
        bins = sum(f"{name}_t{k}" in history for k in range(1, 11))
        prefix = f"{name}, " if len(columns) > 1 else ""
        for k in range(1, bins + 1):
            upper = k if T is None or bins == T else -(-k * T // bins)
            label = f"{prefix}t {'=' if T is None or bins == T else '≤'} {upper}"
            colour = colormaps["viridis"](0.92 * (k - 1) / max(bins - 1, 1))
            ax.plot(history["step"], history[f"{name}_t{k}"], ls=style, color=colour, lw=1.3, label=label)
        if not bins:
            ax.plot(history["step"], history[name], ls=style, label=name)
    ax.set_xlabel("updates")
    ax.set_ylabel(columns[0].replace("_", " ") if len(columns) == 1 else "mean since the record before")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def save(fig: "Figure", stem: Path | str) -> list[Path]:
    """Write `stem`.png, of the paper's figures (fig1 to fig9) `stem`.svg too; the same figure gives the same bytes."""
    from matplotlib import rc_context

    stem, paths = Path(stem), []
    with rc_context({"svg.hashsalt": "ddgan"}):
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            if kind == "svg" and not stem.name.startswith("fig"):
                continue
            buffer = io.BytesIO()
            fig.savefig(buffer, format=kind, dpi=2 * DPI, metadata=metadata, bbox_inches=None)
            paths.append(stem.with_name(f"{stem.name}.{kind}"))
            write_atomic(paths[-1], buffer.getvalue() if kind == "svg" else palette_png(buffer.getvalue()))
    return paths


def palette_png(png: bytes) -> bytes:
    """The same picture in 256 colours without dither: less than half the bytes, and plots and grey grids look alike."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    image = image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    image.save(buffer := io.BytesIO(), "png", optimize=True)
    return buffer.getvalue()
