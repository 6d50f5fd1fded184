"""Noise to images: one reverse chain, and the steps that make it a sampler: DDGAN, ancestral DDPM, DDIM, DPM-Solver++.

A step maps (x_t, i, draw) to x_{i-1}, where i counts the schedule's own steps and `draw(name, shape)` gives standard
normal noise. Image k is made of noise that depends on (seed, k) alone: the same in any batch size, on any device.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ddgan_core.diffusion import Schedule, random_generator, sample_posterior
from ddgan_core.memory import keep_freed_memory
from ddgan_core.networks import Generator, NoisePredictor
from ddgan_core.shapes import Float, Tensor

NOISE_BLOCK = (
    64  # noise is drawn for this many image indices at a time: fewer generators, same independence of batching
)

Draw = Callable[[str, tuple[int, ...]], Tensor]
Step = Callable[[Tensor, int, Draw], Tensor]


@dataclass(frozen=True)
class SeededNoise:
    """Standard normal noise for images `start` .. `start + count - 1` of a seed, drawn on the CPU."""

    seed: int
    start: int
    count: int
    device: torch.device | str = "cpu"

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Noise of `count` times `shape` for the purpose `name`."""
        first, last = self.start // NOISE_BLOCK, (self.start + self.count - 1) // NOISE_BLOCK
        blocks = [
            torch.randn(NOISE_BLOCK, *shape, generator=random_generator(self.seed, f"sample/{name}", block))
            for block in range(first, last + 1)
        ]
        offset = self.start - first * NOISE_BLOCK
        return torch.cat(blocks)[offset : offset + self.count].to(self.device)


def reverse_chain(
    step: Step, steps: int, shape: tuple[int, ...], draw: Draw, x_T: Tensor | None = None
) -> Iterator[Float[Tensor, "n c h w"]]:
    """Yields x_T, x_{T-1}, ..., x_0, in `steps` steps; `shape` is that of one image. x_T: by default ~ N(0, I)."""
    x = draw("x_T", shape) if x_T is None else x_T
    yield x
    for i in range(steps, 0, -1):
        x = step(x, i, draw)
        yield x


def _times(schedule: Schedule, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """Index i and the time the network knows it by, one per image."""
    index = torch.full((len(x),), i, device=x.device)
    return index, schedule.time.to(x.device)[index]


def ddgan_step(generator: Generator, schedule: Schedule) -> Step:
    """x_{t-1} ~ q(x_{t-1} | x_t, x_0 = G(x_t, z, t)) with z ~ N(0, I), eq. (10)."""

    def predict(x: Tensor, i: int, time: Tensor, draw: Draw) -> Tensor:
        return generator(x, time, draw(f"z/{i}", (generator.z_dim,))).float()

    return _posterior_step(schedule, predict)


def ancestral_step(network: NoisePredictor, schedule: Schedule) -> Step:
    """The DDPM's own step (Ho et al. 2020, algorithm 2, variance beta-tilde), with x_0 hat clipped to [-1, 1].

    Give it `schedule.respaced(n)` to sample in n steps from the marginals it was trained on.
    """

    alpha_bar = schedule.alpha_bar.tolist()

    def predict(x: Tensor, i: int, time: Tensor, draw: Draw) -> Tensor:
        return _predict(network, alpha_bar[i], x, time)[0]

    return _posterior_step(schedule, predict)


def _posterior_step(schedule: Schedule, predict: Callable[[Tensor, int, Tensor, Draw], Tensor]) -> Step:
    """x_{t-1} ~ q(x_{t-1} | x_t, x_0), with x_0 predicted from x_t, i, the network's time and noise."""

    def step(x: Tensor, i: int, draw: Draw) -> Tensor:
        index, time = _times(schedule, x, i)
        x_0 = predict(x, i, time, draw)
        noise = draw(f"posterior/{i}", x.shape[1:]) if i > 1 else torch.zeros_like(x)
        return sample_posterior(schedule, x_0, x, index, noise)

    return step


def ddim_step(network: NoisePredictor, schedule: Schedule) -> Step:
    """The deterministic step (Song et al. 2021a, eq. 12 with sigma = 0), with x_0 hat clipped to [-1, 1]."""

    alpha_bar = schedule.alpha_bar.tolist()  # once: a GPU would be waited for in each step

    def step(x: Tensor, i: int, draw: Draw) -> Tensor:
        x_0, noise = _predict(network, alpha_bar[i], x, _times(schedule, x, i)[1])
        previous = alpha_bar[i - 1]
        return previous**0.5 * x_0 + (1 - previous) ** 0.5 * noise

    return step


def dpm_solver_step(network: NoisePredictor, schedule: Schedule) -> Step:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), x_0 hat clipped: DDIM with x_0 hat extrapolated in log-SNR.

    From the x_0 hat of the step before, so that a step belongs to one chain at a time; the first step, which has none
    before it, and the last, whose log-SNR has no end, are DDIM's own.
    """

    alpha_bar = schedule.alpha_bar.tolist()
    log_snr = schedule.alpha_bar.logit().tolist()
    before = torch.empty(0)

    def step(x: Tensor, i: int, draw: Draw) -> Tensor:
        nonlocal before
        x_0, _ = _predict(network, alpha_bar[i], x, _times(schedule, x, i)[1])
        estimate = x_0
        if 1 < i < schedule.T:
            ratio = (log_snr[i - 1] - log_snr[i]) / (log_snr[i] - log_snr[i + 1])
            estimate = x_0 + ratio / 2 * (x_0 - before)
        before = x_0
        shrink = ((1 - alpha_bar[i - 1]) / (1 - alpha_bar[i])) ** 0.5
        return shrink * x + (alpha_bar[i - 1] ** 0.5 - shrink * alpha_bar[i] ** 0.5) * estimate

    return step


def _predict(network: NoisePredictor, alpha_bar: float, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """x_0 hat, clipped to the data's range, and the noise that is consistent with it; alpha_bar: at that time."""
    noise = network(x, time).float()
    x_0 = ((x - (1 - alpha_bar) ** 0.5 * noise) / alpha_bar**0.5).clamp(-1, 1)
    return x_0, (x - alpha_bar**0.5 * x_0) / (1 - alpha_bar) ** 0.5


DDPM_STEPS = {"ancestral": ancestral_step, "ddim": ddim_step, "dpm_solver": dpm_solver_step}


def fast_batch(device: torch.device | str) -> int:
    """Images at a time: few enough for a core's cache (256 take 1.5 times as long as 4 times 64), many for a GPU."""
    return NOISE_BLOCK if torch.device(device).type == "cpu" else 8 * NOISE_BLOCK


def sample_images(
    step: Step,
    steps: int,
    shape: tuple[int, ...],
    n: int,
    seed: int,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    start: int = 0,
    begin: Callable[[SeededNoise], Tensor] | None = None,
) -> Iterator[Float[Tensor, "b c h w"]]:
    """Yields x_0 for images start .. start + n - 1, batch by batch.

    batch_size: by default what is fast. begin: where the chains of that noise begin, by default at N(0, I).
    """
    keep_freed_memory()
    batch_size = fast_batch(device) if batch_size is None else batch_size
    for first in range(start, start + n, batch_size):
        draw = SeededNoise(seed, first, min(batch_size, start + n - first), device)
        with torch.no_grad():  # not across the yield: the caller's own mode is its own
            for x in reverse_chain(step, steps, shape, draw, begin and begin(draw)):
                x_0 = x  # a thousand states of a chain need not be held
        yield x_0
