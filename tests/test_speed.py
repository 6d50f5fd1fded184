"""The tables of bench as notebook 12 shows them: what is missing is named with its command."""

import math
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from ddgan_core import UserError
from ddgan_core.bench.training import LOOPS, PRODUCT, PRODUCT_BF16, STARTED
from ddgan_core.notebook import speed
from ddgan_core.runs import Run, write_atomic
from ddgan_core.study import make_study

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


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
    assert on_gpu.index[on_gpu == "not measured"].tolist() == ["FID beside clean-fid"]


def test_a_loop_s_gain_is_over_the_one_that_it_builds_on(results: Path) -> None:
    assert set(speed.BUILDS_ON) == {STARTED, PRODUCT, PRODUCT_BF16}
    assert {other for names in speed.BUILDS_ON.values() for other in names} <= {*LOOPS, STARTED, PRODUCT}

    def written(device: str, name: str, loops: list[str], ratios: list[float]) -> None:
        clock = "cpu_speedup" if device.startswith("CPU") else "speedup"
        rows = pd.DataFrame({"loop": loops, "device": device, "batch_size": 32, "updates_per_s": ratios})
        rows = rows.assign(**{clock: ratios, f"{clock}_low": ratios, f"{clock}_high": ratios})
        write_atomic(results / "tables" / f"bench_training_{name}_32.csv", rows.to_csv(index=False))

    product = [PRODUCT, PRODUCT_BF16]
    written("CPU, 1 threads", "cpu_cpu", [*LOOPS, *product], [1, 1, 2, 2, 4, 6, 4, 8])
    written("NVIDIA H100", "full_cuda", [*LOOPS, STARTED, *product], [1, 1, 2, 2, 4, 2, 3, 12, 24])
    found = speed.ladders("cpu")
    assert list(found) == ["CPU, 1 thread, preset cpu, batch 32", "NVIDIA H100, preset full, batch 32"]
    gains = [own["gain"].tolist()[1:] for own in found.values()]
    assert gains == [[1, 2, 1, 2, 1.5, 1, 2], [1, 2, 1, 2, 0.5, 0.75, 4, 2]]
    beside = speed.gains(found)
    assert beside.index.tolist() == [*LOOPS, STARTED, *product], "in the order of the longer one"
    assert math.isnan(beside.iloc[6, 0]), "a CPU has no such loop"
    figure = speed.ladders_figure(found)
    goals = {ax.get_title(): ax.texts[-1].xy[0] for ax in figure.axes}
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
    rows = [("ddgan", 2, 4.0), ("ddgan", 1, 2.0), ("ddim", 4, 8.0), ("ancestral", 10, 20.0)]
    speed.sampling_curve(ax, pd.DataFrame(rows, columns=["sampler", "steps", "seconds_per_1000"]))
    assert [line.get_xdata().tolist() for line in ax.lines] == [[1, 2], [4], [10]]
    assert {t.get_text() for t in ax.texts} == {"DDGAN", "DDPM, DDIM", "DDPM, ancestral"}


def test_devices_share_the_axis_of_seconds() -> None:
    rows = [("ddgan", 1, 2.0), ("ddgan", 2, 4.0), ("ancestral", 10, 20.0)]
    slow = pd.DataFrame(rows, columns=["sampler", "steps", "seconds_per_1000"])
    figure = speed.sampling_figure({"slow": slow, "fast": slow.assign(seconds_per_1000=slow["seconds_per_1000"] / 99)})
    assert [ax.get_title() for ax in figure.axes] == ["slow", "fast"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert figure.axes[0].get_ylim()[0] < 2 / 99 < 20 < figure.axes[0].get_ylim()[1]


def test_the_cost_is_the_median_cells_times_all(results: Path) -> None:
    cells = make_study("paper", "smoke").cells
    assert math.isnan(speed.cost_of_study(["smoke"]).loc["smoke", "hours for all"])
    for cell, minutes in zip(cells, (1, 2, 6), strict=False):
        Run.create(cell).set_status("done", step=cell.updates, seconds=60.0 * minutes)
    cost = speed.cost_of_study(["smoke"]).loc["smoke"]
    assert cost["trained"] == 3
    assert cost["minutes a cell"] == 2
    assert cost["hours for all"] == pytest.approx(2 * len(cells) / 60)
