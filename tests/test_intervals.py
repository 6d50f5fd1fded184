"""Intervals: what is left out by formula is what is left out by hand, and they cover on draws of known laws."""

import numpy as np
import pytest
import torch

from ddgan_core import UserError
from ddgan_core.metrics.distances import Moments, class_statistics, frechet_distance, kernel_distance, precision_recall
from ddgan_core.metrics.intervals import (
    GROUPS,
    class_errors,
    frechet_interval,
    geometric_mean,
    group_of,
    half_width,
    kernel_interval,
    mean_interval,
    neighbour_intervals,
    neighbours_without,
    student_quantile,
)


def draw(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return shift + scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def standard(d: int) -> Moments:
    return Moments(10, torch.zeros(d).double(), torch.eye(d).double() * 9)


def covered(values: list[float], half_widths: list[float]) -> float:
    v = np.array(values)
    return float((abs(v - v.mean()) < np.array(half_widths)).mean())


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("count", [2, 3, 10, 20, 100])
def test_students_quantile_is_scipys(count: int, confidence: float) -> None:
    from scipy.stats import t

    assert student_quantile(count, confidence) == pytest.approx(t.ppf((1 + confidence) / 2, count - 1), rel=2e-7)


def test_the_interval_of_a_mean_is_students() -> None:
    assert mean_interval([1, 2, 3, 4, 5]) == (3, pytest.approx(2.776445 * (2.5 / 5) ** 0.5, rel=1e-6))
    assert mean_interval([1, 2, 3, 4]) == (2.5, pytest.approx(3.1824463 * 1.2909944 / 2, rel=1e-6))
    assert mean_interval([1, 2, 3, 4, 5], 0.99) == (3, pytest.approx(4.6040949 * (2.5 / 5) ** 0.5, rel=1e-6))
    assert mean_interval([2.0]) == (2, float("inf"))


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    """With a group for each value, the interval of a mean is student's."""
    from scipy.stats import t

    x = draw(40, 1, 0).double().flatten()
    without = [float(torch.cat([x[:i], x[i + 1 :]]).mean()) for i in range(40)]
    assert half_width(without) == pytest.approx(float(x.std()) / 40**0.5 * t.ppf(0.975, 39))


def test_the_interval_of_a_frechet_distance_covers() -> None:
    """Gaussians of known distance, 300 draws: the 95 % interval holds the mean over draws about 95 % of the time."""
    d, n = 8, 1000
    truth = d * 0.3**2 + d * 0.2**2  # mean 0.3 and standard deviation 1.2 in each direction
    pairs = [frechet_interval(draw(n, d, s, 0.3, 1.2), standard(d)) for s in range(300)]
    values, half_widths = map(list, zip(*pairs, strict=True))
    assert 0.91 < covered(values, half_widths) < 0.985
    assert 0 < np.mean(values) - truth < 3 * np.std(values), "the bias in n is upwards, and here small"


def test_the_interval_errs_on_the_wide_side_at_the_floor() -> None:
    """Where both distributions are one, the distance is of second order: the jackknife covers, and is too wide."""
    pairs = [frechet_interval(draw(500, 8, s), standard(8)) for s in range(150)]
    values, half_widths = map(list, zip(*pairs, strict=True))
    assert covered(values, half_widths) > 0.95
    assert 1 < np.mean(half_widths) / (2 * np.std(values)) < 2


def test_the_interval_covers_with_as_many_samples_as_features() -> None:
    """As FID has at N = 2,000: the bias in n is as large as the distance, the interval of what one draw gives holds."""
    d = 48
    scales = torch.linspace(0.05, 1, d)
    exact = Moments(2, torch.zeros(d).double(), scales.double().square().diag())
    pairs = [frechet_interval((0.3 + 1.2 * draw(d, d, s)) * scales, exact) for s in range(100)]
    values, half_widths = map(list, zip(*pairs, strict=True))
    assert covered(values, half_widths) > 0.93
    assert 1 < np.mean(half_widths) / (2 * np.std(values)) < 2
    truth = 0.13 * float(scales.square().sum())
    assert np.mean(values) > 2 * truth, "which is why one N is never compared with another"


def test_an_interval_is_around_the_distance_itself() -> None:
    x, reference = draw(101, 5, 1, 1.0), Moments.of(draw(99, 5, 2))
    value, half = frechet_interval(x, reference)
    assert value == pytest.approx(frechet_distance(Moments.of(x), reference), rel=1e-9)
    assert half > 0


def test_an_order_in_the_samples_does_not_widen_it() -> None:
    x = draw(1000, 8, 0)
    ordered = x[x[:, 0].argsort()]
    assert frechet_interval(ordered, standard(8))[1] < 1.5 * frechet_interval(x, standard(8))[1]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices in pieces, as those of the study's thousands of samples are."""
    for module in ("distances", "intervals"):
        monkeypatch.setattr(f"ddgan_core.metrics.{module}.CHUNK", 32)


@pytest.mark.usefixtures("small_chunks")
def test_the_kernels_sums_are_those_of_the_samples_that_stay() -> None:
    fake, real = draw(90, 4, 0, 0.2), draw(70, 4, 1)
    group = group_of(90)
    without = [kernel_distance(fake[group != g], real) for g in range(20)]
    value, half = kernel_interval(fake, real)
    assert half == pytest.approx(half_width(without), rel=1e-9)
    assert value == pytest.approx(kernel_distance(fake, real), rel=1e-10)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("how", ["apart", "tight", "on a grid"])
def test_neighbours_are_those_of_the_samples_that_stay(how: str) -> None:
    """Also where one group's fakes are all each other's neighbours, so that few of those looked at first may stay.

    On a grid many are as far as the third neighbour."""
    fake, real = draw(40 * GROUPS, 3, 0, 0.5), draw(100, 3, 1)
    group = group_of(len(fake))
    if how == "tight":
        fake[group == 1] = 2 + 1e-3 * fake[group == 1]
    if how == "on a grid":
        fake, real = (2 * fake).round(), (2 * real).round()
    found = neighbours_without(fake, real)
    for g in (0, 1, GROUPS):  # of the last there are none
        for name, value in precision_recall(real, fake[group != g]).items():
            assert float(found[name][g]) == pytest.approx(value), (name, g)


def test_intervals_of_neighbours_and_of_the_kernel_cover() -> None:
    """150 draws against one reference: each holds its metric's mean over draws, at least nine times in ten."""
    real, d, n = draw(400, 4, 10_000), 4, 400
    values: dict[str, list[float]] = {}
    widths: dict[str, list[float]] = {}
    for seed in range(150):
        fake = draw(n, d, seed, 0.4, 0.8)
        for name, (value, half) in (neighbour_intervals(fake, real) | {"kernel": kernel_interval(fake, real)}).items():
            values.setdefault(name, []).append(value)
            widths.setdefault(name, []).append(half)
    assert {name: values[name][-1] for name in values if name != "kernel"} == pytest.approx(
        precision_recall(real, fake)
    )
    shares = {name: covered(values[name], widths[name]) for name in values}
    too_wide = {name: np.mean(widths[name]) / (2.09 * np.std(values[name])) for name in values}
    assert all(share > 0.9 for share in shares.values()), shares
    assert all(0.8 < ratio < 2 for ratio in too_wide.values()), too_wide


def test_intervals_of_class_statistics_cover() -> None:
    law = torch.distributions.Dirichlet(torch.tensor([0.2, 0.4, 0.6, 0.8]))
    torch.manual_seed(0)
    piles = [law.sample((400,)) for _ in range(150)]
    for name in ("top_probability", "class_entropy", "class_kl"):
        values = [class_statistics(pile)[name] for pile in piles]
        assert covered(values, [class_errors(pile)[name] for pile in piles]) > 0.9


def test_the_interval_of_a_mean_probability_is_that_of_its_groups() -> None:
    """Where groups are of one size the jackknife of a mean is Student's of the groups' means."""
    probabilities = torch.rand(20 * GROUPS, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    means = probabilities.max(1).values.double().view(20, GROUPS).mean(0)
    assert class_errors(probabilities)["top_probability"] == pytest.approx(mean_interval(means.tolist())[1], rel=1e-9)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(UserError, match="39 images: an interval by 20 groups needs 40"):
        frechet_interval(draw(39, 3, 0), standard(3))


def test_the_geometric_mean_is_that_of_ratios() -> None:
    assert geometric_mean(iter([1.0, 4.0])) == pytest.approx(2)
    assert geometric_mean([3.0, 6.0, 12.0]) / geometric_mean([1.0, 2.0, 4.0]) == pytest.approx(3)
