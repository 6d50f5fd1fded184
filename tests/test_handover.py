"""Distances of chains begun at real images with noise: what is listed, each step's share, and what is left out."""

import pandas as pd
import pytest

from ddgan_core.notebook import handover, rows
from ddgan_core.notebook.handover import by_begin, handover_figure, parts

ROWS = [  # sampler, steps, row, tag, features, distance
    ("real", 0, "", "", "pixels", 1.0), ("real", 0, "", "", "inception", 9.0),
    ("diffused", 1, "kl", "", "pixels", 2.0), ("diffused", 2, "kl", "", "pixels", 2.5),
    ("diffused", 3, "kl", "", "pixels", 4.6), ("ddgan", 3, "kl", "", "pixels", 5.0),
    ("truncated", 1, "kl", "", "pixels", 50.0),
    ("diffused", 1, "kl", "long", "inception", 10.0), ("diffused", 2, "kl", "long", "inception", 11.0),
    ("ddgan", 3, "kl", "long", "inception", 12.0),
    ("diffused", 1, "total_variation", "", "pixels", 2.0), ("ddgan", 3, "total_variation", "", "pixels", 5.0),
]  # fmt: skip


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    table = pd.DataFrame(ROWS, columns=["sampler", "steps", "divergence", "tag", "features", "frechet"])
    table = table.assign(T=3, seed=0, preset="smoke", n=200, reference="test", sample_seed=0, features_hash="")
    table = table.assign(method=["" if s == "real" else "ddgan" for s in table["sampler"]])
    table = table.assign(reference_n=200, protocol=["control" if s == "diffused" else "" for s in table["sampler"]])
    for module in (handover, rows):
        monkeypatch.setattr(module, "load_evaluations", lambda *_: table)
    return table


@pytest.mark.usefixtures("scored")
def test_each_step_has_its_share_of_what_a_chain_is_farther_than_real_images() -> None:
    table = by_begin("smoke", 3)
    kl = ("pixels", 200, "kl", "")
    assert table.index.tolist() == [("inception", 200, "kl", "long"), kl], "total variation is not scored at t = 2"
    assert table.loc[kl].tolist() == [1.0, 2.0, 2.5, 5.0]
    shares = parts(table)
    assert shares.loc[kl].to_dict() == pytest.approx({1: 1 / 4, 2: 0.5 / 4, 3: 2.5 / 4})
    assert shares.sum(axis=1).tolist() == pytest.approx([1, 1])
    assert not len(by_begin("smoke", 2))


@pytest.mark.usefixtures("scored")
def test_a_panel_for_each_feature_network() -> None:
    left, right = handover_figure(by_begin("smoke", 3)).axes
    assert [line.get_ydata().tolist() for ax in (left, right) for line in ax.lines] == [[9, 10, 11, 12], [1, 2, 2.5, 5]]
    assert {text.get_text() for text in left.texts} == {"KL, longest run"}


def test_other_draws_references_seeds_and_numbers_of_images_are_left_out(
    scored: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = by_begin("smoke", 3)
    others = ({"n": 50}, {"reference": "train"}, {"sample_seed": 1}, {"seed": 1})
    more = pd.concat([*(scored.assign(frechet=99.0, **other) for other in others[:1]), scored])
    more = pd.concat([more, *(scored.assign(frechet=99.0, **other) for other in others[1:])])
    monkeypatch.setattr(handover, "load_evaluations", lambda *_: more)
    pd.testing.assert_frame_equal(by_begin("smoke", 3).query("n == 200"), before)


def test_no_control_is_compared_with_samples(scored: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rows.SCORES, "smoke", {"ddgan": [("ddgan", None, "pixels", 200)]})
    assert "diffused" in set(scored["sampler"])
    assert set(rows.comparable("smoke")["sampler"]) == {"real", "ddgan", "truncated"}


def test_without_scores_it_says_so() -> None:
    table = by_begin("smoke", 3)
    assert not len(table)
    assert not len(parts(table))
    assert [text.get_text() for text in handover_figure(table).axes[0].texts] == ["not scored yet"]
