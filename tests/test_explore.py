"""Pictures to play with: the images of `sample`, noise that every model shares, z apart from the rest of it."""

import pytest
import torch
from torch import nn

from ddgan_core import UserError
from ddgan_core.checkpoints import write_weights
from ddgan_core.data import load_images, to_float, to_uint8
from ddgan_core.evaluation.samples import sample
from ddgan_core.networks import Generator, NoisePredictor
from ddgan_core.notebook import explore
from ddgan_core.runs import PRESETS, Run, RunConfig

DDGAN = RunConfig(preset="smoke").changed(**PRESETS["smoke"], T=3)
LONG = DDGAN.changed(T=8)
DDPM = DDGAN.changed(method="ddpm", divergence="none", T=20)


def make_run(config: RunConfig) -> Run:
    """A run whose network is as it was initialised."""
    torch.manual_seed(config.T)
    run = Run.create(config)
    if config.method == "ddpm":
        network: nn.Module = NoisePredictor(1, config.widths, attention=False)
    else:
        network = Generator(1, config.widths, config.z_dim, attention=False)
    write_weights(run.path / "ema.safetensors", network.state_dict(), config.hash)
    return run


class Linear(Generator):
    """G(x_t, z, t) = a x_t + b z_1: of what it answers, the share drawn by z is b^2 / (a^2 Var x_t + b^2)."""

    def __init__(self, a: float, b: float) -> None:
        nn.Module.__init__(self)
        self.a, self.b, self.z_dim = a, b, 4

    def forward(self, x: torch.Tensor, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.a * x + self.b * z[:, :1, None, None]


def with_network(run: Run, network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Run:
    schedule = explore.load_model(run)[1]
    monkeypatch.setattr(explore, "load_model", lambda run: (network, schedule))
    return run


@pytest.mark.parametrize("config", [DDGAN, LONG])
def test_the_chain_is_that_of_sample(config: RunConfig) -> None:
    run = make_run(config)
    states = explore.chain(run, seed=3, n=5)
    assert len(states) == config.T + 1
    assert torch.equal(to_uint8(states[-1]), sample(run, 5, seed=3))


def test_a_ddpm_takes_few_ddim_steps() -> None:
    run = make_run(DDPM)
    expected = sample(run, 2, sampler="ddim", steps=explore.MOST_STEPS, seed=1)
    assert torch.equal(to_uint8(explore.chain(run, seed=1, n=2)[-1]), expected)
    assert f"{explore.MOST_STEPS} DDIM steps" in explore.name_of(run)


def test_every_model_starts_from_the_same_noise() -> None:
    starts = [explore.chain(make_run(config), seed=5, n=3)[0] for config in (DDGAN, LONG, DDPM)]
    assert (starts[0] == starts[1]).all()
    assert (starts[0] == starts[2]).all()
    assert (explore.chain(make_run(DDGAN), seed=6, n=3)[0] != starts[0]).any()


def test_latent_draws_z_anew_and_nothing_else() -> None:
    one, other = explore.noise(2, 0, 4), explore.noise(2, 1, 4)
    for name in ("x_T", "posterior/2"):
        assert (one(name, (1, 3, 3)) == other(name, (1, 3, 3))).all()
    z, again = one("z/2", (4,)), other("z/2", (4,))
    assert (z != again).all()
    run = make_run(DDGAN)
    assert (explore.chain(run, 2, 1)[0] == explore.chain(run, 2, 0)[0]).all()
    assert (explore.chain(run, 2, 1)[-1] != explore.chain(run, 2, 0)[-1]).any()


def test_answers_differ_in_z_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_network(make_run(DDGAN), Linear(0.5, 0.1), monkeypatch)
    (times, rows), states = explore.answers(run, seed=1, draws=5), explore.chain(run, seed=1, n=1)
    assert times == [3, 2, 1]
    for t, row in zip(times, rows, strict=True):
        assert (row[0] == states[3 - t][0]).all()
        drawn = row[1:] - 0.5 * row[0]  # b z_1: one number over the whole image, the same at every t
        torch.testing.assert_close(
            drawn, (rows[0, 1:] - 0.5 * rows[0, 0]).mean((1, 2, 3), keepdim=True).expand_as(drawn)
        )
        assert len(drawn[:, 0, 0, 0].unique()) == 5
    _, again = explore.answers(run, seed=1, latent=1, draws=5)
    assert (again[:, 0] == rows[:, 0]).all()
    assert (again[:, 1:] != rows[:, 1:]).all()


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.8), (0.9, 0.0), (0.0, 0.7)])
def test_shares_are_those_of_a_generator_that_can_be_solved(
    a: float, b: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = with_network(make_run(DDGAN), Linear(a, b), monkeypatch)
    table = explore.latent_shares(run, seed=2, chains=400, draws=10)
    assert list(table.index) == [3, 2, 1]
    at_T = table.loc[3]  # x_T ~ N(0, I)
    assert at_T["read from x_t"] == pytest.approx(a**2, abs=0.03)
    assert at_T["drawn by z"] == pytest.approx(b**2, abs=0.03)
    assert at_T["share drawn by z"] == pytest.approx(b**2 / (a**2 + b**2), abs=0.03)


def test_a_constant_generator_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_network(make_run(DDGAN), Linear(0.0, 0.0), monkeypatch)
    assert (explore.latent_shares(run, chains=4, draws=2) == 0).all(axis=None)


def test_a_ddpm_has_no_latent() -> None:
    run = make_run(DDPM)
    for ask in (explore.answers, explore.latent_shares):
        with pytest.raises(UserError, match="no latent z: choose a DDGAN"):
            ask(run)


def test_edits_start_from_the_noised_guide_and_end_in_it_as_t_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a generator that knows the guide, whatever the step, every draw ends in it."""
    guide = load_images("digits", "test")[0][7]
    clean = to_float(guide[None])

    class Oracle(Linear):
        def forward(self, x: torch.Tensor, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return clean.expand_as(x)

    run = with_network(make_run(LONG), Oracle(0, 0), monkeypatch)
    times, rows = explore.edits(run, guide, seed=4, draws=3)
    schedule = explore.open_model(run).schedule
    assert times == [8, 6, 4, 3, 1]
    noise = (rows[0, 0] - schedule.alpha_bar[8].sqrt() * clean[0]) / (1 - schedule.alpha_bar[8]).sqrt()
    for t, row in zip(times, rows, strict=True):
        alpha_bar = schedule.alpha_bar[t]
        expected = alpha_bar.sqrt() * clean[0] + (1 - alpha_bar).sqrt() * noise
        torch.testing.assert_close(row[0], expected.float(), rtol=0, atol=1e-5)
        torch.testing.assert_close(row[1:], clean.expand(3, -1, -1, -1), rtol=0, atol=1e-5)
    assert noise.std() == pytest.approx(1, abs=0.3)


def test_draws_of_an_edit_differ_but_not_those_of_ddim() -> None:
    guide = load_images("digits", "test")[0][0]
    _, rows = explore.edits(make_run(DDGAN), guide, draws=2)
    assert (rows[0, 1] != rows[0, 2]).any()
    _, rows = explore.edits(make_run(DDPM), guide, draws=2)
    torch.testing.assert_close(rows[:, 1], rows[:, 2])
    with pytest.raises(UserError, match=r"shape \(1, 3, 3\).*takes \(1, 8, 8\)"):
        explore.edits(make_run(DDGAN), torch.zeros(1, 3, 3, dtype=torch.uint8))


def test_a_pair_shows_its_noise_and_what_each_makes_of_it() -> None:
    left, right = make_run(DDGAN), make_run(LONG)
    pixels = explore.show_pair(left, right, seed=1, n=3).axes[0].images[0].get_array()
    states = [explore.chain(run, 1, 0, 3) for run in (left, right)]
    assert pixels.shape == (24, 24, 3)
    for row, images in enumerate((states[0][0], states[0][-1], states[1][-1])):
        shown = torch.as_tensor(pixels[8 * row : 8 * row + 8, :8, 0].copy())
        assert (shown == to_uint8(images)[0, 0]).all()


def test_pictures_have_a_row_for_each_t() -> None:
    run, guide = make_run(DDGAN), load_images("digits", "test")[0][1]
    pixels = explore.show_edits(run, guide, draws=2).axes[0].images[0].get_array()
    assert pixels.shape == (3 * 9 - 1, (2 + 2) * 9 - 1, 3), "8 pixels and a gap, but for the last"
    for t in range(3):
        assert (torch.as_tensor(pixels[9 * t : 9 * t + 8, :8, 0].copy()) == guide[0]).all()
    figure = explore.show_answers(run, draws=2)
    assert figure.axes[0].images[0].get_array().shape == (3 * 9 - 1, (1 + 2) * 9 - 1, 3)
    named = [text.get_text() for text in figure.axes[0].texts]
    assert named == ["t = 3", "t = 2", "t = 1", "$x_t$", "z 1", "z 2", "JS (non-saturating), T = 3"]
    assert explore.show_chain(run, n=2).axes[0].images[0].get_array().shape == (2 * 9 - 1, (3 + 1) * 9 - 1, 3)


def test_same_noise_ratio_at_its_two_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(DDGAN)
    assert explore.same_noise_ratio(run, run, n=8) == pytest.approx(0, abs=1e-6)
    far = torch.randn(2, 64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ends = iter(far)
    monkeypatch.setattr(explore, "chain", lambda *a: [next(ends)])
    assert explore.same_noise_ratio(run, run, n=64) == pytest.approx(1, abs=0.05)
    with pytest.raises(UserError, match="2 images or more"):
        explore.same_noise_ratio(run, run, n=1)


def test_two_datasets_are_not_compared() -> None:
    other = Run(DDGAN.changed(dataset="fashion_mnist"))
    with pytest.raises(UserError, match="digits and of fashion_mnist"):
        explore.show_pair(make_run(DDGAN), other)


def test_guides_are_never_downloaded(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDGAN_DATA", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *a, **k: pytest.fail("a download was started"))
    assert explore.guide_images("fashion_mnist") is None
    assert explore.guide_images("cifar10") is None
    assert explore.guide_images("digits").shape[1:] == (1, 8, 8)


@pytest.mark.parametrize("T", [1, 2, 5, 6, 10, 1000])
def test_times_shown_keep_both_ends(T: int) -> None:
    times = explore.times_shown(T)
    assert (times[0], times[-1]) == (T, 1)
    assert times == sorted(set(times), reverse=True)
    assert len(times) == min(T, explore.MOST_ROWS)


def test_names_tell_runs_apart() -> None:
    configs = [DDGAN, LONG, DDPM, DDGAN.changed(seed=1), DDGAN.changed(tag="x"), DDGAN.changed(divergence="kl")]
    names = [explore.name_of(Run(config)) for config in configs]
    assert len(set(names)) == len(names)
    runs = [Run(config) for config in configs]
    assert explore.menu(runs, runs[2]).value is runs[2]
    assert explore.menu(runs).label == names[0]
