"""Distances against closed forms and an independent implementation."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ddgan_core import UserError
from ddgan_core.bench.mend import mend_torchvision
from ddgan_core.metrics.distances import (
    Moments,
    class_statistics,
    frechet_distance,
    kernel_distance,
    precision_recall,
)


def gaussian(mean: list[float], covariance: list[list[float]], n: int = 10) -> Moments:
    """Moments with exactly this mean and covariance."""
    return Moments(n, torch.tensor(mean).double(), torch.tensor(covariance).double() * (n - 1))


def features(n: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) @ torch.randn(d, d, generator=generator) + seed


@pytest.mark.parametrize("sizes", [[100], [1, 99], [33, 33, 34], [1] * 100])
def test_moments_do_not_depend_on_the_batches(sizes: list[int]) -> None:
    x = features(100, 5, 1) + 1e4  # far from 0, where sums of squares lose digits
    moments = Moments.of(x.split(sizes))
    assert moments.n == 100
    torch.testing.assert_close(moments.mean, x.double().mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(moments.covariance, torch.cov(x.double().T), rtol=1e-9, atol=1e-9)


def test_a_covariance_needs_two_images() -> None:
    with pytest.raises(UserError, match="1 images"):
        _ = Moments.of(features(1, 3, 0)).covariance
    with pytest.raises(UserError, match="no features"):
        Moments.of([])


def test_a_pile_that_grows_forgets_its_root() -> None:
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    grown = Moments.of(x[:10])
    assert torch.allclose(grown.root @ grown.root, grown.covariance)
    grown.update(5 * x[10:])
    assert torch.allclose(grown.root @ grown.root, grown.covariance)


def test_frechet_distance_by_hand() -> None:
    """One dimension: (m_a - m_b)^2 + (s_a - s_b)^2. Covariances that commute: the same along each common axis."""
    assert frechet_distance(gaussian([0], [[4]]), gaussian([3], [[1]])) == pytest.approx(3**2 + (2 - 1) ** 2)
    a, b = gaussian([1, 2], [[1, 0], [0, 9]]), gaussian([1, 0], [[4, 0], [0, 4]])
    assert frechet_distance(a, b) == pytest.approx(2**2 + (1 - 2) ** 2 + (3 - 2) ** 2)
    # [[2, 1], [1, 2]] has eigenvalues 3 and 1, [[2, -1], [-1, 2]] has 1 and 3 along the same axes.
    a, b = gaussian([0, 0], [[2, 1], [1, 2]]), gaussian([0, 0], [[2, -1], [-1, 2]])
    assert frechet_distance(a, b) == pytest.approx(2 * (math.sqrt(3) - 1) ** 2)
    # A point mass has no overlap with anything: all of the other's variance is to be moved.
    assert frechet_distance(gaussian([0, 0], [[0, 0], [0, 0]]), a) == pytest.approx(4)


@pytest.mark.parametrize(("n", "d"), [(200, 16), (10, 16)])
def test_frechet_distance_is_a_distance(n: int, d: int) -> None:
    """Also where there are fewer images than features and the covariances are singular."""
    a, b = Moments.of(features(n, d, 1)), Moments.of(features(n, d, 2))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)
    assert frechet_distance(a, b) > 0
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-4)


def test_frechet_distance_is_scipys() -> None:
    from scipy.linalg import sqrtm

    a, b = Moments.of(features(500, 32, 1)), Moments.of(features(300, 32, 2))
    A, B = a.covariance.numpy(), b.covariance.numpy()
    expected = np.sum((a.mean - b.mean).numpy() ** 2) + np.trace(A + B - 2 * np.real(sqrtm(A @ B)))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.fixture(scope="module")
def torch_fidelity() -> object:
    """The library, also beside a torchvision wheel that does not match PyTorch's."""
    mend_torchvision()
    import torch_fidelity.metric_fid
    import torch_fidelity.metric_kid

    return torch_fidelity


def test_frechet_distance_is_torch_fidelitys(torch_fidelity: object) -> None:
    x, y = features(500, 32, 1), features(300, 32, 2)
    both = [torch_fidelity.metric_fid.fid_features_to_statistics(f) for f in (x, y)]
    expected = torch_fidelity.metric_fid.fid_statistics_to_metric(*both, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(expected, abs=1e-6)


def test_kernel_distance_is_torch_fidelitys(torch_fidelity: object) -> None:
    """One subset of everything is the estimate over all pairs."""
    x, y = features(120, 8, 1), features(120, 8, 2)
    expected = torch_fidelity.metric_kid.kid_features_to_metric(
        x, y, kid_subsets=1, kid_subset_size=120, kid_degree=3, kid_gamma=None, kid_coef0=1, rng_seed=0, verbose=False
    )["kernel_inception_distance_mean"]
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-6)


def test_kernel_distance_is_unbiased() -> None:
    """Between two samples of one distribution it is 0 on average, at any size, and so it is negative half the time."""
    values = np.array([kernel_distance(torch.randn(20, 4), torch.randn(30, 4)) for _ in range(400)])
    assert abs(values.mean()) < 4 * values.std() / 20
    assert 0.2 < (values < 0).mean() < 0.8


