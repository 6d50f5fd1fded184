"""Each rule on made-up scores whose verdict is known, and what it says where runs are missing."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from ddgan_core.evaluation.scores import add_evaluation
from ddgan_core.notebook import claims
from ddgan_core.notebook.claims import CLAIMS, CONTRADICTED, SUPPORTED, UNDECIDED, Evidence, gather, verdicts
from ddgan_core.notebook.ranking import add_answer
from ddgan_core.notebook.rule_errors import WORLDS, rule_errors
from ddgan_core.runner import train_run
from ddgan_core.runs import Run
from ddgan_core.study import PAPER_ROWS, make_study, score

TIMES = (1, 2, 4, 8, 10)
NOTHING = Evidence(
    "cpu",
    pd.DataFrame(columns=["divergence", "T", "seed", "frechet"]),
    pd.DataFrame(columns=["sampler", "steps", "frechet"]),
    pd.DataFrame(columns=["row", "failed", "broken", "frechet"]),
    pd.Series(dtype=float),
    pd.Series(dtype=float),
    0,
    pd.DataFrame(),
)


def judged(claim: str, **evidence: object) -> tuple[str, str]:
    line = verdicts(dataclasses.replace(NOTHING, **evidence)).loc[claim]
    return line["verdict"], line["evidence"]


def ddgans(distance: dict[str, object], T: tuple[int, ...] = TIMES, seeds: int = 1) -> pd.DataFrame:
    """One score for each row, T and seed; distance: {row: f(T, seed)}."""
    rows = [(row, t, seed, f(t, seed)) for row, f in distance.items() for t in T for seed in range(seeds)]
    return pd.DataFrame(rows, columns=["divergence", "T", "seed", "frechet"])


def ddpm(*scores: tuple[str, int, float]) -> pd.DataFrame:
    return pd.DataFrame(scores, columns=["sampler", "steps", "frechet"])


def test_without_results_nothing_is_decided() -> None:
    table = verdicts(NOTHING)
    assert list(table.index) == [c.name for c in CLAIMS] == [f"C{n}" for n in range(1, 8)]
    assert set(table["verdict"]) == {UNDECIDED}
    assert table["evidence"].str.len().min() > 10


@pytest.mark.parametrize(("distance", "verdict"), [(10.9, SUPPORTED), (11.1, UNDECIDED), (13.6, CONTRADICTED)])
def test_ten_steps_may_be_a_tenth_worse_than_a_thousand(distance: float, verdict: str) -> None:
    full = ddpm(("ancestral", 1000, 10.0), ("ancestral", 100, 9.0), ("ddim", 1000, 1.0))
    runs = ddgans({"reverse_kl": lambda T, _: distance if T == 10 else 1.0, "kl": lambda *_: 20.0})
    assert judged("C1", ddgan=runs, ddpm=full)[0] == verdict
    assert judged("C1", ddgan=runs)[0] == UNDECIDED
    fewer = judged("C1", ddgan=runs, ddpm=full[full["steps"] == 100])  # what a hundred steps reach, a thousand do
    assert fewer[0] == (CONTRADICTED if verdict == CONTRADICTED else UNDECIDED)


@pytest.mark.parametrize(
    ("others", "verdict"), [(4.0, SUPPORTED), (0.5, CONTRADICTED), (2.5, UNDECIDED)], ids=["behind", "before", "among"]
)
def test_the_best_rows_need_three_seeds_each(others: float, verdict: str) -> None:
    """The named rows' seeds are 1, 2, 3; the others' are 0.1 apart."""
    distance = {row: lambda _, seed: others + seed / 10 for row in PAPER_ROWS}
    distance |= {row: lambda _, seed: 1.0 + seed for row in ("non_saturating_js", "squared_hellinger")}
    assert judged("C2", ddgan=ddgans(distance, (4,), 3))[0] == verdict
    two = judged("C2", ddgan=ddgans(distance, (4,), 2))
    assert two[0] == UNDECIDED
    assert "wasserstein 2" in two[1]


@pytest.mark.parametrize(
    ("hellinger", "reverse_kl", "verdict"),
    [(1.0, 2.5, UNDECIDED), (1.0, 0.5, CONTRADICTED), (11.0, 5.0, CONTRADICTED)],
    ids=["one other among them", "one other before both", "one other before one of them"],
)
def test_both_named_rows_are_to_beat_every_other(hellinger: float, reverse_kl: float, verdict: str) -> None:
    """JS's seeds are 1, 2, 3; the remaining rows are far off."""
    best = dict.fromkeys(PAPER_ROWS, 90.0) | {"non_saturating_js": 1.0, "squared_hellinger": hellinger}
    distance = {row: lambda _, seed, own=own: own + seed for row, own in best.items()}
    distance |= {"reverse_kl": lambda _, seed: reverse_kl + seed / 10}
    assert judged("C2", ddgan=ddgans(distance, (4,), 3))[0] == verdict


