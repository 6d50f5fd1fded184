"""The study's results as small tables of text."""

import math

import pandas as pd

from ddgan_core import UserError
from ddgan_core.evaluation.scores import load_evaluations, one_axis, studied
from ddgan_core.figures.labels import label_of, tag_label, training_label
from ddgan_core.figures.plots import sampler_label
from ddgan_core.metrics.intervals import geometric_mean
from ddgan_core.notebook import speed
from ddgan_core.notebook.breakdowns import broken
from ddgan_core.notebook.held import FEW, presets_of, settings
from ddgan_core.notebook.latents import inception_scores
from ddgan_core.notebook.pairs import BESIDE, paired, pooled
from ddgan_core.notebook.rows import SAME_NETWORKS, TRAINED_LONGER, comparable
from ddgan_core.notebook.seeds import by_seed, spread
from ddgan_core.runs import all_runs
from ddgan_core.study import PAPER_ROWS, SMOOTH, SWEEP_SEED, configure

# Heading, feature network, N and digits of the distances shown, the most telling first: each N has its own bias.
MEASURES = (
    ("FID, N = 10,000", "inception", 10_000, 1), ("FID, N = 2,000", "inception", 2_000, 1),
    ("classifier, N = 10,000", "fashion_classifier", 10_000, 2),
    ("pixels, N = 200", "pixels", 200, 2),  # of preset smoke
)  # fmt: skip
STEPS = (1, 2, 4, 8)  # as published for DDGANs
LATER = "b64-bf16"  # tag of the smooth rows' runs at T = 2 that go on until JS uses its latent


def results_table(preset: str = "cpu") -> pd.DataFrame:
    """One line for each model of a preset and number of steps, best first; its dataset's real images and noise beside.

    Columns: model, steps, a distance for each of MEASURES that has been made; by the one of the first's features that
    most lines have, which orders them, precision, recall and confidence (the classifier's mean top probability);
    seconds for 1,000 images (`bench sampling`), preset, commit (of the scoring, with a + for uncommitted changes).
    Every cell is text: half the width of the 95 % interval where there is one, a dash where nothing was measured. A
    measure that less than half of the lines have is left out; so are DDGANs with a tag, other than of larger batches,
    and what is sampled by the source paper's protocol. Raises UserError for an unknown preset, and where no model is
    scored yet: baselines alone would take the place of a table.
    """
    dataset = configure(preset).dataset
    table = studied(load_evaluations(dataset, preset))
    if len(table):
        usual = (table["tag"] == "") | (table["method"] == "ddpm") | table["tag"].str.fullmatch(TRAINED_LONGER)
        table = table[(table["reference"] == "test") & usual & (table["sample_seed"] == 0)]
    made = [(m, _measured(table, m)) for m in MEASURES] if len(table) else []
    made = [(m, rows) for m, rows in made if 2 * len(rows) >= max(len(others) for _, others in made) > 0]
    if not any((rows["method"] != "").any() for _, rows in made):
        raise UserError(f"no scores of preset {preset!r} on {dataset} yet: {_run(preset)}")
    of_first = [k for k, (m, _) in enumerate(made) if m[1] == made[0][0][1]]
    whole = max(of_first, key=lambda k: len(made[k][1]))
    table = pd.concat([rows for _, rows in made])
    took = sampling_seconds(preset)
    lines = []
    for (run_id, sampler, steps), own in table.groupby(["run_id", "sampler", "steps"], sort=False):
        first = own.iloc[0]
        at = [_only(rows, run_id, sampler, steps) for _, rows in made]
        line = {"model": _model(first), "steps": str(steps) if steps else ""}
        line |= {m[0]: _with_error(rows, "frechet", m[3]) for (m, _), rows in zip(made, at, strict=True)}
        line |= {name: _with_error(at[whole], name, 2) for name in ("precision", "recall")}
        line |= {"confidence": _with_error(at[whole], "top_probability", 2)}
        line |= {"s / 1,000 images": _short(took.get((sampler, int(steps)), math.nan))}
        line |= {"preset": first["preset"], "commit": first["commit"] if first["preset"] else ""}
        order = tuple(rows["frechet"].min() if len(rows) else math.inf for rows in (at[whole], *at))
        lines.append((order, line))
    return pd.DataFrame([line for _, line in sorted(lines, key=lambda entry: entry[0])])


