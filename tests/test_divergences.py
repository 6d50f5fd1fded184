"""Each row against closed forms: Q = N(0, 1) and P = N(1, 1) by quadrature, f-facts by autograd, penalties by hand.

All tests run over `DIVERGENCES`: a new row is tested by being there, and needs only its value in `VALUE`.
"""

import math
from collections.abc import Callable

import pytest
import torch

from ddgan_core import UserError
from ddgan_core.divergences import (
    DIVERGENCES,
    LOG_RATIO_BOUND,
    Divergence,
    alpha_divergence,
    get_divergence,
    gradient_penalty,
    linear_tail_exp,
    r1_penalty,
)

ROWS = list(DIVERGENCES.values())
F_ROWS = [row for row in ROWS if row.f is not None]
SMOOTH_ROWS = [row for row in ROWS if row.log_ratio is not None]
COMPOSED_ROWS = [row for row in ROWS if row.conjugate is not None]


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


def bound(row: Divergence, v: torch.Tensor) -> float:
    """Minus the critic's loss, E_Q over real logits and E_P over fake ones."""
    zero = torch.zeros_like(v)
    constant = row.critic(zero[:1], zero[:1]).item()
    return constant - integral(Q * row.critic(v, zero)) - integral(P * row.critic(zero, v))


def optimal_logit(row: Divergence) -> torch.Tensor:
    """Solves log_ratio(v) = log u by bisection: nothing is taken from the row but that it increases."""
    if row.log_ratio is None:
        return -X if row.name == "wasserstein" else 20 * torch.sign(LOG_U)
    low, high = torch.full_like(X, -100.0), torch.full_like(X, 1e5)
    for _ in range(100):
        middle = (low + high) / 2
        above = row.log_ratio(middle) >= LOG_U  # NaN, outside the domain, counts as below
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high


