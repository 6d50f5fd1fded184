"""How hard R1 holds a critic, by closed forms and by linear critics; runs side by side, by made-up scores."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from ddgan_core.divergences import get_divergence
from ddgan_core.notebook import held as module
from ddgan_core.notebook import rows
from ddgan_core.notebook.held import TWICE, averaged, by_js, crossed_figure, hardness, held, held_figure
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
    as_js, as_hellinger, too, again = make_study("penalty", "cpu").cells
    assert hardness(as_js) == pytest.approx(hardness(js)) == pytest.approx(hardness(too)) == pytest.approx(0.04)
    assert hardness(as_hellinger) == pytest.approx(hardness(hellinger)) == pytest.approx(0.01)
    for cell, twin in ((as_js, hellinger), (as_hellinger, js), (too, reverse_kl)):
        assert cell.changed(tag=twin.tag, penalty_weight=twin.penalty_weight) == twin
    assert again.changed(seed=0) == too != again


@pytest.fixture
def table(results, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Twins of one row, one of another, one by JS's critic; and of another length, T, or other networks."""
    cells = [*make_study("penalty", "smoke").cells[:2], configure("smoke", T=2, tag="b64-bf16")]
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
        sampler="ddgan", reference="test", sample_seed=0, protocol="as_trained", frechet_error=0.5, recall=0.4
    )
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


def test_generators_by_js_critic_are_compared_with_their_own_seeds(table: pd.DataFrame) -> None:
    own = table[table["divergence"] == "reverse_kl"].assign(critic="reverse_kl", FID=86.0, distance=2.0)
    others = own.assign(weight=0.04, FID=1.0)
    ratios = by_js(pd.concat([table, own, others]))
    assert ratios.index.tolist() == [("reverse_kl", 0, 0.02)]
    assert ratios.iloc[0].to_dict() == {"FID": 0.5, "distance": 4.0}
    more = pd.DataFrame({"FID": [0.5, 2.0], "distance": [4.0, float("nan")]})
    found = averaged(more)
    assert found.loc["FID", ["pairs", "below 1"]].tolist() == [2, 1]
    half = 12.7062 * math.log(2)  # Student's for two, whose standard error is log 2
    assert found.loc["FID", ["ratio", "low", "high"]].tolist() == pytest.approx(
        [1, math.exp(-half), math.exp(half)], rel=1e-3
    )
    assert math.isnan(found.loc["distance", "ratio"])
    assert not len(by_js(table.iloc[:0]))


def test_another_T_or_length_has_runs_of_its_own(table: pd.DataFrame) -> None:
    assert held("smoke", 4)["run_id"].tolist() == ["non_saturating_js_T04_s0_smoke_b64"]
    assert not len(held("smoke", 2, TWICE))


def test_a_line_for_each_row(table: pd.DataFrame) -> None:
    fid, distance = held_figure(table).axes
    assert [t.get_text() for t in fid.get_xticklabels()] == ["0.01", "0.04"]
    for ax, expected in ((fid, [41, 42]), (distance, [6, 7])):
        assert expected in [list(line.get_ydata()) for line in ax.lines]
        assert {t.get_text() for t in ax.texts} == {"JS (non-saturating)", "Squared Hellinger"}


def test_a_line_for_each_generator_and_critic_those_by_js_first(table: pd.DataFrame) -> None:
    figure = crossed_figure(table)
    fid, distance = figure.axes
    names = ["JS (non-saturating), JS's critic", "Reverse KL, JS's critic", "Squared Hellinger, its own"]
    assert [t.get_text() for t in fid.get_yticklabels()] == names
    for ax, expected in ((fid, [[41, 42], [43], [40]]), (distance, [[6, 7], [8], [5]])):
        assert [list(bars.lines[0].get_xdata()) for bars in ax.containers] == expected
        assert [round(np.mean(bars.lines[0].get_ydata())) for bars in ax.containers] == [0, 1, 2]
        assert [1.5, 1.5] in [list(line.get_ydata()) for line in ax.lines], "the rule below JS's critic"


def spans(values: pd.Series) -> str:
    return f"{values.min():.1f} to {values.max():.1f}"


def test_what_is_said_of_them_is_in_the_committed_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDGAN_RESULTS", str(ROOT / "results"))
    said = (ROOT / "README.md").read_text(encoding="utf-8")
    table = held("cpu").set_index("run_id")
    js = table[table["divergence"].isin(["non_saturating_js", "jensen_shannon"])]
    crossed = table.drop(js.index)[lambda rest: rest["critic"] == "non_saturating_js"]
    others = table.drop([*js.index, *crossed.index])
    hellinger, reverse_kl = crossed.set_index("divergence").loc[["squared_hellinger", "reverse_kl"]].itertuples()
    assert js["FID"].max() < crossed["FID"].min()
    assert crossed["FID"].max() < others["FID"].min()
    number = {5: "five", 7: "seven"}
    changed = table[table["weight"].ne(0.02)].set_index(["divergence", "seed"])
    expected = {("non_saturating_js", 0): 0.01, ("squared_hellinger", 0): 0.04}
    expected |= {("reverse_kl", seed): 0.04 for seed in (0, 1)}
    assert changed["hardness"].to_dict() == pytest.approx(expected)
    alike = [changed.loc[run] for run in expected]
    assert f"{alike[2].FID:.1f}" == f"{alike[3].FID:.1f}"
    twice = held("short", 1, TWICE)
    both = averaged(pd.concat([by_js(held("cpu")), by_js(twice)]))
    assert both["pairs"].tolist() == [6, 6]
    words = {name: f"{v.ratio:.2f} times{{}} ({v.low:.2f} to {v.high:.2f})" for name, v in both.iterrows()}
    words = {name: said.replace("0.", ".") for name, said in words.items()}
    for claim in (
        words["distance"].format(" that by their own"),
        "FID to " + words["FID"].format(""),
        "JS has distance {0.distance:.1f} and FID {0.FID:.1f}, squared Hellinger {1.distance:.1f} and {1.FID:.1f}",
        "reverse KL, held as hard as JS, {2.distance:.1f} and {3.distance:.1f} by two seeds",
        "its FID still behind, {2.FID:.1f} both",
        f"{number[len(js)]} trainings of JS have {spans(js['distance'])} and FID {spans(js['FID'])}",
        f"{number[len(others)]} of the other two {spans(others['distance'])} and {spans(others['FID'])}",
        f"have distance {hellinger.distance:.1f} and {reverse_kl.distance:.1f} and FID {hellinger.FID:.1f} and "
        f"{reverse_kl.FID:.1f}, this better than all seven by their own critics and behind all five of JS",
    ):
        assert claim.format(*alike) in said, claim


def test_without_runs_it_says_so(results) -> None:
    empty = held("smoke")
    assert not len(empty)
    for draw in (held_figure, crossed_figure):
        assert {t.get_text() for ax in draw(empty).axes for t in ax.texts} == {"not run yet"}
