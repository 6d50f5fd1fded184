"""How much of an image is decided at each denoising step: what noise leaves open of x_0, by a trained DDPM.

A step from x_t to x_{t-1} has to decide what x_t leaves open of the image and x_{t-1} does not. Two measures of it: the
Bayes error e(t) = E|x_0 - E[x_0 | x_t]|^2 / d, of which the step takes e(t) - e(t - 1), and the information
I(x_0; x_t), of which it adds I(x_0; x_{t-1}) - I(x_0; x_t). Both follow from e as a function of the signal-to-noise
ratio snr = alpha_bar / (1 - alpha_bar) alone, since dI / d snr = d e / 2 (Guo, Shamai and Verdu 2005, theorem 2).

The network is no exact posterior mean, so that e is from above; where its answer is worse than knowing nothing of x_t,
the variance about the data's mean image stands in.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ddgan_core import UserError
from ddgan_core.data import load_images, to_float
from ddgan_core.diffusion import Schedule, diffuse, random_generator
from ddgan_core.evaluation.samples import load_model
from ddgan_core.networks import NoisePredictor
from ddgan_core.provenance import provenance
from ddgan_core.runs import Run, results_dir, write_atomic
from ddgan_core.shapes import Float, Tensor

LEVELS = 40  # noise levels, evenly spread over the schedule's log snr
BATCH = 250
IMAGES = 500  # unless told otherwise
SEED = 0  # of the noise


@torch.no_grad()
def bayes_errors(
    network: NoisePredictor, schedule: Schedule, images: Float[Tensor, "n c h w"], times: list[int]
) -> list[float]:
    """e(t) of images in [-1, 1], per pixel, from above: by x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)."""
    prior = float((images - images.mean(0)).square().mean())
    errors = []
    for t in times:
        total, generator = 0.0, random_generator(SEED, "information", t)
        for x_0 in images.split(BATCH):
            at = torch.full((len(x_0),), t, device=images.device)
            noise = torch.randn(x_0.shape, generator=generator).to(images.device)  # the same noise on every device
            x_t = diffuse(schedule, x_0, at, noise)
            alpha_bar = float(schedule.alpha_bar[t])
            eps = network(x_t, schedule.time[at]).float()
            guess = ((x_t - math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha_bar)).clamp(-1, 1)
            total += float((x_0 - guess).square().mean()) * len(x_0)
        errors.append(min(total / len(images), prior))
    return errors


def path_of(dataset: str) -> Path:
    """The file that `measure` writes."""
    return results_dir() / "tables" / f"information_{dataset}.csv"


def measure(run: Run, *, n: int | None = None, device: torch.device | str = "cpu") -> Path:
    """Write `path_of` the run's dataset: alpha_bar, snr, error and nats, from most noise to least, and by what.

    By the first n test images, which the network has not seen: by default `IMAGES`, or all where there are fewer.
    nats: I(x_0; x_t) of a whole image. Raises UserError for a DDGAN, and for an n that the split does not have.
    """
    network, schedule = load_model(run, device)
    if not isinstance(network, NoisePredictor):
        raise UserError(f"run {run.config.run_id}: what noise leaves open is measured by a DDPM; give one")
    there = load_images(run.config.dataset, "test")[0]
    n = min(IMAGES, len(there)) if n is None else n
    if not 2 <= n <= len(there):
        raise UserError(f"n = {n}: choose 2 to {len(there)} images, all of {run.config.dataset}'s test split")
    images, made = to_float(there[:n]).to(device), provenance(device)
    log_snr = schedule.alpha_bar[1:].logit()
    wanted = torch.linspace(float(log_snr[-1]), float(log_snr[0]), LEVELS, dtype=torch.float64)
    times = sorted({int((log_snr - w).abs().argmin()) + 1 for w in wanted}, reverse=True)
    table = pd.DataFrame({"alpha_bar": schedule.alpha_bar[times].tolist()})
    table["snr"] = table["alpha_bar"] / (1 - table["alpha_bar"])
    table["error"] = np.minimum.accumulate(bayes_errors(network, schedule, images, times))  # less noise, no worse
    table["nats"] = images[0].numel() * integrate_error(table["snr"], table["error"])
    facts = {"run_id": run.config.run_id, "hash": run.config.hash, "n": len(images), "sample_seed": SEED} | made
    path = path_of(run.config.dataset)
    write_atomic(path, table.assign(**facts).to_csv(index=False, float_format="%.6g"))
    return path


def integrate_error(snr: pd.Series, error: pd.Series) -> np.ndarray:
    """I(x_0; x) in nats per pixel at each snr, in rising order: half the integral of e, by trapezoids in log snr.

    Below the least snr e is taken to be constant.
    """
    height = (snr * error).to_numpy()
    steps = np.diff(np.log(snr)) * (height[1:] + height[:-1]) / 2
    return (height[0] + np.concatenate([[0.0], np.cumsum(steps)])) / 2


def error_at(table: pd.DataFrame, schedule: Schedule) -> np.ndarray:
    """e(t) at t = 1 .. T of a schedule, between the measured levels linear in log snr, beyond them constant."""
    return np.interp(schedule.alpha_bar[1:].logit().numpy(), np.log(table["snr"]), table["error"])


def decided(table: pd.DataFrame, schedule: Schedule) -> pd.DataFrame:
    """What each step t = T .. 1 of a schedule decides: t, alpha_bar, share and nats.

    share: (e(t) - e(t - 1)) / e at no signal, e(0) = 0, so that the shares of a chain from pure noise add up to 1.
    nats: I(x_0; x_{t-1}) - I(x_0; x_t); NaN for the last step, which has no end where pixels are continuous.
    """
    error = error_at(table, schedule)
    nats = np.interp(schedule.alpha_bar[1:].logit().numpy(), np.log(table["snr"]), table["nats"], left=0.0)
    rows = []
    for t in range(schedule.T, 0, -1):
        below = error[t - 2] if t > 1 else 0.0
        rows.append({
            "t": t, "alpha_bar": float(schedule.alpha_bar[t]),
            "share": (error[t - 1] - below) / float(table["error"].iloc[0]),
            "nats": nats[t - 2] - nats[t - 1] if t > 1 else math.nan,
        })  # fmt: skip
    return pd.DataFrame(rows)
