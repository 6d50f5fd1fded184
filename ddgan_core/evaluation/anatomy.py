"""What a run's samples are made of: fine stripes and where they come from, classes, what is covered.

One draw of samples serves all: `measure` writes three tables into results/tables, and what is there is not done again.

    textures_<dataset>.csv.xz  median power of stripes by pile, class, direction and period, over that of test images
    modes_<dataset>.csv.xz     share of each class, precision, recall, coverage: a row per pile and group of its images
    stripes_<dataset>.csv.xz   which change of its input moves the stripes of a DDGAN's last step
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.nn import functional as F

from ddgan_core import UserError
from ddgan_core.data import get_dataset, load_images, to_float
from ddgan_core.diffusion import random_generator
from ddgan_core.evaluation.reference import reference_features
from ddgan_core.evaluation.samples import load_model, resolve_sampler, sample
from ddgan_core.evaluation.textures import fine, median_ratio, periods, sameness, stripe_coefficients, stripe_power
from ddgan_core.metrics.distances import precision_recall
from ddgan_core.metrics.features import classify, load_extractor
from ddgan_core.metrics.intervals import mean_interval
from ddgan_core.networks import Generator
from ddgan_core.provenance import provenance
from ddgan_core.runs import Run, results_dir
from ddgan_core.shapes import Tensor, UInt8
from ddgan_core.tables import read_table, replace_rows

GROUPS = 8  # of images, for intervals of what has no other
LEAST = 30  # images of a class, below which its medians are left out
SEED = 0  # of the samples, and of the noise of a last step
DDIM_STEPS = 10  # a DDPM is looked at as its fast sampler leaves it
SMOOTH = 128  # real images that `last_step` starts from
RULER = ["n", "sample_seed", "features"]  # piles measured alike in these compare
ONE = "give those of one run a row, at one n, sample_seed and features"
REACH = ("precision", "recall", "coverage")  # scores of how far a pile reaches
DIRECTIONS = ("horizontal", "vertical")  # of the stripes: rows differ, or columns do


def table(kind: str, dataset: str, runs: Sequence[Run] | None = None) -> pd.DataFrame:
    """The table of that kind, "textures", "modes" or "stripes"; empty where nothing has been measured.

    runs: only these, as they are now configured, and real images; by default all, whatever their T, seed and tag.
    """
    known = read_table(_path(kind, dataset), ["run_id", "hash", *RULER])
    if runs is None or not len(known):
        return known
    wanted = known["hash"].isin({run.config.hash for run in runs})
    if not wanted.any():
        return known.iloc[:0]
    ruler = known[RULER].apply(tuple, axis=1)
    return known[wanted | ((known["run_id"] == "real") & ruler.isin(set(ruler[wanted])))]


def measure(
    runs: Sequence[Run], *, n: int = 2_000, features: str = "fashion_classifier", force: bool = False,
    device: torch.device | str = "cpu",
) -> list[str]:  # fmt: skip
    """Measure the runs, of one dataset, that are in no table yet, or all with `force`; returns their names.

    Each by n samples of one seed: a DDGAN as it was trained, a DDPM by ten steps of DDIM. They are compared with the
    first n test images, and so are, as a control, the first n training images; n is that of the test images where there
    are fewer. Runs without weights are left out.
    Raises UserError for runs of several datasets, for n below five images a group, and, before anything is
    written, for features that the images do not fit.
    """
    if n < 5 * GROUPS:
        raise UserError(f"n = {n}: {GROUPS} groups of images are compared, so {5 * GROUPS} or more are needed")
    if len({run.config.dataset for run in runs}) > 1:
        raise UserError("the runs are of several datasets: measure those of one at a time")
    done, made = list[str](), provenance(device)
    for run in (r for r in runs if r.weights):
        dataset = run.config.dataset
        real = load_images(dataset, "test")[0][:n]
        load_extractor(features).check(real)
        n = len(real)
        steps = {"sampler": "ddim", "steps": DDIM_STEPS} if run.config.method == "ddpm" else {}
        sampler, count = resolve_sampler(run, **steps)
        row = "ddpm" if run.config.method == "ddpm" else run.config.divergence
        key = {"run_id": run.config.run_id, "row": row, "hash": run.config.hash, "sampler": sampler, "steps": count}
        key |= {"n": n, "sample_seed": SEED, "features": features}
        known = table("modes", dataset)
        if (force and not done) or not _there(known, {"run_id": "real"} | _size(key)):
            train = load_images(dataset, "train")[0][:n]
            control = {"run_id": "real", "row": "real", "hash": "", "sampler": "", "steps": 0} | _size(key)
            _add("textures", dataset, control, textures(train, real, dataset), made)
            _add("modes", dataset, control, modes(train, real, dataset, features), made)
        if force or not _there(known, key):
            images = sample(run, n, seed=SEED, device=device, **steps)
            _add("textures", dataset, key, textures(images, real, dataset), made)
            if run.config.method == "ddgan":
                _add("stripes", dataset, key, last_step(run, load_images(dataset, "test")[0], device), made)
            _add("modes", dataset, key, modes(images, real, dataset, features), made)  # last: it tells what is done
            done.append(run.config.run_id)
    return done


def textures(images: UInt8[Tensor, "n c h w"], real: UInt8[Tensor, "n c h w"], dataset: str) -> list[dict[str, Any]]:
    """Median stripe power of a pile over that of real images, in all and by class as the classifier sees both."""
    classes, real_classes = _classes(images, dataset), _classes(real, dataset)
    power, real_power = stripe_power(images), stripe_power(real)
    side = min(real.shape[2:]) // 2
    small = fine(side)
    rows = []
    for kind in ["all", *(get_dataset(dataset).classes if classes is not None else ())]:
        one, other = power, real_power
        if kind != "all":
            label = get_dataset(dataset).classes.index(kind)
            one, other = power[classes == label], real_power[real_classes == label]
        if min(len(one), len(other)) < LEAST:
            continue
        # By period for all images; each class, and all of them, by their fine stripes together (period 0).
        fine_ones, fine_others = one[..., small].mean(2), other[..., small].mean(2)
        parts = [(0.0, *median_ratio(fine_ones, fine_others), fine_ones.mean(0) / fine_others.mean(0))]
        if kind == "all":
            ratios = median_ratio(one, other)
            of_means = one.mean(0) / other.mean(0)
            at = [(float(p), k) for k, p in enumerate(periods(side)) if k > 1]  # the first ones are the garment itself
            parts += [(p, *(r[:, k] for r in ratios), of_means[:, k]) for p, k in at]
        for period, ratio, low, high, of_means in parts:
            for i, direction in enumerate(DIRECTIONS):
                rows.append({
                    "classes": kind, "images": len(one), "stripes": direction, "period": period,
                    "ratio": float(ratio[i]), "low": float(low[i]), "high": float(high[i]),
                    "ratio_of_means": float(of_means[i]),
                })  # fmt: skip
    return rows


def modes(
    images: UInt8[Tensor, "n c h w"], real: UInt8[Tensor, "n c h w"], dataset: str, features: str
) -> list[dict[str, Any]]:
    """Group by group: the class shares of a pile, and its precision, recall and coverage against real images.

    Group g of the pile meets group g of the real images, so that two piles can be compared pair by pair.
    """
    extractor = load_extractor(features)
    found, target = extractor(images), reference_features(real, extractor)
    classes, names = _classes(images, dataset), get_dataset(dataset).classes
    rows = []
    for g in range(GROUPS):
        row: dict[str, Any] = {"group": g} | precision_recall(target[g::GROUPS], found[g::GROUPS])
        if classes is not None:
            counts = torch.bincount(classes[g::GROUPS], minlength=len(names)).double()
            row |= {f"share_{k}": share for k, share in enumerate((counts / counts.sum()).tolist())}
        rows.append(row)
    return rows


@torch.no_grad()
def last_step(run: Run, real: UInt8[Tensor, "n c h w"], device: torch.device | str = "cpu") -> list[dict[str, Any]]:
    """Where the fine stripes of G(x_1, z, 1) come from: their sameness after one change of what goes in.

    x_1 is diffused from real images without stripes of their own: the `SMOOTH` with the least fine power of those that
    are bright in the middle. Horizontal stripes made by the network's grid stay where they are when x_1 is moved
    by a row; stripes made from the noise in x_1 move with it, and are others when the noise is another.
    """
    model, schedule = load_model(run, device)
    if not isinstance(model, Generator):
        raise UserError(f"run {run.config.run_id} is a DDPM: the last step of a DDGAN is looked at")
    x_0 = to_float(smoothest(real, SMOOTH)).to(device)
    generator = random_generator(SEED, "anatomy/last_step")
    noise, other_noise = torch.randn(2, *x_0.shape, generator=generator).to(device)
    z, other_z = torch.randn(2, len(x_0), run.config.z_dim, generator=generator).to(device)
    kept = float(schedule.alpha_bar[1])
    t = torch.ones(len(x_0), dtype=torch.long, device=device)

    def made(noise: Tensor, z: Tensor, moved: int = 0) -> Tensor:
        x_1 = kept**0.5 * x_0 + (1 - kept) ** 0.5 * noise
        return model(x_1.roll(moved, 2), t, z).roll(-moved, 2)

    def bilinear(_: Any, given: tuple[Tensor]) -> tuple[Tensor]:
        small = given[0][..., ::2, ::2]  # what was grown: nearest neighbours only repeat it
        return (F.interpolate(small, scale_factor=2.0, mode="bilinear"),)

    as_it_is = made(noise, z)
    others = {"another z": made(noise, other_z), "another noise": made(other_noise, z), "the noise itself": noise}
    others |= {f"x_1 moved by {k}": made(noise, z, k) for k in (1, 2, 4)}
    hooks = [conv.register_forward_pre_hook(bilinear) for conv in model.grow]
    others["bilinear growth"] = made(noise, z)
    for hook in hooks:
        hook.remove()

    def stripes(images: Tensor) -> Tensor:
        found = stripe_coefficients(images.cpu())
        return found[:, :, fine(min(images.shape[2:]) // 2)]

    one, rows = stripes(as_it_is), []
    for change, images in others.items():
        other = stripes(images)
        for i, direction in enumerate(DIRECTIONS):
            if direction == "vertical" and change.startswith("x_1 moved"):
                continue  # by rows, of which stripes along a column know nothing
            value, low, high = sameness(one[:, i], other[:, i])
            power = other[:, i].abs().square().mean((1, 2)).median() / one[:, i].abs().square().mean((1, 2)).median()
            row = {"change": change, "stripes": direction, "sameness": value, "low": low, "high": high}
            rows.append(row | {"power": float("nan") if change == "the noise itself" else power.item()})
    return rows


def smoothest(images: UInt8[Tensor, "k c h w"], n: int) -> UInt8[Tensor, "_ c h w"]:
    """The n images with the least fine stripes, of either direction, among the half that is brightest in the middle."""
    height, width = images.shape[2:]
    middle = images[..., height // 4 : height - height // 4, width // 4 : width - width // 4].float().mean((1, 2, 3))
    bright = images[middle >= middle.median()]
    power = stripe_power(bright)[..., fine(min(height, width) // 2)].mean((1, 2))
    return bright[power.argsort()[:n]]


def shares(modes: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """The share of each class in each pile of a table of `measure`: columns row, class, value, low, high.

    The interval is 95 %, of the mean over groups of images (Student's); it covers draws of samples from one network.
    """
    names, lines = get_dataset(dataset).classes, []
    if not len(modes) or "share_0" not in modes:
        return pd.DataFrame()
    for row, groups in modes.groupby("row", sort=False):
        for k, name in enumerate(names):
            lines.append({"row": row, "class": name} | _around(groups[f"share_{k}"]))
    return pd.DataFrame(lines)


def reach(modes: pd.DataFrame) -> pd.DataFrame:
    """REACH of each pile of a table of `measure`, at its size of groups: columns row, score, value, low, high.

    Real images score below 1 too: the control's line, not 1, is what a perfect model would have.
    """
    if not len(modes):
        return pd.DataFrame()
    _refuse_several_rulers(modes)
    return pd.DataFrame([
        {"row": row, "score": score} | _around(groups[score])
        for row, groups in modes.groupby("row", sort=False) for score in REACH
    ])  # fmt: skip


def differences(modes: pd.DataFrame, row: str) -> pd.DataFrame:
    """A row's REACH less that of each other row, group by group: mean, its interval, and what the interval decides.

    All comparisons of one call share a level of 95 % (Bonferroni). One trained network stands for each row: the
    intervals cover draws of samples, and say nothing about another seed of training.
    """
    if len(modes) and modes.groupby("row")["run_id"].nunique().max() > 1:
        raise UserError(f"modes of several runs of a row: {ONE}")
    _refuse_several_rulers(modes)
    piles = {name: groups.set_index("group") for name, groups in modes.groupby("row", sort=False)} if len(modes) else {}
    others = [name for name in piles if name not in (row, "real")]
    if row not in piles or not others:
        return pd.DataFrame()
    level, lines = 1 - 0.05 / (len(others) * len(REACH)), []
    for other in others:
        for score in REACH:
            interval = _around(piles[row][score] - piles[other][score], level)
            decided = "higher" if interval["low"] > 0 else "lower" if interval["high"] < 0 else "not decided"
            lines.append({"against": other, "score": score} | interval | {"verdict": decided})
    return pd.DataFrame(lines).rename(columns={"value": "difference"})


def _around(values: pd.Series, confidence: float = 0.95) -> dict[str, float]:
    mean, half = mean_interval(values, confidence)
    return {"value": mean, "low": mean - half, "high": mean + half}


def _classes(images: Tensor, dataset: str) -> Tensor | None:
    """What the shipped classifier takes each image for; None for data that it does not know."""
    return classify(images).argmax(1) if dataset == "fashion_mnist" else None


def _size(key: dict[str, Any]) -> dict[str, Any]:
    return {name: key[name] for name in RULER}


def _path(kind: str, dataset: str) -> Path:
    get_dataset(dataset)
    return results_dir() / "tables" / f"{kind}_{dataset}.csv.xz"


def _refuse_several_rulers(modes: pd.DataFrame) -> None:
    several = [name for name in RULER if name in modes and modes[name].nunique() > 1]
    if several:
        raise UserError(f"modes of several {' and '.join(several)}: {ONE}")


def _there(known: pd.DataFrame, key: dict[str, Any]) -> bool:
    return bool(len(known)) and bool((known[list(key)] == pd.Series(key)).all(axis=1).any())


def _add(kind: str, dataset: str, key: dict[str, Any], rows: list[dict[str, Any]], made: dict[str, str]) -> None:
    """Put rows under a key into a table, in place of all that was known of the run: one n, seed and features each.

    made: provenance, no part of the key; rows of before it was noted are known without.
    """
    new = pd.DataFrame([key | row | made for row in rows])
    same = {"run_id": key["run_id"]} | (_size(key) if key["run_id"] == "real" else {})  # a control for each ruler
    replace_rows(_path(kind, dataset), same, new)