@pytest.mark.parametrize(
    ("js", "verdict"),
    [(lambda T, _: 1 / T, SUPPORTED), (lambda T, _: T, UNDECIDED), (lambda T, _: 1 + abs(T - 6), UNDECIDED)],
    ids=["falls", "rises", "both"],
)
def test_every_row_is_to_improve_with_T(js: object, verdict: str) -> None:
    distance = {row: lambda T, _: 11 - T for row in PAPER_ROWS} | {"non_saturating_js": js}
    if verdict == UNDECIDED:  # three of five that rise decide it
        rising = distance | dict.fromkeys(("squared_hellinger", "reverse_kl", "non_saturating_js"), lambda T, _: T)
        assert judged("C3", ddgan=ddgans(rising))[0] == CONTRADICTED
    found = judged("C3", ddgan=ddgans(distance))
    assert found[0] == verdict
    assert "wasserstein -1.00, best at T = 10" in found[1]
    assert judged("C3", ddgan=ddgans(distance, TIMES[:4]))[0] == UNDECIDED


def test_seeds_of_a_curve_have_a_geometric_mean() -> None:
    """1 / T, times and over 1 + T^2: their arithmetic mean rises."""
    seeds = ddgans(dict.fromkeys(PAPER_ROWS, lambda T, seed: (1 + T**2) ** (2 * seed - 1) / T), seeds=2)
    assert judged("C3", ddgan=seeds)[0] == SUPPORTED


@pytest.mark.parametrize(("order", "verdict"), [((3, 2, 4, 1), UNDECIDED), ((2, 3, 1, 4), CONTRADICTED)])
def test_the_eye_that_hardly_follows_proves_nothing_and_the_other_way_refutes(order: tuple, verdict: str) -> None:
    """Rank correlations of -0.4 and 0.4."""
    distances = pd.Series({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0})
    shares = pd.Series(order, distances.index) / 10
    assert judged("C4", distances=distances, shares=shares, answers=100)[0] == verdict


@pytest.mark.parametrize(("order", "strong"), [((2, 3, 1, 5, 6, 4), False), ((3, 2, 1, 5, 4, 6), True)])
def test_a_rank_correlation_is_strong_from_seven_tenths_on(order: tuple[int, ...], strong: bool) -> None:
    """0.66 and 0.71, in every rule that asks for a strong one."""
    T = (1, 2, 4, 6, 8, 10)
    rank = dict(zip(T, order, strict=True))
    falling, rising = (dict.fromkeys(PAPER_ROWS, lambda t, _, s=sign: 9.0 + s * rank[t]) for sign in (-1, 1))
    parting = {row: lambda *_: 1.0 for row in PAPER_ROWS} | {"reverse_kl": lambda t, _: 1.0 + rank[t]}
    distances = pd.Series(range(6), list("abcdef"), dtype=float)
    found = [judged(claim, ddgan=ddgans(rows, T))[0] for claim, rows in (("C3", falling), ("C3", rising))]
    found.append(judged("C4", distances=distances, shares=1 - pd.Series(order, distances.index) / 10, answers=100)[0])
    found.append(judged("C7", ddgan=ddgans(parting, T))[0])
    assert found == ([SUPPORTED, CONTRADICTED, SUPPORTED, CONTRADICTED] if strong else [UNDECIDED] * 4)


@pytest.mark.parametrize(("sign", "verdict"), [(-1, SUPPORTED), (1, CONTRADICTED)])
def test_the_eye_is_peoples(sign: int, verdict: str) -> None:
    distances = pd.Series({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0})
    shares = 0.5 + sign * distances / 10
    assert judged("C4", distances=distances, shares=shares, answers=100)[0] == verdict
    assert judged("C4", distances=distances, shares=shares, answers=99)[0] == UNDECIDED
    assert judged("C4", distances=distances[:3], shares=shares, answers=100)[0] == UNDECIDED


def swept(js: tuple[float, int], others: tuple[float, int], trials: int = 4) -> pd.DataFrame:
    """(worst distance, trials that diverged) of JS and of each other row; the best distance is 1."""
    rows = []
    for row in PAPER_ROWS:
        worst, failed = js if row == "non_saturating_js" else others
        rows += [(row, k < failed, float("nan") if k < failed else 1.0) for k in range(trials - 1)]
        rows.append((row, False, worst))
    return pd.DataFrame(rows, columns=["row", "failed", "frechet"]).assign(broken=False)


