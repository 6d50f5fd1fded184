"""By which critic's loss a log ratio is learnt from the fewest images: in closed form, and of a finished generator.

Real x ~ N(m/2, 1), fake x ~ N(-m/2, 1), as many of each, and a critic a x + b: log(q/p) = m x is among what it can say.
The loss of JS is the likelihood of "real or fake" given x, so that none of the others has a smaller variance when
images are many (Gutmann & Hyvarinen 2012; Uehara, Matsuda & Komaki 2018). `evaluation.critics` measures the other.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from ddgan_core.divergences import Divergence, get_divergence
from ddgan_core.figures.labels import label_ends, label_of, say
from ddgan_core.figures.plots import COLOURS, panels, plain_numbers
from ddgan_core.notebook.rows import late
from ddgan_core.objectives import log_ratio_line, make_row
from ddgan_core.runs import Run
from ddgan_core.study import SMOOTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NODES = 120  # of the quadrature
DRAWN = {"auc": "AUC", "agreement": "cosine of slopes, between seeds"}  # which no row's critic is trained by
KNOWN = ("nats", *DRAWN)
GAPS = np.geomspace(0.02, 4, 40)


def images_needed(row: Divergence, gap: float) -> float:
    """How many images this row's critic needs for one of JS's, to know the log ratio as well: a ratio of variances.

    gap: m^2, by which the mean log ratio of real images exceeds that of fake ones. The variance is that of the
    minimiser of a mean, H^-1 S H^-1, for many images, by quadrature. Raises UserError as `log_ratio_line`.
    """
    return _variance(row, gap) / _variance(get_divergence("jensen_shannon"), gap)


def _variance(row: Divergence, gap: float) -> float:
    """Of the log ratio that the critic has learnt, averaged over both kinds, times the images of each."""
    steepness, level = log_ratio_line(row)
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(NODES))
    weights, m = weights / weights.sum(), gap**0.5
    bend, spread, seen = torch.zeros(3, 2, 2, dtype=torch.float64)
    for side in (m / 2, -m / 2):
        x = nodes + side
        parts, v = torch.stack([torch.ones_like(x), x]), ((m * x - level) / steepness).requires_grad_()
        rest = torch.zeros_like(v)  # a critic's loss is a sum of what each kind costs
        loss = row.critic(v, rest) if side > 0 else row.critic(rest, v)
        loss = loss + 0 * v.square()  # a linear loss has a curvature, too: none
        (slope,) = torch.autograd.grad(loss.sum(), v, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), v)
        slope = slope.detach()
        mean = parts @ (weights * slope)
        bend += (parts * weights * curvature) @ parts.T
        spread += (parts * weights * slope.square()) @ parts.T - torch.outer(mean, mean)
        seen += (parts * weights) @ parts.T / 2
    inverse = torch.linalg.inv(bend)
    return steepness**2 * float(torch.trace(inverse @ spread @ inverse @ seen))


def gaps(runs: list[Run]) -> pd.DataFrame:
    """By which their critics told real from fake images, in log ratios: means over the last quarter of each training.

    Index: run_id. Columns: critic (the row whose loss trains it), "t = 1" and so on.
    """
    lines = {}
    for run in runs:
        config, records = run.config, late(run.history).mean()
        steepness, _ = log_ratio_line(make_row(config.divergence, config.critic_divergence))
        told = {f"t = {t}": records[f"logit_real_t{t}"] - records[f"logit_fake_t{t}"] for t in range(1, config.T + 1)}
        critic = config.critic_divergence or config.divergence
        lines[config.run_id] = {"critic": critic} | {t: steepness * gap for t, gap in told.items()}
    table = pd.DataFrame.from_dict(lines, orient="index") if lines else pd.DataFrame(columns=["critic", "t = 1"])
    return table.rename_axis("run_id")


def efficiency_figure(ax: "Axes", found: pd.DataFrame) -> None:
    """`images_needed` of the smooth rows' critics against the gap; ticks below, by critic: `gaps` of runs at t = 1."""
    ends = []
    for name in SMOOTH:
        needed = [images_needed(get_divergence(name), gap) for gap in GAPS]
        ax.plot(GAPS, needed, color=COLOURS[name])
        ends.append((float(GAPS[-1]), needed[-1], label_of(name), COLOURS[name]))
    ax.set(xscale="log", yscale="log", xticks=(0.03, 0.1, 0.3, 1, 3), yticks=(1, 2, 5, 10, 20))
    plain_numbers(ax.xaxis), plain_numbers(ax.yaxis)
    ax.set(xlabel="gap of mean log ratios, real less fake images", ylabel="images needed for one of JS's")
    for row, own in found.groupby("critic", sort=False):
        ax.plot(own["t = 1"], [0.8] * len(own), "|", ms=12, mew=1.5, color=COLOURS[row])
    label_ends(ax, ends)


def learnt(found: pd.DataFrame) -> pd.DataFrame:
    """KNOWN of each row's critics after all their images, of one run and t of `critics.table`: mean, lowest, highest.

    Over seeds. Agreement is shared between them: of three, a seed's is the mean of two cosines.
    """
    last = found[found["images"] == found.groupby("row")["images"].transform("max")]
    table = last.groupby("row", sort=False)[[*KNOWN]].agg(["mean", "min", "max"])
    return table.rename(columns={"min": "lowest", "max": "highest"}, level=1)


def critics_figure(found: pd.DataFrame) -> "Figure":
    """DRAWN of one run and t against the images seen: a point for each seed, a line through their means."""
    figure, axes = panels(len(DRAWN), 3.8)
    for ax, (name, words) in zip(axes, DRAWN.items(), strict=True):
        ends = []
        for row, own in found.groupby("row", sort=False):
            ax.plot(own["images"], own[name], ".", color=COLOURS[row])
            mean = own.groupby("images")[name].mean()
            ax.plot(mean.index, mean, color=COLOURS[row], lw=1.3)
            ends.append((float(mean.index[-1]), float(mean.iloc[-1]), label_of(row), COLOURS[row]))
        ax.set(xscale="log", xlabel="real images seen by the critic", ylabel=words)
        if len(found):
            at = sorted(found["images"].unique())
            ax.set_xticks(at, [f"{images:,}" for images in at])
            ax.minorticks_off()
            label_ends(ax, ends)
        else:
            say(ax, "not measured yet")
    return figure
