"""How many images a critic's loss needs: closed forms, and critics that are fitted to many made-up sets of images."""

import lzma
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from ddgan_core import UserError
from ddgan_core.divergences import get_divergence
from ddgan_core.evaluation import critics
from ddgan_core.figures.plots import COLOURS
from ddgan_core.notebook.efficiency import (
    DRAWN,
    KNOWN,
    _variance,
    critics_figure,
    efficiency_figure,
    gaps,
    images_needed,
    learnt,
)  # fmt: skip
from ddgan_core.objectives import log_ratio_line
from ddgan_core.runs import HISTORY, Run, write_atomic
from ddgan_core.study import SMOOTH, configure


def second_moments(mean: float) -> np.ndarray:
    """Of (1, x) for x ~ N(mean, 1)."""
    return np.array([[1, mean], [mean, 1 + mean**2]])


@pytest.mark.parametrize("gap", [0.1, 1.0, 2.0])
def test_js_reaches_the_bound_of_cramer_and_rao(gap: float) -> None:
    """One over Fisher's information of logistic regression; a is known better by 1 + 1, real and fake being as many."""
    m = gap**0.5
    information = np.zeros((2, 2))
    for i in range(2):
        for j in range(2):

            def density(x: float, power: int = i + j) -> float:
                both = norm.pdf(x, m / 2) + norm.pdf(x, -m / 2)
                return x**power * both / (2 + 2 * np.cosh(m * x))

            information[i, j] = quad(density, -12, 12)[0]
    seen = (second_moments(m / 2) + second_moments(-m / 2)) / 2
    assert _variance(get_divergence("non_saturating_js"), gap) == pytest.approx(
        np.trace(np.linalg.inv(information) @ seen) - 2
    )


@pytest.mark.parametrize("gap", [0.1, 0.5, 1.0])
def test_reverse_kl_in_closed_form(gap: float) -> None:
    """E_q e^-2r g(x) = e^(m^2) E g(x) at x ~ N(-3 m / 2, 1), and E_q e^-r g = E_p g; log ratios within the bound."""
    m = gap**0.5
    mean = np.array([1, -m / 2])
    bend = second_moments(-m / 2)
    spread = np.exp(gap) * second_moments(-3 * m / 2) - np.outer(mean, mean) + np.diag([0, 1])
    inverse = np.linalg.inv(bend)
    seen = (second_moments(m / 2) + second_moments(-m / 2)) / 2
    expected = np.trace(inverse @ spread @ inverse @ seen)
    assert _variance(get_divergence("reverse_kl"), gap) == pytest.approx(expected)


def test_fitted_critics_scatter_as_it_says() -> None:
    """2,000 sets of 500 real and 500 fake images each, critics by Newton; the errors of squared Hellinger over JS's."""
    gap, sets, n = 1.5, 2_000, 500
    m = gap**0.5
    random = np.random.default_rng(0)
    real, fake = (torch.from_numpy(random.normal(s * m / 2, 1, (sets, n))) for s in (1, -1))
    errors = {}
    for name, steepness in (("non_saturating_js", 1), ("squared_hellinger", 2)):
        row, a = get_divergence(name), torch.zeros(sets, 2, dtype=torch.float64)
        a[:, 1] = m / steepness
        for _ in range(6):
            a.requires_grad_()
            v_real, v_fake = (a[:, :1] + a[:, 1:] * x for x in (real, fake))
            slope = torch.autograd.grad(row.critic(v_real, v_fake).mean(1).sum(), a, create_graph=True)[0]
            bend = torch.stack([torch.autograd.grad(slope[:, i].sum(), a, retain_graph=True)[0] for i in (0, 1)], 1)
            a = (a - torch.linalg.solve(bend, slope)).detach()
        off = steepness * a - torch.tensor([0, m])
        errors[name] = (off[:, 0] ** 2 + (1 + gap / 4) * off[:, 1] ** 2).mean()
    expected = images_needed(get_divergence("squared_hellinger"), gap)
    assert 1.08 < expected < 1.15
    assert float(errors["squared_hellinger"] / errors["non_saturating_js"]) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("name", ["squared_hellinger", "reverse_kl", "kl", "neyman", "jeffreys", "alpha_1.5"])
def test_no_critic_needs_fewer_images_than_js(name: str) -> None:
    needed = [images_needed(get_divergence(name), gap) for gap in (1e-3, 0.1, 0.5, 1.0, 2.0)]
    assert needed[0] == pytest.approx(1, abs=0.02)  # all losses are one where nothing is told apart
    assert needed == sorted(needed)
    assert images_needed(get_divergence("kl"), 1.0) == pytest.approx(images_needed(get_divergence("reverse_kl"), 1.0))


