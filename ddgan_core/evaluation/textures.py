"""Fine stripes in the middle of images: their power by direction, and whether two images have the same ones.

What is looked at is the middle half of each side, where a garment is and its outline mostly is not. A pattern that a
network leaves in every image may be weak beside the strong edges and prints of a few: medians over images see it where
the mean spectrum of a pile does not.
"""

import torch

from ddgan_core import UserError
from ddgan_core.diffusion import random_generator
from ddgan_core.shapes import Float, Tensor

FINE = 3.0  # pixels: stripes of this period or less are called fine
LEVELS = 255.0
DRAWS = 400  # of a bootstrap


def middle_coefficients(images: Float[Tensor, "n c h w"]) -> Tensor:
    """Fourier coefficients of the middle half of grey images under a Hann window: complex [n, s, s], vertical first.

    s is half the shorter side. Channels are averaged, the window's mean is taken out. The scale is such that white
    noise of variance v has coefficients of mean square v, but for the lowest ones. Raises UserError below 4 pixels.
    """
    height, width = images.shape[2:]
    side = min(height, width) // 2
    if side < 2:
        raise UserError(f"images of {height}x{width}: the middle half of 4x4 pixels or more is looked at")
    top, left = (height - side) // 2, (width - side) // 2
    middle = images.mean(1)[:, top : top + side, left : left + side].double()
    hann = torch.hann_window(side + 2, periodic=False, dtype=torch.float64)[1:-1]
    window = torch.outer(hann, hann)
    mean = (middle * window).sum((1, 2), keepdim=True) / window.sum()
    return torch.fft.fft2((middle - mean) * window) / window.square().sum().sqrt()


def stripe_coefficients(images: Float[Tensor, "n c h w"]) -> Tensor:
    """Those of stripes that run across the middle, complex [n, 2, k, 3]: [:, 0] horizontal ones, [:, 1] vertical ones.

    The third axis counts cycles over the s pixels of the window, 0 to s // 2, at a right angle to the stripes; the last
    holds one cycle or none along them, so that only long stripes are in it.
    """
    found = middle_coefficients(images)
    side = found.shape[1]
    across, along = torch.arange(side // 2 + 1), torch.tensor([-1, 0, 1])
    return torch.stack([found[:, across][:, :, along], found.mT[:, across][:, :, along]], 1)


def stripe_power(images: Tensor) -> Float[Tensor, "n 2 k"]:
    """Power of the stripes of each image, [n, 2, k]: by direction and cycles per window, grey levels in [0, 1].

    Raises UserError for images [n, c, h, w] that are not uint8: what is published is what is looked at.
    """
    if images.dtype != torch.uint8:
        raise UserError(f"images of {images.dtype}: spectra are of uint8 images, see data.to_uint8")
    return stripe_coefficients(images.float() / LEVELS).abs().square().mean(3)


def periods(side: int) -> Float[Tensor, " k"]:
    """Pixels per cycle at each place of `stripe_power`, for a window of so many pixels; infinite at the first."""
    return side / torch.arange(side // 2 + 1, dtype=torch.float64)


def fine(side: int) -> Tensor:
    """Which places of `stripe_power` are fine stripes: periods of `FINE` pixels or less."""
    return periods(side) <= FINE


def median_ratio(some: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Median over the first axis of some by that of others, its 95 % interval's low end and its high one.

    some: [n, ...], others: [m, ...], each result [...]. The interval is a percentile bootstrap over both piles.
    """
    generator = random_generator(0, "textures/bootstrap")

    def drawn(pile: Tensor) -> Tensor:
        return pile[torch.randint(len(pile), (len(pile),), generator=generator)].quantile(0.5, dim=0)

    replicates = torch.stack([drawn(some) / drawn(others) for _ in range(DRAWS)])
    low, high = replicates.quantile(torch.tensor([0.025, 0.975], dtype=replicates.dtype), dim=0)
    return some.quantile(0.5, dim=0) / others.quantile(0.5, dim=0), low, high


def sameness(one: Tensor, other: Tensor) -> tuple[float, float, float]:
    """Correlation of coefficients, complex [n, ...] both, over all images; low and high end of its 95 % interval.

    Phases count; the interval is a percentile bootstrap over images.

    1: the same stripes in the same places; -1: dark where the other is bright; 0: nothing to do with each other.
    """
    one, other = one.flatten(1), other.flatten(1)
    sums = torch.stack(
        [(one * other.conj()).real.sum(1), one.abs().square().sum(1), other.abs().square().sum(1)], dim=1
    )
    generator = random_generator(0, "textures/bootstrap")
    chosen = torch.randint(len(sums), (DRAWS, len(sums)), generator=generator)
    totals = torch.cat([sums.sum(0, keepdim=True), sums[chosen].sum(1)])
    values = totals[:, 0] / (totals[:, 1] * totals[:, 2]).sqrt()
    low, high = values[1:].quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return values[0].item(), low, high
