"""Picking a point of a front by a short text: what :meth:`ParetoFront.choose` and `--pick` understand."""

import numpy as np

from evoq_moo._text import parse_budgets, parse_values
from evoq_moo.costs import checked_budgets, objective_names
from evoq_moo.errors import ArgumentError
from evoq_moo.front.choosing import PICKS, by_aspiration, by_hypervolume_contribution, by_pseudo_weights, knee_by_angle
from evoq_moo.front.point import Front
from evoq_moo.space import Policy


def row_by_text(front: Front, how: str) -> tuple[int, str]:
    """Return the row of a front that :meth:`ParetoFront.choose` gives for a text, and the sentence that says why."""
    names = ", ".join(front.objectives)
    bend = knee_by_angle(front.scaled()) if how == "knee-angle" else None
    if "<=" in how or "=" in how:
        return _row_by_values(front, how, names)
    if how in objective_names():
        row, reason = _row(front, front.best(how)), f"Of all {len(front)} points this one has the smallest {how}."
    elif how == "hypervolume":
        row = by_hypervolume_contribution(front.scaled())
        reason = "Without it the front would lose more hypervolume than without any other point."
    elif bend is not None:
        row, reason = (
            bend,
            f"The front bends most here: gaining in one of {names} begins to cost most of the other.",
        )
    elif how in {"knee", "knee-angle"}:
        row = _row(front, front.knee())
        reason = f"It lies farthest below the line between the front's extremes in {names}."
    elif how.isdecimal() and int(how) < len(front):
        row, reason = int(how), f"Row {how} of the front, as asked."
    else:
        raise _unknown(front, how)
    return row, reason


def _row_by_values(front: Front, how: str, names: str) -> tuple[int, str]:
    kind, _, text = how.partition("=")
    if "<=" in how:
        limits = checked_budgets(parse_budgets(how.split(",")))
        wanted = "difference"
        if "difference" in limits:
            wanted = next((name for name in front.objectives if name != "difference"), "difference")
        row = _row(front, front.under(**limits).best(wanted))
        reason = f"Of the points with {how.replace(',', ' and ')} this one has the smallest {wanted}."
    elif kind == "weights":
        row = by_pseudo_weights(front.scaled(), parse_values("pick: weights", text))
        reason = f"Its trade-off between {names} is nearest to the weights {text} (pseudo-weights)."
    elif kind == "aspiration":
        wished = parse_values("pick: aspiration", text)
        if len(wished) != len(front.objectives):
            raise ArgumentError(f"pick: aspiration: given {text}; allowed: one number for each of {names}")
        row = by_aspiration(front.scaled(), front.scale(np.array([wished]))[0])
        reason = f"It comes nearest to the wished-for {names} of {text}, judged by its largest shortfall."
    else:
        raise _unknown(front, how)
    return row, reason


def _unknown(front: Front, how: str) -> ArgumentError:
    return ArgumentError(f"pick: given {how!r}; allowed: {PICKS} 0..{len(front) - 1}")


def _row(front: Front, policy: Policy) -> int:
    return next(i for i, point in enumerate(front.points) if point.policy == policy)
