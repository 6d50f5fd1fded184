"""The result section of a row's notebook: one run opened, its samples and scores, and the row against T."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ddgan_core.data import get_dataset
from ddgan_core.diffusion import make_schedule
from ddgan_core.divergences import DIVERGENCES
from ddgan_core.evaluation import anatomy
from ddgan_core.evaluation.samples import sample
from ddgan_core.evaluation.scores import bounds, load_evaluations, read_evaluations, studied
from ddgan_core.figures import curves, grids, plots
from ddgan_core.figures.labels import label_of, tag_label
from ddgan_core.notebook.breakdowns import broken
from ddgan_core.runs import Run, RunConfig, all_runs
from ddgan_core.study import PAPER_ROWS, SCORES, configure, ensure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAIN = "plain"  # tag of runs whose critic is not shown fine detail: `train ... --set critic_detail=false --tag plain`
TRAINED_LONGER = r"b\d+(-bf16)?(-wide-critic4?(-slow)?)?|long"  # tags of runs that see more images than usual
SAME_NETWORKS = ("cpu", "short")  # presets that differ in nothing but the length of training
SHOWN = 50  # samples of a run, the first of a fixed seed, not picked
SHOWN_AT_EACH = 10  # at each T
SCORE_COLUMNS = [
    "sampler", "steps", "features", "n", "frechet", "frechet_error", "precision", "recall", "coverage",
    "classes_present", "class_kl", "top_probability",
]  # fmt: skip


def open_run(config: RunConfig, compute: bool) -> Run | None:
    """The run of this config, trained and scored first with `compute`; None where it is not. Says which in a line."""
    runs = ensure([config], compute)
    state = f"{runs[0].status['state']} {runs[0].status['reason']}".strip() if runs else "not run yet"
    print(f"{config.run_id} on {config.dataset}: {state}")
    rates = f"learning rates {config.lr_generator:g} (G), {config.lr_critic:g} (D)"
    print(f"{rates}; penalty weight {config.penalty_weight:g}")
    return runs[0] if runs else None


def training(run: Run | None, config: RunConfig) -> "Figure":
    """curves.training_figure of the run's history; where there is none, it says so."""
    return curves.training_figure(run.history if run else pd.DataFrame(), config)


def samples(run: Run | None) -> Any:
    """Samples of the run, drawn now; without weights here the ten made at its end; or a line."""
    if run and run.weights:
        return grids.image_grid(sample(run, SHOWN, seed=0))
    if run and (run.path / "samples.png").exists():
        size = get_dataset(run.config.dataset).size
        return grids.image_grid(grids.read_png_grid(run.path / "samples.png", size))
    return "no samples yet"


def scores(run: Run | None) -> Any:
    """The run's evaluations, a line each, frechet_error half of a 95 % interval over draws; else a line."""
    table = read_evaluations(run.path / "evaluations.csv") if run else pd.DataFrame()
    return table.reindex(columns=SCORE_COLUMNS).round(4) if len(table) else "no scores yet"


def comparable(preset: str) -> pd.DataFrame:
    """The preset's scores that share one axis: its main features and N, the first sample seed, the test images.

    Without controls, which are no way to make images.
    """
    _, _, features, n = SCORES[preset]["ddgan"][0]
    table = load_evaluations(configure(preset).dataset, preset)
    if not len(table):
        return table
    table = table[(table["features"] == features) & (table["n"] == n) & (table["reference"] == "test")]
    table = table[(table["sample_seed"] == 0) & (table["protocol"] != "control")]
    return one_ruler(table)


def one_ruler(table: pd.DataFrame) -> pd.DataFrame:
    """Of scores by several feature networks or references those by that of most runs."""
    ruler = ["features_hash", "reference_n"]
    if (runs := table[table["method"] != ""]).empty:
        return table
    return table[(table[ruler] == list(runs[ruler].value_counts().index[0])).all(axis=1)]


def kin(preset: str, row: str | None = None) -> list[str]:
    """The presets with this one's networks in which a row (by default any) is scored, most values of T first, then most
    runs; this one alone where none is."""
    found = {}
    for name in SAME_NETWORKS if preset in SAME_NETWORKS else (preset,):
        table = comparable(name)
        own = table[(table["method"] == "ddgan") & (table["tag"] == "")] if len(table) else table
        own = own[own["divergence"] == row] if row and len(own) else own
        if len(own):
            found[name] = own["T"].nunique(), own["run_id"].nunique(), name == preset
    return sorted(found, key=lambda name: found[name], reverse=True) or [preset]


def trainings(preset: str, row: str) -> list[tuple[str, str]]:
    """(preset, tag) of what shares a curve against T: the presets of `kin`, and runs by larger batches at several T."""
    presets = kin(preset, row)
    found = [(name, "") for name in presets]
    for name in presets:
        table = comparable(name)
        own = table[table["divergence"] == row] if len(table) else table
        larger = own[own["tag"].str.fullmatch(TRAINED_LONGER)] if len(own) else own
        found += [(name, tag) for tag, runs in larger.groupby("tag") if runs["T"].nunique() > 1] if len(larger) else []
    return found


