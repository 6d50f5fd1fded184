"""What critics know of a generator that stands still: by Gaussian images, whose log ratio is a line, and small runs."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import nn
from torch.nn.functional import softplus

from ddgan_core import UserError
from ddgan_core.data import load_images, to_float
from ddgan_core.diffusion import vp_schedule
from ddgan_core.divergences import get_divergence
from ddgan_core.evaluation import critics as module
from ddgan_core.evaluation.critics import RECORDS, ROWS, CriticTrainer, agreements, measure, pairs_at, table, told
from ddgan_core.evaluation.samples import load_model
from ddgan_core.networks import STD_GROUP, Discriminator, Generator
from ddgan_core.objectives import blind_curvature, log_ratio_line
from ddgan_core.runner import train_run
from ddgan_core.study import configure
from ddgan_core.training import Trainer

GAP = 1.5  # between the means of real and fake images of one pixel, of variance 1


class Line(Discriminator):
    """Knows the log ratio of N(GAP / 2, 1) and N(-GAP / 2, 1), times `scale`, and answers in its row's logit."""

    def __init__(self, row: str, scale: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.steepness, self.level = log_ratio_line(get_divergence(row))
        self.scale = scale

    def forward(self, x_prev: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (self.scale * GAP * x_prev.flatten(1).sum(1) - self.level) / self.steepness


@pytest.mark.parametrize("row", ROWS)
def test_of_a_known_ratio_all_is_told(row: str) -> None:
    """Nats are the Jensen-Shannon divergence, the AUC that of two Gaussians, whatever row the logit is of."""
    random = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(6_000, 1, 1, 1, generator=random) + side * GAP / 2 for side in (1, -1))
    found, slopes = told(get_divergence(row), Line(row), real, fake, torch.zeros_like(real), 1)
    density = [lambda x, side=side: norm.pdf(x, side * GAP / 2) for side in (1, -1)]
    divergence = sum(
        quad(lambda x, p=p: p(x) * math.log(2 * p(x) / (density[0](x) + density[1](x))) / 2, -9, 9)[0] for p in density
    )
    assert found["nats"] == pytest.approx(divergence, abs=0.01)
    assert found["auc"] == pytest.approx(norm.cdf(GAP / math.sqrt(2)), abs=0.01)
    assert torch.allclose(slopes, torch.full((6_000, 1), GAP))
    bold, _ = told(get_divergence(row), Line(row, 3.0), real, fake, torch.zeros_like(real), 1)
    assert bold["auc"] == pytest.approx(found["auc"], abs=1e-9), "a scale orders nothing anew"
    assert bold["nats"] < found["nats"]


def test_who_knows_nothing_tells_nothing() -> None:
    x = torch.randn(50, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    found, _ = told(get_divergence("reverse_kl"), Line("reverse_kl", 0.0), x, x, x, 1)
    assert found == pytest.approx({"nats": 0.0, "auc": 0.5}, abs=1e-7)


def test_agreement_is_the_share_of_what_is_common() -> None:
    """Of slopes s + noise the cosine is |s|^2 / (|s|^2 + |noise|^2), where there are many pixels."""
    random = np.random.default_rng(0)
    common = random.standard_normal((20, 4_000))
    slopes = [torch.from_numpy(common + 2 * random.standard_normal(common.shape)) for _ in range(3)]
    assert agreements(slopes) == pytest.approx([0.2] * 3, abs=0.02)
    away = torch.from_numpy(random.standard_normal(common.shape))
    assert agreements([*slopes[:2], away]) == pytest.approx([0.1, 0.1, 0.0], abs=0.02)
    assert math.isnan(agreements(slopes[:1])[0])


def test_pairs_are_of_one_noised_image() -> None:
    """With one step the generator's answer is the fake image itself; with two, x_1 lies between it and x_2."""
    x_0 = to_float(load_images("digits", "test")[0][:30])

    class Grey(Generator):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.z_dim = 3

        def forward(self, x: torch.Tensor, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            assert z.shape == (len(x), 3)
            return torch.full_like(x, 0.25)

    real, fake, x_t = pairs_at(Grey(), vp_schedule(1), x_0, 1)
    assert torch.allclose(real, x_0)
    assert torch.allclose(fake, torch.full_like(x_0, 0.25))
    assert x_t.std() == pytest.approx(1, abs=0.1)
    again = pairs_at(Grey(), vp_schedule(1), x_0, 1)
    assert all(torch.equal(one, other) for one, other in zip((real, fake, x_t), again, strict=True))
    for t in (1, 2):
        schedule = vp_schedule(2)
        real, fake, x_t = pairs_at(Grey(), schedule, x_0, t)
        noise = (real - schedule.alpha_bar[t - 1].sqrt() * x_0).std()
        assert noise == pytest.approx(float((1 - schedule.alpha_bar[t - 1]).sqrt()), rel=0.05, abs=1e-4)
        assert (t == 1) == torch.allclose(fake, torch.full_like(fake, 0.25))


def test_the_generator_stands_still_while_its_critic_is_trained_as_ever() -> None:
    run = train_run(configure("smoke", T=2, updates=4), progress=False)
    images = load_images("digits", "train")[0]
    weights = load_model(run)[0].state_dict()
    own, trainer = CriticTrainer(run, images, "cpu"), Trainer(run.config, images)
    trainer.model.load_state_dict(weights)
    trainer.update(), own.update()
    for name, tensor in trainer.critic.state_dict().items():
        assert torch.equal(tensor, own.critic.state_dict()[name]), name
    own.update()
    assert all(torch.equal(weights[name], tensor) for name, tensor in own.model.state_dict().items())
    assert not all(torch.equal(weights[name], tensor) for name, tensor in trainer.model.state_dict().items())


def test_each_row_seed_and_record_has_a_line(monkeypatch: pytest.MonkeyPatch, results: Path) -> None:
    run = train_run(configure("smoke", T=2, divergence="squared_hellinger", updates=4), progress=False)
    made = []

    class Spy(CriticTrainer):
        def __init__(self, *args: object, **changed: object) -> None:
            super().__init__(*args, **changed)
            made.append(self.config)

    monkeypatch.setattr(module, "CriticTrainer", Spy)
    assert measure(run, updates=32, batch_size=8, seeds=2, n=40) == results / "tables" / "critics_digits.csv"
    found = table("digits")
    lines = found.set_index(["t", "row", "seed", "updates"]).index
    assert sorted(lines) == sorted(
        (t, row, seed, 32 >> k) for t in (1, 2) for row in ROWS for seed in (0, 1) for k in range(RECORDS)
    )
    assert (found["images"] == 8 * found["updates"]).all()
    assert set(found["n"]) == {40}
    assert found.groupby(["t", "row", "updates"])["agreement"].nunique().eq(1).all(), "of two seeds one cosine"
    assert found["auc"].between(0, 1).all()
    assert {c.divergence for c in made} == set(ROWS)
    assert {(c.critic_divergence, c.updates, c.batch_size) for c in made} == {("", 32, 8)}
    assert [c.seed for c in made] == [1, 2] * 3, "the run's is 0"
    hold = [c.penalty_weight / blind_curvature(get_divergence(c.divergence)) for c in made]
    assert hold == pytest.approx([run.config.penalty_weight / 2] * 6), "as hard as the run's own"
    measure(run, updates=16, batch_size=8, seeds=1, n=40)
    again = table("digits")
    assert sorted(set(again["updates"])) == [1, 2, 4, 8, 16]
    assert again["agreement"].isna().all()


def test_r1_is_as_hard_as_on_the_critic_that_the_run_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose generator descends squared Hellinger, by JS's critic: R1 of the usual weight is as hard as on JS."""
    chosen = {"divergence": "squared_hellinger", "critic_divergence": "non_saturating_js"}
    run = train_run(configure("smoke", T=1, updates=2, **chosen), progress=False)
    weights = []
    monkeypatch.setattr(module.CriticTrainer, "update", lambda self: weights.append(self.config.penalty_weight))
    measure(run, updates=16, batch_size=4, seeds=1, n=8)
    assert weights[::16] == pytest.approx([run.config.penalty_weight * times for times in (1, 4, 2)])


def test_critics_are_asked_in_the_groups_that_they_are_trained_by() -> None:
    """Their minibatch standard deviation is over groups of images: of batches that no group divides it is another."""
    torch.manual_seed(0)
    critic, n = Discriminator(1, (8, 16), True), module.BATCH + 8
    real, fake, x_t = torch.randn(3, n, 1, 8, 8)
    found, _ = told(get_divergence("non_saturating_js"), critic, real, fake, x_t, 1)
    assert STD_GROUP == 4
    v_real, v_fake = [], []
    for begin, end in ((0, module.BATCH), (module.BATCH, n)):
        size = (end - begin) // STD_GROUP  # image i is grouped with i + size and so on: each group by itself
        for k in range(size):
            of_group = [begin + k + j * size for j in range(STD_GROUP)]
            at = torch.ones(STD_GROUP, dtype=torch.int64)
            v_real.append(critic(real[of_group], x_t[of_group], at))
            v_fake.append(critic(fake[of_group], x_t[of_group], at))
    losses = softplus(-torch.cat(v_real)) + softplus(torch.cat(v_fake))
    assert found["nats"] == pytest.approx(math.log(2) - losses.mean().item() / 2, abs=1e-6)


def test_mistakes_are_told() -> None:
    run = train_run(configure("smoke", T=1, updates=2), progress=False)
    with pytest.raises(UserError, match="updates = 24: choose a multiple of 16"):
        measure(run, updates=24)
    for n in (30, 300):
        with pytest.raises(
            UserError, match=f"n = {n}: choose a multiple of 4, .*, up to the 297 of digits's test split"
        ):
            measure(run, n=n)
    with pytest.raises(UserError, match="is a DDPM, whose steps have no critic"):
        measure(train_run(configure("smoke", method="ddpm", updates=2), progress=False))
    with pytest.raises(UserError, match="no multiple of the log ratio"):
        blind_curvature(get_divergence("wasserstein"))
