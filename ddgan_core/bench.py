"""Side by side with the peers, on one machine, in one process, on the same images: `bench metrics`, `bench network`.

Contestants take turns, so that other work on the machine meets all of them; what is compared are ratios within a turn.
"""

import contextlib
import functools
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ddgan_core import UserError
from ddgan_core.data import load_images
from ddgan_core.evaluation import code_version, device_name
from ddgan_core.features import inception_file, inception_layers, load_extractor
from ddgan_core.inception import clean_resize, folded
from ddgan_core.metrics import Moments, frechet_distance
from ddgan_core.runs import results_dir, write_atomic
from ddgan_core.shapes import Float, Tensor, UInt8

Contestant = Callable[[UInt8[Tensor, "n c h w"], Path], Float[Tensor, "n d"]]  # images, the same as PNGs -> features
OURS = "ddgan_core, float32"
PEER = "clean-fid"
LEAST_CHANGE = 0.01  # of FID: a lower precision that moves it by more is not offered


def bench_metrics(
    n: int = 128, *, dataset: str = "fashion_mnist", repeats: int = 4, device: str = "cpu", results: Path | None = None
) -> pd.DataFrame:
    """FID end to end, images to moments: clean-fid on PNG files against the package on tensors, and lower precisions.

    Piles: the first n test and the first n training images, in turn; FID is the distance between the two.
    images_per_s: median over the repeats. ratio: of clean-fid's seconds to this row's, the median over repeats, with
    the lowest and highest; cpu_ratio: the same in seconds of CPU time, all processes. fid_change: this row's FID minus
    that of float32. gap: why a row has no numbers. Written to results/tables/bench_metrics_<device>.csv.
    """
    piles = [load_images(dataset, split)[0] for split in ("test", "train")]
    if not 2 <= n <= min(len(pile) for pile in piles):
        raise UserError(f"n = {n}: choose 2 to {min(len(pile) for pile in piles)}, the smaller split of {dataset}")
    contestants, gaps = {}, {}
    for name, make in CONTESTANTS.items():
        try:
            contestants[name] = make(torch.device(device))
        except (UserError, ImportError) as error:
            gaps[name] = str(error)
    measured, features = compete(contestants, [pile[:n] for pile in piles], repeats)
    fids = {name: frechet_distance(*map(Moments.of, pair)) for name, pair in features.items()}
    rows = []
    for name in CONTESTANTS:
        row: dict[str, Any] = {"method": name, "n": n, "repeats": repeats, "gap": gaps.get(name, "")}
        if name in measured:
            row |= {"images_per_s": n / statistics.median(measured[name]["wall"])}
            for clock, label in (("wall", "ratio"), ("cpu", "cpu_ratio")):
                row |= _ratio(measured.get(PEER), measured[name], clock, label)
            row |= {"fid": fids[name], "fid_change": fids[name] - fids.get(OURS, float("nan"))}
        rows.append(row | provenance(device))
    if PEER in features:  # their formula as well: it is part of what is to agree
        theirs = [f.numpy() for f in features[PEER]]
        rows[0]["fid"] = float(_cleanfid("fid").fid_from_feats(*theirs))
        rows[0]["fid_change"] = rows[0]["fid"] - fids.get(OURS, float("nan"))
    return written(rows, f"bench_metrics_{torch.device(device).type}", results)


def compete(
    contestants: dict[str, Contestant], piles: list[UInt8[Tensor, "_ c h w"]], repeats: int
) -> tuple[dict[str, dict[str, list[float]]], dict[str, list[Tensor]]]:
    """Seconds ("wall", "cpu") of features and moments for each contestant and repeat, and each one's features per pile.

    Repeat r is on pile r modulo their number, every contestant in turn, the order reversed in every other repeat.
    A first pass over four images, not counted, loads and warms up.
    """
    if repeats < len(piles):
        raise UserError(f"repeats = {repeats}: {len(piles)} or more, one for each pile of images")
    seconds: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in contestants}
    features: dict[str, list[Tensor]] = {name: [] for name in contestants}
    with contextlib.ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(len(piles) + 1)]
        for pile, folder in zip([*piles, piles[0][:4]], folders, strict=True):
            write_pngs(pile, folder)
        for contestant in contestants.values():
            contestant(piles[0][:4], folders[-1])
        for repeat in range(repeats):
            which = repeat % len(piles)
            names = list(contestants)[:: -1 if repeat // len(piles) % 2 else 1]
            for name in names:
                wall, cpu = time.perf_counter(), sum(os.times()[:4])
                found = contestants[name](piles[which], folders[which])
                Moments.of(found)
                seconds[name]["wall"].append(time.perf_counter() - wall)
                seconds[name]["cpu"].append(sum(os.times()[:4]) - cpu)
                if repeat == which:
                    features[name].append(found)
    return seconds, features


def _ratio(peer: dict | None, own: dict, clock: str, label: str) -> dict[str, float]:
    """Median, lowest and highest ratio of the peer's seconds to one's own, turn by turn."""
    if peer is None:
        return {}
    ratios = [a / b for a, b in zip(peer[clock], own[clock], strict=True)]
    return {label: statistics.median(ratios), f"{label}_low": min(ratios), f"{label}_high": max(ratios)}


def write_pngs(images: UInt8[Tensor, "n c h w"], folder: Path) -> None:
    """One PNG each, in the order of their names."""
    from PIL import Image

    for i, image in enumerate(images):
        pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(folder / f"{i:06}.png")


def _ours(device: torch.device) -> Contestant:
    extractor = load_extractor("inception", device)
    return lambda images, folder: extractor(images)


def _autocast(device: torch.device) -> Contestant:
    extractor = load_extractor("inception", device)

    def contestant(images: Tensor, folder: Path) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return extractor(images)

    return contestant


def _peer(device: torch.device) -> Contestant:
    """clean-fid's folder features with the network as it builds it, the weights from here instead of a download.

    Batches of 32, the default of its compute_fid. Its 12 workers serve a GPU; on a CPU they would take the cores from
    the network they feed, so that there it is left to load in its own process, which is to its advantage.
    """
    fid, network = _cleanfid("fid"), _cleanfid("inception_torchscript")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "inception-2015-12-05.pt").symlink_to(inception_file().resolve())
        model = torch.nn.DataParallel(network.InceptionV3W(folder, download=False).to(device).eval())
    workers = 0 if device.type == "cpu" else 12

    def contestant(images: Tensor, folder: Path) -> Tensor:
        found = fid.get_folder_features(
            str(folder), model, num_workers=workers, batch_size=32, device=device, mode="clean", verbose=False
        )
        return torch.from_numpy(found)

    return contestant