def curves_against_T(preset: str, row: str) -> "Figure":
    """`against_T` for each of `trainings`, a panel each: they share no curve."""
    kinds = trainings(preset, row)
    figure, axes = plots.panels(len(kinds))
    for ax, (name, tag) in zip(axes, kinds, strict=True):
        against_T(name, row, ax, tag)
    return figure


def against_T(preset: str, row: str, ax: Any, tag: str = "") -> pd.DataFrame:
    """Draw plots.fid_curve of all runs of a row in a preset, by its main features and N; returns what is drawn.

    Each run was trained at its own T. Real images and noise bound the axis where they have been scored.
    """
    table = comparable(preset)
    drawn = table[(table["divergence"] == row) & (table["tag"] == tag)]
    drawn = drawn.assign(broken=broken(drawn))
    plots.fid_curve(ax, drawn, **bounds(table, drawn))
    return drawn


def scores_against_T(preset: str, row: str) -> pd.DataFrame:
    """Distance, precision, recall and coverage of a row's runs by preset, tag (of `trainings`), T and seed."""
    columns = ["frechet", "frechet_error", "precision", "recall", "recall_error", "coverage"]
    own = []
    for name, tag in trainings(preset, row):
        table = comparable(name)
        if len(table):
            own.append(table[(table["divergence"] == row) & (table["tag"] == tag) & (table["sampler"] == "ddgan")])
    return pd.concat(own).set_index(["preset", "tag", "T", "seed"])[columns].sort_index() if own else pd.DataFrame()


def cut_short(preset: str) -> pd.DataFrame:
    """For each row and T sampled as published, its distance by the step at which the chain is begun; T is the whole.

    In each preset of `kin`, by its main features and N; the line alpha_bar has that of the step.
    """
    tables = {name: found for name in kin(preset) if len(found := _cut_short(name))}
    return pd.concat(tables, names=["preset"]) if tables else pd.DataFrame()


