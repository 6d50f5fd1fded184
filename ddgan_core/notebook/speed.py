"""What notebook 12 shows of the tables that `bench` has written: which are there, which are missing, their pictures."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import pandas as pd

from ddgan_core import UserError
from ddgan_core.figures.labels import label_ends
from ddgan_core.figures.plots import COLOURS, DDPM_LOOKS, MARKERS, plain_numbers
from ddgan_core.notebook.rows import SAME_NETWORKS
from ddgan_core.runs import results_dir
from ddgan_core.study import configure
from ddgan_core.tables import read_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    "FID's network": ("bench_network_{device}", "bench network"),
    "arithmetic": ("bench_limits_{preset}_{device}", "bench limits --preset {preset}"),
    "where an update's time goes": ("bench_breakdown_{preset}_{device}", "bench limits --preset {preset}"),
    "runs at a time": ("bench_workers_{device}", "bench workers"),
}
DEVICES = ("cpu", "cuda")
ON_A_CPU = ("FID's network", "runs at a time")  # benches of no other device
USUAL = {"cpu": "cpu", "cuda": "full"}  # the preset whose networks each kind of device is measured with
# Loops of `bench training` that do not build on the line above, and what each builds on: the first that is there.
BUILDS_ON = {
    "or: one critic pass for real and fake": ("+ channels_last",),
    "or: the generator compiled": ("+ channels_last",),
    "ddgan_core, without CUDA graphs": ("+ channels_last",),
    "ddgan_core, as trained": ("ddgan_core, without CUDA graphs", "+ channels_last"),
    "ddgan_core, in bfloat16": ("ddgan_core, as trained",),
    "ddgan_core, shared fakes": ("ddgan_core, as trained",),
    "ddgan_core, shared fakes, in bfloat16": ("ddgan_core, in bfloat16",),
}
GOALS = {"cpu": 2, "cuda": 5}  # times the plain loop's updates a second: aimed at before anything was measured
GOAL_COLOUR = "#a04000"


def table(bench: str, device: str = "cpu", preset: str = "cpu") -> pd.DataFrame:
    """One of BENCHES as it was measured on a kind of device, with a preset's networks; empty where it was not.

    The preset's own, else another's whose networks are the same. Raises UserError for no bench.
    """
    return _found(bench, device, (preset, *(SAME_NETWORKS if preset in SAME_NETWORKS else ())))[0]


def shown(bench: str, preset: str = "cpu") -> dict[str, pd.DataFrame]:
    """One of BENCHES on every kind of device that it was measured on, by the device and the preset of the networks.

    `table` for the preset, else for the USUAL one of the device, whose networks are others, on the same data.
    """
    found = {}
    for device in _devices(bench):
        measured, of = _measured(bench, device, preset)
        if len(measured):
            found[device_of(measured) + (f", preset {of}" if of else "")] = measured
    return found


def _measured(bench: str, device: str, preset: str) -> tuple[pd.DataFrame, str]:
    """What is shown for a kind of device, and the preset of its networks, "" where they are of none."""
    usual = USUAL[device]
    others = (usual,) if configure(preset).dataset == configure(usual).dataset else ()
    return _found(bench, device, (preset, *(SAME_NETWORKS if preset in SAME_NETWORKS else ()), *others))


def _found(bench: str, device: str, presets: Sequence[str]) -> tuple[pd.DataFrame, str]:
    if bench not in BENCHES:
        raise UserError(f"bench {bench!r} is not known: choose one of {', '.join(BENCHES)}")
    name = BENCHES[bench][0]
    for preset in presets:
        path = results_dir() / "tables" / f"{name.format(preset=preset, device=device)}.csv"
        if path.exists():
            return read_table(path), preset if "{preset}" in name else ""
    return pd.DataFrame(), ""


def _devices(bench: str) -> tuple[str, ...]:
    return DEVICES[:1] if bench in ON_A_CPU else DEVICES


def device_of(measured: pd.DataFrame) -> str:
    """What a table was measured on, for a title."""
    return str(measured["device"].iloc[0]).replace(" 1 threads", " 1 thread")


def kind_of(measured: pd.DataFrame) -> str:
    """The one of DEVICES that a table was measured on."""
    return "cpu" if device_of(measured).startswith("CPU") else "cuda"


def inventory(preset: str = "cpu") -> pd.DataFrame:
    """For every bench and kind of device: device, preset and commit it was measured with, and the command that does it.

    A commit with a + had changes that were not committed. Presets other than the one asked for are the USUAL ones.
    """
    lines = []
    for bench in BENCHES:
        for device in _devices(bench):
            found, of = _measured(bench, device, preset)
            here = ("not measured", "") if not len(found) else (found["device"].iloc[0], found["commit"].iloc[0])
            line = {"bench": bench, "on": device, "device": here[0], "preset": of, "commit": here[1]}
            lines.append(line | {"command": command(bench, device, of or preset)})
    return pd.DataFrame(lines).set_index(["bench", "on"])


def command(bench: str, device: str, preset: str) -> str:
    """What measures one of BENCHES on a kind of device."""
    line = f"python -m ddgan_core {BENCHES[bench][1].format(preset=preset)}"
    return line if bench in ON_A_CPU else f"{line} --device {device}"


def beside(bench: str, preset: str, columns: Sequence[str], by: Sequence[str] = ()) -> pd.DataFrame | None:
    """Columns of `shown`, numbers as text, one device under the other; with `by`, side by side in lines named by it.

    For a kind of device without a table a line says what would measure it. Columns without a number are left out. None
    where nothing was measured.
    """
    for device in _devices(bench):
        if not len(_measured(bench, device, preset)[0]):
            print(f"not measured on {device}: {command(bench, device, preset)}")
    found = {where: own.reindex(columns=[*by, *columns]) for where, own in shown(bench, preset).items()}
    if not found:
        return None
    if by:
        found = {where: own.set_index(list(by)) for where, own in found.items()}
    both = pd.concat(found, axis="columns" if by else "index", names=["measured on"]).dropna(axis="columns", how="all")
    return readable(both if by else both.droplevel(1))


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    """Numbers with a fraction as text of three digits or more; what is missing as nothing."""
    return numbers.map(lambda v: _text(v) if isinstance(v, float) else v)


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def ladders(preset: str = "cpu") -> dict[str, pd.DataFrame]:
    """The tables of `bench training` that are shown, by device and preset, then batch size: a loop each line.

    ratio, low, high: of the plain loop's time to the line's own; on a CPU of CPU time, which other work on the machine
    disturbs less. gain: of the time of the line that this one builds on to its own: the line above, or by BUILDS_ON.
    """
    found = {}
    by_batch = [(batch, shown(f"training, batch {batch}", preset)) for batch in (32, 128)]
    for where in dict.fromkeys(where for _, tables in by_batch for where in tables):
        for batch, tables in by_batch:
            if where not in tables:
                continue
            clock = "cpu_speedup" if kind_of(tables[where]) == "cpu" else "speedup"
            own = tables[where].rename(columns={clock: "ratio", f"{clock}_low": "low", f"{clock}_high": "high"})
            found[f"{where}, batch {batch}"] = own.assign(gain=_gains(own.set_index("loop")["ratio"]))
    return found


def _gains(ratio: pd.Series) -> list[float]:
    gains = [math.nan]
    for above, name in pairwise(ratio.index):
        base = next((other for other in BUILDS_ON.get(name, ()) if other in ratio), above)
        gains.append(ratio[name] / ratio[base])
    return gains


def gains(found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Of each of `ladders` its updates a second and its gains, a loop each line."""
    columns = {"updates_per_s": "updates a second", "gain": "gain"}
    tables = {name: own.set_index("loop")[list(columns)].rename(columns=columns) for name, own in found.items()}
    every = dict.fromkeys(name for own in found.values() for name in own["loop"])
    order = [name for name in every if name not in BUILDS_ON] + [name for name in BUILDS_ON if name in every]
    return pd.concat(tables, axis=1).reindex(order) if found else pd.DataFrame()


