"""Which runs broke down: their distances say where they stopped, and are in no mean but the claims' (notebook 08)."""

import pandas as pd

from ddgan_core.runs import Run, results_dir

STALLED = 1e-3  # of its median in training: a generator's gradient that does not move it any more


def broke_down(history: pd.DataFrame) -> bool:
    """Did the generator's gradient vanish? By its median over the last tenth of training, against the time before."""
    size, begin = history.get("gradient_generator", pd.Series(dtype=float)), max(1, len(history) // 10)
    return bool(size.tail(begin).median() < STALLED * size.iloc[begin:-begin].median())


def broken(scores: pd.DataFrame) -> pd.Series:
    """Of each score of a DDGAN: did its run break down?"""
    runs = list(zip(scores["run_id"], scores["dataset"], strict=True))
    found = {run: broke_down(history_of(*run)) for run in set(runs)}
    return pd.Series([found[run] for run in runs], scores.index, dtype=bool)


def history_of(run_id: str, dataset: str) -> pd.DataFrame:
    """Of a run that is there: `Run.open` looks through all of them for it."""
    return Run.read(results_dir() / "runs" / dataset / run_id / "config.json").history
