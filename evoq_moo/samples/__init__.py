"""The samples of a search: drawn, chosen or distilled."""

from evoq_moo.samples.choose import CHOOSERS, RANDOM, choose_samples, farthest_first
from evoq_moo.samples.distill import SYNTHETIC, cached_samples, distill_samples
from evoq_moo.samples.load import load_samples

__all__ = [
    "CHOOSERS",
    "RANDOM",
    "SYNTHETIC",
    "cached_samples",
    "choose_samples",
    "distill_samples",
    "farthest_first",
    "load_samples",
]
