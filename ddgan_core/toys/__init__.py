"""Data whose true denoising steps are known exactly (`mixtures`), GANs trained on them (`gan`), what is measured of
these (`measures`), and the grid of all of them (`toy_study`) with its `verdicts`.
"""

from ddgan_core.toys.mixtures import (
    grid_25,
    isotropic,
    kl_divergence,
    three_modes,
    true_posterior,
    true_x_0,
    two_modes,
)

__all__ = [
    "grid_25",
    "isotropic",
    "kl_divergence",
    "three_modes",
    "true_posterior",
    "true_x_0",
    "two_modes",
]
