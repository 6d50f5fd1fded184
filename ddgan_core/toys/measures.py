"""How far a learned denoising step is from the true q(x_{t-1} | x_t), for data where that is known exactly.

For t >= 2 a generator's p(x_{t-1} | x_t) = E_z N(posterior mean of x_0 hat(z), sigma_t^2), eq. (10), is a mixture of
round Gaussians of one size: its density can be written down, and with it every divergence, by quadrature. At t = 1
sigma is 0 and p(x_0 | x_1) has no density; there, and for the whole chain, samples are compared. Everything is float64.
"""

import math
from collections.abc import Callable
from functools import cache

import torch

from ddgan_core import UserError
from ddgan_core.diffusion import Schedule, posterior, random_generator
from ddgan_core.divergences import DIVERGENCES
from ddgan_core.shapes import Float, Tensor
from ddgan_core.toys.mixtures import GaussianMixture, true_posterior

# x_0 hat for all seeds s from (x_t [s, n, d], t, z [s, n, z]): what `gan.ToyGAN.predict` is.
Predict = Callable[[Tensor, int, Tensor], Tensor]

LEAST_LOG_RATIO = -200.0  # p has a floor of e^-200 q, so that u = q/p stays a number
POINTS_A_SIGMA = 3  # of the grid: the trapezoidal rule on a Gaussian then errs by less than 1e-12
REACH = 6.0  # standard deviations of q(x_{t-1})'s widest part around its outermost means
NEAR = 4.0  # standard deviations within which a sample belongs to a component
LEAST_SHARE = 0.25  # of its expected mass that makes a component covered
DIRECTIONS = 32  # of the sliced Wasserstein distance


def quasi_normal(n: int, d: int) -> Float[Tensor, "n d"]:
    """Standard normal quasi-random points: scrambled Sobol ones through the inverse distribution function."""
    uniform = torch.quasirandom.SobolEngine(d, scramble=True, seed=0).draw(n, dtype=torch.float64)
    return torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9))


def divergence_on_grid(
    name: str, log_q: Float[Tensor, "*b g"], log_p: Float[Tensor, "*b g"], volume: float
) -> Float[Tensor, "*b"]:
    """D(Q || P) of the row of that name from log densities on a grid whose cells have this volume.

    f(u) - f'(1) (u - 1) has the same integral as f(u) and is nowhere negative. For "wasserstein", the integral of the
    difference of distribution functions: exact, for grids in one dimension.
    Raises UserError for a row that has no f and is not Wasserstein's.
    """
    if name == "wasserstein":
        return ((log_q.exp() - log_p.exp()).cumsum(-1) * volume).abs().sum(-1) * volume
    row = DIVERGENCES[name]
    if row.f is None or row.f_prime is None:
        raise UserError(f"divergence {name!r} has no f: it cannot be computed from densities")
    log_p = torch.logaddexp(log_p, log_q + LEAST_LOG_RATIO)
    u = (log_q - log_p).clamp(min=-300).exp()
    one = torch.ones((), dtype=torch.float64)
    return (log_p.exp() * (row.f(u) - row.f_prime(one) * (u - 1))).sum(-1) * volume


def density_grid(mixture: GaussianMixture, schedule: Schedule, t: int) -> Float[Tensor, " g"]:
    """One axis of a square grid that holds q(x_{t-1} | x_t) and resolves the kernel of eq. (10)."""
    before = mixture.diffused(schedule, t - 1)
    edge = before.means.abs().max() + REACH * before.covariances.diagonal(dim1=-2, dim2=-1).max().sqrt()
    half = math.ceil(float(edge / _kernel_std(schedule, t)) * POINTS_A_SIGMA)
    return torch.linspace(-1, 1, 2 * half + 1, dtype=torch.float64) * edge


def learned_log_density(
    x_0: Float[Tensor, "*b z d"], x_t: Float[Tensor, "*b d"], schedule: Schedule, t: int, axis: Float[Tensor, " g"]
) -> Float[Tensor, "*b gd"]:
    """log p(x_{t-1} | x_t) on the grid with this axis in each of d = 1 or 2 dimensions, flat; t >= 2.

    x_0: predictions for many z, each of which gives a Gaussian of eq. (10). Those that fall beyond the grid are counted
    at its edge, so that their mass is not lost. In 2-D the kernel is a product: one matrix product for each x_t.
    Raises UserError at t = 1, where there is no density.
    """
    d, std = x_0.shape[-1], _kernel_std(schedule, t)
    flat = x_0.reshape(-1, d)
    mean, _ = posterior(schedule, flat, x_t[..., None, :].expand(x_0.shape).reshape(-1, d), torch.full((len(flat),), t))
    inner = float(axis[-1]) - 4 * std
    mean = mean.view(x_0.shape).clamp(-inner, inner)
    kernels = torch.exp(-((axis - mean[..., None]) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))
    if d == 1:
        density = kernels[..., 0, :].mean(-2)
    else:
        density = (kernels[..., 0, :].mT @ kernels[..., 1, :] / x_0.shape[-2]).flatten(-2)
    return density.clamp(min=1e-300).log()


