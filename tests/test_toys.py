"""The exact posteriors of toy data against Bayes' rule done the slow way, and the quadrature against closed forms."""

import math

import pytest
import torch
from scipy.integrate import quad

from ddgan_core import UserError
from ddgan_core.diffusion import diffuse, diffuse_pair, linear_schedule, posterior, random_generator, vp_schedule
from ddgan_core.toys.mixtures import (
    GaussianMixture,
    grid_25,
    isotropic,
    kl_divergence,
    three_modes,
    true_posterior,
    true_x_0,
    two_modes,
)

SCHEDULES = [vp_schedule(1), vp_schedule(2), vp_schedule(4), linear_schedule(1000)]


def skewed_2d() -> GaussianMixture:
    """Unequal weights, tilted covariances: nothing that a wrong transpose would leave alone."""
    return GaussianMixture(
        torch.tensor([0.2, 0.8], dtype=torch.float64),
        torch.tensor([[-0.5, 1.0], [0.7, -0.2]], dtype=torch.float64),
        torch.tensor([[[0.5, 0.3], [0.3, 0.4]], [[0.1, -0.05], [-0.05, 0.3]]], dtype=torch.float64),
    )


def gaussian(mean: float, std: float) -> GaussianMixture:
    return isotropic([1.0], [[float(mean)]], float(std))


