"""Images to feature vectors: three extractors behind one contract.

An extractor takes uint8 images [n, c, h, w] and gives float32 features [n, d]. Floats are refused, so that samples are
scored as the 8-bit images they are published as. A distance in one extractor's features never compares with another's:
each carries its name and a hash of its network's tensors.

inception           pool3 of the FID Inception, as clean-fid defines it (Parmar et al. 2022); d = 2048
fashion_classifier  the pooled last layer of the shipped FashionMNIST classifier; d = 128
pixels              pixels in [0, 1]; d = c h w
"""

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ddgan_core import UserError
from ddgan_core.data import to_float
from ddgan_core.memory import keep_freed_memory
from ddgan_core.metrics.inception import Inception
from ddgan_core.networks import Classifier, tensors_hash
from ddgan_core.packing import PACKED, read_tensors
from ddgan_core.progress import watched
from ddgan_core.shapes import Float, Tensor

CLASSIFIER_FILE = Path(__file__).parent.parent / "weights" / f"fashion_classifier{PACKED}"
INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_HASH = (
    "eb0874a8469b"  # `tensors_hash` of its layers, as clean-fid and the original TensorFlow graph have them
)
INCEPTION_URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION_FILE}"


@dataclass(frozen=True)
class Extractor:
    """A named map from images to features.

    hash: twelve hex digits of the network's tensors. channels, side: the images it takes, None for any.
    """

    name: str
    hash: str
    network: Callable[[Tensor], Tensor]
    device: torch.device
    batch_size: int
    channels: tuple[int, ...] | None = None
    side: int | None = None

    def __call__(self, images: Tensor) -> Float[Tensor, "n d"]:
        """Features of uint8 images [n, c, h, w], float32 on the CPU. Raises UserError for any other images."""
        self.check(images)
        keep_freed_memory()
        parts = images.split(self.batch_size)
        # TF32 would move Inception features by 1e-3. The context's own defaults would switch cuDNN off.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            found = [
                self.network(p.to(self.device)).float().cpu()
                for p in watched(parts, f"{self.name} features", len(parts))
            ]
        return torch.cat(found)

    def check(self, images: Tensor) -> None:
        """Raises UserError unless these are images that this extractor takes."""
        if images.dtype != torch.uint8:
            raise UserError(f"images of {images.dtype}: {self.name} features take uint8, see data.to_uint8")
        if images.ndim != 4 or len(images) == 0:
            raise UserError(f"images of shape {tuple(images.shape)}: {self.name} features take [n, c, h, w], n > 0")
        if self.channels and images.shape[1] not in self.channels:
            allowed = " or ".join(map(str, self.channels))
            raise UserError(f"images of {images.shape[1]} channels: {self.name} features take {allowed}")
        if self.side and images.shape[2:] != (self.side, self.side):
            found = f"{images.shape[2]}x{images.shape[3]}"
            raise UserError(
                f"images of {found}: {self.name} features take {self.side}x{self.side}, pixels and inception any size"
            )


def load_extractor(name: str, device: torch.device | str = "cpu") -> Extractor:
    """The extractor of that name, one of EXTRACTORS; kept for the next call. Raises UserError for another name."""
    if name not in EXTRACTORS:
        raise UserError(f"features {name!r} are not known: choose one of {', '.join(EXTRACTORS)}")
    return EXTRACTORS[name](torch.device(device))


def classify(images: Tensor, device: torch.device | str = "cpu") -> Float[Tensor, "n 10"]:
    """Class probabilities of uint8 FashionMNIST-like images by the shipped classifier, on the CPU."""
    return class_probabilities(load_extractor("fashion_classifier", device)(images))


def class_probabilities(features: Float[Tensor, "n 128"]) -> Float[Tensor, "n 10"]:
    """The same from fashion_classifier features, on the CPU."""
    with torch.inference_mode():
        return load_classifier(torch.device("cpu")).logits(features).softmax(1)


@functools.cache
def load_classifier(device: torch.device) -> Classifier:
    """The shipped FashionMNIST classifier; its numbers and its test accuracy are in the file's metadata."""
    try:
        tensors, facts = read_tensors(CLASSIFIER_FILE)
        network = Classifier(1, json.loads(facts["widths"]), 10)
        network.load_state_dict(tensors)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{CLASSIFIER_FILE} is damaged ({str(error).splitlines()[0]}): restore it") from None
    return network.eval().requires_grad_(False).to(device)


def cache_dir() -> Path:
    """What can be made or downloaded again: $DDGAN_CACHE, else ~/.cache/ddgan."""
    return Path(os.environ.get("DDGAN_CACHE") or Path.home() / ".cache" / "ddgan")


def inception_file() -> Path:
    """The Inception weights: $DDGAN_INCEPTION, else the cache ($DDGAN_CACHE), downloaded into it once."""
    if named := os.environ.get("DDGAN_INCEPTION"):
        if not Path(named).is_file():
            raise UserError(f"DDGAN_INCEPTION = {named}: no such file; correct it, or unset it to download one")
        return Path(named)
    path = cache_dir() / INCEPTION_FILE
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(INCEPTION_URL, str(path))  # shows its progress, writes aside
        except OSError as error:
            raise UserError(
                f"{path} is missing and could not be downloaded ({error}): connect to the network, "
                f"point DDGAN_INCEPTION at a copy of {INCEPTION_FILE}, or use fashion_classifier features"
            ) from None
    return path


def inception_layers() -> nn.Module:
    """The scripted layers of `inception_file`: (x - 128) / 128 at 299x299 to 2048 features. Raises UserError."""
    path = inception_file()
    try:
        layers = torch.jit.load(path, map_location="cpu").eval().layers
    except (RuntimeError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a whole {INCEPTION_FILE} ({reason}): delete it, or name another") from None
    if (found := tensors_hash(layers.state_dict())) != INCEPTION_HASH:
        raise UserError(
            f"{path} holds other weights (hash {found}) than {INCEPTION_FILE} ({INCEPTION_HASH}): "
            "delete it, or name another"
        )
    return layers


@functools.cache
def _inception(device: torch.device) -> Extractor:
    layers = inception_layers()
    network = Inception(layers).requires_grad_(False).to(device)
    batch_size = 16 if device.type == "cpu" else 250
    return Extractor("inception", INCEPTION_HASH, network, device, batch_size, channels=(1, 3))


@functools.cache
def _fashion_classifier(device: torch.device) -> Extractor:
    network = load_classifier(device)
    body: nn.Module = network.body
    return Extractor(
        "fashion_classifier", tensors_hash(network.state_dict()), lambda images: body(to_float(images)), device, 250,
        channels=(1,), side=28,
    )  # fmt: skip


@functools.cache
def _pixels(device: torch.device) -> Extractor:
    return Extractor("pixels", tensors_hash({}), lambda images: images.flatten(1).float() / 255, device, 1000)


EXTRACTORS: dict[str, Callable[[torch.device], Extractor]] = {
    "inception": _inception,
    "fashion_classifier": _fashion_classifier,
    "pixels": _pixels,
}