def ladders_figure(found: Mapping[str, pd.DataFrame]) -> "Figure":
    """`ratio_bars` of each of `ladders`; panels of one kind of device stand in a row and share their axes and goal."""
    import matplotlib.pyplot as plt

    kinds = {kind: own for kind in DEVICES if (own := [n for n in found if kind_of(found[n]) == kind])}
    lines = [max(len(found[name]) for name in names) + 3 for names in kinds.values()] or [8]
    across = max(map(len, kinds.values()), default=1)
    figure, axes = plt.subplots(
        len(lines), across, figsize=(5.2 * across + 2, 0.32 * sum(lines)), height_ratios=lines, squeeze=False,
        sharey="row", layout="constrained",
    )  # fmt: skip
    figure.get_layout_engine().set(hspace=0.06)
    for ax in axes.flat:
        ax.set_axis_off()
    if not kinds:
        axes[0][0].text(0.5, 0.5, "not measured yet", ha="center", va="center", color="0.5")
    for row, (kind, names) in zip(axes, kinds.items(), strict=False):
        longest = max(GOALS[kind], *(found[name]["high"].max() for name in names))
        for ax, name in zip(row, names, strict=False):
            ax.set_axis_on()
            loops, ratios = list(found[name]["loop"]), found[name][["ratio", "low", "high"]]
            ratio_bars(ax, loops, ratios, "times the plain loop's updates a second")
            ax.axvline(GOALS[kind], color=GOAL_COLOUR, lw=1, ls="--", zorder=0.9)
            ax.annotate("aimed at", (GOALS[kind], 1), (-4, -2), ("data", "axes fraction"), "offset points", ha="right",
                        va="top", fontsize=9, color=GOAL_COLOUR)  # fmt: skip
            ax.set(title=name, xlim=(0, 1.13 * longest))
    return figure


