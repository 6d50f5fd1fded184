"""What noise leaves open, on Gaussian data, where it is known: e = s^2 / (1 + snr s^2), I = log(1 + snr s^2) / 2."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ddgan_core import UserError
from ddgan_core.diffusion import Schedule, linear_schedule, vp_schedule
from ddgan_core.evaluation.information import bayes_errors, decided, integrate_error, measure
from ddgan_core.networks import NoisePredictor
from ddgan_core.provenance import code_version, device_name
from ddgan_core.runner import train_run
from ddgan_core.study import configure
from ddgan_core.tables import read_table

STD = 0.2


class Exact(NoisePredictor):
    """E[eps | x_t] for independent pixels of N(0, STD^2)."""

    def __init__(self, schedule: Schedule, factor: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.schedule, self.factor = schedule, factor

    def forward(self, x: torch.Tensor, t: torch.Tensor, z: None = None) -> torch.Tensor:
        alpha_bar = self.schedule.alpha_bar[t].float().view(-1, 1, 1, 1)
        return self.factor * (1 - alpha_bar).sqrt() * x / (alpha_bar * STD**2 + 1 - alpha_bar)


def images() -> torch.Tensor:
    return STD * torch.randn(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def truth(schedule: Schedule, count: int = 2_000) -> pd.DataFrame:
    """The closed form on a fine grid of signal-to-noise ratios."""
    snr = pd.Series(np.geomspace(1e-5, 1e5, count))
    table = pd.DataFrame({"snr": snr, "error": STD**2 / (1 + snr * STD**2)})
    return table.assign(nats=integrate_error(table["snr"], table["error"]))


def test_the_bayes_error_of_a_gaussian() -> None:
    schedule, times = linear_schedule(1000), [1, 100, 300, 600, 1000]
    snr = (schedule.alpha_bar / (1 - schedule.alpha_bar))[times]
    found = bayes_errors(Exact(schedule), schedule, images(), times)
    assert found == pytest.approx((STD**2 / (1 + snr * STD**2)).tolist(), rel=0.03)


def test_a_network_that_knows_less_than_nothing_is_not_believed() -> None:
    schedule, x_0 = linear_schedule(1000), images()
    assert bayes_errors(Exact(schedule, factor=-3.0), schedule, x_0, [1000]) == pytest.approx([STD**2], rel=0.02)


def test_information_is_half_the_integral_of_the_error() -> None:
    table = truth(vp_schedule(4))
    assert table["nats"].to_numpy() == pytest.approx(np.log1p(table["snr"] * STD**2) / 2, rel=1e-3)


@pytest.mark.parametrize("T", [1, 2, 4, 10])
def test_steps_share_what_there_is_to_decide(T: int) -> None:
    schedule = vp_schedule(T)
    steps = decided(truth(schedule), schedule)
    assert steps["t"].tolist() == list(range(T, 0, -1))
    assert steps["share"].sum() == pytest.approx(1, abs=1e-3)
    assert (steps["share"] > 0).all()
    snr = schedule.alpha_bar[1:] / (1 - schedule.alpha_bar[1:])
    exact = torch.log1p(snr * STD**2) / 2
    gained = (exact[:-1] - exact[1:]).flip(0)
    assert steps["nats"].tolist()[:-1] == pytest.approx(gained.tolist(), rel=0.01, abs=1e-6)
    assert np.isnan(steps["nats"].iloc[-1])


def test_a_ddpm_measures_it_and_a_ddgan_does_not(results: Path) -> None:
    run = train_run(configure("smoke", method="ddpm", updates=2), progress=False)
    table = read_table(measure(run, n=40))
    with pytest.raises(UserError, match="n = 298: choose 2 to 297 images, all of digits's test split"):
        measure(run, n=298)
    assert set(table["n"]) == {40}
    assert table[["device", "torch", "commit"]].drop_duplicates().to_numpy().tolist() == [
        [device_name("cpu"), torch.__version__, code_version()]
    ]
    assert set(pd.read_csv(measure(run))["n"]) == {297}, "by default 500, or all there are"
    assert (table["error"].diff().dropna() <= 0).all()
    of_an_image = 64 * integrate_error(table["snr"], table["error"])
    assert table["nats"].to_numpy() == pytest.approx(of_an_image, rel=1e-3)
    assert (table["snr"].diff().dropna() > 0).all()
    assert (results / "tables" / "information_digits.csv").is_file()
    with pytest.raises(UserError, match="is measured by a DDPM"):
        measure(train_run(configure("smoke", T=1, updates=2), progress=False), n=40)
