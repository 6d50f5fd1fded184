"""Each row against what is known from outside it: closed forms for Q = N(0, 1) and P = N(1, 1), and for coins.

That the pieces of a row agree with each other is the business of test_identities.py, that they are the right functions
that of test_symbolic.py. A new row is tested by being there, and needs its value in `VALUE`, and as an f-divergence in
`test_which_of_the_two_comes_first`.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from ddgan_core import UserError
from ddgan_core.divergences import (
    DIVERGENCES,
    LOG_RATIO_BOUND,
    Divergence,
    alpha_divergence,
    get_divergence,
    linear_tail_exp,
)
from ddgan_core.identities import optimal_logit
from ddgan_core.penalties import gradient_penalty, r1_penalty, r1_r2_penalty

ROWS = list(DIVERGENCES.values())
SEPARABLE_ROWS = [row for row in ROWS if not row.relativistic]  # E_Q of a real term + E_P of a fake term
F_ROWS = [row for row in ROWS if row.f is not None]


def each(rows: list[Divergence]) -> Callable:
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)


# Where |log q/p| = |1/2 - x| stays within LOG_RATIO_BOUND, so that every row is its divergence exactly.
X = torch.linspace(-9, 10, 20_001, dtype=torch.float64)
Q = torch.exp(-(X**2) / 2) / math.sqrt(2 * math.pi)
P = torch.exp(-((X - 1) ** 2) / 2) / math.sqrt(2 * math.pi)
LOG_U = 0.5 - X
M = (P + Q) / 2


def integral(y: torch.Tensor) -> float:
    return torch.trapezoid(y, X).item()


TWICE_JSD = integral(Q * (Q / M).log() + P * (P / M).log())
# What the critic estimates, D(Q || P): known by hand for two unit Gaussians at distance 1 (JS by quadrature).
VALUE = {
    "non_saturating_js": TWICE_JSD,
    "jensen_shannon": TWICE_JSD,
    "squared_hellinger": 2 - 2 * math.exp(-1 / 8),
    "reverse_kl": 0.5,
    "total_variation": math.erf(0.5 / math.sqrt(2)),
    "wasserstein": 1.0,
    "kl": 0.5,
    "pearson": math.e - 1,
    "neyman": math.e - 1,
    "jeffreys": 1.0,
}
# E_P u^a = exp(a(a - 1)/2) for these two Gaussians
VALUE |= {f"alpha_{a:g}": math.expm1(a * (a - 1) / 2) / (a * (a - 1)) for a in (1.5, -0.5)}
# The non-saturating generator minimises another divergence than its critic estimates: 2 KL(M || Q).
F_VALUE = VALUE | {"non_saturating_js": 2 * integral(M * (M / Q).log())}


def closed_form(row: Divergence, values: dict[str, float] = VALUE) -> float:
    """The row's value in that table; a row without one fails by its name."""
    if row.name not in values:
        pytest.fail(
            f"row {row.name!r} has no closed form here: add D(Q || P) for Q = N(0, 1), P = N(1, 1) to VALUE in "
            "tests/test_divergences.py",
            pytrace=False,
        )
    return values[row.name]


def bound(row: Divergence, v: torch.Tensor) -> float:
    """Minus the critic's loss, E_Q over real logits and E_P over fake ones."""
    zero = torch.zeros_like(v)
    constant = row.critic(zero[:1], zero[:1]).item()
    return constant - integral(Q * row.critic(v, zero)) - integral(P * row.critic(zero, v))


def best_logit(row: Divergence) -> torch.Tensor:
    """For Wasserstein the steepest 1-Lipschitz critic, which ranks the two means."""
    return -X if row.name == "wasserstein" else optimal_logit(row, LOG_U)


def random_critics(n: int) -> list[torch.Tensor]:
    """Of any size and slope."""
    g = torch.Generator().manual_seed(0)
    critics = []
    for _ in range(n):
        a, w, phase = (torch.randn(5, 1, generator=g, dtype=torch.float64) for _ in range(3))
        critics.append(torch.exp(2 * phase[0]) * (a * torch.sin(w * X + 3 * phase)).sum(0))
    return critics