def sampling_figure(found: Mapping[str, pd.DataFrame]) -> "Figure":
    """`sampling_curve` of every device on which it was measured, the seconds on one axis."""
    import matplotlib.pyplot as plt

    across = max(1, len(found))
    figure, axes = plt.subplots(1, across, figsize=(6 * across, 4.2), squeeze=False, sharey=True)
    if not found:
        axes[0][0].text(0.5, 0.5, "not measured yet", ha="center", va="center", color="0.5")
        axes[0][0].set_axis_off()
        return figure
    seconds = pd.concat(found)["seconds_per_1000"]
    axes[0][0].set(yscale="log", ylim=(0.6 * seconds.min(), 1.7 * seconds.max()))
    for ax, (where, times) in zip(axes[0], found.items(), strict=True):
        sampling_curve(ax, times)
        ax.set(title=where, ylabel=ax.get_ylabel() if ax is axes[0][0] else "")
    return figure


def arithmetic_alone(preset: str = "cpu") -> pd.DataFrame:
    """By device and preset: an update's milliseconds, those of its convolutions and matrix products, what each reaches.

    share: of the higher ceiling, by the whole time; share_alone: by what they take themselves, by the profiler.
    """
    lines = {}
    parts, tables = shown("where an update's time goes", preset), shown("arithmetic", preset)
    for where in [where for where in tables if where in parts]:
        limits, kinds = tables[where], parts[where].set_index("kind")["seconds"]
        update = limits[limits["work"].str.startswith("training")].iloc[0]
        alone = float(kinds.reindex(["convolution, backward", "convolution", "matrix product"]).sum())
        ceiling = limits["gflop_per_s"].max()
        lines[where] = {
            "update, ms": 1e3 * update["seconds"], "convolutions and matrix products, ms": 1e3 * alone,
            "share": update["share"], "share_alone": update["gflop"] / alone / ceiling,
        }  # fmt: skip
    return pd.DataFrame(lines).T


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
            text = ax.annotate(f"{value:.2f}", (end, y), xytext=(5, 0), textcoords="offset points", va="center")
            text.set(fontsize=9, bbox={"fc": "white", "ec": "none", "pad": 0.8})
    ax.axvline(1, color="0.6", lw=1, ls=":")
    ax.set_yticks(at, names)
    ax.set(xlabel=label, xlim=(0, None))
    ax.margins(x=0.12)
    ax.grid(axis="y", visible=False)


def sampling_curve(ax: "Axes", times: pd.DataFrame) -> None:
    """Seconds for 1,000 images against the number of steps, a line for each sampler: a table of `bench sampling`."""
    ends = []
    for sampler, own in times.groupby("sampler", sort=False):
        how, style = DDPM_LOOKS.get(sampler, ("", "-"))
        name, row = (f"DDPM, {how}", "ddpm") if how else ("DDGAN", "non_saturating_js")
        colour = COLOURS[row]
        line = own.sort_values("steps")
        ax.plot(line["steps"], line["seconds_per_1000"], marker=MARKERS[row], color=colour, ls=style, label=name)
        ends.append((float(line["steps"].iloc[-1]), float(line["seconds_per_1000"].iloc[-1]), name, colour))
    ax.set(xscale="log", yscale="log", xlabel="denoising steps", ylabel="seconds for 1,000 images")
    for axis in (ax.xaxis, ax.yaxis):
        plain_numbers(axis)
    label_ends(ax, ends)
