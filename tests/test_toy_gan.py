"""Batched toy GANs against one seed at a time, measures against closed forms and an exact generator."""

import math
from dataclasses import replace

import pytest
import torch

from ddgan_core import UserError
from ddgan_core.diffusion import random_generator, vp_schedule
from ddgan_core.divergences import DIVERGENCES
from ddgan_core.toys import toy_study
from ddgan_core.toys.gan import ToyGAN, ToySettings, train_toy
from ddgan_core.toys.measures import (
    StepScale,
    density_grid,
    divergence_on_grid,
    exact_divergences,
    learned_log_density,
    quasi_normal,
    sample_measures,
    true_log_density,
)
from ddgan_core.toys.mixtures import GaussianMixture, grid_25, isotropic, ring, true_x_0, two_modes

TINY = ToySettings(seeds=2, updates=5, batch_size=8, width=8)


def train(row: str, seeds: list[int], mixture: GaussianMixture, settings: ToySettings = TINY, T: int = 3) -> ToyGAN:
    return train_toy(mixture, DIVERGENCES[row], T, seeds, settings)


@pytest.mark.parametrize("row", ["squared_hellinger", "wasserstein", "relativistic"])  # three kinds of penalty
@pytest.mark.parametrize("mixture", [two_modes(0.3), grid_25()], ids=["1-D", "2-D"])
def test_seeds_trained_together_are_seeds_trained_alone(row: str, mixture: GaussianMixture) -> None:
    together = train(row, [0, 7, 3], mixture)
    for k, seed in enumerate(together.seeds):
        alone = train(row, [seed], mixture)
        for ours, theirs in zip(together.ema.parameters(), alone.ema.parameters(), strict=True):
            torch.testing.assert_close(ours[k], theirs[0], rtol=1e-3, atol=1e-5)
        for ours, theirs in zip(together.critic.parameters(), alone.critic.parameters(), strict=True):
            torch.testing.assert_close(ours[k], theirs[0], rtol=1e-3, atol=1e-5)
    assert not torch.equal(together.ema.weights[0][0], together.ema.weights[0][1])


def test_a_seed_that_diverges_does_not_touch_the_others() -> None:
    gan = ToyGAN(two_modes(), DIVERGENCES["kl"], 2, [0, 1], TINY)
    with torch.no_grad():
        gan.critic.weights[0][0, 0, 0] = math.nan
    for _ in range(TINY.updates):
        gan.update()
    assert gan.diverged() == [True, False]
    alone = train("kl", [1], two_modes(), T=2)
    torch.testing.assert_close(gan.ema.weights[1][1], alone.ema.weights[1][0], rtol=1e-3, atol=1e-5)


