"""Choosing a point of a front by measured accuracy."""

from collections.abc import Callable

import numpy as np

from evoq_moo.accuracy import Accuracy
from evoq_moo.errors import check_count
from evoq_moo.front.choosing import Choice, nearest_rows
from evoq_moo.front.front import ParetoFront
from evoq_moo.space import Policy


def choose_by_accuracy(
    front: ParetoFront, measure: Callable[[Policy], Accuracy | float], *, near: str = "knee", count: int = 5
) -> Choice:
    """Return the most accurate of the points nearest to a choice: the difference shortlists, labels decide.

    Args:
        front: The front.
        measure: Gives a policy's accuracy on labelled data, e.g. ``lambda policy:
            evaluate_accuracy(network.apply(policy), "val/", labels="labels.csv")``; of an `Accuracy`, top-1 counts.
        near: A text as :meth:`ParetoFront.pick` takes it.
        count: How many points to measure.

    Returns:
        The choice; of equally accurate points the one nearest to `near`.

    Raises:
        ArgumentError: An argument is not allowed.
    """
    check_count("count", count)
    start = front.points.index(front.point_of(front.pick(near)))
    rows = nearest_rows(front.scaled(), start, count)
    found = [measure(front[i].policy) for i in rows]
    top1 = [value.top1 if isinstance(value, Accuracy) else float(value) for value in found]
    best = int(np.argmax(top1))
    return Choice(
        policy=front[rows[best]].policy,
        rule=f"accuracy near {near}",
        reason=f"Of the {len(rows)} points nearest to {near}, this one has the highest measured accuracy, "
        f"{100 * top1[best]:.2f} % (they range from {100 * min(top1):.2f} %).",
    )
