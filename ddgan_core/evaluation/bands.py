"""Does a DDGAN's last step lose its distance in shapes or in fine detail? Its answers with the detail of real images.

The last step answers to real images with noise, x_1 ~ q(x_1 | x_0), so that each answer has its real image. An image is
its `fine_part` and the rest; exchanged between the two, each part says what it costs, the other being real.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from ddgan_core import UserError
from ddgan_core.data import load_images, to_float, to_uint8
from ddgan_core.evaluation.reference import reference_moments
from ddgan_core.evaluation.samples import diffused_images, sample
from ddgan_core.metrics.features import load_extractor
from ddgan_core.metrics.intervals import frechet_interval
from ddgan_core.networks import fine_part
from ddgan_core.provenance import provenance
from ddgan_core.runs import Run, results_dir
from ddgan_core.shapes import Tensor, UInt8
from ddgan_core.tables import read_table, replace_rows

REAL, DETAIL, REST, ANSWERS = "real images", "their detail answered", "all but their detail answered", "answers"
KEY = ["run_id", "features", "features_hash", "n"]


def path_of(dataset: str) -> Path:
    """The file that `measure` writes."""
    return results_dir() / "tables" / f"bands_{dataset}.csv"


def exchanged(real: UInt8[Tensor, "n c h w"], answers: UInt8[Tensor, "n c h w"]) -> dict[str, UInt8[Tensor, "n c h w"]]:
    """Four piles: the real images, those with the answers' fine part, with all else of the answers, and the answers."""
    x, y = to_float(real), to_float(answers)
    fine_x, fine_y = fine_part(x), fine_part(y)
    return {REAL: real, DETAIL: to_uint8(x - fine_x + fine_y), REST: to_uint8(y - fine_y + fine_x), ANSWERS: answers}


def measure(run: Run, *, features: str = "inception", n: int = 2_000, device: torch.device | str = "cpu") -> Path:
    """Write the run's lines of `path_of`, a line for each pile of `exchanged`; those that are there are replaced.

    Columns: run_id, pile, features, features_hash, n, frechet to the test images, frechet_error, of what made it.
    Raises UserError for a DDPM, and for more images than the training split has.
    """
    if run.config.method != "ddgan":
        raise UserError(f"run {run.config.run_id} is a DDPM, which has no last step of its own: choose a DDGAN's")
    dataset, made = run.config.dataset, provenance(device)
    extractor = load_extractor(features, device)
    moments = reference_moments(dataset, "test", load_images(dataset, "test")[0], extractor)
    answers = sample(run, n, sampler="diffused", steps=1, device=device)
    same = {"run_id": run.config.run_id, "features": features, "features_hash": extractor.hash, "n": n}
    lines = []
    for pile, images in exchanged(diffused_images(dataset, n), answers).items():
        distance, error = frechet_interval(extractor(images), moments)
        lines.append(same | {"pile": pile, "frechet": distance, "frechet_error": error} | made)
    replace_rows(path_of(dataset), same, pd.DataFrame(lines))
    return path_of(dataset)


def by_pile(dataset: str, runs: Sequence[str]) -> pd.DataFrame:
    """Distance of each pile of `exchanged`, a line for each of these runs that is measured; empty where none is."""
    table = read_table(path_of(dataset))
    own = table[table["run_id"].isin(runs)] if len(table) else table
    if not len(own):
        return pd.DataFrame()
    return own.pivot(index=KEY[:2] + KEY[3:], columns="pile", values="frechet")[[REAL, DETAIL, REST, ANSWERS]]
