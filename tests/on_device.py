"""A run from its first update to its score on one device, tiny: `python tests/on_device.py cuda` prints what came out.

A process of its own, because the tests' sees no GPU (conftest). Exits with NO_DEVICE where there is no such device.
"""

import json
import sys
from typing import Any
from unittest.mock import patch

import torch

from ddgan_core.data import load_images
from ddgan_core.evaluation.samples import load_model, sample
from ddgan_core.evaluation.scoring import evaluate
from ddgan_core.metrics.distances import Moments, frechet_distance
from ddgan_core.metrics.features import load_extractor
from ddgan_core.provenance import device_name
from ddgan_core.runner import train_run
from ddgan_core.runs import PRECISIONS
from ddgan_core.study import configure
from ddgan_core.training import Trainer

NO_DEVICE = 77
UPDATES, IMAGES = 6, 50


def life_of_a_run(device: str, precision: str) -> dict[str, Any]:
    """Stopped after one update, resumed from its checkpoint, sampled and scored; numbers for JSON."""
    config = configure(
        "smoke", T=2, updates=UPDATES, penalty_every=2, precision=precision, tag=precision, attention=True,
        critic_detail=True,
    )  # fmt: skip
    stopped = train_run(config, minutes=1e-9, device=device, progress=False).status
    with patch.object(Trainer, "update", autospec=True, side_effect=Trainer.update) as counted:
        run = train_run(config, device=device, progress=False)
    history = run.history.set_index("step")[["critic", "generator", "penalty", "gradient_critic", "gradient_generator"]]
    x, z, t = torch.randn(6, 1, 8, 8), torch.randn(6, config.z_dim), torch.tensor([1, 2] * 3)
    with torch.no_grad():
        on_cpu, there = (load_model(run, d)[0](x.to(d), t.to(d), z.to(d)).cpu() for d in ("cpu", device))
    images = sample(run, IMAGES, device=device)
    score = evaluate(run, n=IMAGES, features="pixels", device=device).iloc[0]
    pixels = load_extractor("pixels")
    piles = (images, load_images(config.dataset, "test")[0])
    return {
        "steps": [stopped["step"], *history.index.tolist(), run.status["step"]],
        "updates_after_the_stop": counted.call_count,
        "states": [stopped["state"], run.status["state"]],
        "devices": [stopped["device"], run.status["device"], score["device"]],
        "device": device_name(device),
        "finite": bool(history.drop(columns="penalty").notna().all(axis=None) and history["penalty"].notna().any()),
        "network_differs": float((on_cpu - there).abs().max()),
        "images": len(images.flatten(1).unique(dim=0)),
        "frechet": float(score["frechet"]),
        "frechet_on_cpu": frechet_distance(*(Moments.of(pixels(pile)) for pile in piles)),
    }


def graphs_against_none(device: str) -> float:
    """How far the weights of ten updates by graphs and without are apart, as a share of the way they have gone."""
    config, images = configure("smoke", T=2, updates=20, penalty_every=4), load_images("digits")[0]
    ways = []
    for graphs in (True, False):
        each = Trainer(config, images, device, graphs)
        begin = torch.cat([p.detach().flatten() for p in each.model.parameters()])
        for _ in range(10):
            each.update()
        each.check()
        ways.append(torch.cat([p.detach().flatten() for p in each.model.parameters()]) - begin)
    return float((ways[0] - ways[1]).norm() / ways[1].norm())


if __name__ == "__main__":
    wanted = sys.argv[1]
    if wanted != "cpu" and not torch.cuda.is_available():
        print(f"PyTorch {torch.__version__} sees no CUDA device")
        raise SystemExit(NO_DEVICE)
    if wanted == "cuda" and (count := torch.cuda.device_count()) > 1:
        wanted = f"cuda:{count - 1}"  # not the one that is meant where none is named
    lives = [life_of_a_run(wanted, precision) for precision in PRECISIONS]
    print(json.dumps({"lives": lives, "graphs_differ": graphs_against_none(wanted)}))
