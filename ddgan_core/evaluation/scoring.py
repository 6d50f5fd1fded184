"""A run, or a baseline, to rows of numbers that say everything needed to compare them honestly.

The rows are kept by `scores`: what is there already is read, not computed again.
"""

import functools
import hashlib
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ddgan_core import UserError
from ddgan_core.checkpoints import run_weights
from ddgan_core.data import data_hash, get_dataset, load_images, read_images, to_uint8
from ddgan_core.diffusion import Schedule, make_schedule, random_generator
from ddgan_core.evaluation.piles import draw_pile
from ddgan_core.evaluation.reference import reference_features, reference_moments
from ddgan_core.evaluation.scores import PROTOCOLS, add_evaluation, read_evaluations, same_key
from ddgan_core.metrics.distances import (
    Moments,
    class_statistics,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from ddgan_core.metrics.features import class_probabilities, classify, load_extractor
from ddgan_core.metrics.intervals import GROUPS, class_errors, frechet_interval, kernel_errors, neighbour_errors
from ddgan_core.networks import Generator, NoisePredictor, make_model
from ddgan_core.progress import watched
from ddgan_core.runs import Run, RunConfig, results_dir
from ddgan_core.sampling import DDPM_STEPS, SeededNoise, Step, ancestral_step, ddgan_step, reverse_chain, sample_images
from ddgan_core.shapes import Float, Tensor, UInt8

NEAREST = 10_000  # images, at most, in what compares every pair of them
LEAST_NEIGHBOURS = 4  # images, at least, where the third neighbour counts


def load_model(run: Run, device: torch.device | str = "cpu") -> tuple[Generator | NoisePredictor, Schedule]:
    """The run's EMA network in evaluation mode, and its schedule. Raises UserError if there are no whole weights."""
    config, weights = run.config, run_weights(run)
    channels = get_dataset(config.dataset).channels
    network = make_model(config.method, channels, config.widths, config.z_dim, config.attention)
    if {k: v.shape for k, v in network.state_dict().items()} != {k: v.shape for k, v in weights.items()}:
        raise UserError(f"{run.weights} does not hold the tensors of {config.run_id}'s network: train it again")
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False).to(device), make_schedule(config.schedule, config.T).to(device)


def resolve_sampler(run: Run, sampler: str | None = None, steps: int | None = None) -> tuple[str, int]:
    """The sampler and its steps, by default those the run was trained for. Raises UserError when they do not fit it."""
    config = run.config
    allowed = ["ddgan", "truncated"] if config.method == "ddgan" else [*DDPM_STEPS, "shortened", "retimed"]
    sampler, steps = sampler or allowed[0], config.T if steps is None else steps
    if sampler not in allowed:
        raise UserError(f"sampler {sampler!r} for run {config.run_id}: choose {' or '.join(allowed)}")
    if sampler == "ddgan" and steps != config.T:
        raise UserError(
            f"steps = {steps} for run {config.run_id}: a DDGAN takes the {config.T} it was trained for; to leave out "
            "the first of them, as the source paper does, choose sampler truncated"
        )
    if not 1 <= steps <= config.T:
        raise UserError(f"steps = {steps} for run {config.run_id}: choose 1 to {config.T}")
    return sampler, steps


def _chain_step(run: Run, sampler: str, steps: int, device: torch.device | str) -> tuple[Step, tuple[int, int, int]]:
    """The sampler's step, and the shape of one image."""
    network, schedule = load_model(run, device)
    dataset = get_dataset(run.config.dataset)
    shape = (dataset.channels, dataset.size, dataset.size)
    if isinstance(network, Generator):
        return ddgan_step(network, schedule), shape  # truncated: the chain is begun at a smaller t
    if sampler in ("shortened", "retimed"):
        table = make_schedule(run.config.schedule, steps).to(device)
        if sampler == "retimed":
            table = replace(table, time=_times_of_equal_noise(table, schedule))
        return ancestral_step(network, table), shape
    # Re-spaced to all T steps, a schedule is itself.
    return DDPM_STEPS[sampler](network, schedule.respaced(steps)), shape


def _protocol(config: RunConfig, sampler: str, steps: int) -> str:
    """The column of that name in a row of scores."""
    if steps == config.T:
        return "as_trained"
    return PROTOCOLS.get(sampler, "respaced")


def _times_of_equal_noise(table: Schedule, learned: Schedule) -> Tensor:
    """For each step of a table, the learned schedule's time of the nearest signal-to-noise ratio, in logarithms."""
    wanted, known = (s.alpha_bar[1:].logit() for s in (table, learned))
    nearest = (wanted[:, None] - known).abs().argmin(1)
    return torch.cat([learned.time[:1], learned.time[1:][nearest]])


