"""The toy study's cells: how they stand, and getting one done."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddgan_core.locks import alone, is_held
from ddgan_core.provenance import device_name
from ddgan_core.toys.toy_study import CELL, SETTINGS, ToyCell, folder, keep, load, run_cell


def lines(wanted: Sequence[ToyCell]) -> list[dict[str, Any]]:
    """What `study.status` says of cells of one preset. A cell takes a minute and is done or not begun; its scores are
    one for each t and the chain's; its minutes were noted if it is of late, and those left are the median of CPUs.
    """
    preset = wanted[0].preset
    table, updates = load(preset), SETTINGS[preset].updates
    made = table.drop_duplicates(CELL).set_index(CELL)
    on_cpu = made["device"].str.split(",").str[0] == device_name("cpu").partition(",")[0]  # any, with any threads
    pace = made.loc[on_cpu, "seconds"].median() / 60
    bad = table[table["diverged"]].groupby(CELL)["seed"].nunique()
    found = []
    for cell in wanted:
        key, due = (cell.data, cell.row, cell.T), cell.T + 1
        line: dict[str, Any] = {"run_id": cell.run_id, "updates": updates}
        if key in made.index:
            reason = f"{bad[key]} of {SETTINGS[preset].seeds} seeds diverged" if key in bad else ""
            line |= {"state": "done", "step": updates, "minutes": round(made.loc[key, "seconds"] / 60, 1)}
            line |= {"minutes_left": 0.0, "scores": f"{due}/{due}", "reason": reason}
        else:
            state = "running" if is_held(_lock(cell)) else "missing"
            line |= {"state": state, "step": 0, "minutes": 0.0, "minutes_left": round(pace, 1), "scores": f"0/{due}"}
            line |= {"reason": ""}
        found.append(line)
    return found


def _lock(cell: ToyCell) -> Path:
    return folder(cell.preset) / f"{cell.run_id}.lock"


def complete(cell: ToyCell, *, minutes: float | None = None, device: str | None = None, progress: bool = True) -> None:
    """Train and measure a cell that is not done. One that by a CPU's pace would outlast its minutes is not begun;
    what is begun is ended. device: of other cells, the toys are the CPU's. UserError if another process is at it.
    """

    def due() -> bool:
        (line,) = lines([cell])
        return line["state"] != "done" and not (minutes is not None and line["minutes_left"] > minutes)

    if not due():
        return
    lock = _lock(cell)
    with alone(lock, cell.run_id):
        if due():  # another process may have done it since the first look
            begun = time.monotonic()
            measured, shown = run_cell(cell, progress)
            noted = {"seconds": round(time.monotonic() - begun, 1), "device": device_name("cpu")}
            keep(cell, measured.assign(**noted), shown)
        lock.unlink(missing_ok=True)  # of a cell that is done nobody needs it
