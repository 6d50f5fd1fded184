"""FID beside clean-fid's, on the same images: `bench metrics`; and what each change to its network gives."""

import contextlib
import dataclasses
import functools
import multiprocessing
import tempfile
import weakref
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ddgan_core import UserError
from ddgan_core.bench.mend import mend_torchvision
from ddgan_core.bench.turns import Seconds, median, ratio, take_turns, timed, written
from ddgan_core.data import load_images
from ddgan_core.metrics.distances import Moments, frechet_distance
from ddgan_core.metrics.features import inception_file, inception_layers, load_extractor
from ddgan_core.metrics.inception import Inception, clean_resize, folded
from ddgan_core.provenance import provenance
from ddgan_core.shapes import Float, Tensor, UInt8

Features = Float[Tensor, "n d"]
# Images, the same as PNGs -> features; from a process of its own with the Seconds of features and moments there.
Contestant = Callable[[UInt8[Tensor, "n c h w"], Path], Features | tuple[Features, Seconds]]
OURS, BF16, LATE_BF16 = (
    f"ddgan_core, {precision}" for precision in ("float32", "bfloat16 autocast", "bfloat16 in the later layers")
)
PEER = "clean-fid"
FIRST_OF_17 = 3  # among the late layers: the block that leads to maps of 17x17


def bench_metrics(
    n: int = 128, *, dataset: str = "fashion_mnist", repeats: int = 4, device: str = "cpu"
) -> pd.DataFrame:
    """FID end to end, images to moments: clean-fid on PNG files against the package on tensors, and lower precisions.

    Piles: the first n test and the first n training images, in turn; FID is the distance between the two.
    images_per_s: median over the repeats. ratio: of clean-fid's seconds to this row's, the median over repeats, with
    the lowest and highest; cpu_ratio: the same in seconds of CPU time, all processes. fid_change: this row's FID minus
    that of float32; fid_change_alone: where the second pile is float32's, as the reference moments are, the change that
    counts for a lower precision. gap: why a row has no numbers. Written to results/tables/bench_metrics_<device>.csv.
    """
    piles = [load_images(dataset, split)[0] for split in ("test", "train")]
    if not 2 <= n <= min(len(pile) for pile in piles):
        raise UserError(f"n = {n}: choose 2 to {min(len(pile) for pile in piles)}, the smaller split of {dataset}")
    contestants, gaps = {}, {}
    known = CONTESTANTS | (ON_A_GPU if torch.device(device).type == "cuda" else {})
    for name, make in known.items():
        try:
            contestants[name] = make(torch.device(device))
        except (UserError, ImportError) as error:
            gaps[name] = str(error)
    first = 4 if torch.device(device).type == "cpu" else n  # a GPU's libraries choose a way for each size of batch
    measured, features = compete(contestants, [pile[:n] for pile in piles], repeats, first, device)
    moments = {name: [Moments.of(f) for f in pair] for name, pair in features.items()}
    fids = {name: frechet_distance(*pair) for name, pair in moments.items()}
    rows = []
    for name in known:
        row: dict[str, Any] = {"method": name, "n": n, "repeats": repeats, "gap": gaps.get(name, "")}
        if name in measured:
            row |= {"images_per_s": n / median(measured[name])}
            row |= ratio(measured.get(PEER), measured[name], "ratio")
            row |= ratio(measured.get(PEER), measured[name], "cpu_ratio", "cpu")
            row |= {"fid": fids[name], "fid_change": fids[name] - fids.get(OURS, float("nan"))}
            if OURS in moments:
                row["fid_change_alone"] = frechet_distance(moments[name][0], moments[OURS][1]) - fids[OURS]
        rows.append(row | provenance(device) | {"clean_fid": _cleanfid_version()})
    if PEER in features:  # their formula as well: it is part of what is to agree
        theirs = [f.numpy() for f in features[PEER]]
        rows[0]["fid"] = float(_cleanfid("fid").fid_from_feats(*theirs))
        rows[0]["fid_change"] = rows[0]["fid"] - fids.get(OURS, float("nan"))
    return written(rows, f"bench_metrics_{torch.device(device).type}")