def random_critics(row: Divergence, n: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    critics = []
    for _ in range(n):
        a, w, phase = (torch.randn(5, 1, generator=g, dtype=torch.float64) for _ in range(3))
        waves = a * torch.sin(w * X + 3 * phase)
        # 1-Lipschitz for Wasserstein, of any size and slope for the others
        scale = 1 / (a * w).abs().sum() if row.name == "wasserstein" else torch.exp(2 * phase[0])
        critics.append(scale * waves.sum(0))
    return critics


@each(ROWS)
def test_the_optimal_critic_attains_the_closed_form(row: Divergence) -> None:
    assert bound(row, optimal_logit(row)) == pytest.approx(VALUE[row.name], rel=1e-6)


@each(ROWS)
def test_no_critic_exceeds_the_divergence(row: Divergence) -> None:
    best = optimal_logit(row)
    for wave in random_critics(row, 40):
        assert bound(row, wave) <= VALUE[row.name] + 1e-9
        if row.name != "wasserstein":  # near the optimum too, where an error would show
            assert bound(row, best + 0.1 * wave) <= VALUE[row.name] + 1e-9


@each(F_ROWS)
def test_f_gives_the_closed_form(row: Divergence) -> None:
    assert integral(P * row.f(LOG_U.exp())) == pytest.approx(F_VALUE[row.name], rel=1e-6)
    assert row.f(torch.ones(1)).item() == 0


@each(SMOOTH_ROWS)
def test_the_generator_descends_its_divergence_at_the_optimal_critic(row: Divergence) -> None:
    """d/dtheta E_{P_theta}[generator(v*)] = d/dtheta D_f(Q || P_theta), v* held fixed: the envelope theorem."""
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    p = torch.exp(-((X - theta) ** 2) / 2) / math.sqrt(2 * math.pi)
    log_u = -(X**2) / 2 + (X - theta) ** 2 / 2
    (by_loss,) = torch.autograd.grad(
        torch.trapezoid(p * row.generator(optimal_logit(row)), X), theta, retain_graph=True
    )
    (by_divergence,) = torch.autograd.grad(torch.trapezoid(p * row.f(log_u.exp()), X), theta)
    assert by_loss.item() == pytest.approx(by_divergence.item(), rel=1e-5)
    assert by_loss > 0  # P moves towards Q


@each(COMPOSED_ROWS)
def test_fused_losses_are_the_composed_ones(row: Divergence) -> None:
    """critic = f*(g_f(v_fake)) - g_f(v_real) and, in the minimax game, generator = -f*(g_f(v))."""
    v = torch.linspace(-4.9, 4.9, 99, dtype=torch.float64)
    real, fake = torch.meshgrid(v, v, indexing="ij")
    composed = row.conjugate(row.activation(fake)) - row.activation(real)
    assert torch.allclose(row.critic(real, fake), composed, atol=1e-9)
    assert torch.allclose(row.generator(v), -row.conjugate(row.activation(v)), atol=1e-9)


@pytest.mark.parametrize(
    ("a", "name", "times"),
    [(2, "pearson", 0.5), (1, "kl", 1), (0.5, "squared_hellinger", 2), (0, "reverse_kl", 1), (-1, "neyman", 0.5)],
)
def test_alpha_divergences_pass_through_the_others(a: float, name: str, times: float) -> None:
    """At the optimal critic of each: the same bound, up to the factor; between a and its limit nothing jumps."""
    row, other = alpha_divergence(a), DIVERGENCES[name]
    assert bound(row, LOG_U) == pytest.approx(times * VALUE[name], rel=1e-6)
    u = torch.logspace(-2, 2, 50, dtype=torch.float64)
    linear = times * (other.f_prime(torch.ones(1)).item()) * (u - 1)  # adds nothing to a divergence
    torch.testing.assert_close(row.f(u), times * other.f(u) - linear, rtol=1e-6, atol=1e-9)
    t = row.f_prime(u)
    torch.testing.assert_close(row.conjugate(t), u * t - row.f(u), rtol=1e-9, atol=1e-9)
    near = alpha_divergence(a + 1e-6)
    torch.testing.assert_close(near.critic(u, -u), row.critic(u, -u), rtol=1e-3, atol=1e-3)


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


def test_non_saturating_js_has_the_minimax_critic() -> None:
    v = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    a, b = DIVERGENCES["non_saturating_js"], DIVERGENCES["jensen_shannon"]
    assert torch.equal(a.critic(*v), b.critic(*v))
    assert not torch.equal(a.generator(v), b.generator(v))


@each(F_ROWS)
def test_f_facts_agree(row: Divergence) -> None:
    u = torch.logspace(-3, 3, 200, dtype=torch.float64).requires_grad_(True)
    f = row.f(u)
    (slope,) = torch.autograd.grad(f.sum(), u)
    assert torch.allclose(slope, row.f_prime(u), rtol=1e-8, atol=1e-10)
    if row.conjugate is not None:  # Young's equality
        assert torch.allclose(row.conjugate(row.f_prime(u)), u * row.f_prime(u) - f, rtol=1e-6, atol=1e-9)
    if row.activation is not None and row.log_ratio is not None:  # g_f(v*) = f'(u)
        v = torch.linspace(-1.9, 4, 60, dtype=torch.float64)
        assert torch.allclose(row.activation(v), row.f_prime(row.log_ratio(v).exp()), rtol=1e-8, atol=1e-10)


@each([row for row in ROWS if row.curvature is not None])
def test_curvature_is_the_second_derivative_at_1(row: Divergence) -> None:
    one = torch.ones(1, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(row.f(one).sum(), one, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), one)
    assert second.item() == pytest.approx(row.curvature)


@each(ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_values_and_gradients_are_finite_at_any_logit(row: Divergence, dtype: torch.dtype) -> None:
    size = torch.tensor([0, 1e-30, 1e-3, 1, 4.99, 5, 5.01, 9.99, 10, 11, 50, 89, 1e3, 1e6, 1e15])
    v = torch.cat([size, -size]).to(dtype).requires_grad_(True)
    for loss in (row.critic(v, torch.zeros_like(v)), row.critic(torch.zeros_like(v), v), row.generator(v)):
        (gradient,) = torch.autograd.grad(loss.sum(), v)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()
        assert loss.dtype == dtype


@each(ROWS)
def test_a_larger_logit_is_more_real(row: Divergence) -> None:
    v = torch.linspace(-40, 40, 8001, dtype=torch.float64)
    zero = torch.zeros_like(v)
    assert (row.critic(v, zero).diff() <= 0).all()
    assert row.critic(v, zero)[0] > row.critic(v, zero)[-1]
    assert (row.critic(zero, v).diff() >= 0).all()
    assert row.critic(zero, v)[0] < row.critic(zero, v)[-1]
    assert (row.generator(v).diff() <= 0).all()
    assert row.generator(v)[0] > row.generator(v)[-1]


def test_the_tail_is_a_tangent() -> None:
    v = torch.tensor([-500.0, 0.0, 9.0, 10.0, 12.0], dtype=torch.float64, requires_grad=True)
    y = linear_tail_exp(v, LOG_RATIO_BOUND)
    (slope,) = torch.autograd.grad(y.sum(), v)
    e = math.exp(10)
    assert y.tolist() == pytest.approx([0, 1, math.exp(9), e, 3 * e])
    assert slope.tolist() == pytest.approx([0, 1, math.exp(9), e, e])


def test_r1_of_a_quadratic_critic() -> None:
    """D(x) = sum_i w_i x_i^2 / 2 has gradient w x, so R1 = |w x|^2 / 2; the fakes and the mix do not matter."""
    w = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 2, 2).requires_grad_(True)
    real = torch.arange(12.0).view(3, 1, 2, 2)
    penalty = r1_penalty(
        lambda x: (w * x**2 / 2).flatten(1).sum(1), real, torch.full_like(real, torch.nan), torch.ones(3)
    )
    assert torch.allclose(penalty, (w * real).flatten(1).square().sum(1) / 2)
    (gradient,) = torch.autograd.grad(penalty.sum(), w)  # the penalty trains the critic
    assert torch.allclose(gradient, (w * real**2).sum(0))


def test_gradient_penalty_of_a_linear_critic() -> None:
    """D(x) = w x has the gradient w everywhere: (|w| - 1)^2, with gradient 2 (|w| - 1) w / |w| in w."""
    w = torch.tensor([3.0, 0.0, 4.0, 0.0]).view(1, 2, 2).requires_grad_(True)
    real, fake = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    penalty = gradient_penalty(lambda x: (w * x).flatten(1).sum(1), real, fake, torch.rand(3))
    assert torch.allclose(penalty, torch.full((3,), 16.0))
    (gradient,) = torch.autograd.grad(penalty.sum(), w)
    assert torch.allclose(gradient, 3 * 8 * w.detach() / 5)


def test_gradient_penalty_is_taken_between_real_and_fake() -> None:
    """D(x) = |x|^2 / 2 has the gradient x: the penalty reads the point at which it was taken."""
    real, fake, mix = torch.full((3, 1), 2.0), torch.full((3, 1), 6.0), torch.tensor([0.0, 0.25, 1.0])
    penalty = gradient_penalty(lambda x: x.square().sum(1) / 2, real, fake, mix)
    assert penalty.tolist() == pytest.approx([25.0, 16.0, 1.0])


def test_an_unknown_row_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="'hellinger'.*squared_hellinger.*pearson") as error:
        get_divergence("hellinger")
    assert "\n" not in str(error.value)


@each(ROWS)
def test_rows_describe_themselves(row: Divergence) -> None:
    assert DIVERGENCES[row.name] is row
    assert row.label
    assert row.latex
    assert row.reference
    assert row.lr_generator > 0
    assert row.lr_critic > 0
    assert row.penalty_weight > 0
