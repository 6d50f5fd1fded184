"""Figures to files that do not change: PNGs of few colours, so that a repository can hold them."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddgan_core.figures.grids import DPI
from ddgan_core.figures.plots import COLOURS
from ddgan_core.runs import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


COMMON = 5  # colours of a plot that are kept as they are


def save(fig: "Figure", stem: Path | str) -> list[Path]:
    """Write `stem`.png, of the paper's figures (fig1 to fig9) `stem`.svg too; the same figure gives the same bytes."""
    from matplotlib import rc_context

    stem, paths = Path(stem), []
    sharp, colours = (1.5, 32) if fig.get_layout_engine() else (2, 64)  # grids, without, keep whole pixels and greys
    with rc_context({"svg.hashsalt": "ddgan"}):
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            if kind == "svg" and not stem.name.startswith("fig"):
                continue
            buffer = io.BytesIO()
            fig.savefig(buffer, format=kind, dpi=sharp * DPI, metadata=metadata, bbox_inches=None)
            paths.append(stem.with_name(f"{stem.name}.{kind}"))
            write_atomic(paths[-1], buffer.getvalue() if kind == "svg" else palette_png(buffer.getvalue(), colours))
    return paths


def palette_png(png: bytes, colours: int = 256) -> bytes:
    """The same picture in so many colours without dither, rows' own and the commonest as they are: half the bytes."""
    from matplotlib.colors import to_rgb
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    packed, of_pixel, counts = np.unique(pixels @ (1 << 16, 1 << 8, 1), return_inverse=True, return_counts=True)
    there = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], 1)
    own = {tuple(round(255 * part) for part in to_rgb(colour)) for colour in (*COLOURS.values(), "white")}
    often = set(np.argsort(-counts, kind="stable")[:COMMON].tolist())  # fills, axes, grid
    kept = [colour for i, colour in enumerate(map(tuple, there.tolist())) if colour in own or i in often]
    # A cut by pixels shows the colours of lines and markers as one, and paper as many: by a root of their numbers.
    weighed = np.repeat(there, np.ceil(counts**0.25).astype(int), axis=0).astype(np.uint8)
    cut = Image.fromarray(weighed[None]).quantize(colours - len(kept), kmeans=1)
    palette = np.array(kept + [colour for _, colour in cut.convert("RGB").getcolors()])
    if (there == there[:, :1]).all():  # images in grey alone: steps of one size are the least error for all of them
        palette = np.linspace(0, 255, colours).round().astype(int)[:, None].repeat(3, 1)
    nearest = np.array([((palette - colour) ** 2).sum(1).argmin() for colour in there], np.uint8)
    small = Image.fromarray(nearest[of_pixel].reshape(pixels.shape[:2]))
    small.putpalette(palette.astype(np.uint8).tobytes())
    small.save(buffer := io.BytesIO(), "png", optimize=True)
    return buffer.getvalue()
