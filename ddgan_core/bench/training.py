"""The DDGAN's training step against the same networks in a plain eager loop, and what each change to that loop gives.

The plain loop is written as the original code is (Xiao et al. 2021; facts of it in notebook 03): a DataLoader of float
images, three backward passes for the critic with the generator's graph kept under its fakes, the penalty on real images
in the graph of their loss, Adam and the moving average parameter by parameter. All compute the same, but for the
trainer's own rows with shared fakes.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch

from ddgan_core import UserError, tell
from ddgan_core.bench.peers import loader_batches
from ddgan_core.bench.turns import median, ratio, take_turns, written
from ddgan_core.data import load_images, to_float
from ddgan_core.diffusion import diffuse_pair
from ddgan_core.networks import STD_GROUP
from ddgan_core.provenance import provenance
from ddgan_core.runs import RunConfig
from ddgan_core.shapes import Tensor
from ddgan_core.study import configure
from ddgan_core.training import Trainer


@dataclass(frozen=True)
class Loop:
    """Which of the product's means a loop has; all False is the plain one."""

    uint8: bool = False  # images as 8-bit tensors on the device, drawn there, instead of a DataLoader
    detached: bool = False  # no generator graph under the critic's fakes, and one backward pass for both its terms
    foreach: bool = False  # fused Adam, and the average in one call
    channels_last: bool = False
    bf16: bool = False
    joined: bool = False  # the critic sees real and fake images in one pass, instead of in two
    compiled: bool = False  # the generator by `torch.compile`; through the critic goes a gradient's gradient


# In the order in which they are added; the product itself ends the row.
LOOPS = {
    "plain eager loop": Loop(),
    "+ images on the device": Loop(uint8=True),
    "+ no graph under the fakes": Loop(uint8=True, detached=True),
    "+ fused Adam and average": Loop(uint8=True, detached=True, foreach=True),
    "+ channels_last": Loop(uint8=True, detached=True, foreach=True, channels_last=True),
    "+ bfloat16 autocast": Loop(uint8=True, detached=True, foreach=True, channels_last=True, bf16=True),
}
# Each by itself on top of channels_last, and not taken over.
COMPILED = "or: the generator compiled"
TRIED = {
    "or: one critic pass for real and fake": replace(LOOPS["+ channels_last"], joined=True),
    COMPILED: replace(LOOPS["+ channels_last"], compiled=True),
}
STARTED = "ddgan_core, without CUDA graphs"
PRODUCT, PRODUCT_BF16 = "ddgan_core, as trained", "ddgan_core, in bfloat16"
PRODUCT_SHARED, PRODUCT_FASTEST = "ddgan_core, shared fakes", "ddgan_core, shared fakes, in bfloat16"
# With shared fakes the generator's batch is the critic's: alone of all rows, another computation.
PRODUCTS: dict[str, dict[str, Any]] = {
    PRODUCT: {}, PRODUCT_BF16: {"precision": "bf16"},
    PRODUCT_SHARED: {"shared_fakes": True}, PRODUCT_FASTEST: {"shared_fakes": True, "precision": "bf16"},
}  # fmt: skip


