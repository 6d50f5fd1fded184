"""Distances between two piles of features, and what a classifier says about a pile of images. All sums in float64."""

import math
from collections.abc import Iterable

import torch

from ddgan_core import UserError
from ddgan_core.shapes import Float, Tensor


class Moments:
    """Sample size, mean and covariance of a pile of features, updated batch by batch (Chan et al. 1982).

    mean: float64 [d]. covariance: float64 [d, d], with n - 1 in the denominator; needs n of 2 or more.
    """

    def __init__(self, n: int, mean: Float[Tensor, " d"], scatter: Float[Tensor, "d d"]) -> None:
        self.n, self.mean, self.scatter = n, mean, scatter

    @classmethod
    def of(cls, batches: Float[Tensor, "n d"] | Iterable[Float[Tensor, "_ d"]]) -> "Moments":
        """The moments of features [n, d], or of batches of them."""
        moments: Moments | None = None
        for batch in [batches] if isinstance(batches, Tensor) else batches:
            d = batch.shape[1]
            moments = moments or cls(0, torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64))
            moments.update(batch)
        if moments is None:
            raise UserError("no features: moments need at least one batch")
        return moments

    def update(self, features: Float[Tensor, "b d"]) -> None:
        """Take in a batch of features."""
        x = features.detach().cpu().double()
        mean = x.mean(0)
        centred = x - mean
        shift, n = mean - self.mean, self.n + len(x)
        self.scatter = self.scatter + centred.T @ centred + torch.outer(shift, shift) * (self.n * len(x) / n)
        self.mean = self.mean + shift * (len(x) / n)
        self.n = n

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        if self.n < 2:
            raise UserError(f"{self.n} images: a covariance needs 2 or more")
        return self.scatter / (self.n - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of the two Gaussians (Heusel et al. 2017, eq. 6): the FID when features are Inception's.

    |m_a - m_b|^2 + tr(A + B - 2 (A B)^{1/2}), where tr (A B)^{1/2} = tr (A^{1/2} B A^{1/2})^{1/2} needs only symmetric
    eigenvalues: real, fast, and defined for the singular covariances of fewer images than features.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(f"features of {len(a.mean)} and of {len(b.mean)} numbers: both piles need the same extractor")
    A, B = a.covariance, b.covariance
    values, vectors = torch.linalg.eigh(A)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ B @ root).clamp(min=0).sqrt().sum()
    return float((a.mean - b.mean).square().sum() + A.trace() + B.trace() - 2 * overlap)


PRESENT_SHARE = 0.01  # a class is present when at least this share of the images is given to it


def class_statistics(probabilities: Float[Tensor, "n k"]) -> dict[str, float]:
    """What a classifier sees in a pile of images: confidence and balance, no reference needed.

    top_probability: mean of the largest class probability, in [1/k, 1].
    classes_present: how many classes are the likeliest of at least 1 % of the images.
    class_entropy: entropy in nats of the share of images given to each class; log k when they are balanced.
    """
    top, chosen = probabilities.double().max(1)
    share = torch.bincount(chosen, minlength=probabilities.shape[1]) / len(chosen)
    return {
        "top_probability": float(top.mean()),
        "classes_present": int((share >= PRESENT_SHARE).sum()),
        "class_entropy": min(float(torch.special.entr(share).sum()), math.log(probabilities.shape[1])),
    }
