"""Attainment, against counting which runs dominate a point."""

import numpy as np
import pytest

from evoq_moo.analysis import attainment_difference, attainment_surfaces
from evoq_moo.errors import ArgumentError


def attained(runs, point):
    return np.mean([(run <= point).all(axis=1).any() for run in runs])


@pytest.mark.parametrize("objectives", [2, 3])
def test_a_surface_bounds_what_its_share_of_runs_attains(objectives):
    rng = np.random.default_rng(objectives)
    runs = [rng.random((12, objectives)) for _ in range(8)]
    for surface in attainment_surfaces(runs, percentiles=(25, 50, 100)):
        for probe in rng.random((300, objectives)) * 1.3:
            inside = (surface.points <= probe).all(axis=1).any()
            assert inside == (attained(runs, probe) >= surface.percentile / 100 - 1e-9)


def test_difference_rectangles_hold_the_difference_of_shares():
    rng = np.random.default_rng(5)
    left = [rng.random((10, 2)) for _ in range(6)]
    right = [rng.random((10, 2)) * 0.9 for _ in range(6)]
    found = attainment_difference(left, right)
    assert found.rectangles.shape == (len(found.values), 4)
    seen = 0
    for probe in rng.random((500, 2)) * 1.2:
        low, high = found.rectangles[:, :2], found.rectangles[:, 2:]
        inside = ((low < probe) & (probe < high)).all(axis=1)
        expected = attained(left, probe) - attained(right, probe)
        if inside.any():
            assert found.values[inside] == pytest.approx(expected, abs=1e-9)
            seen += 1
        else:
            assert expected == pytest.approx(0, abs=1e-9)
    assert seen > 100


RUNS = [np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([[1.5, 1.5]])]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (RUNS, RUNS),
        (RUNS, RUNS[::-1]),  # moocore finds rectangles of difference 0 in some of these and none in others
        (RUNS[:1], RUNS[:1]),
        (RUNS[1:], [np.array([[1.5, 1.5], [1.5, 1.5], [2.0, 1.5], [np.inf, 0.0]])]),
        ([*RUNS, RUNS[0]], [RUNS[0], *RUNS]),
    ],
)
def test_sides_that_attain_the_same_have_no_rectangles(left, right):
    found = attainment_difference(left, right)
    assert found.rectangles.shape == (0, 4)
    assert found.values.shape == (0,)


def test_random_sides_of_few_values_that_attain_the_same_or_not():
    """On a grid of few values sides often attain the same, by other policies: never an error, and the truth."""
    same = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        left, right = ([rng.integers(0, 3, (3, 2)).astype(float) for _ in range(2)] for _ in range(2))
        found = attainment_difference(left, right)
        probes = np.stack(np.meshgrid(np.arange(4) + 0.5, np.arange(4) + 0.5), axis=-1).reshape(-1, 2)
        for probe in probes:
            inside = ((found.rectangles[:, :2] < probe) & (probe < found.rectangles[:, 2:])).all(axis=1)
            expected = attained(left, probe) - attained(right, probe)
            assert found.values[inside].sum() == pytest.approx(expected), f"seed {seed}"
        same += len(found.values) == 0
    assert 3 < same < 297


def test_dominated_and_infinite_rows_change_nothing():
    runs = [np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([[1.5, 1.5]])]
    more = [np.vstack([runs[0], [[3, 3], [np.inf, 0]]]), runs[1]]
    for a, b in zip(attainment_surfaces(runs), attainment_surfaces(more), strict=True):
        assert a.points.tolist() == b.points.tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attainment_surfaces([np.ones((2, 4))]), "given 4 objectives"),
        (lambda: attainment_surfaces([np.full((2, 2), np.inf)]), "hold no finite point"),
        (lambda: attainment_surfaces([np.ones((2, 2))], percentiles=[0]), "percentiles: given"),
        (lambda: attainment_surfaces([]), "given 0 runs"),
        (lambda: attainment_difference([np.ones((2, 2))], []), "as many as left"),
        (lambda: attainment_surfaces([np.ones((2, 2)), np.ones((2, 3))]), "the same number in each"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
