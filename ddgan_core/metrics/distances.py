"""Distances between two piles of features, and what a classifier says about a pile of images.

All sums in float64, on the device on which the features are.
"""

import math
from collections.abc import Iterable, Iterator

import torch

from ddgan_core import UserError
from ddgan_core.shapes import Float, Tensor

K = 3  # the neighbour that a ball reaches
CHUNK = 1000  # rows of a distance matrix held at a time
PRESENT_SHARE = 0.01  # a class is present when at least this share of the images is given to it


class Moments:
    """Sample size, mean and covariance of a pile of features, updated batch by batch (Chan et al. 1982).

    mean: float64 [d]. covariance: float64 [d, d], with n - 1 in the denominator; needs n of 2 or more.
    """

    def __init__(self, n: int, mean: Float[Tensor, " d"], scatter: Float[Tensor, "d d"]) -> None:
        self.n, self.mean, self.scatter = n, mean, scatter
        self._root: Tensor | None = None

    @classmethod
    def of(cls, batches: Float[Tensor, "n d"] | Iterable[Float[Tensor, "_ d"]]) -> "Moments":
        """The moments of features [n, d], or of batches of them."""
        moments: Moments | None = None
        for batch in [batches] if isinstance(batches, Tensor) else batches:
            zeros = batch.new_zeros(batch.shape[1], dtype=torch.float64)
            moments = moments or cls(0, zeros, torch.outer(zeros, zeros))
            moments.update(batch)
        if moments is None:
            raise UserError("no features: moments need at least one batch")
        return moments

    def update(self, features: Float[Tensor, "b d"]) -> None:
        """Take in a batch of features."""
        x = features.detach().double()
        centred = x - x.mean(0)
        self.merge(Moments(len(x), x.mean(0), centred.T @ centred))

    def to(self, device: torch.device | str) -> "Moments":
        """The same on a device."""
        return Moments(self.n, self.mean.to(device), self.scatter.to(device))

    def merge(self, other: "Moments") -> None:
        """Take in another pile."""
        shift, n = other.mean - self.mean, self.n + other.n
        self.scatter = self.scatter + other.scatter + torch.outer(shift, shift) * (self.n * other.n / n)
        self.mean = self.mean + shift * (other.n / n)
        self.n, self._root = n, None

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        if self.n < 2:
            raise UserError(f"{self.n} images: a covariance needs 2 or more")
        return self.scatter / (self.n - 1)

    @property
    def root(self) -> Float[Tensor, "d d"]:
        """The covariance's symmetric square root, kept: a reference meets many piles."""
        if self._root is None:
            values, vectors = torch.linalg.eigh(self.covariance)
            self._root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        return self._root


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of the two Gaussians (Heusel et al. 2017, eq. 6): the FID when features are Inception's.

    |m_a - m_b|^2 + tr(A + B - 2 (A B)^{1/2}), where tr (A B)^{1/2} = tr (B^{1/2} A B^{1/2})^{1/2} needs only symmetric
    eigenvalues: real, fast, and defined for the singular covariances of fewer images than features. Give what is
    compared with as `b`: its root is taken once.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(f"features of {len(a.mean)} and of {len(b.mean)} numbers: both piles need the same extractor")
    A, B = a.covariance, b.covariance
    overlap = torch.linalg.eigvalsh(b.root @ A @ b.root).clamp(min=0).sqrt().sum()
    return float((a.mean - b.mean).square().sum() + A.trace() + B.trace() - 2 * overlap)


def kernel_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m e"]) -> float:
    """Unbiased squared MMD with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018): the KID in Inception features.

    Over all pairs at once rather than over random subsets: the same mean, less variance. It may be negative.
    """
    _check_pair(x, y, 2)
    x, y = x.double(), y.double()
    across = sum(float(kernel(part, y).sum()) for part in x.split(CHUNK))
    return own_kernel(x) + own_kernel(y) - 2 * across / (len(x) * len(y))


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """The matrix of (a.b / d + 1)^3."""
    return (a @ b.T).div_(a.shape[1]).add_(1).pow_(3)


def own_kernel(x: Tensor) -> float:
    """The kernel's mean over pairs of different points."""
    diagonal = float((x.square().sum(1) / x.shape[1] + 1).pow(3).sum())
    return (sum(float(kernel(part, x).sum()) for part in x.split(CHUNK)) - diagonal) / (len(x) * (len(x) - 1))


def precision_recall(real: Float[Tensor, "n d"], fake: Float[Tensor, "m e"]) -> dict[str, float]:
    """How much of one pile lies in the other's neighbourhoods, by balls that reach each point's third neighbour, K.

    precision, recall: the share of fakes within some ball of the reals, and the other way round (Kynkaanniemi et al.
    2019, eq. 1). density: how many balls of the reals a fake lies in, over K; coverage: the share of reals whose ball
    holds a fake (Naeem et al. 2020, eqs. 3-4). All in [0, 1] but density. They depend on both sizes: compare at equal.
    """
    _check_pair(real, fake, K + 1)
    real, fake = real.double(), fake.double()
    real_radius, fake_radius = neighbour_distances(real), neighbour_distances(fake)
    inside, balls, recalled, covered = fake.new_zeros(len(fake), dtype=torch.bool), 0, 0, 0
    for d, radius in zip(distances(real, fake), real_radius.split(CHUNK), strict=True):
        within = d < radius[:, None]
        inside |= within.any(0)
        balls += int(within.sum())
        covered += int(within.any(1).sum())
        recalled += int((d < fake_radius).any(1).sum())
    return {
        "precision": float(inside.double().mean()), "recall": recalled / len(real),
        "density": balls / (K * len(fake)), "coverage": covered / len(real),
    }  # fmt: skip


def distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """The matrix of Euclidean distances, some rows at a time."""
    for part in a.split(CHUNK):
        yield torch.cdist(part, b)


def neighbour_distances(x: Tensor) -> Tensor:
    """From each point to its K-th nearest other one."""
    # The nearest of all is itself. On a CPU, topk takes a sixth of the time of kthvalue.
    return torch.cat([d.topk(K + 1, dim=1, largest=False).values[:, K] for d in distances(x, x)])


def _check_pair(a: Tensor, b: Tensor, least: int) -> None:
    if a.shape[1] != b.shape[1]:
        raise UserError(f"features of {a.shape[1]} and of {b.shape[1]} numbers: both piles need the same extractor")
    if min(len(a), len(b)) < least:
        raise UserError(f"piles of {len(a)} and {len(b)} images: {least} or more each are needed")


def class_statistics(probabilities: Float[Tensor, "n k"]) -> dict[str, float]:
    """What a classifier sees in a pile of images: confidence and balance, no reference needed.

    top_probability: mean of the largest class probability, in [1/k, 1].
    classes_present: how many classes are the likeliest of at least 1 % of the images.
    class_entropy: entropy in nats of the share of images given to each class; log k when they are balanced.
    class_kl: the divergence KL(share | uniform) = log k - class_entropy, in nats; 0 when they are balanced.
    """
    top, chosen = probabilities.double().max(1)
    share = torch.bincount(chosen, minlength=probabilities.shape[1]).double() / len(chosen)
    most = math.log(probabilities.shape[1])
    entropy = min(float(torch.special.entr(share).sum()), most)
    return {
        "top_probability": float(top.mean()), "classes_present": int((share >= PRESENT_SHARE).sum()),
        "class_entropy": entropy, "class_kl": most - entropy,
    }  # fmt: skip
