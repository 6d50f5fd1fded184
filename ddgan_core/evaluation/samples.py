"""A run's images: its network, the samplers that fit it, and the pile of samples that is scored."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import torch

from ddgan_core import UserError
from ddgan_core.checkpoints import run_weights
from ddgan_core.data import get_dataset, load_images, to_float, to_uint8
from ddgan_core.diffusion import Schedule, diffuse, make_schedule, random_generator
from ddgan_core.evaluation.piles import draw_pile
from ddgan_core.networks import Generator, NoisePredictor, make_model
from ddgan_core.progress import watched
from ddgan_core.provenance import device_name
from ddgan_core.runs import Run
from ddgan_core.sampling import DDPM_STEPS, SeededNoise, Step, ancestral_step, ddgan_step, fast_batch, sample_images
from ddgan_core.shapes import Tensor, UInt8


def load_model(run: Run, device: torch.device | str = "cpu") -> tuple[Generator | NoisePredictor, Schedule]:
    """The run's EMA network in evaluation mode, and its schedule. Raises UserError if there are no whole weights."""
    config, weights = run.config, run_weights(run)
    channels = get_dataset(config.dataset).channels
    network = make_model(config.method, channels, config.widths, config.z_dim, config.attention)
    if {k: v.shape for k, v in network.state_dict().items()} != {k: v.shape for k, v in weights.items()}:
        raise UserError(f"{run.weights} does not hold the tensors of {config.run_id}'s network: train it again")
    network.load_state_dict(weights)
    network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # a fifth faster on a CPU
    return network, make_schedule(config.schedule, config.T).to(device)


def resolve_sampler(run: Run, sampler: str | None = None, steps: int | None = None) -> tuple[str, int]:
    """The sampler and its steps, by default those the run was trained for. Raises UserError when they do not fit it."""
    config = run.config
    allowed = ["ddgan", "truncated", "diffused"] if config.method == "ddgan" else [*DDPM_STEPS, "shortened", "retimed"]
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
    if steps == config.T and sampler in ("truncated", "shortened", "retimed"):
        sampler = allowed[0]  # the same chain, by its name: no second score of it
    return sampler, steps


def _chain_step(run: Run, sampler: str, steps: int, device: torch.device | str) -> tuple[Step, tuple[int, int, int]]:
    """The sampler's step, and the shape of one image."""
    network, schedule = load_model(run, device)
    shape = get_dataset(run.config.dataset).shape
    if isinstance(network, Generator):
        return ddgan_step(network, schedule), shape  # truncated: the chain is begun at a smaller t
    if sampler in ("shortened", "retimed"):
        table = make_schedule(run.config.schedule, steps).to(device)
        if sampler == "retimed":
            table = replace(table, time=_times_of_equal_noise(table, schedule))
        return ancestral_step(network, table), shape
    # Re-spaced to all T steps, a schedule is itself.
    return DDPM_STEPS[sampler](network, schedule.respaced(steps)), shape


def _times_of_equal_noise(table: Schedule, learned: Schedule) -> Tensor:
    """For each step of a table, the learned schedule's time of the nearest signal-to-noise ratio, in logarithms."""
    wanted, known = (s.alpha_bar[1:].logit() for s in (table, learned))
    nearest = (wanted[:, None] - known).abs().argmin(1)
    return torch.cat([learned.time[:1], learned.time[1:][nearest]])


def diffused_images(dataset: str, n: int, seed: int = 0) -> UInt8[Tensor, "n c h w"]:
    """The images that n chains of sampler "diffused" begin at, before their noise: shuffled, each once.

    Of the training split: the test images are what samples are scored against. Raises UserError where it has fewer.
    """
    images, _ = load_images(dataset, "train")
    if n > len(images):
        raise UserError(f"n = {n} for sampler diffused: {dataset} has {len(images)} training images")
    return images[torch.randperm(len(images), generator=random_generator(seed, "sample/diffused"))[:n]]


def _begin(run: Run, sampler: str, t: int, n: int, seed: int) -> Callable[[SeededNoise], Tensor] | None:
    """Where the chains of sampler "diffused" begin: chain k at x_t ~ q(x_t | x_0), x_0 of `diffused_images`."""
    if sampler != "diffused":
        return None
    schedule, images = make_schedule(run.config.schedule, run.config.T), diffused_images(run.config.dataset, n, seed)

    def begin(draw: SeededNoise) -> Tensor:
        x_0 = to_float(images[draw.start : draw.start + draw.count])
        noise = draw("x_T", x_0.shape[1:])
        return diffuse(schedule, x_0, torch.full((len(x_0),), t), noise.cpu()).to(noise.device)

    return begin


def sample(
    run: Run, n: int, *, sampler: str | None = None, steps: int | None = None, seed: int = 0,
    device: torch.device | str = "cpu",
) -> UInt8[Tensor, "n c h w"]:  # fmt: skip
    """The first n images of a seed, on the CPU; image i is the same in any call.

    sampler: "ddgan" for a DDGAN; "ancestral" (the default), "ddim" or "dpm_solver" for a DDPM, re-spaced to `steps`;
    or one of PROTOCOLS of `scores`.
    Raises UserError for a sampler or a number of steps that does not fit the run, and when it has no weights.
    """
    if n < 1:
        raise UserError(f"n = {n}: 1 or more")
    sampler, steps = resolve_sampler(run, sampler, steps)
    (step, shape), begin = _chain_step(run, sampler, steps, device), _begin(run, sampler, steps, n, seed)
    batches, count = sample_images(step, steps, shape, n, seed, device, begin=begin), -(-n // fast_batch(device))
    return torch.cat([to_uint8(x).cpu() for x in watched(batches, f"{run.config.run_id} samples", count)])


def sample_pile(
    run: Run, sampler: str, steps: int, n: int, seed: int, device: torch.device | str, deadline: float | None
) -> tuple[UInt8[Tensor, "n c h w"], float]:  # fmt: skip
    """What `sample` gives, and the seconds an image took; a drawing that takes long goes on where it stopped."""
    (step, shape), begin = _chain_step(run, sampler, steps, device), _begin(run, sampler, steps, n, seed)
    batch_size = fast_batch(device)
    facts = {"weights": hashlib.sha256(run.weights.read_bytes()).hexdigest() if run.weights else ""}
    facts |= {"sampler": sampler, "steps": str(steps), "seed": str(seed), "batch_size": str(batch_size)}
    facts |= {"device": device_name(device), "torch": torch.__version__}

    def draw(start: int, count: int) -> Tensor:
        (images,) = sample_images(step, steps, shape, count, seed, device, batch_size, start, begin)
        return to_uint8(images).cpu()

    return draw_pile(facts, n, batch_size, draw, deadline)
