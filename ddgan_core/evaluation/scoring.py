"""Images of a run, a baseline or from elsewhere, to rows that say all that is needed to compare them honestly.

The rows are kept by `scores`: what is there already is read, not computed again.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ddgan_core import UserError
from ddgan_core.data import data_hash, get_dataset, load_images, read_images
from ddgan_core.diffusion import random_generator
from ddgan_core.evaluation.reference import reference_features, reference_moments
from ddgan_core.evaluation.samples import resolve_sampler, sample_pile
from ddgan_core.evaluation.scores import PROTOCOLS, add_evaluation, read_evaluations, same_key
from ddgan_core.metrics.distances import (
    Moments,
    class_statistics,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from ddgan_core.metrics.features import INCEPTION_HASH, class_probabilities, classify, load_extractor
from ddgan_core.metrics.intervals import GROUPS, class_errors, frechet_interval, kernel_interval, neighbour_intervals
from ddgan_core.provenance import provenance
from ddgan_core.runs import Run, RunConfig, results_dir
from ddgan_core.shapes import Tensor

NEAREST = 10_000  # images, at most, in what compares every pair of them
LEAST_NEIGHBOURS = 4  # images, at least, where the third neighbour counts


def evaluate(
    run: Run, *, sampler: str | None = None, steps: int | None = None, n: int = 10_000,
    features: str | Sequence[str] = "fashion_classifier", reference: str = "test", seed: int = 0,
    device: torch.device | str = "cpu", force: bool = False, deadline: float | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Sample n images and score them against a split of the run's dataset: one row per feature network.

    Rows are added to the run's evaluations.csv; what is there already is read, not computed, unless `force` is set.
    features: one name of features.EXTRACTORS or several, which then share the samples. Frechet distances compare only
    at one n, reference and feature network.
    deadline: of time.monotonic(); raises piles.TimeIsUp rather than draw a second batch past it; the next call goes on.
    """
    sampler, steps = resolve_sampler(run, sampler, steps)
    config, path = run.config, run.path / "evaluations.csv"
    whose = {
        "dataset": config.dataset, "run_id": config.run_id, "method": config.method, "divergence": config.divergence,
        "T": config.T, "seed": config.seed, "preset": config.preset, "tag": config.tag,
        "sampler": sampler, "steps": steps, "protocol": _protocol(config, sampler, steps),
    }  # fmt: skip

    @functools.cache
    def draw() -> tuple[Tensor, float]:
        return sample_pile(run, sampler, steps, n, seed, device, deadline)

    names = [features] if isinstance(features, str) else list(features)
    row = whose | {"weights": "ema", "sample_seed": seed, "n": n, "reference": reference}
    check_features([name for name in names if force or not len(_there(path, row, name))], config.dataset, device)
    rows = [_row(path, row, name, draw, device, force) for name in names]
    return pd.concat(rows, ignore_index=True)


def check_features(names: Sequence[str], dataset: str, device: torch.device | str = "cpu") -> None:
    """Raises UserError if one of these extractors is missing or does not take the dataset's images.

    Before the first of them is scored, so that a mistake leaves no row of the others.
    """
    one = torch.zeros(1, *get_dataset(dataset).shape, dtype=torch.uint8)
    for name in names:
        load_extractor(name, device).check(one)


def _protocol(config: RunConfig, sampler: str, steps: int) -> str:
    """The column of that name in a row of scores."""
    protocol = PROTOCOLS.get(sampler, "respaced")
    return "as_trained" if steps == config.T and protocol != "control" else protocol


