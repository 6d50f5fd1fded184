"""Getting the study's runs done: train what is missing, score what is trained, stop in time and go on later."""

import contextlib
import functools
import math
import statistics
import sys
import time
from pathlib import Path

import pandas as pd
import torch

from ddgan_core import UserError
from ddgan_core.checkpoints import run_weights, write_weights
from ddgan_core.data import DATASETS
from ddgan_core.evaluation import device_name, evaluate, sample
from ddgan_core.executors import local, on_ray
from ddgan_core.grids import write_png_grid
from ddgan_core.piles import TimeIsUp
from ddgan_core.runner import default_device, train_run
from ddgan_core.runs import Run, RunConfig, all_runs, is_held, results_dir, write_atomic
from ddgan_core.scores import load_evaluations, read_evaluations
from ddgan_core.study.cells import Study, reference_split, scores_due
from ddgan_core.training import TrainingDiverged


def status(study: Study, results: Path | None = None) -> pd.DataFrame:
    """One line per cell: run_id, state, step, updates, minutes spent and left, scores made and due, reason.

    state: missing, running (a process holds it), stopped (it goes on from its checkpoint), failed, done, or differs
    (made with other settings than the cell's). minutes_left is estimated from this device's own runs of the same
    preset and method, else NaN; scoring is not in it.
    """
    runs = [Run(cell, results) for cell in study.cells]
    pace = _seconds_per_update(results)
    rows = []
    for cell, run in zip(study.cells, runs, strict=True):
        now = run.status
        state, reason = now["state"], now["reason"]
        if is_held(run):
            state = "running"
        elif state == "running":
            state = "stopped"
        if (run.path / "config.json").exists() and Run.open(cell.run_id, cell.dataset, results).config != cell:
            state, reason = "differs", "made with other settings: delete it, or give the new ones a tag"
        elif state == "done" and run.weights is None:
            reason = "its weights are not here"
        left = 0 if state == "done" else cell.updates - now.get("step", 0)
        rows.append({
            "run_id": cell.run_id, "state": state, "step": now.get("step", 0), "updates": cell.updates,
            "minutes": round(now.get("seconds", 0) / 60, 1),
            "minutes_left": round(left * pace.get((cell.preset, cell.method), math.nan) / 60, 1),
            "scores": _scores_made(run, cell), "reason": reason,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _scores_made(run: Run, cell: RunConfig) -> str:
    """How many of the preset's scores are there: others do not stand for them."""
    there = read_evaluations(run.path / "evaluations.csv")
    there = there[there["reference"] == reference_split(cell)]
    keys = set(zip(there["sampler"], there["steps"], there["features"], there["n"], strict=True))
    wanted = scores_due(cell)
    return f"{sum(due in keys for due in wanted)}/{len(wanted)}"


def _seconds_per_update(results: Path | None = None) -> dict[tuple[str, str], float]:
    """{(preset, method): median over this device's runs: those with weights or checkpoints of their own.

    At any number of threads: workers may have had fewer than whoever asks now.
    """
    here = device_name(default_device()).partition(",")[0]
    found: dict[tuple[str, str], list[float]] = {}
    for run in all_runs(results=results):
        now = run.status
        own = (run.path / "ema.safetensors").exists() or (run.path / "checkpoints").exists()
        if own and str(now.get("device")).partition(",")[0] == here and now.get("step", 0) > 0:
            found.setdefault((run.config.preset, run.config.method), []).append(now["seconds"] / now["step"])
    return {kind: statistics.median(paces) for kind, paces in found.items()}


def complete(
    cell: RunConfig, *, minutes: float | None = None, device: str | None = None, progress: bool = True,
    results: Path | None = None,
) -> Run:  # fmt: skip
    """Train a cell, or go on with it, and score it; what is done is not done again. Stops when its minutes are over.

    A training that diverges is noted in the run's status and said on stderr; it raises nothing.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    try:
        run = train_run(cell, minutes=minutes, device=device, progress=progress, results=results)
    except TrainingDiverged as error:
        print(f"{cell.run_id}: {error}", file=sys.stderr)
        return Run(cell, results)
    if run.status["state"] == "done":
        score(run, device=device, deadline=deadline)
    return run


def run(
    study: Study, *, minutes: float | None = None, device: str | None = None, progress: bool = True,
    results: Path | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Complete the study's cells in this process, in order, until done or out of minutes. Returns `status`.

    What is trained already is scored first: a slot of time is worth most where nothing can be lost any more.
    """
    deadline, wrong = None if minutes is None else time.monotonic() + 60 * minutes, {}
    trained = [cell for cell in study.cells if _is_trained(Run(cell, results))]
    for cell in trained + [cell for cell in study.cells if cell not in trained]:
        left = None if deadline is None else (deadline - time.monotonic()) / 60
        if left is not None and left <= 0:
            break
        try:
            complete(cell, minutes=left, device=device, progress=progress, results=results)
        except UserError as error:  # of one cell: it does not stop the others
            wrong[cell.run_id] = str(error)
    write_tables(results)
    if wrong:
        first = next(iter(wrong))
        raise UserError(
            f"{len(wrong)} of {len(study.cells)} runs could not be done, the others were: {first}: {wrong[first]}"
        )
    return status(study, results)


def _is_trained(run: Run) -> bool:
    with contextlib.suppress(UserError):  # of a damaged run, named when its turn comes
        return run.status["state"] == "done"
    return False


def run_local(
    study: Study, preset: str, kind: str, workers: int, *, minutes: float | None = None, threads: int = 1,
    device: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The same with a process for each cell, `workers` at a time; the study must be one of STUDIES.

    Raises UserError where a process ends in an error, when the others have ended.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes

    def command(cell: str) -> list[str] | None:
        words = [sys.executable, "-m", "ddgan_core", "study", "run", "--study", kind, "--preset", preset]
        words += ["--cell", cell, "--threads", str(threads)] + (["--device", device] if device else [])
        if deadline is None:
            return words
        left = (deadline - time.monotonic()) / 60
        return [*words, "--minutes", f"{left:.3f}"] if left > 0 else None

    ended = local([cell.run_id for cell in study.cells], command, workers)
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
    work = functools.partial(_ray_task, deadline=deadline, threads=threads, device="cuda" if gpus else "cpu")
    jobs = {cell.to_json(): cell.run_id for cell in study.cells}
    ended = on_ray(list(jobs), work, address=address, cpus=threads, gpus=gpus)
    write_tables()
    if wrong := [f"{jobs[job]}: {reason}" for job, reason in ended.items() if reason]:
        raise UserError(f"these cells failed on Ray: {'; '.join(wrong)}")
    return status(study)


def _ray_task(job: str, *, deadline: float | None, threads: int, device: str) -> None:
    torch.set_num_threads(threads)  # CPU results depend on it
    left = None if deadline is None else (deadline - time.time()) / 60
    if left is None or left > 0:
        complete(RunConfig.from_json(job), minutes=left, device=device)


def ensure(configs: list[RunConfig], compute: bool, results: Path | None = None) -> list[Run]:
    """The runs of these configs that exist; with `compute`, those that do not are trained and scored first.

    A run of that id made with other settings is not one of them; it is named in a line.
    """
    if compute:
        run(Study("asked for", tuple(configs)), results=results)
    existing = {(r.config.dataset, r.config.run_id): r for r in all_runs(results=results)}
    found = [existing[key] for c in configs if (key := (c.dataset, c.run_id)) in existing]
    for r in found:
        if r.config not in configs:
            print(f"{r.config.run_id} is here with other settings and left out")
    return [r for r in found if r.config in configs]


def score(run: Run, device: str | None = None, deadline: float | None = None) -> None:
    """The preset's scores of a finished run, and its grid of samples; what is there already is not done again.

    deadline: of time.monotonic(), after which no other score is begun, and no other batch of samples drawn.
    """
    device = device or default_device()
    for sampler, steps, features, n in scores_due(run.config):
        if deadline is not None and time.monotonic() > deadline:
            return
        try:
            evaluate(
                run, sampler=sampler, steps=steps, n=n, features=features, reference=reference_split(run.config),
                device=device, deadline=deadline,
            )  # fmt: skip
        except TimeIsUp:  # what was drawn is kept
            return
    grid = run.path / "samples.png"
    if not grid.exists():
        steps = min(run.config.T, 100) if run.config.method == "ddpm" else None
        write_png_grid(sample(run, 100, steps=steps, device=device), grid)


def write_tables(results: Path | None = None) -> list[Path]:
    """results/tables/evaluations_<dataset>.csv: every score of every run and baseline, rebuilt from their own files."""
    results = results_dir() if results is None else results
    paths = []
    for dataset in DATASETS:
        if len(table := load_evaluations(dataset, results=results)):
            paths.append(results / "tables" / f"evaluations_{dataset}.csv")
            write_atomic(paths[-1], table.to_csv(index=False, float_format="%.6g"))
    return paths


def ship(run: Run) -> Path:
    """Copy a run's EMA weights, in half precision, to where they are committed and found by everyone else."""
    source = run.path / "ema.safetensors"
    if not source.exists():
        raise UserError(f"run {run.config.run_id} has no weights of its own here: train it first")
    target = run.results / "checkpoints" / run.config.dataset / f"{run.config.run_id}.safetensors"
    write_weights(target, run_weights(run), run.config.hash, torch.float16)
    return target
