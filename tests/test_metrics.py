"""Distances against closed forms and an independent implementation."""

import math

import numpy as np
import pytest
import torch

from ddgan_core import UserError
from ddgan_core.metrics import Moments, class_statistics, frechet_distance


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


def test_piles_of_different_features_are_refused() -> None:
    with pytest.raises(UserError, match="same extractor"):
        frechet_distance(Moments.of(features(9, 3, 0)), Moments.of(features(9, 4, 0)))


def test_class_statistics_by_hand() -> None:
    balanced = class_statistics(torch.eye(4).repeat(5, 1))
    assert balanced == {"top_probability": 1.0, "classes_present": 4, "class_entropy": pytest.approx(math.log(4))}
    one = class_statistics(torch.tensor([[0.7, 0.2, 0.1]] * 3))
    assert one == {"top_probability": pytest.approx(0.7), "classes_present": 1, "class_entropy": 0.0}
    # One image in a thousand does not make a class present.
    rare = class_statistics(torch.eye(2)[[0] * 999 + [1]])
    assert rare["classes_present"] == 1
    assert 0 < rare["class_entropy"] < 0.01
