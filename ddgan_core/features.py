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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from tqdm import tqdm

from ddgan_core import UserError
from ddgan_core.data import to_float
from ddgan_core.networks import Classifier, tensors_hash
from ddgan_core.shapes import Float, Tensor

CLASSIFIER_FILE = Path(__file__).parent / "weights" / "fashion_classifier.safetensors"
INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION_FILE}"
INCEPTION_SIDE = 299


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
        return torch.cat(list(self.batches(images)))

    def batches(self, images: Tensor) -> Iterator[Float[Tensor, "b d"]]:
        """The same, batch by batch, for piles of features larger than memory; a terminal sees the progress."""
        self.check(images)
        parts = images.split(self.batch_size)
        for part in tqdm(parts, f"{self.name} features", unit="batch", leave=False, delay=2, disable=None):
            # TF32 would move Inception features by 1e-3; nothing is gained here that is worth it.
            with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
                yield self.network(part.to(self.device)).float().cpu()

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
            raise UserError(f"images of {found}: {self.name} features take {self.side}x{self.side}")


def load_extractor(name: str, device: torch.device | str = "cpu") -> Extractor:
    """The extractor of that name, one of EXTRACTORS; kept for the next call. Raises UserError for another name."""
    if name not in EXTRACTORS:
        raise UserError(f"features {name!r} are not known: choose one of {', '.join(EXTRACTORS)}")
    return EXTRACTORS[name](torch.device(device))


def classify(images: Tensor, device: torch.device | str = "cpu") -> Float[Tensor, "n 10"]:
    """Class probabilities of uint8 FashionMNIST-like images by the shipped classifier, on the CPU."""
    extractor = load_extractor("fashion_classifier", device)
    logits = load_classifier(torch.device(device)).logits
    with torch.inference_mode():
        return torch.cat([logits(f.to(extractor.device)).softmax(1).cpu() for f in extractor.batches(images)])


@functools.cache
def load_classifier(device: torch.device) -> Classifier:
    """The shipped FashionMNIST classifier; its numbers and its test accuracy are in the file's metadata."""
    with safe_open(CLASSIFIER_FILE, framework="pt") as file:
        facts = classifier_facts()
        network = Classifier(1, facts["widths"], 10)
        network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return network.eval().requires_grad_(False).to(device)


def classifier_facts() -> dict:
    """What is recorded with the shipped classifier: widths, test_accuracy, test_top_probability."""
    with safe_open(CLASSIFIER_FILE, framework="pt") as file:
        return {name: json.loads(value) for name, value in file.metadata().items()}


def cache_dir() -> Path:
    """What can be made or downloaded again: $DDGAN_CACHE, else ~/.cache/ddgan."""
    return Path(os.environ.get("DDGAN_CACHE", Path.home() / ".cache" / "ddgan"))


def inception_file() -> Path:
    """The Inception weights: $DDGAN_INCEPTION, else the cache ($DDGAN_CACHE), downloaded into it once."""
    if named := os.environ.get("DDGAN_INCEPTION"):
        if not Path(named).is_file():
            raise UserError(f"DDGAN_INCEPTION = {named}: no such file; correct it, or unset it to download one")
        return Path(named)
    path = cache_dir() / INCEPTION_FILE
    if not path.exists():
        aside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(INCEPTION_URL, str(aside))
            aside.replace(path)
        except OSError as error:
            raise UserError(
                f"{path} is missing and could not be downloaded ({error}): connect to the network, "
                f"point DDGAN_INCEPTION at a copy of {INCEPTION_FILE}, or use fashion_classifier features"
            ) from None
        finally:
            aside.unlink(missing_ok=True)
    return path


@functools.cache
def bicubic_matrix(side: int, target: int = INCEPTION_SIDE) -> Float[Tensor, "target side"]:
    """PIL's float bicubic resize of one axis, which is linear: what it does to each unit vector."""
    from PIL import Image

    identity = Image.fromarray(np.eye(side, dtype=np.float32))
    return torch.from_numpy(np.array(identity.resize((side, target), Image.Resampling.BICUBIC)))


def clean_resize(images: Tensor, target: int = INCEPTION_SIDE) -> Float[Tensor, "n c t t"]:
    """clean-fid's resize, batched and on any device: PIL bicubic in float on each channel, clipped to [0, 255]."""
    rows, columns = (bicubic_matrix(side, target).to(images.device) for side in images.shape[2:])
    return (rows @ images.float() @ columns.T).clamp(0, 255)


@functools.cache
def _inception(device: torch.device) -> Extractor:
    path = inception_file()
    try:
        layers = torch.jit.load(path, map_location="cpu").eval().layers
    except (RuntimeError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a whole {INCEPTION_FILE} ({reason}): delete it, or name another") from None
    plain = _folded(layers).requires_grad_(False).to(device, memory_format=torch.channels_last)

    def network(images: Tensor) -> Tensor:
        x = clean_resize(images).expand(-1, 3, -1, -1)
        return plain(((x - 128) / 128).contiguous(memory_format=torch.channels_last)).flatten(1)

    batch_size = 16 if device.type == "cpu" else 250
    return Extractor("inception", tensors_hash(layers.state_dict()), network, device, batch_size, channels=(1, 3))


class _Branches(nn.ModuleList):
    """Several ways through a block, concatenated along the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], 1)


def _folded(scripted: nn.Module) -> nn.Module:
    """The scripted Inception as plain modules, its batch norm folded into the convolutions: the same function, faster.

    The script forces every block's output out of channels_last, which together with separate batch norm costs a CPU
    most of its speed.
    """
    kind = scripted.original_name
    if kind.endswith("Pool2d"):
        return scripted
    if kind == "Conv2dLayer":
        out, c_in, *kernel = scripted.weight.shape
        conv = nn.Conv2d(c_in, out, kernel, scripted.stride, scripted.padding)
        scale = (scripted.var.double() + 1e-3).rsqrt()  # the epsilon of its batch norm, which has no gain
        conv.weight.data = (scripted.weight.double() * scale[:, None, None, None]).float()
        conv.bias.data = (scripted.beta.double() - scripted.mean.double() * scale).float()
        return nn.Sequential(conv, nn.ReLU(inplace=True))
    parts = {name: _folded(child) for name, child in scripted.named_children()}
    if kind == "Sequential":
        return nn.Sequential(*parts.values())
    if kind == "InceptionE":  # its second and third branches split once more
        return _Branches([
            parts["conv"],
            nn.Sequential(parts["tower_conv"], _Branches([parts["tower_mixed_conv"], parts["tower_mixed_conv_1"]])),
            nn.Sequential(
                parts["tower_1_conv"], parts["tower_1_conv_1"],
                _Branches([parts["tower_1_mixed_conv"], parts["tower_1_mixed_conv_1"]]),
            ),
            nn.Sequential(parts["tower_2_pool"], parts["tower_2_conv"]),
        ])  # fmt: skip
    return _Branches(parts.values())


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
