"""Rows in pairs: ratios within a setting, means over settings, by scores whose answer is known."""

import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from ddgan_core.figures.comparisons import pairs_figure
from ddgan_core.notebook import pairs
from ddgan_core.notebook.pairs import BESIDE, paired, pooled, worst
from ddgan_core.notebook.seeds import by_seed, spread
from ddgan_core.study.cells import SMOOTH


def line(row: str, T: int, frechet: float, recall: float, **other: object) -> dict:
    usual = {
        "method": "ddgan", "run_id": row, "dataset": "digits", "divergence": row, "preset": "short", "tag": "", "T": T,
        "seed": 0, "reference": "test", "reference_n": 10_000,
        "features": "fashion_classifier", "features_hash": "a", "n": 10_000, "sample_seed": 0, "protocol": "as_trained",
        "frechet": frechet, "frechet_error": 0.03 * frechet, "recall": recall, "recall_error": 0.03,
        "coverage": recall / 2, "coverage_error": 0.01,
    }  # fmt: skip
    return usual | other


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Lines to be filled in; they stand in the place of the results."""
    lines: list[dict] = []

    def load(dataset: str, preset: str) -> pd.DataFrame:
        columns = list(line("kl", 1, 1, 1))
        return pd.DataFrame([x for x in lines if x["preset"] == preset], columns=columns)

    monkeypatch.setattr(pairs, "load_evaluations", load)
    monkeypatch.setattr(pairs, "broken", lambda scores: scores["run_id"] == "broke down")
    return lines


def test_a_pair_differs_in_nothing_but_the_row(scored: list[dict]) -> None:
    scored += [
        line("kl", 4, 6.0, 0.5), line(BESIDE, 4, 3.0, 0.3, frechet_error=0.12),
        line("kl", 2, 6.0, 0.5), line(BESIDE, 2, 3.0, 0.3, tag="cosine"), line(BESIDE, 2, 3.0, 0.3, reference="train"),
        line("kl", 1, 6.0, 0.5), line(BESIDE, 1, 3.0, 0.3, protocol="as_published"),
        line("kl", 8, 6.0, 0.5), line(BESIDE, 8, 3.0, 0.3, n=1_000),
        line("kl", 8, 6.0, 0.5, preset="cpu"), line(BESIDE, 8, 2.0, 0.6, preset="cpu", seed=1),
        line("kl", 3, 6.0, 0.5), line(BESIDE, 3, 3.0, 0.3, sample_seed=1), line("kl", 4, 90.0, 0.9, sample_seed=1),
        line("kl", 5, 6.0, 0.5), line(BESIDE, 5, 3.0, 0.3, features_hash="another"),
        line("kl", 6, 6.0, 0.5), line(BESIDE, 6, 3.0, 0.3, reference_n=500),
        line("none", 4, 1.0, 0.9, method="ddpm"), line(BESIDE, 4, 30.0, 0.3, reference_n=500),
        line("kl", 4, 60.0, 0.3, reference_n=500),
        *(line(row, 7, 9.0, 0.9, tag=tag) for row in ("kl", BESIDE) for tag in ("x2-sh-critic-r1x4", "x2-js-critic")),
    ]  # fmt: skip
    (one,) = paired("short").to_dict("records")
    assert (one["setting"], one["row"], one["ratio"]) == ("T = 4, short", "kl", 2.0)
    assert math.log(one["high"] / one["ratio"]) == pytest.approx(0.05)  # of 3 and 4 per cent
    assert math.log(one["low"] / one["ratio"]) == pytest.approx(-0.05)
    assert (one["recall"], one["recall_error"]) == pytest.approx((0.2, 0.03 * 2**0.5))
    assert (one["coverage"], one["coverage_error"]) == pytest.approx((0.1, 0.01 * 2**0.5))
    cpu = next(x for x in scored if x["preset"] == "cpu" and x["divergence"] == BESIDE)
    cpu["seed"] = 0
    assert list(paired("cpu")["setting"]) == ["T = 8, long", "T = 4, short"], "presets of the same networks"


def test_trials_of_the_sweep_are_settings_by_their_own_ruler(scored: list[dict]) -> None:
    for reference, seed in (("train", 100), ("test", 100), ("test", 1), ("train", 1)):
        own = {"seed": seed, "reference": reference}
        ratio = 2.0 if own in ({"seed": 100, "reference": "train"}, {"seed": 1, "reference": "test"}) else 9.0
        scored += [line(row, 4, distance, 0.5, **own) for row, distance in (("kl", 3.0 * ratio), (BESIDE, 3.0))]
    found = paired("short")
    assert found["setting"].tolist() == ["T = 4, short, seed 1", "T = 4, short, seed 100"]
    assert found["ratio"].tolist() == [2.0, 2.0]


def test_ratios_have_a_geometric_mean_over_T_of_those_within_one(scored: list[dict]) -> None:
    for T, seed, ratio in ((1, 0, 0.5), (2, 0, 1.0), (4, 0, 4.0), (4, 1, 1.0)):
        scored += [line(BESIDE, T, 3.0, 0.3, seed=seed), line("kl", T, 3.0 * ratio, 0.3 + T / 100, seed=seed)]
    scored += [line("neyman", T, 3.0, 0.3) for T in (1, 2)]
    found = pooled(paired("short"))
    kl = found.loc["kl"]
    assert kl[["settings", "broke down", "T", "nearer in"]].tolist() == [4, 0, 3, 1]
    assert kl["ratio"] == pytest.approx(1.0)
    half = 4.302652729911275 * math.log(2) / 3**0.5  # Student's t of two degrees of freedom; a deviation of log 2
    assert math.log(kl["high"]) == pytest.approx(half, rel=1e-3)
    assert kl["low"] * kl["high"] == pytest.approx(1.0)
    assert kl["recall"] == pytest.approx(0.07 / 3)
    assert kl["coverage"] == pytest.approx(0.035 / 3)
    assert found.loc["neyman", "settings"] == 2
    assert pd.isna(found.loc["neyman", "ratio"]), "two T have no interval"
    scored += [line(BESIDE, 8, 3.0, 0.3, run_id="broke down"), line("kl", 8, 0.1, 0.9)]
    scored += [line(BESIDE, 10, 3.0, 0.3), line("kl", 10, 0.1, 0.9, run_id="broke down")]
    again = pooled(paired("short")).loc["kl"]
    assert again["broke down"] == 2
    pd.testing.assert_series_equal(again.drop("broke down"), kl.drop("broke down"))


def test_the_farthest_behind_and_what_chance_would_show(scored: list[dict]) -> None:
    rows = (BESIDE, "kl")
    assert worst(paired("short"), rows, 0.1)["settings"].tolist() == [0, 0]
    for T, ratio in ((1, 2.0), (2, 0.5), (4, 1.5)):
        scored += [line(BESIDE, T, 3.0, 0.3), line("kl", T, 3.0 * ratio, 0.3)]
    scored += [line(BESIDE, 8, 3.0, 0.3), line("kl", 8, 90.0, 0.3, run_id="broke down")]
    found = worst(paired("short"), rows, 0.1)
    assert found["settings"].tolist() == [3, 3]
    assert found["behind"].tolist() == pytest.approx([2.0, 2.0])
    assert found["in"].tolist() == ["T = 2, short", "T = 1, short"]
    assert found["beyond"].tolist() == [1, 2], "by 2.0 alone, and by 2.0 and 1.5"
    assert worst(paired("short"), rows, 0.2)["beyond"].tolist() == [1, 1], "1.5 is what chance may show"
    # A setting's log ratio is max(0, z) with z normal of variance 2 * .1^2; quantiles of the largest of three:
    for name, share in (("chance", 0.5), ("chance_high", 0.95)):
        quantile = 0.1 * 2**0.5 * NormalDist().inv_cdf(share ** (1 / 3))
        assert np.log(found[name]).tolist() == pytest.approx([quantile] * 2, rel=0.05)


def test_what_is_said_of_the_farthest_is_in_the_committed_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parent.parent
    monkeypatch.setenv("DDGAN_RESULTS", str(root / "results"))
    seeds, at_2 = (spread(by_seed("cpu", T)).loc["all, pooled", "deviation"] for T in (4, 2))
    found, wider = (worst(paired("cpu"), SMOOTH, deviation) for deviation in (seeds, at_2))
    percent = {name: [f"{x - 1:.0%}".replace("%", " %") for x in found[name]] for name in ("behind", "chance_high")}
    assert wider["beyond"].tolist() == [0, 1, 2]
    equal, high = (f"{wider[name].iloc[0] - 1:.0%}".replace("%", " %") for name in ("chance", "chance_high"))
    number = {2: "two", 9: "nine"}
    js, hellinger, reverse_kl = percent["behind"]
    for claim in (
        f"In {found['settings'].iloc[0]} settings of small networks",
        f"is {js} for JS, {hellinger} for squared Hellinger and {reverse_kl} for reverse KL",
        f"squared Hellinger is beyond {percent['chance_high'][0]} in {number[found['beyond'].iloc[1]]} settings",
        f"reverse KL in {number[found['beyond'].iloc[2]]}.",
        f"(in logarithms {at_2:.2f} for {seeds:.2f}, most".replace("0.", "."),
        f"equal rows would show {equal}, in one study of twenty {high}, and",
    ):
        assert claim in (root / "FINDINGS.md").read_text(encoding="utf-8"), claim


def test_the_figure_has_a_line_for_each_setting_and_one_for_all(scored: list[dict]) -> None:
    assert [t.get_text() for t in pairs_figure(paired("cpu"), pooled(paired("cpu")), BESIDE).axes[0].texts] == [
        "not run yet"
    ]
    for T in (1, 2, 4):
        scored += [line(BESIDE, T, 3.0, 0.3), line("kl", T, 3.0 * T, 0.5)]
    table = paired("cpu")
    figure = pairs_figure(table, pooled(table), BESIDE)
    names = [f"T = {T}, short" for T in (1, 2, 4)]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [*names, "mean over T"]
    assert not [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    for ax, same, name in zip(figure.axes, (1, 0, 0), ("ratio", "recall", "coverage"), strict=True):
        assert [same, same] in [list(line.get_xdata()) for line in ax.lines], "where both are alike"
        ends = table[["low", "high"]].to_numpy()
        if name != "ratio":
            ends = table[[name]].to_numpy() + table[[f"{name}_error"]].to_numpy() * [-1, 1]
        bars = np.array([part[:, 0] for part in ax.collections[0].get_segments()])
        assert bars[:3] == pytest.approx(ends)
    figure = pairs_figure(table.assign(broken=[True, False, False]), pooled(table), BESIDE)
    (hollow,) = (line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white")
    assert hollow.get_xdata()[0] == 1.0
    assert pd.isna(hollow.get_xdata()[1:]).all()
    few = pairs_figure(table[:2], pooled(table[:2]), BESIDE)
    assert [t.get_text() for t in few.axes[0].get_yticklabels()] == names[:2]