def test_the_penalty_is_each_seeds_own() -> None:
    """With a penalty that dwarfs the loss, the two critics go where each would go alone; without one, elsewhere."""
    heavy = replace(DIVERGENCES["jensen_shannon"], penalty_weight=1e4)
    both = train_toy(two_modes(), heavy, 2, [0, 1], TINY)
    alone = train_toy(two_modes(), heavy, 2, [1], TINY)
    free = train_toy(two_modes(), replace(heavy, penalty_weight=0.0), 2, [1], TINY)
    torch.testing.assert_close(both.critic.weights[0][1], alone.critic.weights[0][0], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(both.critic.weights[0][1], free.critic.weights[0][0], rtol=1e-3, atol=1e-5)


def test_a_lazy_penalty_stands_for_those_it_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(DIVERGENCES["kl"], penalty=lambda logits, real, *_: torch.ones(len(real)), penalty_weight=0.5)
    gan = ToyGAN(two_modes(), row, 2, [0, 1], replace(TINY, penalty_every=4))
    with torch.no_grad():
        gan.critic.weights[-1].zero_()  # logits of 0, as nothing is learned
    losses = []
    monkeypatch.setattr(gan, "_descend", lambda optimiser, lr, loss: losses.append(loss.item()))
    for _ in range(5):
        gan.update()
    critic = losses[::2]
    assert [loss - critic[1] for loss in critic] == pytest.approx([2 * 4 * 0.5, 0, 0, 0, 2 * 4 * 0.5])


def test_a_relativistic_generator_is_held_against_real_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(DIVERGENCES["relativistic"], generator=lambda v_real, v_fake: v_real)
    gan, losses = ToyGAN(two_modes(), row, 2, [0, 1], TINY), []
    monkeypatch.setattr(gan, "_descend", lambda optimiser, lr, loss: losses.append(loss.item()))
    x_prev, x_t, t, *_ = gan._draw("generator")
    gan.update()
    assert losses[1] == pytest.approx(gan._logits(x_prev, x_t, gan._one_hot(t)).sum().item() / TINY.batch_size)


def test_the_average_warms_up_and_the_rates_fall_by_a_cosine() -> None:
    gan = ToyGAN(two_modes(), DIVERGENCES["kl"], 2, [0], replace(TINY, updates=4))
    before = gan.generator.weights[0].detach().clone()
    gan.update()
    torch.testing.assert_close(gan.ema.weights[0], (2 * before + 9 * gan.generator.weights[0].detach()) / 11)
    gan.update()
    gan.update()  # of half of its time
    for optimiser, lr in ((gan.optimiser, TINY.lr_generator), (gan.critic_optimiser, TINY.lr_critic)):
        assert optimiser.param_groups[0]["lr"] == pytest.approx(lr * (1 + TINY.lr_final) / 2)


def test_real_pairs_are_drawn_from_the_diffused_data() -> None:
    mixture = two_modes(0.3)
    gan = ToyGAN(mixture, DIVERGENCES["kl"], 2, [0, 1], replace(TINY, batch_size=40_000))
    x_prev, x_t, t, noise, z, mix = gan._draw("critic")
    assert torch.bincount(t).tolist() == pytest.approx([0, 40_000, 40_000], abs=1000)
    for when in (1, 2):
        for x, at in ((x_prev, when - 1), (x_t, when)):
            mean, variance = (m.item() for m in mixture.diffused(gan.schedule, at).moments())
            assert x[t == when].mean().item() == pytest.approx(mean, abs=0.02)
            assert x[t == when].var().item() == pytest.approx(variance, abs=0.03)
    assert (mix.min() >= 0, mix.max() <= 1) == (True, True)
    assert not torch.equal(gan._draw("generator")[1], x_t)


def test_it_learns_one_gaussian() -> None:
    """Data that a step's p(x_{t-1} | x_t) can match: mean and width come out, from a start far away."""
    data = isotropic([1.0], [[0.5]], 0.3)
    gan = train("non_saturating_js", [0, 1], data, ToySettings(seeds=2, updates=300, width=16, batch_size=32), T=2)
    x = gan.sample_chain(4000)
    assert x.mean((1, 2)).tolist() == pytest.approx([0.5, 0.5], abs=0.15)
    assert x.std((1, 2)).tolist() == pytest.approx([0.3, 0.3], abs=0.12)


def exact_generator(mixture: GaussianMixture, T: int):
    """x_0 ~ q(x_0 | x_t) by inversion: z's first coordinate chooses the component, the others place x_0 within it."""
    schedule = vp_schedule(T)

    def predict(x_t: torch.Tensor, t: int, z: torch.Tensor) -> torch.Tensor:
        clean = true_x_0(mixture, schedule, x_t, t)
        level = torch.special.ndtr(z[..., :1])
        chosen = (level > clean.weights.cumsum(-1)[..., :-1]).sum(-1)[..., None, None]
        mean = clean.means.gather(-2, chosen.expand(*chosen.shape[:-1], mixture.d))[..., 0, :]
        std = clean.covariances.flatten()[0].sqrt()  # round, and the same for all
        return mean + std * z[..., 1:]

    return predict


@pytest.mark.parametrize("t", [2, 3, 4])
@pytest.mark.parametrize("data", ["rare", "grid_unequal"])
def test_an_exact_generator_has_no_divergence(data: str, t: int) -> None:
    mixture = toy_study.TOYS[data].mixture
    scale = StepScale(mixture, vp_schedule(4), t, 1 + mixture.d, points=6, latents=4096)
    found = {name: value.item() for name, value in scale.measure(exact_generator(mixture, 4), 1).items()}
    assert set(found) == set(exact_divergences(mixture.d))
    for name in ("kl", "reverse_kl", "jensen_shannon", "squared_hellinger", "pearson"):
        assert 0 <= found[name] < 3e-3
    assert found["total_variation"] < 0.02
    shifted = scale.measure(lambda x, t, z: exact_generator(mixture, 4)(x, t, z) + 1, 1)
    assert shifted["kl"].item() > 10 * found["kl"], "and a wrong one has"


@pytest.mark.parametrize("data", toy_study.TOYS)
def test_the_error_of_the_densities_is_small_at_the_step_where_it_is_largest(data: str) -> None:
    """Of all T, t of the study: modes are narrowest, beside the step's noise, at t = 2 of the longest chain."""
    mixture = toy_study.TOYS[data].mixture
    scale = StepScale(mixture, vp_schedule(8), 2, 1 + mixture.d)
    assert 0 <= scale.measure(exact_generator(mixture, 8), 1)["kl"].item() < 2e-4


@pytest.mark.parametrize("mixture", [two_modes(0.9), grid_25(0.08)], ids=["1-D", "2-D"])
@pytest.mark.parametrize(("T", "t"), [(2, 2), (4, 3), (8, 2), (8, 8)])
def test_densities_integrate_to_one_on_their_grid(mixture: GaussianMixture, T: int, t: int) -> None:
    schedule, d = vp_schedule(T), mixture.d
    axis = density_grid(mixture, schedule, t)
    x_t = mixture.diffused(schedule, t).sample(3, random_generator(0, "test"))
    x_0 = quasi_normal(256, d).expand(3, -1, -1).clone()
    x_0[0] *= 50  # predictions beyond the grid keep their mass
    cell = float(axis[1] - axis[0]) ** d
    for density in (
        learned_log_density(x_0, x_t, schedule, t, axis).exp(),
        true_log_density(mixture, schedule, x_t, t, axis).exp(),
    ):
        assert (density.sum(-1) * cell).tolist() == pytest.approx([1] * 3, abs=2e-4)


@pytest.mark.parametrize("d", [1, 2])
def test_learned_density_is_a_mixture_over_z(d: int) -> None:
    """Against the package's own mixtures, a component for each z with mean and variance of eq. (10) by hand."""
    schedule, t, n = vp_schedule(4), 3, 20
    x_0 = torch.rand(n, d, dtype=torch.float64, generator=random_generator(0, "test")) - 0.5
    x_t = torch.full((d,), 0.3, dtype=torch.float64)
    a, before, beta = schedule.alpha_bar[t], schedule.alpha_bar[t - 1], schedule.beta[t]
    mean = (before.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - before) * x_t) / (1 - a)
    variance = (1 - before) / (1 - a) * beta
    by_hand = isotropic([1.0] * n, mean.tolist(), variance.sqrt().item())
    axis = density_grid(two_modes() if d == 1 else grid_25(), schedule, t)
    points = axis[:, None] if d == 1 else torch.cartesian_prod(axis, axis)
    ours = learned_log_density(x_0[None], x_t[None], schedule, t, axis)[0]
    torch.testing.assert_close(ours.exp(), by_hand.log_prob(points).exp(), rtol=1e-6, atol=1e-12)


