"""What a generator draws by its latent z, beside what its step leaves to be drawn.

By eq. (10) a generator stands for q(x_0 | x_t), whose mean variance E Var[x_0 | x_t] is the Bayes error e(t) of
`information`. Its own E Var_z[x_0 hat | x_t] over e(t) is the share of the step that z draws: 0 for a deterministic
f(x_t, t), whose step is one Gaussian (notebook 02). That a share is 1 does not say that what is drawn is right.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from ddgan_core.diffusion import Schedule, diffuse, random_generator
from ddgan_core.networks import Generator
from ddgan_core.sampling import Draw, SeededNoise, ddgan_step, reverse_chain
from ddgan_core.shapes import Float, Tensor

BATCH = 64  # answers made at once: small enough for a CPU's caches


@dataclass(frozen=True)
class Answers:
    """What a generator answers to one x_t ~ q(x_t | x_0) of each image, per pixel, for t = 1 .. T.

    drawn: Var_z x_0 hat. missed: |E_z x_0 hat - x_0|^2; its mean is e(t) if E_z x_0 hat = E[x_0 | x_t], and 2 e(t) if
    the generator takes from the noise of x_t what it should draw by z, and is right but for that. Both without bias.
    """

    drawn: Float[Tensor, "t n"]
    missed: Float[Tensor, "t n"]

    def table(self, needed: np.ndarray) -> pd.DataFrame:
        """A line for each t, T first, beside the variance `needed` at t = 1 .. T. 95 % errors are over images alone."""
        steps, n = self.drawn.shape
        share, missed = (x.numpy() / needed[:, None] for x in (self.drawn, self.missed))
        columns = {
            "variance by z": self.drawn.mean(1).numpy(), "needed": needed, "share": share.mean(1),
            "error of the share": 1.96 * share.std(1, ddof=1) / n**0.5, "mean answer's error / needed": missed.mean(1),
        }  # fmt: skip
        return pd.DataFrame(columns, index=pd.RangeIndex(1, steps + 1, name="t"))[::-1]


@torch.no_grad()
def answers(
    generator: Generator, schedule: Schedule, images: Float[Tensor, "n c h w"], draws: int = 8, seed: int = 0
) -> Answers:
    """See `Answers`. images: in [-1, 1]. draws: z for each x_t, 2 or more."""
    drawn, missed = [], []
    for t in range(1, schedule.T + 1):
        random = random_generator(seed, "answers", t)
        x_t = diffuse(schedule, images, torch.full((len(images),), t), torch.randn(images.shape, generator=random))
        z = torch.randn(draws * len(images), generator.z_dim, generator=random)
        batches = zip(x_t.repeat_interleave(draws, 0).split(BATCH), z.split(BATCH), strict=True)
        made = torch.cat([generator(x, schedule.time[t].expand(len(x)), own) for x, own in batches])
        made = made.double().view(len(images), draws, -1)
        drawn.append(made.var(1).mean(1))
        missed.append((made.mean(1) - images.flatten(1)).square().mean(1) - drawn[-1] / draws)
    return Answers(torch.stack(drawn), torch.stack(missed))


def library_variance(
    x_t: Float[Tensor, " n *d"], library: Float[Tensor, " m *d"], alpha_bar: float
) -> Float[Tensor, " n"]:
    """Var[x_0 | x_t], mean over pixels, where x_0 is one of the library's images and each is as likely.

    Exact, as q(x_0 = x_i | x_t) is the softmax of -|x_t - sqrt(alpha_bar) x_i|^2 / 2 (1 - alpha_bar). For the data that
    the library samples it is an estimate from below: with little noise one image of the library explains x_t alone.
    """
    x, y = library.flatten(1), x_t.flatten(1)
    log_weight = (alpha_bar**0.5 * y @ x.T - alpha_bar / 2 * x.square().sum(1)) / (1 - alpha_bar)
    weight = torch.softmax(log_weight.double(), 1).to(x.dtype)
    return (weight @ x.square() - (weight @ x).square()).mean(1).clamp(min=0)


@torch.no_grad()
def share_of_samples(
    generator: Generator, schedule: Schedule, shape: tuple[int, int, int], n: int = 64, draws: int = 4, seed: int = 0
) -> float:
    """E Var[x_0 | x_T, the posteriors' noise] / Var x_0 of samples: what the z of all steps decide, all else held.

    Over n chains, each ended with `draws` sets of z. shape: of one image.
    """
    step, held, ends = ddgan_step(generator, schedule), SeededNoise(seed, 0, n), []
    for k in range(draws):
        *_, x_0 = reverse_chain(step, schedule.T, shape, with_other_z(held, k))
        ends.append(x_0.flatten(1))
    drawn, read = split_of_variance(torch.stack(ends, 1))
    return drawn / (drawn + read) if drawn else 0.0


def with_other_z(draw: Draw, k: int) -> Draw:
    """The same noise, but for z, which is another one for each k."""
    return lambda name, shape: draw(f"{name}/{k}" if name.startswith("z/") else name, shape)


def split_of_variance(x: Float[Tensor, "n draws d"]) -> tuple[float, float]:
    """(E Var over the draws, Var E over n), mean over d: the law of total variance, each without bias.

    The second is 0 where its estimate is negative.
    """
    x = x.double()
    within = x.var(1).mean().item()
    between = x.mean(1).var(0).mean().item() - within / x.shape[1]  # a mean of draws keeps 1/draws of their variance
    return within, max(between, 0.0)
