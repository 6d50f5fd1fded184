"""Published curves beside ours: what is copied is named by its source, and each line is a multiple of its own end."""

from pathlib import Path

import pytest

from ddgan_core.notebook import published
from ddgan_core.notebook.published import AS_PUBLISHED, CORRECTED, ITS_PROTOCOL, STYLES, curves, published_figure

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
