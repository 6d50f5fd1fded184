"""Grids of images, every pixel shown as it is: as PNG files, or as figures with names at the rows and columns."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddgan_core import UserError
from ddgan_core.data import to_uint8
from ddgan_core.figures.labels import LABEL_SIZE, text_width
from ddgan_core.runs import write_atomic

if TYPE_CHECKING:  # training and sampling import this module for its PNG files alone
    from matplotlib.figure import Figure

GRID_WIDTH, IMAGE_HEIGHT = 700, 112  # pixels: grids are scaled by the largest whole number that stays within both
DPI = 100
GAP = 1  # pixel of the images, between those of different kinds
CHAIN_STATES = 11  # of a chain, at most, that a strip shows


def tile(images: Any, columns: int = 10, gap: int = 0) -> np.ndarray:
    """uint8 images [n, c, h, w] (c = 1 or 3) side by side, `gap` pixels apart: uint8 [height, width, c].

    Places left in the last row are white, and gaps. Samples are shown without: gaps would lay a grid
    over them, the very pattern one looks for.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise UserError(
            f"images of type {images.dtype} and shape {images.shape}: give uint8 [n, 1 or 3, h, w] (data.to_uint8)"
        )
    columns = min(columns, len(images))
    n, c, h, w = images.shape
    rows = -(-n // columns)
    full = np.full((rows * columns, c, h + gap, w + gap), 255, np.uint8)
    full[:n, :, :h, :w] = images
    h, w = h + gap, w + gap
    tiled = full.reshape(rows, columns, c, h, w).transpose(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c)
    return tiled[: rows * h - gap, : columns * w - gap]


def png_grid(images: Any, columns: int = 10, scale: int = 2) -> bytes:
    """Images [n, c, h, w] uint8 as one PNG, every pixel `scale` x `scale`, nothing around it."""
    from PIL import Image

    pixels = tile(images, columns).repeat(scale, 0).repeat(scale, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_png_grid(images: Any, path: Path | str, columns: int = 10, scale: int = 2) -> None:
    """The same as a file, whole or not at all."""
    write_atomic(Path(path), png_grid(images, columns, scale))


def read_png_grid(path: Path | str, size: int, columns: int = 10) -> Any:
    """The images of a file that `write_png_grid` made, uint8 [n, c, size, size] as a tensor, white places included.

    Of a full row or more: what is narrower than `columns` images says nothing of the scale.
    """
    import torch
    from PIL import Image

    pixels = np.asarray(Image.open(path))
    scale = pixels.shape[1] // (columns * size)
    pixels = pixels[::scale, ::scale]
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    rows, columns = pixels.shape[0] // size, pixels.shape[1] // size
    images = pixels.reshape(rows, size, columns, size, -1).transpose(0, 2, 4, 1, 3)
    return torch.from_numpy(images.reshape(rows * columns, -1, size, size).copy())


def image_grid(
    images: Any, columns: int = 10, labels: Sequence[str] | None = None, headings: Sequence[str] | None = None,
    title: str = "",
) -> "Figure":  # fmt: skip
    """Images [n, c, h, w] uint8 in rows of `columns`, scaled by a whole number.

    labels: one a row, at its left. headings: one a column, above it; where columns are of different kinds, so that
    each has one, white lines keep the images apart. title: above all, whose images they are.
    """
    gap = GAP if headings else 0
    return _pixel_figure(tile(images, columns, gap), np.asarray(images).shape[2:], labels, headings, title, gap)


def chain_strip(states: Sequence[Any], title: str = "") -> "Figure":
    """A reverse chain x_T, ..., x_0 ([n, c, h, w] each, floats in [-1, 1] or uint8): a row per image, a column per t.

    Chains of more than `CHAIN_STATES` are shown at so many times, evenly spaced, both ends among them.
    """
    T = len(states) - 1
    chosen = sorted(set(np.linspace(0, T, min(CHAIN_STATES, T + 1)).round().astype(int).tolist()))
    shown = [np.asarray(s if "uint8" in str(s.dtype) else to_uint8(s)) for s in (states[i] for i in chosen)]
    by_image = np.stack(shown, 1)
    return image_grid(
        by_image.reshape(-1, *by_image.shape[2:]), len(chosen), headings=[f"t = {T - i}" for i in chosen], title=title
    )


def _pixel_figure(
    pixels: np.ndarray, size: tuple[int, ...], row_labels: Sequence[str] | None, column_labels: Sequence[str] | None,
    title: str, gap: int,
) -> "Figure":  # fmt: skip
    """A figure whose axes have exactly one screen pixel, or a whole number of them, for each pixel of the image."""
    from matplotlib.figure import Figure

    height, width, channels = pixels.shape
    scale = max(1, min(GRID_WIDTH // width, IMAGE_HEIGHT // size[0]))
    left = round(max(text_width(label, LABEL_SIZE) for label in row_labels) * DPI / 72) + 12 if row_labels else 0
    above = 22 if column_labels else 0
    top = above + (24 if title else 0)
    full = (left + width * scale, top + height * scale)
    figure = Figure(figsize=(full[0] / DPI, full[1] / DPI), dpi=DPI, facecolor="white", layout="none")
    ax = figure.add_axes((left / full[0], 0, width * scale / full[0], height * scale / full[1]))
    # "none" is nearest on screens, and keeps SVG files at one stored pixel for each.
    # As RGB, because a grey colour map is off by one in places.
    ax.imshow(pixels.repeat(3 // channels, 2), interpolation="none", aspect="auto")
    ax.set_axis_off()
    for i, label in enumerate(row_labels or ()):
        at = (-6 / (width * scale), 1 - (i * (size[0] + gap) + 0.5 * size[0]) / height)
        ax.text(*at, label, transform=ax.transAxes, ha="right", va="center", fontsize=LABEL_SIZE)
    for i, label in enumerate(column_labels or ()):
        at = ((i * (size[1] + gap) + 0.5 * size[1]) / width, 1 + 5 / (height * scale))
        ax.text(*at, label, transform=ax.transAxes, ha="center", fontsize=LABEL_SIZE)
    if title:
        at = (0 if left else 3 / (width * scale), 1 + (above + 7) / (height * scale))
        ax.text(*at, title, transform=ax.transAxes, fontsize=LABEL_SIZE + 1)
    return figure
