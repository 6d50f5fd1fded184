"""What a few runs at a time gain over one after another on this machine: `bench workers`."""

import contextlib
import functools
import io
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ddgan_core import UserError
from ddgan_core.bench.turns import median, ratio, take_turns, written
from ddgan_core.provenance import provenance, usable_cores
from ddgan_core.study.executors import local


def bench_workers(
    runs: int = 4, *, workers: Sequence[int] = (1, 2, 4), updates: int = 600, repeats: int = 2
) -> pd.DataFrame:
    """Seconds for so many small runs, so many at a time, each a process of one thread, starting up included.

    The runs are `train --preset smoke`, of so many updates, and at least as many as the most workers; their results are
    thrown away. speedup: one worker's seconds over this row's, the median over repeats with the lowest and highest.
    efficiency: speedup per core that the workers can have. Written to results/tables/bench_workers_cpu.csv; raises
    UserError where a run fails.
    """
    cores, runs = usable_cores(), max(runs, *workers)

    def train(at_a_time: int, repeat: int) -> None:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            words = ["env", f"DDGAN_RESULTS={folder}", sys.executable, "-m", "ddgan_core", "train", "--threads", "1"]
            words += ["--preset", "smoke", "--device", "cpu", "--tag", "bench"]
            words += ["--set", f"updates={updates if repeat >= 0 else 1}"]
            seeds = [str(seed) for seed in range(runs if repeat >= 0 else 1)]
            ended = local(seeds, lambda seed: [*words, "--seed", seed], at_a_time)
        if any(ended.values()):
            raise UserError(f"{sum(map(bool, ended.values()))} of {runs} runs failed: try {' '.join(words[2:])}")

    jobs = {at_a_time: functools.partial(train, at_a_time) for at_a_time in {1: 1} | dict.fromkeys(workers)}
    seconds = take_turns(jobs, repeats)
    rows = []
    for at_a_time, own in seconds.items():
        row: dict[str, Any] = {"workers": at_a_time, "cores": cores, "runs": runs, "updates": updates}
        row |= {"repeats": repeats, "seconds": median(own)} | ratio(seconds[1], own, "speedup")
        row |= {"efficiency": row["speedup"] / min(at_a_time, cores)}
        rows.append(row | provenance("cpu") | {"device": "CPU, 1 threads"})  # of each run, not of this process
    return written(rows, "bench_workers_cpu")
