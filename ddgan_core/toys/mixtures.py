"""Data whose reverse process is known exactly: Gaussian mixtures, closed under diffusion and under Bayes' rule.

If x_0 is a Gaussian mixture, so are q(x_t), q(x_{t-1} | x_t) and q(x_0 | x_t). Here is what eq. (7) asks a model to
match, without a network and without an approximation, at any step size. Everything is float64.
"""

import math
from dataclasses import dataclass

import torch

from ddgan_core import UserError
from ddgan_core.diffusion import Schedule
from ddgan_core.shapes import Float, Tensor

QUADRATURE_REACH = 9.0  # standard deviations on either side of each component's mean
QUADRATURE_POINTS = 201


@dataclass(frozen=True)
class GaussianMixture:
    """sum_k weights[k] N(means[k], covariances[k]) in d dimensions; leading axes, if any, are a batch of mixtures.

    weights: positive, summing to 1 over k. covariances: symmetric, positive semi-definite, or shared by broadcasting
    (the posteriors of a batch of x_t differ in weights and means alone). A zero covariance is a point: it can be
    sampled and conditioned, but has no density.
    """

    weights: Float[Tensor, "*b k"]
    means: Float[Tensor, "*b k d"]
    covariances: Float[Tensor, "*#b k d d"]

    @property
    def d(self) -> int:
        return self.means.shape[-1]

    @property
    def batch(self) -> tuple[int, ...]:
        return tuple(self.weights.shape[:-1])

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n *b d"]:
        """n draws from each mixture of the batch."""
        shape = (n, *self.batch)
        weights = self.weights.reshape(-1, self.weights.shape[-1])
        chosen = torch.multinomial(weights, n, replacement=True, generator=generator)
        chosen = chosen.T.reshape(*shape, 1, 1)
        means = self.means.expand(*shape, *self.means.shape[-2:])
        mean = means.gather(-2, chosen.expand(*shape, 1, self.d)).squeeze(-2)
        roots = covariance_root(self.covariances)
        roots = roots.expand(*shape, *roots.shape[-3:])
        root = roots.gather(-3, chosen[..., None].expand(*shape, 1, self.d, self.d)).squeeze(-3)
        noise = torch.randn(*shape, self.d, generator=generator, dtype=torch.float64)
        return mean + (root @ noise[..., None]).squeeze(-1)

    def log_prob(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """log density at x, whose axes but the last broadcast against the batch of mixtures.

        Raises UserError where a component is a point and therefore has no density.
        """
        return torch.logsumexp(self.weights.log() + _component_log_prob(self.means, self.covariances, x), dim=-1)

    def moments(self) -> tuple[Float[Tensor, "*b d"], Float[Tensor, "*b d d"]]:
        """Mean and covariance, by the laws of total expectation and total covariance."""
        mean = (self.weights[..., None] * self.means).sum(-2)
        off = self.means - mean[..., None, :]
        spread = self.covariances + off[..., :, None] * off[..., None, :]
        return mean, (self.weights[..., None, None] * spread).sum(-3)

    def best_gaussian(self) -> "GaussianMixture":
        """The Gaussian p that minimises KL(self || p): the one with the same mean and covariance."""
        mean, covariance = self.moments()
        weights = torch.ones(*self.batch, 1, dtype=torch.float64)
        return GaussianMixture(weights, mean[..., None, :], covariance[..., None, :, :])

    def diffused(self, schedule: Schedule, t: int) -> "GaussianMixture":
        """q(x_t), the mixture after eq. (2)."""
        _check_t(schedule, t, lowest=0)
        alpha_bar = schedule.alpha_bar[t].double()
        covariances = alpha_bar * self.covariances + (1 - alpha_bar) * _identity(self.d)
        return GaussianMixture(self.weights, alpha_bar.sqrt() * self.means, covariances)

    def given(self, y: Float[Tensor, "*n d"], scale: float, variance: float) -> "GaussianMixture":
        """The law of x given y = scale x + sqrt(variance) noise, by Bayes' rule; the axes of y are the batch.

        Each component is conditioned as a Gaussian (the Kalman update), and weighted by how well it explains y.
        """
        seen_means = scale * self.means
        seen_covariances = scale**2 * self.covariances + variance * _identity(self.d)
        log_weights = self.weights.log() + _component_log_prob(seen_means, seen_covariances, y)
        gain = torch.linalg.solve(seen_covariances, scale * self.covariances).mT
        means = self.means + (gain * (y[..., None, :] - seen_means)[..., None, :]).sum(-1)
        # Joseph's form of (1 - scale gain) cov: symmetric and semi-definite whatever the rounding.
        rest = _identity(self.d) - scale * gain
        covariances = rest @ self.covariances @ rest.mT + variance * gain @ gain.mT
        return GaussianMixture(torch.softmax(log_weights, dim=-1), means, covariances)


def true_posterior(mixture: GaussianMixture, schedule: Schedule, x_t: Float[Tensor, "*n d"], t: int) -> GaussianMixture:
    """q(x_{t-1} | x_t), without x_0 in the condition: what the model of eq. (7) has to match.

    The axes of x_t are the batch. Raises UserError where t is not in 1..T.
    """
    _check_t(schedule, t, lowest=1)
    beta = float(schedule.beta[t])
    return mixture.diffused(schedule, t - 1).given(x_t, math.sqrt(1 - beta), beta)


def true_x_0(mixture: GaussianMixture, schedule: Schedule, x_t: Float[Tensor, "*n d"], t: int) -> GaussianMixture:
    """q(x_0 | x_t): what the generator of eq. (10) has to produce by its z. The axes of x_t are the batch."""
    _check_t(schedule, t, lowest=1)
    alpha_bar = float(schedule.alpha_bar[t])
    return mixture.given(x_t, math.sqrt(alpha_bar), 1 - alpha_bar)


def kl_divergence(q: GaussianMixture, p: GaussianMixture) -> Float[Tensor, "*b"]:
    """KL(q || p) in nats of 1-D mixtures, by the trapezoidal rule.

    Each component of q is integrated on a grid of its own, so that narrow and wide ones are resolved alike. The rule
    converges exponentially for such integrands; the tests compare it with closed forms and adaptive quadrature.
    """
    if q.d != 1 or p.d != 1:
        raise UserError(f"KL by quadrature, {q.d}-D against {p.d}-D: it is for d = 1; else estimate it from samples")
    u = torch.linspace(-QUADRATURE_REACH, QUADRATURE_REACH, QUADRATURE_POINTS, dtype=torch.float64)
    mass = torch.exp(-u.square() / 2)
    mass = mass / mass.sum()
    value = torch.zeros(q.batch, dtype=torch.float64)
    for k in range(q.weights.shape[-1]):
        std = q.covariances[..., k, 0, 0].sqrt()
        x = (q.means[..., k, 0] + std * u.view(-1, *[1] * len(q.batch)))[..., None]
        difference = q.log_prob(x) - p.log_prob(x)
        value = value + q.weights[..., k] * (mass.view(-1, *[1] * len(q.batch)) * difference).sum(0)
    return value


def isotropic(weights: list[float], means: list[list[float]], std: float) -> GaussianMixture:
    """A mixture whose components are round and of one size; weights need not sum to 1."""
    if len(weights) != len(means) or not weights or min(weights) <= 0 or std < 0:
        raise UserError(
            f"{len(weights)} weights (least {min(weights, default=0)}), {len(means)} means, std {std}: "
            "give one positive weight for each mean, and a std of 0 or more"
        )
    w, m = torch.tensor(weights, dtype=torch.float64), torch.tensor(means, dtype=torch.float64)
    return GaussianMixture(w / w.sum(), m, std**2 * _identity(m.shape[1]).expand(len(w), -1, -1))


def two_modes(first: float = 0.5, std: float = 0.1) -> GaussianMixture:
    """1-D: modes at -1 and 1; `first` is the weight of the one at -1."""
    return isotropic([first, 1 - first], [[-1.0], [1.0]], std)


def three_modes() -> GaussianMixture:
    """1-D: modes of unequal weight at unequal distances, so that nothing holds by symmetry."""
    return isotropic([0.6, 0.3, 0.1], [[-1.0], [0.2], [1.0]], std=0.1)


def grid_25(std: float = 0.025) -> GaussianMixture:
    """2-D: 5 x 5 Gaussians on [-1, 1]^2, the mode-coverage test of Xiao et al. (2021, section 5.2), to our scale."""
    side = torch.linspace(-1, 1, 5).tolist()
    return isotropic([1.0] * 25, [[x, y] for x in side for y in side], std)


def ring() -> GaussianMixture:
    """2-D: a thin ring of radius 1, as Gaussians whose centres are 1.6 std apart, so that everything stays exact."""
    components, std = 64, 0.06
    angles = (torch.arange(components, dtype=torch.float64) * (2 * math.pi / components)).tolist()
    return isotropic([1.0] * components, [[math.cos(a), math.sin(a)] for a in angles], std)


def _identity(d: int) -> Tensor:
    return torch.eye(d, dtype=torch.float64)


def covariance_root(covariances: Tensor) -> Tensor:
    """R with R R^T = covariance, by eigh: unlike Cholesky's it exists for points too."""
    values, vectors = torch.linalg.eigh(covariances)
    return vectors * values.clamp(min=0).sqrt()[..., None, :]


def _component_log_prob(means: Tensor, covariances: Tensor, x: Tensor) -> Tensor:
    """log N(x; means[k], covariances[k]), one more axis k at the end."""
    if (covariances.diagonal(dim1=-2, dim2=-1) <= 0).any():
        raise UserError("a component of zero variance has no density: give its mixture a std above 0, or ask at t >= 1")
    # torch's MultivariateNormal solves a triangular system for every x; here there are few components and many x.
    root = torch.linalg.cholesky(covariances)
    whiten = torch.linalg.inv(root)
    white = (whiten * (x[..., None, :] - means)[..., None, :]).sum(-1)
    log_scale = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * means.shape[-1] * math.log(2 * math.pi)
    return -0.5 * white.square().sum(-1) - log_scale


def _check_t(schedule: Schedule, t: int, lowest: int) -> None:
    if not lowest <= t <= schedule.T:
        raise UserError(f"t = {t}: a schedule of T = {schedule.T} has t from {lowest} to {schedule.T}")
