"""How hard R1 holds a critic, by closed forms and by linear critics; runs side by side, by made-up scores."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from ddgan_core.divergences import get_divergence
from ddgan_core.notebook import held as module
from ddgan_core.notebook import rows
from ddgan_core.notebook.held import AS_LONG, TWICE, first_of_loss, hardness, held
from ddgan_core.study import configure, make_study

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("row", "curvature"),  # of softplus(-v) + softplus(v), exp(-v) + exp(v), exp(-v) + v; exp(v - 1) - v at v = 1
    [
        ("non_saturating_js", 1 / 2), ("jensen_shannon", 1 / 2), ("squared_hellinger", 2), ("reverse_kl", 1), ("kl", 1),
        ("total_variation", math.nan), ("wasserstein", math.nan), ("relativistic", math.nan),
    ],
)  # fmt: skip
def test_hardness_is_a_share_of_the_curvature(row: str, curvature: float) -> None:
    assert hardness(configure(divergence=row, penalty_weight=0.3)) == pytest.approx(0.3 / curvature, nan_ok=True)


@pytest.mark.parametrize("row", ["non_saturating_js", "squared_hellinger", "reverse_kl"])
def test_critics_held_alike_give_the_same_log_ratio(row: str) -> None:
    """Linear critics v = a x of N(m, 1) and N(-m, 1), m small, by Newton: log ratios 2 m x / (1 + share), nearly."""
    m, share, losses = 1e-3, 0.5, get_divergence(row)
    weight = share / hardness(configure(divergence=row, penalty_weight=1.0))
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    real, fake = (torch.exp(-((x - s * m) ** 2) / 2) / x.pow(2).div(-2).exp().sum() for s in (1, -1))

    def objective(a: torch.Tensor) -> torch.Tensor:
        v = a[0] * x + a[1]
        return (
            (losses.critic(v, v.new_zeros(())) * real).sum()
            + (losses.critic(v.new_zeros(()), v) * fake).sum()
            + (weight / 2 * a[0] ** 2)
        )

    a = torch.zeros(2, dtype=torch.float64)
    for _ in range(5):
        slope = torch.autograd.functional.jacobian(objective, a)
        a = a - torch.linalg.solve(torch.autograd.functional.hessian(objective, a), slope)
    v = torch.tensor([1.0], dtype=torch.float64) * a[0]  # at x = 1
    assert losses.log_ratio(v).item() == pytest.approx(2 * m / (1 + share), rel=1e-2)


def test_r1_is_made_as_hard_on_one_row_as_on_another() -> None:
    js, hellinger, reverse_kl = (
        c for c in make_study("budget", "cpu").cells if (c.tag, c.T, c.seed) == ("b64-bf16", 2, 0)
    )
    as_hellinger, as_js, too, again, *at_1 = make_study("penalty", "cpu").cells
    assert hardness(as_js) == pytest.approx(hardness(js)) == pytest.approx(hardness(too)) == pytest.approx(0.04)
    assert hardness(as_hellinger) == pytest.approx(hardness(hellinger)) == pytest.approx(0.01)
    for cell, twin in ((as_js, hellinger), (as_hellinger, js), (too, reverse_kl)):
        assert cell.changed(tag=twin.tag, penalty_weight=twin.penalty_weight) == twin
    assert again.changed(seed=0) == too != again
    assert [cell.changed(T=2) for cell in at_1[:3]] == [as_js, too, as_js.changed(seed=1)]
    of_two = {cell.changed(seed=2) for cell in make_study("crossed", "cpu").cells if cell.T == 1}
    assert {cell.tag for cell in at_1[3:]} == {"x2-r1x2", "x2-r1x4"}
    assert set(at_1[3:]) < of_two


@pytest.fixture
def table(results, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Twins of one row, one of another, one by JS's critic; and of another length, T, or other networks."""
    cells = [*reversed(make_study("penalty", "smoke").cells[:2]), configure("smoke", T=2, tag="b64-bf16")]
    crossed = {"divergence": "reverse_kl", "critic_divergence": "non_saturating_js", "tag": "b64-bf16-js-critic"}
    cells.append(configure("smoke", T=2, **crossed))
    cells += [configure("smoke", T=2), configure("smoke", T=4, tag="b64"), configure("smoke", T=2, tag="b64-wide")]
    _, _, features, n = rows.SCORES["smoke"]["ddgan"][0]
    lines = []
    for i, cell in enumerate(cells):
        same = {"run_id": cell.run_id, "divergence": cell.divergence, "T": cell.T, "tag": cell.tag, "seed": cell.seed}
        lines += [
            same | {"features": features, "n": n, "frechet": 5.0 + i, "kernel": 0.5},
            same | {"features": "inception", "n": 2_000, "frechet": 40.0 + i, "kernel": 0.02},
            same | {"features": "inception", "n": 10_000, "frechet": 35.0 + i, "kernel": 0.01},
        ]
    scores = pd.DataFrame(lines).assign(
        sampler="ddgan", reference="test", sample_seed=0, protocol="as_trained", frechet_error=0.5, recall=0.4,
        method="ddgan", features_hash="0a", reference_n=100,
    )  # fmt: skip
    for other in (module, rows):
        monkeypatch.setattr(other, "load_evaluations", lambda *_: scores)
    monkeypatch.setattr(module, "all_runs", lambda *_: [SimpleNamespace(config=c) for c in cells])
    return held("smoke")


def test_runs_as_long_stand_beside_each_other(table: pd.DataFrame) -> None:
    js, hellinger, reverse_kl = "non_saturating_js", "squared_hellinger", "reverse_kl"
    assert table["divergence"].tolist() == [js, js, reverse_kl, hellinger]
    assert table["critic"].tolist() == [js, js, js, hellinger]
    assert table["hardness"].tolist() == pytest.approx([0.01, 0.04, 0.04, 0.04])  # by the critic, whose R1 it is
    assert table["weight"].tolist() == pytest.approx([0.005, 0.02, 0.02, 0.08])
    assert table["FID"].tolist() == [41, 42, 43, 40]
    assert table["distance"].tolist() == [6, 7, 8, 5]
    assert table["kid"].tolist() == [0.02] * 4


def test_another_T_or_length_has_runs_of_its_own(table: pd.DataFrame) -> None:
    assert held("smoke", 4)["run_id"].tolist() == ["non_saturating_js_T04_s0_smoke_b64"]
    assert not len(held("smoke", 2, TWICE))
    others = {"b64-bf16-js-critic": True, "b64-rkl-critic-r1x2": True, "b64-bf16-wide-critic": False, "b64-r1x4": True}
    assert {tag: bool(re.fullmatch(AS_LONG, tag)) for tag in others} == others


def test_without_runs_it_says_so(results) -> None:
    assert not len(held("smoke"))


def test_a_row_of_a_notebooks_own_stands_for_itself() -> None:
    assert first_of_loss("relativistic") == "relativistic"
    assert first_of_loss("jensen_shannon") == first_of_loss("non_saturating_js")
    assert first_of_loss("le_cam") == "le_cam"
