"""The tables of bench as notebook 12 shows them: what is missing is named with its command."""

import json
import math
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from torch.utils.flop_counter import FlopCounterMode

from ddgan_core import UserError
from ddgan_core.bench.metrics import BF16, LATE_BF16, OURS
from ddgan_core.bench.training import (
    LOOPS,
    PRODUCT,
    PRODUCT_BF16,
    PRODUCT_FASTEST,
    PRODUCT_SHARED,
    PRODUCTS,
    STARTED,
    TRIED,
)
from ddgan_core.notebook import speed
from ddgan_core.notebook.seeds import by_seed, compared
from ddgan_core.runs import write_atomic
from ddgan_core.study import configure
from ddgan_core.training import Trainer

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def title(ax: Axes) -> str:
    """At the left by `use_style`, which another test may have called, else in the middle."""
    return ax.get_title("left") or ax.get_title()


def test_the_inventory_names_what_is_due(results: Path) -> None:
    write_atomic(results / "tables" / "bench_limits_full_cuda.csv", "work,device,commit\ncopy,NVIDIA H100,abc+\n")
    found = speed.inventory("full")
    assert found.loc[("arithmetic", "cuda"), ["device", "commit"]].tolist() == ["NVIDIA H100", "abc+"]
    assert found.loc[("arithmetic", "cpu"), "device"] == "not measured"
    due = found.loc[("training, batch 128", "cuda"), "command"]
    assert due == "python -m ddgan_core bench training --batch-size 128 --preset full --device cuda"
    assert ("runs at a time", "cuda") not in found.index
    assert len(speed.table("arithmetic", "cuda", "cpu")) == 0, "of other networks"
    of_others = speed.inventory("cpu").loc[("arithmetic", "cuda")]
    assert of_others[["device", "preset"]].tolist() == ["NVIDIA H100", "full"], "which is said"
    assert of_others["command"] == "python -m ddgan_core bench limits --preset full --device cuda"
    assert speed.inventory("smoke").loc[("arithmetic", "cuda"), "device"] == "not measured", "of other data"
    with pytest.raises(UserError, match="bench 'zebra' is not known: choose one of sampling"):
        speed.table("zebra")


def test_a_table_is_of_the_preset_or_of_its_networks(results: Path) -> None:
    def written(name: str) -> None:
        write_atomic(results / "tables" / f"{name}.csv", f"name\n{name}\n")

    def found(bench: str, preset: str) -> str:
        rows = speed.table(bench, "cpu", preset)
        return rows["name"].item() if len(rows) else ""

    written("bench_sampling_cpu_cpu")
    assert [found("sampling", preset) for preset in ("cpu", "short", "full")] == ["bench_sampling_cpu_cpu"] * 2 + [""]
    written("bench_sampling_short_cpu")
    assert found("sampling", "short") == "bench_sampling_short_cpu", "its own comes first"
    assert found("sampling", "cpu") == "bench_sampling_cpu_cpu"
    written("bench_metrics_cpu")
    assert found("FID beside clean-fid", "full") == "bench_metrics_cpu", "which no preset changes"


def test_the_committed_tables_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the names by which they are committed, those with clean-fid's version in every table among them."""
    monkeypatch.setenv("DDGAN_RESULTS", str(ROOT / "results"))
    found = speed.inventory("cpu")["device"]
    assert found.xs("cpu", level="on").tolist() == ["CPU, 1 threads"] * len(speed.BENCHES)
    on_gpu = found.xs("cuda", level="on")
    assert on_gpu.index[on_gpu == "not measured"].tolist() == []


