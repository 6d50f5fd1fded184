"""Every f-divergence row against sympy: an independent table of f, f* and g_f, derived from f and from nothing else.

f is defined on u >= 0 and is infinite below, which decides f* where f' does not reach: Pearson, total variation, a > 1.
"""

from dataclasses import dataclass

import pytest
import sympy as sp
import torch

from ddgan_core.divergences import DIVERGENCES, alpha_divergence

u = sp.Symbol("u", positive=True)
t, v = sp.symbols("t v", real=True)
ALPHAS = [sp.Rational(a) for a in ("-1/2", "1/2", "3/2")]  # the two shipped, and one between 0 and 1
RATIOS = [sp.Rational(1, 50), sp.Rational(1, 3), sp.Rational(7, 9), sp.Rational(5, 4), sp.Integer(3), sp.Integer(40)]


@dataclass(frozen=True)
class Row:
    """Written out by hand: f(u), f*(t) where f' reaches t, T = g_f(v), and the optimal logit v*(u)."""

    f: sp.Expr
    conjugate: sp.Expr | None = None
    activation: sp.Expr | None = None
    v_star: sp.Expr | None = None


W = sp.LambertW(sp.exp(1 - t))
TABLE = {
    "jensen_shannon": Row(
        u * sp.log(u) - (1 + u) * sp.log((1 + u) / 2), -sp.log(2 - sp.exp(t)), -sp.log((1 + sp.exp(-v)) / 2), sp.log(u)
    ),
    "non_saturating_js": Row((1 + u) * sp.log((1 + u) / (2 * u))),
    "squared_hellinger": Row((sp.sqrt(u) - 1) ** 2, t / (1 - t), 1 - sp.exp(-v), sp.log(u) / 2),
    "reverse_kl": Row(-sp.log(u), -1 - sp.log(-t), -sp.exp(-v), sp.log(u)),
    "kl": Row(u * sp.log(u), sp.exp(t - 1), v, 1 + sp.log(u)),
    "pearson": Row((u - 1) ** 2, t**2 / 4 + t, v, 2 * (u - 1)),
    "neyman": Row((1 - u) ** 2 / u, 2 - 2 * sp.sqrt(1 - t), 1 - sp.exp(-v), 2 * sp.log(u)),
    "jeffreys": Row((u - 1) * sp.log(u), W + 1 / W + t - 2, 1 + v - sp.exp(-v), sp.log(u)),
}
SOLVED = [name for name, row in TABLE.items() if row.conjugate is not None]


def power(a: sp.Expr) -> Row:
    """Cressie and Read's family, a other than 0 and 1."""
    return Row(
        (u**a - 1 - a * (u - 1)) / (a * (a - 1)), ((1 + (a - 1) * t) ** (a / (a - 1)) - 1) / a,
        (sp.exp((a - 1) * v) - 1) / (a - 1), sp.log(u),
    )  # fmt: skip


CASES = [(name, TABLE[name]) for name in SOLVED] + [(f"alpha_{float(a):g}", power(a)) for a in ALPHAS]
each_case = pytest.mark.parametrize(("name", "row"), CASES, ids=[name for name, _ in CASES])


def same(a: sp.Expr, b: sp.Expr, at: dict[sp.Symbol, list[sp.Expr]]) -> bool:
    """Is a - b zero: to 30 digits at points, where sympy's simplification is not sure of it."""
    (symbol, points), difference = next(iter(at.items())), a - b
    return sp.simplify(difference) == 0 or all(abs(sp.N(difference.subs(symbol, x), 40)) < 1e-30 for x in points)


def slopes(row: Row) -> list[sp.Expr]:
    return [sp.diff(row.f, u).subs(u, x) for x in RATIOS]


def torch_row(name: str):  # noqa: ANN201
    return DIVERGENCES[name] if name in DIVERGENCES else alpha_divergence(float(name.removeprefix("alpha_")))


def test_the_table_has_every_f_divergence() -> None:
    f_rows = {name for name, row in DIVERGENCES.items() if row.f is not None}
    known = {*TABLE, "alpha_1.5", "alpha_-0.5", "total_variation"}  # TV has a test of its own, below
    if missing := ", ".join(sorted(f_rows - known)):
        pytest.fail(
            f"no symbolic form of {missing}: add f, f*, g_f and v* to TABLE in tests/test_symbolic.py", pytrace=False
        )
    assert f_rows == known


@each_case
def test_the_conjugate_is_what_solving_for_the_supremum_gives(name: str, row: Row) -> None:
    """f'(u) = t for u, put into ut - f(u): the maximiser of a concave function."""
    solutions = sp.solve(sp.Eq(sp.diff(row.f, u), t), u)
    points = slopes(row)
    assert any(same(t * s - row.f.subs(u, s), row.conjugate, {t: points}) for s in solutions)


@each_case
def test_the_double_conjugate_is_f(name: str, row: Row) -> None:
    """sup_t (ut - f*(t)) is attained where f*'(t) = u, that is at t = f'(u), eq. (13)."""
    slope = sp.diff(row.f, u)
    assert same(sp.diff(row.conjugate, t).subs(t, slope), u, {u: RATIOS})
    assert same(u * slope - row.conjugate.subs(t, slope), row.f, {u: RATIOS})


@each_case
def test_the_optimal_logit_gives_the_tangent(name: str, row: Row) -> None:
    """g_f(v*) = f'(q/p), eq. (17), and the activation increases."""
    assert same(row.activation.subs(v, row.v_star), sp.diff(row.f, u), {u: RATIOS})
    rising = sp.diff(row.activation, v)
    assert all(sp.N(rising.subs(v, x)) > 0 for x in (-3, 0, 2))


