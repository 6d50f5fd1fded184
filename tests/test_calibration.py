"""Piles of known quality come out in order; intervals and extrapolation hold where the truth is known."""

import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ddgan_core import UserError
from ddgan_core.data import data_hash, load_images
from ddgan_core.evaluation import calibration
from ddgan_core.evaluation.calibration import (
    DIRECTIONS,
    blurred,
    calibrate,
    drawn,
    extrapolate,
    make_reference,
    noise,
    shuffled,
    summary,
)
from ddgan_core.metrics.distances import Moments, frechet_distance, kernel_distance, precision_recall
from ddgan_core.metrics.features import load_extractor


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDGAN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    return load_images("digits", "train")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_blur_keeps_constants_and_is_a_gaussian() -> None:
    flat = torch.full((2, 1, 9, 7), 93, dtype=torch.uint8)
    assert torch.equal(blurred(flat), flat), "the edge is repeated, not darkened"
    point = torch.zeros(1, 1, 31, 31, dtype=torch.uint8)
    point[0, 0, 15, 15] = 255
    out = blurred(point)[0, 0].double()
    expected = 255 / (2 * np.pi * 1.5**2)
    assert out[15, 15].item() == pytest.approx(expected, abs=0.6)
    assert out[15, 17].item() == pytest.approx(expected * np.exp(-4 / 4.5), abs=0.6)
    assert torch.equal(out, out.T)


def test_shuffling_keeps_each_images_pixels_and_channels_together() -> None:
    images = torch.arange(2 * 3 * 16, dtype=torch.uint8).view(2, 3, 4, 4)
    out = shuffled(images, generator())
    assert torch.equal(out.flatten(1).sort(1).values, images.flatten(1).sort(1).values)
    assert torch.equal(out[:, 1] - out[:, 0], images[:, 1] - images[:, 0]), "a pixel keeps its colours"
    assert not torch.equal(out, images)
    assert not torch.equal(out[0, 0], out[1, 0] - 48), "each image has an order of its own"


@pytest.mark.parametrize(("n", "disjoint"), [(25, 4), (50, 2), (60, 1)])
def test_draws_are_disjoint_while_there_are_images(n: int, disjoint: int) -> None:
    draws = [set(drawn(100, n, draw, "real").tolist()) for draw in range(4)]
    assert all(len(draw) == n and draw <= set(range(100)) for draw in draws)
    for a, b in itertools.combinations(range(disjoint), 2):
        assert not draws[a] & draws[b]
    assert len({frozenset(draw) for draw in draws}) == 4
    assert drawn(100, n, 1, "real").tolist() == drawn(100, n, 1, "real").tolist()


def test_the_table_orders_the_piles(results: Path) -> None:
    table = calibrate("pixels", dataset="digits", sizes=(60, 200), floor_sizes=(60, 200, 700), draws=3)
    assert len(table) == 3 * (2 * 3 + 3 * 2)
    pd.testing.assert_frame_equal(
        table, pd.read_csv(results / "tables" / "calibration_digits_pixels.csv"), rtol=1e-4, check_dtype=False
    )
    facts = json.loads((results / "tables" / "calibration_digits_pixels.json").read_text())
    train, test = (load_images("digits", split)[0] for split in ("train", "test"))
    known = (facts["reference_n"], facts["test_hash"], facts["train_hash"])
    assert known == (len(test), data_hash(test), data_hash(train))
    draws = table[table["pile"].isin(calibration.CEILINGS)].groupby(["pile", "n"])["frechet"].nunique()
    assert (draws == 3).all(), "each draw of a ceiling is another pile"
    means = summary(table).xs("mean", axis=1, level=1)
    for n in (60, 200):
        at = means.xs(n, level="n")
        assert at.loc[["real", "blurred", "noise"], "frechet"].is_monotonic_increasing
        assert at.loc["real", "coverage"] > at.loc["blurred", "coverage"] >= at.loc["noise", "coverage"]
    assert means.loc[("halves", 200), "frechet"] < means.loc[("real", 200), "frechet"], "no shift between halves"
    assert means.loc[("halves", 60), "frechet"] > means.loc[("halves", 200), "frechet"], "biased in N"
    assert means["kernel"].loc["halves"].abs().max() < 0.01, "and this is not"
    with pytest.raises(UserError, match="floor_sizes up to 751: digits allows 750"):
        calibrate("pixels", dataset="digits", sizes=(60,), floor_sizes=(751,))
    with pytest.raises(UserError, match="40 images and 2 draws or more"):
        calibrate("pixels", dataset="digits", sizes=(39,), floor_sizes=(60,))


