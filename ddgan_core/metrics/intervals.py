"""How far another draw of as many samples might have scored: 95 % intervals for every metric, the reference held fixed.

What is covered is a metric's mean over draws of n samples, its bias in n included: compare at one n only. The standard
error is the delete-a-group jackknife's (Efron & Tibshirani 1993, chapter 11), the interval centred at the estimate
itself: a percentile bootstrap would draw duplicates, which shift distances upwards and neighbours inwards.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from ddgan_core import UserError
from ddgan_core.metrics.distances import (
    CHUNK,
    K,
    Moments,
    class_statistics,
    distances,
    frechet_distance,
    kernel,
    neighbour_distances,
    own_kernel,
)
from ddgan_core.shapes import Float, Tensor

GROUPS = 20


def half_width(without: Sequence[float] | Float[Tensor, " g"]) -> float:
    """Half of the interval's width, from the values with each group left out: student's t times the standard error."""
    values = torch.as_tensor(without, dtype=torch.float64)
    error = ((len(values) - 1) * (values - values.mean()).square().mean()).sqrt()
    return float(error) * student_quantile(len(values))


def mean_interval(values: Iterable[float], confidence: float = 0.95) -> tuple[float, float]:
    """Mean of independent values and half the width of its two-sided interval (Student's); infinite for one value."""
    v = torch.tensor(list(values), dtype=torch.float64)
    if len(v) < 2:
        return float(v.mean()), math.inf
    return float(v.mean()), float(v.std() / math.sqrt(len(v))) * student_quantile(len(v), confidence)


def geometric_mean(values: Iterable[float]) -> float:
    """Of distances, whose ratios count: exp of the mean logarithm."""
    return float(np.exp(np.mean(np.log([*values]))))


def student_quantile(count: int, confidence: float = 0.95) -> float:
    """How many standard errors of `count` independent values reach to each side of their mean.

    With t = sqrt(count - 1) tan(a), Student's density goes as cos(a)^(count - 2), summed here: every score needs this,
    and a bare GPU machine may have no SciPy.
    """
    angle = np.linspace(0, math.pi / 2, 20_001)
    density = np.cos(angle) ** (count - 2)
    within = np.append(0, np.cumsum(density[1:] + density[:-1]))
    return math.sqrt(count - 1) * math.tan(np.interp(confidence * within[-1], within, angle))


def group_of(n: int) -> Tensor:
    """[n]: the group of each sample, strided, so that an order in the samples does not make the groups differ.

    Raises UserError for fewer than two samples a group.
    """
    if n < 2 * GROUPS:
        raise UserError(f"{n} images: an interval by {GROUPS} groups needs {2 * GROUPS} or more")
    return torch.arange(n) % GROUPS


def frechet_interval(features: Float[Tensor, "n d"], reference: Moments) -> tuple[float, float]:
    """The squared Frechet distance of n features to a reference, and the half-width of its interval.

    Among real images, where the distance is of second order in the errors, it is about 1.5 times too wide; so it is
    with no more samples than features, as FID has at N = 2,000 (tests/test_intervals.py).
    """
    group = group_of(len(features)).to(features.device)
    parts = [Moments.of(features[group == g]) for g in range(GROUPS)]
    without = [frechet_distance(_merged(parts[:g] + parts[g + 1 :]), reference) for g in range(GROUPS)]
    return frechet_distance(_merged(parts), reference), half_width(without)


def _merged(parts: Sequence[Moments]) -> Moments:
    total = Moments(0, torch.zeros_like(parts[0].mean), torch.zeros_like(parts[0].scatter))
    for part in parts:
        total.merge(part)
    return total


def kernel_interval(fake: Float[Tensor, "n d"], real: Float[Tensor, "m d"]) -> tuple[float, float]:
    """`metrics.kernel_distance` and the half-width of its interval, from the kernel's sums over pairs of groups."""
    x, y = fake.double(), real.double()
    member = _members(group_of(len(x)).to(x.device))
    across = x.new_zeros(GROUPS + 1)
    within = across.diag()
    for part, own in zip(x.split(CHUNK), member.split(CHUNK), strict=True):
        within += own.T @ (kernel(part, x) @ member)
        across += own.T @ kernel(part, y).sum(1)
    diagonal = member.T @ (x.square().sum(1) / x.shape[1] + 1) ** 3
    left = len(x) - member.sum(0)
    pairs = within.sum() - 2 * within.sum(1) + within.diagonal() - (diagonal.sum() - diagonal)
    without = pairs / (left * (left - 1)) - 2 * (across.sum() - across) / (left * len(y))
    # The term of pairs of reals is the same whoever is left out.
    return float(without[-1]) + own_kernel(y), half_width(without[:-1])


def _members(group: Tensor) -> Tensor:
    """[n, GROUPS + 1]: one-hot; last comes a group of nobody, which leaves everybody in when it is left out."""
    return torch.nn.functional.one_hot(group, GROUPS + 1).double()


def neighbour_intervals(fake: Float[Tensor, "m d"], real: Float[Tensor, "n d"]) -> dict[str, tuple[float, float]]:
    """{name: (value, half-width)} of precision, recall, density and coverage, as in `metrics.precision_recall`.

    Recall's is about twice too wide: whether a real image is recalled depends on several fakes together, and what is of
    higher order a jackknife counts more than once (Efron and Stein 1981). Measured: results/LOG.md, 2026-11-26.
    """
    without = neighbours_without(fake, real)
    return {name: (float(values[-1]), half_width(values[:-1])) for name, values in without.items()}


def neighbours_without(fake: Float[Tensor, "m d"], real: Float[Tensor, "n d"]) -> dict[str, Float[Tensor, " h"]]:
    """The four metrics with each group of fakes left out, and, last, with none: what `precision_recall` would give."""
    fake, real = fake.double(), real.double()
    group = group_of(len(fake)).to(fake.device)
    member = _members(group)
    real_radius, fake_radius = neighbour_distances(real), _radii_without(fake, group)
    inside, balls = fake.new_zeros(2, len(fake))
    recalled, covered = fake.new_zeros(2, GROUPS + 1)
    for d, radius in zip(distances(real, fake), real_radius.split(CHUNK), strict=True):
        hits = (d < radius[:, None]).double()
        inside, balls = torch.maximum(inside, hits.amax(0)), balls + hits.sum(0)
        covering = hits @ member
        covered += (covering.sum(1, keepdim=True) - covering > 0).sum(0)
        for g in range(GROUPS + 1):
            recalled[g] += ((d < fake_radius[:, g]) & (group != g)).any(1).sum()
    left = len(fake) - member.sum(0)
    return {
        "precision": (inside.sum() - inside @ member) / left, "recall": recalled / len(real),
        "density": (balls.sum() - balls @ member) / (K * left), "coverage": covered / len(real),
    }  # fmt: skip


def _radii_without(x: Tensor, group: Tensor) -> Float[Tensor, "n g"]:
    """From each point to its K-th nearest other one that is not of group g, for each g, the group of nobody last."""
    radii = []
    for d in distances(x, x):
        seen = min(len(x), 8 * (K + 1))
        while True:
            near, index = d.topk(seen, dim=1, largest=False)
            kept = group[index][:, :, None] != torch.arange(GROUPS + 1, device=x.device)
            if seen == len(x) or int(kept.sum(1).min()) > K:
                break
            seen = min(len(x), 4 * seen)
        # The nearest of all is the point itself, where its own group is not the one left out; elsewhere no one asks.
        radii.append(near.gather(1, (kept.cumsum(1) == K + 1).int().argmax(1)))
    return torch.cat(radii)


def class_errors(probabilities: Float[Tensor, "n k"]) -> dict[str, float]:
    """{name: half-width} of `metrics.class_statistics`, but for the number of classes."""
    group = group_of(len(probabilities))
    without = [class_statistics(probabilities[group != g]) for g in range(GROUPS)]
    names = ("top_probability", "class_entropy", "class_kl")
    return {name: half_width([values[name] for values in without]) for name in names}
