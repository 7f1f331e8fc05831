"""Whether a step of calibration holds on samples that it did not see: a paired test over them."""

import numpy as np

from evoq_moo.space import FloatArray


def p_of_gain(before: FloatArray, after: FloatArray) -> float:
    """Return the p-value of Wilcoxon's signed-rank test, one-sided, that samples got better; 0.5 where none changed.

    Ranks keep the few samples that hold most of a difference from deciding alone.

    Args:
        before: The difference on each sample, `(samples,)`.
        after: The same after the step; what is not finite counts as worse than everything.
    """
    from scipy.stats import wilcoxon  # slow to load

    if np.array_equal(before, after):
        return 0.5
    if not np.isfinite(after).all():
        return 1.0
    return float(wilcoxon(after, before, alternative="less").pvalue)