def test_a_row_without_a_closed_form_is_told_where_to_give_it() -> None:
    for values in (VALUE, F_VALUE):
        with pytest.raises(
            pytest.fail.Exception, match=r"'my_row' has no closed form.*VALUE in tests/test_divergences.py"
        ):
            closed_form(replace(DIVERGENCES["kl"], name="my_row"), values)


@each(SEPARABLE_ROWS)
def test_the_optimal_critic_attains_the_closed_form(row: Divergence) -> None:
    assert bound(row, best_logit(row)) == pytest.approx(closed_form(row), rel=1e-6)


@each(F_ROWS)
def test_f_gives_the_closed_form(row: Divergence) -> None:
    assert integral(P * row.f(LOG_U.exp())) == pytest.approx(closed_form(row, F_VALUE), rel=1e-6)
    assert row.f(torch.ones(1)).item() == 0


WIDE = torch.distributions.Normal(torch.tensor(0.5, dtype=torch.float64), torch.tensor(1.1, dtype=torch.float64))


def moment(a: float) -> float:
    """E_P u^a for Q = N(0, 1) and P = N(m, s^2), m = 0.5 and s = 1.1: the integral of q^a p^(1-a)."""
    m, s = WIDE.mean.item(), WIDE.stddev.item()
    b = (1 - a) / s**2
    return s ** (a - 1) / math.sqrt(a + b) * math.exp(-a * b * m**2 / (2 * (a + b)))


def test_which_of_the_two_comes_first() -> None:
    """The pair above is its own mirror image, D(Q || P) = D(P || Q). This one is not, and tells KL from reverse KL."""
    m, s = WIDE.mean.item(), WIDE.stddev.item()
    p = WIDE.log_prob(X).exp()
    log_u = Q.log() - p.log()
    middle = (p + Q) / 2
    kl, reverse = math.log(s) + (1 + m**2) / (2 * s**2) - 0.5, (s**2 + m**2 - 1) / 2 - math.log(s)
    value = {
        "jensen_shannon": integral(Q * (Q / middle).log() + p * (p / middle).log()),
        "squared_hellinger": 2 - 2 * moment(0.5), "kl": kl, "reverse_kl": reverse, "jeffreys": kl + reverse,
        "pearson": moment(2) - 1, "neyman": moment(-1) - 1, "total_variation": integral((p - Q).abs()) / 2,
    } | {f"alpha_{a:g}": (moment(a) - 1) / (a * (a - 1)) for a in (1.5, -0.5)}  # fmt: skip
    rows = {row.name for row in F_ROWS} - {"non_saturating_js"}  # whose critic is Jensen-Shannon's
    if missing := ", ".join(sorted(rows - set(value))):
        pytest.fail(
            f"no closed form of {missing} here: add D(N(0, 1) || N(0.5, 1.1^2)) to `value` in this test, "
            "tests/test_divergences.py::test_which_of_the_two_comes_first",
            pytrace=False,
        )
    assert set(value) == rows
    assert abs(value["kl"] / value["reverse_kl"] - 1) > 0.01 < abs(value["pearson"] / value["neyman"] - 1)
    for name, exact in value.items():
        row = DIVERGENCES[name]
        v, zero = optimal_logit(row, log_u), torch.zeros_like(X)
        terms = integral(Q * row.critic(v, zero)) + integral(p * row.critic(zero, v))
        assert row.critic(zero[:1], zero[:1]).item() - terms == pytest.approx(exact, rel=1e-5), name
        assert integral(p * row.f(log_u.exp())) == pytest.approx(exact, rel=1e-5), name


