"""Denoising diffusion GANs on data whose true q(x_{t-1} | x_t) is known, many seeds in one pass.

The update is the one of `training`: one step of the critic, one of the generator, fresh draws for each, the row's
losses and its penalty. Only the networks differ: perceptrons whose parameters are stacked over seeds, [s, in, out].
A network reads its own seed's slice alone and Adam works element by element, so that summing the seeds' losses trains
them independently, each as if it were alone.

Points are kept flat, [s n, d], seed after seed: the functions of `diffusion` and a row's losses and penalty are used
as they are.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import leaky_relu, one_hot

from ddgan_core import UserError
from ddgan_core.diffusion import diffuse_pair, random_generator, sample_posterior, vp_schedule
from ddgan_core.divergences import Divergence
from ddgan_core.progress import Progress
from ddgan_core.shapes import Float, Int, Tensor
from ddgan_core.toys.mixtures import GaussianMixture, covariance_root

BLOCK = 32  # updates whose random numbers are drawn at once: a generator for each would cost as much as the networks


@dataclass(frozen=True)
class ToySettings:
    """The numbers of a toy experiment, the same for every row but for its penalty, the penalty's weight and interval.

    The learning rates are higher than for images, as the networks are small.
    """

    seeds: int = 5
    updates: int = 2000
    batch_size: int = 64
    width: int = 64
    layers: int = 2  # hidden ones
    frequencies: int = 3  # pi/2, pi, ...: the critic also sees the sine and cosine of its inputs
    z_dim: int = 2
    lr_generator: float = 1e-3
    lr_critic: float = 2e-3
    lr_final: float = 0.05  # of the learning rate, at the end of a cosine
    ema_decay: float = 0.995
    penalty_every: int = 2  # updates, of a row that may; a lazy penalty stands for those it skips, as in `training`

    def __post_init__(self) -> None:
        counts = ("seeds", "updates", "batch_size", "width", "layers", "frequencies", "z_dim", "penalty_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise UserError(f"toy setting {name} = {getattr(self, name)}: it is a whole number of 1 or more")


class StackedPerceptron(nn.Module):
    """One perceptron for each seed.

    sizes: units of the input, of each hidden layer and of the output. A seed's initial weights depend on (seed,
    purpose) alone.
    """

    def __init__(self, seeds: Sequence[int], purpose: str, sizes: Sequence[int]) -> None:
        super().__init__()
        weights: list[list[Tensor]] = []
        for seed in seeds:
            random = random_generator(seed, purpose)
            weights.append(
                [torch.randn(a, b, generator=random) * math.sqrt(2 / a) for a, b in zip(sizes, sizes[1:], strict=False)]
            )
        self.weights = nn.ParameterList([nn.Parameter(torch.stack(layer)) for layer in zip(*weights, strict=True)])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(len(seeds), 1, size)) for size in sizes[1:]])

    def forward(self, x: Float[Tensor, "s n i"]) -> Float[Tensor, "s n o"]:
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, leaky_relu(x, 0.2) if k else x, weight)
        return x


class ToyGAN:
    """Generators and critics of all seeds, their optimisers, and the update that moves them.

    seeds: which ones, not how many. Raises UserError for settings that are impossible.
    """

    def __init__(
        self, mixture: GaussianMixture, row: Divergence, T: int, seeds: Sequence[int], settings: ToySettings
    ) -> None:
        self.mixture, self.row, self.T, self.seeds, self.settings = mixture, row, T, list(seeds), settings
        self.schedule, self.step, d = vp_schedule(T), 0, mixture.d
        hidden, features = [settings.width] * settings.layers, 2 * d * (1 + 2 * settings.frequencies)
        self._frequencies = math.pi / 2 * 2.0 ** torch.arange(settings.frequencies)
        self.generator = StackedPerceptron(self.seeds, "toy model", [d + T + settings.z_dim, *hidden, d])
        self.critic = StackedPerceptron(self.seeds, "toy critic", [features + T, *hidden, 1])
        self.ema = copy.deepcopy(self.generator).requires_grad_(False)
        betas = (0.5, 0.9)
        self.optimiser = torch.optim.Adam(self.generator.parameters(), settings.lr_generator, betas, fused=True)
        self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), settings.lr_critic, betas, fused=True)
        self._roots = covariance_root(mixture.covariances).float().expand(len(mixture.weights), d, d)
        self._means, self._cumulative = mixture.means.float(), mixture.weights.cumsum(0).float()
        self._blocks: dict[str, tuple[int, Tensor, Tensor]] = {}

    def update(self) -> None:
        """One update of the critics, then one of the generators."""
        row, settings = self.row, self.settings
        every = settings.penalty_every if row.lazy else 1
        weight = row.penalty_weight * every
        x_prev, x_t, t, noise, z, mix = self._draw("critic")
        time = self._one_hot(t)
        with torch.no_grad():
            fake = sample_posterior(self.schedule, self._x_0(self.generator, x_t, time, z), x_t, t, noise)
        loss = row.critic(self._logits(x_prev, x_t, time), self._logits(fake, x_t, time))
        total = loss.sum() / settings.batch_size  # each seed's mean, summed over seeds
        if self.step % every == 0 and weight > 0:
            penalty = row.penalty(lambda x: self._logits(x, x_t, time), x_prev, fake, mix)
            total = total + weight * penalty.sum() / settings.batch_size
        self._descend(self.critic_optimiser, settings.lr_critic, total)

        x_prev, x_t, t, noise, z, _ = self._draw("generator")
        time = self._one_hot(t)
        fake = sample_posterior(self.schedule, self._x_0(self.generator, x_t, time, z), x_t, t, noise)
        self.critic.requires_grad_(False)  # its weights need no gradient here
        v_real = self._logits(x_prev, x_t, time) if row.relativistic else None
        loss = row.generator(v_real, self._logits(fake, x_t, time))
        self._descend(self.optimiser, settings.lr_generator, loss.sum() / settings.batch_size)
        self.critic.requires_grad_(True)

        self.step += 1
        decay = min(settings.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.generator.parameters()), 1 - decay)

    @torch.no_grad()
    def predict(self, x_t: Float[Tensor, "s n d"], t: int, z: Float[Tensor, "s n z"]) -> Float[Tensor, "s n d"]:
        """x_0 hat by the averaged weights, for all seeds; a seed that diverged gives values that are not finite."""
        times = torch.full((x_t.shape[0] * x_t.shape[1],), t)
        flat = self._x_0(self.ema, x_t.float().flatten(0, 1), self._one_hot(times), z.float().flatten(0, 1))
        return flat.view(x_t.shape).double()

    @torch.no_grad()
    def sample_chain(self, n: int) -> Float[Tensor, "s n d"]:
        """n draws of x_0 for each seed, through the whole reverse chain from x_T ~ N(0, I)."""
        random = [random_generator(seed, "toy chain") for seed in self.seeds]

        def noise(units: int) -> Tensor:
            return torch.stack([torch.randn(n, units, generator=r, dtype=torch.float64) for r in random])

        x = noise(self.mixture.d)
        for t in range(self.T, 0, -1):
            x_0 = self.predict(x, t, noise(self.settings.z_dim))
            flat, times = x.flatten(0, 1), torch.full((x.shape[0] * n,), t)
            x = sample_posterior(self.schedule, x_0.flatten(0, 1), flat, times, noise(self.mixture.d).flatten(0, 1))
            x = x.view(len(self.seeds), n, self.mixture.d)
        return x

    def diverged(self) -> list[bool]:
        """For each seed: is any of its weights not finite? Other seeds are not touched by it."""
        players = [*self.ema.parameters(), *self.critic.parameters()]
        finite = torch.stack([p.isfinite().flatten(1).all(1) for p in players])
        return (~finite.all(0)).tolist()

    def _x_0(self, network: StackedPerceptron, x_t: Tensor, time: Tensor, z: Tensor) -> Tensor:
        return network(self._split(torch.cat([x_t, time, z], 1))).flatten(0, 1)

    def _logits(self, x_prev: Tensor, x_t: Tensor, time: Tensor) -> Tensor:
        """The critics' opinions, from x and its Fourier features (Tancik et al. 2020): the modes are narrow."""
        x = torch.cat([x_prev, x_t], 1)
        angles = (x[:, :, None] * self._frequencies).flatten(1)
        return self.critic(self._split(torch.cat([x, angles.sin(), angles.cos(), time], 1))).flatten()

    def _split(self, x: Tensor) -> Tensor:
        return x.view(len(self.seeds), -1, x.shape[1])

    def _one_hot(self, t: Int[Tensor, " n"]) -> Tensor:
        return one_hot(t - 1, self.T).float()

    def _draw(self, player: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Real (x_{t-1}, x_t), t, the noise of the fake, z and a mix in [0, 1], for all seeds of this step."""
        d, settings = self.mixture.d, self.settings
        block, row = divmod(self.step, BLOCK)
        if self._blocks.get(player, (-1,))[0] != block:
            uniform, normal = [], []
            for seed in self.seeds:
                random = random_generator(seed, f"toy {player}", block)
                uniform.append(torch.rand(BLOCK, settings.batch_size, 3, generator=random))
                normal.append(torch.randn(BLOCK, settings.batch_size, 4 * d + settings.z_dim, generator=random))
            self._blocks[player] = (block, torch.stack(uniform, 1).flatten(1, 2), torch.stack(normal, 1).flatten(1, 2))
        _, uniform, normal = self._blocks[player]
        component = torch.searchsorted(self._cumulative, uniform[row, :, 0].contiguous())
        component = component.clamp(max=len(self._cumulative) - 1)  # rounding may leave the last sum below 1
        t = (uniform[row, :, 1] * self.T).long().clamp(max=self.T - 1) + 1
        own, first, second, fake, z = normal[row].split([d, d, d, d, settings.z_dim], 1)
        x_0 = self._means[component] + (self._roots[component] @ own[..., None]).squeeze(-1)
        x_prev, x_t = diffuse_pair(self.schedule, x_0, t, first, second)
        return x_prev, x_t, t, fake, z, uniform[row, :, 2]

    def _descend(self, optimiser: torch.optim.Optimizer, lr: float, loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        final, share = self.settings.lr_final, self.step / self.settings.updates
        for group in optimiser.param_groups:
            group["lr"] = lr * (final + (1 - final) * (1 + math.cos(math.pi * share)) / 2)
        optimiser.step()


def train_toy(
    mixture: GaussianMixture, row: Divergence, T: int, seeds: Sequence[int], settings: ToySettings, label: str = ""
) -> ToyGAN:
    """A ToyGAN after all its updates. A seed that diverges is left as it is: see `ToyGAN.diverged`.

    label: shown with how far it is; nothing is shown without one.
    """
    gan = ToyGAN(mixture, row, T, seeds, settings)
    bar = Progress(label, 0, settings.updates, "updates", shown=bool(label))
    while gan.step < settings.updates:
        gan.update()
        bar.show(gan.step)
    return gan