@pytest.mark.parametrize(
    ("js", "others", "verdict"),
    [
        ((1.5, 0), (2.0, 1), SUPPORTED),
        ((1.5, 1), (1.2, 0), CONTRADICTED),
        ((1.5, 0), (1.2, 0), UNDECIDED),  # no more divergences, a larger ratio
        ((1.5, 0), (1.2, 1), SUPPORTED),  # what diverged is infinitely far off
    ],
)
def test_stability_counts_divergences_and_the_range(
    js: tuple[float, int], others: tuple[float, int], verdict: str
) -> None:
    assert judged("C5", swept=swept(js, others))[0] == verdict
    assert judged("C5", swept=swept(js, others, trials=3))[0] == UNDECIDED


@pytest.mark.parametrize(
    ("js", "reverse_kl", "others", "verdict"),
    [
        ((1.5, 0), (1.2, 0), (2.0, 0), UNDECIDED),  # a larger ratio than one other's
        ((1.5, 2), (1.5, 1), (2.0, 3), UNDECIDED),  # more divergences than one other, both ratios without bound
        ((1.5, 1), (1.2, 0), (2.0, 2), CONTRADICTED),  # one other is enough
    ],
)
def test_stability_is_beside_each_other_row(
    js: tuple[float, int], reverse_kl: tuple[float, int], others: tuple[float, int], verdict: str
) -> None:
    table, one = swept(js, others), swept(js, reverse_kl)
    table = pd.concat([table[table["row"] != "reverse_kl"], one[one["row"] == "reverse_kl"]], ignore_index=True)
    assert judged("C5", swept=table)[0] == verdict


def test_stability_waits_for_every_trials_score() -> None:
    table = swept((1.5, 0), (2.0, 1))
    table.loc[0, "frechet"] = float("nan")  # JS's first trial: trained, not scored
    assert judged("C5", swept=table)[0] == UNDECIDED


def test_trials_that_broke_down_are_told_beside_those_that_diverged() -> None:
    table = swept((1.5, 0), (2.0, 1))
    table.loc[table["row"] == "total_variation", "broken"] = [False, True, True, False]
    assert "total_variation: 1 diverged, 2 broke down" in judged("C5", swept=table)[1]


@pytest.mark.parametrize("failed", [3, 4])
def test_a_row_that_diverges_whenever_it_is_tried_is_not_stable(failed: int) -> None:
    table = swept((1.5, 0), (2.0, 0))
    for row in PAPER_ROWS[1:]:
        table.loc[table.index[table["row"] == row][:failed], ["failed", "frechet"]] = [True, float("nan")]
    assert judged("C5", swept=table)[0] == SUPPORTED


@pytest.mark.parametrize(
    ("fast", "steps", "verdict"),
    [(98.0, 1000, SUPPORTED), (32.0, 1000, SUPPORTED), (31.0, 1000, CONTRADICTED), (98.0, 10, CONTRADICTED)],
)
def test_speed_counts_at_equal_quality_from_32_times_on(fast: float, steps: int, verdict: str) -> None:
    timed = {("ddgan", 10): fast, ("ddim", steps): 1000 / steps, ("ancestral", 1000): 1.0}
    times = pd.DataFrame({"speedup": timed, "speedup_low": timed, "speedup_high": timed})
    runs = ddgans({"kl": lambda *_: 5.0, "reverse_kl": lambda *_: 9.5})  # the best row is to be reached
    scores = ddpm(("ddim", 4, 9.0), ("ddim", steps, 5.0), ("ancestral", 1000, 2.0))
    found = judged("C6", times=times, ddgan=runs, ddpm=scores)
    assert found[0] == verdict
    assert f"the fewest that are as good, {steps} (DDIM)" in found[1]
    for lacking in ({"ddgan": NOTHING.ddgan}, {"ddpm": scores[:1]}, {"times": times.drop(index=("ddim", steps))}):
        assert judged("C6", **{"times": times, "ddgan": runs, "ddpm": scores} | lacking)[0] == UNDECIDED


@pytest.mark.parametrize(
    ("spread", "verdict"),
    [(lambda T: 1 + 1 / T, UNDECIDED), (lambda T: 1 + T, CONTRADICTED), (lambda T: 2 + T % 4, UNDECIDED)],
)
def test_rows_that_part_as_T_grows_refute_the_ground_and_rows_that_merge_do_not_prove_it(
    spread: object, verdict: str
) -> None:
    others = {"wasserstein": lambda T, _: 90.0 * T, "total_variation": lambda T, _: 30.0}  # nothing is derived of them
    distance = {row: lambda T, _: 3.0 for row in PAPER_ROWS} | others | {"reverse_kl": lambda T, _: 3 * spread(T)}
    assert judged("C7", ddgan=ddgans(distance))[0] == verdict
    assert judged("C7", ddgan=ddgans(distance, TIMES[:4]))[0] == UNDECIDED


