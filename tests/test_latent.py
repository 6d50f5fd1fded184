"""What z draws, on generators and data whose variances are known in closed form."""

import numpy as np
import pytest
import torch
from torch import nn

from ddgan_core.diffusion import diffuse, random_generator, vp_schedule
from ddgan_core.evaluation.latent import answers, library_variance, share_of_samples
from ddgan_core.networks import Generator

STD = 0.5  # of the images' pixels, independent and normal: e(t) = STD^2 / (1 + snr STD^2)


class Linear(Generator):
    """G(x_t, z, t) = a_t x_t + b z_1: one number over the whole image is drawn by z."""

    def __init__(self, a: list[float], b: float) -> None:
        nn.Module.__init__(self)
        self.a, self.b, self.z_dim = torch.tensor(a), b, 3

    def forward(self, x: torch.Tensor, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.a[t].view(-1, 1, 1, 1) * x + self.b * z[:, :1, None, None]


def images(n: int) -> torch.Tensor:
    return STD * torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def needed(T: int) -> np.ndarray:
    alpha_bar = vp_schedule(T).alpha_bar[1:].numpy()
    return STD**2 / (1 + alpha_bar / (1 - alpha_bar) * STD**2)


def test_an_exact_generator_draws_all_and_its_mean_answer_is_the_best_guess() -> None:
    """a_t x_t = E[x_0 | x_t]; b is chosen for t = 2, so that the share there is 1 and b^2 / e(t) elsewhere."""
    schedule, e = vp_schedule(3), needed(3)
    alpha_bar = schedule.alpha_bar
    best = (alpha_bar.sqrt() * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar)).tolist()
    table = answers(Linear(best, float(e[1]) ** 0.5), schedule, images(2_000), draws=16).table(e)
    assert table.index.tolist() == [3, 2, 1]
    assert table["variance by z"].to_numpy() == pytest.approx(e[1], rel=0.05)
    assert table["share"].tolist() == pytest.approx((e[1] / e)[::-1].tolist(), rel=0.05)
    assert table["mean answer's error / needed"].to_numpy() == pytest.approx(1, abs=0.05)


def test_a_deterministic_generator_that_draws_by_the_noise_of_x_t_has_twice_the_error() -> None:
    """At t = T, x_T is noise alone: G = STD x_T has the data's law, and is as far from x_0 as another image."""
    schedule, e = vp_schedule(2), needed(2)
    table = answers(Linear([0.0, 0.0, STD], 0.0), schedule, images(2_000), draws=2).table(e)
    assert (table[["variance by z", "share", "error of the share"]] == 0).all(axis=None)
    assert table.loc[2, "mean answer's error / needed"] == pytest.approx(2, abs=0.05)


def test_the_error_of_the_share_is_that_of_images() -> None:
    found = answers(Linear([0.0, 0.0], 0.3), vp_schedule(1), images(400), draws=4)
    assert (found.drawn != answers(Linear([0.0, 0.0], 0.3), vp_schedule(1), images(400), draws=4, seed=1).drawn).any()
    line = found.table(np.array([0.09])).iloc[0]
    # The variance of 4 normal draws, over its expectation, is chi-square with 3 degrees of freedom over 3.
    assert line["error of the share"] == pytest.approx(1.96 * (2 / 3 / 400) ** 0.5, rel=0.2)
    assert abs(line["share"] - 1) < 2 * line["error of the share"]


def test_two_images_as_a_library() -> None:
    """x_0 = +-v: given x_t, P(+) = sigmoid(2 sqrt(alpha_bar) x_t.v / (1 - alpha_bar)), and Var = 4 P (1 - P) v^2."""
    v, alpha_bar = torch.tensor([[0.5, -1.0, 0.2]]), 0.3
    x_t = diffuse(vp_schedule(4), v.expand(50, -1), torch.full((50,), 3), torch.randn(50, 3))
    chance = torch.sigmoid(2 * alpha_bar**0.5 * (x_t @ v.T).squeeze(1) / (1 - alpha_bar))
    expected = 4 * chance * (1 - chance) * v.square().mean()
    torch.testing.assert_close(library_variance(x_t, torch.cat([v, -v]), alpha_bar), expected, rtol=1e-4, atol=1e-6)


def test_a_library_knows_a_gaussian_from_below() -> None:
    random, alpha_bar = random_generator(0, "library"), 0.2
    library, x_0 = (STD * torch.randn(n, 1, generator=random) for n in (20_000, 50))
    x_t = alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * torch.randn(50, 1, generator=random)
    exact = STD**2 / (1 + alpha_bar / (1 - alpha_bar) * STD**2)
    assert library_variance(x_t, library, alpha_bar).numpy() == pytest.approx(exact, rel=0.05)
    assert (library_variance(x_t, library[:10], 1 - 1e-9) == 0).all(), "one image alone explains x_t"


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.8), (0.9, 0.0), (0.0, 0.7)])
def test_what_z_decides_of_the_samples_of_one_step(a: float, b: float) -> None:
    share = share_of_samples(Linear([0.0, a], b), vp_schedule(1), (1, 4, 4), n=600, draws=6)
    assert share == pytest.approx(b**2 / (a**2 + b**2), abs=0.04)


def test_what_z_decides_of_two_steps() -> None:
    """x_1 = c x_2 + d G_2 + s noise with c, d, s of the posterior, and x_0 = a x_1 + b z: all variances add up."""
    schedule, (a, b) = vp_schedule(2), (0.7, 0.4)
    alpha_bar, beta = schedule.alpha_bar, schedule.beta
    d = alpha_bar[1].sqrt() * beta[2] / (1 - alpha_bar[2])
    c = (1 - beta[2]).sqrt() * (1 - alpha_bar[1]) / (1 - alpha_bar[2])
    s2 = (1 - alpha_bar[1]) / (1 - alpha_bar[2]) * beta[2]
    by_z = a**2 * d**2 * b**2 + b**2
    expected = by_z / (by_z + a**2 * ((c + d * a) ** 2 + s2))
    share = share_of_samples(Linear([0.0, a, a], b), schedule, (1, 4, 4), n=600, draws=6)
    assert share == pytest.approx(float(expected), abs=0.04)
