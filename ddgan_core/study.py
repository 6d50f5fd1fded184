"""Which runs make the study, and getting them done.

`configure` turns (preset, row, T, seed) into a RunConfig; a `Study` is a tuple of them; `run` trains what is missing,
scores what is trained, and can stop after any number of minutes and go on later.
"""

import fcntl
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from ddgan_core import UserError
from ddgan_core.checkpoints import load_checkpoint, read_weights, save_checkpoint, weights_hash, write_weights
from ddgan_core.data import get_dataset, load_images
from ddgan_core.divergences import get_divergence
from ddgan_core.evaluation import code_version, device_name, evaluate, sample
from ddgan_core.figures import write_png_grid
from ddgan_core.runs import PRESETS, Run, RunConfig, all_runs, write_atomic
from ddgan_core.training import Trainer, TrainingDiverged, train

PAPER_ROWS = ("non_saturating_js", "squared_hellinger", "reverse_kl", "total_variation", "wasserstein")
PAPER_T = (4, 2, 8, 10, 1, 3, 5, 6, 7, 9)  # in order of what they tell
CHECKPOINT_SECONDS = 120
HISTORY_RECORDS = 200
LINE_SECONDS = 30  # between progress lines where there is no terminal

# What a DDPM changes in each preset: it has no critic to pay for, so it gets more updates from the same minutes.
DDPM = {
    "smoke": {"T": 50, "schedule": "vp", "updates": 60, "lr_generator": 2e-3},
    "cpu": {"T": 1000, "schedule": "linear", "updates": 20_000, "lr_generator": 5e-4},
    "full": {"T": 1000, "schedule": "linear", "updates": 60_000},
}

# (sampler, steps, features, images) of the scores every finished run gets; None stands for the run's T.
SCORES: dict[str, dict[str, list[tuple[str, int | None, str, int]]]] = {
    "smoke": {
        "ddgan": [("ddgan", None, "pixels", 200)],
        "ddpm": [("ancestral", None, "pixels", 200), ("ddim", 5, "pixels", 200)],
    },
    "cpu": {
        "ddgan": [("ddgan", None, "fashion_classifier", 10_000)],
        "ddpm": [("ancestral", 10, "fashion_classifier", 10_000), ("ancestral", 100, "fashion_classifier", 2_000)],
    },
    "full": {
        "ddgan": [("ddgan", None, "fashion_classifier", 10_000)],
        "ddpm": [(s, n, "fashion_classifier", 10_000) for n in (10, 100, 1000) for s in ("ancestral", "ddim")],
    },
}


@dataclass(frozen=True)
class Study:
    """A named list of cells, most informative first."""

    name: str
    cells: tuple[RunConfig, ...]


def configure(
    preset: str = "cpu", *, method: str = "ddgan", divergence: str = "non_saturating_js", T: int | None = None,
    seed: int = 0, tag: str = "", **overrides: Any,
) -> RunConfig:  # fmt: skip
    """The RunConfig of a cell: the preset's numbers, the row's learning rates and penalty, then the overrides.

    T defaults to 4 for a DDGAN and to the preset's own for a DDPM. Raises UserError for anything unknown.
    """
    if preset not in PRESETS:
        raise UserError(f"preset {preset!r} is not known: choose one of {', '.join(PRESETS)}")
    if method == "ddpm":
        chosen: dict[str, Any] = PRESETS[preset] | DDPM[preset] | {"method": "ddpm", "divergence": "none"}
    else:
        row = get_divergence(divergence)
        chosen = PRESETS[preset] | {
            "method": method, "divergence": row.name, "penalty_weight": row.penalty_weight,
            "lr_generator": row.lr_generator, "lr_critic": row.lr_critic,
        }  # fmt: skip
    chosen |= {} if T is None else {"T": T}
    config = RunConfig(preset=preset, seed=seed, tag=tag).changed(**(chosen | overrides))
    get_dataset(config.dataset)
    return config


def paper_study(preset: str = "cpu") -> Study:
    """The source paper's grid, each cell trained at its own T: a DDPM; five rows at T = 1..10, three seeds at 4."""
    times = (1, 2) if preset == "smoke" else PAPER_T
    seeds = (0,) if preset == "smoke" else (0, 1, 2)
    cells = [configure(preset, method="ddpm")]
    cells += [configure(preset, divergence=row, T=T) for T in times for row in PAPER_ROWS]
    cells += [configure(preset, divergence=row, T=4, seed=seed) for seed in seeds[1:] for row in PAPER_ROWS]
    return Study(f"paper-{preset}", tuple(cells))


def status(study: Study, results: Path | None = None) -> pd.DataFrame:
    """One line per cell: run_id, state (missing, running, done, failed), step, updates, minutes, scores, reason."""
    rows = []
    for cell in study.cells:
        run = Run(cell, results)
        now = run.status
        rows.append({
            "run_id": cell.run_id, "state": now["state"], "step": now.get("step", 0), "updates": cell.updates,
            "minutes": round(now.get("seconds", 0) / 60, 1), "scores": len(run.evaluations), "reason": now["reason"],
        })  # fmt: skip
    return pd.DataFrame(rows)


def run(
    study: Study,
    *,
    minutes: float | None = None,
    device: str | None = None,
    progress: bool = True,
    results: Path | None = None,
) -> pd.DataFrame:
    """Train and score the study's cells in order until done or out of minutes; one that diverges stops no other."""
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    for cell in study.cells:
        left = None if deadline is None else (deadline - time.monotonic()) / 60
        if left is not None and left <= 0:
            break
        try:
            done = train_run(cell, minutes=left, device=device, progress=progress, results=results)
        except TrainingDiverged as error:
            print(f"{cell.run_id}: {error}", file=sys.stderr)
            continue
        if done.status["state"] == "done":
            score(done, device=device)
    return status(study, results)


