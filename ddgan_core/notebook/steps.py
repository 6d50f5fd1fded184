"""What notebook 13 shows: how far a run gets by the updates that each of its steps had, and what each step decides."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ddgan_core.diffusion import make_schedule
from ddgan_core.evaluation.information import decided
from ddgan_core.evaluation.scores import load_evaluations
from ddgan_core.figures.labels import label_ends, with_room
from ddgan_core.figures.plots import FEATURE_NAMES, panels, plain_numbers
from ddgan_core.notebook.latents import inception_scores
from ddgan_core.notebook.rows import comparable, kin, late
from ddgan_core.runs import Run, all_runs
from ddgan_core.study import configure, make_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Marker of (schedule, are batches the preset's?), and how it is filled.
LOOKS = {("vp", True): ("o", "full"), ("vp", False): ("s", "full")}
LOOKS |= {("cosine", True): ("D", "none"), ("cosine", False): ("s", "none")}
OTHER_LOOK = ("X", "none")  # of a schedule that no study has
COLOUR_OF_T = {1: "#e8870e", 2: "#d6246e", 4: "#7a2ca0", 8: "#1a3f8f"}  # doublings; what else there is stays grey
THOUSANDS = [n * 10.0**k for k in range(-2, 5) for n in (1, 2, 5)]  # ticks of images
TRAINING = ["T", "schedule", "batch_size", "usual_batch", "updates", "per_step"]  # what repeats of a run share
MEASURES = ("frechet", "frechet_error", "precision", "recall", "recall_error", "coverage", "coverage_error")


def by_updates(preset: str, row: str, critic_width: int = 1) -> pd.DataFrame:
    """A row's runs in all presets of these networks that differ in T, updates, batches, schedule, seed and precision.

    critic_width: how many times as wide as the presets' their critic is, the same in all runs.
    Columns: run_id, preset, T, schedule, batch_size, usual_batch (is it the preset's?), seed, arithmetic, updates,
    per_step = updates / T (t is uniform, so each step had as many),
    MEASURES in the presets' common ruler, and seen_t1 .. seen_tT: minus the critic's loss late in training. In order of
    per_step, first seeds in float32 first; empty where nothing is scored.
    """
    lines = []
    for name in kin(preset, row):
        scores = comparable(name)
        if not len(scores):
            continue
        scores = scores[scores["sampler"] == "ddgan"].set_index("run_id")
        for run in all_runs(configure(name).dataset):
            config = run.config
            names = ("schedule", "updates", "batch_size", "precision", "tag", "seed")
            free = {field: getattr(config, field) for field in names}
            batch_size, widths = configure(name).batch_size, configure(name).critic_widths
            free["critic_widths"] = tuple(critic_width * width for width in widths)
            usual = configure(name, divergence=row, T=config.T).changed(**free)
            if config != usual or config.run_id not in scores.index:
                continue
            line = {"run_id": config.run_id, "preset": name, "T": config.T, "schedule": config.schedule}
            line |= {"batch_size": config.batch_size, "usual_batch": config.batch_size == batch_size}
            line |= {"seed": config.seed, "arithmetic": config.precision, "updates": config.updates}
            line |= {"per_step": config.updates / config.T, "features": scores["features"].iloc[0]}
            line |= {"n": scores["n"].iloc[0]} | scores.loc[config.run_id, list(MEASURES)].to_dict()
            lines.append(line | _seen(run))
    if not lines:
        return pd.DataFrame()
    order = ["per_step", "T", "schedule", "batch_size", "seed", "arithmetic"]
    return pd.DataFrame(lines).sort_values(order, ascending=[*[True] * 5, False], ignore_index=True)


def _seen(run: Run) -> dict[str, float]:
    """seen_t1 .. seen_tT: minus the critic's loss over the last quarter of the training."""
    end = late(run.history)
    return {f"seen_t{t}": -end[f"critic_t{t}"].mean() for t in range(1, run.config.T + 1) if f"critic_t{t}" in end}


def unequal(preset: str) -> pd.DataFrame:
    """What is scored of study `steps`, whose steps have unequal shares of the updates, and of twins that share alike.

    Of the preset of these networks with most T. Index: T, shares (of t = 1 to T, in %), seed; columns: last (the
    share of t = 1), distance, FID, each with its _error (half of a 95 % interval over draws), recall, coverage, and
    seen_t1 .. seen_tT as in `by_updates`.
    """
    name = kin(preset)[0]
    cells = make_study("steps", name).cells
    main = comparable(name)
    main = main[main["sampler"] == "ddgan"].set_index("run_id") if len(main) else main
    cells = [cell for cell in cells if cell.run_id in main.index]
    twins = {cell.changed(step_weights=(), tag=re.sub("-?[a-z]+$", "", cell.tag)) for cell in cells}
    fid, lines = inception_scores(load_evaluations(configure(name).dataset, name)), []
    for cell in sorted({*twins, *cells}, key=lambda c: c.run_id):
        if cell.run_id not in main.index:
            continue
        weights = np.array(cell.step_weights or [1] * cell.T)
        line = {"T": cell.T, "shares": ", ".join(f"{100 * share:.0f}" for share in weights / weights.sum())}
        line |= {"seed": cell.seed, "last": 100 * weights[0] / weights.sum()}
        for measure, scores in {"distance": main, "FID": fid}.items():
            own = scores.reindex([cell.run_id]).iloc[0]
            line |= {measure: own["frechet"], f"{measure}_error": own["frechet_error"]}
        lines.append(line | main.loc[cell.run_id, ["recall", "coverage"]].to_dict() | _seen(Run(cell)))
    table = pd.DataFrame(lines)
    order = ["T", "last", "seed"]
    return table.sort_values(order, kind="stable").set_index(["T", "shares", "seed"]) if lines else table


def shares_figure(table: pd.DataFrame) -> "Figure":
    """Distance and FID of `unequal` by the share of t = 1: a point for each run, a line through means for each T.

    The line leaves out laws that do not teach a step the more the later it is: in them t = 1 is not all that changes.
    """
    figure, axes = panels(2, 4.4)
    for ax, measure in zip(axes, ("distance", "FID"), strict=True):
        ends = []
        for T, own in table.dropna(subset=measure).groupby("T"):
            colour, laws = _tint(int(T)), own.index.get_level_values("shares").str.split(", ")
            on_the_line = own[[sorted(law, key=float, reverse=True) == law for law in laws]]
            means = np.exp(np.log(on_the_line[measure]).groupby(on_the_line["last"].to_numpy()).mean())
            ax.errorbar(own["last"], own[measure], own[f"{measure}_error"], fmt="o", ms=5, color=colour)
            ax.plot(means.index, means, color=colour, lw=1)
            ends.append((float(own["last"].iloc[-1]), float(own[measure].iloc[-1]), f"T = {T}", colour))
        label_ends(ax, ends)
        ax.set(xlabel="per cent of the updates for t = 1", ylabel="lower is better")
        ax.set_title("FID, N = 2,000" if measure == "FID" else "Distance by the FashionMNIST classifier, N = 10,000")
    return figure


def repeated(table: pd.DataFrame) -> pd.DataFrame:
    """Runs that share `TRAINING` in one line: the geometric mean of their distances, the means of recall and coverage.

    runs: how many they are. In the order of the table.
    """
    same = table.assign(frechet=np.log(table["frechet"])).groupby(TRAINING, sort=False)
    means = same[["frechet", "recall", "coverage"]].mean().assign(runs=same.size())
    return means.assign(frechet=np.exp(means["frechet"])).reset_index()


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """What a longer training brings: from each length to the next longer one with the same T.

    Columns: T, updates, longer (those of the next), runs and frechet (`repeated`), then (the next one's distance),
    power: by which power of the updates the distance falls between the two. By the usual schedule and batches.
    """
    own = repeated(table[(table["schedule"] == "vp") & table["usual_batch"]]).sort_values(["T", "updates"])
    then = own.groupby("T")[["updates", "frechet"]].shift(-1)
    found = own[["T", "updates", "runs", "frechet"]].assign(longer=then["updates"], then=then["frechet"]).dropna()
    found = found[["T", "updates", "longer", "runs", "frechet", "then"]]
    found["power"] = np.log(found["frechet"] / found["then"]) / np.log(found["longer"] / found["updates"])
    return found.astype({"longer": int}).reset_index(drop=True)


def equal_images(table: pd.DataFrame, within: float = 1.1) -> pd.DataFrame:
    """Runs whose steps were each shown as many images, set side by side: by the usual schedule, all batches.

    Index: images of each step, in thousands, lowest to highest; columns: T; a cell: distance (recall, coverage), of all
    trainings of that T (`repeated`, then how many runs), fewest images first.
    Neighbours that differ by less than a factor `within` stand in one line; lines of one T are left out.
    """
    own = repeated(table[table["schedule"] == "vp"])
    own = own.assign(images=own["per_step"] * own["batch_size"] / 1000).sort_values("images", kind="stable")
    lines = {}
    for _, group in own.groupby((own["images"].pct_change() > within - 1).cumsum()):
        if group["T"].nunique() > 1:
            low, high = group["images"].iloc[[0, -1]]
            said = [
                f"{r.frechet:.2f} ({r.recall:.2f}, {r.coverage:.2f})" + f", {r.runs} runs" * (r.runs > 1)
                for r in group.itertuples()
            ]
            cells = pd.Series(said, index=group["T"]).groupby(level=0).agg("; ".join).to_dict()
            lines[f"{low:.0f}" + (f" to {high:.0f}" if high > low else "")] = cells
    return pd.DataFrame.from_dict(lines, orient="index").sort_index(axis=1).fillna("").rename_axis("thousand images")


def _tint(T: int) -> str:
    return COLOUR_OF_T.get(T, "0.7")


def budget_figure(table: pd.DataFrame) -> "Figure":
    """Distance by images of all steps and of each; recall and coverage by the latter; a point a run, a line a T.

    Lines join the means of runs by the usual schedule (`repeated`), of all batches. Bars are 95 % intervals over draws.
    """
    import matplotlib.pyplot as plt

    table = table.assign(images=table["updates"] * table["batch_size"] / 1000)
    table = table.assign(each=table["images"] / table["T"])
    figure, axes = plt.subplots(2, 2, figsize=(10.5, 6.4))
    views = (("images", "frechet"), ("each", "frechet"), ("each", "recall"), ("each", "coverage"))
    for ax, (x, y) in zip(axes.flat, views, strict=True):
        ends = []
        for T, own in table.groupby("T"):
            line = repeated(own[own["schedule"] == "vp"])
            line = line.assign(images=line["updates"] * line["batch_size"] / 1000)
            line = line.assign(each=line["images"] / line["T"]).sort_values(x)
            colour, front = _tint(int(T)), 3 if T in COLOUR_OF_T else 2
            ax.plot(line[x], line[y], color=colour, lw=1.3, zorder=front)
            for kind, runs in own.groupby(["schedule", "usual_batch"]):
                marker, fill = LOOKS.get(kind, OTHER_LOOK)
                error, filled = runs[f"{y}_error"], colour if fill == "full" else "white"
                ax.vlines(runs[x], runs[y] - error, runs[y] + error, color=colour, lw=1, zorder=front)
                ax.plot(runs[x], runs[y], ls="", marker=marker, color=colour, mfc=filled, ms=7, zorder=front)
            if T in COLOUR_OF_T and len(line):
                ends.append((float(line[x].iloc[-1]), float(line[y].iloc[-1]), f"T = {T}", colour))
        ax.set_xscale("log")
        ax.minorticks_off()
        if y == "frechet":
            ax.set_yscale("log")
            plain_numbers(ax.yaxis)
        ticks = with_room(ax, [n for n in THOUSANDS if 0.9 * table[x].min() < n < 1.1 * table[x].max()])
        ax.set_xticks(ticks, [f"{n:,g}" for n in ticks])
        label_ends(ax, ends)
        ax.set_xlabel("thousand images, all steps together" if x == "images" else "thousand images of each step")
    (by_all, by_each), (recall, coverage) = axes
    by_all.set(title="Fréchet distance by the length of training")
    by_each.set(title="Fréchet distance by what each step had of it")
    recall.set(title="Recall: real images in a sample's ball", ylabel="higher is better")
    coverage.set(title="Coverage: real images whose ball has a sample")
    ruler = f"{FEATURE_NAMES[table['features'].iloc[0]]}\nN = {int(table['n'].iloc[0]):,}: lower is better"
    by_all.set_ylabel(ruler)
    others = [str(T) for T in sorted(set(table["T"])) if T not in COLOUR_OF_T]
    batches = ", ".join(str(n) for n in sorted(set(table.loc[~table["usual_batch"], "batch_size"])))
    keys = [("o", "full", f"T = {', '.join(others)}")] * bool(others)
    keys += [("s", "full", f"batches of {batches}")] * bool(batches)
    keys += [("D", "none", "cosine schedule")] * bool((table["schedule"] == "cosine").any())
    handles = [
        plt.Line2D([], [], ls="", marker=marker, color="0.6", mfc="0.6" if fill == "full" else "white", label=said)
        for marker, fill, said in keys
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def equal_steps(table: pd.DataFrame, schedules: Sequence[str], times: Sequence[int]) -> pd.DataFrame:
    """As many steps that decide as much as each other as a chain's are worth: exp of the entropy of their shares.

    table: of `information.measure`. Index: schedules; columns: T. A step that decides nothing does not count.
    """

    def worth(name: str, T: int) -> float:
        share = decided(table, make_schedule(name, T))["share"].clip(lower=1e-12)
        return float(np.exp(-(share * np.log(share)).sum()))

    found = {T: [worth(name, T) for name in schedules] for T in times}
    return pd.DataFrame(found, index=pd.Index(schedules, name="schedule")).rename_axis(columns="T")


def schedule_figure(table: pd.DataFrame, schedules: Sequence[str], times: Sequence[int]) -> "Figure":
    """What noise leaves open against the signal-to-noise ratio, and the share of it that each step of a chain decides.

    table: of `information.measure`. A bar is a chain from noise (left) to image (right), cut where its steps meet.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.4), width_ratios=(1, 1.35))
    left.plot(table["snr"], table["error"] / table["error"].iloc[0], color="0.2")
    left.set(
        xscale="log", xlabel="signal-to-noise ratio", ylabel="open, as a share of the variance", ylim=(0, 1.05),
        title="What noise leaves open of an image",
    )  # fmt: skip
    bars = [(name, T) for T in times for name in schedules]
    for k, (name, T) in enumerate(bars):
        begin = 0.0
        for step in decided(table, make_schedule(name, T)).itertuples():
            shade = plt.get_cmap("cividis")(0.1 + 0.85 * (T - step.t) / max(1, T - 1))
            right.barh(k, step.share, left=begin, height=0.7, color=shade, edgecolor="white", lw=1)
            if step.share > 0.045:
                dark = (T - step.t) / max(1, T - 1) < 0.55
                text = f"t = {step.t}" if step.share > 0.09 else f"{step.t}"
                right.text(
                    begin + step.share / 2, k, text, ha="center", va="center", size=9, color="w" if dark else "k"
                )
            begin += step.share
    right.set_yticks(
        range(len(bars)), [f"T = {T}, {'variance-preserving' if name == 'vp' else name}" for name, T in bars]
    )
    right.invert_yaxis()
    right.grid(visible=False)
    right.set(
        xlim=(0, 1),
        xlabel="share of the variance decided, from noise on the left to the image on the right",
        title="By which step",
    )
    return figure
