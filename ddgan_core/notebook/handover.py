"""At which step a chain loses its quality: DDGANs whose last t steps begin at real images with noise, for each t.

There they get what they were trained on, q(x_t), so that what they miss is missed by those t steps alone. What the
distance grows by from t - 1 to t is step t's part: what it makes wrong itself, and what it hands down that the steps
below it were not trained on.
"""

from typing import TYPE_CHECKING

import pandas as pd

from ddgan_core.evaluation.scores import AXIS, load_evaluations
from ddgan_core.figures.labels import label_ends, label_of, say, tag_label
from ddgan_core.figures.plots import COLOURS, FEATURE_NAMES
from ddgan_core.study import configure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLER = "diffused"  # of `samples.sample`


def by_begin(preset: str, T: int, seed: int = 0) -> pd.DataFrame:
    """Distance by the t at which a chain of T steps is begun at q(x_t); "noise": the whole chain, begun as always.

    A line for each feature network, number of images, row and tag of which all t below T are scored against the test
    images; t = 0: real images, where they are scored so. Empty where nothing is.
    """
    scores = load_evaluations(configure(preset).dataset)
    index = ["features", "n", "divergence", "tag"]
    if not len(scores):
        return pd.DataFrame(columns=[*index, *range(T), "noise"]).set_index(index)
    scores = scores[(scores["reference"] == "test") & (scores["sample_seed"] == 0)]
    own = scores[(scores["preset"] == preset) & (scores["T"] == T) & (scores["seed"] == seed)]
    begun = own[(own["sampler"] == SAMPLER) & (own["steps"] < T)].pivot(index=index, columns="steps", values="frechet")
    begun = begun.reindex(columns=range(T)).rename_axis(columns="begun at t")
    real = scores[scores["sampler"] == "real"].drop_duplicates(list(AXIS)).set_index(["features", "n"])["frechet"]
    begun[0] = [real.get(line[:2], float("nan")) for line in begun.index]
    begun["noise"] = own[own["sampler"] == "ddgan"].set_index(index)["frechet"]
    return begun.dropna(subset=[*range(1, T), "noise"]).sort_index(ascending=[True, False, True, True])


def parts(table: pd.DataFrame) -> pd.DataFrame:
    """Of `by_begin`: each step's share of what the whole chain is farther than real images, step T's last."""
    grown = table.diff(axis=1).iloc[:, 1:]
    return (
        grown.div(table["noise"] - table[0], axis=0)
        .set_axis(range(1, grown.shape[1] + 1), axis=1)
        .rename_axis(columns="step")
    )


def handover_figure(table: pd.DataFrame) -> "Figure":
    """`by_begin`: a panel for each feature network, a line for each model, named where its whole chain ends."""
    import matplotlib.pyplot as plt

    kinds = table.groupby(["features", "n"], sort=False)
    figure, axes = plt.subplots(1, max(1, kinds.ngroups), figsize=(6.5 * max(1, kinds.ngroups), 4.2), squeeze=False)
    for ax, ((features, n), lines) in zip(axes[0], kinds, strict=False):
        ends, at = [], range(lines.shape[1])
        for (_, _, row, tag), line in lines.iterrows():
            ax.plot(at, line, "--" if tag else "-", color=COLOURS[row], marker="o", ms=4)
            name = label_of(row) + (f", {tag_label(tag)}" if tag else "")
            ends.append((float(at[-1]), float(line.iloc[-1]), name, COLOURS[row]))
        ax.set(ylim=(0, None), title=f"{FEATURE_NAMES[features]}, N = {n:,}", xlabel="chain begun at q(x_t), t =")
        ax.set_xticks(at, ["0 (real)", *map(str, at[1:-1]), f"{at[-1]} (noise)"])
        label_ends(ax, ends)
    axes[0, 0].set_ylabel("squared Fréchet distance")
    if not len(table):
        say(axes[0, 0], "not scored yet")
        axes[0, 0].set_axis_off()
    return figure
