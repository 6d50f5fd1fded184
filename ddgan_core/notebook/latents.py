"""When a generator takes to its latent: what z draws of each step over a training, from the histories that record it.

Older histories do not; of finished models `evaluation.latent` says more.
"""

from typing import TYPE_CHECKING

import pandas as pd

from ddgan_core.diffusion import make_schedule
from ddgan_core.evaluation.information import error_at, path_of
from ddgan_core.evaluation.scores import load_evaluations
from ddgan_core.figures.labels import CRITICS, label_ends, label_of, say, tag_label
from ddgan_core.figures.plots import COLOURS, panels
from ddgan_core.notebook.rows import comparable, one_ruler
from ddgan_core.runs import all_runs
from ddgan_core.study import configure
from ddgan_core.tables import read_table
from ddgan_core.time_means import MAX_TIME_BINS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORDED = "variance_by_latent"  # of `Trainer.look`
FID_IMAGES = 2_000  # as many as there is time for on a CPU
RUN = ["run_id", "divergence", "tag", "seed", "T"]
COLUMNS = [*RUN, "t", "images", "share"]
BY_ANOTHER = rf"-(?:{'|'.join(CRITICS)})-critic"  # in tags of runs by another row's critic
MOST = 1.05  # shown of a share, which may be beyond 1: of one batch


def over_training(preset: str) -> pd.DataFrame:
    """What z draws of the variance e(t) that x_t leaves open, against the images seen (millions, of all steps).

    A line for each record and t of the preset's runs of the study whose histories have it and whose steps are taught
    alike. Empty where e(t) is not measured (`information`) or no run has it.
    """
    dataset, lines = configure(preset).dataset, []
    if not path_of(dataset).is_file():
        return pd.DataFrame(columns=COLUMNS)
    errors = read_table(path_of(dataset))
    for run in all_runs(dataset):
        config, history = run.config, run.history
        if (
            config.step_weights
            or config.preset != preset
            or f"{RECORDED}_t1" not in history
            or not config.z_dim
            or config.T > MAX_TIME_BINS
        ):
            continue
        needed = error_at(errors, make_schedule(config.schedule, config.T))
        for t in range(1, config.T + 1):
            images, share = history["step"] * config.batch_size / 1e6, history[f"{RECORDED}_t{t}"] / needed[t - 1]
            same = {name: getattr(config, name) for name in RUN}
            lines.append(pd.DataFrame({"images": images, "share": share}).assign(**same, t=t))
    return pd.concat(lines, ignore_index=True)[COLUMNS] if lines else pd.DataFrame(columns=COLUMNS)


def for_good(images: pd.Series, met: pd.Series) -> float:
    """The images after which `met` holds at every record, NaN if it does not at the last."""
    missed = images[~met]
    return float((images[images > missed.max()] if len(missed) else images).min())


def reached(table: pd.DataFrame, share: float) -> pd.DataFrame:
    """The images, in millions, after which each run's share is first that large for good, a column for each t.

    NaN where it never is.
    """
    if not len(table):
        return pd.DataFrame()
    runs = table.groupby(["run_id", "t"])
    return pd.Series({key: for_good(own["images"], own["share"] >= share) for key, own in runs}).unstack()


def used(preset: str) -> pd.DataFrame:
    """Scores of the runs of `over_training` beside what z draws at their end, nearest first.

    Index: run_id. Columns: frechet, frechet_error, precision, recall, recall_error, coverage by the preset's main
    features and N; FID and its error, where scored, by FID_IMAGES; "z at t = ..", the mean share of the last tenth of
    the records. Empty where nothing records it.
    """
    table, scores = over_training(preset), load_evaluations(configure(preset).dataset)
    if not len(table) or not len(scores):
        return pd.DataFrame()
    late = table[table["images"] > 0.9 * table.groupby("run_id")["images"].transform("max")]
    late = late.groupby(["run_id", "t"])["share"].mean().unstack()
    late = late[sorted(late, reverse=True)].rename(columns="z at t = {}".format)
    alike = comparable(preset)
    main = alike[alike["sampler"] == "ddgan"].set_index("run_id")
    main = main[["frechet", "frechet_error", "precision", "recall", "recall_error", "coverage"]]
    fid = inception_scores(scores)[["frechet", "frechet_error"]].set_axis(["FID", "FID_error"], axis=1)
    return late.join([main, fid], how="left")[[*main, *fid, *late]].sort_values("frechet")


def inception_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Of all scores those of whole chains in Inception's features, by FID_IMAGES and the test images. Index: run_id."""
    own = scores[(scores["features"] == "inception") & (scores["n"] == FID_IMAGES) & (scores["sampler"] == "ddgan")]
    return one_ruler(own[(own["reference"] == "test") & (own["sample_seed"] == 0)]).set_index("run_id")


def latents_figure(table: pd.DataFrame) -> "Figure":
    """`over_training`: a panel for each T and t, t = T first, a line for each run, dashed for other seeds than 0.

    Dotted: another weight of R1 than usual; runs by another row's critic are left out, they would crowd it. What the
    tags of a panel's runs share is in its title, the rest beside the lines. A T of one run is one panel, with a line
    for each t.
    """
    table = table[~table["tag"].str.contains(BY_ANOTHER)]
    alone = table.groupby("T")["run_id"].nunique().eq(1)
    parts = sorted({(T, 0 if alone[T] else t) for T, t in zip(table["T"], table["t"], strict=True)}, key=_first)
    figure, axes = panels(len(parts), 3.8)
    for ax, (T, t) in zip(axes, parts, strict=False):
        ends, here = [], table[(table["T"] == T) & (alone[T] | (table["t"] == t))]
        words = {tag: [w for w in tag_label(tag).split(", ") if w] for tag in here["tag"].unique()}
        first, *rest = words.values()
        shared = [w for w in first if all(w in others for others in rest)]
        for _, own in here.groupby(["run_id", "t"]):
            row, tag, seed, own_t = own[["divergence", "tag", "seed", "t"]].iloc[0]
            style = ":" if "-r1x" in tag else "--" if seed else "-"
            ax.plot(own["images"], own["share"], color=COLOURS[row], ls=style, lw=1.3)
            name = ", ".join([label_of(row), *(w for w in words[tag] if w not in shared)])
            name += f", seed {seed}" if seed else ""
            name = f"t = {own_t}{_which(int(own_t), T)}" if alone[T] else name
            ends.append((float(own["images"].iloc[-1]), float(own["share"].iloc[-1]), name, COLOURS[row]))
        title = f"T = {T}, " + (label_of(row) if alone[T] else f"step t = {t}{_which(t, T)}")
        title += f"\n{', '.join(shared)}" * bool(shared)
        ax.set(xlim=(0, None), ylim=(0, MOST), xlabel="million images", title=title)
        ax.set_ylabel("share of the variance drawn by z")
        label_ends(ax, ends)
    if not parts:
        say(axes[0], "no history records it yet")
        axes[0].set_axis_off()
    return figure


def _first(part: tuple[int, int]) -> tuple[int, int]:
    T, t = part
    return T, -t


def _which(t: int, T: int) -> str:
    return {1: ", the last", T: ", the first"}.get(t, "") if T > 1 else ""
