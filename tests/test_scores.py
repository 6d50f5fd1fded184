"""Which scores may share an axis, and what bounds it."""

from pathlib import Path

import pandas as pd
import pytest

from ddgan_core import UserError
from ddgan_core.evaluation import scoring
from ddgan_core.evaluation.scores import COLUMNS, add_evaluation, bounds, one_axis, studied
from ddgan_core.evaluation.scoring import NEAREST, evaluate
from ddgan_core.metrics.features import EXTRACTORS, INCEPTION_HASH
from ddgan_core.notebook import rows
from ddgan_core.runs import Run
from ddgan_core.study import SCORES, configure

WAY = {"features_hash": "0a", "reference": "test", "reference_n": 10_000, "sample_seed": 0}


def scored(run_id: str, features: str, n: int, frechet: float = 1.0, tag: str = "", sampler: str = "ddgan") -> dict:
    made = {"run_id": run_id, "features": features, "n": n, "frechet": frechet, "tag": tag, "sampler": sampler}
    return made | WAY | {"method": "" if run_id in ("real", "noise") else "ddgan"}


def test_most_runs_decide_on_the_axis() -> None:
    rows = [scored(run, "pixels", 200, 7.0) for run in "abc"] + [scored(run, "inception", 500) for run in "ab"]
    table = pd.DataFrame([*rows, scored("d", "inception", 500, tag="plain"), scored("a", "pixels", 200, 8.0, "x")])
    found = one_axis(table)
    assert found["run_id"].tolist() == ["a", "b", "c", "a"], "tagged runs have no vote, and are not lost"
    baselines = pd.DataFrame([scored(kind, "inception", 500, sampler=kind) for kind in ("real", "noise")])
    assert set(one_axis(pd.concat([table, baselines]))["features"]) == {"pixels"}, "nor have baselines"
    assert set(found["features"]) == {"pixels"}


def test_among_equals_inception_then_the_larger_n() -> None:
    ways = [("pixels", 900), ("inception", 100), ("inception", 500)]
    table = pd.DataFrame([scored("a", features, n) for features, n in ways])
    assert one_axis(table)[["features", "n"]].to_numpy().tolist() == [["inception", 500]]
    assert not len(one_axis(pd.DataFrame([scored("a", "pixels", 9, tag="plain")]))), "nothing but tagged runs"
    assert not len(one_axis(table.iloc[:0]))


def test_bounds_are_those_measured_alike() -> None:
    base = [
        scored("real", "pixels", 200, 0.1, sampler="real"), scored("noise", "pixels", 300, 9.0, sampler="noise"),
        scored("noise", "inception", 200, 300.0, sampler="noise"),
        scored("real", "pixels", 200, 0.2, sampler="real") | {"sample_seed": 1},
    ]  # fmt: skip
    runs = pd.DataFrame([scored("a", "pixels", 200, 2.0), scored("b", "pixels", 200, 3.0)])
    assert bounds(pd.concat([pd.DataFrame(base), runs]), runs) == {"floor": 0.1}, "noise was measured at another N"
    assert bounds(pd.DataFrame(base), runs.iloc[:0]) == {}


def test_scores_of_another_feature_network_or_reference_are_not_comparable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of most runs are."""
    _, _, features, n = rows.SCORES["smoke"]["ddgan"][0]
    lines = [scored(run, features, n, 2.0) | {"protocol": "as_trained"} for run in ("a", "b", "c")]
    lines += [lines[0] | {"features_hash": "0b"}, lines[1] | {"reference_n": 500}]
    monkeypatch.setattr(rows, "load_evaluations", lambda *_: pd.DataFrame(lines))
    assert rows.comparable("smoke").index.tolist() == [0, 1, 2]


def test_a_score_that_is_there_is_read_without_data_and_without_the_file_of_inception(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise UserError("to be downloaded")

    monkeypatch.setattr(scoring, "load_images", missing)
    monkeypatch.setitem(EXTRACTORS, "inception", missing)
    run = Run.create(configure("smoke", T=2))
    row = dict.fromkeys(COLUMNS, "") | scored(run.config.run_id, "inception", 20, 7.0)
    row |= {"features_hash": INCEPTION_HASH, "steps": 2, "protocol": "as_trained", "weights": "ema"}
    add_evaluation(run.path / "evaluations.csv", row)
    assert evaluate(run, n=20, features="inception")["frechet"].tolist() == [7.0]
    for other in ({"n": 21}, {"force": True}):
        with pytest.raises(UserError, match="to be downloaded"):
            evaluate(run, **{"n": 20, "features": "inception"} | other)


def test_a_study_is_of_the_first_draw_of_each_run_as_it_was_trained() -> None:
    """Another draw of its samples is no seed of its training."""
    protocols = ["as_trained", "as_trained", "as_published", "control", "respaced", ""]
    table = pd.DataFrame({"protocol": protocols, "sample_seed": [0, 1, 0, 0, 0, 0]})
    assert studied(table).index.tolist() == [0, 4, 5]


def test_the_pairs_of_a_studys_samples_are_all_looked_at() -> None:
    """Recall and its like depend on N: the N of a row is theirs too."""
    assert max(n for usual in SCORES.values() for due in usual.values() for *_, n in due) <= NEAREST
