"""Contestants take turns, so that other work on the machine meets all of them; compared are ratios within a turn."""

import functools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import torch

from ddgan_core.provenance import code_version
from ddgan_core.runs import results_dir, write_atomic

Name = TypeVar("Name")
Result = TypeVar("Result")


class Seconds(NamedTuple):
    """What one turn took: by the clock on the wall, and of CPU time, of this process and of its workers that ended."""

    wall: float
    cpu: float


def take_turns(
    jobs: Mapping[Name, Callable[[int], Any]], repeats: int, device: torch.device | str = "cpu"
) -> dict[Name, list[Seconds]]:
    """Seconds of each job and repeat, every job in turn, the order reversed in every other repeat.

    A job is called with the repeat's number: -1, not counted, to warm up, then 0 to repeats - 1. One that works in a
    process of its own returns the Seconds that it took there.
    """
    code_version()  # of the code that is timed: files may change meanwhile
    seconds: dict[Name, list[Seconds]] = {name: [] for name in jobs}
    for repeat in range(-1, repeats):
        for name in list(jobs)[:: -1 if repeat % 2 else 1]:
            found, took = timed(functools.partial(jobs[name], repeat), device)
            if repeat >= 0:
                seconds[name].append(found if isinstance(found, Seconds) else took)
    return seconds


def timed(job: Callable[[], Result], device: torch.device | str = "cpu") -> tuple[Result, Seconds]:
    """What the job returns, and the seconds it took."""
    begin = _now()
    found = job()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    end = _now()
    return found, Seconds(end.wall - begin.wall, end.cpu - begin.cpu)


def _now() -> Seconds:
    return Seconds(time.perf_counter(), time.process_time() + sum(os.times()[2:4]))


def ratio(peer: Sequence[Seconds] | None, own: Sequence[Seconds], label: str, clock: str = "wall") -> dict[str, float]:
    """{label, label_low, label_high}: of the peer's seconds to one's own, the median over turns, lowest and highest.

    clock: "wall" or "cpu". NaN where there is no peer.
    """
    if peer is None:
        return dict.fromkeys((label, f"{label}_low", f"{label}_high"), float("nan"))
    ratios = [getattr(a, clock) / getattr(b, clock) for a, b in zip(peer, own, strict=True)]
    return {label: statistics.median(ratios), f"{label}_low": min(ratios), f"{label}_high": max(ratios)}


def median(seconds: Sequence[Seconds], clock: str = "wall") -> float:
    """Over the turns, by one clock."""
    return statistics.median(getattr(turn, clock) for turn in seconds)


def written(rows: list[dict[str, Any]], name: str) -> pd.DataFrame:
    """The rows as a table, which is also put into results/tables/<name>.csv."""
    table = pd.DataFrame(rows)
    path = results_dir() / "tables" / f"{name}.csv"
    write_atomic(path, table.to_csv(index=False, float_format="%.6g"))
    return table