def compete(
    contestants: dict[str, Contestant],
    piles: list[UInt8[Tensor, "_ c h w"]],
    repeats: int,
    first: int = 4,
    device: str = "cpu",
) -> tuple[dict[str, list[Seconds]], dict[str, list[Tensor]]]:
    """Seconds of features and moments for each contestant and repeat, and each one's features per pile.

    Repeat r is on pile r modulo their number; the turn before, not counted, on `first` images.
    """
    if repeats < len(piles):
        raise UserError(f"repeats = {repeats}: {len(piles)} or more, one for each pile of images")
    features: dict[str, list[Tensor]] = {name: [] for name in contestants}
    with contextlib.ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(len(piles) + 1)]
        piles = [*piles, piles[0][:first]]
        for pile, folder in zip(piles, folders, strict=True):
            write_pngs(pile, folder)

        def turn(name: str, repeat: int) -> Seconds | None:
            which = repeat % (len(piles) - 1) if repeat >= 0 else -1
            found, seconds = contestants[name](piles[which], folders[which]), None
            if isinstance(found, tuple):
                found, seconds = found
            else:
                Moments.of(found)
            if repeat == which >= 0:
                features[name].append(found)
            return seconds

        jobs = {name: functools.partial(turn, name) for name in contestants}
        return take_turns(jobs, repeats, device), features


def write_pngs(images: UInt8[Tensor, "n c h w"], folder: Path) -> None:
    """One PNG each, in the order of their names."""
    from PIL import Image

    for i, image in enumerate(images):
        pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(folder / f"{i:06}.png")


def _ours(device: torch.device) -> Contestant:
    extractor = load_extractor("inception", device)
    return lambda images, folder: extractor(images).to(device)  # where their moments are taken


def _autocast(device: torch.device) -> Contestant:
    extractor = load_extractor("inception", device)

    def contestant(images: Tensor, folder: Path) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return extractor(images).to(device)

    return contestant


class _InBfloat16(nn.Module):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.layers(x)


def _late_bfloat16(device: torch.device) -> Contestant:
    """The maps of 17x17 pixels and below, six tenths of the time, in bfloat16: what is rounded late moves least."""
    network = Inception(inception_layers()).requires_grad_(False).to(device)
    network.late = nn.Sequential(*network.late[:FIRST_OF_17], _InBfloat16(network.late[FIRST_OF_17:]))
    extractor = dataclasses.replace(load_extractor("inception", device), network=network)
    return lambda images, folder: extractor(images).to(device)


def _tf32(device: torch.device) -> Contestant:
    """The same network in what a GPU's convolutions take for float32 unless told not to, as clean-fid leaves it."""
    return _below_float32(load_extractor("inception", device).network, device)


def _float16(device: torch.device) -> Contestant:
    """The pixels scaled before the network: within its first weights, 1/128 is below float16's least normal number."""
    network = folded(inception_layers()).to(device, torch.float16, memory_format=torch.channels_last)

    def scaled(images: Tensor) -> Tensor:
        x = ((clean_resize(images) - 128) / 128).half().expand(-1, 3, -1, -1)
        return network(x.contiguous(memory_format=torch.channels_last)).flatten(1)

    return _below_float32(scaled, device)


def _below_float32(network: Callable[[Tensor], Tensor], device: torch.device) -> Contestant:
    def contestant(images: Tensor, folder: Path) -> Tensor:
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
            return torch.cat([network(part.to(device)).float() for part in images.split(250)])

    return contestant


def _peer(device: torch.device) -> Contestant:
    """clean-fid's folder features with its network, on this one device, the weights from here instead of a download.

    Batches of 32, the default of its compute_fid. Its 12 workers serve a GPU; on a CPU they would take the cores from
    the network they feed, so that there it is left to load in its own process, which is to its advantage. That process
    is not this one, where memory is kept (`memory`) as clean-fid's own would not be.
    """
    _cleanfid("fid"), inception_file()  # what is missing shows here
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def contestant(images: Tensor, folder: Path) -> tuple[Tensor, Seconds]:
        return pool.submit(_peer_turn, str(device), torch.get_num_threads(), folder).result()

    weakref.finalize(contestant, pool.shutdown)
    return contestant


