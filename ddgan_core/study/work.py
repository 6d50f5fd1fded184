"""Getting the study's runs done: train what is missing, score what is trained, stop in time and go on later."""

import contextlib
import functools
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ddgan_core import UserError
from ddgan_core.checkpoints import run_weights, trained_here, way_to_weights, write_weights
from ddgan_core.data import DATASETS
from ddgan_core.divergences import DIVERGENCES
from ddgan_core.evaluation.piles import TimeIsUp
from ddgan_core.evaluation.samples import sample
from ddgan_core.evaluation.scores import load_evaluations, read_evaluations
from ddgan_core.evaluation.scoring import evaluate
from ddgan_core.figures.grids import write_png_grid
from ddgan_core.locks import Held, is_held, locked
from ddgan_core.packing import PACKED, pack_text
from ddgan_core.provenance import device_name
from ddgan_core.runner import default_device, train_run
from ddgan_core.runs import Run, RunConfig, all_runs, results_dir, write_atomic
from ddgan_core.study import toys
from ddgan_core.study.cells import Cell, Study
from ddgan_core.study.due import reference_split, scores_due
from ddgan_core.study.executors import local, on_ray
from ddgan_core.toys.toy_study import ToyCell
from ddgan_core.training import TrainingDiverged

GRID = 10  # images in a run's grid of samples: it is committed, and stays small


def status(study: Study) -> pd.DataFrame:
    """One line per cell: run_id, state, step, updates, minutes spent and left, scores made and due, reason.

    state: missing, running (a process holds it), stopped (it goes on from its checkpoint), failed, done, differs (made
    with other settings than the cell's), or damaged. minutes: NaN where they were not noted. minutes_left is estimated
    from this device's own runs of the same size, else NaN; scoring is not in it.
    """
    found = []
    for kind, (lines, _) in KINDS.items():
        if own := [cell for cell in study.cells if isinstance(cell, kind)]:
            found += lines(own)
    return pd.DataFrame(found, columns=LINE)


def complete(cell: Cell, **how: Any) -> None:
    """Get a cell done, or go on with it: for so many `minutes`, on a `device`, with `progress` shown. One that another
    process is at is left to it."""
    with contextlib.suppress(Held):
        KINDS[type(cell)][1](cell, **how)


def run_lines(cells: Sequence[RunConfig]) -> list[dict[str, Any]]:
    """What `status` says of each run."""
    pace, found = _seconds_per_update(), []
    for cell in cells:
        line = {"run_id": cell.run_id, "updates": cell.updates}
        try:
            line |= _standing(cell, Run(cell))
        except UserError as error:
            line |= {"state": "damaged", "reason": str(error), "step": 0, "minutes": 0.0, "scores": "?"}
        left = 0 if line["state"] in ("done", "failed") else max(0, cell.updates - line["step"])
        each = pace.get(_size(cell), math.nan) if left else 0.0  # what is done needs none, whether or not any was timed
        found.append(line | {"minutes_left": round(left * each / 60, 1)})
    return found


def _standing(cell: RunConfig, run: Run) -> dict[str, Any]:
    now = run.status
    state, reason = now["state"], now["reason"]
    if is_held(run.lock):
        state = "running"
    elif state == "running":
        state = "stopped"
    if (run.path / "config.json").exists() and Run.open(cell.run_id, cell.dataset).config != cell:
        state, reason = "differs", "made with other settings: delete it, or give the new ones a tag"
    elif state == "done" and run.weights is None:
        reason = "its weights are not here"
    elif state == "failed":
        reason += "; a result, and left as it is: to try again, `train` it, or delete its folder"
    return {
        "state": state, "reason": reason, "step": now.get("step", 0), "minutes": round(now.get("seconds", 0) / 60, 1),
        "scores": _scores_made(run, cell),
    }  # fmt: skip


def _scores_made(run: Run, cell: RunConfig) -> str:
    """How many of the preset's scores are there, by the first sample seed: others do not stand for them."""
    there = read_evaluations(run.path / "evaluations.csv")
    there = there[(there["reference"] == reference_split(cell)) & (there["sample_seed"] == 0)]
    keys = set(zip(there["sampler"], there["steps"], there["features"], there["n"], strict=True))
    wanted = scores_due(cell)
    return f"{sum(due in keys for due in wanted)}/{len(wanted)}"


