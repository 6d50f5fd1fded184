"""Images from elsewhere: scored by their pixels, or refused in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ddgan_core import UserError
from ddgan_core.data import load_images
from ddgan_core.evaluation import scoring
from ddgan_core.evaluation.scores import read_evaluations
from ddgan_core.evaluation.scoring import evaluate_baseline, evaluate_images


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DDGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_images_from_elsewhere_are_scored_by_their_pixels(tmp_path: Path, results: Path) -> None:
    """The training images themselves score as the real baseline does; a copy under another name adds no row."""
    images, _ = load_images("digits", "train")
    for name in ("mine", "copy"):
        np.save(tmp_path / f"{name}.npy", images.numpy())
    mine = evaluate_images(tmp_path / "mine.npy", "digits", features="pixels").iloc[0]
    assert mine["n"] == len(images)
    assert mine["coverage"] > 0.5
    real = evaluate_baseline("real", "digits", features="pixels", n=len(images)).iloc[0]
    assert mine["frechet"] == pytest.approx(real["frechet"], rel=1e-6), "each once, in another order"
    again = evaluate_images(tmp_path / "copy.npy", "digits", features="pixels").iloc[0]
    assert again["run_id"] == "mine"
    assert len(read_evaluations(results / "images" / "digits.csv")) == 1
    few = evaluate_images(tmp_path / "mine.npy", "digits", features="pixels", n=60).iloc[0]
    np.save(tmp_path / "first.npy", images[:60].numpy())
    first = evaluate_images(tmp_path / "first.npy", "digits", features="pixels").iloc[0]
    assert few["sampler"] == first["sampler"], "the first so many"
    with pytest.raises(UserError, match=f"n = {len(images) + 1}: .*mine.npy holds {len(images)} images"):
        evaluate_images(tmp_path / "mine.npy", "digits", features="pixels", n=len(images) + 1)
    np.save(tmp_path / "large.npy", images.numpy().repeat(2, 2).repeat(2, 3))
    with pytest.raises(UserError, match="against a reference of"):
        evaluate_images(tmp_path / "large.npy", "digits", features="pixels")


@pytest.mark.parametrize(
    ("pile", "message"),
    [
        (np.zeros((50, 3, 8, 8), np.uint8), "images of 3 channels"),
        (np.zeros((50, 1, 9, 8), np.uint8), "1 channels, 9x8"),
        (np.zeros((49, 1, 8, 8), np.uint8), "n = 50: .*holds 49 images"),
        (np.zeros((50, 1, 8, 8), np.float32), "float32"),  # no pile at all: tests/test_data.py has the others
    ],
)
def test_bad_piles_end_in_one_line_and_write_nothing(
    pile: np.ndarray, message: str, tmp_path: Path, results: Path
) -> None:
    np.save(tmp_path / "x.npy", pile)
    with pytest.raises(UserError, match=message) as caught:
        evaluate_images(tmp_path / "x.npy", "digits", features="pixels", n=50)
    assert "\n" not in str(caught.value)
    assert not list(results.rglob("*"))


def test_a_pile_of_more_images_than_are_compared_is_judged_by_all_of_it(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's images may lie in the order of their classes."""
    monkeypatch.setattr(scoring, "NEAREST", 150)
    images, labels = load_images("digits", "train")
    found = {}
    for name, order in {"mixed": torch.arange(600), "sorted": labels[:600].argsort()}.items():
        np.save(tmp_path / f"{name}.npy", images[:600][order].numpy())
        found[name] = evaluate_images(tmp_path / f"{name}.npy", "digits", features="pixels").iloc[0]
    assert found["sorted"]["recall"] == pytest.approx(found["mixed"]["recall"], abs=0.12)
    assert found["sorted"]["coverage"] == pytest.approx(found["mixed"]["coverage"], abs=0.12)
