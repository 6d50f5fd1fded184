"""A DDPM's training and sampling beside the two libraries one would use instead: `bench ddpm`.

All drive the same network, built here from the same numbers, so that parameters and arithmetic are equal and what is
compared is everything around it. Their loops are those of their own examples: a shuffling DataLoader of float images,
gradients clipped to 1, their own EMA, the default memory layout; without Accelerate, which would only add to them. A
peer that is not installed (extra `bench`) is a named gap.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from ddgan_core import UserError
from ddgan_core.bench.mend import mend_torchvision
from ddgan_core.bench.turns import median, ratio, take_turns, written
from ddgan_core.data import get_dataset, load_images, to_float
from ddgan_core.diffusion import make_schedule
from ddgan_core.networks import NoisePredictor
from ddgan_core.provenance import provenance
from ddgan_core.runs import RunConfig
from ddgan_core.sampling import ddim_step, sample_images
from ddgan_core.shapes import Tensor, UInt8
from ddgan_core.study import configure
from ddgan_core.training import Trainer

OURS = "ddgan_core"
DDIM_STEPS = 10

# One update; n samples by DDIM, images in [-1, 1] or [0, 1].
Jobs = tuple[Callable[[], object], Callable[[int], Tensor]]


def bench_ddpm(
    batch_size: int | None = None, n: int = 64, *, preset: str = "cpu", updates: int = 8, repeats: int = 3,
    device: str = "cpu",
) -> pd.DataFrame:  # fmt: skip
    """Seconds of a training update and of n samples by ten DDIM steps, every contestant in turn, the order reversed.

    ratio: the peer's seconds over this package's, the median over repeats, with the lowest and highest: above 1, the
    peer is slower; cpu_ratio: in CPU time of this process. parameters: of the network, equal for all. gap: why a row
    has no numbers. All work in one process, so that the peers' turns have the memory that this package keeps
    (`memory`): alone they sample more slowly. Written to results/tables/bench_ddpm_<preset>_<device>.csv.

    batch_size: by default the preset's; another is in the file's name, too. Whatever the preset's precision, all
    compute in float32: autocast is this package's own, and the peers' loops have none.
    """
    config = configure(preset, method="ddpm", precision="fp32")
    config = config if batch_size is None else config.changed(batch_size=batch_size)
    images, _ = load_images(config.dataset)
    contestants: dict[str, Jobs] = {}
    gaps: dict[str, str] = {}
    for name, make in CONTESTANTS.items():
        try:
            contestants[name] = make(config, images, device)
        except ImportError as error:
            gaps[name] = f"{error}: pip install '.[bench]'"

    def train(name: str, _: int) -> None:
        for _ in range(updates):
            contestants[name][0]()

    def sample(name: str, _: int) -> None:
        contestants[name][1](n)

    parameters = sum(p.numel() for p in _network(config).parameters())
    rows: list[dict[str, Any]] = []
    for job, do, per in (
        (f"training update, batch {config.batch_size}", train, updates),
        (f"{n} samples, DDIM in {DDIM_STEPS} steps", sample, 1),
    ):
        seconds = take_turns({name: functools.partial(do, name) for name in contestants}, repeats, device)
        for name in CONTESTANTS:
            row: dict[str, Any] = {"job": job, "library": name, "preset": preset, "parameters": parameters}
            if name in seconds:
                row |= {"seconds": median(seconds[name]) / per}
                row |= ratio(seconds[name], seconds[OURS], "ratio")
                row |= ratio(seconds[name], seconds[OURS], "cpu_ratio", "cpu")
            rows.append(row | {"gap": gaps.get(name, "")} | provenance(device))
    another = "" if batch_size is None else f"_{batch_size}"
    return written(rows, f"bench_ddpm_{preset}_{torch.device(device).type}{another}")


def _network(config: RunConfig) -> NoisePredictor:
    return NoisePredictor(get_dataset(config.dataset).channels, config.widths, config.attention)


def _ours(config: RunConfig, images: UInt8[Tensor, "n c h w"], device: str) -> Jobs:
    trainer = Trainer(config, images, device)
    network = trainer.ema.eval()
    step = ddim_step(network, make_schedule(config.schedule, config.T).to(device).respaced(DDIM_STEPS))
    shape = tuple(images.shape[1:])
    return trainer.update, lambda n: torch.cat(list(sample_images(step, DDIM_STEPS, shape, n, 0, device, n)))


def _diffusers(config: RunConfig, images: UInt8[Tensor, "n c h w"], device: str) -> Jobs:
    """As in its example of unconditional training, and its DDIM pipeline."""
    mend_torchvision()
    from diffusers import DDIMScheduler, DDPMScheduler
    from diffusers.training_utils import EMAModel

    network, batches = _network(config).to(device), loader_batches(images, config.batch_size, device)
    adam = torch.optim.AdamW(network.parameters(), lr=config.lr_generator)
    average = EMAModel(network.parameters(), decay=config.ema_decay)
    noising, ddim = DDPMScheduler(config.T), DDIMScheduler(config.T)

    def update() -> None:
        x_0 = next(batches)
        noise, t = torch.randn_like(x_0), torch.randint(0, config.T, (len(x_0),), device=device)
        loss = mse_loss(network(noising.add_noise(x_0, noise, t), t + 1), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        average.step(network.parameters())

    @torch.no_grad()
    def sample(n: int) -> Tensor:
        ddim.set_timesteps(DDIM_STEPS)
        x = torch.randn(n, *images.shape[1:], device=device)
        for t in ddim.timesteps:
            x = ddim.step(network(x, torch.full((n,), int(t) + 1, device=device)), t, x).prev_sample
        return x

    return update, sample


class _SelfConditioned(nn.Module):
    """The network in the clothes that denoising-diffusion-pytorch asks for."""

    self_condition = random_or_learned_sinusoidal_cond = False

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network, self.channels, self.out_dim = network, channels, channels

    def forward(self, x: Tensor, t: Tensor, x_self_cond: None = None) -> Tensor:
        return self.network(x, t + 1)


def _denoising_diffusion_pytorch(config: RunConfig, images: UInt8[Tensor, "n c h w"], device: str) -> Jobs:
    """As in its README and its Trainer, which averages every tenth update; images in [0, 1]."""
    mend_torchvision()
    from denoising_diffusion_pytorch import GaussianDiffusion
    from ema_pytorch import EMA

    diffusion = GaussianDiffusion(
        _SelfConditioned(_network(config), images.shape[1]), image_size=images.shape[2], timesteps=config.T,
        sampling_timesteps=DDIM_STEPS, objective="pred_noise", beta_schedule="linear",
    ).to(device)  # fmt: skip
    batches = loader_batches(images, config.batch_size, device)
    adam = torch.optim.Adam(diffusion.parameters(), lr=config.lr_generator, betas=(0.9, 0.99))
    average = EMA(diffusion, beta=config.ema_decay, update_every=10).to(device)

    def update() -> None:
        loss = diffusion((next(batches) + 1) / 2)
        loss.backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        average.update()

    return update, lambda n: diffusion.sample(batch_size=n)


CONTESTANTS: dict[str, Callable[[RunConfig, UInt8[Tensor, "n c h w"], str], Jobs]] = {
    OURS: _ours,
    "diffusers": _diffusers,
    "denoising-diffusion-pytorch": _denoising_diffusion_pytorch,
}


def loader_batches(images: UInt8[Tensor, "n c h w"], batch_size: int, device: str) -> Iterator[Tensor]:
    """Float images in [-1, 1], without end, from a shuffling DataLoader as is usual."""
    if batch_size > len(images):
        raise UserError(f"batch size {batch_size}: choose at most {len(images)}, the images there are")
    loader = DataLoader(TensorDataset(to_float(images)), batch_size, shuffle=True, drop_last=True)
    while True:
        yield from (x.to(device) for (x,) in loader)