def test_what_is_said_of_them_is_so(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parent.parent
    said = " ".join((root / "FINDINGS.md").read_text(encoding="utf-8").split())
    reverse_kl, hellinger = (
        [images_needed(get_divergence(name), gap) for gap in (1, 2)] for name in ("reverse_kl", "squared_hellinger")
    )
    assert [round(needed) for needed in reverse_kl] == [2, 5]
    assert "reverse KL's critic needs two to five times as many images" in said
    assert "squared Hellinger's {:.2f} to {:.2f} times".format(*hellinger) in said
    monkeypatch.setenv("DDGAN_RESULTS", str(root / "results"))
    known = learnt(critics.table("fashion_mnist"))["auc", "mean"].mul(100).round()
    assert known[SMOOTH[0]] == known[SMOOTH[1]]
    assert f"in {known[SMOOTH[0]]:.0f} % of cases, reverse KL's in {known[SMOOTH[2]]:.0f} %" in said


def test_rows_without_a_log_ratio_are_refused() -> None:
    with pytest.raises(UserError, match="total_variation"):
        images_needed(get_divergence("total_variation"), 1.0)


@pytest.mark.parametrize(("slope", "level"), [(1.0, 0.1), (0.7, 0.2), (0.1, 0.3)])
def test_any_line_is_a_log_ratio(slope: float, level: float) -> None:
    row = replace(get_divergence("kl"), log_ratio=lambda v: slope * v + level)
    assert log_ratio_line(row) == pytest.approx((slope, level), rel=1e-12)
    with pytest.raises(UserError, match="no multiple of the log ratio"):
        log_ratio_line(replace(row, log_ratio=lambda v: slope * v + level + 1e-3 * v**2))


def test_gaps_are_of_log_ratios_at_the_end_of_a_training(results) -> None:
    history = pd.DataFrame({
        "logit_real_t1": [9.0] * 3 + [2.0], "logit_fake_t1": [0.0] * 3 + [-1.0],
        "logit_real_t2": [9.0] * 3 + [0.5], "logit_fake_t2": [0.0] * 4,
    })  # fmt: skip
    own = configure("smoke", divergence="squared_hellinger", T=2)
    by_js = own.changed(critic_divergence="non_saturating_js", tag="by-js")
    runs = [Run.create(config) for config in (own, by_js)]
    for run in runs:
        write_atomic(run.path / HISTORY, lzma.compress(history.to_csv(index=False).encode()))
    found = gaps(runs)
    assert found.loc[own.run_id, ["t = 1", "t = 2"]].tolist() == [6.0, 1.0]  # log q/p is twice the logit
    assert found.loc[by_js.run_id, ["t = 1", "t = 2"]].tolist() == [3.0, 0.5]
    axes = plt.figure().subplots()
    efficiency_figure(axes, found)
    ticks = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "|"]
    assert ticks == [[6.0], [3.0]]
    names = {"JS (non-saturating)", "Squared Hellinger", "Reverse KL"}
    assert {text.get_text() for text in axes.texts} == names
    efficiency_figure(empty := plt.figure().subplots(), gaps([]))
    assert {text.get_text() for text in empty.texts} == names


@pytest.fixture
def judged() -> pd.DataFrame:
    """Critics who know more with each doubling, one measure more than another, one row later than another."""
    lines = []
    for row, late in zip(SMOOTH, (0, 1, 9), strict=True):
        for k, images in enumerate((100, 200, 400, 800, 1600)):
            for seed, off in enumerate((-0.01, 0.0, 0.01)):
                knows = {name: 0.1 * (k - late) + off + more for more, name in enumerate(KNOWN)}
                lines.append({"row": row, "images": images, "seed": seed} | knows)
    return pd.DataFrame(lines)


def test_what_critics_know_is_read_at_the_end(judged: pd.DataFrame) -> None:
    found = learnt(judged.sample(frac=1, random_state=0))
    assert found["auc"].loc[SMOOTH[0]].tolist() == pytest.approx([1.4, 1.39, 1.41])
    assert found["nats"].loc[SMOOTH[1]].to_dict() == pytest.approx({"mean": 0.3, "lowest": 0.29, "highest": 0.31})
    assert found["agreement", "mean"][SMOOTH[2]] == pytest.approx(1.5)


def test_points_of_seeds_and_lines_of_means(judged: pd.DataFrame) -> None:
    for ax, name in zip(critics_figure(judged).axes, DRAWN, strict=True):
        assert ax.get_ylabel() == DRAWN[name]
        points, means = ax.lines[::2], ax.lines[1::2]
        assert [len(line.get_ydata()) for line in points] == [15] * 3
        for row, line in zip(SMOOTH, means, strict=True):
            own = judged[(judged["row"] == row) & (judged["seed"] == 1)]
            assert np.allclose(line.get_ydata(), own[name])
            assert line.get_color() == COLOURS[row]
    empty = critics_figure(judged.iloc[:0])
    assert {t.get_text() for ax in empty.axes for t in ax.texts} == {"not measured yet"}
