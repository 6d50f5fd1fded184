"""The FID Inception without its script: the same function of the same weights, and clean-fid's resize, batched.

What costs time in the script, on a CPU, is that it leaves channels_last in every block and normalises after every
convolution. Here batch norm is folded into the convolutions, and so is the scaling of the pixels into the first one,
and the first layers, whose maps are large, see few images at a time: their maps then stay in a core's cache.
"""

import functools

import numpy as np
import torch
from torch import nn

from ddgan_core.shapes import Float, Tensor, UInt8

SIDE = 299
EARLY = 6  # layers up to the second pool, after which maps are 35x35
AT_A_TIME = 2  # images in the early layers on a CPU: of one, two and four the fastest, a tenth of all the time less


@functools.cache
def bicubic_matrix(side: int) -> Float[Tensor, "299 side"]:
    """PIL's float bicubic resize of one axis, which is linear: what it does to each unit vector."""
    from PIL import Image

    identity = Image.fromarray(np.eye(side, dtype=np.float32))
    return torch.from_numpy(np.array(identity.resize((side, SIDE), Image.Resampling.BICUBIC)))


def clean_resize(images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c 299 299"]:
    """clean-fid's resize, batched and on any device: PIL bicubic in float on each channel, clipped to [0, 255].

    Source: Parmar et al. 2022, section 3; it is linear and separable, so that two matrices do it.
    """
    rows, columns = (bicubic_matrix(side).to(images.device) for side in images.shape[2:])
    with torch.autocast(images.device.type, enabled=False):  # the pixels are no part of a network's precision
        return (rows @ images.float() @ columns.T).clamp_(0, 255)


class Inception(nn.Module):
    """pool3 features [n, 2048] of uint8 images [n, 1 or 3, h, w], as clean-fid defines them.

    scripted: the `layers` of inception-2015-12-05.pt, which take (x - 128) / 128 at 299x299. Their first convolution
    has no padding, so that the scaling folds into its weights exactly. A grey image is three equal channels: one
    convolution of one channel, its weights summed.
    """

    def __init__(self, scripted: nn.Module) -> None:
        super().__init__()
        first, *rest = folded(scripted)
        self.first, self.early, self.late = first, nn.Sequential(*rest[:EARLY]), nn.Sequential(*rest[EARLY:])
        conv: nn.Conv2d = first[0]
        weight = conv.weight.data.double()
        conv.bias.data = (conv.bias.data.double() - weight.sum((1, 2, 3))).float()
        conv.weight.data = (weight / 128).float()
        self.grey = nn.Conv2d(1, conv.out_channels, conv.kernel_size, conv.stride)
        self.grey.weight.data = (weight / 128).sum(1, keepdim=True).float()
        self.grey.bias.data = conv.bias.data
        self.to(memory_format=torch.channels_last)

    def forward(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n 2048"]:
        parts = images.split(AT_A_TIME) if images.device.type == "cpu" else (images,)
        return self.late(torch.cat([self.maps(part) for part in parts])).flatten(1)

    def maps(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n 192 35 35"]:
        """What the early layers make of the images, resized."""
        x = clean_resize(images)
        x = self.grey(x).relu_() if images.shape[1] == 1 else self.first(x)
        return self.early(x.contiguous(memory_format=torch.channels_last))


class _Branches(nn.ModuleList):
    """Several ways through a block, concatenated along the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], 1)


def folded(scripted: nn.Module) -> nn.Module:
    """The scripted layers as plain modules, their batch norm folded into the convolutions: the same function."""
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
    parts = {name: folded(child) for name, child in scripted.named_children()}
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
