"""What each player minimises: values, no side effects.

All return one loss per image, so that the history can keep them apart by t; callers take the mean.
"""

import torch

from ddgan_core.diffusion import Schedule, diffuse
from ddgan_core.divergences import Divergence
from ddgan_core.networks import Discriminator, NoisePredictor
from ddgan_core.shapes import Float, Int, Tensor


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