def _peer_turn(device: str, threads: int, folder: Path) -> tuple[Tensor, Seconds]:
    """In the peer's process: features of a folder, and the seconds that they and their moments took."""
    torch.set_num_threads(threads)
    multiprocessing.set_start_method("fork", force=True)  # this process was spawned; its workers take no pickled resize
    extract = _peer_network(device)

    def work() -> Tensor:
        found = torch.from_numpy(extract(str(folder)))
        Moments.of(found)
        return found

    return timed(work)


@functools.cache
def _peer_network(device: str) -> Callable[[str], np.ndarray]:
    fid, network = _cleanfid("fid"), _cleanfid("inception_torchscript")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "inception-2015-12-05.pt").symlink_to(inception_file().resolve())
        # Without the DataParallel that it comes in: that takes every GPU it sees, whichever device was asked for.
        model = network.InceptionV3W(folder, download=False).to(device).eval()
    workers = 0 if device == "cpu" else 12
    how = {"num_workers": workers, "batch_size": 32, "device": torch.device(device), "mode": "clean", "verbose": False}
    return lambda folder: fid.get_folder_features(folder, model, **how)


CONTESTANTS: dict[str, Callable[[torch.device], Contestant]] = {
    PEER: _peer, OURS: _ours, BF16: _autocast, LATE_BF16: _late_bfloat16,
}  # fmt: skip
ON_A_GPU: dict[str, Callable[[torch.device], Contestant]] = {
    "ddgan_core, TF32": _tf32, "ddgan_core, float16": _float16,
}  # fmt: skip


@functools.cache
def _cleanfid(module: str) -> Any:
    """A module of clean-fid. Raises ImportError where it is not installed."""
    import importlib

    mend_torchvision()
    return importlib.import_module(f"cleanfid.{module}")


def _cleanfid_version() -> str:
    """Empty where it is not installed."""
    try:
        return version("clean-fid")
    except PackageNotFoundError:
        return ""


def bench_network(n: int = 16, *, repeats: int = 3) -> pd.DataFrame:
    """What each change to clean-fid's network gives on this CPU: seconds of CPU time an image, in turns.

    n resized grey images at a time. error: relative, of the features, to the script's. speedup: against the script.
    Written to results/tables/bench_network_cpu.csv; raises UserError without the weights.
    """
    layers = inception_layers()
    images = load_images("fashion_mnist", "test")[0][:n]
    last = torch.channels_last
    plain, laid_out = folded(layers), folded(layers).to(memory_format=last)
    shipped = load_extractor("inception").network

    def prepared(x: Tensor) -> Tensor:
        return (clean_resize(x).expand(-1, 3, -1, -1) - 128) / 128

    frozen = torch.jit.trace(laid_out.eval(), prepared(images).contiguous(memory_format=last))
    frozen = torch.jit.optimize_for_inference(torch.jit.freeze(frozen))
    variants: dict[str, Callable[[Tensor], Tensor]] = {
        "the script, as clean-fid runs it": lambda x: layers(prepared(x)),
        "batch norm folded": lambda x: plain(prepared(x)),
        "and in channels_last": lambda x: laid_out(prepared(x).contiguous(memory_format=last)),
        "and the scaling folded, one grey channel": lambda x: shipped.late(shipped.maps(x)).flatten(1),
        "and the early layers for few images at a time (in use)": shipped,
        "channels_last, frozen by torch.jit (fused ReLU)": lambda x: frozen(prepared(x).contiguous(memory_format=last)),
        "in use, bfloat16 autocast": lambda x: _autocasted(shipped, x),
    }
    found = {}

    def turn(name: str, _: int) -> None:
        found[name] = variants[name](images).float().flatten(1)

    with torch.inference_mode():
        seconds = take_turns({name: functools.partial(turn, name) for name in variants}, repeats)
    script = next(iter(variants))
    rows = []
    for name, own in seconds.items():
        error = float((found[name] - found[script]).norm() / found[script].norm())
        row = {"variant": name, "n": n, "repeats": repeats, "cpu_s_per_image": median(own, "cpu") / n}
        row |= ratio(seconds[script], own, "speedup", "cpu") | {"error": error}
        rows.append(row | provenance("cpu"))
    return written(rows, "bench_network_cpu")


def _autocasted(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return network(x)