def ensure(configs: list[RunConfig], compute: bool, results: Path | None = None) -> list[Run]:
    """The runs of these configs that exist; with `compute`, those that do not are trained and scored first."""
    if compute:
        run(Study("asked for", tuple(configs)), results=results)
    existing = {(r.config.dataset, r.config.run_id): r for r in all_runs(results=results)}
    return [existing[key] for c in configs if (key := (c.dataset, c.run_id)) in existing]


def score(run: Run, device: str | None = None) -> None:
    """The preset's scores of a finished run, and its grid of samples; what is there already is not done again."""
    device = device or default_device()
    for sampler, steps, features, n in SCORES[run.config.preset][run.config.method]:
        evaluate(run, sampler=sampler, steps=steps or run.config.T, n=n, features=features, device=device)
    grid = run.path / "samples.png"
    if not grid.exists():
        steps = min(run.config.T, 100)
        write_png_grid(sample(run, 100, steps=steps, device=device), grid)


def ship(run: Run) -> Path:
    """Copy a run's EMA weights, in half precision, to where they are committed and found by everyone else."""
    source = run.path / "ema.safetensors"
    if not source.exists():
        raise UserError(f"run {run.config.run_id} has no weights of its own here: train it first")
    target = run.results / "checkpoints" / run.config.dataset / f"{run.config.run_id}.safetensors"
    write_weights(target, read_weights(source, run.config.hash), run.config.hash, torch.float16)
    return target


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def train_run(
    config: RunConfig, *, minutes: float | None = None, device: str | None = None, progress: bool = True,
    results: Path | None = None,
) -> Run:  # fmt: skip
    """Train the run of this config to its end, or for so many minutes; a run that was begun goes on where it stopped.

    Writes history.csv and status.json with each checkpoint, and ema.safetensors at the end. SIGTERM leaves a checkpoint
    and exits with 143. Raises TrainingDiverged, noted in status.json, and UserError if another process trains the run.
    """
    if config.method == "ddgan":
        get_divergence(config.divergence)
    images, _ = load_images(config.dataset)
    run = Run.create(config, results)
    if run.status["state"] == "done":
        return run
    with _locked(run), _stop_requests() as stop:
        _train(run, Trainer(config, images, device or default_device()), minutes, progress, stop)
    return run


def _train(run: Run, trainer: Trainer, minutes: float | None, progress: bool, stop: threading.Event) -> None:
    config, folder = run.config, run.path / "checkpoints"
    history: list[dict[str, float]] = []
    seconds = 0.0
    if (state := load_checkpoint(folder)) is not None:
        trainer.load_state(state)
        history, seconds = state["history"], state["seconds"]
    start = saved = time.monotonic()
    bar = _Progress(config.run_id, trainer.step, config.updates, progress)

    def keep(state: str, reason: str = "") -> None:
        spent = seconds + time.monotonic() - start
        if state == "running":
            save_checkpoint(folder, trainer.step, trainer.state() | {"history": history, "seconds": spent})
        write_atomic(run.path / "history.csv", pd.DataFrame(history).to_csv(index=False, float_format="%.6g"))
        run.set_status(
            state, reason, step=trainer.step, seconds=round(spent, 1), device=device_name(trainer.device),
            weights_hash=weights_hash(trainer.ema.state_dict()), torch=torch.__version__, commit=code_version(),
        )  # fmt: skip

    for record in _noting_divergence(train(trainer, max(1, config.updates // HISTORY_RECORDS)), keep):
        if len(record) > 1:
            history.append(record)
        bar.show(trainer.step)
        now = time.monotonic()
        unfinished = trainer.step < config.updates
        if unfinished and stop.is_set():
            keep("running", f"stopped by a signal after step {trainer.step} of {config.updates}")
            raise SystemExit(143)
        if unfinished and minutes is not None and now - start > 60 * minutes:
            keep("running", f"stopped after step {trainer.step} of {config.updates}, its minutes being over")
            return
        if unfinished and now - saved > CHECKPOINT_SECONDS:
            keep("running")
            saved = now
    write_weights(run.path / "ema.safetensors", trainer.ema.state_dict(), config.hash)
    keep("done")
    for checkpoint in folder.glob("*.pt"):
        checkpoint.unlink()


def _noting_divergence(records: Iterator[dict[str, float]], keep: Callable[..., None]) -> Iterator[dict[str, float]]:
    try:
        yield from records
    except TrainingDiverged as error:
        keep("failed", str(error))
        raise


class _Progress:
    """How far a training is and how long it has to go: a bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, label: str, step: int, steps: int, shown: bool) -> None:
        self.label, self.first, self.steps, self.shown = label, step, steps, shown
        self.start = self.said = time.monotonic()
        self.bar = tqdm(total=steps, initial=step, desc=label, unit="update") if shown and sys.stderr.isatty() else None

    def show(self, step: int) -> None:
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
        elif self.shown and (now - self.said > LINE_SECONDS or step == self.steps):
            self.said = now
            left = (now - self.start) / (step - self.first) * (self.steps - step)
            print(f"{self.label}: {step} of {self.steps} updates, {left / 60:.1f} minutes left", flush=True)
        if self.bar is not None and step == self.steps:
            self.bar.close()


@contextmanager
def _locked(run: Run) -> Iterator[None]:
    """One process trains a run; the lock dies with its process."""
    with open(run.path / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"run {run.config.run_id} is being trained by another process: wait for it, or stop it"
            ) from None
        yield


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that training stops between two updates; only a main thread can ask for it."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, lambda signum, frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