def points(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("mixture", [two_modes(0.3), three_modes(), gaussian(0.4, 0.7)])
def test_densities_integrate_to_one_and_have_the_stated_moments(mixture: GaussianMixture) -> None:
    x = torch.linspace(-6, 6, 40_001, dtype=torch.float64)[:, None]
    density = mixture.log_prob(x).exp()
    mean, covariance = mixture.moments()
    step = 12 / 40_000
    assert (density.sum() * step).item() == pytest.approx(1, abs=1e-9)
    assert ((density * x[:, 0]).sum() * step).item() == pytest.approx(mean.item(), abs=1e-9)
    assert ((density * (x[:, 0] - mean) ** 2).sum() * step).item() == pytest.approx(covariance.item(), abs=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"T{s.T}")
def test_posterior_is_bayes_rule_on_a_grid(schedule) -> None:
    """q(x_{t-1} | x_t) from the joint q(x_{t-1}) q(x_t | x_{t-1}), normalised numerically."""
    mixture = three_modes()
    x_prev = torch.linspace(-6, 6, 60_001, dtype=torch.float64)[:, None]
    for t in {1, (schedule.T + 1) // 2, schedule.T}:
        beta = schedule.beta[t]
        for x_t in (-1.3, 0.05, 0.7):
            forward = -((x_t - (1 - beta).sqrt() * x_prev[:, 0]) ** 2) / (2 * beta)
            joint = (mixture.diffused(schedule, t - 1).log_prob(x_prev) + forward).exp()
            expected = joint / (joint.sum() * (12 / 60_000))
            ours = true_posterior(mixture, schedule, points(x_t)[0], t).log_prob(x_prev).exp()
            torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)


def test_bayes_rule_holds_pointwise_in_two_dimensions() -> None:
    """log q(x_{t-1}|x_t) + log q(x_t) = log q(x_{t-1}) + log q(x_t|x_{t-1}), for a batch of tilted 2-D pairs."""
    mixture, schedule, t = skewed_2d(), vp_schedule(4), 2
    x_prev, x_t = torch.randn(2, 50, 2, dtype=torch.float64, generator=random_generator(0, "test"))
    beta = schedule.beta[t]
    kernel = -((x_t - (1 - beta).sqrt() * x_prev) ** 2).sum(1) / (2 * beta) - torch.log(2 * math.pi * beta)
    left = true_posterior(mixture, schedule, x_t, t).log_prob(x_prev) + mixture.diffused(schedule, t).log_prob(x_t)
    torch.testing.assert_close(left, mixture.diffused(schedule, t - 1).log_prob(x_prev) + kernel)


def test_a_point_gives_the_posterior_given_x_0() -> None:
    """If x_0 is known, q(x_{t-1} | x_t) is q(x_{t-1} | x_t, x_0), the formula the samplers use."""
    schedule = vp_schedule(4)
    for t in (1, 3, 4):
        exact = true_posterior(isotropic([1.0], [[0.6]], 0.0), schedule, points(-0.9, 0.2), t)
        x_0 = torch.full((2, 1), 0.6, dtype=torch.float64)
        mean, variance = posterior(schedule, x_0, points(-0.9, 0.2), torch.full((2,), t))
        torch.testing.assert_close(exact.moments()[0], mean)
        torch.testing.assert_close(exact.moments()[1][..., 0], variance)


def test_mixing_over_x_0_gives_the_posterior() -> None:
    """Eq. (10): q(x_{t-1}|x_t) = integral q(x_0|x_t) q(x_{t-1}|x_t,x_0) dx_0, here by adaptive quadrature."""
    mixture, schedule, t, x_t = two_modes(0.3, std=0.3), vp_schedule(4), 2, points(0.2)[0]
    clean = true_x_0(mixture, schedule, x_t, t)

    def mixed(x_0: float, at: float) -> float:
        mean, variance = posterior(schedule, points(x_0), x_t[None], torch.tensor([t]))
        kernel = torch.exp(-((at - mean) ** 2) / (2 * variance)) / (2 * math.pi * variance).sqrt()
        return kernel.item() * clean.log_prob(points(x_0)[0]).exp().item()

    for at in (-0.8, 0.1, 0.9):
        value, _ = quad(mixed, -4, 4, args=(at,), points=[-1, 1], epsabs=1e-10)
        ours = true_posterior(mixture, schedule, x_t, t).log_prob(points(at)[0]).exp().item()
        assert ours == pytest.approx(value, abs=1e-8)


def test_a_batch_of_x_t_equals_one_at_a_time() -> None:
    schedule = vp_schedule(2)
    x_t = torch.randn(3, 4, 2, dtype=torch.float64, generator=random_generator(1, "test"))
    at = torch.randn(3, 4, 2, dtype=torch.float64, generator=random_generator(2, "test"))
    together = true_posterior(grid_25(), schedule, x_t, 2)
    assert together.batch == (3, 4)
    one = true_posterior(grid_25(), schedule, x_t[1, 2], 2)
    torch.testing.assert_close(together.log_prob(at)[1, 2], one.log_prob(at[1, 2]))
    torch.testing.assert_close(together.moments()[1][1, 2], one.moments()[1])
    assert together.sample(5, random_generator(0, "draw")).shape == (5, 3, 4, 2)


def test_diffused_is_what_diffuse_does() -> None:
    """Samples carried by the forward kernels have the mixture's exact moments, directly and as a pair."""
    mixture, schedule, n = skewed_2d(), vp_schedule(4), 200_000
    random = random_generator(0, "test")
    x_0 = mixture.sample(n, random)
    noise = torch.randn(3, n, 2, dtype=torch.float64, generator=random)
    t = torch.full((n,), 2)
    x_prev, x_t = diffuse_pair(schedule, x_0, t, noise[0], noise[1])
    for x, when in ((x_0, 0), (diffuse(schedule, x_0, t, noise[2]), 2), (x_prev, 1), (x_t, 2)):
        mean, covariance = mixture.diffused(schedule, when).moments()
        torch.testing.assert_close(x.mean(0), mean, atol=0.01, rtol=0)
        torch.testing.assert_close(x.T.cov(), covariance, atol=0.015, rtol=0)


@pytest.mark.parametrize("T", [1, 2, 4])
def test_the_exact_reverse_chain_returns_the_data(T: int) -> None:
    """With the true q(x_{t-1} | x_t) even one step from q(x_T) is enough."""
    mixture, schedule, random = two_modes(0.3), vp_schedule(T), random_generator(0, "chain")
    x = mixture.diffused(schedule, T).sample(50_000, random)
    for t in range(T, 0, -1):
        x = true_posterior(mixture, schedule, x, t).sample(1, random)[0]
    assert (x < 0).double().mean().item() == pytest.approx(0.3, abs=0.01)
    assert x.abs().sub(1).std().item() == pytest.approx(0.1, rel=0.03)


def test_kl_of_two_gaussians() -> None:
    """KL(N(1, s^2) || N(0, 1)) = (s^2 + 1 - 1 - 2 log s) / 2; 1/2 at s = 1."""
    assert kl_divergence(gaussian(1, 1), gaussian(0, 1)).item() == pytest.approx(0.5, abs=1e-12)
    assert kl_divergence(gaussian(1, 0.2), gaussian(0, 1)).item() == pytest.approx(0.02 - math.log(0.2), abs=1e-12)


def test_kl_of_mixtures_against_adaptive_quadrature() -> None:
    q, p = three_modes(), two_modes(0.8, std=0.4)

    def integrand(x: float) -> float:
        log_q, log_p = q.log_prob(points(x)[0]).item(), p.log_prob(points(x)[0]).item()
        return math.exp(log_q) * (log_q - log_p)

    value, _ = quad(integrand, -3, 3, points=[-1, 0.2, 1], epsabs=1e-11, limit=200)
    assert kl_divergence(q, p).item() == pytest.approx(value, abs=1e-9)


def test_no_gaussian_beats_the_best_gaussian() -> None:
    q = three_modes()
    best = q.best_gaussian()
    least = kl_divergence(q, best)
    mean, covariance = (m.item() for m in best.moments())
    for shift, scale in ((0.05, 1), (-0.05, 1), (0, 1.05), (0, 0.95)):
        assert kl_divergence(q, gaussian(mean + shift, scale * covariance**0.5)) > least
    assert kl_divergence(gaussian(0.3, 0.2), gaussian(0.3, 0.2).best_gaussian()).item() == pytest.approx(0, abs=1e-12)


def test_two_far_modes_cost_log_two_and_a_width() -> None:
    """For well separated modes H(q) = log 2 + H(one mode): the price of one Gaussian follows by hand."""
    std = 0.01
    by_hand = 0.5 * math.log(1 + std**2) - math.log(2) - math.log(std)
    q = two_modes(0.5, std)
    assert kl_divergence(q, q.best_gaussian()).item() == pytest.approx(by_hand, abs=1e-9)


def test_small_steps_are_nearly_gaussian_and_large_ones_are_not() -> None:
    """The premise of DDGAN: the KL of the best Gaussian, averaged over q(x_t), falls with T, and so does its sum."""
    mixture, random = two_modes(), random_generator(0, "x_t")
    totals = []
    for T in (1, 4, 16, 64):
        schedule, total = vp_schedule(T), 0.0
        for t in range(1, T + 1):
            exact = true_posterior(mixture, schedule, mixture.diffused(schedule, t).sample(200, random), t)
            total += kl_divergence(exact, exact.best_gaussian()).mean().item()
        totals.append(total)
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > 1 > 0.1 > totals[-1] > 0


def test_mistakes_are_one_line() -> None:
    schedule = vp_schedule(4)
    with pytest.raises(UserError, match="t = 5.*1 to 4"):
        true_posterior(two_modes(), schedule, points(0.0), 5)
    with pytest.raises(UserError, match="t = 0.*1 to 4"):
        true_x_0(two_modes(), schedule, points(0.0), 0)
    with pytest.raises(UserError, match="no density"):
        two_modes(std=0.0).log_prob(points(1.0))
    with pytest.raises(UserError, match="d = 1"):
        kl_divergence(grid_25(), grid_25())
    with pytest.raises(UserError, match="one positive weight"):
        isotropic([0.5, -0.5], [[0.0], [1.0]], 0.1)
