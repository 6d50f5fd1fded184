"""What the networks are built from: time, latent, normalisation, residual blocks, attention."""

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from ddgan_core.shapes import Float, Int, Tensor

GROUP_CHANNELS = 8  # channels per group in GroupNorm


def time_features(t: Int[Tensor, " n"], dim: int) -> Float[Tensor, "n dim"]:
    """Sinusoids of t at geometrically spaced frequencies (Vaswani et al. 2017, section 3.5)."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(dim // 2, device=t.device) / (dim // 2))
    angles = t[:, None].float() * frequencies[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """t -> a vector, through sinusoids and two layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim), nn.SiLU())

    def forward(self, t: Int[Tensor, " n"]) -> Float[Tensor, "n dim"]:
        return self.layers(time_features(t, self.dim))


class LatentMapping(nn.Module):
    """z -> style: a normalised MLP (Karras et al. 2019; Xiao et al. 2021, appendix C)."""

    def __init__(self, z_dim: int, style_dim: int) -> None:
        super().__init__()
        widths = (z_dim, style_dim, style_dim, style_dim)
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Float[Tensor, "n z"]) -> Float[Tensor, "n style"]:
        return self.layers(z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8))


class AdaptiveGroupNorm(nn.Module):
    """GroupNorm whose scale and shift come from the style; with style_dim = 0, a plain affine GroupNorm."""

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        groups = max(1, channels // GROUP_CHANNELS)
        self.norm = nn.GroupNorm(groups, channels, affine=style_dim == 0)
        if style_dim:
            self.modulate = nn.Linear(style_dim, 2 * channels)
            nn.init.constant_(self.modulate.bias[:channels], 1.0)
            nn.init.zeros_(self.modulate.bias[channels:])
        else:
            self.modulate = None

    def forward(self, x: Float[Tensor, "n c h w"], style: Float[Tensor, "n style"] | None) -> Float[Tensor, "n c h w"]:
        x = x.float()  # CPUs are slow at it in bf16
        if self.modulate is None:
            return self.norm(x)
        scale, shift = self.modulate(style).float().chunk(2, dim=1)
        if x.is_cuda:
            return group_norm_at_once(x, self.norm.num_groups, scale, shift)
        return torch.addcmul(shift[:, :, None, None], self.norm(x), scale[:, :, None, None])


def group_norm_at_once(
    x: Float[Tensor, "n c h w"], groups: int, scale: Float[Tensor, "n c"], shift: Float[Tensor, "n c"]
) -> Float[Tensor, "n c h w"]:
    """GroupNorm, then each image by its own scale and shift: one pass instead of two, as all images are taken for one.

    A GPU's kernels want its default layout; where a CPU has channels last, it would be copied for it.
    """
    one = x.contiguous().view(1, -1, *x.shape[2:])
    return F.group_norm(one, len(x) * groups, scale.flatten(), shift.flatten()).view_as(x)


def convolve(conv: nn.Conv2d, x: Float[Tensor, "n c h w"], time: Float[Tensor, "n k"]) -> Float[Tensor, "n k h w"]:
    """conv(x) + time of a plain `conv`, its bias added to time first: over all of an image once instead of twice."""
    h = F.conv2d(x, conv.weight, None, conv.stride, conv.padding)
    return h + (time + conv.bias).to(h.dtype)[:, :, None, None]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; time is added between them, the style modulates both norms."""

    def __init__(self, c_in: int, c_out: int, time_dim: int, style_dim: int) -> None:
        super().__init__()
        self.norm_1 = AdaptiveGroupNorm(c_in, style_dim)
        self.conv_1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(time_dim, c_out)
        self.norm_2 = AdaptiveGroupNorm(c_out, style_dim)
        self.conv_2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        nn.init.zeros_(self.conv_2.weight)  # the block starts as its skip connection
        nn.init.zeros_(self.conv_2.bias)

    def forward(self, x: Tensor, time: Tensor, style: Tensor | None) -> Tensor:
        h = convolve(self.conv_1, F.silu(self.norm_1(x, style)), self.time(time))
        h = self.conv_2(F.silu(self.norm_2(h, style)))
        return self.skip(x) + h


class SelfAttention(nn.Module):
    """Single-head attention over positions, with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(max(1, channels // GROUP_CHANNELS), channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        n, c, height, width = x.shape
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(attended.transpose(1, 2).reshape(n, c, height, width))


class CriticBlock(nn.Module):
    """Residual block without normalisation; halves the resolution when asked to."""

    def __init__(self, c_in: int, c_out: int, time_dim: int, shrink: bool) -> None:
        super().__init__()
        self.shrink = shrink
        self.conv_1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(time_dim, c_out)
        self.conv_2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        if self.shrink:
            x = F.avg_pool2d(x, 2)
        h = convolve(self.conv_1, F.leaky_relu(x, 0.2), self.time(time))
        h = self.conv_2(F.leaky_relu(h, 0.2))
        return (self.skip(x) + h) * math.sqrt(0.5)
