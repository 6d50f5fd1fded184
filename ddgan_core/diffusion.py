"""The Gaussian facts of a diffusion: schedules, forward kernels, the exact posterior.

Time, once and for all: t runs over {1..T}; x_0 is data and x_T is noise. Every table has T + 1 entries
and index 0 means "no noise": beta[0] = 0 and alpha_bar[0] = 1, so that q(x_0 | x_1, x_0) is exact at t = 1.

Equation numbers are those of Okhotnikov and Isachenko (2023) unless another source is named.
"""

import hashlib
from dataclasses import dataclass

import torch

from ddgan_core import UserError
from ddgan_core.shapes import Float, Int, Tensor

MAX_T = 1000


@dataclass(frozen=True)
class Schedule:
    """A noise schedule as tables over t = 0..T.

    beta, alpha_bar: float64 tensors of length T + 1, see eqs. (1) and (2).
    time: the time the network is told at each index; other than the index after `respaced` or in a `retimed` chain.
    """

    beta: Float[Tensor, " times"]
    alpha_bar: Float[Tensor, " times"]
    time: Int[Tensor, " times"]

    @property
    def T(self) -> int:
        return len(self.beta) - 1

    def to(self, device: torch.device | str) -> "Schedule":
        return Schedule(self.beta.to(device), self.alpha_bar.to(device), self.time.to(device))

    def respaced(self, steps: int) -> "Schedule":
        """The same marginals visited at `steps` of the T times, evenly spread, always ending at T.

        beta'_i = 1 - alpha_bar[tau_i] / alpha_bar[tau_{i-1}] (Nichol and Dhariwal 2021, eq. 19).
        This is how a network trained with T steps may be sampled with fewer; shortening the table of betas is not:
        the chain would then start from noise that q(x_T) never was.
        """
        if not 1 <= steps <= self.T:
            raise UserError(f"steps = {steps}: a schedule of T = {self.T} can be visited at 1 to {self.T} steps")
        tau = torch.round(torch.linspace(0, self.T, steps + 1, dtype=torch.float64)).long()
        alpha_bar = self.alpha_bar.cpu()[tau]
        return _from_alpha_bar(alpha_bar, self.time.cpu()[tau]).to(self.beta.device)


def _from_alpha_bar(alpha_bar: Tensor, time: Tensor) -> Schedule:
    beta = torch.zeros_like(alpha_bar)
    beta[1:] = 1 - alpha_bar[1:] / alpha_bar[:-1]
    return Schedule(beta, alpha_bar, time)


def check_T(T: int) -> None:
    if not isinstance(T, int) or not 1 <= T <= MAX_T:
        raise UserError(f"T = {T}: the number of diffusion steps is a whole number from 1 to {MAX_T}")


def vp_schedule(T: int) -> Schedule:
    """Marginals of the variance-preserving SDE at T + 1 uniform times in [0, 1] (Xiao et al. 2021, appendix A).

    alpha_bar(s) = exp(-beta_min s - (beta_max - beta_min) s^2 / 2). The original starts at s = 0.001 instead of 0,
    so that its alpha_bar is .5217 .0787 ... for T = 4 where ours is .5237 .0791 ...
    """
    check_T(T)
    beta_min, beta_max = 0.1, 20.0
    s = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    alpha_bar = torch.exp(-beta_min * s - (beta_max - beta_min) * s**2 / 2)
    return _from_alpha_bar(alpha_bar, torch.arange(T + 1))


def linear_schedule(T: int) -> Schedule:
    """beta_t linear in t from 1e-4 to 0.02, the DDPM schedule for T = 1000 (Ho et al. 2020, section 4).

    For T well below 1000 alpha_bar[T] stays far from 0 (0.90 at T = 10): x_T is then not noise, and eq. (2)'s
    remark "for large T" must be read as "once alpha_bar_T is near 0".
    """
    check_T(T)
    beta = torch.zeros(T + 1, dtype=torch.float64)
    beta[1:] = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
    return Schedule(beta, torch.cumprod(1 - beta, 0), torch.arange(T + 1))


