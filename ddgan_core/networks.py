"""The networks, built from explicit numbers: one U-Net family, and a critic that is its encoder half.

DDPM and DDGAN share the U-Net, so that a comparison is one of methods: `NoisePredictor` is `Generator` without the
latent z. The width of each resolution is listed from the finest to the coarsest; a thin finest level is what makes
28x28 affordable on a CPU, without the pixel grid that a pixel-shuffle head leaves behind.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from ddgan_core import UserError
from ddgan_core.blocks import AdaptiveGroupNorm, CriticBlock, LatentMapping, ResidualBlock, SelfAttention, TimeEmbedding
from ddgan_core.shapes import Float, Int, Tensor

STD_GROUP = 4  # images per group in the critic's minibatch standard deviation


def check_image_size(height: int, width: int, levels: int) -> None:
    """Raises UserError unless so many levels, each half the one before, fit the images."""
    factor = 2 ** (levels - 1)
    if height % factor or width % factor:
        raise UserError(f"images of {height}x{width}: {levels} levels of widths need sides divisible by {factor}")


class UNet(nn.Module):
    """x_t, t (and z) -> an image-shaped output (Ronneberger et al. 2015; Ho et al. 2020, appendix B).

    widths: channels from the finest to the coarsest resolution, each half the one before.
    z_dim: length of the latent, 0 for none. attention: self-attention at the coarsest resolution.
    """

    def __init__(self, channels: int, widths: Sequence[int], z_dim: int, attention: bool) -> None:
        super().__init__()
        self.z_dim, self.levels = z_dim, len(widths)
        time_dim = widths[-1]
        style_dim = widths[-1] if z_dim else 0
        self.time = TimeEmbedding(time_dim)
        self.mapping = LatentMapping(z_dim, style_dim) if z_dim else None
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths))
        self.down = nn.ModuleList(ResidualBlock(w, w, time_dim, style_dim) for w in widths)
        self.middle = SelfAttention(widths[-1]) if attention else nn.Identity()
        self.up = nn.ModuleList(ResidualBlock(2 * w, w, time_dim, style_dim) for w in widths)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in pairwise(widths))
        self.norm = AdaptiveGroupNorm(widths[0], style_dim)
        self.head = nn.Conv2d(widths[0], channels, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "n c h w"], t: Int[Tensor, " n"], z: Float[Tensor, "n z"] | None = None
    ) -> Float[Tensor, "n c h w"]:
        check_image_size(x.shape[-2], x.shape[-1], self.levels)
        time = self.time(t)
        style = self.mapping(z) if self.mapping is not None else None
        h = self.stem(x)
        kept = []
        for level, block in enumerate(self.down):
            h = block(self.shrink[level - 1](h) if level else h, time, style)
            kept.append(h)
        h = self.middle(h)
        for level in reversed(range(self.levels)):
            h = self.up[level](torch.cat([h, kept[level]], dim=1), time, style)
            if level:
                # Nearest-neighbour growth followed by a convolution leaves no pixel grid (Odena et al. 2016).
                h = self.grow[level - 1](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.head(F.silu(self.norm(h, style)))


class NoisePredictor(UNet):
    """eps_theta(x_t, t) of the DDPM, eq. (6)."""

    def __init__(self, channels: int, widths: Sequence[int], attention: bool) -> None:
        super().__init__(channels, widths, z_dim=0, attention=attention)
        nn.init.zeros_(self.head.weight)


class Generator(UNet):
    """G_theta(x_t, z, t) = x_0 hat in [-1, 1], eq. (10)."""

    def forward(
        self, x: Float[Tensor, "n c h w"], t: Int[Tensor, " n"], z: Float[Tensor, "n z"] | None = None
    ) -> Float[Tensor, "n c h w"]:
        return super().forward(x, t, z).float().tanh()  # in bf16 it would be exactly 1, without a slope, from 3.5 on


def make_model(
    method: str, channels: int, widths: Sequence[int], z_dim: int, attention: bool
) -> Generator | NoisePredictor:
    """The network that samples: the noise predictor of a "ddpm", the generator of a "ddgan"."""
    if method == "ddpm":
        return NoisePredictor(channels, widths, attention)
    return Generator(channels, widths, z_dim, attention)


class Discriminator(nn.Module):
    """D_phi(x_{t-1}, x_t, t) -> one logit per image, larger = more real, eq. (8).

    The encoder half of the U-Net: no normalisation, minibatch standard deviation, sum pooling (Xiao et al. 2021, C).
    detail: it is also shown the `fine_detail` of x_{t-1}, which the images themselves hold at a quarter of their size.
    """

    def __init__(self, channels: int, widths: Sequence[int], detail: bool = False) -> None:
        super().__init__()
        time_dim = widths[-1]
        self.detail = detail
        self.time = TimeEmbedding(time_dim)
        self.stem = nn.Conv2d((3 if detail else 2) * channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            CriticBlock(widths[max(i - 1, 0)], w, time_dim, shrink=i > 0) for i, w in enumerate(widths)
        )
        self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.logit = nn.Linear(widths[-1], 1)
        # Nothing here normalises, so the initial weights must keep the signal's size (He et al. 2015): PyTorch's own
        # lose a factor of 2.4 in each convolution, and a critic that starts so takes twice as long to see anything.
        for name, conv in self.named_modules():
            if isinstance(conv, nn.Conv2d):
                linear = name == "stem" or name.endswith("skip")
                nn.init.kaiming_normal_(conv.weight, a=1.0 if linear else 0.2)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        nn.init.normal_(self.logit.weight, std=0.01)  # summed over the positions, so near 1 to begin with
        nn.init.zeros_(self.logit.bias)

    def forward(
        self, x_prev: Float[Tensor, "n c h w"], x_t: Float[Tensor, "n c h w"], t: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        time = self.time(t)
        h = self.stem(torch.cat([x_prev, x_t, fine_detail(x_prev)] if self.detail else [x_prev, x_t], dim=1))
        for block in self.blocks:
            h = block(h, time)
        h = F.leaky_relu(self.last(torch.cat([h, minibatch_std(h)], dim=1)), 0.2)
        with torch.autocast(h.device.type, enabled=False):  # bf16 cannot tell logits apart that are far from 0
            return self.logit(h.float().sum(dim=(2, 3))).squeeze(1)


def fine_part(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """x less its blur by [1 2 1] / 4 both ways."""
    blurred = F.pad(x, (1, 1, 1, 1), mode="reflect")
    for _ in range(2):  # along the rows, then along the columns; no convolution, so that bf16 does not round it
        blurred = (blurred[..., :-2] + 2 * blurred[..., 1:-1] + blurred[..., 2:]).mT / 4
    return x - blurred


def fine_detail(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """The `fine_part` of each image scaled to a root mean square of 1; 0 where an image is flat."""
    fine = fine_part(x)
    return fine * torch.rsqrt(fine.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-4)


def minibatch_std(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """How much the images of a group differ, as one more channel (Karras et al. 2018, section 3).

    Groups are strided, image i with i + n/g, ..., and as large as STD_GROUP where that divides the batch.
    """
    n, c, height, width = x.shape
    group = next(g for g in range(min(STD_GROUP, n), 0, -1) if n % g == 0)
    grouped = x.view(group, n // group, c, height, width)
    variance = (grouped - grouped.mean(0)).square().mean(0)  # Tensor.var is slow over a first dimension
    std = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return std.repeat(group)[:, None, None, None].expand(n, 1, height, width)


class Classifier(nn.Module):
    """A small convolutional classifier; its pooled last layer is the feature space `fashion_classifier`.

    widths: channels at each resolution, finest first; the last is also the number of features.
    """

    def __init__(self, channels: int, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, width in enumerate(widths):
            layers += [nn.MaxPool2d(2)] if i else []
            for c_in in (widths[i - 1] if i else channels, width):
                layers += [nn.Conv2d(c_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.logits = nn.Linear(widths[-1], classes)

    def forward(self, x: Float[Tensor, "n c h w"]) -> tuple[Float[Tensor, "n f"], Float[Tensor, "n k"]]:
        """Features and logits of images in [-1, 1]."""
        features = self.body(x)
        return features, self.logits(features)


def tensors_hash(state: Mapping[str, Tensor]) -> str:
    """Twelve hex digits over named tensors: which weights exactly."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
