"""The updates: who moves and who does not, exact resuming, the stop before a spoiled update, rates and averages."""

import copy
import io
import math

import pytest
import torch

from ddgan_core import UserError, training
from ddgan_core.diffusion import random_generator
from ddgan_core.networks import Classifier
from ddgan_core.objectives import critic_loss
from ddgan_core.runs import PRESETS, RunConfig
from ddgan_core.training import Trainer, TrainingDiverged, train, train_classifier

IMAGES = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
KINDS = {
    "ddgan": {"penalty_every": 2},
    "wasserstein": {"divergence": "wasserstein", "penalty_weight": 10.0, "critic_steps": 2},
    "shared": {"shared_fakes": True, "critic_steps": 2},
    "ddpm": {"method": "ddpm", "divergence": "none", "T": 50},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def trainer(kind: str = "ddgan", **changes: object) -> Trainer:
    return Trainer(RunConfig(**(PRESETS["smoke"] | {"updates": 6, "seed": 3} | KINDS[kind] | changes)), IMAGES)


def flat(state: object) -> list[torch.Tensor]:
    """All tensors and numbers of a state, in order."""
    if isinstance(state, dict):
        return [x for key in sorted(state, key=str) for x in flat(state[key])]
    if isinstance(state, list | tuple):
        return [x for value in state for x in flat(value)]
    return (
        [state] if isinstance(state, torch.Tensor) else [torch.tensor(state)] if isinstance(state, int | float) else []
    )


def equal(a: object, b: object) -> bool:
    pairs = list(zip(flat(a), flat(b), strict=True))
    return len(pairs) > 20 and all(torch.equal(x, y) for x, y in pairs)


@kinds
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_resuming_is_the_same_as_never_stopping(kind: str, stop: int) -> None:
    """Bit for bit: weights, averages, optimisers, and the records, with the stop inside a record's window too."""
    whole = trainer(kind)
    records = list(train(whole, record_every=3))
    first = trainer(kind)
    resumed_records = [record for _, record in zip(range(stop), train(first, record_every=3), strict=False)]
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    second = trainer(kind)
    second.load_state(torch.load(file, weights_only=True))
    resumed_records += list(train(second, record_every=3))
    assert equal(second.state(), whole.state())
    assert str(resumed_records) == str(records)  # as text: NaN is equal to itself
    assert whole.step == 6


def test_a_checkpoint_of_another_configuration_is_refused() -> None:
    each = trainer(seed=4)
    before = copy.deepcopy(each.state())
    with pytest.raises(UserError, match=f"{trainer().config.hash}.*{each.config.hash}.*delete the run's folder"):
        each.load_state(trainer().state())
    assert equal(before, each.state())


def test_an_unknown_schedule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="'square' is not known: choose one of vp, linear, cosine"):
        trainer(schedule="square")


def test_a_critic_with_more_levels_than_halves_is_refused() -> None:
    """An odd side is halved downwards: 28, 14, 7, 3, 1."""
    with pytest.raises(UserError, match="critic_widths has 5 levels, .*: images of 8x8 have room for 4"):
        trainer(critic_widths=(8,) * 5)
    trainer("ddpm", critic_widths=(8,) * 5)  # which has no critic
    trainer(critic_widths=(8,) * 4).update()
    usual = {"widths": (8, 8), "critic_widths": (8,) * 5}
    Trainer(RunConfig(**(PRESETS["smoke"] | usual)), torch.zeros(4, 1, 28, 28, dtype=torch.uint8)).update()


@kinds
def test_same_seed_same_weights_another_seed_others(kind: str) -> None:
    a, b, c = trainer(kind), trainer(kind), trainer(kind, seed=4)
    for each in (a, b, c):
        torch.rand(1)  # global randomness plays no part
        each.update()
    assert equal(a.state(), b.state())
    assert not equal(a.state(), c.state())


def test_building_and_training_spend_no_global_randomness() -> None:
    before, each = torch.get_rng_state(), trainer()
    assert not torch.equal(each.model.time.layers[0].weight, each.critic.time.layers[0].weight), "streams of their own"
    each.update()
    assert torch.equal(before, torch.get_rng_state())


def test_the_players_move_one_at_a_time() -> None:
    each = trainer()
    model, critic = copy.deepcopy(each.model.state_dict()), copy.deepcopy(each.critic.state_dict())
    each._update_critic(0, each._pairs("critic/0"), penalise=True)
    assert all(p.grad is None for p in each.model.parameters())
    assert equal(model, each.model.state_dict())
    assert not equal(critic, each.critic.state_dict())
    critic = copy.deepcopy(each.critic.state_dict())
    each.critic_optimiser.zero_grad(set_to_none=True)
    each._update_generator(each._pairs("generator"))
    assert all(p.grad is None for p in each.critic.parameters())
    assert not equal(model, each.model.state_dict())
    assert equal(critic, each.critic.state_dict())
    assert all(p.requires_grad for p in each.critic.parameters())
    assert not any(p.requires_grad for p in each.ema.parameters())


