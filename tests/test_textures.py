"""Stripes are found where they were put, and nowhere else."""

import math

import pytest
import torch

from ddgan_core import UserError
from ddgan_core.evaluation import textures
from ddgan_core.evaluation.textures import fine, median_ratio, middle_coefficients, periods, sameness, stripe_power


def striped(period: float, n: int = 3, size: int = 28, amplitude: float = 20.0) -> torch.Tensor:
    rows = 128 + amplitude * torch.cos(2 * math.pi * torch.arange(size) / period)
    return rows[None, None, :, None].expand(n, 1, size, size).round().to(torch.uint8)


@pytest.mark.parametrize("cycles", [2, 4, 5, 7])
def test_stripes_are_found_at_their_period_and_in_their_direction(cycles):
    images = striped(14 / cycles)
    power = stripe_power(images)
    assert power[:, 0].argmax(1).tolist() == [cycles] * 3
    assert (power[:, 1, 3:] < 1e-3 * power[:, 0].amax(1, keepdim=True)).all(), "they run one way only"
    turned = stripe_power(images.mT.contiguous())
    torch.testing.assert_close(turned, power.flip(1))
    assert periods(14)[cycles] == pytest.approx(14 / cycles)


def test_white_noise_has_its_variance_at_every_frequency():
    noise = torch.randn(4000, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 0.5
    power = middle_coefficients(noise).abs().square().mean(0)
    torch.testing.assert_close(power[2:-1, 2:-1], torch.full((11, 11), 0.25, dtype=torch.float64), rtol=0.1, atol=0)
    images = (60 * noise[:1000] + 128).clamp(0, 255).to(torch.uint8)  # a deviation of 30 grey levels
    assert stripe_power(images)[..., 3:7].mean().item() == pytest.approx((30 / 255) ** 2, rel=0.05)


def test_what_surrounds_the_middle_and_its_brightness_count_nothing():
    images = striped(2.0)
    other = images.clone()
    other[:, :, :7], other[:, :, 21:], other[..., :7], other[..., 21:] = 0, 255, 9, 200
    torch.testing.assert_close(stripe_power(other), stripe_power(images))
    assert stripe_power(torch.full((1, 1, 28, 28), 77, dtype=torch.uint8)).max() < 1e-20


def test_fine_is_three_pixels_or_less():
    assert fine(14).tolist() == [False] * 5 + [True] * 3
    assert fine(4).tolist() == [False, False, True]
    assert fine(12).tolist() == [False] * 4 + [True] * 3, "three pixels are"


def test_median_ratio_of_known_piles():
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(3000, 2, generator=generator, dtype=torch.float64) + 1
    ratio, low, high = median_ratio(base[:1500] * torch.tensor([3.0, 1.0]), base[1500:])
    assert ((low < torch.tensor([3.0, 1.0])) & (high > torch.tensor([3.0, 1.0]))).all()
    assert ((high - low) / ratio < 0.1).all()
    heavy = base[:1500].clone()
    heavy[:300] *= 1e6  # a few images do not move a median; a mean would be moved a lot
    assert (median_ratio(heavy, base[1500:])[0] < 1.5).all()


def test_the_interval_of_a_median_is_of_95_percent(monkeypatch):
    """Of 101 numbers that of a resample is the 51st, give or take sqrt(101) / 2 places: 1.96 of these to each side."""
    monkeypatch.setattr(textures, "DRAWS", 4000)
    ratio, low, high = median_ratio(torch.arange(1.0, 102.0).double(), torch.ones(5).double())
    assert ratio == 51
    assert float(high - low) == pytest.approx(1.96 * 101**0.5, abs=1.5)


def test_the_median_sees_what_the_mean_hides():
    """Half of the real images smooth, half with strong stripes; every fake with weak ones, and the mean power equal."""
    real = torch.cat([striped(2.0, 49, amplitude=40), striped(2.0, 51, amplitude=0.6)])
    fake = striped(2.0, 100, amplitude=28)
    some, others = stripe_power(fake)[:, 0, 7], stripe_power(real)[:, 0, 7]
    assert (some.mean() / others.mean()).item() == pytest.approx(1, abs=0.1)
    assert (some.median() / others.median()).item() > 100


def test_sameness_of_shifted_stripes():
    noise = torch.randn(50, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    one = middle_coefficients(noise)
    assert sameness(one, 3 * one)[0] == pytest.approx(1)
    assert sameness(one, -one)[0] == pytest.approx(-1)
    covered = 0
    for seed in range(2, 22):  # of twenty 95 % intervals about 0, all but a few hold it
        other = torch.randn(50, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
        value, low, high = sameness(one, middle_coefficients(other))
        assert low < value < high
        assert abs(value) < 0.1
        covered += low < 0 < high
    assert covered >= 16
    stripes = striped(2.0).float()  # of period 2: a shift by one pixel turns dark to bright
    a, b = (middle_coefficients(x)[:, 7] for x in (stripes, stripes.roll(1, 2)))
    assert sameness(a, b)[0] == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize(
    "images", [torch.rand(2, 1, 28, 28), torch.zeros(2, 1, 3, 3, dtype=torch.uint8)], ids=["floats", "small"]
)
def test_other_images_are_refused(images):
    with pytest.raises(UserError):
        stripe_power(images)
