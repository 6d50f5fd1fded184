"""The reverse chain where the answer is known: Gaussian data, whose p(x_0 | x_t) and noise predictor are exact.

x_0 ~ N(MEAN, STD^2) per pixel gives x_t ~ N(sqrt(a) MEAN, V) with V = a STD^2 + 1 - a and
E[x_0 | x_t] = MEAN + sqrt(a) STD^2 / V (x_t - sqrt(a) MEAN), Var[x_0 | x_t] = STD^2 (1 - a) / V.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ddgan_core.diffusion import Schedule, linear_schedule, random_generator, vp_schedule
from ddgan_core.evaluation.samples import sample
from ddgan_core.figures.grids import read_png_grid
from ddgan_core.networks import Generator, NoisePredictor
from ddgan_core.runs import Run
from ddgan_core.sampling import (
    SeededNoise,
    Step,
    ancestral_step,
    ddgan_step,
    ddim_step,
    dpm_solver_step,
    reverse_chain,
    sample_images,
)

MEAN, STD, SHAPE = 0.3, 0.1, (1, 2, 2)


class ExactDraw(Generator):
    """x_0 ~ p(x_0 | x_t), with z as the noise: the generator that a perfect GAN would learn."""

    def __init__(self, schedule: Schedule) -> None:
        nn.Module.__init__(self)
        self.alpha_bar, self.z_dim = schedule.alpha_bar.float(), 4

    def forward(self, x: torch.Tensor, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        a = self.alpha_bar[t].view(-1, 1, 1, 1)
        v = a * STD**2 + 1 - a
        return MEAN + a.sqrt() * STD**2 / v * (x - a.sqrt() * MEAN) + STD * ((1 - a) / v).sqrt() * z.view_as(x)


class ExactNoise(NoisePredictor):
    """E[noise | x_t]: the minimiser of the DDPM's loss."""

    def __init__(self, schedule: Schedule) -> None:
        nn.Module.__init__(self)
        self.alpha_bar = schedule.alpha_bar

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = self.alpha_bar[t].to(x.dtype).view(-1, 1, 1, 1)
        return (1 - a).sqrt() / (a * STD**2 + 1 - a) * (x - a.sqrt() * MEAN)


@pytest.mark.parametrize("T", [1, 2, 4, 10])
def test_exact_draws_recover_the_data_and_every_marginal(T: int) -> None:
    schedule, n = vp_schedule(T), 10_000
    chain = reverse_chain(ddgan_step(ExactDraw(schedule), schedule), T, SHAPE, SeededNoise(0, 0, n))
    for t, x in zip(range(T, -1, -1), chain, strict=True):
        a = schedule.alpha_bar[t].item()
        std = (a * STD**2 + 1 - a) ** 0.5
        error = std / (x.numel() ** 0.5)
        # x_T is N(0, I), not quite q(x_T): off by sqrt(alpha_bar_T) = 0.007 of the mean
        assert x.mean().item() == pytest.approx(a**0.5 * MEAN, abs=4 * error + (0.0021 if t == T else 0))
        assert x.std().item() == pytest.approx(std, abs=4 * error)
    assert torch.corrcoef(x.flatten(1).T).fill_diagonal_(0).abs().max() < 0.05  # pixels stay independent


def test_a_network_is_told_its_own_time_when_respaced() -> None:
    schedule = vp_schedule(10)
    chain = reverse_chain(ddgan_step(ExactDraw(schedule), schedule.respaced(2)), 2, SHAPE, SeededNoise(0, 0, 10_000))
    *_, x_0 = chain
    assert (x_0.mean().item(), x_0.std().item()) == pytest.approx((MEAN, STD), abs=0.003)


@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_ddim_with_the_exact_predictor_is_a_known_affine_map(steps: int) -> None:
    """Each step multiplies x_t - sqrt(a) MEAN by (sqrt(a a') STD^2 + sqrt((1 - a)(1 - a'))) / V."""
    full = linear_schedule(1000)
    schedule, deviation = full.respaced(steps), 1.0
    a = schedule.alpha_bar.tolist()
    for i in range(steps, 0, -1):
        v = a[i] * STD**2 + 1 - a[i]
        deviation *= ((a[i] * a[i - 1]) ** 0.5 * STD**2 + ((1 - a[i]) * (1 - a[i - 1])) ** 0.5) / v
    x_T, *_, x_0 = reverse_chain(ddim_step(ExactNoise(full), schedule), steps, SHAPE, SeededNoise(1, 0, 50))
    expected = MEAN + deviation * (x_T - a[-1] ** 0.5 * MEAN)
    assert torch.allclose(x_0, expected, atol=1e-4)
    if steps == 1000:
        assert deviation == pytest.approx(STD, rel=0.05)  # the probability flow carries noise to data


