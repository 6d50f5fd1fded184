"""Real images and a DDGAN's answers, their fine parts exchanged: what each pile is made of, and its lines."""

import pandas as pd
import pytest
import torch

from ddgan_core import UserError
from ddgan_core.data import load_images
from ddgan_core.evaluation.bands import ANSWERS, DETAIL, REAL, REST, by_pile, exchanged, measure
from ddgan_core.evaluation.samples import diffused_images, sample
from ddgan_core.metrics import Moments, load_extractor
from ddgan_core.metrics.intervals import frechet_interval
from ddgan_core.runner import train_run
from ddgan_core.study import configure


def test_a_flat_difference_is_no_detail_and_an_alternating_one_nothing_else() -> None:
    """[1 2 1] / 4 leaves what is flat and takes away what alternates along the rows."""
    real = torch.randint(40, 200, (3, 1, 12, 12), dtype=torch.uint8)
    flat = exchanged(real, real + 20)
    assert torch.equal(flat[DETAIL], real)
    assert torch.equal(flat[REST], real + 20)
    stripes = torch.tensor([20, 0], dtype=torch.uint8).repeat(6)
    striped = exchanged(real, real - 10 + stripes)
    inner = (..., slice(1, -1), slice(1, -1))
    assert torch.equal(striped[DETAIL][inner], (real - 10 + stripes)[inner])
    assert torch.equal(striped[REST][inner], real[inner])


def test_a_run_has_a_line_for_each_pile_and_never_two() -> None:
    run = train_run(configure("smoke", updates=3))
    for _ in range(2):
        path = measure(run, features="pixels", n=60)
    table = pd.read_csv(path).set_index("pile")
    assert table.index.tolist() == [REAL, DETAIL, REST, ANSWERS]
    extractor = load_extractor("pixels")
    reference = Moments.of(extractor(load_images("digits", "test")[0]))
    for pile, images in {
        REAL: diffused_images("digits", 60), ANSWERS: sample(run, 60, sampler="diffused", steps=1),
    }.items():  # fmt: skip
        expected = frechet_interval(extractor(images), reference)
        assert table.loc[pile, ["frechet", "frechet_error"]].tolist() == pytest.approx(expected, rel=1e-4)
    assert not torch.equal(diffused_images("digits", 60, seed=1), diffused_images("digits", 60))
    assert not len(by_pile("digits", ["another"]))
    shown = by_pile("digits", [run.config.run_id, "another"])
    assert shown.iloc[0].to_dict() == table["frechet"].to_dict()
    measure(run, features="pixels", n=50)
    assert pd.read_csv(path).groupby("n").size().to_dict() == {50: 4, 60: 4}


def test_a_ddpm_has_no_last_step_of_its_own() -> None:
    run = train_run(configure("smoke", method="ddpm", updates=3))
    with pytest.raises(UserError, match=r"run ddpm_\w+ is a DDPM, which has no last step"):
        measure(run, features="pixels", n=50)