def test_wasserstein_of_discrete_distributions() -> None:
    """On points of the line the best 1-Lipschitz critic climbs where P has come first: |F_Q - F_P| times each gap."""
    row, at = DIVERGENCES["wasserstein"], torch.tensor([0.0, 1.0, 3.0, 4.0], dtype=torch.float64)
    q, p = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.5, 0.1, 0.3, 0.1]], dtype=torch.float64)
    ahead = (p - q).cumsum(0)[:-1]  # F_P - F_Q
    best = torch.cat([torch.zeros(1, dtype=torch.float64), (ahead.sign() * at.diff()).cumsum(0)])

    def of(v: torch.Tensor) -> float:
        return -(q[:, None] * p * row.critic(v[:, None].expand(4, 4), v.expand(4, 4))).sum().item()

    assert of(best) == pytest.approx((ahead.abs() * at.diff()).sum().item())
    slopes = 2 * torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    climbs = torch.cat([torch.zeros(200, 1, dtype=torch.float64), (slopes * at.diff()).cumsum(1)], 1)
    assert max(of(v) for v in climbs) < of(best)


@pytest.mark.parametrize(
    ("a", "name", "times"),
    [(2, "pearson", 0.5), (0.5, "squared_hellinger", 2), (-1, "neyman", 0.5)],
)
def test_alpha_divergences_pass_through_the_others(a: float, name: str, times: float) -> None:
    """At the optimal critic of each: the same bound, up to the factor."""
    row, other = alpha_divergence(a), DIVERGENCES[name]
    assert bound(row, LOG_U) == pytest.approx(times * VALUE[name], rel=1e-6)
    u = torch.logspace(-2, 2, 50, dtype=torch.float64)
    linear = times * (other.f_prime(torch.ones(1)).item()) * (u - 1)  # adds nothing to a divergence
    torch.testing.assert_close(row.f(u), times * other.f(u) - linear, rtol=1e-6, atol=1e-9)
    t = row.f_prime(u)
    torch.testing.assert_close(row.conjugate(t), u * t - row.f(u), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("a", [3, 1.5, 0.5, -0.5, -2])
def test_the_conjugate_of_an_alpha_divergence_is_the_supremum_over_u_of_0_or_more(a: float) -> None:
    """By brute force, also beyond the edge a > 1 has at 1 + (a - 1) t = 0, where the best u is 0."""
    row, edge = alpha_divergence(a), -1 / (a - 1)
    inside, beyond = (0.05, 3.0), (-2.0, 0.0)  # for a < 1 the conjugate is infinite beyond the edge
    reach = (edge + beyond[0], edge + inside[1]) if a > 1 else (edge - inside[1], edge - inside[0])
    t = torch.linspace(*reach, 41, dtype=torch.float64)
    u = torch.logspace(-9, 5, 200_001, dtype=torch.float64)
    supremum = (u * t[:, None] - row.f(u)).max(1).values
    torch.testing.assert_close(row.conjugate(t), supremum, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("q", "p"), [(0.9, 0.2), (0.5, 0.5), (0.3, 0.6), (1.0, 0.5), (1.0, 0.0)])
def test_the_relativistic_critic_on_two_coins(q: float, p: float) -> None:
    """Only the logits' difference d counts: max over d of A log 2 sigma(d) + B log 2 sigma(-d), with d* = log(A/B).

    A = q(1 - p) is the chance that the real coin shows 1 and the fake 0, B = p(1 - q) the other way round.
    """
    row, a, b = DIVERGENCES["relativistic"], q * (1 - p), p * (1 - q)
    weights = torch.tensor([[q * p, q * (1 - p)], [(1 - q) * p, (1 - q) * (1 - p)]], dtype=torch.float64)
    best = math.log(max(a, 1e-15) / max(b, 1e-15))
    logits = torch.tensor([best, 0.0], dtype=torch.float64)  # of the outcomes 1 and 0, up to a constant
    value = -(weights * row.critic(logits[:, None].expand(2, 2), logits.expand(2, 2))).sum().item()
    exact = sum(x * math.log(2 * x / (a + b)) for x in (a, b) if x > 0)
    assert value == pytest.approx(exact, abs=1e-12)
    for d in (best - 0.5, best + 0.5, 0.0, 20.0):
        other = torch.tensor([d, 0.0], dtype=torch.float64) + 7  # a constant changes nothing
        assert -(weights * row.critic(other[:, None].expand(2, 2), other.expand(2, 2))).sum() <= value + 1e-12


def test_the_relativistic_critic_on_two_gaussians() -> None:
    """v = log q/p is optimal: real minus fake is then N(1, 2), and the bound E log 2 sigma of it, N(1, 2)'s JSD from
    N(-1, 2), the difference being their log ratio."""
    row, thin = DIVERGENCES["relativistic"], slice(None, None, 50)
    weights = Q[thin, None] * P[thin]
    weights = weights / weights.sum()

    def of(v: torch.Tensor) -> float:
        n = len(v)
        return -(weights * row.critic(v[:, None].expand(n, n), v.expand(n, n))).sum().item()

    best = LOG_U[thin]
    here, there = (torch.distributions.Normal(mean, math.sqrt(2)).log_prob(X).exp() for mean in (1.0, -1.0))
    both = (here + there) / 2
    jsd = integral(here * (here / both).log() + there * (there / both).log()) / 2
    assert of(best) == pytest.approx(jsd, rel=1e-5)
    assert max(of(best + 0.1 * wave[thin]) for wave in random_critics(20)) < of(best)


def test_the_relativistic_players_see_the_pair_with_opposite_signs() -> None:
    row = DIVERGENCES["relativistic"]
    v_real, v_fake = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(row.generator(v_real, v_fake), row.critic(v_fake, v_real) + math.log(2))
    v_fake.requires_grad_(True)
    (pull,) = torch.autograd.grad(row.generator(v_real, v_fake).sum(), v_fake)
    torch.testing.assert_close(pull, -torch.sigmoid(v_real - v_fake.detach()))  # never vanishes where the critic wins


def test_the_tail_is_a_tangent() -> None:
    v = torch.tensor([-500.0, 0.0, 9.0, 10.0, 12.0], dtype=torch.float64, requires_grad=True)
    y = linear_tail_exp(v, LOG_RATIO_BOUND)
    (slope,) = torch.autograd.grad(y.sum(), v)
    e = math.exp(10)
    assert y.tolist() == pytest.approx([0, 1, math.exp(9), e, 3 * e])
    assert slope.tolist() == pytest.approx([0, 1, math.exp(9), e, e])


@each([row for row in F_ROWS if row.name not in ("pearson", "total_variation")])
def test_beyond_the_bound_no_slope_grows(row: Divergence) -> None:
    """At density ratios beyond e^10 and e^-10 no logit pulls harder than there; Pearson's is a parabola, by design."""
    for near, far in ((10.001, 12.0), (-10.001, -12.0)):
        v = optimal_logit(row, torch.tensor([near, far], dtype=torch.float64)).requires_grad_(True)
        zero = torch.zeros_like(v)
        for losses in (row.critic(v, zero), row.critic(zero, v), row.generator(None, v)):
            (slope,) = torch.autograd.grad(losses.sum(), v)
            assert slope[1].abs() <= 1.001 * slope[0].abs()


def test_the_penalties_are_those_of_the_sources() -> None:
    usual = dict.fromkeys(("non_saturating_js", "squared_hellinger", "reverse_kl", "total_variation"), r1_penalty)
    for name, penalty in (usual | {"wasserstein": gradient_penalty, "relativistic": r1_r2_penalty}).items():
        assert DIVERGENCES[name].penalty is penalty, name


@pytest.mark.parametrize("bound", [5.0, 10.0, 15.0, 20.0])
def test_float32_does_not_round_the_slope_of_the_exponential_away(bound: float) -> None:
    v = torch.tensor([-5.0, -1.0, 0.0, 2.0], requires_grad=True)
    (slope,) = torch.autograd.grad(linear_tail_exp(v, bound).sum(), v)
    torch.testing.assert_close(slope, v.detach().exp())


def test_an_unknown_row_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="'hellinger'.*squared_hellinger.*pearson") as error:
        get_divergence("hellinger")
    assert "\n" not in str(error.value)


@each(ROWS)
def test_rows_describe_themselves(row: Divergence) -> None:
    assert row.label
    assert row.latex
    assert row.reference
    assert row.lr_generator > 0
    assert row.lr_critic > 0
    assert row.penalty_weight > 0