def evaluate_baseline(
    kind: str, dataset: str, *, features: str = "fashion_classifier", n: int = 10_000, reference: str = "test",
    seed: int = 0, device: torch.device | str = "cpu", force: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """The floor or the ceiling of a plot, scored like a run's images, as a row of results/baselines/<dataset>.csv.

    kind: "real", n images of the other split drawn without replacement, or "noise", uniform pixels.
    """
    known = get_dataset(dataset)
    if kind not in ("real", "noise"):
        raise UserError(f"baseline {kind!r} is not known: choose real or noise")
    generator = random_generator(seed, f"baseline/{kind}")

    def draw() -> tuple[Tensor, float]:
        if kind == "noise":
            return torch.randint(0, 256, (n, *known.shape), dtype=torch.uint8, generator=generator), float("nan")
        images, _ = load_images(dataset, "train" if reference == "test" else "test")
        if n > len(images):
            raise UserError(f"n = {n}: the split compared with {reference} holds {len(images)} images of {dataset}")
        return images[torch.randperm(len(images), generator=generator)[:n]], float("nan")

    row = {"dataset": dataset, "run_id": kind, "sampler": kind, "T": 0, "seed": 0, "steps": 0}
    row |= {"protocol": "", "weights": "", "sample_seed": seed, "n": n, "reference": reference}
    path = results_dir() / "baselines" / f"{dataset}.csv"
    return _row(path, row, features, draw, device, force)


def evaluate_images(
    source: Path | str, dataset: str, *, features: str = "fashion_classifier", n: int | None = None,
    reference: str = "test", device: torch.device | str = "cpu", force: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Score a folder of PNGs or a .npy of uint8 images from elsewhere, as a row of results/images/<dataset>.csv.

    n: the first so many, by default all. The row is known by the hash of the pixels, not by where they lie.
    """
    get_dataset(dataset)
    images = read_images(source)
    n = len(images) if n is None else n
    if n > len(images):
        raise UserError(f"n = {n}: {source} holds {len(images)} images")
    images = images[:n]
    _check_same_kind(images, load_images(dataset, reference)[0])  # before features of the reference are computed
    row = {"dataset": dataset, "run_id": Path(source).stem, "sampler": f"images-{data_hash(images)}", "T": 0, "seed": 0}
    row |= {"steps": 0, "protocol": "", "weights": "", "sample_seed": 0, "n": n, "reference": reference}
    path = results_dir() / "images" / f"{dataset}.csv"
    return _row(path, row, features, lambda: (images, float("nan")), device, force)


def _row(
    path: Path, row: dict[str, Any], features: str, draw: Callable[[], tuple[Tensor, float]],
    device: torch.device | str, force: bool,
) -> pd.DataFrame:  # fmt: skip
    """The table's row with this row's key; computed from the images of `draw()` and added if it is not there."""
    if row["n"] < 2:
        raise UserError(f"n = {row['n']}: a covariance needs 2 images or more")
    if not force and len(known := _there(path, row, features)):
        return known
    extractor = load_extractor(features, device)
    target, _ = load_images(row["dataset"], row["reference"])
    row = row | {"features": features, "features_hash": extractor.hash, "reference_n": len(target)}
    row |= provenance(device)  # of the code that draws: files may change meanwhile
    # First, for it refuses features that the images do not fit, and statistics of others; drawing may take hours.
    moments = reference_moments(row["dataset"], row["reference"], target, extractor)
    images, seconds = draw()
    _check_same_kind(images, target)
    found, moments = extractor(images), moments.to(device)
    there = found.to(device)
    errors: dict[str, float] = {}
    enough = row["n"] >= 2 * GROUPS
    if enough:
        row["frechet"], errors["frechet"] = frechet_interval(there, moments)
    else:
        row["frechet"] = frechet_distance(Moments.of(there), moments)
    nearest = min(row["n"], len(target), NEAREST)
    if nearest >= LEAST_NEIGHBOURS:
        spread = torch.arange(nearest) * row["n"] // nearest  # over all images: a folder's may lie in order of classes
        real, fake = reference_features(target[:nearest], extractor).to(device), there[spread.to(device)]
        if nearest >= 2 * GROUPS:
            pairs = {"kernel": kernel_interval(fake, real)} | neighbour_intervals(fake, real)
            row |= {name: value for name, (value, _) in pairs.items()}
            errors |= {name: half for name, (_, half) in pairs.items()}
        else:
            row |= {"kernel": kernel_distance(fake, real)} | precision_recall(real, fake)
    if row["dataset"] == "fashion_mnist":
        own = extractor.name == "fashion_classifier"  # whose features are there already
        probabilities = class_probabilities(found) if own else classify(images, device)
        row |= class_statistics(probabilities)
        errors |= class_errors(probabilities) if enough else {}
    row |= {f"{name}_error": value for name, value in errors.items()}
    return add_evaluation(path, row | {"seconds_per_image": seconds})


def _there(path: Path, row: dict[str, Any], features: str) -> pd.DataFrame:
    """The table's row with this row's key, told without images and without Inception's file, whose hash is known."""
    known, table = INCEPTION_HASH if features == "inception" else load_extractor(features).hash, read_evaluations(path)
    row = row | {"features": features, "features_hash": known, "reference_n": table["reference_n"]}
    return table[same_key(table, row)].reset_index(drop=True)


def _check_same_kind(images: Tensor, target: Tensor) -> None:
    if images.shape[1:] != target.shape[1:]:
        (c, h, w), (k, y, x) = images.shape[1:], target.shape[1:]
        raise UserError(
            f"images of {c} channels, {h}x{w}, against a reference of {k} channels, {y}x{x}: make them alike"
        )
