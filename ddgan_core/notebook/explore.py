"""Trained models to play with: a chain, one x_t with many answers, two models on one noise, a test image edited.

Each picture is a function of plain arguments that returns a figure; `controls.play` puts controls around it.

All noise is counter-based (`sampling.SeededNoise`): x_T depends on the seed and the image's index alone, so every model
starts from the same one. A DDGAN takes the steps it was trained for; a DDPM is sampled by DDIM in at most `MOST_STEPS`.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from ddgan_core import UserError
from ddgan_core.data import at_hand, get_dataset, load_images, to_float, to_uint8
from ddgan_core.diffusion import Schedule, diffuse
from ddgan_core.evaluation.latent import split_of_variance, with_other_z
from ddgan_core.evaluation.samples import load_model
from ddgan_core.figures.grids import chain_strip, image_grid
from ddgan_core.figures.labels import label_of, training_label
from ddgan_core.networks import Generator, NoisePredictor
from ddgan_core.runs import Run
from ddgan_core.sampling import Draw, SeededNoise, Step, ddgan_step, ddim_step, reverse_chain
from ddgan_core.shapes import Float, Tensor, UInt8

if TYPE_CHECKING:
    from ipywidgets import Dropdown
    from matplotlib.figure import Figure

MOST_STEPS = 10  # of a DDPM, for time
MOST_ROWS = 5  # times t that a picture with a row for each of them shows


@dataclass(frozen=True)
class Model:
    """A network ready to sample: its step, the schedule that the step visits, and the shape of one image."""

    network: Generator | NoisePredictor
    schedule: Schedule
    step: Step
    shape: tuple[int, int, int]


@functools.lru_cache(maxsize=16)
def open_model(run: Run) -> Model:
    """The run's model, kept for the next picture of the same `Run`. Raises UserError if there are no weights."""
    network, schedule = load_model(run)
    shape = get_dataset(run.config.dataset).shape
    if isinstance(network, Generator):
        return Model(network, schedule, ddgan_step(network, schedule), shape)
    schedule = schedule.respaced(min(schedule.T, MOST_STEPS))
    return Model(network, schedule, ddim_step(network, schedule), shape)


def name_of(run: Run) -> str:
    """What a reader calls the run: its row and T, and whatever else tells it from others of its preset."""
    config = run.config
    if config.method == "ddpm":
        name = f"DDPM, {min(config.T, MOST_STEPS)} DDIM steps"
    else:
        name = f"{label_of(config.divergence)}, T = {config.T}"
    name += f", seed {config.seed}" if config.seed else ""
    return name + (f", {training_label(config.preset, config.tag)}" if config.tag else "")


def noise(seed: int, latent: int, count: int) -> Draw:
    """The noise of images 0 .. count - 1 of a seed, as in `evaluation.sample`; latent = 1, 2, ... draws only z anew."""
    draw = SeededNoise(seed, 0, count)
    return with_other_z(draw, latent) if latent else draw


@torch.no_grad()
def chain(run: Run, seed: int = 0, latent: int = 0, n: int = 4) -> list[Float[Tensor, "n c h w"]]:
    """[x_T, ..., x_0] of images 0 .. n - 1 of the seed, in [-1, 1]."""
    model = open_model(run)
    return list(reverse_chain(model.step, model.schedule.T, model.shape, noise(seed, latent, n)))


def show_chain(run: Run, seed: int = 0, latent: int = 0, n: int = 4) -> "Figure":
    """The chain, a row per image and a column per state from x_T to x_0."""
    return chain_strip(chain(run, seed, latent, n), title=name_of(run))


@torch.no_grad()
def answers(
    run: Run, seed: int = 0, latent: int = 0, draws: int = 11
) -> tuple[list[int], Float[Tensor, "rows columns c h w"]]:
    """The times shown, T first, and for each [x_t, G(x_t, z_1, t), G(x_t, z_2, t), ...].

    x_t is the state of the seed's first chain, which `latent` leaves alone; the same z serve at every t.
    Raises UserError for a DDPM, whose prediction is one image for each x_t.
    """
    model = open_model(run)
    if not isinstance(model.network, Generator):
        raise UserError(f"run {run.config.run_id} has no latent z: choose a DDGAN")
    T, states = model.schedule.T, chain(run, seed, 0, 1)
    z = noise(seed, latent, draws)("z/answers", (model.network.z_dim,))
    times, rows = times_shown(T), []
    for t in times:
        x_t = states[T - t]
        guesses = model.network(x_t.expand(draws, -1, -1, -1), model.schedule.time[t].expand(draws), z).float()
        rows.append(torch.cat([x_t, guesses]))
    return times, torch.stack(rows)


def show_answers(run: Run, seed: int = 0, latent: int = 0, draws: int = 11) -> "Figure":
    """A row per t: x_t, then what the generator answers to it for different z."""
    headings = ["$x_t$", *(f"z {k + 1}" for k in range(draws))]
    return _rows_of(run, *answers(run, seed, latent, draws), headings)


