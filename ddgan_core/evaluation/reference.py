"""What samples are compared with: features and moments of the real images, found before they are computed.

Looked for in this order: shipped with the package (moments of the whole splits), kept in the cache, computed and kept.
Each is known by the hash of its pixels, the hash of its feature network, N and split, and where samples are scored
never by a name alone; in the cache also by the source of the modules that compute it.
"""

import io
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from ddgan_core import UserError
from ddgan_core.data import data_hash
from ddgan_core.metrics.distances import Moments
from ddgan_core.metrics.features import Extractor, cache_dir
from ddgan_core.packing import PACKED, pack, read_tensors
from ddgan_core.provenance import source_hash
from ddgan_core.runs import write_atomic
from ddgan_core.shapes import Float, Tensor, UInt8

SHIPPED = Path(__file__).parent.parent / "weights"
CHUNK = 500  # images whose features are kept in one file: what a stop loses at most
EXACT = 512  # features, at most, whose moments are shipped in float64
BITS = 15  # of a number in other shipped moments, which are within 3e-4 of the exact ones; one more adds .3 MB to each
FEATURES = ("data", "networks", "metrics/features", "metrics/inception")  # what may change a feature
SOURCES = {
    "features": source_hash(*FEATURES)[:12],
    "moments": source_hash(*FEATURES, "metrics/distances")[:12],
}


def reference_moments(dataset: str, split: str, images: UInt8[Tensor, "n c h w"], extractor: Extractor) -> Moments:
    """Moments of the first n images of a split: shipped, else cached, else computed.

    Raises UserError for a shipped file that is damaged, or that holds statistics of other images or features.
    """
    name = _name(dataset, split, images, extractor)
    if (shipped := SHIPPED / f"{name}{PACKED}").is_file():
        return unpack_moments(_shipped(shipped, name))
    path = cache_dir() / "moments" / f"{name}-{SOURCES['moments']}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return Moments(len(images), torch.from_numpy(file["mean"]), torch.from_numpy(file["scatter"]))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):  # not there, or not whole
        moments = Moments.of(feature_chunks(images, extractor))
    buffer = io.BytesIO()
    np.savez(buffer, mean=moments.mean.numpy(), scatter=moments.scatter.numpy())
    write_atomic(path, buffer.getvalue())
    return moments


def shipped_moments(dataset: str, split: str, features: str) -> Moments | None:
    """Moments of a whole split as they are shipped, for which neither images nor a network are needed; None without.

    Raises UserError for a file that is damaged, and for several, of other images or networks.
    """
    paths = sorted(SHIPPED.glob(f"{dataset}-{split}-*-{features}-*{PACKED}"))
    if len(paths) > 1:
        raise UserError(f"{SHIPPED} has {len(paths)} files of {features} of {dataset}, {split} images: keep one")
    return unpack_moments(_shipped(paths[0], paths[0].name.removesuffix(PACKED))) if paths else None


def reference_features(images: UInt8[Tensor, "n c h w"], extractor: Extractor) -> Float[Tensor, "n d"]:
    """Features of real images, from the cache where they are; Inception's take 8 kB an image there."""
    return torch.cat(list(feature_chunks(images, extractor)))


def feature_chunks(images: UInt8[Tensor, "n c h w"], extractor: Extractor) -> Iterator[Float[Tensor, "_ d"]]:
    """The same, `CHUNK` images at a time, each kept as soon as it is computed: stopped at any point, it goes on."""
    extractor.check(images)
    for part in images.split(CHUNK):
        path = _chunk_path(part, extractor)
        try:
            found = torch.from_numpy(np.load(path, allow_pickle=False))
            if len(found) != len(part):
                raise ValueError
        except (OSError, ValueError, EOFError):  # not there, or not whole
            found = extractor(part)
            buffer = io.BytesIO()
            np.save(buffer, found.numpy())
            write_atomic(path, buffer.getvalue())
        yield found


