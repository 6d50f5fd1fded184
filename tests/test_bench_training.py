"""What is timed computes what it should, and the tables say where they were made. Nothing here is about time itself."""

import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from ddgan_core import UserError
from ddgan_core.bench import limits, training
from ddgan_core.bench.limits import KINDS, bench_limits, bench_sampling, breakdown
from ddgan_core.bench.training import COMPILED, LOOPS, PRODUCTS, TRIED, bench_training, loop_step
from ddgan_core.bench.turns import Seconds
from ddgan_core.data import load_images, to_float
from ddgan_core.sampling import fast_batch
from ddgan_core.study import configure


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled takes a minute, and a compiler."""
    monkeypatch.setattr(torch, "compile", lambda network: network)


def test_every_loop_is_timed(results: Path, uncompiled: None) -> None:
    table = bench_training(8, preset="smoke", updates=1, repeats=2)
    assert table.loop.tolist() == [*LOOPS, *TRIED, *PRODUCTS]
    assert table.speedup[0] == 1
    assert (table.updates_per_s > 0).all()
    assert (table.speedup_low <= table.speedup).all()
    written = pd.read_csv(results / "tables" / "bench_training_smoke_cpu_8.csv")
    assert {"device", "torch", "commit"} <= set(written.columns)
    assert "clean_fid" not in written, "which has no part in it"
    with pytest.raises(UserError, match="updates = 3: a multiple of the penalty's interval, 16"):
        bench_training(8, preset="cpu", updates=3)
    with pytest.raises(UserError, match="batch_size = 6: a multiple of the critic's groups of 4 images"):
        bench_training(6, preset="smoke", updates=1)
    with pytest.raises(UserError, match="batch_size = 2000: digits has 1500 training images"):
        bench_training(2000, preset="smoke", updates=1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is run: the first of those that take turns takes 8 s, the second 4 s, the next 8/3 s."""

    def turns(jobs: dict, repeats: int, device: str) -> dict:
        return {name: [Seconds(8 / k, 2 / k)] * repeats for k, name in enumerate(jobs, 1)}

    for module in (limits, training):
        monkeypatch.setattr(module, "take_turns", turns)


@pytest.mark.usefixtures("clock", "results")
def test_what_is_faster_has_the_larger_speedup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "loop_step", lambda *_: print)
    monkeypatch.setattr(training, "Trainer", lambda *_: SimpleNamespace(update=print))
    table = bench_training(8, preset="smoke", updates=16, repeats=2, compiled=False)
    assert table["updates_per_s"].tolist() == pytest.approx([2 * k for k in range(1, len(table) + 1)])
    for label in ("speedup", "cpu_speedup"):
        assert table[label].tolist() == pytest.approx(list(range(1, len(table) + 1)))
    table = bench_sampling(4, preset="smoke", samplers=[("ancestral", 1000), ("ddgan", 2)])
    assert table["seconds_per_1000"].tolist() == [2000, 1000]
    assert table["speedup"].tolist() == [1, 2]


def test_without_a_compiler_one_loop_is_missing(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", lambda network: broken)
    table = bench_training(8, preset="smoke", updates=1, repeats=1)
    assert set(table.loop) == {*LOOPS, *TRIED, *PRODUCTS} - {COMPILED}
    assert COMPILED not in bench_training(8, preset="smoke", updates=1, repeats=1, compiled=False)["loop"].tolist()
    assert f"{COMPILED}: not measured: InvalidCxxCompiler: No working C++ compiler found\n" in capsys.readouterr().err


def test_the_loops_compute_the_same(monkeypatch: pytest.MonkeyPatch, uncompiled: None) -> None:
    """Fed with the same numbers, the plain loop and the one with every exact means end with the same weights."""
    config = configure("smoke", T=2, batch_size=8, penalty_every=1)
    images = load_images("digits")[0]
    fixed = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    monkeypatch.setattr(training, "_batches", lambda *arguments: iter(lambda: fixed, None))
    ends = []
    loops = [LOOPS["plain eager loop"], LOOPS["+ channels_last"], *TRIED.values()]
    for loop in loops:
        kept = {}

        class Kept(training.Trainer):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments)
                kept["trainer"] = self  # noqa: B023

        monkeypatch.setattr(training, "Trainer", Kept)
        step = loop_step(config, images, loop, "cpu")
        torch.manual_seed(0)
        for _ in range(2):
            step()
        trainer = kept["trainer"]
        ends.append([*trainer.model.parameters(), *trainer.critic.parameters(), *trainer.ema.parameters()])
    # Adam's first steps have the size of the learning rate whatever the gradient's: where that is 0, rounding shows.
    first, *others = ends
    for one, *same in zip(first, *others, strict=True):
        for other in same:
            torch.testing.assert_close(one, other, rtol=0, atol=2 * config.lr_critic)
            assert (one - other).abs().median() < 1e-6


@pytest.mark.parametrize("uint8", [True, False])
def test_batches_do_not_end(uint8: bool) -> None:
    images = load_images("digits")[0][:5]
    batches = training._batches(images, 2, uint8, "cpu")
    found = torch.cat([next(batches) for _ in range(7)])
    assert found.shape == (14, *images.shape[1:])
    known = {image.numpy().tobytes() for image in to_float(images)}
    assert {image.numpy().tobytes() for image in found} <= known


