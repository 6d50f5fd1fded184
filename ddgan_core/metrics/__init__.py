"""Numbers for piles of images: `features` maps images to vectors, `distances` compares piles of them, `intervals` says
how sure each distance is; `inception` is FID's network.
"""

from ddgan_core.metrics.distances import Moments, frechet_distance
from ddgan_core.metrics.features import load_extractor

__all__ = ["Moments", "frechet_distance", "load_extractor"]