def curves_table(preset: str = "short") -> pd.DataFrame:
    """One line for each row of the source paper, a column for each T: squared distance (recall, coverage).

    Where there are several seeds geometric means, with the lowest and highest distance. Runs that broke down stand
    alone, with a dagger, in no mean. On the axis of most of the preset's scores. Every cell is text, empty where
    nothing was scored. Raises UserError for an unknown preset, and where no DDGAN is.
    """
    dataset = configure(preset).dataset
    table = one_axis(studied(load_evaluations(dataset, preset)))
    if len(table):
        table = table[(table["sampler"] == "ddgan") & (table["tag"] == "") & (table["seed"] != SWEEP_SEED)]
    if not len(table):
        raise UserError(f"no scores of DDGANs of preset {preset!r} on {dataset} yet: {_run(preset)}")
    rows = [name for name in PAPER_ROWS if name in set(table["divergence"])]
    cells = {key: _cell(own) for key, own in table.assign(broken=broken(table)).groupby(["divergence", "T"])}
    times = sorted({T for _, T in cells})
    return pd.DataFrame(
        [{"divergence": label_of(row)} | {f"T = {T}": cells.get((row, T), "") for T in times} for row in rows]
    )


def rows_table(preset: str = "cpu") -> pd.DataFrame:
    """One line for each row of the source paper: is it nearer than JS, and where?

    short: squared distance, over seeds their geometric mean, lowest and highest (`seeds.by_seed`), and how many broke
    down; ratio to JS's: geometric mean over the same settings and its interval over T (`pairs.pooled`), for few steps
    and for many; long: FID of the preset's first seed; longer: `LATER` runs, whose generators may use their latent. A
    single seed has the half width of its interval over draws, several their mean and range; those that broke down are
    counted alone. Every cell is text.
    """
    dataset = configure(preset).dataset
    if preset not in SAME_NETWORKS:
        raise UserError(f"preset {preset!r}: the table of rows is of the small networks' presets, short and cpu")
    seeds = {T: spread(by_seed(preset, T)) for T in (1, 2, 4)}
    pairs = paired(preset)
    few = pairs["T"] <= FEW
    ratios = {f"T = 1 to {FEW}": pooled(pairs[few]), f"T = {FEW + 1} to 10": pooled(pairs[~few])}
    scores = load_evaluations(dataset, preset)
    drawn = (scores["sampler"] == "ddgan") & (scores["reference"] == "test") & (scores["sample_seed"] == 0)
    scores = scores[drawn]
    usual = scores[(scores["T"] == 4) & (scores["tag"] == "") & (scores["seed"] == 0)]
    later = scores[(scores["T"] == 2) & (scores["tag"] == LATER)]
    lines = []
    for row in (name for name in PAPER_ROWS if name in seeds[4].index):
        line = {"divergence": label_of(row)}
        line |= {f"T = {T}, short": _seeds(table.loc[row]) if row in table.index else "–" for T, table in seeds.items()}
        for times, table in ratios.items():
            line[f"ratio to JS's, {times}"] = "1" if row == BESIDE else _ratio(table, row)
        for name, own in (("FID, T = 4, long", usual), ("T = 2, longer", later), ("FID, T = 2, longer", later)):
            measure = MEASURES[1] if "FID" in name else MEASURES[2]
            line[name] = _over_seeds(_measured(own[own["divergence"] == row], measure), measure[3])
        lines.append(line)
    if not lines:
        raise UserError(f"no scores of rows of preset {preset!r} on {dataset} yet: {_run(preset)}")
    return pd.DataFrame(lines)


