"""The Gaussian facts against Bayes' rule, propagation of moments, and values worked out elsewhere."""

import inspect
import math

import pytest
import torch

from ddgan_core import UserError, diffusion
from ddgan_core.diffusion import (
    Schedule,
    cosine_schedule,
    diffuse,
    diffuse_pair,
    linear_schedule,
    posterior,
    random_generator,
    sample_posterior,
    vp_schedule,
)

SCHEDULES = [
    vp_schedule(1),
    vp_schedule(2),
    vp_schedule(4),
    vp_schedule(10),
    vp_schedule(1000),
    linear_schedule(1000),
    cosine_schedule(4),
]
ids = [f"{i}-T{s.T}" for i, s in enumerate(SCHEDULES)]


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def log_normal(x: torch.Tensor, mean: float, variance: float) -> torch.Tensor:
    return -((x - mean) ** 2) / (2 * variance) - 0.5 * math.log(2 * math.pi * variance)


def times(T: int, first: int = 1) -> list[int]:
    return sorted({t for t in (first, 2, 3, T // 2, T - 1, T) if first <= t <= T})


def test_vp_schedule_has_the_published_values() -> None:
    # Xiao et al. 2021 start at s = 0.001 (.5217 .0787 .0034); from s = 0 the first two are .5237 and .0791.
    schedule = vp_schedule(4)
    assert schedule.alpha_bar[1:3].tolist() == pytest.approx([0.5237, 0.0791], abs=5e-5)
    assert schedule.beta[1:].tolist() == pytest.approx([0.476, 0.849, 0.956, 0.987], abs=1e-3)
    s = torch.linspace(0.001, 1, 5, dtype=torch.float64)
    published = torch.exp(-0.1 * s - 19.9 * s**2 / 2)
    assert published[1:4].tolist() == pytest.approx([0.5217, 0.0787, 0.0034], abs=5e-5)
    assert schedule.alpha_bar[-1] == pytest.approx(math.exp(-10.05), rel=1e-12)


def test_cosine_schedule_against_diffusers() -> None:
    """An independent implementation of Nichol and Dhariwal's; it too holds every beta at .999."""
    from diffusers import DDPMScheduler

    for T in (1, 2, 4, 1000):
        other = DDPMScheduler(num_train_timesteps=T, beta_schedule="squaredcos_cap_v2")
        ours = cosine_schedule(T)
        assert ours.beta[1:].tolist() == pytest.approx(other.betas.tolist(), abs=1e-6)
        assert ours.alpha_bar[-1] < 1.1e-3


def test_linear_schedule_is_the_one_of_ddpm() -> None:
    schedule = linear_schedule(1000)
    assert schedule.beta[[1, 1000]].tolist() == pytest.approx([1e-4, 0.02])
    assert schedule.alpha_bar[-1] == pytest.approx(4.04e-5, rel=2e-3)  # Ho et al. 2020: sqrt of it is 0.0064
    assert linear_schedule(10).alpha_bar[-1] > 0.9  # the source paper's DDPM sweep never reaches noise


@pytest.mark.parametrize("schedule", SCHEDULES, ids=ids)
def test_tables_begin_with_no_noise_and_agree_with_each_other(schedule: Schedule) -> None:
    assert schedule.alpha_bar[0] == 1
    assert schedule.beta[0] == 0
    assert len(schedule.beta) == len(schedule.alpha_bar) == len(schedule.time) == schedule.T + 1
    assert torch.allclose(torch.cumprod(1 - schedule.beta, 0), schedule.alpha_bar, rtol=1e-9)
    assert (schedule.alpha_bar.diff() < 0).all()
    assert (schedule.beta[1:] > 0).all()
    assert (schedule.beta < 1).all()


@pytest.mark.parametrize("T", [0, -1, 1001, 2.0, "4"])
def test_an_impossible_T_is_one_line(T: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the tests' check of types, which would come first, and which a user does not have."""
    monkeypatch.setattr(diffusion, "check_T", inspect.unwrap(diffusion.check_T))
    for schedule in (vp_schedule, linear_schedule, cosine_schedule):
        with pytest.raises(UserError, match=rf"^T = {T}: .* whole number from 1 to 1000$") as refusal:
            inspect.unwrap(schedule)(T)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=ids)
def test_posterior_is_bayes_rule(schedule: Schedule) -> None:
    """q(x_{t-1} | x_t, x_0) = q(x_t | x_{t-1}) q(x_{t-1} | x_0) / q(x_t | x_0), point by point and by quadrature."""
    x_0, x_t = 0.7, -0.4
    for t in times(schedule.T, first=2):
        mean, variance = posterior(schedule, column(x_0), column(x_t), torch.tensor([t]))
        m, v = mean.item(), variance.item()
        grid = m + math.sqrt(v) * torch.linspace(-10, 10, 4001, dtype=torch.float64)
        a, a_prev, beta = (q.item() for q in (schedule.alpha_bar[t], schedule.alpha_bar[t - 1], schedule.beta[t]))
        likelihood = -((x_t - math.sqrt(1 - beta) * grid) ** 2) / (2 * beta) - 0.5 * math.log(2 * math.pi * beta)
        joint = likelihood + log_normal(grid, math.sqrt(a_prev) * x_0, 1 - a_prev)
        evidence = log_normal(column(x_t), math.sqrt(a) * x_0, 1 - a).item()
        density = (joint - evidence).exp()
        assert torch.trapezoid(density, grid).item() == pytest.approx(1, rel=1e-6)
        assert torch.trapezoid(grid * density, grid).item() == pytest.approx(m, rel=1e-6, abs=1e-8)
        assert torch.trapezoid((grid - m) ** 2 * density, grid).item() == pytest.approx(v, rel=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=ids)
def test_the_first_step_lands_on_x_0_exactly(schedule: Schedule) -> None:
    x_0, x_t, t = torch.randn(5, 1, 2, 2), torch.randn(5, 1, 2, 2), torch.ones(5, dtype=torch.long)
    mean, variance = posterior(schedule, x_0, x_t, t)
    assert torch.equal(mean, x_0)
    assert (variance == 0).all()
    assert torch.equal(sample_posterior(schedule, x_0, x_t, t, torch.randn(5, 1, 2, 2)), x_0)
    x_prev, _ = diffuse_pair(schedule, x_0, t, torch.randn(5, 1, 2, 2), torch.randn(5, 1, 2, 2))
    assert torch.equal(x_prev, x_0)


def test_one_step_is_the_degenerate_gan() -> None:
    """T = 1: x_1 is noise, x_0 is the generator's own output, and the critic compares x_0 given (nearly) nothing."""
    schedule = vp_schedule(1)
    x_0, t, zero = torch.ones(1, 1), torch.ones(1, dtype=torch.long), torch.zeros(1, 1)
    x_prev, x_t = diffuse_pair(schedule, x_0, t, zero, zero)
    assert x_prev.item() == 1
    assert x_t.item() == pytest.approx(math.exp(-10.05 / 2), rel=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=ids)
def test_the_pair_has_the_marginals_of_the_direct_kernel(schedule: Schedule) -> None:
    """The pair is linear in (x_0, noise_prev, noise): coefficients are read off, their squares are variances."""
    one, zero = column(1.0), column(0.0)
    for t in times(schedule.T):
        index = torch.tensor([t])
        mean_prev, mean = (x.item() for x in diffuse_pair(schedule, one, index, zero, zero))
        prev_by_prev, by_prev = (x.item() for x in diffuse_pair(schedule, zero, index, one, zero))
        prev_by_own, by_own = (x.item() for x in diffuse_pair(schedule, zero, index, zero, one))
        a, a_prev, beta = (q.item() for q in (schedule.alpha_bar[t], schedule.alpha_bar[t - 1], schedule.beta[t]))
        assert (mean_prev, mean) == pytest.approx((math.sqrt(a_prev), math.sqrt(a)), rel=1e-9)
        assert prev_by_prev**2 == pytest.approx(1 - a_prev, abs=1e-12)
        assert prev_by_own == 0
        assert by_prev**2 + by_own**2 == pytest.approx(1 - a, abs=1e-12)
        assert prev_by_prev * by_prev == pytest.approx(math.sqrt(1 - beta) * (1 - a_prev), abs=1e-12)  # covariance
        direct = diffuse(schedule, zero, index, one).item()
        assert direct**2 == pytest.approx(by_prev**2 + by_own**2, abs=1e-12)


def test_the_pair_and_the_posterior_agree_in_samples() -> None:
    """x_{t-1} of the pair and x_{t-1} drawn from the posterior at its x_t are the same joint law."""
    schedule, n, t = vp_schedule(4), 200_000, 2
    g = torch.Generator().manual_seed(0)
    x_0 = torch.randn(n, 1, generator=g, dtype=torch.float64) * 0.5 + 0.3
    noise = [torch.randn(n, 1, generator=g, dtype=torch.float64) for _ in range(3)]
    index = torch.full((n,), t)
    x_prev, x_t = diffuse_pair(schedule, x_0, index, noise[0], noise[1])
    redrawn = sample_posterior(schedule, x_0, x_t, index, noise[2])
    for a in (x_prev, redrawn):
        moments = torch.cov(torch.stack([x_0[:, 0], a[:, 0], x_t[:, 0]]))
        root = schedule.alpha_bar[t - 1].sqrt()
        assert a.mean().item() == pytest.approx(0.3 * root.item(), abs=0.01)
        assert moments[0, 1].item() == pytest.approx(0.25 * root.item(), abs=0.01)
        variance = 0.25 * schedule.alpha_bar[t - 1] + 1 - schedule.alpha_bar[t - 1]
        assert moments[1, 1].item() == pytest.approx(variance.item(), abs=0.01)
        assert moments[1, 2].item() == pytest.approx(((1 - schedule.beta[t]).sqrt() * variance).item(), abs=0.01)


def test_each_image_has_its_own_time() -> None:
    schedule = vp_schedule(4)
    x_0, noise = torch.randn(4, 1, 3, 3), torch.randn(4, 1, 3, 3)
    t = torch.tensor([3, 1, 4, 2])
    together = diffuse(schedule, x_0, t, noise)
    for i in range(4):
        assert torch.equal(together[i : i + 1], diffuse(schedule, x_0[i : i + 1], t[i : i + 1], noise[i : i + 1]))


@pytest.mark.parametrize("steps", [1, 3, 7, 10, 100, 999, 1000])
def test_respacing_keeps_the_marginals(steps: int) -> None:
    schedule = vp_schedule(1000)
    short = schedule.respaced(steps)
    assert steps == short.T
    assert short.time[0] == 0
    assert short.time[-1] == 1000
    assert (short.time.diff() > 0).all()
    assert (short.time - torch.linspace(0, 1000, steps + 1)).abs().max() <= 0.5 + 1e-3, "evenly spread"
    assert torch.equal(short.alpha_bar, schedule.alpha_bar[short.time])
    assert torch.allclose(torch.cumprod(1 - short.beta, 0), short.alpha_bar, rtol=1e-9)


def test_respacing_to_all_steps_changes_nothing() -> None:
    for schedule in SCHEDULES:
        same = schedule.respaced(schedule.T)
        assert torch.equal(same.alpha_bar, schedule.alpha_bar)
        assert torch.equal(same.time, schedule.time)
        assert torch.allclose(same.beta, schedule.beta, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("steps", [0, 5, -3])
def test_respacing_to_impossible_steps_is_refused(steps: int) -> None:
    with pytest.raises(UserError, match=f"steps = {steps}.*1 to 4"):
        vp_schedule(4).respaced(steps)


def test_streams_differ_by_seed_purpose_and_step_and_repeat() -> None:
    def first(*key: object) -> float:
        return torch.randn(1, generator=random_generator(*key)).item()

    keys = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]
    assert len({first(*key) for key in keys}) == 4
    assert first(0, "a", 0) == first(0, "a", 0)