def test_what_notebook_12_says_is_in_the_committed_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDGAN_RESULTS", str(ROOT / "results"))
    cells = json.loads((ROOT / "notebooks" / "12_speed.ipynb").read_text())["cells"]
    (said,) = ("".join(c["source"]) for c in cells if "## What we learn" in "".join(c["source"]))
    ladders = {
        (speed.kind_of(own), int(own["batch_size"][0])): own.set_index("loop") for own in speed.ladders().values()
    }
    gpu = [ladders["cuda", batch] for batch in (32, 128)]
    cpu = [ladders["cpu", batch] for batch in (32, 128)]
    plain, last, bf16 = "plain eager loop", "+ channels_last", "+ bfloat16 autocast"
    sampling = {kind: speed.table("sampling", kind, preset) for kind, preset in speed.USUAL.items()}
    on_cpu, on_gpu = (own.set_index(["sampler", "steps"]) for own in sampling.values())
    peers = [speed.table("DDPM beside its peers", kind, preset).set_index(["job", "library"])
             for kind, preset in speed.USUAL.items()]  # fmt: skip
    cpu_train, gpu_train = (own["ratio"].drop("ddgan_core", level=1).iloc[:2] for own in peers)
    cpu_draw, gpu_draw = (own[["ratio", "ratio_low", "ratio_high"]].iloc[-2:] for own in peers)
    small = speed.table("DDPM beside its peers", "cuda", "full")["seconds"].iloc[3]
    spread = [(own["seconds_per_1000"] / own["steps"]).agg(lambda e: e.max() / e.min()) for own in sampling.values()]
    one, four, thousand = (on_gpu.loc[at] for at in (("ddgan", 1), ("ddgan", 4), ("ancestral", 1000)))
    parts = speed.table("where an update's time goes", "cuda", "full").set_index("kind")["seconds"]
    reached = speed.arithmetic_alone()
    clean = {kind: speed.table("FID beside clean-fid", kind).set_index("method") for kind in speed.DEVICES}
    on_card = clean["cuda"].loc[OURS]
    as_good = compared(pd.concat([
        by_seed("cpu", rows=["non_saturating_js"], tag=tag).assign(row=tag) for tag in ("bf16-shared", "")
    ], ignore_index=True))  # fmt: skip
    for claim in (
        f"within {spread[0]:.2f} times", f"within {spread[1]:.2f} times",
        f"take {one['seconds_per_1000']:.3f} s in one step, {four['seconds_per_1000']:.3f} s in four",
        f"and {thousand['seconds_per_1000']:.1f} s in a thousand",
        f"One step is {one['speedup']:.0f} times as fast as a thousand ({one['speedup_low']:.0f} to "
        f"{one['speedup_high']:.0f}), four are {four['speedup']:.0f} times as fast ({four['speedup_low']:.0f} to "
        f"{four['speedup_high']:.0f})",
        "on the CPU {:,.0f} ({:,.0f} to {:,.0f}) and {:,.0f} ({:,.0f} to {:,.0f})".format(
            *(on_cpu.loc[("ddgan", n), c] for n in (1, 4) for c in ("speedup", "speedup_low", "speedup_high"))),
        f"512 took {0.512 * on_gpu.loc[('ddim', 10), 'seconds_per_1000']:.3f} s.",
        f"read once 64 images take {small:.3f} s",
        "({:.1f} and {:.1f} a second in the plain loop)".format(*(g.loc[plain, "updates_per_s"] for g in gpu)),
        "{:.1f} times the plain loop at batch 32 and {:.1f} times at batch 128".format(
            *(g.loc[STARTED, "ratio"] for g in gpu)),
        "multiply that by {:.1f} and by {:.1f}".format(*(g.loc[PRODUCT, "gain"] for g in gpu)),
        f"the kernels alone take {1e3 * parts.drop('idle').sum():.1f} ms",
        "takes {:.0f} ms at batch 32 and {:.0f} ms at batch 128".format(
            *(1e3 / g.loc[STARTED, "updates_per_s"] for g in gpu)),
        "neither channels_last ({:.2f} and {:.2f} times)".format(*(g.loc[last, "gain"] for g in gpu)),
        "nor bfloat16 ({:.2f} and {:.2f}, its".format(*(g.loc[bf16, "gain"] for g in gpu)),
        "to {:.0f} and {:.0f} when group norm".format(*(g.loc[PRODUCT, "updates_per_s"] for g in gpu)),
        "bfloat16 gains {:.2f} and {:.2f} times".format(*(g.loc[PRODUCT_BF16, "gain"] for g in gpu)),
        "reaches {1:.0f} % of the card's convolution ceiling".format(*(100 * reached["share"])),
        "products alone {1:.0f} %".format(*(100 * reached["share_alone"])),
        f"(CPU: {100 * reached['share'].iloc[0]:.0f} % and {100 * reached['share_alone'].iloc[0]:.0f} %)",
        f"{cpu_train.mean():.1f} times as fast as in diffusers",
        "{:.1f} and {:.1f} times as fast on the GPU".format(*gpu_train),
        "take {:.2f} ({:.2f} to {:.2f}) and {:.2f} ({:.2f} to {:.2f}) times as long; on the CPU".format(
            *gpu_draw.to_numpy().ravel()),
        "they take {:.2f} and {:.2f} times as long".format(*cpu_draw["ratio"]),
        f"FID: {clean['cpu'].loc[OURS, 'ratio']:.1f} times clean-fid's images a second on the CPU and "
        f"{on_card['ratio']:.1f} times on the GPU ({on_card['ratio_low']:.1f} to {on_card['ratio_high']:.1f})",
        "128 images, bfloat16 moves FID by {:.2f}, and by {:.2f} where only the later layers".format(
            *clean["cpu"].loc[[BF16, LATE_BF16], "fid_change_alone"]),
        "both piles so shifted it moves by {:.2f} and, the later layers alone, by {:.2f}".format(
            *clean["cpu"].loc[[BF16, LATE_BF16], "fid_change"]),
        f"have it ({clean['cpu'].loc[LATE_BF16, 'ratio']:.1f} times clean-fid)",
        "on the GPU, by {:.3f}, by {:.3f} in float16 and {:.3f} in TF32".format(
            *clean["cuda"].loc[[BF16, "ddgan_core, float16", "ddgan_core, TF32"], "fid_change"].abs()),
        "in bfloat16 {:.1f} and {:.1f}.".format(*(clean[kind].loc[BF16, "ratio"] for kind in ("cpu", "cuda"))),
        "{:.2f} and {:.2f} times at batch 32 and 128".format(*(c.loc[PRODUCT_FASTEST, "ratio"] for c in cpu)),
        "without them at 128 ({1:.2f}), not at 32 ({0:.2f})".format(*(c.loc[PRODUCT_BF16, "ratio"] for c in cpu)),
        "not in float32: {:.2f} and {:.2f}, with shared fakes {:.2f} and {:.2f}".format(
            *(c.loc[name, "ratio"] for name in (PRODUCT, PRODUCT_SHARED) for c in cpu)),
        "gains nothing ({:.2f} and {:.2f} times), nor does a compiled generator ({:.2f} and {:.2f})".format(
            *(c.loc[name, "gain"] for name in TRIED for c in cpu)),
        "has {ratio:.2f} times the distance ({low:.2f} to {high:.2f})".format(**as_good.iloc[0]),
        "save {:.2f} times in float32 and {:.2f} in bfloat16 at batch 32 ({:.2f} and {:.2f} at 128)".format(
            *(c.loc[name, "gain"] for c in cpu for name in (PRODUCT_SHARED, PRODUCT_FASTEST))),
        "{:.1f} and {:.1f} times in float32 at batch 32 and 128".format(*(g.loc[PRODUCT, "ratio"] for g in gpu)),
        f"(lowest turn at 128 {gpu[1].loc[PRODUCT, 'low']:.2f})",
        "{:.1f} and {:.1f} in bfloat16".format(*(g.loc[PRODUCT_BF16, "ratio"] for g in gpu)),
    ):  # fmt: skip
        assert claim in said, claim


