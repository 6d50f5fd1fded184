"""The source paper's claims, each with a rule in words and in code, and the verdict that the results give it.

Only scores that share one axis are used; a rule that lacks its runs answers "undecided" and says what is missing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ddgan_core.evaluation.scores import load_evaluations, one_axis, read_evaluations, studied
from ddgan_core.figures.plots import sampler_label
from ddgan_core.metrics.intervals import geometric_mean
from ddgan_core.notebook.breakdowns import broke_down
from ddgan_core.notebook.ranking import preferred, read_answers
from ddgan_core.notebook.rows import kin
from ddgan_core.notebook.summary import sampling_times
from ddgan_core.runs import Run, all_runs, results_dir
from ddgan_core.study import PAPER_ROWS, SMOOTH, reference_split, scores_due

VERDICTS = SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
SEEDS, TIMES, TRIALS, ANSWERS, MODELS, ASKED = 3, 5, 4, 100, 4, 20  # what the rules need, at least
STRONG = 0.7  # a rank correlation's size
LEVEL, BEHIND = 1.1, 1.5  # times a distance: as good; farther off than seeds of one run were seen to be
TWO_ORDERS = 10**1.5  # nearer to two orders of magnitude than to one
NAMED = ("non_saturating_js", "squared_hellinger")  # the source paper's best

Verdict = tuple[str, str]  # and its evidence


@dataclass(frozen=True)
class Evidence:
    """What the rules read. `gather` makes it from results/.

    ddgan, ddpm: scores on one axis, of cells as they were trained and of the DDPM. swept: row, failed, broken and
    frechet of each trial of the sweep. distances: {model: frechet} of what people may rank, shares: {model: share of
    preferences} of those that stood in ASKED or more of `answers` answers. times: summary.sampling_times. preset: whose
    runs these are.
    """

    preset: str
    ddgan: pd.DataFrame
    ddpm: pd.DataFrame
    swept: pd.DataFrame
    distances: pd.Series
    shares: pd.Series
    answers: int
    times: pd.DataFrame


@dataclass(frozen=True)
class Claim:
    """A sentence of the source paper, the rule that decides about it, in words and in code."""

    name: str
    says: str
    rule: str
    judge: Callable[[Evidence], Verdict]


def gather(preset: str, dataset: str) -> Evidence:
    """The evidence there is: of the preset of these networks with the most T scored (`rows.kin`)."""
    judged = kin(preset)[0]
    scores = load_evaluations(dataset, judged)
    tried = one_axis(studied(scores[scores["method"] != ""]))
    tried = tried[(tried["tag"] == "") & tried["divergence"].isin(["none", *PAPER_ROWS])]  # no controls, as minimax JS
    swept = [
        {"row": r.config.divergence, "failed": r.status["state"] == "failed", "broken": broke_down(r.history)}
        | {"frechet": _score(r)}
        for r in all_runs(dataset)
        if r.config.preset == judged and r.config.tag.startswith("sweep-lr") and r.status["state"] in ("done", "failed")
    ]
    asked = one_axis(studied(load_evaluations(dataset, preset)))  # people are shown the notebook's own preset
    names = asked["run_id"] + "/" + asked["sampler"] + "-" + asked["steps"].astype(str)
    answers = read_answers(results_dir() / "ratings" / f"{dataset}.csv")
    shares = preferred(answers)
    return Evidence(
        judged,
        tried[(tried["method"] == "ddgan") & (tried["protocol"] == "as_trained")],
        tried[tried["method"] == "ddpm"],
        pd.DataFrame(swept, columns=["row", "failed", "broken", "frechet"]),
        asked.groupby(names)["frechet"].mean(),
        shares.loc[shares["answers"] >= ASKED, "share"] if len(shares) else pd.Series(dtype=float),
        len(answers),
        sampling_times(judged),
    )


def _score(run: Run) -> float:
    """The distance by which a trial of the sweep is judged, its first score that was due; NaN where it is not there."""
    sampler, steps, features, n = scores_due(run.config)[0]
    wanted = {"sampler": sampler, "steps": steps, "features": features, "n": n, "sample_seed": 0}
    table = read_evaluations(run.path / "evaluations.csv")
    table = table[table["reference"] == reference_split(run.config)]
    for column, value in wanted.items():
        table = table[table[column] == value]
    return float(table.sort_values("reference_n")["frechet"].iloc[-1]) if len(table) else float("nan")


def verdicts(evidence: Evidence) -> pd.DataFrame:
    """A line for each of CLAIMS: claim, says, rule, verdict, evidence. Runs of `smoke` decide nothing."""
    lines = []
    for claim in CLAIMS:
        verdict, why = claim.judge(evidence)
        if evidence.preset == "smoke" and verdict != UNDECIDED:
            verdict, why = UNDECIDED, f"smoke run; the rule would say {verdict}: {why}"
        lines.append({"claim": claim.name, "says": claim.says, "rule": claim.rule, "verdict": verdict, "evidence": why})
    return pd.DataFrame(lines).set_index("claim")


def _ten_steps(e: Evidence) -> Verdict:
    best, full = (
        e.ddgan[e.ddgan["T"] == 10],
        e.ddpm[e.ddpm["sampler"] == "ancestral"].groupby("steps")["frechet"].agg(geometric_mean),
    )
    if not len(best) or not len(full):
        return UNDECIDED, f"on this axis: {len(best)} runs at T = 10, {len(full)} scores of the DDPM by ancestral steps"
    first = best.loc[best["frechet"].idxmin()]
    why = f"{first['divergence']} at T = 10: {first['frechet']:.3g}; DDPM by steps: {listed(full)}"
    if 1000 in full.index and first["frechet"] <= LEVEL * full[1000]:
        return SUPPORTED, why
    return CONTRADICTED if first["frechet"] > BEHIND * full.min() else UNDECIDED, why


def _best_rows(e: Evidence) -> Verdict:
    seeds = e.ddgan[e.ddgan["T"] == 4].groupby("divergence")["frechet"].agg(["min", "max", "size"])
    seeds = seeds.reindex(PAPER_ROWS).fillna({"size": 0})
    if seeds["size"].min() < SEEDS:
        return UNDECIDED, f"seeds at T = 4 (three needed): {listed(seeds['size'])}"
    named, others = seeds.loc[list(NAMED)], seeds.drop(list(NAMED))
    why = "; ".join(f"{row} {low:.3g} to {high:.3g}" for row, low, high, _ in seeds.itertuples())
    if others["min"].min() > named["max"].max():
        return SUPPORTED, why
    return CONTRADICTED if others["max"].min() < named["min"].max() else UNDECIDED, why


def _by_row(e: Evidence) -> dict[str, pd.Series]:
    return {
        row: e.ddgan[e.ddgan["divergence"] == row].groupby("T")["frechet"].agg(geometric_mean) for row in PAPER_ROWS
    }


def _improves_with_T(e: Evidence) -> Verdict:
    curves = _by_row(e)
    if min(len(curve) for curve in curves.values()) < TIMES:
        return UNDECIDED, f"values of T per row (five needed): {listed({row: len(c) for row, c in curves.items()})}"
    ranks = {row: _rank_correlation(curve.index, curve) for row, curve in curves.items()}
    why = "; ".join(f"{row} {rank:+.2f}, best at T = {curves[row].idxmin()}" for row, rank in ranks.items())
    if max(ranks.values()) <= -STRONG:
        return SUPPORTED, why
    return CONTRADICTED if pd.Series(ranks).median() >= STRONG else UNDECIDED, why


def _follows_the_eye(e: Evidence) -> Verdict:
    shares = e.shares[e.shares.index.isin(e.distances.index)]
    if e.answers < ANSWERS or len(shares) < MODELS:
        return UNDECIDED, f"answers by people: {e.answers} of {ANSWERS}, about {len(shares)} models of {MODELS}"
    rank = _rank_correlation(e.distances[shares.index], shares)
    verdict = SUPPORTED if rank <= -STRONG else CONTRADICTED if rank > 0 else UNDECIDED
    return verdict, f"rank correlation {rank:+.2f} over {len(shares)} models, {e.answers} answers"


def _most_stable(e: Evidence) -> Verdict:
    found = e.swept.assign(frechet=e.swept["frechet"].where(~e.swept["failed"].astype(bool), math.inf))
    rows = found.dropna(subset=["frechet"]).groupby("row").agg(
        trials=("failed", "size"), failed=("failed", "sum"), broken=("broken", "sum"), best=("frechet", "min"),
        worst=("frechet", "max"),
    )  # fmt: skip
    rows = rows.reindex(PAPER_ROWS).fillna({"trials": 0})
    if rows["trials"].min() < TRIALS:
        return UNDECIDED, f"scored or diverged trials of the sweep per row (four needed): {listed(rows['trials'])}"
    ratio = (rows["worst"] / rows["best"]).fillna(math.inf)  # of a row that never trained, too
    failed, js = rows["failed"], NAMED[0]
    others = rows.index.drop(js)
    why = "; ".join(
        f"{row}: {failed[row]:.0f} diverged, {rows['broken'][row]:.0f} broke down, worst/best {ratio[row]:.3g}"
        for row in rows.index
    )
    if failed[js] <= failed[others].min() and ratio[js] <= ratio[others].min():
        return SUPPORTED, why
    beaten = any(failed[row] < failed[js] and ratio[row] < ratio[js] for row in others)
    return CONTRADICTED if beaten else UNDECIDED, why


def _faster(e: Evidence) -> Verdict:
    if ("ddgan", 10) not in e.times.index:
        return UNDECIDED, "`bench sampling` has not been run for these networks"
    fast, at_10 = e.times.loc[("ddgan", 10)], e.ddgan[e.ddgan["T"] == 10]["frechet"].min()
    why = f"{fast['speedup']:.0f} times ({fast['speedup_low']:.0f} to {fast['speedup_high']:.0f}) as fast as 1000 steps"
    if pd.isna(at_10):
        return UNDECIDED, f"{why}; no row is scored at T = 10, so that no quality is equal to it"
    equal = e.ddpm[e.ddpm["frechet"] <= at_10].sort_values("steps")
    if not len(equal):
        return UNDECIDED, f"{why}; no scored number of the DDPM's steps is as good as the best row at T = 10"
    sampler, steps = equal[["sampler", "steps"]].iloc[0]
    if (sampler, steps) not in e.times.index:
        return (
            UNDECIDED,
            f"{why}; as good are {steps} steps ({sampler_label(sampler)}), which `bench sampling` has not timed",
        )
    gain = fast["speedup"] / e.times.loc[(sampler, steps), "speedup"]
    why += f", and {gain:.3g} times as fast as the fewest that are as good, {steps} ({sampler_label(sampler)})"
    return SUPPORTED if gain >= TWO_ORDERS else CONTRADICTED, why


def _rows_merge(e: Evidence) -> Verdict:
    wide = pd.DataFrame(_by_row(e)).reindex(columns=list(PAPER_ROWS))
    derived = wide[list(SMOOTH)].dropna()
    if len(derived) < TIMES:
        return UNDECIDED, f"values of T at which these rows are scored (five needed): {list(derived.index) or 'none'}"
    spread, every = (part.max(axis=1) / part.min(axis=1) for part in (derived, wide.dropna()))
    rank, of_all = (_rank_correlation(part.index, part) for part in (spread, every))
    why = f"worst/best by T: {listed(spread)}; rank correlation {rank:+.2f} (all five rows: {of_all:+.2f})"
    return CONTRADICTED if rank >= STRONG else UNDECIDED, why


def _rank_correlation(x: Any, y: pd.Series) -> float:
    """Spearman's; 0 where either does not vary."""
    rank = y.rank().corr(pd.Series(list(x), y.index).rank())
    return 0.0 if pd.isna(rank) else float(rank)


