"""Image sets as uint8 tensors, and the two crossings between uint8 and floats in [-1, 1].

FashionMNIST is read in the layout torchvision downloads, from `DDGAN_DATA` (or --data-dir), else `data` in the
checkout; CIFAR-10 by the same door. `digits`, from scikit-learn, is embedded and needs no network. One is never
substituted for another.
"""

import contextlib
import gzip
import hashlib
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ddgan_core import UserError
from ddgan_core.shapes import Float, Int, Tensor, UInt8


@dataclass(frozen=True)
class Dataset:
    """What the rest of the package must know of an image set before any image is read."""

    name: str
    label: str
    channels: int
    size: int
    classes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: channels, height, width."""
        return self.channels, self.size, self.size


DATASETS = {
    d.name: d
    for d in (
        Dataset(
            "fashion_mnist", "FashionMNIST", 1, 28,
            ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
        ),
        Dataset(
            "cifar10", "CIFAR-10", 3, 32,
            ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        ),
        Dataset("digits", "digits (8x8)", 1, 8, tuple("0123456789")),
    )
}  # fmt: skip

# As published with the data sets; torchvision verifies the same sums.
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_FASHION_FILES = {
    "train": (
        ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
    ),
    "test": (
        ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
        ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
}
# The binary edition: the one torchvision reads is a pickle, and nothing pickled is loaded here.
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
_CIFAR_FILE = ("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")


def get_dataset(name: str) -> Dataset:
    """The image set of that name. Raises UserError with the known names."""
    if name not in DATASETS:
        raise UserError(f"dataset {name!r} is not known: choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def data_dir() -> Path:
    """Folder of `FashionMNIST/raw` and of CIFAR-10's archive: $DDGAN_DATA, else data in the checkout, else ./data."""
    if named := os.environ.get("DDGAN_DATA"):
        return Path(named)
    checkout = Path(__file__).parent.parent  # a notebook's own folder is another
    return checkout / "data" if (checkout / "pyproject.toml").is_file() else Path("data")


def at_hand(name: str, split: str) -> bool:
    """Whether the split can be read without a download, which whoever only looks at a report must not start."""
    if name == "fashion_mnist":
        return all((data_dir() / "FashionMNIST" / "raw" / file).exists() for file, _ in _FASHION_FILES[split])
    return name != "cifar10" or (data_dir() / _CIFAR_FILE[0]).exists()


def load_images(name: str, split: str = "train") -> tuple[UInt8[Tensor, "n c h w"], Int[Tensor, " n"]]:
    """All images of a split ("train" or "test") with their labels, downloaded and verified where they are missing."""
    get_dataset(name)
    if split not in ("train", "test"):
        raise UserError(f"split {split!r} is not known: choose train or test")
    images, labels = {"fashion_mnist": _fashion_mnist, "cifar10": _cifar10, "digits": _digits}[name](split)
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def read_images(path: Path | str) -> UInt8[Tensor, "n c h w"]:
    """A pile of images from elsewhere: a folder of grey or RGB PNGs of one size, or a .npy of uint8 [n, c, h, w].

    Raises UserError, naming the file, for anything else: other numbers than uint8, an empty folder, a damaged file.
    """
    path = Path(path)
    if path.is_dir():
        return _read_pngs(path)
    if path.suffix != ".npy" or not path.is_file():
        raise UserError(f"{path}: give a folder of .png files or a .npy file of uint8 images [n, c, h, w]")
    try:
        images = np.load(path, allow_pickle=False)
        if not isinstance(images, np.ndarray):
            raise ValueError("it is a .npz")
    except (OSError, ValueError, EOFError, MemoryError, OverflowError) as error:  # what its header promises may not fit
        raise UserError(f"{path} is not a whole .npy file ({error}): write it again") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise UserError(
            f"{path} holds {images.dtype} of shape {images.shape}: uint8 [n, c, h, w] with c = 1 or 3 is needed"
        )
    return torch.from_numpy(images)


