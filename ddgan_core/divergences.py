"""The table of divergences a denoising step may minimise.

D_f(Q || P) = E_P f(u), u = q/p, with Q = q(x_{t-1} | x_t) the data and P = p_theta(x_{t-1} | x_t) the model, eq. (11).
The critic's logit v enters through T = g_f(v), g_f the row's `activation`, and maximises the variational bound

    E_Q[g_f(v)] - E_P[f*(g_f(v))]  <=  D_f(Q || P),  with equality at g_f(v) = f'(q/p)       eqs. (14)-(17)

One convention for all rows: a larger logit means more real. The source paper's activations for squared Hellinger
and reverse KL (eqs. 20 and 23) decrease in v; the optimum is the same under v -> -v.
`critic` is minus the bound, `generator` is what the model minimises; both give one value per image. They are written
in fused form, because f*(g_f(v)) simplifies and overflows less; `identities` rebuilds them from f*, g_f and compares.

A row of `DIVERGENCES`, here or by `register`, is trained, plotted and tabled; CONTRIBUTING.md says what its tests need.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.functional import softplus

from ddgan_core import UserError
from ddgan_core.penalties import Penalty, gradient_penalty, r1_penalty, r1_r2_penalty
from ddgan_core.shapes import Float, Tensor

LOG_2 = math.log(2)

# Exponentials of the logit continue linearly beyond |log(q/p)| = 10: beyond a density ratio of 22,000 a critic's
# opinion should still have a gradient, but no larger one. Within the bound the row is the divergence exactly; beyond
# it reverse KL's critic has no minimum, both its terms being linear (notebook 05), nor others' critics to one side.
LOG_RATIO_BOUND = 10.0

Pointwise = Callable[[Tensor], Tensor]


def linear_tail_exp(v: Float[Tensor, "*n"], bound: float) -> Float[Tensor, "*n"]:
    """exp(v) up to `bound`, its tangent line beyond: convex, increasing, and finite in float32 for |v| up to 1e29.

    The branches are apart: a sum of both has autograd add and subtract e^bound, and float32 then rounds slopes away.
    """
    return torch.where(v > bound, math.exp(bound) * (1 + (v - bound)), v.clamp(max=bound).exp())


@dataclass(frozen=True)
class Divergence:
    """One row: what the two players minimise, and what is known about it in closed form.

    critic, generator: losses per image from logits (v_real, v_fake) on real and fake x_{t-1}; only `generator` reaches
    the model. relativistic: its generator reads v_real, of the real x_{t-1} with the same x_t; to all others that
    argument is None, and the critic's pass over real images is saved.
    penalty: on the critic; its default weight, and the default learning rates of both players, follow. lazy: it may
    skip updates (Karras et al. 2020), which a constraint that the objective itself needs may not.
    f, f_prime, conjugate, activation, log_ratio: f, f', f* (on its domain), g_f and log(q/p) of the optimal logit;
    curvature: f''(1). They are None where the row is not an f-divergence (or, for total variation, undefined).
    """

    name: str
    label: str
    latex: str
    reference: str
    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor | None, Tensor], Tensor]
    relativistic: bool = False
    penalty: Penalty = r1_penalty
    penalty_weight: float = 0.02
    lazy: bool = True
    lr_generator: float = 1e-4
    lr_critic: float = 5e-4
    f: Pointwise | None = None
    f_prime: Pointwise | None = None
    conjugate: Pointwise | None = None
    activation: Pointwise | None = None
    log_ratio: Pointwise | None = None
    curvature: float | None = None


def _js_critic(v_real: Tensor, v_fake: Tensor) -> Tensor:
    return softplus(-v_real) + softplus(v_fake) - 2 * LOG_2


# fmt: off
# f*(g_f(v)) = softplus(v) - log 2; the optimal logit is log(q/p), the classical discriminator's.
_JS = Divergence(
    name="jensen_shannon", label="Jensen-Shannon (minimax)",
    latex=r"u\log u-(1+u)\log\frac{1+u}{2}", reference="Goodfellow et al. 2014; eqs. (8) and (9)",
    critic=_js_critic,
    generator=lambda _, v_fake: LOG_2 - softplus(v_fake),
    f=lambda u: torch.xlogy(u, u) - (1 + u) * torch.log((1 + u) / 2),
    f_prime=lambda u: torch.log(2 * u / (1 + u)),
    conjugate=lambda t: -torch.log(2 - t.exp()),
    activation=lambda v: LOG_2 - softplus(-v),
    log_ratio=lambda v: v, curvature=0.5,
)

# The critic is the one above and estimates Jensen-Shannon, but the model maximises log sigmoid(v), eq. (9). Given the
# optimal critic it then minimises the softened reverse KL, 2 KL((P + Q)/2 || Q) (Shannon et al. 2020, up to a factor),
# which is what the f-facts of this row describe: f, f' and curvature are the model's, not the critic's.
_NON_SATURATING_JS = Divergence(
    name="non_saturating_js", label="JS (non-saturating)",
    latex=r"2\,\mathrm{KL}\left(\tfrac{P+Q}{2}\,\|\,Q\right)",
    reference="Goodfellow et al. 2014; Shannon et al. 2020; eqs. (8) and (9)",
    critic=_js_critic,
    generator=lambda _, v_fake: softplus(-v_fake),
    f=lambda u: (1 + u) * torch.log((1 + u) / (2 * u)),
    f_prime=lambda u: torch.log((1 + u) / (2 * u)) - 1 / u,
    log_ratio=lambda v: v, curvature=0.5,
)

def _exp_half(v: Tensor) -> Tensor:
    # linear_tail_exp with half the bound, the optimal logit being half the log ratio, in the arithmetic of the
    # committed runs: it adds and subtracts e^5, which costs 1e-5 in the slope.
    low = v.clamp(max=LOG_RATIO_BOUND / 2)
    return low.exp() + math.exp(LOG_RATIO_BOUND / 2) * (v - low)


_SQUARED_HELLINGER = Divergence(
    name="squared_hellinger", label="Squared Hellinger",
    latex=r"(\sqrt u-1)^2", reference="eqs. (19)-(21), without the factor 1/2 of (19)",
    critic=lambda v_real, v_fake: _exp_half(-v_real) + _exp_half(v_fake) - 2,
    generator=lambda _, v_fake: 1 - _exp_half(v_fake),
    f=lambda u: (u.sqrt() - 1).square(),
    f_prime=lambda u: 1 - u.rsqrt(),
    conjugate=lambda t: t / (1 - t),
    activation=lambda v: 1 - torch.exp(-v),
    log_ratio=lambda v: 2 * v, curvature=0.5,
)

_exp = partial(linear_tail_exp, bound=LOG_RATIO_BOUND)
_REVERSE_KL = Divergence(
    name="reverse_kl", label="Reverse KL",
    latex=r"-\log u", reference="eqs. (22)-(24)",
    critic=lambda v_real, v_fake: _exp(-v_real) + v_fake - 1,
    generator=lambda _, v_fake: 1 - v_fake,
    f=lambda u: -u.log(),
    f_prime=lambda u: -1 / u,
    conjugate=lambda t: -1 - torch.log(-t),
    activation=lambda v: -torch.exp(-v),
    log_ratio=lambda v: v, curvature=1.0,
)

_KL = Divergence(
    name="kl", label="KL",
    latex=r"u\log u", reference="Nowozin et al. 2016, table 1",
    critic=lambda v_real, v_fake: _exp(v_fake - 1) - v_real,
    generator=lambda _, v_fake: -_exp(v_fake - 1),
    f=lambda u: torch.xlogy(u, u),
    f_prime=lambda u: 1 + u.log(),
    conjugate=lambda t: torch.exp(t - 1),
    activation=lambda v: v,
    log_ratio=lambda v: v - 1, curvature=1.0,
)


def _pearson_conjugate(t: Tensor) -> Tensor:
    # f = +inf below u = 0, so f* is constant where its unconstrained maximiser u = 1 + t/2 would be negative.
    return t.clamp(min=-2).square() / 4 + t.clamp(min=-2)


_PEARSON = Divergence(
    name="pearson", label="Pearson chi-square",
    latex=r"(u-1)^2", reference="Nowozin et al. 2016, table 1",
    critic=lambda v_real, v_fake: _pearson_conjugate(v_fake) - v_real,
    generator=lambda _, v_fake: -_pearson_conjugate(v_fake),
    f=lambda u: (u - 1).square(),
    f_prime=lambda u: 2 * (u - 1),
    conjugate=_pearson_conjugate,
    activation=lambda v: v,
    log_ratio=lambda v: torch.log1p(v / 2), curvature=2.0,
)

# f' = sign(u - 1) / 2 is reached only at infinite logits, so there is no finite optimal logit to invert.
_TOTAL_VARIATION = Divergence(
    name="total_variation", label="Total variation",
    latex=r"\tfrac12|u-1|", reference="eqs. (25)-(27)",
    critic=lambda v_real, v_fake: (v_fake.tanh() - v_real.tanh()) / 2,
    generator=lambda _, v_fake: -v_fake.tanh() / 2,
    f=lambda u: (u - 1).abs() / 2,
    f_prime=lambda u: torch.sign(u - 1) / 2,
    conjugate=lambda t: t.clamp(min=-0.5),
    activation=lambda v: v.tanh() / 2,
)

_WASSERSTEIN = Divergence(
    name="wasserstein", label="Wasserstein-GP",
    latex=r"\sup_{\|D\|_L\le1}\mathbb{E}_Q D-\mathbb{E}_P D",
    reference="Arjovsky et al. 2017; Gulrajani et al. 2017; eqs. (28)-(31)",
    critic=lambda v_real, v_fake: v_fake - v_real,
    generator=lambda _, v_fake: -v_fake,
    penalty=gradient_penalty, penalty_weight=10.0, lazy=False,
)

# Only differences of logits count, so whatever the critic knows from (x_t, t) alone cancels between a real x_{t-1} and
# the fake beside it. Not an f-divergence, but 0 at P = Q and at most log 2: the constant keeps `critic` minus a bound.
_RELATIVISTIC = Divergence(
    name="relativistic", label="Relativistic, R1 + R2",
    latex=r"\sup_D\mathbb{E}_{Q\times P}\log2\sigma(D(x)-D(y))",
    reference="Jolicoeur-Martineau 2019; Huang et al. 2024",
    critic=lambda v_real, v_fake: softplus(v_fake - v_real) - LOG_2,
    generator=lambda v_real, v_fake: softplus(v_real - v_fake),
    relativistic=True, penalty=r1_r2_penalty,
)

# In v = 2 log u, f*(g_f(v)) = 2 - 2 exp(-v/2); the real term explodes twice as fast as reverse KL's.
_NEYMAN = Divergence(
    name="neyman", label="Neyman chi-square",
    latex=r"\tfrac{(1-u)^2}{u}", reference="Nowozin et al. 2016, table 1",
    critic=lambda v_real, v_fake: linear_tail_exp(-v_real, 2 * LOG_RATIO_BOUND) - 2 * _exp(-v_fake / 2) + 1,
    generator=lambda _, v_fake: 2 * _exp(-v_fake / 2) - 2,
    f=lambda u: (1 - u).square() / u,
    f_prime=lambda u: 1 - u.pow(-2),
    conjugate=lambda t: 2 - 2 * torch.sqrt(1 - t),
    activation=lambda v: 1 - torch.exp(-v),
    log_ratio=lambda v: v / 2, curvature=2.0,
)

# f* needs Lambert's W, but f*(f'(u)) = log u + u - 1 does not: in v = log u both losses are elementary.
_JEFFREYS = Divergence(
    name="jeffreys", label="Jeffreys",
    latex=r"(u-1)\log u", reference="Jeffreys 1946: KL + reverse KL",
    critic=lambda v_real, v_fake: v_fake + _exp(v_fake) - v_real + _exp(-v_real) - 2,
    generator=lambda _, v_fake: 1 - v_fake - _exp(v_fake),
    f=lambda u: (u - 1) * u.log(),
    f_prime=lambda u: u.log() + 1 - 1 / u,
    activation=lambda v: 1 + v - torch.exp(-v),
    log_ratio=lambda v: v, curvature=2.0,
)
# fmt: on


def _power(v: Tensor, c: float) -> Tensor:
    """(u^c - 1)/c at u = e^v, with linear tails: increasing in v for any c but 0."""
    return (linear_tail_exp(c * v, abs(c) * LOG_RATIO_BOUND) - 1) / c


def alpha_divergence(a: float) -> Divergence:
    """The row of the power divergence f(u) = (u^a - 1 - a(u - 1)) / (a(a - 1)), a not 0 or 1 (Cressie & Read 1984).

    a = 2: half of Pearson's; 1/2: twice squared Hellinger; -1: half of Neyman's; its limits, at a = 1 and 0, are the
    rows of KL and reverse KL. In v = log u the losses are powers of u: f'(u) = (u^(a-1) - 1)/(a - 1) and f*(f'(u)) =
    (u^a - 1)/a.
    """
    b = a - 1
    return Divergence(
        name=f"alpha_{a:g}",
        label=f"alpha = {a:g}",
        latex=rf"\tfrac{{u^a-1-a(u-1)}}{{a(a-1)}},\ a={a:g}",
        reference="Cressie & Read 1984",
        critic=lambda v_real, v_fake: _power(v_fake, a) - _power(v_real, b),
        generator=lambda _, v_fake: -_power(v_fake, a),
        f=lambda u: (u**a - 1 - a * (u - 1)) / (a * b),
        f_prime=lambda u: (u**b - 1) / b,
        conjugate=lambda t: ((1 + b * t).clamp(min=0) ** (a / b) - 1) / a,  # u = 0 beyond the edge if a > 1
        activation=lambda v: torch.expm1(b * v) / b,
        log_ratio=lambda v: v,
        curvature=1.0,
    )


DIVERGENCES: dict[str, Divergence] = {
    row.name: row
    for row in (
        _NON_SATURATING_JS, _JS, _SQUARED_HELLINGER, _REVERSE_KL, _TOTAL_VARIATION, _WASSERSTEIN, _KL, _PEARSON,
        _NEYMAN, _JEFFREYS, alpha_divergence(1.5), alpha_divergence(-0.5), _RELATIVISTIC,
    )
}  # fmt: skip


def get_divergence(name: str) -> Divergence:
    """The row of that name. Raises UserError with the known names."""
    if name not in DIVERGENCES:
        raise UserError(f"divergence {name!r} is not known: choose one of {', '.join(DIVERGENCES)}")
    return DIVERGENCES[name]


def register(row: Divergence, replace: bool = False) -> Divergence:
    """Add a row of one's own to `DIVERGENCES`, or with `replace` in the place of the one of that name. Returns the row.

    It holds for this process: `study.ensure` and `study.run`, hence a notebook with compute=True, train, score and plot
    it by its name. Other processes import the package anew and know only the rows of this file: the command line and
    the workers of `study.run_local` and `study.run_on_ray` refuse the name. Scores already made are read without it.
    Raises UserError where the row is not well-formed; whether its mathematics is right, `identities.check_row` says.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", row.name) or row.name in ("none", "ddpm"):
        raise UserError(f"row name {row.name!r}: small letters, digits, '.', '_' and '-'; none and ddpm are taken")
    if row.name in DIVERGENCES and not replace:
        raise UserError(f"row {row.name!r} is there already: choose another name, or register it with replace=True")
    facts = [row.f, row.f_prime, row.conjugate, row.activation, row.log_ratio, row.curvature]
    needed = ["label", "latex", "reference"] + ["f", "f_prime"] * any(fact is not None for fact in facts)
    if missing := [piece for piece in needed if not getattr(row, piece)]:
        raise UserError(f"row {row.name!r} has no {', '.join(missing)}: give it (of an f-divergence, f and f_prime)")
    v = torch.zeros(3)
    for piece, v_real in (("critic", v), ("generator", v if row.relativistic else None)):
        try:
            found = tuple(getattr(row, piece)(v_real, v).shape)
        except Exception as error:  # whatever a user's function may raise
            hint = " (one that reads v_real needs relativistic=True)" if v_real is None else ""
            raise UserError(f"row {row.name!r}: its {piece} fails on three logits, {error!r}{hint}") from None
        if found != (3,):
            raise UserError(f"row {row.name!r}: its {piece} gives shape {found} for three logits, not one value each")
    DIVERGENCES[row.name] = row
    return row
