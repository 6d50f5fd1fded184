"""The tables of bench as notebook 12 shows them: what is missing is named with its command."""

import math
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from ddgan_core import UserError
from ddgan_core.notebook import speed
from ddgan_core.runs import Run, write_atomic
from ddgan_core.study import make_study


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
    assert speed.inventory("cpu").loc[("arithmetic", "cuda"), "device"] == "not measured", "of other networks"
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
    monkeypatch.setenv("DDGAN_RESULTS", str(Path(__file__).parent.parent / "results"))
    on_cpu = speed.inventory("cpu").xs("cpu", level="on")["device"]
    assert on_cpu.tolist() == ["CPU, 1 threads"] * len(speed.BENCHES)


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


def test_the_cost_is_the_median_cells_times_all(results: Path) -> None:
    cells = make_study("paper", "smoke").cells
    assert math.isnan(speed.cost_of_study(["smoke"]).loc["smoke", "hours for all"])
    for cell, minutes in zip(cells, (1, 2, 6), strict=False):
        Run.create(cell).set_status("done", step=cell.updates, seconds=60.0 * minutes)
    cost = speed.cost_of_study(["smoke"]).loc["smoke"]
    assert cost["trained"] == 3
    assert cost["minutes a cell"] == 2
    assert cost["hours for all"] == pytest.approx(2 * len(cells) / 60)