def latent_shares(run: Run, seed: int = 0, chains: int = 32, draws: int = 8) -> pd.DataFrame:
    """For each t, T first, the variance of x_0 hat over chains, split by the law of total variance, mean over pixels.

    Columns: "read from x_t" = Var E[x_0 hat | x_t], "drawn by z" = E Var[x_0 hat | x_t], and "share drawn by z" = the
    second over their sum. Raises UserError for a DDPM.
    """
    model = open_model(run)
    if not isinstance(model.network, Generator):
        raise UserError(f"run {run.config.run_id} has no latent z: choose a DDGAN")
    T, states = model.schedule.T, chain(run, seed, 0, chains)
    z = SeededNoise(seed, 0, draws * chains)("z/shares", (model.network.z_dim,))
    rows = []
    for t in range(T, 0, -1):
        with torch.no_grad():
            guesses = model.network(states[T - t].repeat_interleave(draws, 0), model.schedule.time[t].expand(len(z)), z)
        drawn, read = split_of_variance(guesses.view(chains, draws, -1))
        share = drawn / (read + drawn) if drawn else 0.0
        rows.append({"t": t, "read from x_t": read, "drawn by z": drawn, "share drawn by z": share})
    return pd.DataFrame(rows).set_index("t")


def show_pair(left: Run, right: Run, seed: int = 0, latent: int = 0, n: int = 8) -> "Figure":
    """x_T in the first row and, in the next two, what each of two models makes of it.

    Models with the same number of steps and size of z share all their noise. Raises UserError for two datasets.
    """
    a, b = (chain(run, seed, latent, n) for run in _alike(left, right))
    labels = ["$x_T$", name_of(left), name_of(right)]
    return image_grid(to_uint8(torch.cat([a[0], a[-1], b[-1]])), columns=n, labels=labels)


def same_noise_ratio(left: Run, right: Run, seed: int = 0, n: int = 32) -> float:
    """Mean squared distance of two models' images from the same noise, over that from different noise.

    1: the noise they share says nothing about the image. 0: it decides it. Over n images, so n (n - 1) unlike pairs.
    Raises UserError for two datasets, and for n below 2.
    """
    if n < 2:
        raise UserError(f"n = {n}: 2 images or more, so that there is another noise to compare with")
    a, b = (chain(run, seed, 0, n)[-1].flatten(1).double() for run in _alike(left, right))
    distances = torch.cdist(a, b).square()
    same = distances.diagonal().sum()
    return (same / n / ((distances.sum() - same) / (n * (n - 1)))).item()


def _alike(left: Run, right: Run) -> tuple[Run, Run]:
    if left.config.dataset != right.config.dataset:
        raise UserError(f"runs of {left.config.dataset} and of {right.config.dataset}: compare two of one dataset")
    return left, right


def guide_images(dataset: str) -> UInt8[Tensor, "n c h w"] | None:
    """The test split where it is at hand, else None: looking at a notebook downloads nothing."""
    return load_images(dataset, "test")[0] if at_hand(dataset, "test") else None


@torch.no_grad()
def edits(
    run: Run, guide: UInt8[Tensor, "c h w"], seed: int = 0, latent: int = 0, draws: int = 6
) -> tuple[list[int], Float[Tensor, "rows columns c h w"]]:
    """The times shown, T first, and for each [x_t, and `draws` ends x_0 of the chain from it] (Meng et al. 2021).

    x_t ~ q(x_t | guide), eq. (2), one for all draws of a row and one noise for all rows: they differ in z and in the
    noise of the posterior. DDIM is a function of x_t: a DDPM's draws are equal. Raises UserError for another shape.
    """
    model = open_model(run)
    if tuple(guide.shape) != model.shape:
        raise UserError(f"a guide of shape {tuple(guide.shape)}: run {run.config.run_id} takes {model.shape}")
    draw = noise(seed, latent, draws)
    eps = SeededNoise(seed, 0, 1)("guide", model.shape)
    times, rows = times_shown(model.schedule.T), []
    for t in times:
        x_t = diffuse(model.schedule, to_float(guide[None]), torch.tensor([t]), eps)
        x = x_t.expand(draws, -1, -1, -1)
        for i in range(t, 0, -1):
            x = model.step(x, i, draw)
        rows.append(torch.cat([x_t, x]))
    return times, torch.stack(rows)


def show_edits(run: Run, guide: UInt8[Tensor, "c h w"], seed: int = 0, latent: int = 0, draws: int = 6) -> "Figure":
    """The guide in the first column; beside it a row per t: the guide noised to x_t, and what is made of it."""
    times, rows = edits(run, guide, seed, latent, draws)
    rows = torch.cat([to_float(guide[None]).expand(len(times), 1, -1, -1, -1), rows], 1)
    return _rows_of(run, times, rows, ["given", "$x_t$", *(f"made {k + 1}" for k in range(draws))])


def times_shown(T: int) -> list[int]:
    """T first, 1 last; all of them, or `MOST_ROWS` evenly spread."""
    return sorted(set(np.linspace(1, T, min(T, MOST_ROWS)).round().astype(int).tolist()), reverse=True)


def _rows_of(
    run: Run, times: Sequence[int], rows: Float[Tensor, "rows columns c h w"], headings: Sequence[str]
) -> "Figure":
    labels = [f"t = {int(open_model(run).schedule.time[t])}" for t in times]
    images = to_uint8(rows.flatten(0, 1))
    return image_grid(images, columns=rows.shape[1], labels=labels, headings=headings, title=name_of(run))


def menu(runs: Sequence[Run], chosen: Run | None = None, description: str = "model") -> "Dropdown":
    """A control that chooses a run, by default the first."""
    from ipywidgets import Dropdown, Layout

    options = [(name_of(run), run) for run in runs]
    return Dropdown(options=options, value=chosen or runs[0], description=description, layout=Layout(width="28em"))