def sample(
    run: Run, n: int, *, sampler: str | None = None, steps: int | None = None, seed: int = 0, start: int = 0,
    batch_size: int = 250, device: torch.device | str = "cpu",
) -> UInt8[Tensor, "n c h w"]:  # fmt: skip
    """Images `start` .. `start + n - 1` of a seed, on the CPU; image i is the same in any call.

    sampler: "ddgan" for a DDGAN; "ancestral" (the default) or "ddim" for a DDPM, re-spaced to `steps`; or one of
    scores.PROTOCOLS.
    Raises UserError for a sampler or a number of steps that does not fit the run, and when it has no weights.
    """
    for name, value, least in (("n", n, 1), ("start", start, 0), ("batch_size", batch_size, 1)):
        if value < least:
            raise UserError(f"{name} = {value}: {least} or more")
    sampler, steps = resolve_sampler(run, sampler, steps)
    step, shape = _chain_step(run, sampler, steps, device)
    batches = sample_images(step, steps, shape, n, seed, device, batch_size, start)
    return torch.cat([to_uint8(x).cpu() for x in watched(batches, f"{run.config.run_id} samples", -(-n // batch_size))])


def _draw_pile(
    run: Run, sampler: str, steps: int, n: int, seed: int, batch_size: int, device: torch.device | str,
    deadline: float | None,
) -> tuple[UInt8[Tensor, "n c h w"], float]:  # fmt: skip
    """What `sample` gives, and the seconds an image took; a drawing that takes long goes on where it stopped."""
    step, shape = _chain_step(run, sampler, steps, device)
    facts = {"weights": hashlib.sha256(run.weights.read_bytes()).hexdigest() if run.weights else ""}
    facts |= {"sampler": sampler, "steps": str(steps), "seed": str(seed), "batch_size": str(batch_size)}
    facts |= {"device": device_name(device), "torch": torch.__version__}

    def draw(start: int, count: int) -> Tensor:
        (images,) = sample_images(step, steps, shape, count, seed, device, batch_size, start)
        return to_uint8(images).cpu()

    return draw_pile(facts, n, batch_size, draw, deadline)


@torch.no_grad()
def sample_chain(
    run: Run, n: int, *, sampler: str | None = None, steps: int | None = None, seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[Float[Tensor, "n c h w"]]:  # fmt: skip
    """The whole chains [x_T, ..., x_0] of images 0 .. n - 1, unquantised: the last agrees with `sample`."""
    sampler, steps = resolve_sampler(run, sampler, steps)
    step, shape = _chain_step(run, sampler, steps, device)
    return [x.cpu() for x in reverse_chain(step, steps, shape, SeededNoise(seed, 0, n, device))]


def evaluate(
    run: Run, *, sampler: str | None = None, steps: int | None = None, n: int = 10_000,
    features: str | Sequence[str] = "fashion_classifier", reference: str = "test", reference_n: int | None = None,
    seed: int = 0, batch_size: int = 250, device: torch.device | str = "cpu", force: bool = False,
    deadline: float | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Sample n images and score them against a split of the run's dataset: one row per feature network.

    Rows are added to the run's evaluations.csv; what is there already is read, not computed, unless `force` is set.
    features: one name of features.EXTRACTORS or several, which then share the samples. reference_n: the first so many
    images of the split, by default all. Frechet distances compare only at one n, reference and feature network.
    deadline: of time.monotonic(); raises piles.TimeIsUp rather than draw past it, and the next call goes on.
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
        return _draw_pile(run, sampler, steps, n, seed, batch_size, device, deadline)

    names = [features] if isinstance(features, str) else list(features)
    how = {"weights": "ema", "sample_seed": seed, "n": n, "reference": reference}
    rows = [_row(path, whose | how, name, reference_n, draw, device, force) for name in names]
    return pd.concat(rows, ignore_index=True)


def evaluate_baseline(
    kind: str, dataset: str, *, features: str = "fashion_classifier", n: int = 10_000, reference: str = "test",
    reference_n: int | None = None, seed: int = 0, device: torch.device | str = "cpu", force: bool = False,
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
            shape = (n, known.channels, known.size, known.size)
            return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator), float("nan")
        images, _ = load_images(dataset, "train" if reference == "test" else "test")
        if n > len(images):
            raise UserError(f"n = {n}: the split compared with {reference} holds {len(images)} images of {dataset}")
        return images[torch.randperm(len(images), generator=generator)[:n]], float("nan")

    row = {"dataset": dataset, "run_id": kind, "sampler": kind, "T": 0, "seed": 0, "steps": 0}
    row |= {"protocol": "", "weights": "", "sample_seed": seed, "n": n, "reference": reference}
    path = results_dir() / "baselines" / f"{dataset}.csv"
    return _row(path, row, features, reference_n, draw, device, force)


def evaluate_images(
    source: Path | str, dataset: str, *, features: str = "fashion_classifier", n: int | None = None,
    reference: str = "test", reference_n: int | None = None, device: torch.device | str = "cpu", force: bool = False,
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
    row = {"dataset": dataset, "run_id": Path(source).stem, "sampler": f"images-{data_hash(images)}", "T": 0, "seed": 0}
    row |= {"steps": 0, "protocol": "", "weights": "", "sample_seed": 0, "n": n, "reference": reference}
    path = results_dir() / "images" / f"{dataset}.csv"
    return _row(path, row, features, reference_n, lambda: (images, float("nan")), device, force)


def _row(
    path: Path, row: dict[str, Any], features: str, reference_n: int | None, draw: Callable[[], tuple[Tensor, float]],
    device: torch.device | str, force: bool,
) -> pd.DataFrame:  # fmt: skip
    """The table's row with this row's key; computed from the images of `draw()` and added if it is not there."""
    if row["n"] < 2:
        raise UserError(f"n = {row['n']}: a covariance needs 2 images or more")
    extractor = load_extractor(features, device)
    target, reference_n = _reference_images(row["dataset"], row["reference"], reference_n)
    row = row | {"features": features, "features_hash": extractor.hash, "reference_n": reference_n}
    there = read_evaluations(path)
    there = there[same_key(there, row)]
    if len(there) and not force:
        return there.reset_index(drop=True)
    row |= {"torch": torch.__version__, "commit": code_version()}  # of the code that draws: files may change meanwhile
    # First, for it refuses features that the images do not fit, and statistics of others; drawing may take hours.
    moments = reference_moments(row["dataset"], row["reference"], target, extractor)
    images, seconds = draw()
    _check_same_kind(images, target)
    found = extractor(images)
    errors: dict[str, float] = {}
    enough = row["n"] >= 2 * GROUPS
    if enough:
        row["frechet"], errors["frechet"] = frechet_interval(found, moments)
    else:
        row["frechet"] = frechet_distance(Moments.of(found), moments)
    nearest = min(row["n"], reference_n, NEAREST)
    if nearest >= LEAST_NEIGHBOURS:
        real, fake = reference_features(target[:nearest], extractor), found[:nearest]
        row["kernel"] = kernel_distance(fake, real)
        row |= precision_recall(real, fake)
        if nearest >= 2 * GROUPS:
            errors |= kernel_errors(fake, real) | neighbour_errors(fake, real)
    if row["dataset"] == "fashion_mnist":
        own = extractor.name == "fashion_classifier"  # whose features are there already
        probabilities = class_probabilities(found) if own else classify(images, device)
        row |= class_statistics(probabilities)
        errors |= class_errors(probabilities) if enough else {}
    row |= {f"{name}_error": value for name, value in errors.items()}
    row |= {"seconds_per_image": seconds, "device": device_name(device)}
    return add_evaluation(path, row)


def _check_same_kind(images: Tensor, target: Tensor) -> None:
    if images.shape[1:] != target.shape[1:]:
        (c, h, w), (k, y, x) = images.shape[1:], target.shape[1:]
        raise UserError(
            f"images of {c} channels, {h}x{w}, against a reference of {k} channels, {y}x{x}: make them alike"
        )


def _reference_images(dataset: str, split: str, n: int | None) -> tuple[UInt8[Tensor, "n c h w"], int]:
    images, _ = load_images(dataset, split)
    n = len(images) if n is None else n
    if not 2 <= n <= len(images):
        raise UserError(f"reference_n = {n}: choose 2 to {len(images)} images, all of {dataset}'s {split} split")
    return images[:n], n


def device_name(device: torch.device | str) -> str:
    """The device as a table should name it: CPU results depend on the number of threads."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


@functools.cache
def code_version() -> str:
    """The commit of the package, with + where its files differ from it; "unknown" outside a git checkout.

    As it was when this process asked first: what takes long asks before it begins.
    """
    package = Path(__file__).parent.parent
    git = ("git", "-C", str(package))
    try:
        commit, changed = (
            subprocess.run([*git, *ask], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for ask in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--", "."))
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+" if changed else "")
