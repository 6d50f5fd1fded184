"""Hours of a study: of what was trained, and by measured rates."""

import math
from pathlib import Path

import pandas as pd
import pytest

from ddgan_core.bench.training import PRODUCT
from ddgan_core.notebook import cost
from ddgan_core.runs import Run
from ddgan_core.study import configure, make_study


def test_the_cost_is_the_median_cells_times_all(results: Path) -> None:
    cells = make_study("paper", "smoke").cells
    assert math.isnan(cost.cost_of_study(["smoke"]).loc["smoke", "hours for all"])
    for cell, minutes in zip(cells, (1, 2, 6), strict=False):
        Run.create(cell).set_status("done", step=cell.updates, seconds=60.0 * minutes)
    found = cost.cost_of_study(["smoke"]).loc["smoke"]
    assert found["trained"] == 3
    assert found["minutes a cell"] == 2
    assert found["hours for all"] == pytest.approx(2 * len(cells) / 60)


def test_hours_by_a_measured_rate_are_images_over_it(results: Path) -> None:
    assert not len(cost.cost_by_rate(["full"]))
    (results / "tables").mkdir()
    for batch, rate in ((32, 1_000.0), (128, 9_000.0)):  # the preset's batches of 64 are at least as fast as of 32
        measured = {"loop": ["plain eager loop", cost.AS_TRAINED], "updates_per_s": [1.0, rate / batch]}
        pd.DataFrame(measured).assign(device="GPU").to_csv(
            results / "tables" / f"bench_training_full_cuda_{batch}.csv", index=False
        )
    assert cost.AS_TRAINED == PRODUCT, "bench names its loops"
    usual, found = configure("full"), cost.cost_by_rate(["full"]).loc["full", "GPU"]
    assert found["cells"] == len(make_study("paper", "full").cells) - 1, "all but the DDPM"
    assert found["hours for all"] == pytest.approx(found["cells"] * usual.updates * usual.batch_size / 3.6e6)


def test_the_committed_tables_give_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older and newer ones: columns come and go."""
    monkeypatch.setenv("DDGAN_RESULTS", str(Path(__file__).parent.parent / "results"))
    found = cost.cost_by_rate()
    assert set(found.index.get_level_values("preset")) == {"short", "cpu", "full"}
    assert found["images_per_s"].between(50, 1e5).all()
