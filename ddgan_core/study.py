"""Which runs make the study, and getting them done.

`configure` turns (preset, row, T, seed) into a RunConfig; a `Study` is a tuple of them; `run` trains what is missing,
scores what is trained, and can stop after any number of minutes and go on later.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save as safetensors_bytes

from ddgan_core import UserError
from ddgan_core.checkpoints import read_weights, write_weights
from ddgan_core.data import DATASETS, get_dataset, load_images, to_float
from ddgan_core.divergences import get_divergence
from ddgan_core.evaluation import evaluate, sample
from ddgan_core.executors import default_device, train_run
from ddgan_core.figures import write_png_grid
from ddgan_core.networks import Classifier
from ddgan_core.runs import PRESETS, Run, RunConfig, all_runs, results_dir, write_atomic
from ddgan_core.scores import load_evaluations
from ddgan_core.training import TrainingDiverged, initialised, train_classifier

PAPER_ROWS = ("non_saturating_js", "squared_hellinger", "reverse_kl", "total_variation", "wasserstein")
PAPER_T = (4, 2, 8, 10, 1, 3, 5, 6, 7, 9)  # in order of what they tell

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
        "ddgan": [("ddgan", None, "fashion_classifier", n) for n in (10_000, 1_000)],
        # A thousand steps for ten thousand images would take a core half a day: the long chains are compared at 1,000.
        "ddpm": [(s, n, "fashion_classifier", 10_000) for n in (4, 10) for s in ("ancestral", "ddim")]
        + [(s, n, "fashion_classifier", 1_000) for n in (4, 10) for s in ("ancestral", "ddim")]
        + [("ancestral", n, "fashion_classifier", 1_000) for n in (100, 1000)],
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
    write_tables(results)
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
    write_weights(target, read_weights(source, run.config.hash), run.config.hash, torch.float16)
    return target


def make_classifier(path: Path, epochs: int = 5, progress: bool = True) -> dict[str, Any]:
    """Train the FashionMNIST classifier behind `fd_fashion` and write it with its facts, which are returned.

    The shipped one (features.CLASSIFIER_FILE) was made by this recipe from other initial weights, once. Another is
    another ruler: its hash, which is in every score, differs.
    """
    images, labels = load_images("fashion_mnist", "train")
    test_images, test_labels = load_images("fashion_mnist", "test")
    widths = (24, 48, 128)
    network = initialised(lambda: Classifier(1, widths, 10), 0, "classifier")
    for record in train_classifier(network, images, labels, epochs):
        if progress and record["step"] % 100 == 0:
            print(f"classifier: {record['step']} of {record['steps']} updates, loss {record['loss']:.3f}", flush=True)
    with torch.no_grad():
        probabilities = torch.cat([network(to_float(x))[1].softmax(1) for x in test_images.split(500)])
    facts = {
        "widths": widths,
        "test_accuracy": (probabilities.argmax(1) == test_labels).double().mean().item(),
        "test_top_probability": probabilities.max(1).values.double().mean().item(),
    }
    write_atomic(path, safetensors_bytes(network.state_dict(), {k: json.dumps(v) for k, v in facts.items()}))
    return facts