def listed(numbers: Mapping[Any, float] | pd.Series) -> str:
    """{a: 1, b: 2} as "a 1, b 2"; "none" where it is empty."""
    return ", ".join(f"{name} {number:.3g}" for name, number in numbers.items()) or "none"


CLAIMS = (
    Claim(
        "C1", "ten GAN steps reach the quality of a DDPM with 1000, at the same generator",
        "the best row at T = 10 and the ancestral DDPM: supported if it is at most 10 % above 1000 steps, contradicted "
        "if it is half as far again as the best number of steps up to 1000 that is scored", _ten_steps,
    ),
    Claim(
        "C2", "squared Hellinger and JS are the best",
        "at T = 4, three seeds of each of the five rows: supported if the worst seed of either beats the best seed of "
        "every other row; contradicted if another row's worst seed beats the best seed of one of them", _best_rows,
    ),
    Claim(
        "C3", "FID improves with the number of steps",
        "rank correlation of T and distance, each of the five rows at five T or more, each trained for as many "
        "updates (a run that broke down counts with its distance): supported if all are at most -0.7, contradicted if "
        "the median row's is at least 0.7",
        _improves_with_T,
    ),
    Claim(
        "C4", "FID follows subjective quality",
        "100 answers of people or more about two unnamed grids, over four models or more of 20 answers each: supported "
        "if the rank correlation of a model's share of preferences with its distance is at most -0.7, contradicted "
        "above 0",
        _follows_the_eye,
    ),
    Claim(
        "C5", "non-saturating JS trains most stably, the others need careful learning rates",
        "four trials of each row in the sweep: supported if JS has the fewest that diverged and the smallest ratio of "
        "worst to best distance (without bound if a trial diverged), contradicted if another row beats it in both",
        _most_stable,
    ),
    Claim(
        "C6", "sampling is two orders of magnitude faster than a DDPM's",
        "speed counts at equal quality: the time of the fewest DDPM steps that do as well as the best row at T = 10 "
        "over that of T = 10, in turns on one machine: supported from 32 times on (10^1.5, nearer to two orders than "
        "to one), else contradicted", _faster,
    ),
    Claim(
        "C7", "the choice of a divergence can be given a mathematical ground (announced)",
        "no finding of theirs; judged is what notebook 09 derives of rows with f''(1), that they draw together as T "
        "grows. Correlation of ranks of T and of worst over best of them, at five T or more: contradicted if at least "
        "0.7, and never supported, since rows whose critics see nothing draw together as well", _rows_merge,
    ),
)  # fmt: skip