@pytest.mark.parametrize("name", [*TABLE, *(f"alpha_{float(a):g}" for a in ALPHAS)])
def test_f_is_a_generator(name: str) -> None:
    """f(1) = 0, convex, and the curvature f''(1) that the row states."""
    f = TABLE[name].f if name in TABLE else power(sp.nsimplify(name.removeprefix("alpha_"))).f
    assert f.subs(u, 1) == 0
    assert all(sp.N(sp.diff(f, u, 2).subs(u, x)) > 0 for x in RATIOS)
    assert sp.simplify(sp.diff(f, u, 2).subs(u, 1)) == sp.nsimplify(torch_row(name).curvature)


@pytest.mark.parametrize("name", ["total_variation", *TABLE, *(f"alpha_{float(a):g}" for a in ALPHAS)])
def test_the_row_computes_these_functions(name: str) -> None:
    ours = torch_row(name)
    row = TABLE.get(name) or Row(sp.Abs(u - 1) / 2, sp.Max(t, -sp.Rational(1, 2)), sp.tanh(v) / 2)
    row = power(sp.nsimplify(name.removeprefix("alpha_"))) if name.startswith("alpha_") else row

    def compare(function, expression: sp.Expr, symbol: sp.Symbol, points: list[sp.Expr]) -> None:  # noqa: ANN001
        at = torch.tensor([float(x) for x in points], dtype=torch.float64)
        exact = torch.tensor([float(sp.N(expression.subs(symbol, x), 30)) for x in points], dtype=torch.float64)
        torch.testing.assert_close(function(at), exact, rtol=1e-10, atol=1e-12)

    compare(ours.f, row.f, u, RATIOS)
    compare(ours.f_prime, sp.diff(row.f, u), u, RATIOS)
    if ours.conjugate is not None:
        compare(ours.conjugate, row.conjugate, t, slopes(row))
    if ours.activation is not None:
        compare(ours.activation, row.activation, v, [sp.Rational(x) for x in ("-3", "-1/2", "0", "2")])
    if ours.log_ratio is not None and row.v_star is not None:
        points = [row.v_star.subs(u, x) for x in RATIOS]
        found = ours.log_ratio(torch.tensor([float(x) for x in points], dtype=torch.float64))
        torch.testing.assert_close(found, torch.tensor([float(sp.log(x)) for x in RATIOS], dtype=torch.float64))


def test_total_variation_by_its_corners() -> None:
    """ut - f(u) is piecewise linear: for t <= 1/2 the supremum over u >= 0 is at u = 0 or at u = 1; likewise f**."""
    half, f = sp.Rational(1, 2), sp.Abs(u - 1) / 2
    at_corners = sp.Max(0 * t - half, 1 * t - f.subs(u, 1))
    assert at_corners == sp.Max(t, -half)
    doubled = [u * corner - sp.Max(corner, -half) for corner in (-half, half)]
    for x in [sp.Integer(0), *RATIOS]:
        assert max(value.subs(u, x) for value in doubled) == sp.Abs(x - 1) / 2


def test_pearson_where_its_slope_does_not_reach() -> None:
    """Below t = f'(0) = -2 the best u is 0: f* = -f(0) = -1 there, and the formula would rise again."""
    assert sp.diff(TABLE["pearson"].f, u).subs(u, 0) == -2
    ours = DIVERGENCES["pearson"].conjugate(torch.tensor([-2.0, -3.0, -50.0], dtype=torch.float64))
    assert ours.tolist() == [-1, -1, -1]
    assert TABLE["pearson"].conjugate.subs(t, -3) > -1


def test_the_softened_reverse_kl_at_its_edge() -> None:
    """No closed f*: in u, f*(f'(u)) = u f' - f, with df*/dt = u; its domain ends at t = -log 2 with log 2 - 1."""
    f = TABLE["non_saturating_js"].f
    slope = sp.diff(f, u)
    by_young = sp.simplify(u * slope - f)
    assert sp.simplify(sp.diff(by_young, u) / sp.diff(slope, u) - u) == 0
    assert sp.limit(slope, u, sp.oo) == -sp.log(2)
    assert sp.simplify(sp.limit(by_young, u, sp.oo) - (sp.log(2) - 1)) == 0
    # 2 KL(M || Q) = E_P (1 + u) log((1 + u)/(2u)), M = (P + Q)/2
    p, q = sp.symbols("p q", positive=True)
    assert sp.simplify(p * f.subs(u, q / p) - (p + q) * sp.log((p + q) / (2 * q))) == 0


def test_alpha_above_1_is_constant_beyond_its_edge() -> None:
    """Beyond 1 + (a - 1) t = 0 the best u is 0 and f* = -f(0) = -1/a."""
    a = sp.Rational(3, 2)
    row = power(a)
    edge = sp.diff(row.f, u).subs(u, 0)
    assert (edge, row.f.subs(u, 0)) == (-1 / (a - 1), 1 / a)
    at = torch.tensor([float(edge), float(edge) - 1, float(edge) - 30], dtype=torch.float64)
    assert alpha_divergence(float(a)).conjugate(at).tolist() == pytest.approx([float(-1 / a)] * 3)


def test_alpha_below_0_is_finite_at_its_edge_and_infinite_beyond() -> None:
    a = -sp.Rational(1, 2)
    row, edge = power(a), -1 / (a - 1)
    assert sp.limit(sp.diff(row.f, u), u, sp.oo) == edge
    assert row.conjugate.subs(t, edge) == -1 / a
    assert sp.limit(u * (edge + sp.Rational(1, 10)) - row.f, u, sp.oo) == sp.oo
    assert alpha_divergence(float(a)).conjugate(torch.tensor(float(edge))).item() == pytest.approx(float(-1 / a), 1e-4)
