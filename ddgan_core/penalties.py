"""Penalties on a critic's gradient in x_{t-1}, per image, with (x_t, t) held fixed.

All have one signature, so that a row of the table of divergences can name any of them: `score` maps x_{t-1} to logits,
`mix` in [0, 1] says where between a real and a fake image a penalty looks, for those that look there. The gradient of
image i is that of the sum of all logits: a minibatch standard deviation in the critic lets a little of the others' in.
"""

from collections.abc import Callable

import torch

from ddgan_core.shapes import Float, Tensor

Score = Callable[[Tensor], Tensor]
Penalty = Callable[[Score, Tensor, Tensor, Tensor], Tensor]


def r1_penalty(
    score: Score, x_real: Float[Tensor, " n *d"], x_fake: Float[Tensor, " n *d"], mix: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """|grad D(x_{t-1})|^2 / 2 at real x_{t-1} (Mescheder et al. 2018, eq. 9). Fakes and `mix` are not looked at."""
    return _gradient(score, x_real).square().flatten(1).sum(1) / 2


def r1_r2_penalty(
    score: Score, x_real: Float[Tensor, " n *d"], x_fake: Float[Tensor, " n *d"], mix: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """|grad D|^2 / 2 at the real x_{t-1}, R1, plus the same at the fake one, R2; `mix` is not looked at.

    Zero-centred on both sides (Roth et al. 2017; Mescheder et al. 2018, eqs. 9 and 10), under one weight as in R3GAN
    (Huang et al. 2024). Two gradients, so about twice the cost of R1.
    """
    at_real, at_fake = _gradient(score, x_real), _gradient(score, x_fake)
    return (at_real.square().flatten(1).sum(1) + at_fake.square().flatten(1).sum(1)) / 2


def gradient_penalty(
    score: Score, x_real: Float[Tensor, " n *d"], x_fake: Float[Tensor, " n *d"], mix: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """(|grad D| - 1)^2 at mix * real + (1 - mix) * fake (Gulrajani et al. 2017, eq. 3).

    Only x_{t-1} is interpolated: the Lipschitz condition of eq. (31) is in x_{t-1}, for each (x_t, t).
    """
    mix = mix.view(-1, *[1] * (x_real.ndim - 1))
    norm = _gradient(score, mix * x_real + (1 - mix) * x_fake).flatten(1).norm(dim=1)
    return (norm - 1).square()


def _gradient(score: Score, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(score(x).sum(), x, create_graph=True)[0]