def test_kernel_distance_of_two_points_each_by_hand() -> None:
    """x = {0, 1}, y = {2, 2} in one dimension: k(0, 1) = 1; k(2, 2) = 125; the mean of k(0, 2) and k(1, 2) is 14."""
    assert kernel_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [2.0]])) == 1 + 125 - 2 * 14


@pytest.mark.parametrize(("n", "m"), [(200, 200), (150, 1203)])
def test_precision_and_recall_are_prdcs(n: int, m: int) -> None:
    from prdc import compute_prdc

    real, fake = features(n, 6, 1), features(m, 6, 1)[:, [1, 0, 2, 3, 4, 5]]
    expected = compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=3)
    assert precision_recall(real, fake) == pytest.approx(expected)


@pytest.mark.parametrize("metric", [kernel_distance, precision_recall])
def test_what_compares_pairs_does_so_in_double(metric: Callable) -> None:
    """Far from 0, where sums of float32 lose the digits by which points differ."""
    x, y = features(60, 4, 1) + 1e3, features(50, 4, 1) + 1e3
    assert metric(x, y) == metric(x.double(), y.double())


def test_a_ball_does_not_hold_what_is_as_far_as_its_third_neighbour() -> None:
    """Naeem et al. 2020: strictly nearer. The nearest of 6 to 9 is 3 from the end of 0 to 3, whose ball reaches 3."""
    line = torch.arange(4.0)[:, None]
    assert precision_recall(line, line + 6) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_what_each_metric_says_about_a_known_fault() -> None:
    """Two clusters of reals. One is lost, or samples are noisy, or repeated: each metric moves as its paper says."""
    generator = torch.Generator().manual_seed(0)

    def cluster(centre: float, n: int) -> torch.Tensor:
        return centre + torch.randn(n, 4, generator=generator)

    real = torch.cat([cluster(-3, 400), cluster(3, 400)])
    good = torch.cat([cluster(-3, 400), cluster(3, 400)])
    piles = {
        "good": good, "collapsed": cluster(3, 800), "repeated": good[::40].repeat_interleave(40, 0),
        "noisy": good + 3 * torch.randn(good.shape, generator=generator),
    }  # fmt: skip
    scores = {name: precision_recall(real, fake) for name, fake in piles.items()}
    for name, fake in piles.items():
        scores[name]["frechet"] = frechet_distance(Moments.of(fake), Moments.of(real))
        scores[name]["kernel"] = kernel_distance(fake, real)
    assert min(scores["good"].values()) < 0.5 < min(scores["good"][m] for m in ("precision", "recall", "coverage"))
    # Half the data is missing: recall and coverage halve, precision does not notice.
    assert scores["collapsed"]["precision"] == pytest.approx(scores["good"]["precision"], abs=0.1)
    assert scores["collapsed"]["recall"] == pytest.approx(scores["good"]["recall"] / 2, abs=0.1)
    assert scores["collapsed"]["coverage"] == pytest.approx(0.5, abs=0.1)
    # Noise leaves the data's neighbourhoods; few distinct samples reach few of them.
    assert scores["noisy"]["precision"] < scores["good"]["precision"] / 2
    assert scores["noisy"]["density"] < scores["good"]["density"] / 2
    assert scores["repeated"]["coverage"] < scores["good"]["coverage"] / 2
    for name in ("collapsed", "noisy"):
        for distance in ("frechet", "kernel"):
            assert scores[name][distance] > 10 * abs(scores["good"][distance])


def test_piles_of_different_features_are_refused() -> None:
    with pytest.raises(UserError, match="same extractor"):
        frechet_distance(Moments.of(features(9, 3, 0)), Moments.of(features(9, 4, 0)))
    for metric in (kernel_distance, precision_recall):
        with pytest.raises(UserError, match="same extractor"):
            metric(features(9, 3, 0), features(9, 4, 0))
    with pytest.raises(UserError, match="piles of 3 and 9 images: 4 or more"):
        precision_recall(features(3, 3, 0), features(9, 3, 0))


def test_class_statistics_by_hand() -> None:
    balanced = class_statistics(torch.eye(4).repeat(5, 1))
    assert balanced == {
        "top_probability": 1.0, "classes_present": 4, "class_entropy": pytest.approx(math.log(4)),
        "class_kl": pytest.approx(0, abs=1e-12),
    }  # fmt: skip
    one = class_statistics(torch.tensor([[0.7, 0.2, 0.1]] * 3))
    assert one == {
        "top_probability": pytest.approx(0.7), "classes_present": 1, "class_entropy": 0.0, "class_kl": math.log(3),
    }  # fmt: skip
    # Three quarters and one quarter: KL to uniform is 3/4 log(3/2) + 1/4 log(1/2).
    uneven = class_statistics(torch.eye(2)[[0, 0, 0, 1]])
    assert uneven["class_kl"] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-9)
    # One image in a thousand does not make a class present.
    rare = class_statistics(torch.eye(2)[[0] * 999 + [1]])
    assert rare["classes_present"] == 1
    assert 0 < rare["class_entropy"] < 0.01
    assert class_statistics(torch.eye(2)[[0] * 99 + [1]])["classes_present"] == 2, "one in a hundred does"