def smooth_table(preset: str = "cpu") -> pd.DataFrame:
    """One line for each of `held.settings` of up to `FEW` steps: where does JS lead?

    Columns, in text: training; T; R1; for each row the squared distance (recall), and its FID, as in `rows_table`.
    Raises UserError where there is no such setting.
    """
    lines = []
    for one in settings(preset):
        line = {"training": training_label(one.preset, one.tag), "T": str(one.T)}
        line["R1"] = "as JS's" if one.held else "usual"
        most = max(map(len, one.distances.values()))
        for row, own in one.distances.items():
            fewer = f"; {len(own)} of {most} seeds" if len(own) < most else ""
            line[label_of(row)] = _over_seeds(own, 2, "recall") + fewer
        for row, own in one.fids.items():
            part = f" ({len(own)} of {len(one.distances[row])} seeds)" * (0 < len(own) < len(one.distances[row]))
            line[f"{label_of(row)}, FID"] = _over_seeds(own, 1) + part
        lines.append(line)
    if not lines:
        dataset = configure(preset).dataset
        raise UserError(f"no setting on {dataset} has scores of all of {', '.join(SMOOTH)} yet: {_run(preset)}")
    return pd.DataFrame(lines)


def steps_table(preset: str = "cpu") -> pd.DataFrame:
    """One line for each length of JS's trainings that several of `STEPS` were given, fewest images first.

    Of all presets of this one's dataset. Columns, in text: training; for each T the squared distance (recall), and the
    FID, as in `rows_table`. Raises UserError where there is no such length.
    """
    dataset = configure(preset).dataset
    configs = {run.config.run_id: run.config for run in all_runs(dataset)}
    lines = []
    for name in presets_of(dataset):
        table, fid = comparable(name), inception_scores(load_evaluations(dataset, name)).reset_index()
        own = table[table["run_id"].isin(configs) & (table["sampler"] == "ddgan")] if len(table) else table
        own = own[own["divergence"].eq(BESIDE) & own["T"].isin(STEPS) & own["seed"].ne(SWEEP_SEED)] if len(own) else own
        for tag, runs in own[own["tag"].str.fullmatch(rf"({TRAINED_LONGER}|x2)?")].groupby("tag") if len(own) else ():
            if runs["T"].nunique() > 1:
                line = {"training": training_label(name, tag)}
                by_T = {T: runs[runs["T"] == T] for T in STEPS}
                fids = {T: fid[fid["run_id"].isin(each["run_id"])] for T, each in by_T.items()}
                line |= {f"T = {T}": _over_seeds(each, 2, "recall") for T, each in by_T.items()}
                line |= {f"T = {T}, FID": _over_seeds(each, 1) for T, each in fids.items()}
                seen = configs[runs["run_id"].iloc[0]]
                lines.append((seen.updates * seen.batch_size, line))
    if not lines:
        raise UserError(f"no scores of JS with several numbers of steps on {dataset} yet: {_run(preset)}")
    return pd.DataFrame([line for _, line in sorted(lines, key=lambda entry: entry[0])])


def _seeds(line: pd.Series) -> str:
    whole = int(line["seeds"] - line["broke down"])
    said = f"{line['distance']:.1f}" if whole else ""
    said += f" [{line['lowest']:.1f} to {line['highest']:.1f}]" if whole > 1 else ""
    return said + (f"; {line['broke down']:.0f} broke down" if line["broke down"] else "")


def _over_seeds(rows: pd.DataFrame, digits: int, beside: str = "") -> str:
    """The only distance with its error, or the geometric mean of several, lowest and highest; how many broke down.

    beside: a column whose mean over the same runs is to follow in parentheses.
    """
    whole = rows[~broken(rows)]
    fell = f"{len(rows) - len(whole)} broke down"
    if len(whole) < len(rows):
        return f"{_over_seeds(whole, digits, beside)}; {fell}" if len(whole) else fell
    more = f" ({rows[beside].mean():.2f})" if beside and len(rows) else ""
    if len(rows) < 2:
        return _with_error(rows, "frechet", digits) + more
    mean, lowest, highest = geometric_mean(rows["frechet"]), rows["frechet"].min(), rows["frechet"].max()
    return f"{mean:.{digits}f} [{lowest:.{digits}f} to {highest:.{digits}f}]{more}"