def test_ancestral_with_the_exact_predictor_has_the_propagated_moments() -> None:
    """Its variance recursion is linear; at 10 steps it falls short of the data's, at 1000 it nearly reaches it."""
    full, reached = linear_schedule(1000), {}
    for steps in (10, 1000):
        schedule = full.respaced(steps)
        a, beta = schedule.alpha_bar.tolist(), schedule.beta.tolist()
        variance = 1.0
        for i in range(steps, 0, -1):
            v = a[i] * STD**2 + 1 - a[i]
            slope = a[i - 1] ** 0.5 * beta[i] / (1 - a[i]) * a[i] ** 0.5 * STD**2 / v
            slope += (1 - beta[i]) ** 0.5 * (1 - a[i - 1]) / (1 - a[i])
            variance = slope**2 * variance + (1 - a[i - 1]) / (1 - a[i]) * beta[i]
        n = 20_000 if steps == 10 else 500
        *_, x_0 = reverse_chain(ancestral_step(ExactNoise(full), schedule), steps, SHAPE, SeededNoise(2, 0, n))
        reached[steps] = variance**0.5
        assert x_0.mean().item() == pytest.approx(MEAN, abs=5 * STD / x_0.numel() ** 0.5)
        assert x_0.std().item() == pytest.approx(variance**0.5, rel=4 / (2 * x_0.numel()) ** 0.5)
    assert reached[10] < 0.8 * STD
    assert reached[1000] == pytest.approx(STD, rel=0.05)


@pytest.mark.parametrize("clip", [False, True], ids=["inside", "clipped"])
def test_steps_agree_with_diffusers(clip: bool) -> None:
    """An independent implementation, on an arbitrary predictor; when `clip`, x_0 hat often leaves [-1, 1]."""
    pytest.importorskip("diffusers", reason="an oracle, installed with the development extras")
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    schedule = linear_schedule(1000)
    settings = {"num_train_timesteps": 1000, "trained_betas": schedule.beta[1:].tolist()}
    ddpm = DDPMScheduler(**settings, variance_type="fixed_small", clip_sample=True)
    ddim = DDIMScheduler(**settings, clip_sample=True, set_alpha_to_one=True)
    ddim.set_timesteps(1000)

    class Wave(NoisePredictor):
        def __init__(self) -> None:
            nn.Module.__init__(self)

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return (x + 0.1 * t.view(-1, 1, 1, 1)).sin() if clip else ExactNoise(schedule)(x, t)

    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    for t in (1000, 700, 300, 50, 2, 1):  # theirs counts from 0
        noise = Wave()(x, torch.full((4,), t)).float()

        def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
            return torch.randn(4, *shape, generator=torch.Generator().manual_seed(5))

        theirs = ddim.step(noise, t - 1, x, eta=0.0, use_clipped_model_output=True).prev_sample
        assert torch.allclose(ddim_step(Wave(), schedule)(x, t, draw), theirs, atol=2e-4)
        theirs = ddpm.step(noise, t - 1, x, generator=torch.Generator().manual_seed(5)).prev_sample
        ours = ancestral_step(Wave(), schedule)(x, t, draw)
        assert torch.allclose(ours, theirs, atol=2e-4)