def test_there_is_no_density_at_the_last_step() -> None:
    with pytest.raises(UserError, match="t = 1"):
        density_grid(two_modes(), vp_schedule(2), 1)


def test_divergences_of_two_gaussians() -> None:
    eps, x = 0.7, torch.linspace(-12, 13, 5001, dtype=torch.float64)
    q, p = torch.distributions.Normal(0.0, 1.0).log_prob(x), torch.distributions.Normal(eps, 1.0).log_prob(x)
    closed = {
        "kl": eps**2 / 2,
        "reverse_kl": eps**2 / 2,
        "jeffreys": eps**2,
        "pearson": math.expm1(eps**2),
        "neyman": math.expm1(eps**2),
        "squared_hellinger": 2 - 2 * math.exp(-(eps**2) / 8),
        "total_variation": math.erf(eps / math.sqrt(8)),
        "wasserstein": eps,
    }
    for name, value in closed.items():
        assert divergence_on_grid(name, q, p, 0.005).item() == pytest.approx(value, rel=1e-4), name
    with pytest.raises(UserError, match="no f"):
        divergence_on_grid("relativistic", q, p, 0.005)


def test_a_divergence_is_of_the_data_from_the_model() -> None:
    """Of N(0, 1) from N(0.7, 1.5^2), in either order; and of a step whose generator knows one of two modes alone."""
    m, s, x = 0.7, 1.5, torch.linspace(-14, 15, 5801, dtype=torch.float64)
    q, p = torch.distributions.Normal(0.0, 1.0).log_prob(x), torch.distributions.Normal(m, s).log_prob(x)
    closed = {"kl": math.log(s) + (1 + m**2) / (2 * s**2) - 0.5, "reverse_kl": (s**2 + m**2 - 1) / 2 - math.log(s)}
    for name, value in closed.items():
        assert divergence_on_grid(name, q, p, 0.005).item() == pytest.approx(value, rel=1e-4), name
    scale = StepScale(two_modes(), vp_schedule(2), 2, 1)
    one_mode = lambda x_t, t, z: torch.ones_like(x_t)  # noqa: E731
    log_q, log_p, cell = scale.log_q, scale.log_p(one_mode, 1)[0], float(scale.axis[1] - scale.axis[0])
    found, cost = scale.measure(one_mode, 1), log_q - log_p
    assert found["kl"].item() == pytest.approx(((log_q.exp() * cost).sum(-1) * cell).mean().item(), rel=1e-3)
    assert found["reverse_kl"].item() == pytest.approx(-((log_p.exp() * cost).sum(-1) * cell).mean().item(), rel=1e-3)