def test_what_is_compared_is_the_first_pile_with_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine times one of the points of the other: all of it is near them, and they are not near it."""
    target = torch.randn(20, 3, generator=generator())
    scores = calibration.compared(target[:1].repeat(9, 1), target)
    assert (scores["precision"], scores["recall"]) == (1, 0)
    monkeypatch.setattr(calibration, "NEAREST", 20)
    assert set(calibration.compared(target.repeat(2, 1), target)) == {"frechet"}, "more than are compared in pairs"


def test_each_pile_is_of_the_images_that_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that are their own numbers. Halves share none, and meet no fixed reference; classes are of the same."""
    seen = []

    def numbers(images: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.arange(len(images)).float()[:, None]

    def compared(found: torch.Tensor, target: torch.Tensor, moments: Moments | None = None) -> dict[str, float]:
        seen.append((found, target, moments))
        return {"frechet": 0.0}

    for name, instead in (("reference_features", numbers), ("_probabilities", numbers), ("compared", compared)):
        monkeypatch.setattr(calibration, name, instead)
    monkeypatch.setattr(calibration, "class_statistics", lambda p: {"all": float(p.sum())})
    table = calibrate("pixels", dataset="digits", sizes=(60, 80), floor_sizes=(60, 700), draws=2)
    assert table["all"].tolist() == [float(found.sum()) for found, *_ in seen]
    keys = table[["pile", "n", "draw"]].values.tolist()
    for (pile, n, draw), (found, target, moments) in zip(keys, seen, strict=True):
        assert len(found) == n
        assert (moments is None) == (pile == "halves")
        if pile == "halves":
            assert len(torch.cat([found, target]).unique()) == 2 * n
        if pile == "real":
            assert found.flatten().tolist() == drawn(1500, n, draw, "real").tolist()


def test_pairwise_metrics_stop_where_they_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "NEAREST", 100)
    table = calibrate("pixels", dataset="digits", sizes=(100,), floor_sizes=(100, 101), draws=2)
    large = table["n"] > 100
    pairwise = ["kernel", "precision", "recall", "density", "coverage"]
    assert table.loc[large, pairwise].isna().all().all()
    assert table.loc[~large, pairwise].notna().all().all()
    assert table["frechet"].notna().all()