def true_log_density(
    mixture: GaussianMixture, schedule: Schedule, x_t: Float[Tensor, "*b d"], t: int, axis: Float[Tensor, " g"]
) -> Float[Tensor, "*b gd"]:
    """log q(x_{t-1} | x_t) on the same flat grid."""
    points = axis[:, None] if mixture.d == 1 else torch.cartesian_prod(axis, axis)
    ours = true_posterior(mixture, schedule, x_t, t)
    at = points.view(-1, *[1] * (x_t.ndim - 1), mixture.d).expand(-1, *x_t.shape)
    return ours.log_prob(at).movedim(0, -1)


def exact_divergences(d: int) -> list[str]:
    """The rows whose divergence can be computed from densities in d dimensions."""
    return [name for name, row in DIVERGENCES.items() if row.f is not None or (name == "wasserstein" and d == 1)]


class StepScale:
    """The true side of one denoising step (mixture, T, t): made once, held against any number of generators.

    points: how many x_t are drawn from the true q(x_t); the draw depends on t alone. latents: how many z.
    """

    def __init__(
        self, mixture: GaussianMixture, schedule: Schedule, t: int, z_dim: int, points: int = 32, latents: int = 1024
    ) -> None:
        self.mixture, self.schedule, self.t = mixture, schedule, t
        self.x_t = mixture.diffused(schedule, t).sample(points, random_generator(0, "toy x_t", t))
        self.z = quasi_normal(latents, z_dim)
        self.axis = density_grid(mixture, schedule, t)
        self.log_q = true_log_density(mixture, schedule, self.x_t, t, self.axis)
        self.names = exact_divergences(mixture.d)

    def log_p(self, predict: Predict, seeds: int) -> Float[Tensor, "s n g"]:
        """log p(x_{t-1} | x_t) of every seed at this scale's x_t."""
        n, m = len(self.x_t), len(self.z)
        x_t = self.x_t[:, None].expand(n, m, -1).reshape(1, n * m, -1).expand(seeds, -1, -1)
        z = self.z.repeat(n, 1).expand(seeds, -1, -1)
        x_0 = predict(x_t, self.t, z).view(seeds, n, m, -1)
        return learned_log_density(x_0, self.x_t.expand(seeds, -1, -1), self.schedule, self.t, self.axis)

    def measure(self, predict: Predict, seeds: int) -> dict[str, Float[Tensor, " s"]]:
        """Every computable D(q(x_{t-1} | x_t) || p(x_{t-1} | x_t)), averaged over x_t, for each seed."""
        volume = float(self.axis[1] - self.axis[0]) ** self.mixture.d
        log_p = self.log_p(predict, seeds)
        log_q = self.log_q.expand_as(log_p)
        return {name: divergence_on_grid(name, log_q, log_p, volume).mean(1) for name in self.names}


def sample_measures(
    x: Float[Tensor, "n d"], mixture: GaussianMixture, reference: Float[Tensor, "m d"]
) -> dict[str, float]:
    """What samples of x_0 keep of the mixture.

    covered: share of components that receive at least a quarter of their expected mass within 4 standard deviations;
    weight_error: total variation between the shares of nearest components and the true weights; smear: share of
    samples farther than 4 standard deviations from every component; w1: Wasserstein-1 distance to `reference`, exact in
    one dimension, else the mean over 32 fixed directions. For round components; m = n.
    """
    if len(x) != len(reference):
        raise UserError(f"{len(x)} samples against {len(reference)} of reference: give as many of both")
    std = float(mixture.covariances.diagonal(dim1=-2, dim2=-1).max().sqrt())
    distance, nearest = torch.cdist(x, mixture.means).min(-1)
    k, weights = len(mixture.weights), mixture.weights
    near = distance <= NEAR * std
    share = torch.bincount(nearest[near], minlength=k) / len(x)
    all_share = torch.bincount(nearest, minlength=k) / len(x)
    lines = _directions(mixture.d)
    gap = (x @ lines).sort(0).values - (reference @ lines).sort(0).values
    return {
        "covered": float((share >= LEAST_SHARE * weights).double().mean()),
        "weight_error": float((all_share - weights).abs().sum() / 2),
        "smear": float(1 - near.double().mean()),
        "w1": float(gap.abs().mean()),
    }


SAMPLE_MEASURES = ("covered", "weight_error", "smear", "w1")


@cache
def _directions(d: int) -> Tensor:
    """Unit vectors [d, k], evenly spread over the half circle; the one there is in one dimension."""
    if d == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    angle = torch.arange(DIRECTIONS, dtype=torch.float64) * math.pi / DIRECTIONS
    return torch.stack([angle.cos(), angle.sin()])


def _kernel_std(schedule: Schedule, t: int) -> float:
    """sigma_t of q(x_{t-1} | x_t, x_0)."""
    if not 2 <= t <= schedule.T:
        raise UserError(f"t = {t}: p(x_(t-1) | x_t) has a density for t from 2 to T = {schedule.T}")
    at = torch.zeros(1, 1, dtype=torch.float64)
    return float(posterior(schedule, at, at, torch.tensor([t]))[1].sqrt())
