"""Training: the only place with optimisers and `.backward()`.

`train` yields one record after each update, so that whoever asked decides about budgets, progress and files. All
randomness is a function of (seed, purpose, step): resuming needs the tensors of `Trainer.state` and nothing else.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ddgan_core import UserError
from ddgan_core.data import draw_batch, to_float
from ddgan_core.diffusion import diffuse_pair, make_schedule, random_generator, sample_posterior, stream_seed
from ddgan_core.graphs import Graphs, can_record
from ddgan_core.networks import Classifier, Discriminator, check_image_size, make_model
from ddgan_core.objectives import critic_loss, critic_penalty, ddpm_loss, generator_loss, make_row
from ddgan_core.runs import RunConfig
from ddgan_core.shapes import Int, Tensor, UInt8
from ddgan_core.time_means import TimeMeans, variance_by_latent


class TrainingDiverged(RuntimeError):
    """A loss or a gradient was not finite; raised before the update it would have spoiled."""


def initialised(make: Callable[[], nn.Module], seed: int, purpose: str) -> Any:
    """What `make` builds, its weights drawn for (seed, purpose), the global random state left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(seed, purpose))  # and no device's
        return make()


class Trainer:
    """The networks of a run, their optimisers, and the update that moves them.

    graphs: on a GPU, updates are replayed from CUDA graphs, and what is not finite shows at the next `check`.
    """

    def __init__(
        self, config: RunConfig, images: UInt8[Tensor, "n c h w"], device: torch.device | str = "cpu",
        graphs: bool = True,
    ) -> None:  # fmt: skip
        self.config, self.device, self.step = config, torch.device(device), 0
        self.graphed = graphs and can_record(self.device)
        self.spoiled = torch.zeros((), device=self.device)  # 1 from the first loss or gradient that was not finite
        channels, height, width = images.shape[1:]
        check_image_size(height, width, len(config.widths))
        self.images = images.to(self.device)
        self.schedule = make_schedule(config.schedule, config.T).to(self.device)
        up_to = torch.tensor(config.step_weights, device=self.device, dtype=torch.float32).cumsum(0)
        self.up_to = up_to / up_to[-1:]  # P(t <= 1), P(t <= 2), ..., 1
        made = (config.method, channels, config.widths, config.z_dim, config.attention)
        model = initialised(lambda: make_model(*made), config.seed, "model")
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.model).requires_grad_(False)
        self.means = TimeMeans(config.T, self.device)
        self.optimiser = self._adam(self.model, config.lr_generator)
        purposes = ["ddpm"]
        if config.method == "ddgan":
            if len(config.critic_widths) > (most := min(height, width).bit_length()):  # halved to 1x1 by then
                raise UserError(
                    f"critic_widths has {len(config.critic_widths)} levels, each half the one before: "
                    f"images of {height}x{width} have room for {most}"
                )
            self.row = make_row(config.divergence, config.critic_divergence)
            critic = initialised(
                lambda: Discriminator(channels, config.critic_widths, config.critic_detail), config.seed, "critic"
            )
            self.critic = critic.to(self.device, memory_format=torch.channels_last)
            self.critic_optimiser = self._adam(self.critic, config.lr_critic)
            purposes = [*(f"critic/{k}" for k in range(config.critic_steps)), "generator"]
        self.random = {purpose: torch.Generator(self.device) for purpose in purposes}
        self._graphs = Graphs(self.device, self.random.values())

    def _adam(self, network: nn.Module, lr: float) -> torch.optim.Adam:
        betas = (0.9, 0.999) if self.config.method == "ddpm" else (0.5, 0.9)
        rate = torch.tensor(lr, device=self.device) if self.graphed else lr  # a number would be part of the graph
        how = {"lr": rate, "betas": betas, "fused": True, "capturable": self.graphed}
        optimiser = torch.optim.Adam(network.parameters(), **how)
        if self.graphed:
            optimiser.found_inf = self.spoiled  # where it is 1, the fused kernel passes the update over
        return optimiser

    def update(self) -> None:
        """One update of the model, after `critic_steps` of the critic; `step` counts them."""
        self._begin()
        penalise = self.config.method == "ddgan" and self.step % self.config.penalty_every == 0
        if self.graphed:
            self._graphs(penalise, self._players, self._rehearsal)
        else:
            self._players(penalise)
        self.step += 1
        # Warm-up: a young average must not remember the initial weights (as in TensorFlow's num_updates).
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    def look(self) -> None:
        """What no loss shows, for the next record: the variance that the averaged generator draws by its latent.

        On one batch, each time the same. Another, as another seed has, would move the share by .03 to .06 (LOG.md)."""
        if self.config.method != "ddgan":
            return
        random = torch.Generator(self.device).manual_seed(stream_seed(self.config.seed, "latent"))  # each time the same
        x_0, t = self._draw(random, equally=True)
        _, x_t = diffuse_pair(self.schedule, x_0, t, self._noise(x_0, random), self._noise(x_0, random))
        self.means.add("variance_by_latent", variance_by_latent(self.ema, x_t, t, self.config.z_dim, random), t)

    def check(self) -> None:
        """Raises TrainingDiverged where an update in a graph met what is not finite; no player has moved since."""
        if self.spoiled.item():
            raise TrainingDiverged(
                f"step {self.step}: since the last record a loss or gradient was not finite; stopped before that update"
            )

    def _begin(self) -> None:
        """What an update depends on beside its tensors: random streams and learning rates."""
        config = self.config
        for purpose, generator in self.random.items():
            generator.manual_seed(stream_seed(config.seed, purpose, self.step))
        cosine = (1 + math.cos(math.pi * self.step / config.updates)) / 2
        players = [(self.optimiser, config.lr_generator)]
        players += [(self.critic_optimiser, config.lr_critic)] if config.method == "ddgan" else []
        for optimiser, lr in players:
            rate = min(lr, config.lr_final) + (lr - min(lr, config.lr_final)) * cosine
            for group in optimiser.param_groups:
                if self.graphed:
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    @contextmanager
    def _rehearsal(self) -> Iterator[None]:
        """What is played meanwhile moves nothing: Adam passes over, the means are put back, the streams begun again."""
        spoiled, sums = self.spoiled.clone(), {name: total.clone() for name, total in self.means.sums.items()}
        self.spoiled.fill_(1)
        try:
            yield
        finally:
            self.spoiled.copy_(spoiled)
            for name, total in self.means.sums.items():
                total.copy_(sums.get(name, torch.zeros_like(total)))
            self._begin()

    def _players(self, penalise: bool) -> None:
        """The update itself: the same work on the same tensors each time."""
        config = self.config
        if config.method == "ddpm":
            self._update_ddpm()
            return
        for k in range(config.critic_steps):
            with torch.set_grad_enabled(config.shared_fakes and k == config.critic_steps - 1):
                pairs = self._pairs(f"critic/{k}")
            self._update_critic(k, pairs, penalise)
        self._update_generator(pairs if config.shared_fakes else self._pairs("generator"))

    def _update_ddpm(self) -> None:
        generator = self.random["ddpm"]
        x_0, t = self._draw(generator)
        with self._autocast():
            loss = ddpm_loss(self.model, self.schedule, x_0, t, self._noise(x_0, generator))
        self.means.add("loss", loss, t)
        self._descend(self.optimiser, loss.mean(), "model")

    def _update_critic(self, k: int, pairs: tuple[Tensor, Tensor, Tensor, Tensor], penalise: bool) -> None:
        config, row, (x_prev, fake, x_t, t) = self.config, self.row, pairs
        with self._autocast():
            loss, v_real, v_fake = critic_loss(row, self.critic, x_prev, fake, x_t, t)
        for name, values in {"critic": loss, "logit_real": v_real, "logit_fake": v_fake}.items():
            self.means.add(name, values, t)
        self.means.add("logit_largest", torch.maximum(v_real.abs().max(), v_fake.abs().max()))
        total = loss.mean()
        if config.level_weight > 0:  # holds the level of the logits (Karras et al. 2018, appendix A.1: of real images)
            total = total + config.level_weight * (v_real.square() + v_fake.square()).mean()
        if penalise and config.penalty_weight > 0:
            mix = torch.rand(len(t), generator=self.random[f"critic/{k}"], device=self.device)
            with self._autocast():
                penalty = critic_penalty(row, self.critic, x_prev, fake, x_t, t, mix)
            self.means.add("penalty", penalty, t)
            # A lazy penalty stands for the updates it skips (Karras et al. 2020, appendix B, but for their rescaling of
            # Adam's rate and betas); not so in the original.
            total = total + config.penalty_weight * config.penalty_every * penalty.mean()
        self._descend(self.critic_optimiser, total, "critic")

    def _update_generator(self, pairs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        x_prev, fake, x_t, t = pairs
        self.critic.requires_grad_(False)  # its weights need no gradient here
        try:
            with self._autocast():
                loss = generator_loss(self.row, self.critic, x_prev, fake, x_t, t)
            self.means.add("generator", loss, t)
            self._descend(self.optimiser, loss.mean(), "generator")
        finally:
            self.critic.requires_grad_(True)

    def _draw(self, generator: torch.Generator, equally: bool = False) -> tuple[Tensor, Tensor]:
        x_0 = draw_batch(self.images, self.config.batch_size, generator)
        how: dict[str, Any] = {"generator": generator, "device": self.device}
        if equally or not self.config.step_weights:
            return x_0, torch.randint(1, self.config.T + 1, (len(x_0),), **how)
        return x_0, 1 + torch.bucketize(torch.rand(len(x_0), **how), self.up_to, right=True)

    def _pairs(self, purpose: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Real and fake x_{t-1} of the same x_t, with it and its t."""
        generator = self.random[purpose]
        x_0, t = self._draw(generator)
        x_prev, x_t = diffuse_pair(self.schedule, x_0, t, self._noise(x_0, generator), self._noise(x_0, generator))
        return x_prev, self._fake(x_t, t, generator), x_t, t

    def _fake(self, x_t: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """x_{t-1} ~ p_theta(x_{t-1} | x_t), eq. (10)."""
        z = torch.randn(len(t), self.config.z_dim, generator=generator, device=self.device)
        with self._autocast():
            x_0 = self.model(x_t, t, z).float()
        return sample_posterior(self.schedule, x_0, x_t, t, self._noise(x_t, generator))

    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(like.shape, generator=generator, device=self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _descend(self, optimiser: torch.optim.Optimizer, loss: Tensor, player: str) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.graphed:
            self.spoiled.copy_(torch.maximum(self.spoiled, (~torch.isfinite(loss.detach() + norm)).float()))
        else:
            loss_value, norm_value = torch.stack([loss.detach(), norm]).tolist()  # at once: a GPU is waited for
            if not math.isfinite(loss_value + norm_value):
                raise TrainingDiverged(
                    f"step {self.step}: the {player}'s loss is {loss_value:.4g} and its gradient norm "
                    f"{norm_value:.4g}; stopped before this update"
                )
        self.means.add(f"gradient_{player}", norm)
        optimiser.step()

    def state(self) -> dict[str, Any]:
        """All that resuming needs, as plain containers of tensors and numbers."""
        parts: dict[str, Any] = {
            "step": self.step, "config_hash": self.config.hash, "model": self.model.state_dict(),
            "ema": self.ema.state_dict(), "optimiser": self.optimiser.state_dict(), "means": self.means.sums,
            "spoiled": self.spoiled,
        }  # fmt: skip
        if self.config.method == "ddgan":
            parts |= {"critic": self.critic.state_dict(), "critic_optimiser": self.critic_optimiser.state_dict()}
        return parts

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from `state`, wherever it was saved. Raises UserError where it belongs to another configuration."""
        if state["config_hash"] != self.config.hash:
            raise UserError(
                f"the checkpoint is of configuration {state['config_hash']}, the run's is {self.config.hash}: "
                "delete the run's folder checkpoints"
            )
        self.step = state["step"]
        self._graphs.forget()  # the tensors that they have recorded are replaced here
        self.spoiled.copy_(state.get("spoiled", torch.zeros(())))  # of an update since the last record
        self.means.sums = {name: total.to(self.device) for name, total in state["means"].items()}
        for name in ("model", "ema", "critic"):
            if name in state:
                getattr(self, name).load_state_dict(state[name])
        for name in ("optimiser", "critic_optimiser"):
            if name in state:  # its settings are this device's own
                own = getattr(self, name)
                own.load_state_dict(state[name] | {"param_groups": own.state_dict()["param_groups"]})


def train(trainer: Trainer, record_every: int) -> Iterator[dict[str, float]]:
    """Updates until the run's end. Yields {"step": n} after each, with the means since the last record now and then."""
    while trainer.step < trainer.config.updates:
        trainer.update()
        if due := trainer.step % record_every == 0 or trainer.step == trainer.config.updates:
            trainer.check()
            trainer.look()
        yield {"step": trainer.step} | (trainer.means.read() if due else {})


def train_classifier(
    network: Classifier, images: UInt8[Tensor, "n c h w"], labels: Int[Tensor, " n"], epochs: int,
    batch_size: int = 128, lr: float = 3e-3,
) -> Iterator[dict[str, float]]:  # fmt: skip
    """Cross-entropy with a one-cycle learning rate, no augmentation; yields the loss after each update.

    A fixed recipe: its features are a ruler, so it is trained once and shipped.
    """
    order = random_generator(0, "classifier")
    per_epoch = len(images) // batch_size
    optimiser = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=epochs * per_epoch)
    network.train()
    for step in range(epochs * per_epoch):
        if step % per_epoch == 0:
            shuffled = torch.randperm(len(images), generator=order)
        index = shuffled[(step % per_epoch) * batch_size :][:batch_size]
        _, logits = network(to_float(images[index]))
        loss = nn.functional.cross_entropy(logits, labels[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cycle.step()
        yield {"step": step + 1, "steps": epochs * per_epoch, "loss": loss.item()}
    network.eval()
