"""What each player minimises: values, no side effects.

All return one loss per image, so that the history can keep them apart by t; callers take the mean.
"""

import math
from dataclasses import replace

import torch

from ddgan_core import UserError
from ddgan_core.diffusion import Schedule, diffuse
from ddgan_core.divergences import Divergence, get_divergence
from ddgan_core.networks import Discriminator, NoisePredictor
from ddgan_core.shapes import Float, Int, Tensor


def make_row(name: str, critic: str = "") -> Divergence:
    """The row of that name; with `critic`, its generator by a critic that is trained by the loss of another row.

    A logit stands for a log ratio, whichever loss has taught it, and so for a logit of any other row: what a generator
    descends and how the ratio is estimated are two choices (Poole et al. 2016). Raises UserError for unknown rows, and
    where the log ratio of one is no multiple of its logit, up to a constant.
    """
    row = get_divergence(name)
    if critic in ("", name):
        return row
    judge = get_divergence(critic)
    (slope, level), (its_slope, its_level) = log_ratio_line(row), log_ratio_line(judge)

    def generator(_: Tensor | None, v_fake: Tensor) -> Tensor:
        return row.generator(None, (its_slope * v_fake + its_level - level) / slope)

    label = f"{row.label}, critic of {judge.label}"
    return replace(
        judge, name=name, label=label, generator=generator, f=row.f, f_prime=row.f_prime, conjugate=None,
        activation=None, curvature=row.curvature,
    )  # fmt: skip


def log_ratio_line(row: Divergence) -> tuple[float, float]:
    """The log ratio that a row's logit stands for: how fast it grows with the logit, and what it is at 0.

    Raises UserError for rows of which it is no line.
    """
    if row.log_ratio is not None:
        at_0, at_1, at_2 = row.log_ratio(torch.arange(3, dtype=torch.float64)).tolist()
        if math.isclose(at_1 - at_0, at_2 - at_1, rel_tol=1e-9):
            return at_1 - at_0, at_0
    raise UserError(
        f"row {row.name!r} cannot be compared through its critic's logit, no multiple of the log ratio: choose one "
        "like non_saturating_js, squared_hellinger or reverse_kl"
    )


def blind_curvature(row: Divergence) -> float:
    """The curvature of a critic's loss where it sees nothing, in its own logit v: c of c v^2 / 2.

    Critics with the same R1 weight / c have the same log ratios near there, whichever multiple of it their logits are.
    Raises UserError as `log_ratio_line`.
    """
    steepness, level = log_ratio_line(row)
    blind = torch.tensor(-level / steepness, dtype=torch.float64)
    return float(torch.autograd.functional.hessian(lambda v: row.critic(v, v), blind))


def critic_loss(
    row: Divergence,
    critic: Discriminator,
    x_prev_real: Float[Tensor, "n c h w"],
    x_prev_fake: Float[Tensor, "n c h w"],
    x_t: Float[Tensor, "n c h w"],
    t: Int[Tensor, " n"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Minus the variational bound on D_f(q(x_{t-1} | x_t) || p_theta(x_{t-1} | x_t)), eq. (16), at each image's t.

    Of `non_saturating_js` it is one on 2 JSD: the critic is that of `jensen_shannon`. The fakes are detached, so that
    nothing here reaches the generator. With the loss come the logits of real and fake images.
    """
    v_real, v_fake = critic(x_prev_real, x_t, t).float(), critic(x_prev_fake.detach(), x_t, t).float()
    return row.critic(v_real, v_fake), v_real, v_fake


def critic_penalty(
    row: Divergence,
    critic: Discriminator,
    x_prev_real: Float[Tensor, "n c h w"],
    x_prev_fake: Float[Tensor, "n c h w"],
    x_t: Float[Tensor, "n c h w"],
    t: Int[Tensor, " n"],
    mix: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """The row's penalty, unweighted, with (x_t, t) held fixed."""
    return row.penalty(lambda x_prev: critic(x_prev, x_t, t).float(), x_prev_real, x_prev_fake.detach(), mix)


def generator_loss(
    row: Divergence,
    critic: Discriminator,
    x_prev_real: Float[Tensor, "n c h w"],
    x_prev_fake: Float[Tensor, "n c h w"],
    x_t: Float[Tensor, "n c h w"],
    t: Int[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """The row's loss for the model, through fakes that carry the generator's graph.

    The critic looks at the real x_{t-1} of the same pairs only for a relativistic row.
    """
    v_real = critic(x_prev_real, x_t, t).float() if row.relativistic else None
    return row.generator(v_real, critic(x_prev_fake, x_t, t).float())


def ddpm_loss(
    network: NoisePredictor,
    schedule: Schedule,
    x_0: Float[Tensor, "n c h w"],
    t: Int[Tensor, " n"],
    noise: Float[Tensor, "n c h w"],
) -> Float[Tensor, " n"]:
    """|eps - eps_theta(x_t, t)|^2 per pixel: eq. (6) without its weights (Ho et al. 2020, eq. 14)."""
    predicted = network(diffuse(schedule, x_0, t, noise), schedule.time[t])
    return torch.mean((predicted.float() - noise).square().flatten(1), dim=1)