def piles(images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Four faults of one pile, each of as many images as it has."""
    n, one_class = len(images), images[labels == 3]
    noisy = images.int() + (40 * torch.randn(images.shape, generator=generator())).int()
    return {
        "collapsed": one_class.repeat(n // len(one_class) + 1, 1, 1, 1)[:n], "noisy": noisy.clamp(0, 255).byte(),
        "blurred": blurred(images), "duplicated": images[: n // 20].repeat(20, 1, 1, 1)[:n],
    }  # fmt: skip


def test_each_fault_moves_each_metric_as_documented(digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    """By more than three standard deviations of real halves; where the table says 0, by fewer than ten."""
    images, labels = digits
    pixels = load_extractor("pixels")

    def scores(fake: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        a, b = pixels(fake), pixels(real)
        found = {"frechet": frechet_distance(Moments.of(a), Moments.of(b)), "kernel": kernel_distance(a, b)}
        return found | precision_recall(b, a)

    floors = []
    for draw in range(6):
        order = torch.randperm(len(images), generator=generator(draw))
        floors.append(scores(images[order[:600]], images[order[750:1350]]))
    floor = pd.DataFrame(floors)
    for fault, fake in piles(images[order[:600]], labels[order[:600]]).items():
        z = (pd.Series(scores(fake, images[order[750:1350]])) - floor.mean()) / floor.std()
        for metric, direction in DIRECTIONS.loc[fault].items():
            holds = {"+": z[metric] > 3, "-": z[metric] < -3, "0": abs(z[metric]) < 10, ".": True}[direction]
            assert holds, f"{fault}: {metric} is {z[metric]:+.1f} deviations from the floor, documented {direction}"


def test_the_summary_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)  # as on a bare machine: its quantile is the intervals' own
    table = pd.DataFrame({"pile": ["real"] * 3, "n": [9] * 3, "draw": [0, 1, 2], "frechet": [1.0, 2.0, 3.0]})
    row = summary(table).loc[("real", 9)]
    assert row["frechet", "mean"] == 2
    assert row["frechet", "error"] == pytest.approx(4.302653 / 3**0.5)  # Student's t, two degrees of freedom
    assert row["frechet", "least_difference"] == pytest.approx(4.302653 * 2**0.5)
    (alone,) = summary(table[:1])["frechet"].to_dict("records")
    assert alone["mean"] == 1
    assert math.isnan(alone["error"])


def test_a_line_in_one_over_n_is_found() -> None:
    limit, error, slope = extrapolate([100, 200, 400, 800], [0.3 + 7 / n for n in (100, 200, 400, 800)])
    assert (limit, slope) == (pytest.approx(0.3), pytest.approx(7))
    assert error == pytest.approx(0, abs=1e-9)
    n, values = np.array([100, 200, 400, 800]), np.array([0.37, 0.34, 0.31, 0.32])
    design = np.stack([np.ones(4), 1 / n], 1)
    inverse = np.linalg.inv(design.T @ (design * n[:, None]))  # the normal equations
    line = inverse @ design.T @ (n * values)
    error = ((n * (values - design @ line) ** 2).sum() / (4 - 2) * inverse[0, 0]) ** 0.5
    assert extrapolate(n.tolist(), values.tolist()) == pytest.approx((line[0], error, line[1]))
    with pytest.raises(UserError, match="3 values at 2 or more"):
        extrapolate([100, 100, 100], [1, 2, 3])


def test_extrapolation_finds_a_known_distance() -> None:
    """Gaussians at squared distance 0.5: biased upwards at N = 500; the limit is unbiased, and covered."""
    d, shift, sizes = 24, (0.5 / 24) ** 0.5, (500, 1000, 2000, 4000)
    exact = Moments(2, torch.zeros(d).double(), torch.eye(d).double())
    seeds, limits, errors, small = generator(1), [], [], []
    for _ in range(40):
        values = [frechet_distance(Moments.of(shift + torch.randn(n, d, generator=seeds)), exact) for n in sizes]
        limit, error, _ = extrapolate(sizes, values)
        limits.append(limit)
        errors.append(error)
        small.append(values[0])
    limits, errors = np.array(limits), np.array(errors)
    assert np.mean(small) > 0.5 + 10 * limits.std() / 40**0.5
    assert abs(limits.mean() - 0.5) < 4 * limits.std() / 40**0.5
    # Student's 95 % quantile at two degrees of freedom.
    assert (abs(limits - 0.5) < 4.3 * errors).mean() > 0.8


def test_reference_statistics_are_made_in_pieces(tmp_path: Path) -> None:
    how = {"features": "pixels", "dataset": "digits", "split": "train", "folder": tmp_path / "shipped"}
    assert "500 of 1,500 images are kept" in make_reference(**how, minutes=1e-9)
    assert not (tmp_path / "shipped").exists()
    assert "MB" in make_reference(**how)
    assert len(list((tmp_path / "shipped").glob("digits-train-1500-*-pixels-*.safetensors.xz"))) == 1


def test_noise_is_uniform(digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    pixels = noise(digits[0], generator()).float()
    assert pixels.mean().item() == pytest.approx(127.5, abs=1)
    assert (pixels.min(), pixels.max()) == (0, 255)
