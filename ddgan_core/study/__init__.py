"""Which runs make the study (`cells`), which scores they get (`due`), and getting them done (`work`): their door.

`configure` turns (preset, row, T, seed) into a RunConfig; a `Study` is a tuple of them, or of toy cells (`toys`); `run`
trains what is missing, scores what is trained, and can stop after any number of minutes and go on later.
"""

from ddgan_core.study.cells import (
    PAPER_ROWS,
    PAPER_T,
    SMOOTH,
    STUDIES,
    Study,
    causes_study,
    configure,
    make_study,
    paper_study,
    toys_study,
)
from ddgan_core.study.due import SCORES, SWEEP_SEED, reference_split, scores_due
from ddgan_core.study.work import complete, ensure, run, run_local, run_on_ray, score, ship, status, to_do, write_tables

__all__ = [
    "PAPER_ROWS", "PAPER_T", "SCORES", "SMOOTH", "STUDIES", "SWEEP_SEED", "Study", "causes_study", "complete",
    "configure", "ensure", "make_study", "paper_study", "reference_split", "run", "run_local", "run_on_ray", "score",
    "scores_due", "ship", "status", "to_do", "toys_study", "write_tables",
]  # fmt: skip
