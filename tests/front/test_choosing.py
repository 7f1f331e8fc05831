"""Choosing: exact answers on fronts small enough to work out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evoq_moo as evoq
from evoq_moo.errors import ArgumentError, EvoqError, InfeasibleBudgetError, UnknownNameError
from evoq_moo.front import ParetoFront, choose_by_accuracy
from evoq_moo.front.choosing import (
    by_aspiration,
    by_hypervolume_contribution,
    by_pseudo_weights,
    knee_by_angle,
    nearest_rows,
)

F = np.array([[0.0, 1.0], [0.1, 0.5], [0.4, 0.1], [1.0, 0.0]])


@pytest.fixture
def front(front_of):
    """Scaled: difference 1, 2/3, 1/3, 0; bops 0, 0.1, 0.4, 1."""
    return front_of([(1.0, 1.0, 1.0), (0.1, 2.0, 2.0), (0.01, 3.0, 5.0), (0.001, 4.0, 11.0)])


def row(front, how):
    return next(i for i, point in enumerate(front) if point.policy == front.pick(how))


def test_the_bend_angle_is_that_between_the_lines_to_the_ends():
    # Point 1: atan(0.5 / 0.1) - atan(0.5 / 0.9); point 2: atan(0.9 / 0.4) - atan(0.1 / 0.6).
    angles = [math.atan2(0.5, 0.1) - math.atan2(0.5, 0.9), math.atan2(0.9, 0.4) - math.atan2(0.1, 0.6)]
    assert knee_by_angle(F) == 1 + int(np.argmax(angles)) == 2


@pytest.mark.parametrize(
    "points",
    [[[0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.5, 0.9], [1.0, 0.0]]],
    ids=["one point", "equal points", "two points", "no point below the line"],
)
def test_without_a_bend_there_is_no_angle_knee(points):
    assert knee_by_angle(np.array(points)) is None


def test_pseudo_weights():
    # Shares of the gains 1 - F: (1, 0), (0.9, 0.5) / 1.4, (0.6, 0.9) / 1.5, (0, 1).
    assert [by_pseudo_weights(F, w) for w in ([1, 0], [0.6, 0.4], [2, 3], [0, 1])] == [0, 1, 2, 3]


def test_a_point_worst_in_everything_has_equal_pseudo_weights():
    assert by_pseudo_weights(np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]), [0.5, 0.5]) == 1


def test_achievement_scalarization():
    # Largest shortfalls against (0.1, 0.1): 0.9, 0.4, 0.3, 0.9; against (0.1, 0.5): 0.5, 0, 0.3, 0.9.
    assert by_aspiration(F, [0.1, 0.1]) == 2
    assert by_aspiration(F, [0.1, 0.5]) == 1


def test_the_augmentation_refuses_a_dominated_tie():
    assert by_aspiration(np.array([[0.5, 0.5], [0.5, 0.2]]), [0.0, 0.0]) == 1


def test_hypervolume_contribution():
    # Against (1, 1): point 1 alone dominates 0.3 x 0.5, point 2 0.6 x 0.4, the ends nothing.
    assert by_hypervolume_contribution(F) == 2


def test_nearest_rows_begin_with_the_point_itself():
    assert nearest_rows(F, 2, 3) == [2, 1, 3]
    assert nearest_rows(np.zeros((3, 2)), 1, 5) == [1, 0, 2]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("knee", 2),  # sums of the scaled: 1, 0.767, 0.733, 1
        ("knee-angle", 1),  # bends of 61.9 and 45.6 degrees
        ("hypervolume", 2),  # (1/3) x 0.3 against (1/3) x 0.6
        ("difference", 3),
        ("bops", 0),
        ("size", 0),
        ("bops<=5", 2),
        ("bops<=5,size_mib<=2", 1),
        ("difference<=0.05", 2),
        ("weights=1,0", 3),
        ("weights=0,1", 0),
        ("aspiration=0.1,2", 1),
        ("aspiration=0.01,5", 2),
        ("3", 3),
    ],
)
def test_pick(front, how, expected):
    assert row(front, how) == expected
    choice = front.choose(how)
    assert choice.policy == front[expected].policy
    assert choice.rule == how
    assert choice.reason.endswith(".")


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("kne", ArgumentError, "allowed: knee, knee-angle"),
        ("4", ArgumentError, "0..3"),
        ("latency<=3", ArgumentError, "latency"),
        ("power<=3", UnknownNameError, "power"),
        ("bops<=0.5", InfeasibleBudgetError, "smallest on this front is 1"),
        ("bops<=x", ArgumentError, "bops<=x"),
        ("weights=1", ArgumentError, "2 numbers"),
        ("weights=a,b", ArgumentError, "numbers with commas"),
        ("weights=-1,2", ArgumentError, "at least 0"),
        ("weights=0,0", ArgumentError, "at least 0"),
        ("aspiration=1", ArgumentError, "one number for each of difference, bops"),
        ("aspiration=nan,1", ArgumentError, "2 numbers"),
        ("utopia=1,1", ArgumentError, "allowed: knee"),
    ],
)
def test_bad_picks_name_what_is_allowed(front, how, error, message):
    with pytest.raises(error, match=message):
        front.pick(how)


def test_knee_angle_needs_two_objectives(front):
    three = ParetoFront(points=front.points, objectives=("difference", "size", "bops"))
    with pytest.raises(ArgumentError, match="given 3 objectives"):
        three.pick("knee-angle")
    assert three.pick("knee") == front[0].policy  # the scaled values sum to 1, 1.1, 1.4, 2


@pytest.mark.parametrize("values", [[(0.1, 1.0, 1.0)], [(0.1, 1.0, 1.0)] * 3], ids=["one point", "equal points"])
@pytest.mark.parametrize(
    "how", ["knee", "knee-angle", "hypervolume", "weights=1,2", "aspiration=0.2,3", "bops<=2", "0"]
)
def test_fronts_without_extent(front_of, values, how):
    front = front_of(values)
    assert front.pick(how) == front[0].policy


def test_an_empty_front_is_an_error(front_of):
    with pytest.raises(ArgumentError, match="front: is empty"):
        front_of([]).pick("knee")


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=8),
    st.sampled_from(["knee", "knee-angle", "hypervolume", "weights=0.5,0.5", "aspiration=0.5,0.5", "bops"]),
)
def test_every_rule_answers_any_front(front_of, values, how):
    front = front_of(values)
    assert front.pick(how) in [point.policy for point in front]


def test_accuracy_decides_among_the_nearest(front):
    top1 = {front[0].policy: 0.99, front[1].policy: 0.8, front[2].policy: 0.7, front[3].policy: 0.6}
    measured = []

    def measure(policy):
        measured.append(policy)
        return evoq.Accuracy(count=10, top1=top1[policy])

    choice = choose_by_accuracy(front, measure, near="knee", count=2)
    assert measured == [front[2].policy, front[1].policy]
    assert choice.policy == front[1].policy
    assert "80.00 %" in choice.reason
    assert choose_by_accuracy(front, top1.__getitem__, count=10).policy == front[0].policy
    assert choose_by_accuracy(front, lambda _policy: 0.5, near="bops").policy == front[0].policy


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_accuracy_needs_a_count(front, count):
    with pytest.raises(EvoqError, match="count"):
        choose_by_accuracy(front, lambda _policy: 0.5, count=count)