def extract(images: UInt8[Tensor, "n c h w"], extractor: Extractor, minutes: float | None = None) -> tuple[int, int]:
    """Fill the cache of features until all are there or the minutes are over. Returns images done and in all."""
    begin, done = time.monotonic(), 0
    for found in feature_chunks(images, extractor):
        done += len(found)
        if minutes is not None and time.monotonic() - begin > 60 * minutes:
            break
    return done, len(images)


def ship_moments(
    dataset: str, split: str, images: UInt8[Tensor, "n c h w"], extractor: Extractor, folder: Path = SHIPPED
) -> Path:
    """Write the file that `reference_moments` looks for first: 0.07 MB for 128 features, 2.5 MB for 2048."""
    name = _name(dataset, split, images, extractor)
    path = folder / f"{name}{PACKED}"
    packed = pack_moments(Moments.of(feature_chunks(images, extractor)))
    packed["name"] = torch.tensor(list(name.encode()), dtype=torch.uint8)  # a file may be renamed
    write_atomic(path, pack(save(packed)))
    return path


def _shipped(path: Path, name: str) -> dict[str, Tensor]:
    try:
        packed, _ = read_tensors(path)
        held = bytes(packed.pop("name").tolist()).decode()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it, or delete it to compute it again") from None
    if held != name:
        raise UserError(f"{path} holds the statistics of {held}: restore it, or delete it to compute it again")
    return packed


def pack_moments(moments: Moments) -> dict[str, Tensor]:
    """The moments as tensors to store: n, the mean and the upper triangle of a symmetric matrix.

    Up to `EXACT` features: float64 and the covariance itself, so nothing is lost. Beyond: `BITS`, and of the
    covariance's square root R. The Frechet distance of N(m, R^2) and N(m, R'^2) is at most |R - R'|_F^2, whatever the
    spectrum (it is the least such distance over rotations of R; Bhatia, Jain and Lim 2019); as many of the covariance
    itself would drown its small eigenvalues. The diagonal is kept in float32.
    """
    n, d, covariance = torch.tensor(moments.n), len(moments.mean), moments.covariance
    rows, columns = torch.triu_indices(d, d, 1)
    if d <= EXACT:
        diagonal, none = covariance.diagonal().contiguous(), torch.zeros(0)
        return {"n": n, "mean": moments.mean, "diagonal": diagonal, "scale": none, "upper": covariance[rows, columns]}
    root = moments.root
    upper = root[rows, columns]
    scale = upper.abs().max() / (2 ** (BITS - 1) - 1)
    return {
        "n": n, "mean": moments.mean.float(), "diagonal": root.diagonal().float().contiguous(),
        "scale": scale.reshape(1), "upper": (upper / scale).round().to(torch.int16),
    }  # fmt: skip


def unpack_moments(packed: dict[str, Tensor]) -> Moments:
    """The moments of `pack_moments`."""
    d, scale = len(packed["mean"]), packed["scale"].double()
    matrix = torch.zeros(d, d, dtype=torch.float64)
    rows, columns = torch.triu_indices(d, d, 1)
    matrix[rows, columns] = packed["upper"].double() * (scale if len(scale) else 1)
    matrix = matrix + matrix.T + packed["diagonal"].double().diag()
    n = int(packed["n"])
    return Moments(n, packed["mean"].double(), (matrix @ matrix if len(scale) else matrix) * (n - 1))


def _name(dataset: str, split: str, images: Tensor, extractor: Extractor) -> str:
    return f"{dataset}-{split}-{len(images)}-{data_hash(images)}-{extractor.name}-{extractor.hash}"


def _chunk_path(images: Tensor, extractor: Extractor) -> Path:
    folder = cache_dir() / "features" / f"{extractor.name}-{extractor.hash}-{SOURCES['features']}"
    return folder / f"{len(images)}-{data_hash(images)}.npy"