def test_a_component_is_covered_by_a_quarter_of_its_mass_within_four_deviations() -> None:
    data = isotropic([0.5, 0.25, 0.25], [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], 0.01)

    def found(heavy: int) -> dict[str, float]:
        places = [[0.0, 0.0]] * heavy + [[1.0, 0.0]] * 3 + [[0.0, 1.05], [0.0, 0.97]]  # 5 and 3 deviations off
        x = torch.tensor(places + [[0.0, 1.0]] * (40 - len(places)), dtype=torch.float64)
        return sample_measures(x, data, x.flip(0))

    assert found(6)["covered"] == 1  # 0.15 of 0.5, and 0.075 of 0.25
    assert found(4)["covered"] == pytest.approx(2 / 3)
    assert found(6)["smear"] == pytest.approx(1 / 40)
    assert found(6)["w1"] == 0, "in whatever order"


def test_sample_measures_by_hand() -> None:
    data = isotropic([0.5, 0.25, 0.25], [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], 0.01)
    x = torch.tensor([[0.0, 0.0]] * 6 + [[1.0, 0.0]] * 1 + [[0.0, 0.8]] * 1, dtype=torch.float64)
    found = sample_measures(x, data, x)
    assert found["covered"] == pytest.approx(2 / 3), "the last one is near nothing"
    assert found["smear"] == pytest.approx(1 / 8)
    assert found["weight_error"] == pytest.approx((0.25 + 0.125 + 0.125) / 2)
    assert found["w1"] == 0
    moved = sample_measures(x + torch.tensor([3.0, 4.0]), data, x)
    assert moved["w1"] == pytest.approx(5 * 2 / math.pi, rel=1e-3), "the mean of |cos| over directions"
    with pytest.raises(UserError, match="as many"):
        sample_measures(x, data, x[1:])


def test_exact_samples_are_at_the_floor() -> None:
    for data in toy_study.TOYS:
        floor = toy_study.floors(data, [0]).iloc[0]
        assert floor["covered"] == 1
        assert floor["smear"] < 2e-3
        assert floor["w1"] < 0.05
        assert floor["weight_error"] < 0.06


def test_a_ring_is_a_ring() -> None:
    angle = torch.linspace(0, 2 * math.pi, 1000, dtype=torch.float64)
    along = ring().log_prob(torch.stack([angle.cos(), angle.sin()], 1)).exp()
    assert along.min() / along.max() > 0.99, "no gaps between its Gaussians"
    assert ring().log_prob(torch.zeros(2, dtype=torch.float64)).item() < -50


@pytest.mark.parametrize("name", ["seeds", "updates", "z_dim"])
def test_impossible_settings_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=name):
        replace(TINY, **{name: 0})
