"""Runs that went wrong, each beside the same run with one thing changed that is held to be the cause."""

from dataclasses import fields

import pandas as pd

from ddgan_core.figures.curves import training_table
from ddgan_core.notebook.breakdowns import broke_down
from ddgan_core.notebook.rows import comparable, kin, late
from ddgan_core.runs import RunConfig
from ddgan_core.study import causes_study, configure, ensure

HARD = ("critic, worst", "generator, worst", "largest logit")  # how hard a run was to train


def causes(preset: str) -> pd.DataFrame:
    """Two lines for each cell of `causes_study` that is scored as its twin is, of the preset of `kin` with most T.

    Index: the twin's run, and what was changed. frechet, frechet_error, recall, coverage by the preset's main features
    and N; late means over the last quarter of training: bound, minus the critic's loss at t = 1, and logit, of real and
    fake images; HARD: of `curves.training_table`; broke down: by `breakdowns`. Empty where nothing is scored.
    """
    most = kin(preset)[0]
    table, lines = comparable(most), {}
    for cell in causes_study(most).cells if len(table) else ():
        usual = configure(most, divergence=cell.divergence, T=cell.T, seed=cell.seed)
        scores = table[table["sampler"] == "ddgan"].set_index("run_id")
        runs = [run for run in ensure([usual, cell], False) if run.config.run_id in scores.index]
        for run in runs if len(runs) == 2 else ():
            end = late(run.history).mean()
            line = scores.loc[run.config.run_id, ["frechet", "frechet_error", "recall", "coverage"]].to_dict()
            line |= {"bound": -end["critic_t1"], "logit": (end["logit_real"] + end["logit_fake"]) / 2}
            hard = training_table([run])
            line |= {name: hard[name].iloc[0] for name in HARD} | {"broke down": broke_down(run.history)}
            lines[usual.run_id, _change(usual, run.config)] = line
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis(["run", "change"]) if lines else pd.DataFrame()


def _change(usual: RunConfig, other: RunConfig) -> str:
    names = [f.name for f in fields(other) if f.name != "tag" and getattr(usual, f.name) != getattr(other, f.name)]
    return ", ".join(f"{name} = {getattr(other, name)}" for name in names) or "none"
