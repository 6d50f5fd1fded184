"""Whether JS leads by what its generator descends or by its critic's loss: generators by another row's critic.

By JS's critic beside their own (study `minimax`), and each smooth row's by each one's, R1 as hard on all (`crossed`).
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ddgan_core.divergences import DIVERGENCES
from ddgan_core.figures.labels import LABEL_SIZE, label_ends, label_of, say
from ddgan_core.figures.plots import COLOURS, FEATURE_LABELS, panels
from ddgan_core.metrics.intervals import mean_interval, student_quantile
from ddgan_core.notebook.breakdowns import broke_down, history_of
from ddgan_core.notebook.held import MEASURES, OF_OTHERS, first_of_loss, hardness, held
from ddgan_core.study import SMOOTH, configure, make_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JS = SMOOTH[0]
ROLES = {"critic": "critic", "generator": "divergence"}  # of a row, by the column of `held` that names it
FAR = 10
IN_LOGS = ("distance",)  # measures whose ratios count


def by_js(table: pd.DataFrame) -> pd.DataFrame:
    """MEASURES of `held` by JS's critic over those by a row's own, where one seed and weight of R1 has both."""
    table = table[table["divergence"].map(first_of_loss) != JS].set_index(["divergence", "seed", "weight"])
    crossed = table["critic"].eq(JS)
    return (table.loc[crossed, [*MEASURES]] / table.loc[~crossed, [*MEASURES]]).dropna(how="all")


def averaged(ratios: pd.DataFrame) -> pd.DataFrame:
    """Of columns of ratios the geometric mean, from low to high (Student's 95 % interval), and how many are below 1."""
    lines = {}
    for name, each in ratios.items():
        mean, half = mean_interval(np.log(each.dropna().astype(float))) if each.count() > 1 else (math.nan, math.nan)
        lines[name] = {"pairs": each.count(), "below 1": (each < 1).sum(), "ratio": math.exp(mean)}
        lines[name] |= {"low": math.exp(mean - half), "high": math.exp(mean + half)}
    return pd.DataFrame.from_dict(lines, orient="index")


def factorial(preset: str) -> pd.DataFrame:
    """`held` of the study of all smooth generators by all smooth critics: its cells that did not break down."""
    cells = {cell.run_id for cell in make_study("crossed", preset).cells}
    table = held(preset, 1, rf"x2{OF_OTHERS}(-r1x[\d.]+)?")  # at T = 2 most are in other studies
    table = table[table["run_id"].isin(cells)]
    whole = [not broke_down(history_of(name, configure(preset).dataset)) for name in table["run_id"]]
    return table[np.array(whole, bool)].reset_index(drop=True)


def ran_away(table: pd.DataFrame) -> pd.Series:
    """Which runs have more than FAR times the median distance: a rule made after the analysis, by one that does."""
    return table["distance"] > FAR * table["distance"].median()


def variance_parts(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The analysis of variance of a measure of `factorial`: what the critic and the generator each decide.

    Lines: critic and generator, each beside the other and the seed; both together, beyond their sum; left, what runs of
    one cell differ by once the seed's own shift, which is in no line, is taken out. Columns: free (degrees of freedom),
    share (of the four sums of squares), F and p. Empty unless each generator and critic is there, by two seeds, and
    more runs than these decide.
    """
    from scipy.stats import f

    y, table = _values(table, measure)
    if not _free(table) or np.linalg.matrix_rank(_design(table, *ROLES, "seed")) < 2 * len(SMOOTH):
        return pd.DataFrame(columns=["free", "share", "F", "p"])
    both, cells = _left(_design(table, *ROLES, "seed"), y), _left(_cells(table), y)
    steps = {
        "critic": (_left(_design(table, "generator", "seed"), y), both),
        "generator": (_left(_design(table, "critic", "seed"), y), both),
        "both together": (both, cells),
        "left": (cells, (0.0, len(y))),
    }
    lines = {name: (more[1] - less[1], less[0] - more[0]) for name, (less, more) in steps.items()}
    found = pd.DataFrame.from_dict(lines, orient="index", columns=["free", "share"])
    mean = found["share"] / found["free"]
    found["share"] /= found["share"].sum()
    found["F"] = (mean / mean["left"]).drop("left")
    return found.assign(p=f.sf(found["F"], found["free"], found.loc["left", "free"]))


def beside_js(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Each other smooth row's critic, and generator, beside JS's: the ratio, or the difference of what is not IN_LOGS.

    By the sum of both roles and the seed, from low to high (Student's 95 % interval, by what is left in
    `variance_parts`). Index: role and row. Empty where `variance_parts` is.
    """
    if not len(variance_parts(table, measure)):
        return pd.DataFrame(columns=["estimate", "low", "high"])
    y, table = _values(table, measure)
    x = _design(table, *ROLES, "seed")
    inverse = np.linalg.inv(x.T @ x)
    estimates = inverse @ x.T @ y
    free = _free(table)
    half = student_quantile(free + 1) * np.sqrt(_left(_cells(table), y)[0] / free * np.diag(inverse))
    back = math.exp if measure in IN_LOGS else float
    names = [(role, row) for role in ROLES for row in SMOOTH[1:]]
    lines = [[back(v) for v in (e, e - h, e + h)] for e, h in zip(estimates[1:5], half[1:5], strict=True)]
    index = pd.MultiIndex.from_tuples(names, names=["role", "row"])
    return pd.DataFrame(lines, index=index, columns=["estimate", "low", "high"])


def _values(table: pd.DataFrame, measure: str) -> tuple[np.ndarray, pd.DataFrame]:
    table = table.dropna(subset=measure).reset_index(drop=True)
    y = table[measure].to_numpy(float)
    return (np.log(y) if measure in IN_LOGS else y), table


def _design(table: pd.DataFrame, *factors: str) -> np.ndarray:
    """A column of ones, and for each factor one for each level but the first (JS, the lowest seed)."""
    columns = [np.ones(len(table))]
    for factor in factors:
        own = table[ROLES.get(factor, factor)]
        levels = SMOOTH if factor in ROLES else sorted(own.unique())
        columns += [own.eq(level).to_numpy(float) for level in levels[1:]]
    return np.stack(columns, 1)


def _cells(table: pd.DataFrame) -> np.ndarray:
    """A column for each generator by each critic, and those of the seed."""
    names = table[[*ROLES.values()]].agg(" by ".join, axis=1)
    return np.hstack([pd.get_dummies(names).to_numpy(float), _design(table, "seed")])


def _free(table: pd.DataFrame) -> int:
    """How many runs more there are than cells and seeds decide."""
    return len(table) - int(np.linalg.matrix_rank(_cells(table))) if len(table) else 0


def _left(x: np.ndarray, y: np.ndarray) -> tuple[float, int]:
    """What least squares leave of y, squared, and the rank of x."""
    fitted, _, rank, _ = np.linalg.lstsq(x, y, rcond=None)
    return float(((y - x @ fitted) ** 2).sum()), int(rank)


def factorial_figure(table: pd.DataFrame) -> "Figure":
    """MEASURES of `factorial` against the critic: a line for each generator, through the means of its seeds' points.

    What `ran_away` has no point, but its values at the top.
    """
    figure, axes = panels(2, 4.2)
    table, away = table[~ran_away(table)], table[ran_away(table)]
    for ax, measure in zip(axes, MEASURES, strict=True):
        ends = []
        for k, row in enumerate(SMOOTH):
            own = table[table["divergence"] == row].dropna(subset=measure)
            if not len(own):
                continue
            at = own["critic"].map(SMOOTH.index)
            ax.errorbar(at + 0.06 * (k - 1), own[measure], own[f"{measure}_error"], fmt="o", ms=5, color=COLOURS[row])
            means = own.groupby(at)[measure].mean()
            ax.plot(means.index + 0.06 * (k - 1), means, color=COLOURS[row], lw=1.3)
            ends.append((float(means.index[-1] + 0.06 * (k - 1)), float(means.iloc[-1]), label_of(row), COLOURS[row]))
        ax.set_xticks(range(len(SMOOTH)), [label_of(row) for row in SMOOTH])
        ax.set(xlim=(-0.3, len(SMOOTH) - 0.7), xlabel="critic trained by the loss of", ylabel="lower is better")
        label_ends(ax, ends)
        for (row, critic), own in away.groupby(["divergence", "critic"]):
            text, at = "↑ " + ", ".join(f"{value:.0f}" for value in own[measure]), SMOOTH.index(critic) + 0.29
            look = {"color": COLOURS[row], "size": LABEL_SIZE, "va": "top", "ha": "right"}
            ax.text(at, 0.98, text, transform=ax.get_xaxis_transform(), **look)
        if len(table):
            ax.set_title(FEATURE_LABELS["inception" if measure == "FID" else table["features"].iloc[0]])
        else:
            say(ax, "not run yet")
    return figure


def crossed_figure(table: pd.DataFrame) -> "Figure":
    """FID and distance of each run, a line for each generator and critic; below the rule, critics of other losses.

    Filled where R1 holds the critic as hard as it usually holds JS's.
    """
    order, as_js = list(DIVERGENCES), hardness(configure())
    groups = sorted(
        table.groupby(["critic", "divergence"]), key=lambda g: (g[0][0] != JS, *(order.index(name) for name in g[0]))
    )
    names = [f"{label_of(row)}, {_whose(critic, row)}" for (critic, row), _ in groups]
    figure, axes = panels(2, 1.1 + 0.5 * max(4, len(groups)))
    for ax, measure in zip(axes, MEASURES, strict=True):
        for place, ((_, row), own) in enumerate(groups):
            heights = place + 0.12 * (np.arange(len(own)) - (len(own) - 1) / 2)
            ax.errorbar(own[measure], heights, xerr=own[f"{measure}_error"], fmt="none", color=COLOURS[row], zorder=2)
            faces = [COLOURS[row] if math.isclose(hold, as_js) else "white" for hold in own["hardness"]]
            ax.scatter(own[measure], heights, 25, faces, edgecolors=COLOURS[row], zorder=3)
        ax.set_yticks(range(len(names)), names if ax is axes[0] else [""] * len(names))
        ax.axhline(sum(critic == JS for (critic, _), _ in groups) - 0.5, color="0.6", lw=0.8)
        ax.invert_yaxis()
        ax.set(xlabel="lower is better")
        if len(table):
            ax.set_title(FEATURE_LABELS["inception" if measure == "FID" else table["features"].iloc[0]])
        else:
            say(ax, "not run yet")
    return figure


def _whose(critic: str, row: str) -> str:
    if critic == JS:
        return "JS's critic"
    return "its own" if critic == row else f"{label_of(critic)}'s critic"