def _ratio(table: pd.DataFrame, row: str) -> str:
    if row not in table.index or pd.isna(table.loc[row, "ratio"]):
        return "–"
    return "{ratio:.2f} ({low:.2f} to {high:.2f})".format(**table.loc[row])


def _run(preset: str) -> str:
    return f"python -m ddgan_core study run --preset {preset}"


def _cell(seeds: pd.DataFrame) -> str:
    whole, cells = seeds[~seeds["broken"]], []
    for own, sign in ((whole, ""), *((line, "†") for _, line in seeds[seeds["broken"]].groupby("seed"))):
        if len(own):
            distance, cover = own["frechet"], own[["recall", "coverage"]].mean()
            between = f" [{distance.min():.1f} to {distance.max():.1f}]" if len(own) > 1 else ""
            cells.append(
                f"{geometric_mean(distance):.1f}{sign}{between} ({cover['recall']:.2f}, {cover['coverage']:.2f})"
            )
    return "; ".join(cells)


def _measured(table: pd.DataFrame, measure: tuple[str, str, int, int]) -> pd.DataFrame:
    return table[(table["features"] == measure[1]) & (table["n"] == measure[2])]


def _only(rows: pd.DataFrame, run_id: str, sampler: str, steps: int) -> pd.DataFrame:
    return rows[(rows["run_id"] == run_id) & (rows["sampler"] == sampler) & (rows["steps"] == steps)]


def sampling_seconds(preset: str) -> dict[tuple[str, int], float]:
    """{(sampler, steps): seconds for 1,000 images}, as `bench sampling` measured them in turns on one machine."""
    return sampling_times(preset)["seconds_per_1000"].to_dict()


def sampling_times(preset: str) -> pd.DataFrame:
    """The table of `bench sampling` by sampler and steps: seconds_per_1000; speedup over 1000 steps, _low and _high.

    Of the preset's networks, on a CPU where that was measured, else on a GPU: where runs were scored has no say.
    """
    columns = ["sampler", "steps", "preset", "seconds_per_1000", "speedup", "speedup_low", "speedup_high"]
    found = (speed.table("sampling", kind, preset) for kind in speed.DEVICES)
    return next((t for t in found if len(t)), pd.DataFrame(columns=columns)).set_index(["sampler", "steps"])


def _short(seconds: float) -> str:
    return "" if math.isnan(seconds) else f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"


def _model(row: pd.Series) -> str:
    if row["run_id"] in ("real", "noise"):
        return "real training images" if row["run_id"] == "real" else "noise"
    if row["method"] == "ddpm":
        name = f"DDPM, {sampler_label(row['sampler'])}"
        name += f", {tag_label(row['tag'])}" if row["tag"] else ""
    else:
        name = f"DDGAN, {label_of(row['divergence'])}"
        name += f", {training_label(row['preset'], row['tag'])}" if row["tag"] else ""
    return name + (f", seed {row['seed']}" if row["seed"] else "")


def _with_error(rows: pd.DataFrame, name: str, digits: int) -> str:
    """The value of the only row, with its error; a dash without a row."""
    if len(rows) > 1:
        which = f"{rows['run_id'].iloc[0]}, {rows['features'].iloc[0]}, N = {rows['n'].iloc[0]:,}"
        raise UserError(
            f"{len(rows)} scores of {which}: of several networks or references, which one table cannot hold"
        )
    if not len(rows) or pd.isna(value := rows.iloc[-1][name]):
        return "–"
    error = rows.iloc[-1].get(f"{name}_error", math.nan)
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if pd.notna(error) else "")