def test_dpm_solver_agrees_with_diffusers() -> None:
    """Whole chains, since a step uses the one before; fewer than 15 steps, where theirs ends by the first order too."""
    pytest.importorskip("diffusers", reason="an oracle, installed with the development extras")
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    full, steps = linear_schedule(1000), 8
    schedule, network = full.respaced(steps), ExactNoise(full)
    settings = {"num_train_timesteps": 1000, "trained_betas": full.beta[1:].tolist(), "final_sigmas_type": "zero"}
    theirs = DPMSolverMultistepScheduler(**settings, algorithm_type="dpmsolver++", solver_order=2)
    theirs.set_timesteps(timesteps=[t - 1 for t in schedule.time.tolist()[:0:-1]])  # theirs counts from 0
    step = dpm_solver_step(network, schedule)
    for seed in (3, 4):  # a chain of the same step begins anew
        x, *ours = reverse_chain(step, steps, SHAPE, SeededNoise(seed, 0, 5))
        theirs._step_index, theirs.lower_order_nums = None, 0
        for t, own in zip(theirs.timesteps, ours, strict=True):
            x = theirs.step(network(x, torch.full((5,), int(t) + 1)), t, x).prev_sample
            assert torch.allclose(own, x, atol=1e-4)


def test_dpm_solver_is_of_the_second_order_where_ddim_is_of_the_first() -> None:
    """Of Gaussian data the probability flow is known: x_t - sqrt(a) MEAN grows as sqrt(V_t). Down to t = 200."""
    full = linear_schedule(1000)

    def error(make: Callable[..., Step], steps: int) -> float:
        step = make(ExactNoise(full), full.respaced(steps))
        x_T, *states = reverse_chain(step, steps, SHAPE, SeededNoise(1, 0, 50))
        (a, a_T), x = full.alpha_bar[[200, 1000]].tolist(), states[steps * 4 // 5 - 1]
        flow = a**0.5 * MEAN + ((a * STD**2 + 1 - a) / (a_T * STD**2 + 1 - a_T)) ** 0.5 * (x_T - a_T**0.5 * MEAN)
        return float((x - flow).abs().max())

    for make, order in ((ddim_step, 1), (dpm_solver_step, 2)):
        errors = [error(make, steps) for steps in (20, 40)]
        assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.25)


def test_an_image_is_the_same_in_any_batch() -> None:
    torch.manual_seed(0)
    schedule, network = vp_schedule(4), Generator(1, (8, 16), 4, False)
    step = ddgan_step(network, schedule)

    def images(n: int, batch_size: int, start: int = 0) -> torch.Tensor:
        return torch.cat(list(sample_images(step, 4, (1, 8, 8), n, 7, batch_size=batch_size, start=start)))

    whole = images(150, 150)
    assert torch.allclose(images(150, 64), whole, atol=1e-5)
    assert torch.allclose(images(150, 33), whole, atol=1e-5)
    assert torch.allclose(images(3, 1, start=63), whole[63:66], atol=1e-5)  # across a block of noise
    assert len(whole.flatten(1).unique(dim=0)) == 150


def test_noise_depends_on_seed_index_and_purpose_alone() -> None:
    whole = SeededNoise(3, 0, 200)("x_T", (2,))
    assert torch.equal(SeededNoise(3, 130, 5)("x_T", (2,)), whole[130:135])
    second = torch.randn(64, 2, generator=random_generator(3, "sample/x_T", 1))
    assert torch.equal(whole[64:128], second), "else all scores are of other images"
    assert not torch.equal(SeededNoise(4, 0, 200)("x_T", (2,)), whole)
    assert not torch.equal(SeededNoise(3, 0, 200)("z/4", (2,)), whole)


def test_sampling_keeps_no_graph_and_spends_no_global_randomness() -> None:
    schedule = vp_schedule(2)
    step = ddgan_step(Generator(1, (8, 16), 4, False), schedule)
    before = torch.get_rng_state()
    for x_0 in sample_images(step, 2, (1, 8, 8), 4, 0, batch_size=2):
        assert not x_0.requires_grad
        assert torch.is_grad_enabled()
    assert torch.equal(before, torch.get_rng_state())


SHIPPED = ("non_saturating_js_T04_s0_cpu", "non_saturating_js_T04_s0_full_b128-bf16-wide-critic4")  # attends, too


@pytest.mark.parametrize("run_id", SHIPPED)
def test_shipped_weights_draw_the_committed_images(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a few grey levels, rounded to bfloat16 as they are: networks and seeds still mean what they meant."""
    monkeypatch.setenv("DDGAN_RESULTS", str(Path(__file__).parent.parent / "results"))
    shipped = Run.open(run_id)
    drawn, grid = sample(shipped, 4).float(), read_png_grid(shipped.path / "samples.png", 28)[:4].float()
    assert (drawn - grid).abs().mean() < 5 < 20 * grid.std()
