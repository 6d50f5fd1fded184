"""Numbers for piles of images: `features` maps images to vectors, `distances` compares piles of them, `intervals` says
how sure each distance is; `inception` is FID's network.
"""

from ddgan_core.metrics.distances import Moments, class_statistics, frechet_distance, kernel_distance, precision_recall
from ddgan_core.metrics.features import EXTRACTORS, Extractor, load_extractor

__all__ = [
    "EXTRACTORS",
    "Extractor",
    "Moments",
    "class_statistics",
    "frechet_distance",
    "kernel_distance",
    "load_extractor",
    "precision_recall",
]
