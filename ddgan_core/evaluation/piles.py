"""Piles of samples kept batch by batch, where a batch takes long: hours of drawing go on where they stopped.

A batch is known by all that decides its pixels: the weights, how it is drawn, on what, and the source of the modules
that draw. What is damaged is drawn again.
"""

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddgan_core.metrics.features import cache_dir
from ddgan_core.progress import watched
from ddgan_core.provenance import source_hash
from ddgan_core.runs import write_atomic
from ddgan_core.shapes import Tensor, UInt8

KEEP_SECONDS = 10.0  # of drawing are lost at most; what is drawn in less is not worth a file
DRAWING = ("blocks", "data", "diffusion", "networks", "sampling", "evaluation/samples")  # what may change a sample
SOURCE = source_hash(*DRAWING)


class TimeIsUp(RuntimeError):
    """A drawing was left in time; what it drew is kept, and the same call goes on."""


def draw_pile(
    facts: Mapping[str, Any], n: int, batch_size: int, draw: Callable[[int, int], UInt8[Tensor, "b c h w"]],
    deadline: float | None = None,
) -> tuple[UInt8[Tensor, "n c h w"], float]:  # fmt: skip
    """Images 0 .. n - 1, by `draw(start, count)` or from the cache, and the seconds an image took when it was drawn.

    facts: all that decides the images but for the source, which is added here; anything json can write. deadline: of
    time.monotonic(); a call draws one batch at least; when another as slow as the slowest would end later, TimeIsUp is
    raised and the next call goes on.
    """
    images, seconds, slowest = [], 0.0, 0.0
    unkept: dict[Path, tuple[Tensor, float]] = {}
    starts = range(0, n, batch_size)
    for start in watched(starts, "samples", len(starts)):
        count = min(batch_size, n - start)
        path = _path(dict(facts) | {"start": start, "count": count})
        try:
            with np.load(path, allow_pickle=False) as file:
                batch, took = torch.from_numpy(file["images"]), float(file["seconds"])
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):  # not there, or not whole
            if deadline is not None and slowest and time.monotonic() + slowest > deadline:
                _keep(unkept)
                raise TimeIsUp(f"{start} of {n} images are drawn") from None
            begin = time.perf_counter()
            batch = draw(start, count)
            took = time.perf_counter() - begin
            slowest = max(slowest, took)
            unkept[path] = batch, took
            if sum(spent for _, spent in unkept.values()) > KEEP_SECONDS:
                _keep(unkept)
        images.append(batch)
        seconds += took
    return torch.cat(images), seconds / n


def _keep(drawn: dict[Path, tuple[Tensor, float]]) -> None:
    """Write the batches, and forget them."""
    for path, (batch, seconds) in drawn.items():
        buffer = io.BytesIO()
        np.savez(buffer, images=batch.numpy(), seconds=seconds)
        write_atomic(path, buffer.getvalue())
    drawn.clear()


def _path(facts: dict[str, Any]) -> Path:
    known = json.dumps(facts | {"source": SOURCE}, sort_keys=True)
    return cache_dir() / "samples" / f"{hashlib.sha256(known.encode()).hexdigest()[:24]}.npz"