def _size(config: RunConfig) -> tuple[Any, ...]:
    """What the time of an update depends on: runs alike in it go at one pace, however long they are."""
    return tuple(getattr(config, name) for name in (
        "dataset", "method", "widths", "critic_widths", "critic_detail", "z_dim", "attention", "batch_size",
        "penalty_every", "critic_steps", "precision", "shared_fakes",
    )) + (getattr(DIVERGENCES.get(config.divergence), "penalty", None), config.penalty_weight > 0)  # fmt: skip


def _seconds_per_update() -> dict[tuple[Any, ...], float]:
    """{_size: median over this device's runs}: those with weights or checkpoints of their own.

    At any number of threads: workers may have had fewer than whoever asks now.
    """
    here = device_name(default_device()).partition(",")[0]
    found: dict[tuple[Any, ...], list[float]] = {}
    for run in all_runs():
        now = run.status
        timed = now.get("step", 0) > 0 and "seconds" in now and str(now.get("device")).partition(",")[0] == here
        if timed and trained_here(run):
            found.setdefault(_size(run.config), []).append(now["seconds"] / now["step"])
    return {size: statistics.median(paces) for size, paces in found.items()}


def complete_run(
    cell: RunConfig, *, minutes: float | None = None, device: str | None = None, progress: bool = True
) -> Run:
    """Train a cell, or go on with it, and score it; what is done is not done again. Stops when its minutes are over.

    A training that diverges is noted in the run's status and said on stderr; it raises nothing. One that did before is
    not tried again: a run that passes by chance at the second trial would hide what claim C5 counts.
    """
    if Run(cell).status["state"] == "failed":
        return Run.create(cell)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    try:
        run = train_run(cell, minutes=minutes, device=device, progress=progress)
    except TrainingDiverged as error:
        print(f"{cell.run_id}: {error}", file=sys.stderr)
        return Run(cell)
    if run.status["state"] == "done":
        score(run, device=device, deadline=deadline)
    return run


def run(
    study: Study, *, minutes: float | None = None, device: str | None = None, progress: bool = True
) -> pd.DataFrame:
    """Complete the study's cells in this process, as in `to_do`, until done or out of minutes. Returns `status`."""
    deadline, wrong = None if minutes is None else time.monotonic() + 60 * minutes, {}
    for cell in to_do(study):
        left = None if deadline is None else (deadline - time.monotonic()) / 60
        if left is not None and left <= 0:
            break
        try:
            complete(cell, minutes=left, device=device, progress=progress)
        except UserError as error:  # of one cell: it does not stop the others
            wrong[cell.run_id] = str(error)
        except RuntimeError as error:  # as torch says that a GPU's memory does not suffice, in many lines
            wrong[cell.run_id] = str(error).partition("\n")[0] or repr(error)
    if len(wrong) < len(study.cells):
        write_tables()
    if wrong:
        first, *others = wrong
        more = f"; nor could {', '.join(others)}" if others else ""
        raise UserError(f"{len(wrong)} of {len(study.cells)} runs could not be done: {first}: {wrong[first]}{more}")
    return status(study)


def to_do(study: Study) -> list[Cell]:
    """The cells that lack something and that no process is at, in order, after those that are trained and lack scores.

    A slot of time is worth most where nothing can be lost any more. A training that diverged is a result. One that is
    done and has no weights here cannot be scored here: `status` says so.
    """
    trained, others = [], []
    for cell, line in zip(study.cells, status(study).itertuples(), strict=True):
        made, _, due = line.scores.partition("/")
        if line.state not in ("done", "failed", "running"):
            others.append(cell)
        elif line.state == "done" and made != due and Run(cell).weights is not None:
            trained.append(cell)
    return trained + others


# Of each kind of cells: how they stand, and getting one done. All have a run_id.
KINDS = {RunConfig: (run_lines, complete_run), ToyCell: (toys.lines, toys.complete)}
LINE = ["run_id", "state", "step", "updates", "minutes", "minutes_left", "scores", "reason"]


