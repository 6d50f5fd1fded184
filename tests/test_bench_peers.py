"""The peers train and sample, and one that is not here is a named gap. Nothing here is about time."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from ddgan_core import UserError
from ddgan_core.bench import peers
from ddgan_core.bench.mend import mend_torchvision
from ddgan_core.bench.peers import CONTESTANTS, OURS, bench_ddpm
from ddgan_core.bench.turns import Seconds
from ddgan_core.data import load_images
from ddgan_core.runs import PRESETS, RunConfig
from ddgan_core.study import configure


def _absent(*_: object) -> peers.Jobs:
    raise ImportError("No module named 'zebra'")


def test_every_peer_has_a_line_and_an_absent_one_says_why(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "CONTESTANTS", {OURS: CONTESTANTS[OURS], "zebra": _absent})
    table = bench_ddpm(8, 4, preset="smoke", updates=1, repeats=2)
    assert table["library"].tolist() == [OURS, "zebra"] * 2
    assert table["job"].unique().tolist() == ["training update, batch 8", "4 samples, DDIM in 10 steps"]
    ours, zebra = (table[table["library"] == name] for name in (OURS, "zebra"))
    assert (ours["ratio"] == 1).all()
    assert (ours["seconds"] > 0).all()
    assert zebra["seconds"].isna().all()
    assert set(zebra["gap"]) == {"No module named 'zebra': pip install '.[bench]'"}
    assert len(pd.read_csv(results / "tables" / "bench_ddpm_smoke_cpu_8.csv")) == 4


def test_all_are_given_the_presets_numbers_and_one_precision(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of preset full, whose own is bfloat16: in it, only this package would autocast."""
    given = []

    def noted(config: RunConfig, *_: object) -> peers.Jobs:
        given.append(config)
        return lambda: torch.eye(9).inverse(), lambda n: torch.eye(n).inverse()

    monkeypatch.setattr(peers, "CONTESTANTS", {OURS: noted, "zebra": noted})
    monkeypatch.setitem(PRESETS["full"], "precision", "bf16")
    monkeypatch.setitem(PRESETS["full"], "dataset", "digits")
    table = bench_ddpm(preset="full", repeats=1)
    full = configure("full", method="ddpm")
    assert given == [full.changed(precision="fp32")] * 2
    assert table["job"][0] == f"training update, batch {full.batch_size}"
    assert (results / "tables" / "bench_ddpm_full_cpu.csv").exists()


@pytest.mark.usefixtures("results")
def test_a_peer_that_is_slower_has_a_ratio_above_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is run: this package takes 4 s in all, the peer 8 s."""
    monkeypatch.setattr(peers, "CONTESTANTS", dict.fromkeys([OURS, "zebra"], lambda *_: (print, print)))
    made_up = {OURS: [Seconds(4.0, 1.0)] * 2, "zebra": [Seconds(8.0, 3.0)] * 2}
    monkeypatch.setattr(peers, "take_turns", lambda *_: made_up)
    table = bench_ddpm(preset="smoke", updates=8, repeats=2)
    assert table["seconds"].tolist() == [0.5, 1, 4, 8], "of an update; of all the samples"
    assert table["ratio"].tolist() == [1, 2] * 2
    assert table["cpu_ratio"].tolist() == [1, 3] * 2


@pytest.mark.parametrize("name", CONTESTANTS)
def test_a_contestant_trains_and_samples(name: str) -> None:
    if name == "denoising-diffusion-pytorch":
        mend_torchvision()
        pytest.importorskip("denoising_diffusion_pytorch")
    config, images = configure("smoke", method="ddpm", dataset="digits", batch_size=8), load_images("digits")[0]
    update, sample = CONTESTANTS[name](config, images, "cpu")
    update()
    x = sample(3)
    assert x.shape == (3, 1, 8, 8)
    assert x.isfinite().all()


def test_more_images_to_a_batch_than_there_are_is_refused() -> None:
    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match="batch size 4: choose at most 3"):
        next(peers.loader_batches(images, 4, "cpu"))
