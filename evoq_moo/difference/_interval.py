"""How far a difference on some samples may be from that on new images of their kind: the jackknife over parts."""

import numpy as np
from scipy.special import stdtrit
from torch import Tensor

from evoq_moo.difference._metrics import Metric

FEWEST = 8
"""Our choice: of fewer samples nothing is said."""
PARTS = 10
"""Our choice: so many parts are left out in turn, or each sample where there are fewer."""
CONFIDENCE = 0.9


def difference_interval(metric: Metric, reference: list[Tensor], quantized: list[Tensor]) -> tuple[float, float] | None:
    """Return the interval of `CONFIDENCE` for the difference on new images; None of fewer than `FEWEST` samples.

    By the delete-a-group jackknife (Efron and Tibshirani 1993, chapter 11): each part of the samples is left out in
    turn, which serves every metric. Differences span decades, so that the interval is one of logarithms where all are
    positive.

    Args:
        metric: The difference.
        reference: Heads of the float network, `(samples, ...)`.
        quantized: Heads of the quantized network.
    """
    number = len(reference[0])
    if number < FEWEST:
        return None
    parts = min(PARTS, number)
    kept = [np.flatnonzero(np.arange(number) % parts != k) for k in range(parts)]
    left_out = np.array([metric([h[r] for h in reference], [h[r] for h in quantized]) for r in kept])
    whole = metric(reference, quantized)
    if not np.isfinite([*left_out, whole]).all():
        return None
    log = whole > 0 and (left_out > 0).all()
    values = np.log(left_out) if log else left_out
    error = np.sqrt((parts - 1) / parts * np.square(values - values.mean()).sum())
    half = float(stdtrit(parts - 1, (1 + CONFIDENCE) / 2) * error)
    return (whole * np.exp(-half), whole * np.exp(half)) if log else (whole - half, whole + half)
