"""Seeds of one cell: their spread, and which rows differ by more; by scores whose answer is known."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import studentized_range

from ddgan_core.figures.comparisons import seeds_figure
from ddgan_core.metrics.intervals import geometric_mean
from ddgan_core.notebook import breakdowns, seeds
from ddgan_core.notebook.breakdowns import broke_down
from ddgan_core.notebook.seeds import by_seed, compared, power, spread
from ddgan_core.study import SMOOTH

ROWS = ("non_saturating_js", "squared_hellinger", "wasserstein")


def drawn(level: dict[str, float], deviation: float = 0.1, count: int = 3, seed: int = 0) -> pd.DataFrame:
    """As `by_seed` gives it: so many seeds of each row about its geometric mean."""
    random = np.random.default_rng(seed)
    lines = [
        {"row": row, "seed": k, "frechet": mean * math.exp(deviation * random.standard_normal()),
         "recall": 0.4 + 0.1 * k, "coverage": 0.2, "broken": False}
        for row, mean in level.items() for k in range(count)
    ]  # fmt: skip
    return pd.DataFrame(lines)


def test_runs_are_those_of_one_T_as_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = {"sampler": "ddgan", "T": 4, "tag": "", "recall": 0.5, "coverage": 0.2, "dataset": "digits", "run_id": "r"}
    lines = [
        usual | {"divergence": "wasserstein", "seed": 0, "frechet": 9.0},
        usual | {"divergence": "squared_hellinger", "seed": 1, "frechet": 3.0},
        usual | {"divergence": "squared_hellinger", "seed": 0, "frechet": 2.0},
        usual | {"divergence": "reverse_kl", "seed": 0, "frechet": 4.0},
        usual | {"divergence": "kl", "seed": 0, "frechet": 1.0},  # not of the paper's rows
        usual | {"divergence": "wasserstein", "seed": 100, "frechet": 1.0},  # of the sweep
        usual | {"divergence": "wasserstein", "seed": 1, "frechet": 1.0, "T": 2},
        usual | {"divergence": "wasserstein", "seed": 1, "frechet": 1.0, "sampler": "truncated"},
        usual | {"divergence": "wasserstein", "seed": 1, "frechet": 1.0, "tag": "plain"},
    ]
    monkeypatch.setattr(seeds, "kin", lambda preset: ["most T", preset])
    monkeypatch.setattr(seeds, "comparable", lambda preset: pd.DataFrame(lines if preset == "most T" else []))
    monkeypatch.setattr(breakdowns, "history_of", lambda *_: history([1.0] * 10))
    assert by_seed("short")[["row", "seed", "frechet"]].to_numpy().tolist() == [
        ["squared_hellinger", 0, 2.0], ["squared_hellinger", 1, 3.0], ["reverse_kl", 0, 4.0], ["wasserstein", 0, 9.0],
    ]  # fmt: skip
    assert by_seed("short", rows=("wasserstein", "kl"))["row"].tolist() == ["wasserstein", "kl"], "as they are named"
    assert by_seed("short", tag="plain")[["row", "seed"]].to_numpy().tolist() == [["wasserstein", 1]]
    monkeypatch.setattr(seeds, "comparable", lambda preset: pd.DataFrame())
    assert not len(compared(by_seed("short")))
    assert not len(spread(by_seed("short")))


def test_the_spread_is_that_of_logarithms() -> None:
    table = pd.DataFrame(
        [(row, k, frechet, 0.5, 0.1 * k)
         for row, own in (("a", (2.0, 8.0)), ("b", (1.0, 1.0, 1.0))) for k, frechet in enumerate(own)],
        columns=["row", "seed", "frechet", "recall", "coverage"],
    ).assign(broken=False)  # fmt: skip
    found = spread(table)
    assert found.loc["a", ["seeds", "lowest", "highest"]].tolist() == [2, 2.0, 8.0]
    assert found.loc["a", "distance"] == pytest.approx(4.0)
    assert found.loc["a", "deviation"] == pytest.approx(math.log(4) / 2**0.5)
    assert found.loc["a", ["recall", "coverage"]].tolist() == pytest.approx([0.5, 0.05])
    assert found.loc["all, pooled", "seeds"] == 5
    assert found.loc["all, pooled", "deviation"] == pytest.approx(math.log(4) / 2**0.5 / 3**0.5)  # of 3 freedoms


def history(gradients: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"gradient_generator": gradients})


@pytest.mark.parametrize(
    ("gradients", "broken"),
    [([2.0] * 18 + [1e-3] * 2, True), ([2.0] * 18 + [3e-3] * 2, False), ([2.0] * 18 + [1e-5, 2.0], False),
     ([1e-5] * 2 + [2.0] * 18, False), ([2.0] * 27 + [1e-5, 1e-5, 2.0], True),
     ([900.0] * 2 + [2.0] * 16 + [3e-3] * 2, False)],
    ids=["vanished", "small", "for a moment", "at first", "but for a record", "after a violent start"],
)  # fmt: skip
def test_a_run_breaks_down_when_its_gradient_vanishes(gradients: list[float], broken: bool) -> None:
    assert broke_down(history(gradients)) is broken


def test_what_broke_down_is_counted_and_in_no_mean() -> None:
    table = drawn({"squared_hellinger": 10.0, "total_variation": 18.0})
    worse = pd.concat([table, table.iloc[-1:].assign(seed=3, frechet=400.0, broken=True)])
    pd.testing.assert_frame_equal(compared(worse), compared(table))
    found, without = spread(worse), spread(table)
    assert found.loc["total_variation", ["seeds", "broke down"]].tolist() == [4, 1]
    assert found.loc["all, pooled", ["seeds", "broke down"]].tolist() == [7, 1]
    means = ["distance", "lowest", "highest", "deviation", "recall", "coverage"]
    pd.testing.assert_frame_equal(found[means], without[means])


def test_intervals_are_tukeys() -> None:
    table = drawn(dict.fromkeys(ROWS, 10.0))
    found = compared(table)
    assert found[["row", "other"]].to_numpy().tolist() == [
        [ROWS[0], ROWS[1]], [ROWS[0], ROWS[2]], [ROWS[1], ROWS[2]]
    ]  # fmt: skip
    alone = drawn({"reverse_kl": 5.0}, count=1)
    pd.testing.assert_frame_equal(compared(pd.concat([table, alone])), found)  # of one seed nothing is known
    half = studentized_range.ppf(0.95, 3, 6) * spread(table).loc["all, pooled", "deviation"] / 3**0.5
    for line in found.itertuples():
        assert math.log(line.high / line.ratio) == pytest.approx(half, rel=1e-4)
        assert math.log(line.ratio / line.low) == pytest.approx(half, rel=1e-4)


def test_rows_alike_are_rarely_told_apart_and_others_often_are() -> None:
    def told(level: dict[str, float], seed: int) -> bool:
        found = compared(drawn(level, seed=seed))
        return bool(((found["low"] > 1) | (found["high"] < 1)).any())

    alike = np.mean([told(dict.fromkeys(ROWS, 10.0), seed) for seed in range(100)])
    assert alike <= 0.12  # of 100 draws at .05
    assert np.mean([told(dict(zip(ROWS, (10.0, 10.0, 16.0), strict=True)), seed) for seed in range(20)]) > 0.9


def test_the_figure_shows_each_seed_and_each_pair() -> None:
    table = drawn({"non_saturating_js": 10.0, "squared_hellinger": 10.0, "wasserstein": 16.0})
    left, right = seeds_figure(table, compared(table)).axes
    assert [t.get_text() for t in left.get_yticklabels()] == [
        "JS (non-saturating)",
        "Squared Hellinger",
        "Wasserstein-GP",
    ]
    assert sorted(x for line in left.lines[:3] for x in line.get_xdata()) == sorted(table["frechet"])
    means = [geometric_mean(own["frechet"]) for _, own in table.groupby("row", sort=False)]
    assert [bar.get_segments()[0][0, 0] for bar in left.collections] == pytest.approx(means)
    assert len(right.get_yticks()) == 3
    told = [bar.get_colors()[0][0] == pytest.approx(0.1) for bar in right.collections]
    assert told == [not low <= 1 <= high for low, high in compared(table)[["low", "high"]].to_numpy()]
    assert set(told) == {True, False}, "grey where the interval holds 1"
    assert all(ax.yaxis_inverted() for ax in (left, right)), "the first row on top"
    for ax in seeds_figure(table.iloc[:0], compared(table.iloc[:0])).axes:
        assert [t.get_text() for t in ax.texts] == ["not run yet"]


def test_a_larger_ratio_is_told_more_often_and_by_more_seeds() -> None:
    """Against Tukey's test of made-up studies, by its definition; no difference is told in few."""
    logs = 0.1 * np.random.default_rng(0).standard_normal((2_000, 5, 3))
    logs[:, 0] += math.log(1.4)
    pooled = np.sqrt(logs.var(axis=2, ddof=1).mean(axis=1))
    means = logs.mean(axis=2)
    told = np.abs(means[:, 0] - means[:, 1]) > studentized_range.ppf(0.95, 5, 10) * pooled / math.sqrt(3)
    found = power((1.0, 1.3, 1.4), 0.1)
    assert found[1.4] == pytest.approx(told.mean(), abs=0.03)
    assert found[1.0] < 0.02 < found[1.3] < found[1.4] < power((1.4,), 0.1, seeds=6)[1.4]


def test_what_is_said_of_pairs_of_rows_is_what_their_seeds_give(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parent.parent
    monkeypatch.setenv("DDGAN_RESULTS", str(root / "results"))
    text = (root / "FINDINGS.md").read_text(encoding="utf-8")

    def beside_js(T: int, other: str) -> list[str]:
        rows = SMOOTH if other in SMOOTH else ("non_saturating_js", other)
        told = compared(by_seed("short", T, rows)).set_index(["row", "other"])
        line = told.loc[("non_saturating_js", other), ["ratio", "low", "high"]]
        return [f"{value:.2f}".removeprefix("0") for value in line]

    one_step = beside_js(1, "squared_hellinger") + beside_js(1, "reverse_kl")
    assert "squared Hellinger {}, {} to {}; over that of reverse KL {}, {} to {}".format(*one_step) in text
    minimax = beside_js(2, "jensen_shannon") + beside_js(4, "jensen_shannon")
    assert "{} times its distance at T = 2 ({} to {}), level, and {} times at T = 4 ({} to {})".format(*minimax) in text
