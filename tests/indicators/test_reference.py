"""The frozen reference's scale."""

import numpy as np
import pytest

from evoq_moo.errors import ArgumentError
from evoq_moo.indicators import FrozenReference, log_difference


def reference(**changes):
    values = {
        "objectives": ("difference", "bops"),
        "log": (True, False),
        "ideal": np.array([1e-4, 1.0]),
        "nadir": np.array([1.0, 3.0]),
        "points": np.array([[1e-4, 3.0], [1e-2, 2.0], [1.0, 1.0]]),
        "provenance": "made up",
    }
    return FrozenReference(**{**values, **changes})


def test_scale_puts_the_ideal_at_zero_and_the_nadir_at_one():
    assert reference().scaled_points() == pytest.approx(np.array([[0, 1], [0.5, 0.5], [1, 0]]))
    assert reference().scaled([[0.0, 1.0]])[0, 0] == pytest.approx(-2)


def test_rows_that_are_not_finite_come_out_infinite():
    scaled = reference().scaled([[np.nan, 1.0], [np.inf, 1.0], [1e-4, 1.0]])
    assert np.isinf(scaled[:2]).all()
    assert scaled[2] == pytest.approx([0, 0])


def test_log_difference_leaves_what_may_be_negative_alone():
    assert log_difference([1e-3, 0]).tolist() == [-3, -12]
    assert log_difference([-20.0, 3.0]).tolist() == [-20, 3]


def test_a_reference_has_one_of_each_for_every_objective():
    with pytest.raises(ArgumentError, match="one ideal"):
        reference(log=(True,))
    with pytest.raises(ArgumentError, match="F: given shape"):
        reference().scaled([[1, 2, 3]])
