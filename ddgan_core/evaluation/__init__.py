"""A run, or a pile of images, to rows of numbers: `samples` draws a run's images, `scoring` makes the rows, `scores`
keeps them, `reference` and `piles` keep what takes long; `calibration` says what a distance means, `anatomy`,
`textures` and `bands` where it comes from, `information` what each denoising step has to decide, `latent` how much of
it z draws, `critics` by whose loss a critic learns from the fewest images.
"""

from ddgan_core.evaluation.samples import load_model, sample
from ddgan_core.evaluation.scoring import evaluate, evaluate_baseline

__all__ = ["evaluate", "evaluate_baseline", "load_model", "sample"]
