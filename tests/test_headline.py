"""What more images bring: a known power is found again, and images that a goal asks for follow from it."""

import numpy as np
import pandas as pd
import pytest

from ddgan_core.notebook import headline
from ddgan_core.notebook.headline import GOALS, RULERS, asked, by_images, headline_figure, powers

GPU, CPU = GOALS
CLASSIFIER, FID, TO_TRAINING = (name for name, *_ in RULERS)


def trained(images: list[float], power: float = 0.5) -> pd.DataFrame:
    table = pd.DataFrame({"images": images, "batch_size": 64, "arithmetic": "fp32"}, index=list("abcd"[: len(images)]))
    return table.assign(**{name: 40.0 * table["images"] ** -power for name, *_ in RULERS})


def test_a_power_is_found_again_over_a_run_that_was_not_scored() -> None:
    table = trained([0.5, 1, 4])
    table.loc["b", FID] = np.nan
    found = powers(table)
    assert found[CLASSIFIER].tolist() == pytest.approx([np.nan, 0.5, 0.5], nan_ok=True)
    assert found[FID].tolist() == pytest.approx([np.nan, np.nan, 0.5], nan_ok=True)


def test_as_many_images_say_nothing_of_a_power() -> None:
    table = trained([1, 4, 4]).assign(**{FID: [8.0, 4.0, 2.0]})
    assert powers(table)[FID].tolist() == pytest.approx([np.nan, 0.5, np.nan], nan_ok=True)
    assert asked(table.rename(columns={FID: TO_TRAINING, TO_TRAINING: FID})).loc[:, "more"].notna().all()


def test_what_a_goal_asks_for_follows_from_the_last_power() -> None:
    found = asked(trained([1, 4])).set_axis(list(GOALS), axis=0)  # FID 20 at 4 million
    assert found.loc[GPU].tolist() == pytest.approx([25, 25 / 4])
    assert found.loc[CPU].tolist() == pytest.approx([4, 1]), "reached already"
    assert asked(trained([1])).isna().all(axis=None)
    risen = asked(trained([1, 2], power=-0.1).assign(**{TO_TRAINING: [19.0, 20.0]})).set_axis(list(GOALS), axis=0)
    assert risen.loc[GPU].tolist() == [np.inf, np.inf], "no goal of a distance that rises"
    assert risen.loc[CPU].tolist() == pytest.approx([2, 1])
    flat = asked(trained([1, 4], power=0.05)).set_axis(list(GOALS), axis=0)
    assert flat.loc[GPU].tolist() == [np.inf, np.inf], "a distance that hardly falls says nothing of any length"


def test_runs_are_listed_by_their_images_with_each_ruler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a repeat the first, and of its scores the first draws'."""
    runs = pd.DataFrame({"run_id": ["long", "usual", "cosine", "again"], "T": 4, "updates": [4_000] + [1_000] * 3})
    runs = runs.assign(batch_size=[64, 32, 32, 32], arithmetic="fp32", schedule=["vp", "vp", "cosine", "vp"])
    scored = [(run, *ruler[1:], 10.0 * i + j) for i, run in enumerate(runs["run_id"]) for j, ruler in enumerate(RULERS)]
    scores = pd.DataFrame(scored, columns=["run_id", "features", "n", "reference", "frechet"])
    scores = pd.concat([scores.assign(sampler="ddgan", sample_seed=seed) for seed in (0, 1)])
    monkeypatch.setattr(headline, "by_updates", lambda *_: runs)
    monkeypatch.setattr(headline, "load_evaluations", lambda *_: scores)
    table = by_images("smoke", "kl", 4)
    assert table["images"].to_dict() == pytest.approx({"usual": 0.032, "long": 0.256})
    assert table[[CLASSIFIER, FID, TO_TRAINING]].to_numpy().tolist() == [[10, 11, 12], [0, 1, 2]]
    assert not len(by_images("smoke", "kl", 2))


def test_each_ruler_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fids, classifier = headline_figure(trained([0.5, 1, 4])).axes
    assert (len(fids.lines), len(classifier.lines)) == (len(RULERS) - 1 + len(GOALS), 1), "goals are of FID"
    fids, classifier = headline_figure(trained([0.5, 1, 4]), floor=1.5).axes
    assert (len(fids.lines), len(classifier.lines)) == (len(RULERS) - 1 + len(GOALS) + 1, 1)
    assert "FID, test to training images" in {text.get_text() for text in fids.texts}
    others = {"wide": trained([0.5, 1], power=0.7), "none": trained([]), "larger": trained([4])}
    axes = headline_figure(trained([0.5, 1, 4]), others).axes
    for marker, drawn in {"D": [20], "o": [40 * 0.5**-0.7, 40]}.items():
        hollow = [line for ax in axes for line in ax.lines if line.get_mfc() == "white" and line.get_marker() == marker]
        hollow = [line for line in hollow if len(line.get_xdata())]
        assert [line.get_ydata().tolist() for line in hollow] == [pytest.approx(drawn)] * len(RULERS)
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["usual critic", "wide", "larger"]
    monkeypatch.setattr(headline, "by_updates", lambda *_: pd.DataFrame())
    empty = by_images("smoke", "kl", 4)
    assert asked(empty).isna().all(axis=None)
    assert [text.get_text() for text in headline_figure(empty).axes[0].texts] == ["not scored yet"]


def test_the_floor_is_that_of_real_images() -> None:
    """Between what halves of the training images and test images show at that N (calibration) and nothing."""
    assert 1 < headline.floor("fashion_mnist") < 3.2
    assert np.isnan(headline.floor("digits"))
