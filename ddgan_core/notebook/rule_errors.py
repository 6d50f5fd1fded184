"""How often the rules of `claims` err: verdicts on made-up results whose truth is known."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from ddgan_core.notebook.claims import CLAIMS, NAMED, VERDICTS, Evidence
from ddgan_core.study import PAPER_ROWS, SMOOTH

TIMES, SEEDS, SPREAD = (1, 2, 4, 8, 10), 3, 0.1  # T of a curve; seeds at T = 4; of a seed's log distance

# Log distance of a row at T: nothing to be found, what the claim says, and its reverse.
Truth = Callable[[str, int], float]
WORLDS: dict[str, dict[str, Truth]] = {
    "C2": {
        "all rows alike": lambda row, T: 0.0,
        "the named 15 % nearer": lambda row, T: np.log(0.85) * (row in NAMED),
        "the named 15 % farther off": lambda row, T: -np.log(0.85) * (row in NAMED),
    },
    "C3": {
        "the same at every T": lambda row, T: 0.0,
        "falls by 20 % at each doubling": lambda row, T: np.log(0.8) * np.log2(T),
        "rises by 20 % at each doubling": lambda row, T: np.log(1.2) * np.log2(T),
    },
    "C7": {
        "apart by as much at every T": lambda row, T: np.log(2) * _rank(row),
        "a factor 2 apart at T = 1, nothing at 10": lambda row, T: np.log(2 ** (1 - np.log10(T))) * _rank(row),
        "nothing apart at T = 1, a factor 2 at 10": lambda row, T: np.log(2 ** np.log10(T)) * _rank(row),
    },
}


def _rank(row: str) -> float:
    """From 0 to 1 over the rows that C7 is about."""
    return SMOOTH.index(row) / (len(SMOOTH) - 1) if row in SMOOTH else 0.0


def rule_errors(draws: int = 60) -> pd.DataFrame:
    """Shares of the verdicts over `draws` made-up results, a line for each claim and truth in WORLDS.

    A result is what the claim's rule asks for at least: five rows, with one seed at each of five T, or with three at
    T = 4; each log distance is its truth and a normal error of SPREAD.
    """
    random, lines = np.random.default_rng(0), {}
    judges = {claim.name: claim.judge for claim in CLAIMS}
    for claim, worlds in WORLDS.items():
        at = [(T, 0) for T in TIMES] if claim != "C2" else [(4, k) for k in range(SEEDS)]
        cells = pd.DataFrame([(row, T, k) for row in PAPER_ROWS for T, k in at], columns=["divergence", "T", "seed"])
        for name, truth in worlds.items():
            level = np.array([truth(row, T) for row, T in zip(cells["divergence"], cells["T"], strict=True)])
            found = pd.Series([
                judges[claim](_evidence(cells, level + SPREAD * random.standard_normal(len(cells))))[0]
                for _ in range(draws)
            ])  # fmt: skip
            lines[claim, name] = found.value_counts(normalize=True).reindex(VERDICTS, fill_value=0.0)
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis(["claim", "the truth"])


def _evidence(cells: pd.DataFrame, log_distance: np.ndarray) -> Evidence:
    none, empty = pd.DataFrame(), pd.Series(dtype=float)
    return Evidence("cpu", cells.assign(frechet=np.exp(log_distance)), none, none, empty, empty, 0, none)
