"""By whose loss does a critic learn the log ratio from the fewest images? Critics of several rows, one generator.

In a GAN what a critic knows and what the generator makes of it move together. Here the generator is a finished run's
and stands still. Critics with new weights learn to tell its x_{t-1} from real ones, by the updates and rates of a
training, and are asked about images that they have not seen. R1 is as hard on all of them as on the run's own, where a
critic sees nothing (`objectives.blind_curvature`). Rates are those of a logit: under Adam a log ratio that is twice its
logit, as squared Hellinger's, begins and steps twice as far as JS's and reverse KL's, which are their logits.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.nn.functional import cosine_similarity, softplus

from ddgan_core import UserError
from ddgan_core.data import load_images, to_float
from ddgan_core.diffusion import Schedule, diffuse_pair, random_generator, sample_posterior
from ddgan_core.divergences import Divergence, get_divergence
from ddgan_core.evaluation.samples import load_model
from ddgan_core.networks import STD_GROUP, Discriminator, Generator
from ddgan_core.objectives import blind_curvature, log_ratio_line, make_row
from ddgan_core.progress import watched
from ddgan_core.provenance import provenance
from ddgan_core.runs import Run, results_dir
from ddgan_core.shapes import Float, Tensor, UInt8
from ddgan_core.tables import read_table, replace_rows
from ddgan_core.training import Trainer

ROWS = ("non_saturating_js", "squared_hellinger", "reverse_kl")
RECORDS = 5  # each after twice the updates of the one before
BATCH = 64 * STD_GROUP
SEED = 0  # of the noise and latents of the images asked about


class CriticTrainer(Trainer):
    """A critic's training against a generator that stands still."""

    def __init__(self, run: Run, images: UInt8[Tensor, "n c h w"], device: torch.device | str, **changed: Any) -> None:
        super().__init__(run.config.changed(precision="fp32", **changed), images, device, graphs=False)
        self.model, _ = load_model(run, device)

    def _players(self, penalise: bool) -> None:
        with torch.no_grad():
            pairs = self._pairs("critic/0")
        self._update_critic(0, pairs, penalise)


def path_of(dataset: str) -> Path:
    """The file that `measure` writes."""
    return results_dir() / "tables" / f"critics_{dataset}.csv"


def measure(
    run: Run, *, updates: int = 1_600, batch_size: int = 32, seeds: int = 3, n: int = 2_000,
    device: torch.device | str = "cpu",
) -> Path:  # fmt: skip
    """Write the run's lines of `path_of`: a line for each t, row, seed and record; those that are there are replaced.

    Columns: run_id, hash, n, t, row, seed, updates, images (real ones seen, by all t), nats and auc of `told`,
    agreement (`agreements`), of what made it. n: test images, at each t. Seed k is the run's own + 1 + k: another.
    Raises UserError for a DDPM, for updates that cannot be halved often enough, and for n that are no whole groups of
    a critic or more than the test split has.
    """
    if run.config.method != "ddgan":
        raise UserError(f"run {run.config.run_id} is a DDPM, whose steps have no critic: choose a DDGAN's")
    if updates % 2 ** (RECORDS - 1):
        raise UserError(f"updates = {updates}: choose a multiple of {2 ** (RECORDS - 1)}, as {RECORDS} records are")
    test = load_images(run.config.dataset, "test")[0]
    if n > len(test) or n % STD_GROUP:
        raise UserError(
            f"n = {n}: choose a multiple of {STD_GROUP}, by which critics look at images, up to the {len(test)} of "
            f"{run.config.dataset}'s test split"
        )
    own_row = make_row(run.config.divergence, run.config.critic_divergence)
    hold = run.config.penalty_weight / blind_curvature(own_row)  # which refuses some rows
    network, schedule = load_model(run, device)
    asked = {t: pairs_at(network, schedule, to_float(test[:n]).to(device), t) for t in range(1, run.config.T + 1)}
    images, made = load_images(run.config.dataset, "train")[0], provenance(device)
    same, lines = {"run_id": run.config.run_id, "hash": run.config.hash, "n": n}, list[dict[str, Any]]()
    due = [updates >> k for k in range(RECORDS)]
    for name in ROWS:
        row, slopes = get_divergence(name), dict[tuple[int, int], list[Tensor]]()
        chosen = {"divergence": name, "critic_divergence": "", "penalty_weight": hold * blind_curvature(row)}
        chosen |= {"updates": updates, "batch_size": batch_size}
        own = []
        for seed in range(seeds):
            trainer = CriticTrainer(run, images, device, seed=run.config.seed + 1 + seed, **chosen)
            for step in watched(range(1, updates + 1), f"{name}, seed {seed}", updates):
                trainer.update()
                for t, pairs in asked.items() if step in due else ():
                    found, slope = told(row, trainer.critic, *pairs, t)
                    slopes.setdefault((t, step), []).append(slope)
                    own.append(same | {"t": t, "row": name, "seed": seed, "updates": step} | found)
        agree = {at: agreements(each) for at, each in slopes.items()}
        lines += [
            line | {"images": line["updates"] * batch_size}
            | {"agreement": agree[line["t"], line["updates"]][line["seed"]]} | made
            for line in own
        ]  # fmt: skip
    replace_rows(path_of(run.config.dataset), {"run_id": run.config.run_id}, pd.DataFrame(lines))
    return path_of(run.config.dataset)


