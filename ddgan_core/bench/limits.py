"""How long sampling takes, step for step, and how far training and sampling are from what this device can do."""

import functools
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from ddgan_core.bench.turns import median, ratio, take_turns, timed, written
from ddgan_core.data import get_dataset, load_images
from ddgan_core.diffusion import make_schedule
from ddgan_core.networks import make_model
from ddgan_core.provenance import provenance
from ddgan_core.runs import RunConfig
from ddgan_core.sampling import DDPM_STEPS, Step, ddgan_step, fast_batch, sample_images
from ddgan_core.study import configure
from ddgan_core.training import Trainer

# (sampler, steps) whose seconds are measured: the source paper's range, the training-free baselines, the whole chain.
SAMPLERS = [("ddgan", T) for T in (1, 2, 4, 8, 10)]
SAMPLERS += [("ddim", n) for n in (4, 10, 50)] + [("dpm_solver", n) for n in (4, 10)]
SAMPLERS += [("ancestral", n) for n in (4, 10, 100, 1000)]


def bench_sampling(
    n: int | None = None, *, preset: str = "cpu", repeats: int = 3, device: str = "cpu",
    samplers: list[tuple[str, int]] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Seconds for n images by each sampler, one batch, in turns; the U-Nets are of one size, their weights at random.

    n: by default as many as `sample` draws at a time on such a device.

    speedup: the thousand ancestral steps' seconds over this row's (NaN where these are not among the samplers), the
    median over repeats with the lowest and highest. Written to results/tables/bench_sampling_<preset>_<device>.csv.
    """
    info, n = get_dataset(configure(preset).dataset), fast_batch(device) if n is None else n
    shape = (info.channels, info.size, info.size)
    chains = {pair: _chain(configure_sampler(preset, *pair), *pair, device) for pair in samplers or SAMPLERS}

    def draw(pair: tuple[str, int], repeat: int) -> None:
        if repeat >= 0 or pair[1] <= 10:  # a few steps warm up for the many
            for images in sample_images(chains[pair], pair[1], shape, n, 0, device, n):
                images.cpu()

    seconds = take_turns({pair: functools.partial(draw, pair) for pair in chains}, repeats, device)
    rows = []
    for (sampler, steps), own in seconds.items():
        row: dict[str, Any] = {"sampler": sampler, "steps": steps, "preset": preset, "n": n, "repeats": repeats}
        row |= {"seconds_per_1000": 1000 / n * median(own)}
        row |= ratio(seconds.get(("ancestral", 1000)), own, "speedup")
        rows.append(row | provenance(device))
    return written(rows, f"bench_sampling_{preset}_{torch.device(device).type}")


def configure_sampler(preset: str, sampler: str, steps: int) -> RunConfig:
    """The study's configuration of a network that this sampler needs."""
    return configure(preset, T=steps) if sampler == "ddgan" else configure(preset, method="ddpm", T=1000)


def _chain(config: RunConfig, sampler: str, steps: int, device: str) -> Step:
    channels = get_dataset(config.dataset).channels
    network = make_model(config.method, channels, config.widths, config.z_dim, config.attention)
    network = network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    schedule = make_schedule(config.schedule, config.T).to(device)
    if sampler == "ddgan":
        return ddgan_step(network, schedule)
    return DDPM_STEPS[sampler](network, schedule.respaced(steps))


def bench_limits(*, preset: str = "cpu", repeats: int = 5, device: str = "cpu") -> pd.DataFrame:
    """Arithmetic of an update and of a sampling step, counted, against this device's own ceilings, measured.

    Ceilings: a square matrix product, a large convolution, and a copy (bytes read and written); the library of matrix
    products is not the one of convolutions, and may reach half as much. gflop: 10^9 multiplications and additions,
    convolutions and matrix products only, as torch counts them. gflop_per_s: the best of the repeats. share: of the
    higher ceiling's. Sampled are as many images as `sample` draws at a time on such a device. Written to
    results/tables/bench_limits_<preset>_<device>.csv, and `breakdown` of the update beside it.
    """
    kind = torch.device(device).type
    config = configure(preset, T=4, penalty_every=10**9)
    bf16 = config.precision == "bf16"
    size = 1024 if kind == "cpu" else 8192
    dtype = torch.bfloat16 if bf16 else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    layout: dict[str, Any] = {"device": device, "dtype": dtype, "memory_format": torch.channels_last}
    wide = torch.nn.Conv2d(256, 256, 3, padding=1).requires_grad_(False).to(**layout)
    x = torch.randn(4 if kind == "cpu" else 256, 256, 32, 32).to(**layout)
    block = torch.empty(2**24 if kind == "cpu" else 2**28, device=device)
    target = torch.empty_like(block)
    images, _ = load_images(config.dataset)
    info = get_dataset(config.dataset)
    step = _chain(config, "ddgan", 4, device)
    shape, n = (info.channels, info.size, info.size), fast_batch(device)

    def begun(graphs: bool) -> Callable[[], None]:
        """An update; what is replayed shows no arithmetic, so that it is counted without graphs."""
        trainer = Trainer(config, images, device, graphs)
        for _ in range(2):
            trainer.update()  # the first has the penalty, the second the graph that is timed
        return trainer.update

    def draw() -> None:
        for _ in sample_images(step, 4, shape, n, 0, device, n):
            pass

    update = begun(graphs=True)
    work: dict[str, Callable[[], Any]] = {
        f"matrix product, {size}": lambda: a @ a,
        "convolution, 3x3, 256 channels": lambda: wide(x),
        "copy": lambda: target.copy_(block),
        f"training update, batch {config.batch_size}": update,
        f"sampling, {n} images, T = 4": draw,
    }
    seen = work | {name: begun(graphs=False) for name in work if name.startswith("training")}
    gflops = {name: _gflop(do) for name, do in seen.items()}
    seconds = take_turns({name: lambda _, do=do: do() for name, do in work.items()}, repeats, device)
    # On one thread of a CPU, of this process's time: other work on the machine disturbs it less.
    clock = "cpu" if kind == "cpu" and torch.get_num_threads() == 1 else "wall"
    fastest = {name: min(getattr(turn, clock) for turn in turns) for name, turns in seconds.items()}
    ceiling = max(gflops[name] / fastest[name] for name in list(work)[:2])
    rows: list[dict[str, Any]] = []
    for name, gflop in gflops.items():
        best = fastest[name]
        row: dict[str, Any] = {"work": name, "preset": preset, "gflop": gflop, "seconds": best}
        row |= {"gflop_per_s": gflop / best, "share": gflop / best / ceiling}
        if name == "copy":
            row |= {"gb_per_s": 2 * block.numel() * block.element_size() / best / 1e9}
        rows.append(row | provenance(device))
    written([row | provenance(device) for row in breakdown(update, device)], f"bench_breakdown_{preset}_{kind}")
    return written(rows, f"bench_limits_{preset}_{kind}")


# Kinds of work, by what the names of torch's operators hold; the first that fits.
KINDS = {
    "convolution, backward": ("convolution_backward", "dgrad", "wgrad"),
    "convolution": ("conv", "fprop"),
    "matrix product": ("mm", "gemm"),
    "random numbers": ("normal_", "random_", "randint"),
    "normalisation": ("group_norm", "groupnorm", "aten::var"),
    "activation": ("silu", "relu", "sigmoid", "softplus", "tanh"),
    "optimiser and average": ("adam", "lerp", "zero_grad"),
    "copies and layout": ("copy", "aten::cat", "aten::to", "clone", "contiguous"),
}


def breakdown(update: Callable[[], Any], device: str = "cpu", updates: int = 4) -> list[dict[str, Any]]:
    """Seconds of an update by kind of work, by torch's profiler, whose own cost is in them; share: of all of them.

    idle: the rest of the time on the clock, in which none of this runs: Python's, for which a GPU has to wait.
    """
    from torch.profiler import ProfilerActivity, profile

    activity = ProfilerActivity.CUDA if torch.device(device).type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as found:
        _, took = timed(lambda: [update() for _ in range(updates)], device)
    seconds = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in found.key_averages():
        name = event.key.lower()
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other")
        seconds[kind] += _own_seconds(event, device) / updates
    seconds["idle"] = max(0.0, took.wall / updates - sum(seconds.values()))
    total = sum(seconds.values())
    return [{"kind": kind, "seconds": value, "share": value / total} for kind, value in seconds.items()]


def _own_seconds(event: Any, device: str) -> float:
    """Of an operator without those that it calls; of a GPU's kernels, so that no time counts twice.

    There a call that starts kernels, and a named stretch such as an optimiser's step, have their kernels' time as well.
    """
    if torch.device(device).type != "cuda":
        return event.self_cpu_time_total / 1e6
    kernel = event.device_type != torch.autograd.DeviceType.CPU and not event.is_user_annotation
    return event.self_device_time_total / 1e6 if kernel else 0.0


def _gflop(do: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        do()
    return counter.get_total_flops() / 1e9
