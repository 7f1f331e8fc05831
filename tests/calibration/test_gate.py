"""Which steps of calibration are kept: a paired test over samples held out, against SciPy and by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest

from evoq_moo.calibration._gate import p_of_gain


def test_two_samples_that_hold_the_mean_do_not_decide():
    """As on a CIFAR network: the mean grew by two confident samples, the 48 others got better."""
    rng = np.random.default_rng(0)
    before = rng.uniform(1e-6, 1e-4, 50)
    after = before * 0.7
    after[:2] = 5e-3
    assert after.mean() > 2 * before.mean()
    assert p_of_gain(before, after) < 1e-6
    assert p_of_gain(after, before) > 0.99


@pytest.mark.parametrize("n", [2, 3, 8])
def test_few_samples_of_one_sign_give_the_exact_p(n):
    before = np.arange(1.0, n + 1)
    expected = binomtest(0, n, alternative="less").pvalue  # all signs alike: 1 of 2^n
    assert p_of_gain(before, before * 0.5) == pytest.approx(expected)
    assert p_of_gain(before, before * 2) == pytest.approx(1)


def test_nothing_changed_and_nothing_finite():
    values = np.array([1.0, 2.0, 3.0])
    assert p_of_gain(values, values) == 0.5
    assert p_of_gain(values, np.array([0.1, np.inf, 0.1])) == 1
    assert p_of_gain(np.array([2.0]), np.array([1.0])) == 0.5  # one sample alone, or all judged together
