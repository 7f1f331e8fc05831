"""How sure a figure over repeated runs is."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import stats

from evoq_moo.errors import ArgumentError, check_count, check_name
from evoq_moo.indicators import check_sample

Figure = Literal["median", "mean"]
_FIGURES: dict[str, Any] = {"median": np.median, "mean": np.mean}


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure and its confidence interval.

    Attributes:
        value: The figure of the sample.
        low: Lower end.
        high: Upper end.
        confidence: Probability that such intervals hold the true figure.
    """

    value: float
    low: float
    high: float
    confidence: float


def bootstrap_interval(
    values: npt.ArrayLike, *, figure: Figure = "median", confidence: float = 0.95, resamples: int = 9999, seed: int = 0
) -> Interval:
    """Return a bootstrap confidence interval over runs, by scipy.

    Of the mean it is bias-corrected and accelerated (BCa); of the median the percentile interval, as BCa's jackknife
    is not valid for it.

    Args:
        values: One value a run, `(runs,)`.
        figure: ``"median"`` or ``"mean"``.
        confidence: Between 0 and 1.
        resamples: Number of resamples.
        seed: Of the resamples.

    Raises:
        ArgumentError: An argument is not of its allowed values.
        UnknownNameError: `figure` is unknown.
    """
    sample = check_sample("values", values)
    check_name("figure", figure, get_args(Figure))
    check_count("resamples", resamples)
    check_count("seed", seed, lowest=0)
    if not 0 < confidence < 1:
        raise ArgumentError(f"confidence: given {confidence!r}; allowed: a number between 0 and 1")
    value = float(_FIGURES[figure](sample))
    if (sample == sample[0]).all():  # nothing varies, and scipy can't resample one value
        return Interval(value=value, low=value, high=value, confidence=confidence)
    found = stats.bootstrap(
        (sample,),
        _FIGURES[figure],
        confidence_level=confidence,
        n_resamples=resamples,
        method="BCa" if figure == "mean" else "percentile",
        rng=np.random.default_rng(seed),
        vectorized=True,
    )
    low, high = (float(end) for end in found.confidence_interval)
    return Interval(value=value, low=low, high=high, confidence=confidence)
