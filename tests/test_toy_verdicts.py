"""The verdicts of the toy study, on tables whose answer can be seen."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from ddgan_core import UserError
from ddgan_core.metrics.intervals import mean_interval
from ddgan_core.toys.verdicts import agreement, decide, holm, verdicts

NEAR = [1.0, 1.4, 1.2, 0.8, 1.1]


def lines(row: str, values: list[float], diverged: bool = False, T: int = 2) -> list[dict]:
    return [
        {"data": "ring", "T": T, "row": row, "seed": s, "w1": v, "diverged": diverged} for s, v in enumerate(values)
    ]


def test_a_clear_case() -> None:
    far = [3.0, 3.3, 3.2, 2.9, 3.1]
    table = pd.DataFrame(lines("kl", far) + lines("pearson", NEAR) + lines("neyman", [0.0] * 5, diverged=True))
    found = verdicts(table, "w1").iloc[0]
    assert (found["best"], found["tied"], found["worse"], found["worst"]) == ("pearson", (), ("kl", "neyman"), "kl")
    assert (found["mean"], found["half"]) == pytest.approx(mean_interval(NEAR))
    assert verdicts(table, "w1", largest=True).iloc[0]["best"] == "kl"
    assert not len(verdicts(pd.DataFrame(lines("kl", NEAR)), "w1")), "one row alone has not won"
    assert not len(verdicts(table[table["row"] == "neyman"], "w1")), "nor has one that diverged"


def test_a_difference_that_every_seed_shows_counts_though_the_intervals_meet() -> None:
    rng = np.random.default_rng(0)
    little_more = [v + 0.1 + 0.01 * float(rng.normal()) for v in NEAR]
    table = pd.DataFrame(lines("kl", NEAR) + lines("pearson", little_more))
    (a, half_a), (b, half_b) = mean_interval(NEAR), mean_interval(little_more)
    assert abs(a - b) < half_a + half_b
    assert verdicts(table, "w1").iloc[0]["worse"] == ("pearson",)
    unpaired = pd.DataFrame(lines("kl", NEAR) + lines("pearson", sorted(little_more)))
    assert verdicts(unpaired, "w1").iloc[0]["tied"] == ("pearson",)


def test_rows_that_are_equal_are_tied_and_a_constant_difference_is_one() -> None:
    table = pd.DataFrame(lines("kl", [1.0] * 5) + lines("pearson", [1.0] * 5) + lines("jeffreys", [2.0] * 5))
    found = verdicts(table, "w1").iloc[0]
    assert (found["tied"], found["worse"]) == (("pearson",), ("jeffreys",))


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5}) == pytest.approx(
        {"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.5}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_of_equal_rows_few_are_called_worse() -> None:
    """Six rows that are one, five seeds: the share of tables with a false verdict is near 8.8 %, not at most 5 %.

    The best is chosen by the same seeds, so the level is passed, but not by much; without the correction it is 30 %.
    """
    values, tables = np.random.default_rng(1).normal(size=(800, 5, 6)), 800
    entries = [
        {"data": "ring", "T": n, "row": str(k), "seed": s, "w1": values[n, s, k], "diverged": False}
        for n in range(tables) for s in range(5) for k in range(6)
    ]  # fmt: skip
    wrong = (verdicts(pd.DataFrame(entries), "w1")["worse"].map(len) > 0).mean()
    assert 0.06 < wrong < 0.12


def test_rows_without_the_same_seeds_are_not_compared() -> None:
    table = pd.DataFrame(lines("kl", NEAR) + lines("pearson", NEAR[:4]))
    with pytest.raises(UserError, match="pearson, seed 4 missing"):
        verdicts(table, "w1")


def test_agreement_with_a_predicted_order() -> None:
    predicted = {"kl": 1.0, "squared_hellinger": 0.5, "reverse_kl": 0.0}
    table = [entry for row, v in predicted.items() for entry in lines(row, [v + 1.0] * 5) + lines(row, [v] * 5, T=4)]
    found = agreement(pd.DataFrame(table), "w1", predicted)
    assert (found["tau"], found["over_seeds"]) == pytest.approx((1.0, 0.0))
    assert (found["place"], found["orders"], found["cells"]) == (1, 6, 2)
    backwards = {row: -v for row, v in predicted.items()}
    found = agreement(pd.DataFrame(table), "w1", backwards)
    assert found["tau"] == pytest.approx(-1.0)
    assert found["place"] == 6, "every other order agrees more"
    nothing = agreement(pd.DataFrame(table), "w1", predicted | {"pearson": 2.0})
    assert math.isnan(nothing["tau"])
    assert nothing["cells"] == 0


def test_what_diverged_agrees_with_nothing_and_kinds_of_data_differ_as_they_do() -> None:
    """One kind of data has the predicted order by every seed, another its reverse."""
    predicted = {"kl": 1.0, "squared_hellinger": 0.5, "reverse_kl": 0.0}
    table = [entry for row, v in predicted.items() for entry in lines(row, [v] * 5)]
    table += [entry | {"data": "rare"} for row, v in predicted.items() for entry in lines(row, [-v] * 5)]
    table += [entry for row, v in predicted.items() for entry in lines(row, [v] * 5, diverged=row == "kl", T=4)]
    found = agreement(pd.DataFrame(table), "w1", predicted)
    assert (found["tau"], found["over_seeds"], found["cells"]) == pytest.approx((0.0, 0.0, 2))
    assert found["over_data"] == pytest.approx(mean_interval([1.0, -1.0])[1])


def test_agreement_is_kendalls_tau() -> None:
    random = np.random.default_rng(0)
    predicted = {"kl": 1.0, "squared_hellinger": 0.5, "reverse_kl": 0.0, "pearson": 0.5}  # two are equal
    values = {row: random.integers(0, 4, 5).astype(float) for row in predicted}
    found = agreement(pd.DataFrame([e for row, v in values.items() for e in lines(row, list(v))]), "w1", predicted)
    order = list(predicted.values())
    tau = [kendalltau(order, [values[row][k] for row in predicted]).statistic for k in range(5)]
    assert found["tau"] == pytest.approx(np.mean(np.nan_to_num(tau)))


def test_not_told_from_the_best_is_not_yet_as_good() -> None:
    """Four rows near, far, unsteady (no test tells it from the best, and it may be many times worse) and diverged."""
    near, unsteady = [v + 0.02 * (-1) ** k for k, v in enumerate(NEAR)], [0.9, 9.0, 1.0, 1.1, 9.0]
    table = pd.DataFrame(
        lines("kl", NEAR) + lines("pearson", near) + lines("jeffreys", unsteady) + lines("reverse_kl", [6.0] * 5)
        + lines("neyman", [0.0] * 5, diverged=True)
    )  # fmt: skip
    told = decide(table, "w1").set_index("row")["told"].to_dict()
    assert told == {
        "kl": "best", "pearson": "as good", "jeffreys": "open", "reverse_kl": "worse", "neyman": "worse"
    }  # fmt: skip
    assert "jeffreys" in verdicts(table, "w1").iloc[0]["tied"]
    assert decide(table, "w1", within=1.01).set_index("row")["told"]["pearson"] == "open"


def test_a_decision_averages_over_the_numbers_of_steps_that_all_rows_have() -> None:
    table = lines("kl", [v + 1 for v in NEAR]) + lines("kl", NEAR, T=4) + lines("pearson", [v + 3 for v in NEAR])
    found = decide(pd.DataFrame([*table, *lines("pearson", [v + 3 for v in NEAR], T=4)]), "w1").set_index("row")
    assert found["mean"].to_dict() == pytest.approx({"kl": 1.1 + 0.5, "pearson": 1.1 + 3})
    assert decide(pd.DataFrame(table), "w1").set_index("row")["mean"]["kl"] == pytest.approx(1.1 + 1)
