"""What must hold between the pieces of a row of divergences, checked numerically: a row proves itself, line by line.

`check_row` goes through `IDENTITIES`, leaves out those whose pieces a row does not have, and raises nothing. All is
float64 on fixed grids and seeds, except for the line about overflow. u = q/p is a density ratio, v a logit; equation
numbers are those of the module `divergences`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from ddgan_core.divergences import LOG_RATIO_BOUND, Divergence
from ddgan_core.shapes import Tensor

F64: dict[str, Any] = {"dtype": torch.float64}
U = torch.logspace(-3, 3, 200, **F64)  # 1, where total variation has its kink, is not on it
V = torch.linspace(-20, 20, 401, **F64)

Pointwise = Callable[[Tensor], Tensor]
Found = tuple[str, float, float]  # what was compared, the largest error, the largest one that passes
Check = Callable[..., Found]  # of the row and the pieces that it needs


@dataclass(frozen=True)
class Identity:
    """One line of the table: a name, the pieces of a row that it is about, and how to measure its error."""

    name: str
    needs: tuple[str, ...]
    check: Check

    def applies(self, row: Divergence) -> bool:
        """Has the row all that this identity is about?"""
        return all(getattr(row, piece) is not None for piece in self.needs)


IDENTITIES: list[Identity] = []


def check_row(row: Divergence) -> pd.DataFrame:
    """One line per identity that applies: identity, compared, error (the largest), passed. Raises nothing.

    A function of the row that raises fails its lines, with what it raised under `compared` and NaN as the error. A row
    without an activation (its f-facts describe another divergence than its critic estimates) is not held to the bound.
    """
    lines = []
    for identity in IDENTITIES:
        if identity.applies(row):
            try:
                pieces = [getattr(row, piece) for piece in identity.needs]
                compared, error, tolerance = identity.check(row, *pieces)
            except Exception as raised:  # the row's own functions may raise anything
                compared, error, tolerance = f"raised {type(raised).__name__}: {raised}", math.nan, 0.0
            lines.append(
                {"identity": identity.name, "compared": compared, "error": error, "passed": error <= tolerance}
            )
    return pd.DataFrame(lines)


def _identity(name: str, *needs: str) -> Callable[[Check], Check]:
    def add(check: Check) -> Check:
        IDENTITIES.append(Identity(name, needs, check))
        return check

    return add


def _slope(function: Pointwise, at: Tensor, create_graph: bool = False) -> Tensor:
    """function'(at), elementwise; zero where the function does not depend on `at`."""
    if not at.requires_grad:
        at = at.detach().requires_grad_(True)
    y = function(at)
    if not y.requires_grad:
        return torch.zeros_like(at)
    return torch.autograd.grad(y.sum(), at, create_graph=create_graph)[0]


def _relative(a: Tensor, b: Tensor) -> float:
    """Largest |a - b| / (1 + |b|); NaN counts as infinite."""
    return ((a - b).abs() / (1 + b.abs())).nan_to_num(math.inf).max().item()


def _drop(y: Tensor) -> float:
    """How far y, along its last axis, falls back anywhere, against its size there; 0 for a non-decreasing one."""
    return (-y.diff() / (1 + y[..., 1:].abs())).nan_to_num(math.inf).clamp(min=0).max().item()


def _exact_logits(row: Divergence) -> Tensor:
    """The part of V where no exponential of the row has turned into its tangent: |log u| <= LOG_RATIO_BOUND.

    Logits that stand for no ratio (Pearson's below -2) are kept: f* is defined there too.
    """
    if row.log_ratio is None:
        return V
    return V[~(row.log_ratio(V).abs() > LOG_RATIO_BOUND)]


def _invertible_logits(log_ratio: Pointwise) -> Tensor:
    """Logits that stand for ratios with |log u| <= 6."""
    return V[log_ratio(V).abs() <= 6]


def optimal_logit(row: Divergence, log_u: Tensor) -> Tensor:
    """The logit v* that stands for u, by bisection: of `log_ratio`, else of g_f(v*) = f'(u) between -40 and 40.

    Where only infinite logits are optimal, as for total variation, an end of the interval: near enough to them.
    """
    reached, target, highest = row.log_ratio, log_u, 1e5
    if reached is None:
        assert row.f_prime is not None
        assert row.activation is not None
        reached, target, highest = row.activation, row.f_prime(log_u.exp()), 40.0
    low, high = torch.full_like(log_u, -40.0), torch.full_like(log_u, highest)
    for _ in range(100):
        middle = (low + high) / 2
        above = reached(middle) >= target  # NaN, outside the domain, counts as below
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high


def _bound(row: Divergence, q: Tensor, p: Tensor, v: Tensor) -> Tensor:
    """Minus the expected critic loss for weights q, p [..., k] and logits v [..., k] at k outcomes, eq. (16)."""
    pairs = row.critic(v[..., :, None].expand(*v.shape, v.shape[-1]), v[..., None, :].expand(*v.shape, v.shape[-1]))
    return -(q[..., :, None] * p[..., None, :] * pairs).sum((-2, -1))


