"""The ruler, calibrated: what each metric says of piles of images whose quality is known beforehand.

Floors are real images scored against other real ones, ceilings are images that nobody would take for real. Every pile
is drawn several times at every N, so that each value has an interval, and a difference a size below which it is noise.
"""

import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ddgan_core import UserError
from ddgan_core.data import data_hash, get_dataset, load_images
from ddgan_core.diffusion import random_generator
from ddgan_core.evaluation.reference import SHIPPED, extract, reference_features, reference_moments, ship_moments
from ddgan_core.evaluation.scoring import NEAREST
from ddgan_core.metrics.distances import Moments, class_statistics, frechet_distance, kernel_distance, precision_recall
from ddgan_core.metrics.features import class_probabilities, load_extractor
from ddgan_core.metrics.intervals import student_quantile
from ddgan_core.provenance import provenance
from ddgan_core.runs import results_dir, write_atomic
from ddgan_core.shapes import Float, Int, Tensor, UInt8

SIZES = (1_000, 2_000, 5_000, 10_000)
FLOOR_SIZES = (*SIZES, 20_000, 30_000)
CLASSES = 10_000  # images, at most, that the classifier looks at
BLUR = 1.5  # pixels, the standard deviation of the blur

# How each metric answers to a pile with one fault: "+" it rises, "-" it falls, "0" it hardly moves and so does not see
# the fault, "." it depends on the features (noise spreads the balls by which recall is measured: in pixels it rises).
# collapsed: one class alone; duplicated: each image twenty times. With a collapse, classes_present and class_entropy
# fall and class_kl rises; top_probability is no guide: noise is given to one class with great confidence.
DIRECTIONS = pd.DataFrame(
    {
        "frechet": list("++++"), "kernel": list("++++"), "precision": list("0--0"), "recall": list("-.--"),
        "density": list("0--0"), "coverage": list("----"),
    },
    index=["collapsed", "noisy", "blurred", "duplicated"],
)  # fmt: skip


def blurred(images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    """Each image under a Gaussian blur of BLUR pixels, its edge repeated outwards; rounded to uint8 once."""
    radius = math.ceil(3 * BLUR)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets / BLUR) ** 2)
    kernel = kernel / kernel.sum()

    def along(size: int) -> Tensor:
        """The blur of one axis as a matrix: each row holds the weights of the pixels that it mixes."""
        matrix = torch.zeros(size, size)
        for i in range(size):
            matrix[i].index_add_(0, (i + offsets).clamp(0, size - 1), kernel)
        return matrix

    rows, columns = (along(side) for side in images.shape[2:])
    return torch.cat([(rows @ x.float() @ columns.T).round().to(torch.uint8) for x in images.split(1000)])