def beside_cut_short(preset: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As corrected beside as published: a preset's comparable scores, and of these what is to be drawn.

    Drawn are DDGANs trained for their own T, and chains of the longest T that is also sampled from smaller t on: in the
    preset of `kin` where that T is largest. Nothing is drawn without such chains.
    """
    found = {}
    for name in kin(preset):
        table = comparable(name)
        own = table[(table["method"] == "ddgan") & (table["tag"] == "")] if len(table) else pd.DataFrame(columns=["T"])
        cut = own[own["sampler"] == "truncated"] if len(own) else own
        longest = cut[cut["T"] == cut["T"].max()]
        found[name] = table, pd.concat([studied(own), longest]) if len(longest) else own.iloc[:0]
    return max(found.values(), key=lambda pair: pair[1]["T"].max() if len(pair[1]) else 0)


def _cut_short(preset: str) -> pd.DataFrame:
    table = comparable(preset)
    table = table[(table["tag"] == "") & (table["method"] == "ddgan")] if len(table) else table
    cut = table[table["sampler"] == "truncated"] if len(table) else table
    if not len(cut):
        return pd.DataFrame()
    both = table.merge(cut[["run_id"]].drop_duplicates())
    found = both.pivot_table(index=["T", "divergence"], columns="steps", values="frechet")
    for T in sorted(set(cut["T"])):
        alpha_bar = make_schedule(configure(preset, T=T).schedule, T).alpha_bar
        found.loc[(T, "alpha_bar"), :] = [float(alpha_bar[t]) if t <= T else float("nan") for t in found.columns]
    return found.sort_index().rename_axis(columns="chain begun at t")


def samples_at_each_T(preset: str, row: str, seed: int, tag: str = "") -> "Figure | None":
    """The same ten sample seeds at every T of a row, from the grids made when its runs ended; None where none has.

    In the preset of `kin` with most T; of a tag, in the preset itself.
    """
    preset = preset if tag else kin(preset, row)[0]
    runs = [r for r in all_runs(configure(preset).dataset) if (r.config.preset, r.config.tag) == (preset, tag)]
    runs = [r for r in runs if (r.config.divergence, r.config.seed) == (row, seed)]
    runs = sorted((r for r in runs if (r.path / "samples.png").exists()), key=lambda r: r.config.T)
    if not runs:
        return None
    size = get_dataset(runs[0].config.dataset).size
    images = torch.cat([grids.read_png_grid(r.path / "samples.png", size)[:SHOWN_AT_EACH] for r in runs])
    whose = f"{label_of(row)}, preset {preset}" + (f", {tag_label(tag)}" if tag else "")
    title = f"{whose}: the first {SHOWN_AT_EACH} samples of a seed"
    return grids.image_grid(images, labels=[f"T = {r.config.T}" for r in runs], title=title)


def beside(preset: str, T: int, seed: int = 0, tag: str = "") -> list[Run]:
    """All runs of a preset and tag at one T and seed, and any DDPM of them: what a row is compared with."""
    runs = [r for r in all_runs(configure(preset).dataset) if (r.config.preset, r.config.tag) == (preset, tag)]
    return [r for r in runs if r.config.method == "ddpm" or (r.config.T, r.config.seed) == (T, seed)]


def sight(preset: str) -> pd.DataFrame:
    """What each row's critics saw at t = 1, by T: minus their loss there, a mean over the last quarter of training.

    0: a critic that cannot tell real x_0 from fake ones. Of the runs of `_by_T`.
    """
    return _by_T(preset, ("critic_t1",), lambda _, late, __: -late["critic_t1"])


def log_ratios(preset: str) -> pd.DataFrame:
    """The log q/p that each row's critics gave images, by T; rows whose logit is no log ratio are left out.

    largest: the largest record of a training, to be set beside LOG_RATIO_BOUND (a record is a mean over many updates of
    a batch's largest). gap: mean of real images less mean of fake ones at t = 1, over the last quarter. typical: its
    root, as of small true log ratios d the gap is the mean square (E_q d - E_p d = E_p (e^d - 1) d); of a critic that
    is behind a guide only. Runs: `_by_T`.
    """

    def log_ratio(row: str, v: float) -> float:
        found = DIVERGENCES[row].log_ratio
        return found(torch.tensor(v, dtype=torch.float64)).item() if found else float("nan")

    def largest(row: str, _: pd.Series, history: pd.DataFrame) -> float:
        logit = history["logit_largest"].max()
        return max(abs(log_ratio(row, logit)), abs(log_ratio(row, -logit)))

    def gap(row: str, late: pd.Series, _: pd.DataFrame) -> float:
        return log_ratio(row, late["logit_real_t1"]) - log_ratio(row, late["logit_fake_t1"])

    def typical(*record: Any) -> float:
        return float(np.sqrt(np.maximum(0.0, gap(*record))))  # NaN stays NaN

    columns = ("logit_largest", "logit_real_t1", "logit_fake_t1")
    return pd.concat({of.__name__: _by_T(preset, columns, of) for of in (largest, gap, typical)}).dropna(how="all")


def late(history: pd.DataFrame) -> pd.DataFrame:
    """The records of the last quarter of a training: what its players do "at the end"."""
    return history.tail(max(1, round(len(history) / 4)))


def _by_T(preset: str, columns: Sequence[str], of: Callable[[str, pd.Series, pd.DataFrame], float]) -> pd.DataFrame:
    """of(row, means over the last quarter, history), by row and T: of the DDGANs whose histories have these columns, of
    the first seed and without a tag, in the preset of `kin` with most T. Empty where there is none."""
    most = kin(preset)[0]
    found = {}
    for run in all_runs(configure(preset).dataset):
        config = run.config
        if (config.preset, config.method, config.seed, config.tag) != (most, "ddgan", 0, ""):
            continue
        if config.divergence not in PAPER_ROWS:  # of a notebook's own, whose losses may not be known here
            continue
        history = run.history
        if set(columns) <= set(history):
            found[config.divergence, config.T] = of(config.divergence, late(history).mean(), history)
    if not found:
        return pd.DataFrame()
    table = pd.Series(found).rename_axis(["row", "T"]).unstack()
    return table.reindex([row for row in PAPER_ROWS if row in table.index])


def critics(preset: str, T: int, seed: int = 0) -> pd.DataFrame:
    """Each row at one T by the study's critic, which is shown fine detail, and by one that is not (tag `PLAIN`).

    The scores of SCORE_COLUMNS by the preset's main features and N, and stripes: the median power of fine horizontal
    ones over that of test images (`anatomy`); NaN where it was not measured. Empty where no run has that tag.
    """
    table, dataset = comparable(preset), configure(preset).dataset
    if not len(table):
        return table
    table = table[
        (table["sampler"] == "ddgan") & (table["T"] == T) & (table["seed"] == seed) & table["tag"].isin(["", PLAIN])
    ]
    table = table[table["divergence"].isin(table.loc[table["tag"] == PLAIN, "divergence"])]
    stripes = anatomy.table("textures", dataset, beside(preset, T, seed) + beside(preset, T, seed, PLAIN))
    if len(stripes):
        fine = stripes[(stripes["classes"] == "all") & (stripes["period"] == 0) & (stripes["stripes"] == "horizontal")]
        table = table.assign(stripes=table["run_id"].map(fine.drop_duplicates("run_id").set_index("run_id")["ratio"]))
    table = table.assign(critic=table["tag"].map({"": "shown fine detail", PLAIN: "plain"}))
    columns = ["frechet", "frechet_error", "precision", "recall", "coverage", "stripes"]
    return table.set_index(["divergence", "critic"]).reindex(columns=columns).sort_index()