def bench_training(
    batch_size: int = 32, *, preset: str = "cpu", updates: int = 16, repeats: int = 3, device: str = "cpu",
    compiled: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Updates a second of every loop, in turns: one critic and one generator step, the lazy penalty when it is due.

    updates: in each turn, a multiple of the preset's penalty interval, so that every turn has its share of penalties.
    updates_per_s: median over the repeats. speedup: the plain loop's seconds over this row's, the median over repeats,
    with the lowest and highest; cpu_speedup: in seconds of CPU time of this process, which other work on the machine
    disturbs less. compiled: also the loop whose generator is, which takes a minute. Written to
    results/tables/bench_training_<preset>_<device>_<batch size>.csv.
    """
    config = configure(preset, T=4, batch_size=batch_size)
    if updates % config.penalty_every:
        raise UserError(f"updates = {updates}: a multiple of the penalty's interval, {config.penalty_every}")
    if batch_size % STD_GROUP:
        raise UserError(f"batch_size = {batch_size}: a multiple of the critic's groups of {STD_GROUP} images")
    images, _ = load_images(config.dataset)
    if batch_size > len(images):
        raise UserError(f"batch_size = {batch_size}: {config.dataset} has {len(images)} training images")
    loops = {name: loop for name, loop in (LOOPS | TRIED).items() if compiled or not loop.compiled}
    steps: dict[str, Callable[[], None]] = {
        name: loop_step(config, images, loop, device) for name, loop in loops.items()
    }
    if compiled:
        try:
            steps[COMPILED]()
        except RuntimeError as error:  # no compiler for its code, for one
            tell(f"{COMPILED}: not measured: {str(error).strip().splitlines()[0]}")
            del steps[COMPILED]
    if torch.device(device).type == "cuda":
        steps[STARTED] = Trainer(config, images, device, graphs=False).update
    for name, changes in PRODUCTS.items():
        steps[name] = Trainer(config.changed(**changes), images, device).update

    def turn(name: str, repeat: int) -> None:
        for _ in range(updates if repeat >= 0 else 2):  # with the penalty and without
            steps[name]()

    seconds = take_turns({name: functools.partial(turn, name) for name in steps}, repeats, device)
    plain = seconds[next(iter(LOOPS))]
    rows = []
    for name, own in seconds.items():
        row: dict[str, Any] = {"loop": name, "preset": preset, "batch_size": batch_size, "updates": updates}
        row |= {"repeats": repeats, "updates_per_s": updates / median(own)}
        row |= ratio(plain, own, "speedup") | ratio(plain, own, "cpu_speedup", "cpu")
        rows.append(row | provenance(device))
    return written(rows, f"bench_training_{preset}_{torch.device(device).type}_{batch_size}")


def loop_step(config: RunConfig, images: Tensor, loop: Loop, device: str) -> Callable[[], None]:
    """One update of a loop with these means, of fresh networks; what the product's `Trainer.update` does."""
    config = config.changed(precision="bf16" if loop.bf16 else "fp32")  # which `_fake` reads
    start = Trainer(config, images, device)  # the same networks and row
    layout = torch.channels_last if loop.channels_last else torch.contiguous_format
    model, critic, average = (net.to(memory_format=layout) for net in (start.model, start.critic, start.ema))
    schedule, row, T = start.schedule, start.row, config.T
    adam = {"betas": (0.5, 0.9), "fused": loop.foreach} | ({} if loop.foreach else {"foreach": False})
    model_adam = torch.optim.Adam(model.parameters(), lr=config.lr_generator, **adam)
    critic_adam = torch.optim.Adam(critic.parameters(), lr=config.lr_critic, **adam)
    batches = _batches(start.images if loop.uint8 else images, config.batch_size, loop.uint8, device)
    done = 0

    def noisy() -> tuple[Tensor, Tensor, Tensor]:
        x_0 = next(batches)
        t = torch.randint(1, T + 1, (len(x_0),), device=device)
        return *diffuse_pair(schedule, x_0, t, torch.randn_like(x_0), torch.randn_like(x_0)), t

    def fake_of(x_t: Tensor, t: Tensor) -> Tensor:
        return start._fake(x_t, t, generator)

    generator = torch.Generator(device).manual_seed(0)
    if loop.compiled:
        start.model = torch.compile(model)  # type: ignore[assignment]

    def update() -> None:
        nonlocal done
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=loop.bf16):
            x_prev, x_t, t = noisy()
            critic_adam.zero_grad(set_to_none=True)
            due = done % config.penalty_every == 0
            weight, mix = config.penalty_weight * config.penalty_every, torch.ones(len(t), device=device)
            if loop.detached:
                with torch.no_grad():
                    fake = fake_of(x_t, t)
                if loop.joined:
                    both = critic(_beside(x_prev, fake), _beside(x_t, x_t), _beside(t, t)).float()
                    v_real, v_fake = both.view(STD_GROUP, 2, -1).unbind(1)
                else:
                    v_real, v_fake = critic(x_prev, x_t, t).float(), critic(fake, x_t, t).float()
                total = row.critic(v_real, v_fake).mean()
                if due:
                    total = total + weight * row.penalty(lambda x: critic(x, x_t, t).float(), x_prev, fake, mix).mean()
                total.backward()
            else:
                zero = torch.zeros(len(t), device=device)
                row.critic(critic(x_prev, x_t, t).float(), zero).mean().backward()
                if due:
                    (weight * row.penalty(lambda x: critic(x, x_t, t).float(), x_prev, x_prev, mix).mean()).backward()
                fake = fake_of(x_t, t)
                row.critic(zero, critic(fake, x_t, t).float()).mean().backward()  # reaches the generator, for nothing
            critic_adam.step()
            _, x_t, t = noisy()
            model_adam.zero_grad(set_to_none=True)
            critic.requires_grad_(False)
            row.generator(None, critic(fake_of(x_t, t), x_t, t).float()).mean().backward()
            critic.requires_grad_(True)
            model_adam.step()
        with torch.no_grad():
            if loop.foreach:
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - config.ema_decay)
            else:
                for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                    mean.mul_(config.ema_decay).add_(now, alpha=1 - config.ema_decay)
        done += 1

    return update


def _beside(real: Tensor, fake: Tensor) -> Tensor:
    """Both in one batch, in the order in which each group of the critic's minibatch deviation stays of one kind."""
    return torch.stack([part.unflatten(0, (STD_GROUP, -1)) for part in (real, fake)], dim=1).flatten(0, 2)


def _batches(images: Tensor, batch_size: int, uint8: bool, device: str) -> Iterator[Tensor]:
    """Float batches without end: drawn on the device, or as in the peers' loops."""
    if not uint8:
        yield from loader_batches(images, batch_size, device)
    while True:
        yield to_float(images[torch.randint(len(images), (batch_size,), device=images.device)])