def run_local(
    study: Study, preset: str, kind: str, workers: int, *, minutes: float | None = None, threads: int = 1,
    device: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The same with a process for each cell, `workers` at a time; the study must be one of STUDIES.

    Without a device, they are spread over the GPUs there are. Raises UserError where a process ends in an error, when
    the others have ended.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes

    def command(cell: str) -> list[str] | None:
        words = [sys.executable, "-m", "ddgan_core", "study", "run", "--study", kind, "--preset", preset]
        words += ["--cell", cell, "--threads", str(threads)] + (["--device", device] if device else [])
        if deadline is None:
            return words
        left = f"{(deadline - time.monotonic()) / 60:.3f}"
        return [*words, "--minutes", left] if float(left) > 0 else None  # 0.000 would be refused

    count = torch.cuda.device_count() if device is None and kind != "toys" else 0
    places = [["--device", f"cuda:{k}"] for k in range(count)] if count > 1 else [[]]
    ended = local([cell.run_id for cell in to_do(study)], command, workers, places=places)
    write_tables()
    if wrong := {cell: code for cell, code in ended.items() if code}:
        raise UserError(
            f"these cells ended in an error, told above: {', '.join(f'{c} ({n})' for c, n in wrong.items())}"
        )
    return status(study)


def run_on_ray(
    study: Study, *, minutes: float | None = None, threads: int = 1, gpus: float = 0.0, address: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The same as Ray tasks of so many threads and so much of a GPU each; all nodes share the folder of results."""
    deadline = None if minutes is None else time.time() + 60 * minutes
    cells, device = {cell.run_id: cell for cell in to_do(study)}, "cuda" if gpus else "cpu"
    work = functools.partial(_ray_task, cells=cells, deadline=deadline, threads=threads, device=device)
    ended = on_ray(list(cells), work, address=address, cpus=threads, gpus=gpus)
    write_tables()
    if wrong := [f"{cell}: {reason}" for cell, reason in ended.items() if reason]:
        raise UserError(f"these cells failed on Ray: {'; '.join(wrong)}")
    return status(study)


def _ray_task(job: str, *, cells: dict[str, Cell], deadline: float | None, threads: int, device: str) -> None:
    torch.set_num_threads(threads)  # CPU results depend on it
    left = None if deadline is None else (deadline - time.time()) / 60
    if left is None or left > 0:
        complete(cells[job], minutes=left, device=device)


def ensure(configs: list[RunConfig], compute: bool) -> list[Run]:
    """The runs of these configs that exist; with `compute`, those that do not are trained and scored first.

    A run of that id made with other settings is not one of them; it is named in a line. With `compute`, UserError for
    one that another process is at.
    """
    if compute and configs:
        table = run(Study("asked for", tuple(configs)))
        if held := table["run_id"][table["state"] == "running"].tolist():
            raise UserError(f"being trained by another process: {', '.join(held)}: wait for it, or stop it")
    paths = [Run(config).path / "config.json" for config in configs]
    found = [Run.read(path) for path in paths if path.exists()]
    for r in found:
        if r.config not in configs:
            print(f"{r.config.run_id} is here with other settings and left out")
    return [r for r in found if r.config in configs]


def score(run: Run, device: str | None = None, deadline: float | None = None) -> None:
    """A finished run's grid of samples, and the preset's scores of it; what is there already is not done again.

    deadline: of time.monotonic(), after which no other score is begun, and no other batch of samples drawn.
    """
    device, grid = device or default_device(), run.path / "samples.png"

    def late() -> bool:
        return deadline is not None and time.monotonic() > deadline

    if not grid.exists() and not late():
        steps = min(run.config.T, 100) if run.config.method == "ddpm" else None
        write_png_grid(sample(run, GRID, steps=steps, device=device), grid, scale=1)
    for sampler, steps, features, n in scores_due(run.config):
        if late():
            return
        try:
            evaluate(
                run, sampler=sampler, steps=steps, n=n, features=features, reference=reference_split(run.config),
                device=device, deadline=deadline,
            )  # fmt: skip
        except TimeIsUp:  # what was drawn is kept
            return


def write_tables() -> list[Path]:
    """results/tables/evaluations_<dataset>.csv.xz: all scores of runs and baselines, rebuilt from their own files."""
    paths = []
    with locked(results_dir() / "tables"):  # who reads first writes first: what is written last is the newest
        for dataset in DATASETS:
            if len(table := load_evaluations(dataset)):
                paths.append(results_dir() / "tables" / f"evaluations_{dataset}.csv.xz")
                write_atomic(paths[-1], pack_text(table.to_csv(index=False, float_format="%.6g")))
    return paths


def ship(run: Run) -> Path:
    """Copy a run's EMA weights, as bfloat16, to where they are committed and found by everyone else.

    Rounding moves the squared distance of its samples by hundredths; half precision would take a fourth more room.
    """
    source = run.path / "ema.safetensors"
    if not source.exists():
        raise UserError(f"run {run.config.run_id} has no weights of its own here: {way_to_weights(run)}")
    target = run.results / "checkpoints" / run.config.dataset / f"{run.config.run_id}{PACKED}"
    write_weights(target, run_weights(run), run.config.hash, torch.bfloat16)
    return target