@pytest.mark.parametrize(
    ("kind", "loss"), [("ddgan", "critic_loss"), ("ddgan", "generator_loss"), ("ddpm", "ddpm_loss")]
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_its_update(
    kind: str, loss: str, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = trainer(kind)
    each.update()
    player = "critic" if loss == "critic_loss" else "model"
    before = copy.deepcopy(getattr(each, player).state_dict())
    averaged = copy.deepcopy(each.ema.state_dict())
    true_loss = getattr(training, loss)

    def spoiled(*args: object) -> object:
        value = true_loss(*args)
        return (value[0] * bad, *value[1:]) if loss == "critic_loss" else value * bad

    monkeypatch.setattr(training, loss, spoiled)
    with pytest.raises(TrainingDiverged, match="step 1: the (critic|generator|model)'s loss is"):
        each.update()
    assert equal(before, getattr(each, player).state_dict())
    assert equal(averaged, each.ema.state_dict())
    assert each.step == 1


def test_a_gradient_that_is_not_finite_stops_even_where_the_loss_is() -> None:
    each = trainer("ddpm")
    next(each.model.parameters()).register_hook(lambda gradient: gradient * math.nan)
    before = copy.deepcopy(each.model.state_dict())
    with pytest.raises(TrainingDiverged, match="gradient norm nan"):
        each.update()
    assert equal(before, each.model.state_dict())


@kinds
def test_an_update_waits_for_its_device_once_for_each_player(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    for name in ("item", "tolist"):
        read = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda x, read=read: reads.append(x.shape) or read(x))
    each = trainer(kind)
    each.update()
    players = 1 if kind == "ddpm" else each.config.critic_steps + 1
    assert reads == [torch.Size([2])] * players, "a loss and a gradient's norm"


def losses_of_the_critic(monkeypatch: pytest.MonkeyPatch, updates: int, **changes: object) -> list[float]:
    """What the critic would descend at each step, with all networks held still."""
    seen: list[float] = []

    def watch(self: Trainer, optimiser: object, loss: torch.Tensor, player: str) -> None:
        if player == "critic":
            seen.append(loss.item())

    monkeypatch.setattr(Trainer, "_descend", watch)
    each = trainer("ddgan", **changes)
    for _ in range(updates):
        each.update()
    return seen


def test_a_lazy_penalty_is_scaled_by_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = losses_of_the_critic(monkeypatch, 6, penalty_every=3, penalty_weight=50.0)
    eager = losses_of_the_critic(monkeypatch, 6, penalty_every=1, penalty_weight=50.0)
    none = losses_of_the_critic(monkeypatch, 6, penalty_weight=0.0)
    paid = [a - b for a, b in zip(eager, none, strict=True)]
    for step in range(6):
        due = 3 * paid[step] if step % 3 == 0 else 0.0
        assert lazy[step] - none[step] == pytest.approx(due, rel=1e-3, abs=1e-6)
    assert min(paid) > 1e-3


def test_a_level_weight_adds_the_mean_squared_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    squares = []

    def seen(*of: object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        loss, real, fake = critic_loss(*of)
        squares.append(float((real.detach().square() + fake.detach().square()).mean()))
        return loss, real, fake

    monkeypatch.setattr(training, "critic_loss", seen)
    (held,), (free,) = (losses_of_the_critic(monkeypatch, 1, level_weight=weight) for weight in (50.0, 0.0))
    assert squares[0] == squares[1] > 1e-4
    assert held - free == pytest.approx(50 * squares[0], rel=1e-3)


def test_each_critic_step_sees_images_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(set(losses_of_the_critic(monkeypatch, 2, critic_steps=3))) == 6


@kinds
def test_every_time_is_drawn_equally_often(kind: str) -> None:
    each = trainer(kind, T=5, batch_size=5000)
    _, t = each._draw(random_generator(0, "times"))
    assert t.bincount().tolist() == [0] + [pytest.approx(1000, abs=150)] * 5


def test_adam_is_as_published() -> None:
    """As in Xiao et al.'s training script; a DDPM's are Adam's own."""
    gan, ddpm = trainer(), trainer("ddpm")
    assert gan.optimiser.defaults["betas"] == gan.critic_optimiser.defaults["betas"] == (0.5, 0.9)
    assert ddpm.optimiser.defaults["betas"] == (0.9, 0.999)


def test_learning_rates_follow_a_cosine_to_the_final_one() -> None:
    each = trainer(updates=200, lr_generator=1e-3, lr_critic=4e-4, lr_final=1e-5)
    for step, share in ((0, 1.0), (100, 0.5), (199, 0.0)):
        each.step = step
        each.update()
        for optimiser, lr in ((each.optimiser, 1e-3), (each.critic_optimiser, 4e-4)):
            assert optimiser.param_groups[0]["lr"] == pytest.approx(1e-5 + share * (lr - 1e-5), abs=1e-4 * lr)


def test_a_rate_below_the_final_one_stays() -> None:
    each = trainer(lr_critic=1e-6, lr_final=1e-5)
    each.step = 4
    each.update()
    assert each.critic_optimiser.param_groups[0]["lr"] == pytest.approx(1e-6)


def test_the_average_warms_up() -> None:
    """After update n its decay is min(ema_decay, (1 + n) / (10 + n)): 2/11 at first."""
    each = trainer(ema_decay=0.3)
    for decay in (2 / 11, 3 / 12, 0.3, 0.3):
        before = [p.clone() for p in each.ema.parameters()]
        each.update()
        for old, new, p in zip(before, each.ema.parameters(), each.model.parameters(), strict=True):
            assert torch.allclose(new, decay * old + (1 - decay) * p, atol=1e-6)


@kinds
def test_records_come_when_due_and_at_the_end(kind: str) -> None:
    records = list(train(trainer(kind, updates=5, T=4), record_every=2))
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5]
    assert [len(record) > 1 for record in records] == [False, True, False, True, True]
    expected = {"loss"} if kind == "ddpm" else {"critic", "generator"}
    assert expected <= records[-1].keys()
    assert {f"{name}_t4" for name in expected} <= records[-1].keys()
    assert all(math.isfinite(records[1][name]) for name in expected)


@kinds
def test_bf16_trains_float32_weights_to_nearly_the_same_losses(kind: str) -> None:
    half, single = trainer(kind, precision="bf16"), trainer(kind)
    a, b = list(train(half, 6))[-1], list(train(single, 6))[-1]
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in half.model.parameters())
    for name in ("loss",) if kind == "ddpm" else ("critic", "generator", "penalty"):
        assert a[name] == pytest.approx(b[name], abs=0.03)
    assert not equal(half.model.state_dict(), single.model.state_dict())  # it was used


def test_a_ddpm_learns_to_predict_noise() -> None:
    """On one flat image the loss falls far below 1, that of answering 0, in a few steps."""
    flat_images = torch.full((8, 1, 8, 8), 200, dtype=torch.uint8)
    config = RunConfig(**(PRESETS["smoke"] | KINDS["ddpm"] | {"updates": 80, "lr_generator": 5e-3}))
    assert list(train(Trainer(config, flat_images), 20))[-1]["loss"] < 0.3


def test_a_gan_learns_one_image() -> None:
    flat_images = torch.full((8, 1, 8, 8), 230, dtype=torch.uint8)
    config = RunConfig(**(PRESETS["smoke"] | {"T": 1, "updates": 60, "lr_generator": 2e-3, "lr_critic": 2e-3}))
    each = Trainer(config, flat_images)
    list(train(each, 60))
    with torch.no_grad():
        x_0 = each.model(torch.randn(16, 1, 8, 8), torch.ones(16, dtype=torch.long), torch.randn(16, config.z_dim))
    assert x_0.mean().item() == pytest.approx(230 / 127.5 - 1, abs=0.3)


def test_a_classifier_learns_bright_from_dark() -> None:
    labels = torch.arange(64) % 2
    images = (labels * 150)[:, None, None, None].expand(-1, 1, 8, 8).to(torch.uint8) + IMAGES // 4
    torch.manual_seed(0)
    network = Classifier(1, (8, 8), 2)
    records = list(train_classifier(network, images, labels, epochs=10, batch_size=16, lr=0.02))
    assert records[-1]["step"] == records[-1]["steps"] == 40
    assert records[-1]["loss"] < 0.3
    assert not network.training


def test_the_history_says_how_large_the_logits_are() -> None:
    each = trainer("ddgan")
    each.update()
    means = each.means.read()
    sides = [means[f"logit_{side}{t}"] for side in ("real", "fake") for t in ("", "_t1", "_t2")]
    assert 0 < max(map(abs, sides)) <= means["logit_largest"]


def test_the_history_says_what_the_latent_draws() -> None:
    """Noted beside the training, which it leaves alone; 0 without a latent, and none of a DDPM."""
    plain, noted, without = trainer("ddgan"), trainer("ddgan"), trainer("ddgan", z_dim=0)
    for each in (plain, noted, without):
        each.update()
    for each in (noted, without, noted):
        each.look()
    for each in (plain, noted):
        each.update()
    assert equal(plain.model.state_dict(), noted.model.state_dict())
    seen, none = noted.means.read(), without.means.read()
    assert min(seen["variance_by_latent_t1"], seen["variance_by_latent_t2"]) > 0
    assert none["variance_by_latent"] == 0
    assert "variance_by_latent" not in plain.means.read()
    (record,) = (r for r in train(trainer("ddpm", updates=1), 1))
    assert "variance_by_latent" not in record
