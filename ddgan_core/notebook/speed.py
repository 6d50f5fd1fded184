"""What notebook 12 shows of the tables that `bench` has written: which are there, which are missing, their pictures."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ddgan_core import UserError
from ddgan_core.figures.labels import label_ends
from ddgan_core.figures.plots import COLOURS, MARKERS, plain_numbers
from ddgan_core.notebook.rows import SAME_NETWORKS
from ddgan_core.runs import results_dir
from ddgan_core.study import make_study, status

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# bench: (file in results/tables, the command that makes it); device is cpu or cuda. Some depend on no preset.
BENCHES = {
    "sampling": ("bench_sampling_{preset}_{device}", "bench sampling --preset {preset}"),
    "training, batch 32": ("bench_training_{preset}_{device}_32", "bench training --batch-size 32 --preset {preset}"),
    "training, batch 128": (
        "bench_training_{preset}_{device}_128",
        "bench training --batch-size 128 --preset {preset}",
    ),
    "DDPM beside its peers": ("bench_ddpm_{preset}_{device}", "bench ddpm --preset {preset}"),
    "FID beside clean-fid": ("bench_metrics_{device}", "bench metrics"),
    "arithmetic": ("bench_limits_{preset}_{device}", "bench limits --preset {preset}"),
    "where an update's time goes": ("bench_breakdown_{preset}_{device}", "bench limits --preset {preset}"),
    "runs at a time": ("bench_workers_{device}", "bench workers"),
}
DEVICES = ("cpu", "cuda")


def table(bench: str, device: str = "cpu", preset: str = "cpu") -> pd.DataFrame:
    """One of BENCHES as it was measured on a kind of device, with a preset's networks; empty where it was not.

    The preset's own, else another's whose networks are the same. Raises UserError for no bench.
    """
    if bench not in BENCHES:
        raise UserError(f"bench {bench!r} is not known: choose one of {', '.join(BENCHES)}")
    for name in (preset, *(SAME_NETWORKS if preset in SAME_NETWORKS else ())):
        path = results_dir() / "tables" / f"{BENCHES[bench][0].format(preset=name, device=device)}.csv"
        if path.exists():
            return pd.read_csv(path)
    return pd.DataFrame()


def device_of(measured: pd.DataFrame) -> str:
    """What a table was measured on, for a title."""
    return str(measured["device"].iloc[0]).replace(" 1 threads", " 1 thread")


def inventory(preset: str = "cpu") -> pd.DataFrame:
    """For every bench and kind of device: the device and the commit it was measured on, or the command that is due.

    A commit with a + had changes that were not committed.
    """
    lines = []
    for bench, (_, command) in BENCHES.items():
        for device in DEVICES[:1] if bench == "runs at a time" else DEVICES:
            found = table(bench, device, preset)
            here = ("not measured", "") if not len(found) else (found["device"].iloc[0], found["commit"].iloc[0])
            again = f"python -m ddgan_core {command.format(preset=preset)}" + (
                "" if bench == "runs at a time" else f" --device {device}"
            )
            lines.append({"bench": bench, "on": device, "device": here[0], "commit": here[1], "command": again})
    return pd.DataFrame(lines).set_index(["bench", "on"])


def ratio_bars(ax: "Axes", names: Sequence[str], ratios: pd.DataFrame, label: str) -> None:
    """Horizontal bars, the first on top, of a ratio's median with its lowest and highest turn; 1 is a dotted line.

    ratios: three columns, the median, the lowest and the highest.
    """
    at = range(len(names))[::-1]
    middle, low, high = (ratios.iloc[:, k].to_numpy() for k in range(3))
    ax.barh(at, middle, height=0.6, color="0.65")
    ax.hlines(at, low, high, color="0.2", lw=1.2)
    for y, value, end in zip(at, middle, high, strict=True):
        if not math.isnan(value):
            ax.annotate(f"{value:.2f}", (end, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    ax.axvline(1, color="0.6", lw=1, ls=":")
    ax.set_yticks(at, names)
    ax.set(xlabel=label, xlim=(0, None))
    ax.margins(x=0.12)
    ax.grid(axis="y", visible=False)


def sampling_curve(ax: "Axes", times: pd.DataFrame) -> None:
    """Seconds for 1,000 images against the number of steps, a line for each sampler: a table of `bench sampling`."""
    looks = {
        "ddgan": ("DDGAN", "non_saturating_js", "-"), "ancestral": ("DDPM, ancestral", "ddpm", "-"),
        "ddim": ("DDPM, DDIM", "ddpm", "--"),
    }  # fmt: skip
    ends = []
    for sampler, own in times.groupby("sampler", sort=False):
        name, row, style = looks[sampler]
        colour = COLOURS[row]
        line = own.sort_values("steps")
        ax.plot(line["steps"], line["seconds_per_1000"], marker=MARKERS[row], color=colour, ls=style, label=name)
        ends.append((float(line["steps"].iloc[-1]), float(line["seconds_per_1000"].iloc[-1]), name, colour))
    ax.set(xscale="log", yscale="log", xlabel="denoising steps", ylabel="seconds for 1,000 images")
    for axis in (ax.xaxis, ax.yaxis):
        plain_numbers(axis)
    label_ends(ax, ends)


def cost_of_study(presets: Sequence[str] = ("short", "cpu", "full")) -> pd.DataFrame:
    """The paper's grid at each preset: cells, how many are trained, minutes of one such run, hours for all.

    Minutes are the median of the preset's trained cells, on the device named; NaN where none is.
    """
    lines = []
    for preset in presets:
        cells = status(make_study("paper", preset))
        done = cells[cells["state"] == "done"]
        minutes = float(done["minutes"].median()) if len(done) else math.nan
        lines.append({
            "preset": preset, "cells": len(cells), "trained": len(done), "minutes a cell": minutes,
            "hours for all": minutes * len(cells) / 60,
        })  # fmt: skip
    return pd.DataFrame(lines).set_index("preset")
