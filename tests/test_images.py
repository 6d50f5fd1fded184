"""Images from elsewhere: scored by their pixels, or refused in one line."""

from pathlib import Path

import numpy as np
import pytest

from ddgan_core import UserError
from ddgan_core.data import load_images
from ddgan_core.evaluation.scores import read_evaluations
from ddgan_core.evaluation.scoring import evaluate_images


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
    again = evaluate_images(tmp_path / "copy.npy", "digits", features="pixels").iloc[0]
    assert again["run_id"] == "mine"
    assert len(read_evaluations(results / "images" / "digits.csv")) == 1
    with pytest.raises(UserError, match=f"n = {len(images) + 1}: .*mine.npy holds {len(images)} images"):
        evaluate_images(tmp_path / "mine.npy", "digits", features="pixels", n=len(images) + 1)
    np.save(tmp_path / "large.npy", images.numpy().repeat(2, 2).repeat(2, 3))
    with pytest.raises(UserError, match="against a reference of"):
        evaluate_images(tmp_path / "large.npy", "digits", features="pixels")


def _folder(path: Path, sizes: tuple[tuple[int, int], ...]) -> Path:
    from PIL import Image

    path.mkdir()
    for i, size in enumerate(sizes):
        Image.fromarray(np.zeros(size, np.uint8)).save(path / f"{i}.png")
    return path


def _npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def _torn(folder: Path) -> Path:
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:50])
    return folder


BAD_PILES = {
    "floats": (lambda p: _npy(p / "x.npy", np.zeros((50, 1, 8, 8), np.float32)), "float32"),
    "range": (lambda p: _npy(p / "x.npy", np.full((50, 1, 8, 8), 300)), "int64"),
    "nan": (lambda p: _npy(p / "x.npy", np.full((50, 1, 8, 8), np.nan)), "float64"),
    "channels": (lambda p: _npy(p / "x.npy", np.zeros((50, 2, 8, 8), np.uint8)), "c = 1 or 3"),
    "other channels": (lambda p: _npy(p / "x.npy", np.zeros((50, 3, 8, 8), np.uint8)), "images of 3 channels"),
    "other size": (lambda p: _npy(p / "x.npy", np.zeros((50, 1, 9, 8), np.uint8)), "1 channels, 9x8"),
    "too few": (lambda p: _npy(p / "x.npy", np.zeros((49, 1, 8, 8), np.uint8)), "n = 50: .*holds 49 images"),
    "no folder": (lambda p: p / "nowhere", "give a folder of .png files or a .npy"),
    "empty folder": (lambda p: _folder(p / "x", ()), "holds no .png files"),
    "mixed sizes": (lambda p: _folder(p / "x", ((8, 8), (8, 9))), "1.png is of shape"),
    "corrupt PNG": (lambda p: _torn(_folder(p / "x", ((8, 8),) * 50)), "0.png is not a whole PNG"),
}


@pytest.mark.parametrize("kind", BAD_PILES)
def test_bad_piles_end_in_one_line_and_write_nothing(kind: str, tmp_path: Path, results: Path) -> None:
    make, message = BAD_PILES[kind]
    with pytest.raises(UserError, match=message) as caught:
        evaluate_images(make(tmp_path), "digits", features="pixels", n=50)
    assert "\n" not in str(caught.value)
    assert not list(results.rglob("*"))
