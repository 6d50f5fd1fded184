"""Scores that are made up, of runs that were not trained."""

import json
from pathlib import Path

from ddgan_core.evaluation.scores import add_evaluation
from ddgan_core.runs import RunConfig, write_atomic

GAN = {"method": "ddgan", "divergence": "kl", "T": 4, "sampler": "ddgan", "steps": 4}


def add(results: Path, run_id: str, n: int, frechet: float, **more: object) -> None:
    """A score of a run, or of a baseline."""
    baseline = run_id in ("real", "noise")
    row = {"dataset": "fashion_mnist", "run_id": run_id, "features": "fashion_classifier", "reference": "test", "n": n}
    row |= {"frechet": frechet, "preset": "" if baseline else "cpu", "device": "CPU, 1 threads", "commit": "abc+"}
    row |= {"steps": 0, "T": 0, "seed": 0, "sample_seed": 0, "reference_n": 10_000, "sampler": run_id}
    row |= {"protocol": "", "features_hash": "", "weights": "", "tag": ""} | more
    folder = results / "runs" / "fashion_mnist" / run_id
    add_evaluation(results / "baselines" / "fashion_mnist.csv" if baseline else folder / "evaluations.csv", row)
    if not baseline:
        told = {name: row[name] for name in ("method", "divergence", "T", "seed", "tag") if name in more}
        config = RunConfig(preset="cpu", **{"divergence": "kl", "T": 4} | told)
        write_atomic(folder / "config.json", json.dumps(json.loads(config.to_json()) | {"hash": config.hash}))