def cosine_schedule(T: int) -> Schedule:
    """alpha_bar(s) = f(s) / f(0) at s = t/T, f(s) = cos^2((s + offset) pi / (2 + 2 offset)), every beta at most 0.999.

    Nichol and Dhariwal 2021, eq. 17. It spreads the loss of signal evenly: .847 .494 .144 .0001 for T = 4, where
    `vp_schedule` has .524 .079 .003 0: its first step from noise decides next to nothing (notebook 13).
    """
    check_T(T)
    offset = 0.008
    s = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    f = torch.cos((s + offset) / (1 + offset) * torch.pi / 2).square()
    beta = torch.cat([torch.zeros(1, dtype=torch.float64), (1 - f[1:] / f[:-1]).clamp(max=0.999)])
    return Schedule(beta, torch.cumprod(1 - beta, 0), torch.arange(T + 1))


SCHEDULES = {"vp": vp_schedule, "linear": linear_schedule, "cosine": cosine_schedule}


def make_schedule(name: str, T: int) -> Schedule:
    """The schedule of that name. Raises UserError with the known names."""
    if name not in SCHEDULES:
        raise UserError(f"schedule {name!r} is not known: choose one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name](T)


def _at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """table[t], one value per image, shaped to multiply `like`."""
    return table[t].to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def diffuse(
    schedule: Schedule, x_0: Float[Tensor, " n *d"], t: Int[Tensor, " n"], noise: Float[Tensor, " n *d"]
) -> Float[Tensor, " n *d"]:
    """x_t ~ q(x_t | x_0), eq. (2), by the given standard normal noise."""
    alpha_bar = schedule.alpha_bar
    return _at(alpha_bar.sqrt(), t, x_0) * x_0 + _at((1 - alpha_bar).sqrt(), t, x_0) * noise


def diffuse_pair(
    schedule: Schedule,
    x_0: Float[Tensor, " n *d"],
    t: Int[Tensor, " n"],
    noise_prev: Float[Tensor, " n *d"],
    noise: Float[Tensor, " n *d"],
) -> tuple[Float[Tensor, " n *d"], Float[Tensor, " n *d"]]:
    """(x_{t-1}, x_t) ~ q(x_{t-1} | x_0) q(x_t | x_{t-1}), eqs. (2) and (1): the real pair a critic sees."""
    x_prev = diffuse(schedule, x_0, t - 1, noise_prev)
    beta = schedule.beta
    return x_prev, _at((1 - beta).sqrt(), t, x_0) * x_prev + _at(beta.sqrt(), t, x_0) * noise


def posterior(
    schedule: Schedule, x_0: Float[Tensor, " n *d"], x_t: Float[Tensor, " n *d"], t: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n *d"], Float[Tensor, " n *d"]]:
    """Mean and variance of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eqs. 6 and 7).

    The variance (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) beta_t is 0 at t = 1, where the mean is x_0 itself.
    """
    alpha_bar, beta = schedule.alpha_bar, schedule.beta
    previous = torch.cat([alpha_bar[:1], alpha_bar[:-1]])
    to_x_0 = previous.sqrt() * beta / (1 - alpha_bar)
    to_x_t = (1 - beta).sqrt() * (1 - previous) / (1 - alpha_bar)
    variance = (1 - previous) / (1 - alpha_bar) * beta
    mean = _at(to_x_0, t, x_0) * x_0 + _at(to_x_t, t, x_0) * x_t
    return mean, _at(variance, t, x_0).expand_as(mean)


def sample_posterior(
    schedule: Schedule,
    x_0: Float[Tensor, " n *d"],
    x_t: Float[Tensor, " n *d"],
    t: Int[Tensor, " n"],
    noise: Float[Tensor, " n *d"],
) -> Float[Tensor, " n *d"]:
    """x_{t-1} ~ q(x_{t-1} | x_t, x_0), eq. (10): how a predicted x_0 becomes the next state of the chain."""
    mean, variance = posterior(schedule, x_0, x_t, t)
    return mean + variance.sqrt() * noise


def random_generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """Counter-based randomness, on the CPU: the stream depends on (seed, purpose, step) alone.

    Nothing needs to be saved to resume, and no function draws from a global state.
    """
    generator = torch.Generator()
    generator.manual_seed(stream_seed(seed, purpose, step))
    return generator


def stream_seed(seed: int, purpose: str, step: int = 0) -> int:
    """What `random_generator` is seeded with."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()[:8], "little") >> 1
