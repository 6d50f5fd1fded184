"""The parts of the networks against what they are made to equal."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddgan_core.blocks import CriticBlock, ResidualBlock, SelfAttention, convolve, group_norm_at_once, time_features


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["default", "channels_last"])
def test_group_norm_at_once_is_a_norm_then_each_images_scale_and_shift(layout: torch.memory_format) -> None:
    x, scale, shift, slope = noise(3, 16, 5, 4), noise(3, 16, seed=1), noise(3, 16, seed=2), noise(3, 16, 5, 4, seed=3)
    with torch.no_grad():
        x = x.to(memory_format=layout)
    inputs = (x.requires_grad_(), scale, shift)
    expected = F.group_norm(x, 2) * scale[:, :, None, None] + shift[:, :, None, None]
    found = group_norm_at_once(x, 2, scale, shift)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(*(torch.autograd.grad((y * slope).sum(), inputs) for y in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_convolve_adds_the_time_and_its_own_bias() -> None:
    conv, x, time = nn.Conv2d(4, 6, 3, padding=1).double(), noise(2, 4, 7, 5), noise(2, 6, seed=1)
    expected = conv(x) + time[:, :, None, None]
    found = convolve(conv, x, time)
    torch.testing.assert_close(found, expected)
    inputs = (x, time, *conv.parameters())
    for ours, theirs in zip(*(torch.autograd.grad(y.square().sum(), inputs) for y in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_convolve_stays_in_the_convolutions_precision() -> None:
    conv = nn.Conv2d(4, 6, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolve(conv, torch.ones(2, 4, 7, 5), torch.ones(2, 6)).dtype == torch.bfloat16


def test_time_features_are_sinusoids() -> None:
    features = time_features(torch.tensor([3]), 4)[0]
    assert features.tolist() == pytest.approx([math.sin(3), math.sin(0.03), math.cos(3), math.cos(0.03)], rel=1e-5)


def test_every_time_up_to_1000_is_told_apart() -> None:
    features = time_features(torch.arange(1, 1001), 16)
    distances = torch.cdist(features.double(), features.double()) + 10 * torch.eye(1000)
    assert distances.min() > 0.05


def test_attention_is_by_the_softmax_of_products_and_begins_as_nothing() -> None:
    layer, x = SelfAttention(16).double(), noise(2, 16, 3, 4)
    assert torch.equal(layer(x), x)
    nn.init.normal_(layer.out.weight)
    qkv = layer.qkv.weight[:, :, 0, 0] @ layer.norm(x).flatten(2) + layer.qkv.bias[:, None]
    q, k, v = qkv.chunk(3, dim=1)
    shares = (q.mT @ k / math.sqrt(16)).softmax(2)  # of the keys, for each query
    expected = x + (layer.out.weight[:, :, 0, 0] @ v @ shares.mT).view(2, 16, 3, 4)
    torch.testing.assert_close(layer(x), expected)


def test_a_residual_block_begins_as_its_skip_connection() -> None:
    x, time = noise(2, 8, 6, 4).float(), noise(2, 5, seed=1).float()
    same, wider = (ResidualBlock(8, c_out, 5, 0) for c_out in (8, 16))
    assert torch.equal(same(x, time, None), x)
    assert torch.equal(wider(x, time, None), wider.skip(x))


def test_a_critics_block_by_hand() -> None:
    block, x, time = CriticBlock(4, 6, 5, shrink=True).double(), noise(2, 4, 6, 8), noise(2, 5, seed=1)

    def leaky(h: torch.Tensor) -> torch.Tensor:
        return torch.where(h > 0, h, 0.2 * h)

    small = x.view(2, 4, 3, 2, 4, 2).mean((3, 5))
    h = block.conv_1(leaky(small)) + block.time(time)[:, :, None, None]
    expected = (block.skip(small) + block.conv_2(leaky(h))) / math.sqrt(2)
    torch.testing.assert_close(block(x, time), expected)