def test_samplers_are_timed_by_steps(results: Path) -> None:
    few = [("ddgan", 2), ("ddim", 3), ("ancestral", 5)]
    table = bench_sampling(4, preset="smoke", repeats=1, samplers=few)
    assert list(zip(table.sampler, table.steps, strict=True)) == few
    assert (table.seconds_per_1000 > 0).all()
    assert table.speedup.isna().all()  # the thousand steps are not among them
    assert (results / "tables" / "bench_sampling_smoke_cpu.csv").exists()


def test_arithmetic_is_counted(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(limits, "breakdown", lambda update, device: asked.append(device) or breakdown(update, device))
    table = bench_limits(preset="smoke", repeats=1, device="cpu:0").set_index("work")
    assert asked == ["cpu:0"], "this device, not its kind"
    assert table.gflop["matrix product, 1024"] == pytest.approx(2 * 1024**3 / 1e9)
    ceilings = table.share[["matrix product, 1024", "convolution, 3x3, 256 channels"]]
    assert ceilings.max() == 1
    assert ceilings.min() > 0
    assert table.gflop["copy"] == 0
    assert table.gb_per_s["copy"] == pytest.approx(2 * 4 * 2**24 / table.seconds["copy"] / 1e9), "read and written"
    assert table.gflop[table.index.str.startswith("training")].item() > 0
    assert f"sampling, {fast_batch('cpu')} images, T = 4" in table.index
    parts = pd.read_csv(results / "tables" / "bench_breakdown_smoke_cpu.csv")
    assert parts["share"].sum() == pytest.approx(1, abs=1e-4)
    assert (parts.set_index("kind")["share"][["convolution", "convolution, backward", "normalisation"]] > 0).all()


def test_the_parts_of_an_update_are_told_by_their_names() -> None:
    """Of a convolution and a product, each as large as the other is small, the larger one takes most of the time."""
    x, small = torch.randn(64, 32, 32, 32), torch.randn(4, 4)
    kernel = torch.randn(32, 32, 3, 3)
    parts = breakdown(lambda: (torch.conv2d(x, kernel), small @ small), updates=1)
    share = {part["kind"]: part["share"] for part in parts}
    assert list(share) == [*KINDS, "other", "idle"]
    assert share["convolution"] > 0.5 * (1 - share["idle"]) > share["matrix product"] > 0
    assert share["optimiser and average"] == share["convolution, backward"] == 0


def test_an_update_that_waits_is_idle() -> None:
    """At least for the 50 ms that it sleeps, and with all else for no longer than the whole took."""
    x, begin = torch.randn(64, 64), time.perf_counter()
    parts = breakdown(lambda: (x @ x, time.sleep(0.05)), updates=3)
    assert {part["kind"]: part["seconds"] for part in parts}["idle"] >= 0.05
    assert 3 * sum(part["seconds"] for part in parts) <= time.perf_counter() - begin


def test_a_gpus_time_is_its_kernels() -> None:
    """What started them, and the stretch that they lie in, are listed with the same time."""
    cpu, cuda = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA

    def event(device_type: torch.autograd.DeviceType, named: bool = False) -> SimpleNamespace:
        times = {"self_cpu_time_total": 5e6, "self_device_time_total": 2e6}
        return SimpleNamespace(device_type=device_type, is_user_annotation=named, **times)

    events = [event(cuda), event(cpu), event(cuda, named=True)]
    assert [limits._own_seconds(e, "cuda") for e in events] == [2, 0, 0]
    assert limits._own_seconds(event(cpu), "cpu") == 5


def test_the_gpu_that_is_waited_for_is_the_one_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    waited, gpu = [], torch.autograd.DeviceType.CUDA
    kernel = SimpleNamespace(key="gemm", device_type=gpu, is_user_annotation=False, self_device_time_total=4e6)
    found = SimpleNamespace(key_averages=lambda: [kernel])
    monkeypatch.setattr("torch.profiler.profile", lambda activities: nullcontext(found))
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    parts = breakdown(lambda: None, "cuda:1", updates=2)
    assert waited == ["cuda:1"]
    assert {part["kind"]: part["seconds"] for part in parts}["matrix product"] == 2


@pytest.mark.parametrize("preset", ["cpu", "full"])
def test_a_loop_computes_in_its_own_precision_whatever_the_presets(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(preset, T=2, dataset="digits", batch_size=4, widths=(8, 16), critic_widths=(8, 16))
    seen: dict[str, set[torch.dtype]] = {}

    class Watched(training.Trainer):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            for network in (self.model, self.critic):
                first = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
                first.register_forward_hook(lambda _, __, out: seen.setdefault("dtypes", set()).add(out.dtype))

    monkeypatch.setattr(training, "Trainer", Watched)
    for loop in LOOPS.values():
        seen.clear()
        loop_step(config, load_images("digits")[0], loop, "cpu")()
        assert seen["dtypes"] == {torch.bfloat16 if loop.bf16 else torch.float32}