@torch.no_grad()
def pairs_at(
    network: Generator, schedule: Schedule, x_0: Float[Tensor, "n c h w"], t: int
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
    """Real x_{t-1}, the generator's, and the x_t that both belong to."""
    random = random_generator(SEED, "critics", t)
    parts = []
    for x in x_0.split(BATCH):
        at = torch.full((len(x),), t, device=x.device)
        noises = [torch.randn(x.shape, generator=random).to(x.device) for _ in range(3)]
        z = torch.randn(len(x), network.z_dim, generator=random).to(x.device)
        x_prev, x_t = diffuse_pair(schedule, x, at, *noises[:2])
        parts.append((x_prev, sample_posterior(schedule, network(x_t, at, z).float(), x_t, at, noises[2]), x_t))
    real, fake, x_t = (torch.cat(each) for each in zip(*parts, strict=True))
    return real, fake, x_t


def told(
    row: Divergence, critic: Discriminator, real: Tensor, fake: Tensor, x_t: Tensor, t: int
) -> tuple[dict[str, float], Tensor]:
    """What a critic of this row knows of these pairs, by its log ratio r; and the slope of r at each fake image.

    nats: log 2 - E softplus(-r_real) / 2 - E softplus(r_fake) / 2, which JS's critic ascends itself; 0 where nothing is
    known, below it where what is believed is wrong, and at most the Jensen-Shannon divergence of what a critic sees at
    once, which is STD_GROUP images of one kind. auc: how often a real image has the larger r of a real and a fake one,
    whatever r's scale.
    """
    steepness, level = log_ratio_line(row)
    ratios: dict[str, list[Tensor]] = {"real": [], "fake": []}
    slopes = []
    for kind, images in (("real", real), ("fake", fake)):
        for x, condition in zip(images.split(BATCH), x_t.split(BATCH), strict=True):
            x = x.detach().requires_grad_(kind == "fake")
            r = steepness * critic(x, condition, torch.full((len(x),), t, device=x.device)).float() + level
            ratios[kind].append(r.detach().double())
            if kind == "fake":
                slopes.append(torch.autograd.grad(r.sum(), x)[0].flatten(1))
    r_real, r_fake = (torch.cat(ratios[kind]) for kind in ("real", "fake"))
    nats = math.log(2) - float((softplus(-r_real).mean() + softplus(r_fake).mean()) / 2)
    fakes = r_fake.sort().values
    below = torch.searchsorted(fakes, r_real) + torch.searchsorted(fakes, r_real, right=True)  # equal ones count half
    return {"nats": nats, "auc": float(below.double().mean()) / (2 * len(fakes))}, torch.cat(slopes)


def agreements(slopes: Sequence[Float[Tensor, "n d"]]) -> list[float]:
    """How far each critic's slopes point where the other seeds' do: the mean cosine, NaN for a critic alone.

    Critics that differ in their first weights and draws alone: what they have in common, right or wrong, is what such
    critics learn each time; what is left is noise.
    """
    of_each: list[list[float]] = [[] for _ in slopes]
    for (i, one), (j, other) in combinations(enumerate(slopes), 2):
        cosine = float(cosine_similarity(one, other).mean())
        of_each[i].append(cosine)
        of_each[j].append(cosine)
    return [sum(each) / len(each) if each else math.nan for each in of_each]


def table(dataset: str) -> pd.DataFrame:
    """All that `measure` has written; empty where it has written nothing."""
    found = read_table(path_of(dataset))
    return found.astype({"t": int}) if len(found) else found
