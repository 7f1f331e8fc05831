"""Indicators of a set, against brute force."""

import itertools

import numpy as np
import pytest

from evoq_moo.errors import ArgumentError
from evoq_moo.indicators import additive_epsilon, hypervolume, igd_plus, nondominated, normalized_hypervolume


def volume_by_cells(points, corner):
    """Add up the cells of the grid of all coordinates that some point dominates."""
    axes = [np.unique(np.append(points[:, k], corner[k])) for k in range(points.shape[1])]
    total = 0.0
    for cell in itertools.product(*(range(len(axis) - 1) for axis in axes)):
        low = np.array([axis[i] for axis, i in zip(axes, cell, strict=True)])
        high = np.array([axis[i + 1] for axis, i in zip(axes, cell, strict=True)])
        if (points <= low).all(axis=1).any() and (high <= corner).all():
            total += float(np.prod(high - low))
    return total


@pytest.mark.parametrize("objectives", [2, 3])
def test_hypervolume_is_the_volume_of_dominated_cells(objectives):
    points = np.random.default_rng(objectives).random((7, objectives))
    corner = np.full(objectives, 0.9)
    assert hypervolume(points, reference=corner) == pytest.approx(volume_by_cells(points, corner), rel=1e-12)


def test_normalized_hypervolume_does_not_depend_on_units():
    points = np.random.default_rng(0).random((9, 2))
    scaled = points * [1e6, 1e-6] + [5, -3]
    assert normalized_hypervolume(scaled, ideal=[5, -3], reference=[5 + 1e6, -3 + 1e-6]) == pytest.approx(
        hypervolume(points, reference=[1, 1]), rel=1e-9
    )


def test_indicators_against_their_formulas():
    rng = np.random.default_rng(1)
    F, R = rng.random((20, 3)), rng.random((15, 3))
    worse = F[None] - R[:, None]
    assert igd_plus(F, reference_set=R) == pytest.approx(
        np.sqrt(np.square(np.maximum(worse, 0)).sum(axis=2)).min(axis=1).mean(), rel=1e-12
    )
    assert additive_epsilon(F, reference_set=R) == pytest.approx(worse.max(axis=2).min(axis=1).max(), rel=1e-12)


def test_what_is_not_finite_adds_nothing():
    F = np.array([[0.5, 0.5], [np.inf, 0.0], [np.nan, 0.0]])
    assert hypervolume(F, reference=[1, 1]) == 0.25
    assert igd_plus(F, reference_set=[[0.5, 0.5]]) == 0
    assert igd_plus(F[1:], reference_set=[[0.5, 0.5]]) == np.inf
    assert nondominated(F).tolist() == [True, False, False]


def test_nondominated_keeps_the_first_of_equal_points():
    assert nondominated([[1, 2], [2, 1], [1, 2], [2, 2]]).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hypervolume([[1, 2, 3]], reference=[1, 1]), "F: given shape"),
        (lambda: hypervolume([[1, 2]], reference=[np.inf, 1]), "reference: given"),
        (lambda: normalized_hypervolume([[1, 2]], ideal=[1, 1], reference=[1, 2]), "ideal: given"),
        (lambda: igd_plus([[1, 2]], reference_set=np.empty((0, 2))), "reference_set: is empty"),
        (lambda: nondominated([["a", "b"]]), "F: not an array of numbers"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