def shuffled(images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
    """Each image with its pixels in an order of its own: the histogram is kept, everything else is lost."""
    n, c, h, w = images.shape
    order = torch.rand(n, 1, h * w, generator=generator).argsort(2).expand(n, c, h * w)
    return images.flatten(2).gather(2, order).view(n, c, h, w)


def noise(images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
    """As many images of uniform noise."""
    return torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=generator)


Change = Callable[[UInt8[Tensor, "n c h w"], torch.Generator], UInt8[Tensor, "n c h w"]]
CEILINGS: dict[str, Change] = {"blurred": lambda images, _: blurred(images), "shuffled": shuffled, "noise": noise}


def calibrate(
    features: str = "fashion_classifier", *, dataset: str = "fashion_mnist", sizes: Sequence[int] = SIZES,
    floor_sizes: Sequence[int] = FLOOR_SIZES, draws: int = 4, device: str = "cpu",
) -> pd.DataFrame:  # fmt: skip
    """Every metric on every pile, at every N and draw: one row each.

    real       n training images against the whole test split, the reference of every score in results
    halves     n images of a random half of the training split against n of the other: no shift, no fixed reference
    blurred, shuffled, noise    training images so changed, against the test split

    Draws of `real` are disjoint while draws * n training images exist. A draw of a ceiling is one pile of the largest
    size, of which smaller sizes are the beginning. What compares every pair of images is left out above 10,000 of
    them; class statistics are of the first 10,000 images, on FashionMNIST alone.
    Written to results/tables/calibration_<dataset>_<features>.csv, with a .json of where and how it was made. All
    features are kept in the cache, so that the same call goes on after a stop.
    Raises UserError for sizes that the dataset does not have.
    """
    get_dataset(dataset)
    train, test = (load_images(dataset, split)[0] for split in ("train", "test"))
    for name, n, most in (("sizes", max(sizes), len(train)), ("floor_sizes", max(floor_sizes), len(train) // 2)):
        if n > most:
            raise UserError(f"{name} up to {n}: {dataset} allows {most}, of {len(train)} training images")
    if min(*sizes, *floor_sizes) < 40 or draws < 2:
        raise UserError(f"sizes of {min(*sizes, *floor_sizes)}, draws = {draws}: 40 images and 2 draws or more")
    extractor = load_extractor(features, device)
    made = provenance(device)  # of the code that measures: files may change meanwhile
    moments = reference_moments(dataset, "test", test, extractor).to(device)
    target, pool = (reference_features(images, extractor).to(device) for images in (test, train))
    probabilities = _probabilities(train, dataset, device)
    rows: list[dict[str, Any]] = []

    def note(pile: str, n: int, draw: int, scores: dict[str, float]) -> None:
        rows.append({"pile": pile, "n": n, "draw": draw, **scores})

    for draw in range(draws):
        for n in floor_sizes:
            chosen = drawn(len(train), n, draw, "real")
            scores = compared(pool[chosen], target, moments)
            note("real", n, draw, scores | _classes(probabilities, chosen))
            order = torch.randperm(len(train), generator=random_generator(draw, "calibration/halves"))
            one, other = pool[order[:n]], pool[order[len(train) // 2 :][:n]]
            note("halves", n, draw, compared(one, other) | _classes(probabilities, order[:n]))
    for pile, change in CEILINGS.items():
        for draw in range(draws):
            chosen = drawn(len(train), max(sizes), draw, pile)
            images = change(train[chosen], random_generator(draw, f"calibration/{pile}"))
            found = reference_features(images, extractor).to(device)
            seen = _probabilities(images[:CLASSES], dataset, device)
            for n in sizes:
                note(pile, n, draw, compared(found[:n], target, moments) | _classes(seen, torch.arange(n)))
    table = pd.DataFrame(rows)
    folder = results_dir() / "tables"
    facts = {
        "dataset": dataset, "features": extractor.name, "features_hash": extractor.hash, "reference": "test",
        "reference_n": len(test), "test_hash": data_hash(test), "train_hash": data_hash(train), "draws": draws,
        "nearest": NEAREST, "classes": CLASSES, "blur_pixels": BLUR, **made,
    }  # fmt: skip
    stem = f"calibration_{dataset}_{features}"
    write_atomic(folder / f"{stem}.csv", table.to_csv(index=False, float_format="%.6g"))
    write_atomic(folder / f"{stem}.json", json.dumps(facts, indent=1) + "\n")
    return table


def make_reference(
    features: str, dataset: str, split: str, *, minutes: float | None = None, device: str = "cpu",
    folder: Path = SHIPPED,
) -> str:  # fmt: skip
    """Features of a split into the cache, until the minutes are over; once all are there, its moments where they ship.

    Returns one line: how far it is, or what was written. The same call goes on from there.
    """
    extractor, (images, _) = load_extractor(features, device), load_images(dataset, split)
    done, total = extract(images, extractor, minutes)
    if done < total:
        return f"features of {done:,} of {total:,} images are kept: the same command goes on"
    path = ship_moments(dataset, split, images, extractor, folder)
    return f"{path}: {path.stat().st_size / 1e6:.2f} MB"


def drawn(total: int, n: int, draw: int, pile: str) -> Int[Tensor, " n"]:
    """n of so many indices for a draw: its own part of one random order while there are parts left, else a new order.

    Draws that share images vary less than independent ones; with 60,000 images, 4 draws of up to 15,000 share none.
    """
    parts = total // n
    order = torch.randperm(total, generator=random_generator(draw // parts, f"calibration/{pile}/order"))
    return order[draw % parts * n :][:n]


def compared(
    found: Float[Tensor, "n d"], target: Float[Tensor, "m d"], moments: Moments | None = None
) -> dict[str, float]:
    """The distances of one pile of features from another; pairwise ones between equal numbers, NaN above `NEAREST`.

    moments: the target's, computed where not given.
    """
    scores = {"frechet": frechet_distance(Moments.of(found), moments or Moments.of(target))}
    if (n := min(len(found), len(target))) <= NEAREST and len(found) <= NEAREST:
        scores["kernel"] = kernel_distance(found[:n], target[:n])
        scores |= precision_recall(target[:n], found[:n])
    return scores


def _probabilities(images: UInt8[Tensor, "n c h w"], dataset: str, device: str) -> Tensor | None:
    """What the classifier says of each image, its features from the cache too; None but for what it was trained on."""
    if dataset != "fashion_mnist":
        return None
    return class_probabilities(reference_features(images, load_extractor("fashion_classifier", device)))


def _classes(probabilities: Tensor | None, chosen: Tensor) -> dict[str, float]:
    return {} if probabilities is None else class_statistics(probabilities[chosen[:CLASSES]])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per pile and N, and for each metric: mean over draws, half-width of the mean's interval, smallest
    difference of two single scores that is not noise.

    The interval is Student's. The difference is t sqrt(2) times the deviation of one draw, with Student's t for as many
    draws as there are: two scores at this N, of samples as varied as this pile, differ by less in 95 of 100 cases
    though nothing differs but the draw.
    """
    metrics = [c for c in table.columns if c not in ("pile", "n", "draw")]
    groups = table.groupby(["pile", "n"], sort=False)[metrics]
    mean, deviation, count = groups.mean(), groups.std(ddof=1), groups.count()
    quantile = count.clip(lower=2).map(functools.cache(student_quantile))  # of one draw the deviation is NaN itself
    error, least = deviation / count**0.5 * quantile, deviation * quantile * 2**0.5
    return pd.concat({"mean": mean, "error": error, "least_difference": least}, axis=1).swaplevel(axis=1)[metrics]


def extrapolate(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """The distance at infinite N, its standard error, and the slope: a least-squares line in 1/N.

    Chong and Forsyth 2020, equation 3: FID_N = FID_inf + slope / N to first order. Each value may come from a draw of
    its own. Weights N: the deviation of a distance falls about as 1/sqrt(N). The error is of independent values: where
    piles hold each other, as `calibrate`'s of real images do, it is about half of what it should be. Raises UserError
    for fewer than 3 values.
    """
    n, different = np.array(sizes, float), len(set(sizes))
    if different < 2 or len(n) < 3:
        raise UserError(f"{len(n)} values at {different} sizes: a line with an error needs 3 values at 2 or more")
    (slope, limit), covariance = np.polyfit(1 / n, values, 1, w=n**0.5, cov=True)  # it squares the weights
    return float(limit), float(covariance[1, 1] ** 0.5), float(slope)