def test_what_notebook_12_predicts_is_counted() -> None:
    said = (ROOT / "notebooks" / "12_speed.ipynb").read_text()
    trainer = Trainer(configure("cpu", batch_size=4), torch.zeros(8, 1, 28, 28, dtype=torch.uint8))
    x, t, z = torch.zeros(4, 1, 28, 28), torch.ones(4, dtype=torch.long), torch.zeros(4, trainer.config.z_dim)
    flops = []
    for network, inputs in ((trainer.model, (x, t, z)), (trainer.critic, (x, x, t))):
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            network(*inputs)
        flops.append(counted.get_total_flops())
    g, d = flops
    no_graph, shared = (6 * g + 8 * d) / (4 * g + 8 * d), (4 * g + 8 * d) / (3 * g + 8 * d)
    assert f"where $G={g / d:.1f}D$, the two make {no_graph:.2f} and {shared:.2f} times" in said
    assert f"where the arithmetic says {shared:.2f}," in said


def test_a_loop_s_gain_is_over_the_one_that_it_builds_on(results: Path) -> None:
    assert set(speed.BUILDS_ON) == {*TRIED, STARTED, *PRODUCTS}
    assert {other for names in speed.BUILDS_ON.values() for other in names} <= {*LOOPS, STARTED, *PRODUCTS}

    def written(device: str, name: str, loops: list[str], ratios: list[float]) -> None:
        clock = "cpu_speedup" if device.startswith("CPU") else "speedup"
        rows = pd.DataFrame({"loop": loops, "device": device, "batch_size": 32, "updates_per_s": ratios})
        rows = rows.assign(**{clock: ratios, f"{clock}_low": ratios, f"{clock}_high": ratios})
        write_atomic(results / "tables" / f"bench_training_{name}_32.csv", rows.to_csv(index=False))

    product = [PRODUCT, PRODUCT_BF16]  # as tables are that know no shared fakes yet
    written("CPU, 1 threads", "cpu_cpu", [*LOOPS, *TRIED, *PRODUCTS], [1, 1, 2, 2, 4, 6, 5, 3, 4, 8, 6, 20])
    written("NVIDIA H100", "full_cuda", [*LOOPS, STARTED, *product], [1, 1, 2, 2, 4, 2, 3, 12, 24])
    found = speed.ladders("cpu")
    assert list(found) == ["CPU, 1 thread, preset cpu, batch 32", "NVIDIA H100, preset full, batch 32"]
    gains = [own["gain"].tolist()[1:] for own in found.values()]
    assert gains == [[1, 2, 1, 2, 1.5, 1.25, 0.75, 1, 2, 1.5, 2.5], [1, 2, 1, 2, 0.5, 0.75, 4, 2]]
    beside = speed.gains(found)
    assert beside.index.tolist() == [*LOOPS, *TRIED, STARTED, *PRODUCTS], "a loop of either"
    assert math.isnan(beside.loc[STARTED].iloc[0]), "a CPU has no such loop"
    assert math.isnan(beside.loc[PRODUCT_SHARED].iloc[-1])
    figure = speed.ladders_figure(found)
    goals = {title(ax): ax.texts[-1].xy[0] for ax in figure.axes}
    assert goals == dict(zip(found, (2, 5), strict=True)), "each kind of device has its own"
    assert all(len(ax.patches) == len(own) for ax, own in zip(figure.axes, found.values(), strict=True))


