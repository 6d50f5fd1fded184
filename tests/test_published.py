"""Published curves beside ours: what is copied is named by its source, and each line is a multiple of its own end."""

from pathlib import Path

import pandas as pd
import pytest

from ddgan_core.evaluation.scores import add_evaluation
from ddgan_core.notebook import published
from ddgan_core.notebook.published import AS_PUBLISHED, CORRECTED, ITS_PROTOCOL, STYLES, curves, published_figure
from ddgan_core.runs import Run
from ddgan_core.study import configure

ROOT = Path(__file__).parent.parent


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDGAN_RESULTS", str(ROOT / "results"))


@pytest.mark.usefixtures("committed")
def test_what_others_report_has_a_source() -> None:
    table = published.published()
    keys = (ROOT / "references.bib").read_text("utf-8")
    assert all(f"{{{source}," in keys for source in set(table["source"]))
    assert (table["fid"] > 0).all()
    assert not table.duplicated(["source", "model", "divergence", "steps"]).any()


@pytest.mark.usefixtures("committed")
def test_each_line_is_a_multiple_of_its_longest_chain() -> None:
    found = curves("cpu")
    assert list(found) == ["ddpm", "ddgan"]
    for table in found.values():
        assert list(table) == list(STYLES)
        assert table.loc[table.index.max()].tolist() == pytest.approx([1, 1, 1])
    theirs = published.published()
    js = theirs[(theirs["divergence"] == "non_saturating_js") & (theirs["source"] == published.SOURCE)].set_index(
        "steps"
    )
    assert found["ddgan"][AS_PUBLISHED].to_dict() == pytest.approx((js["fid"] / js.loc[10, "fid"]).to_dict())
    assert (found["ddgan"].loc[1, [AS_PUBLISHED, ITS_PROTOCOL]] > 1).all()
    assert found["ddgan"].loc[1, CORRECTED] < 1, "what the protocol makes fall rises"
    left, right = published_figure(found).axes
    assert (len(left.lines), len(right.lines)) == (3, 3)


@pytest.mark.usefixtures("results")
def test_without_results_of_ours_only_theirs_is_drawn() -> None:
    found = curves("cpu")
    assert found["ddgan"][AS_PUBLISHED].notna().all()
    assert found["ddgan"][[ITS_PROTOCOL, CORRECTED]].isna().all(axis=None)
    assert [len(ax.lines) for ax in published_figure(found).axes] == [1, 1]


@pytest.mark.usefixtures("results")
def test_seeds_have_a_geometric_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    gans = pd.DataFrame({"T": [4, 4, 10], "steps": [4, 4, 10], "frechet": [2.0, 8.0, 1.0]})
    gans = gans.assign(divergence=published.ROW, protocol="as_trained")
    monkeypatch.setattr(published, "beside_cut_short", lambda _: (None, gans))
    assert curves("cpu")["ddgan"][CORRECTED].dropna().to_dict() == pytest.approx({4: 4, 10: 1})


@pytest.mark.usefixtures("results")
def test_other_features_and_other_draws_are_on_no_line() -> None:
    """As many images of them, too; nor are fewer images and a longer training."""
    config = configure("cpu", method="ddpm")
    run = Run.create(config)
    run.set_status("done")
    longer = Run.create(configure("cpu", method="ddpm", tag="x5"))
    chain = {"ancestral": ("respaced", (10, 100, 1000)), "shortened": ("as_published", (10, 100))}
    known = {"dataset": "fashion_mnist", "run_id": config.run_id, "method": "ddpm", "T": 1000, "seed": 0, "tag": ""}
    known |= {"preset": "cpu", "reference": "test", "reference_n": 10_000, "weights": "ema", "n": 1_000}
    for sampler, (protocol, steps) in chain.items():
        for n in steps:
            row = known | {"sampler": sampler, "steps": n, "protocol": "as_trained" if n == 1000 else protocol}
            row |= {"features": "fashion_classifier", "features_hash": "a", "sample_seed": 0, "frechet": 100.0 / n}
            add_evaluation(run.path / "evaluations.csv", row)
            add_evaluation(run.path / "evaluations.csv", row | {"n": 500, "frechet": 7.0})
            more = {"run_id": longer.config.run_id, "tag": "x5", "frechet": 900.0}
            add_evaluation(longer.path / "evaluations.csv", row | more)
            if sampler == "ancestral":
                add_evaluation(run.path / "evaluations.csv", row | {"sample_seed": 1, "frechet": 900.0})
                add_evaluation(run.path / "evaluations.csv", row | {"features": "inception", "frechet": 50.0})
    found = curves("cpu")["ddpm"]
    assert found[CORRECTED].dropna().to_dict() == pytest.approx({10: 100, 100: 10, 1000: 1})
    assert found[ITS_PROTOCOL].dropna().to_dict() == pytest.approx({10: 100, 100: 10, 1000: 1})