CONTESTANTS: dict[str, Callable[[torch.device], Contestant]] = {
    PEER: _peer, OURS: _ours, "ddgan_core, bfloat16 autocast": _autocast,
}  # fmt: skip


@functools.cache
def _cleanfid(module: str) -> Any:
    """A module of clean-fid. Raises ImportError where it is not installed."""
    import importlib

    mend_torchvision()
    return importlib.import_module(f"cleanfid.{module}")


_schemas: list[torch.library.Library] = []  # an operator is gone when its library is collected


def mend_torchvision() -> None:
    """Make `import torchvision` work beside a wheel built for another PyTorch (pytorch/vision#9077).

    It then stops at "operator torchvision::nms does not exist"; a name is all that the import needs of each, and
    clean-fid uses none of them. Does nothing where the import works, or torchvision is not installed.
    """
    for _ in range(20):
        try:
            import torchvision  # noqa: F401
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if not missing:
                raise
            _schemas[:] = _schemas or [torch.library.Library("torchvision", "FRAGMENT")]
            _schemas[0].define(f"{missing[1]}(Tensor x) -> Tensor")
        except ImportError:
            return
        else:
            return


def bench_network(n: int = 16, *, repeats: int = 3, results: Path | None = None) -> pd.DataFrame:
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

    def parts(size: int) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.cat([shipped(part) for part in x.split(size)])

    frozen = torch.jit.trace(laid_out.eval(), prepared(images).contiguous(memory_format=last))
    frozen = torch.jit.optimize_for_inference(torch.jit.freeze(frozen))
    variants: dict[str, Callable[[Tensor], Tensor]] = {
        "the script, as clean-fid runs it": lambda x: layers(prepared(x)),
        "batch norm folded": lambda x: plain(prepared(x)),
        "and in channels_last": lambda x: laid_out(prepared(x).contiguous(memory_format=last)),
        "and the scaling folded, one grey channel (in use)": shipped,
        "in use, batches of 4": parts(4),
        "in use, batches of 1": parts(1),
        "channels_last, frozen by torch.jit (fused ReLU)": lambda x: frozen(prepared(x).contiguous(memory_format=last)),
        "in use, bfloat16 autocast": lambda x: _autocasted(shipped, x),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    found = {}
    with torch.inference_mode():
        for repeat in range(-1, repeats):  # the first is not counted
            for name, variant in variants.items():
                begin = time.process_time()
                found[name] = variant(images).float().flatten(1)
                if repeat >= 0:
                    seconds[name].append((time.process_time() - begin) / n)
    script = next(iter(variants))
    rows = []
    for name, each in seconds.items():
        ratios = [a / b for a, b in zip(seconds[script], each, strict=True)]
        error = float((found[name] - found[script]).norm() / found[script].norm())
        row = {"variant": name, "n": n, "repeats": repeats, "cpu_s_per_image": statistics.median(each)}
        row |= {"speedup": statistics.median(ratios), "speedup_low": min(ratios), "speedup_high": max(ratios)}
        rows.append(row | {"error": error} | provenance("cpu"))
    return written(rows, "bench_network_cpu", results)


def _autocasted(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return network(x)


def provenance(device: torch.device | str) -> dict[str, str]:
    """The columns that say where a row was measured."""
    return {
        "device": device_name(device), "torch": torch.__version__, "clean_fid": version("clean-fid"),
        "commit": code_version(),
    }  # fmt: skip


def written(rows: list[dict[str, Any]], name: str, results: Path | None = None) -> pd.DataFrame:
    """The rows as a table, which is also put into results/tables/<name>.csv."""
    table = pd.DataFrame(rows)
    path = (results_dir() if results is None else results) / "tables" / f"{name}.csv"
    write_atomic(path, table.to_csv(index=False, float_format="%.6g"))
    return table
