"""The runs that tests of export and import copy from one folder of results to another."""

from pathlib import Path

from disturbed import results_in

from ddgan_core.study import configure
from ddgan_core.study.transfer import import_runs

CONFIGS = (configure("smoke", T=1, updates=2), configure("smoke", T=2, updates=2, divergence="wasserstein"))
A, B = (config.run_id for config in CONFIGS)


def imported(paths: list[Path], there: Path) -> dict[str, str]:
    with results_in(there):
        return import_runs(paths)