def test_a_table_names_its_devices_and_what_is_missing(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.beside("arithmetic", "cpu", ["work"]) is None
    assert len(capsys.readouterr().out.splitlines()) == 2
    head = "work,gflop,seconds,gflop_per_s,share,device,commit\n"
    write_atomic(results / "tables" / "bench_limits_full_cuda.csv", head + "training,8,2,4,0.5,NVIDIA H100,abc\n")
    found = speed.beside("arithmetic", "cpu", ["work", "seconds", "gap"])
    assert found.index.tolist() == ["NVIDIA H100, preset full"]
    assert found.columns.tolist() == ["work", "seconds"], "no column without a number"
    assert (
        capsys.readouterr().out == "not measured on cpu: python -m ddgan_core bench limits --preset cpu --device cpu\n"
    )
    assert speed.beside("arithmetic", "cpu", ["share"], by=["work"]).loc["training"].tolist() == ["0.500"]
    head = "kind,seconds,device,commit\n"
    lines = "convolution,0.5,NVIDIA H100,abc\nmatrix product,0.5,NVIDIA H100,abc\nidle,1,NVIDIA H100,abc\n"
    write_atomic(results / "tables" / "bench_breakdown_full_cuda.csv", head + lines)
    alone = speed.arithmetic_alone("cpu").loc["NVIDIA H100, preset full"]
    assert alone.tolist() == [2000, 1000, 0.5, 2], "8 of 4 a second, in one second"


def test_numbers_are_readable() -> None:
    numbers = pd.DataFrame({"a": [1234.5, 1.1, math.nan], "n": [5, 6, 7], "name": ["x", "y", "z"]})
    assert speed.readable(numbers).to_numpy().tolist() == [["1,234", 5, "x"], ["1.10", 6, "y"], ["", 7, "z"]]


def test_nothing_measured_is_said_in_the_figures(results: Path) -> None:
    assert speed.ladders() == {}
    assert len(speed.gains({})) == 0
    assert len(speed.arithmetic_alone()) == 0
    for figure in (speed.ladders_figure({}), speed.sampling_figure({})):
        assert [t.get_text() for t in figure.axes[0].texts] == ["not measured yet"]


def test_the_commands_that_are_due_exist() -> None:
    from ddgan_core.commands.arguments import make_parser

    for command in speed.inventory()["command"]:
        make_parser().parse_args(command.split()[3:])


def test_bars_stand_at_their_ratios_from_the_top() -> None:
    _, ax = plt.subplots()
    ratios = pd.DataFrame({"middle": [1.0, 1.5], "low": [1.0, 1.2], "high": [1.0, 1.9]})
    speed.ratio_bars(ax, ["plain", "faster"], ratios, "times")
    assert [bar.get_width() for bar in ax.patches] == [1, 1.5]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["plain", "faster"]
    assert ax.patches[0].get_y() > ax.patches[1].get_y(), "the first is on top"
    assert [t.get_text() for t in ax.texts] == ["1.00", "1.50"]


def test_a_sampler_is_a_line_of_its_own() -> None:
    _, ax = plt.subplots()
    rows = [("ddgan", 2, 4.0), ("ddgan", 1, 2.0), ("ddim", 4, 8.0), ("dpm_solver", 6, 9.0), ("ancestral", 10, 20.0)]
    speed.sampling_curve(ax, pd.DataFrame(rows, columns=["sampler", "steps", "seconds_per_1000"]))
    assert [line.get_xdata().tolist() for line in ax.lines] == [[1, 2], [4], [6], [10]]
    assert {t.get_text() for t in ax.texts} == {"DDGAN", "DDPM, DDIM", "DDPM, DPM-Solver++", "DDPM, ancestral"}


def test_devices_share_the_axis_of_seconds() -> None:
    rows = [("ddgan", 1, 2.0), ("ddgan", 2, 4.0), ("ancestral", 10, 20.0)]
    slow = pd.DataFrame(rows, columns=["sampler", "steps", "seconds_per_1000"])
    figure = speed.sampling_figure({"slow": slow, "fast": slow.assign(seconds_per_1000=slow["seconds_per_1000"] / 99)})
    assert [title(ax) for ax in figure.axes] == ["slow", "fast"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert figure.axes[0].get_ylim()[0] < 2 / 99 < 20 < figure.axes[0].get_ylim()[1]