def _discrete() -> tuple[Tensor, Tensor, torch.Generator]:
    """50 pairs of distributions on 8 outcomes, with |log u| within the bound."""
    random = torch.Generator().manual_seed(0)
    q, p = torch.softmax(1.5 * torch.randn(2, 50, 8, generator=random, **F64), -1).clamp(min=1e-4)
    return q / q.sum(-1, keepdim=True), p / p.sum(-1, keepdim=True), random


@_identity("f(1) = 0", "f")
def _f_at_one(row: Divergence, f: Pointwise) -> Found:
    return "f at 1", f(torch.ones(1, **F64)).abs().item(), 1e-12


@_identity("f is convex", "f")
def _convex(row: Divergence, f: Pointwise) -> Found:
    chords = f(U).diff() / U.diff()
    return "slopes of chords, u from 1e-3 to 1e3", _drop(chords), 1e-9


@_identity("f' is the derivative of f", "f", "f_prime")
def _derivative(row: Divergence, f: Pointwise, f_prime: Pointwise) -> Found:
    return "f' and autograd of f, u from 1e-3 to 1e3", _relative(f_prime(U), _slope(f, U)), 1e-8


@_identity("f''(1) = curvature", "f", "curvature")
def _curvature(row: Divergence, f: Pointwise, curvature: float) -> Found:
    second = _slope(lambda u: _slope(f, u, create_graph=True), torch.ones(1, **F64))
    return "curvature and autograd of f, twice", abs(second.item() - curvature), 1e-8


@_identity("f*(f'(u)) = u f'(u) - f(u)", "f", "f_prime", "conjugate")
def _young(row: Divergence, f: Pointwise, f_prime: Pointwise, conjugate: Pointwise) -> Found:
    t = f_prime(U)
    return "Young's equality, u from 1e-3 to 1e3", _relative(conjugate(t), U * t - f(U)), 1e-7


@_identity("the activation maps into dom f*, non-decreasing", "activation", "f_prime")
def _activation(row: Divergence, activation: Pointwise, f_prime: Pointwise) -> Found:
    # f* is finite up to the slope of f at infinity, and nowhere beyond it.
    t, edge = activation(V), f_prime(torch.tensor(1e15, **F64))
    beyond = ((t - edge) / (1 + edge.abs())).clamp(min=0).max().item()
    return "logits from -20 to 20 against f'(1e15)", max(beyond, _drop(t)), 1e-7


def _composed(row: Divergence, f: Pointwise, f_prime: Pointwise) -> tuple[Tensor, Tensor, Tensor]:
    """Exact logits v with g_f(v) and f*(g_f(v)), unfused; where a row has no f*, by Young's equality at the u of v."""
    assert row.activation is not None
    v = _exact_logits(row)
    if row.conjugate is not None:
        return v, row.activation(v), row.conjugate(row.activation(v))
    assert row.log_ratio is not None
    u = row.log_ratio(v).exp()
    return v, row.activation(v), u * f_prime(u) - f(u)


@_identity("critic = f*(h_fake) - h_real", "activation", "f", "f_prime")
def _composition(row: Divergence, activation: Pointwise, f: Pointwise, f_prime: Pointwise) -> Found:
    v, real, fake = _composed(row, f, f_prime)
    finite = fake[None, :].isfinite() & real[:, None].isfinite()
    fused = row.critic(v[:, None].expand_as(finite), v[None, :].expand_as(finite))
    return (
        f"{int(finite.sum())} pairs of logits",
        _relative(fused[finite], (fake[None, :] - real[:, None])[finite]),
        1e-8,
    )


@_identity("generator = -f*(h_fake)", "activation", "f", "f_prime")
def _minimax(row: Divergence, activation: Pointwise, f: Pointwise, f_prime: Pointwise) -> Found:
    v, _, fake = _composed(row, f, f_prime)
    finite = fake.isfinite()
    return f"{int(finite.sum())} logits", _relative(row.generator(None, v)[finite], -fake[finite]), 1e-8


@_identity("log_ratio inverts h* = f'(u)", "activation", "f_prime", "log_ratio")
def _inversion(row: Divergence, activation: Pointwise, f_prime: Pointwise, log_ratio: Pointwise) -> Found:
    v = _invertible_logits(log_ratio)
    return "g_f(v) and f' at the u of v", _relative(activation(v), f_prime(log_ratio(v).exp())), 1e-8


@_identity("the critic is stationary at log_ratio", "log_ratio")
def _stationary(row: Divergence, log_ratio: Pointwise) -> Found:
    v, zero = _invertible_logits(log_ratio), torch.zeros(1, **F64)
    real = log_ratio(v).exp() * _slope(lambda x: row.critic(x, zero.expand_as(x)), v)
    fake = _slope(lambda x: row.critic(zero.expand_as(x), x), v)
    error = ((real + fake).abs() / (real.abs() + fake.abs())).nan_to_num(math.inf).max().item()
    return "q d/dv of the real term + p d/dv of the fake term", error, 1e-8