def _read_pngs(folder: Path) -> UInt8[Tensor, "n c h w"]:
    from PIL import Image

    files, images = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".png"), []
    if not files:
        raise UserError(f"{folder} holds no .png files: name the folder with the images themselves")
    for file in files:
        try:
            with Image.open(file, formats=("PNG",)) as image:  # no JPEG under that name
                image.verify()  # decoding alone lets a file pass whose last bytes are missing
            with Image.open(file) as image:
                mode, pixels = image.mode, np.array(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{file} is not a whole PNG ({error}): remove it or write it again") from None
        if mode not in ("L", "RGB"):
            raise UserError(f"{file} is of mode {mode}: 8-bit grey (L) or RGB without transparency is needed")
        if images and pixels.shape != images[0].shape:
            raise UserError(f"{file} is of shape {pixels.shape}, {files[0].name} of {images[0].shape}: one for all")
        images.append(pixels)
    pile = torch.from_numpy(np.stack(images))
    return pile[:, None] if pile.ndim == 3 else pile.permute(0, 3, 1, 2).contiguous()


def data_hash(images: UInt8[Tensor, "n c h w"]) -> str:
    """Twelve hex digits that name the exact pixels."""
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()[:12]


def draw_batch(
    images: UInt8[Tensor, "n c h w"], batch_size: int, generator: torch.Generator
) -> Float[Tensor, "b c h w"]:
    """A batch drawn uniformly with replacement, in [-1, 1]; the generator is on the images' device."""
    return to_float(images[torch.randint(len(images), (batch_size,), generator=generator, device=images.device)])


def to_float(images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """uint8 -> [-1, 1]; never stretched image by image."""
    return images.float() / 127.5 - 1


def to_uint8(x: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    """[-1, 1] -> uint8: the one place where samples are quantised."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    part = slice(0, 1500) if split == "train" else slice(1500, None)
    images = np.round(bunch.images[part] * (255 / 16)).astype(np.uint8)
    return images[:, None], bunch.target[part]


def _fashion_mnist(split: str) -> tuple[np.ndarray, np.ndarray]:
    folder = data_dir() / "FashionMNIST" / "raw"
    paths = [_verified(folder / name, md5, _FASHION_URL, "fashion_mnist") for name, md5 in _FASHION_FILES[split]]
    images = np.frombuffer(gzip.decompress(paths[0].read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress(paths[1].read_bytes()), np.uint8, offset=8)
    return images.reshape(-1, 1, 28, 28).copy(), labels


def _cifar10(split: str) -> tuple[np.ndarray, np.ndarray]:
    name, md5 = _CIFAR_FILE
    path = _verified(data_dir() / name, md5, _CIFAR_URL, "cifar10")
    parts = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    with tarfile.open(path) as archive:
        files = [archive.extractfile(f"cifar-10-batches-bin/{part}") for part in parts]
        records = np.frombuffer(b"".join(file.read() for file in files if file), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return records[:, 1:].reshape(-1, 3, 32, 32).copy(), records[:, 0]


def _verified(path: Path, md5: str, url: str, dataset: str) -> Path:
    """The path, once a file with that MD5 is there."""
    if not path.exists():
        _download(path, url, dataset)
    found = hashlib.md5(path.read_bytes()).hexdigest()
    if found != md5:
        size = path.stat().st_size
        raise UserError(
            f"{path} is damaged: MD5 {found} ({size:,} bytes), expected {md5}. Delete it to download it again."
        )
    return path


def _download(path: Path, url: str, dataset: str) -> None:
    held = "FashionMNIST/raw" if dataset == "fashion_mnist" else path.name
    ways = (
        f"connect to the network; or point DDGAN_DATA (or --data-dir) at a folder that holds {held}; "
        "or use --dataset digits, which needs no download"
    )
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url + path.name, str(path))  # shows its progress, writes aside
    except OSError as error:
        with contextlib.suppress(OSError):  # a misspelt folder leaves none behind
            for folder in made:
                folder.rmdir()
        raise UserError(f"{path} is missing and could not be downloaded ({error}): {ways}.") from None