def test_smoke_runs_decide_nothing() -> None:
    runs, full = ddgans({"kl": lambda *_: 1.0}), ddpm(("ancestral", 1000, 10.0))
    verdict, why = judged("C1", preset="smoke", ddgan=runs, ddpm=full)
    assert verdict == UNDECIDED
    assert "the rule would say supported" in why


def test_the_committed_results_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDGAN_RESULTS", str(Path(__file__).parent.parent / "results"))
    evidence = gather("cpu", "fashion_mnist")
    assert evidence.preset in ("cpu", "short")
    assert set(evidence.ddgan["divergence"]) <= set(PAPER_ROWS)
    assert not evidence.ddgan["tag"].any(), "neither plain critics nor the sweep rank anything"
    assert evidence.ddgan[["n", "features"]].drop_duplicates().shape[0] == 1
    assert verdicts(evidence).loc["C6", "verdict"] != UNDECIDED


def test_trials_of_the_sweep_are_judged_by_the_training_images_and_more_critic_steps_are_none(results: Path) -> None:
    first, second, *_ = cells = make_study("sweep", "smoke").cells
    trial = train_run(first.changed(updates=2), progress=False)
    score(trial)
    (own,) = trial.evaluations.to_dict("records")
    add_evaluation(trial.path / "evaluations.csv", own | {"reference": "test", "reference_n": 500, "frechet": 99.0})
    Run.create(second).set_status("failed", "step 3: the critic's loss is nan", step=3)
    Run.create(next(cell for cell in cells if cell.critic_steps > 1)).set_status("done")
    found = gather("smoke", "digits").swept.set_index("row")
    assert found["failed"].to_dict() == {first.divergence: False, second.divergence: True}
    assert own["reference"] == "train"
    assert found["frechet"].tolist() == pytest.approx([own["frechet"], float("nan")], nan_ok=True)


def test_people_decide_where_they_were_asked_often_enough_about_what_they_were_shown(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grids of the notebook's own preset, though another has more T; neither tags nor other rows are claims' scores."""
    row = {"method": "ddgan", "T": 4, "seed": 0, "sampler": "ddgan", "steps": 4, "protocol": "as_trained", "n": 200}
    row |= {"sample_seed": 0, "features": "pixels", "features_hash": "", "reference": "test", "reference_n": 200}
    made = pd.DataFrame([("a", "reverse_kl", ""), ("b", "reverse_kl", "plain"), ("c", "kl", "")])
    made = made.set_axis(["run_id", "divergence", "tag"], axis=1).assign(**row)
    distance = {"cpu": 5.0, "short": 7.0}
    monkeypatch.setattr(claims, "load_evaluations", lambda _, preset: made.assign(frechet=distance[preset]))
    monkeypatch.setattr(claims, "kin", lambda _: ["short", "cpu"])
    for k in range(21):
        left = "a/ddgan-4" if k < 20 else "b/ddgan-4"
        add_answer(results / "ratings" / "digits.csv", left, "c/ddgan-4", k, "left")
    found = gather("cpu", "digits")
    assert found.ddgan[["run_id", "frechet"]].to_numpy().tolist() == [["a", 7.0]]
    assert found.distances.to_dict() == {f"{name}/ddgan-4": 5.0 for name in "abc"}
    assert found.shares.to_dict() == {"a/ddgan-4": 1.0, "c/ddgan-4": 0.0}


def test_where_nothing_was_run_there_is_no_evidence(results: Path) -> None:
    assert set(verdicts(gather("cpu", "fashion_mnist"))["verdict"]) == {UNDECIDED}


def test_the_rules_seldom_find_what_is_not_there() -> None:
    rates = rule_errors(30)
    assert rates.sum(axis=1).round(9).eq(1).all()
    for claim, worlds in WORLDS.items():
        nothing, said, reverse = (rates.loc[(claim, name)] for name in worlds)
        assert nothing[SUPPORTED] < 0.2, claim
        assert said[CONTRADICTED] < 0.05, claim
        assert reverse[SUPPORTED] < 0.05, claim
        assert said[SUPPORTED] > nothing[SUPPORTED] or claim == "C7", "which can be refuted alone"
        assert reverse[CONTRADICTED] > nothing[CONTRADICTED], claim