@_identity("the generator's weight is u^2 f''(u)", "f_prime", "log_ratio")
def _weight(row: Divergence, f_prime: Pointwise, log_ratio: Pointwise) -> Found:
    """At the optimal critic the generator descends D_f(Q || P_theta) exactly if -d generator / d log u is u^2 f''."""
    v = _invertible_logits(log_ratio)
    v_real = torch.zeros_like(v) if row.relativistic else None
    felt = -_slope(lambda x: row.generator(v_real, x), v) / _slope(log_ratio, v)
    u = log_ratio(v).exp()
    weight = u**2 * _slope(f_prime, u)
    return (
        "autograd of the generator and of f'",
        ((felt - weight) / weight).abs().nan_to_num(math.inf).max().item(),
        1e-7,
    )


@_identity("the bound is tight for two Gaussians", "activation", "f")
def _gaussians(row: Divergence, activation: Pointwise, f: Pointwise) -> Found:
    x = torch.linspace(-9, 10, 4001, **F64)  # |log u| = |1/2 - x| stays within LOG_RATIO_BOUND
    q, p = (torch.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi) for mean in (0, 1))
    v = optimal_logit(row, 0.5 - x)
    zero = torch.zeros_like(v)
    # f-divergences have separable critics: real term + fake term, whose constant would count twice.
    total = q * row.critic(v, zero) + p * row.critic(zero, v)
    value = row.critic(zero[:1], zero[:1]).item() - torch.trapezoid(total, x).item()
    exact = torch.trapezoid(p * f((0.5 - x).exp()), x).item()
    return f"N(0, 1) and N(1, 1): bound {value:.8f}, D_f {exact:.8f}", abs(value - exact), 1e-6


@_identity("the bound is tight for discrete distributions", "activation", "f")
def _tight(row: Divergence, activation: Pointwise, f: Pointwise) -> Found:
    q, p, _ = _discrete()
    exact = (p * f(q / p)).sum(-1)
    return "50 pairs on 8 outcomes", _relative(_bound(row, q, p, optimal_logit(row, (q / p).log())), exact), 1e-7


@_identity("no critic exceeds D_f", "activation", "f")
def _never_above(row: Divergence, activation: Pointwise, f: Pointwise) -> Found:
    q, p, random = _discrete()
    exact = (p * f(q / p)).sum(-1)
    best = optimal_logit(row, (q / p).log())
    nudge = torch.randn(2, 40, *q.shape, generator=random, **F64)
    near, far = best + 0.1 * nudge[0], 3 * nudge[1]  # an error would show near the optimum first
    excess = torch.maximum(_bound(row, q, p, near), _bound(row, q, p, far)) - exact
    return "4,000 random critics", (excess / (1 + exact)).nan_to_num(math.inf).clamp(min=0).max().item(), 1e-9


@_identity("no critic gains where P = Q")
def _nothing_to_gain(row: Divergence) -> Found:
    q, _, random = _discrete()
    v = 3 * torch.randn(40, *q.shape, generator=random, **F64)
    return "2,000 random critics", _bound(row, q, q, v).nan_to_num(math.inf).clamp(min=0).max().item(), 1e-9


def _losses(row: Divergence, v: Tensor) -> Iterator[tuple[Pointwise, str]]:
    """Each loss as a function of one logit, the other held at several values, with the way it must go."""
    for other in (-5.0, 0.0, 5.0):
        held = torch.full_like(v, other)
        yield (lambda x, y=held: row.critic(x, y)), "falls"
        yield (lambda x, y=held: row.critic(y, x)), "rises"
        yield (lambda x, y=held: row.generator(y if row.relativistic else None, x)), "falls"
        if row.relativistic:
            yield (lambda x, y=held: row.generator(x, y)), "rises"


@_identity("a larger logit is more real")
def _more_real(row: Divergence) -> Found:
    error = 0.0
    for loss, way in _losses(row, V):
        y = loss(V) if way == "rises" else -loss(V)
        error = max(error, _drop(y), math.inf if y[-1] <= y[0] else 0.0)
    return "critic falls in v_real and rises in v_fake, generator falls in v_fake", error, 1e-12


@_identity("float32 gradients are right")
def _single_precision(row: Divergence) -> Found:
    """An overflow-safe form can lose its digits: e^b + e^v - e^b is 0 in float32 for a large b."""
    error = 0.0
    for (single, _), (double, _) in zip(_losses(row, V.float()), _losses(row, V), strict=True):
        error = max(error, _relative(_slope(single, V.float()).double(), _slope(double, V)))
    return "autograd in float32 and in float64, logits from -20 to 20", error, 1e-4


@_identity("losses and gradients stay finite")
def _finite(row: Divergence) -> Found:
    infinite, size = 0, torch.cat([torch.zeros(1), torch.logspace(-30, 18, 400)])  # Pearson's square ends at 1e19
    for dtype in (torch.float32, torch.bfloat16):
        v = torch.cat([-size, size]).to(dtype)
        for loss, _ in _losses(row, v):
            infinite += int((~loss(v).isfinite()).sum() + (~_slope(loss, v).isfinite()).sum())
    return "logits to 1e18 in float32 and in bfloat16", float(infinite), 0.0
