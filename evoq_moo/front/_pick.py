"""Picking a point of a front by a short text: what :meth:`ParetoFront.choose` and `--pick` understand."""

import numpy as np

from evoq_moo._text import parse_budgets, parse_values
from evoq_moo.accuracy import MeasuredPolicy, as_percent
from evoq_moo.costs import checked_budgets, objective_names
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError
from evoq_moo.front.choosing import PICKS, by_aspiration, by_hypervolume_contribution, by_pseudo_weights, knee_by_angle
from evoq_moo.front.point import Front
from evoq_moo.space import Policy


def row_by_text(front: Front, how: str) -> tuple[int, str]:
    """Return the row of a front that :meth:`ParetoFront.choose` gives for a text, and the sentence that says why."""
    names = ", ".join(front.objectives)
    if how == "accuracy" or how.startswith(("accuracy>=", "drop<=")):
        return _row_by_accuracy(front, how)
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


def _row_by_accuracy(front: Front, how: str) -> tuple[int, str]:
    """Return the most accurate of the measured points, or the cheapest that is accurate enough."""
    curve = front.curve
    measured = [(i, found) for i, p in enumerate(front.points) if curve and (found := curve.of(p.policy)) is not None]
    if curve is None or not measured:
        raise ArgumentError(
            f"pick: given {how!r}, and no accuracy of these points is known; allowed: after "
            "`evoq evaluate RUN --points 12 --images DIR --labels FILE`, or another rule"
        )
    best = max(measured, key=lambda pair: pair[1].accuracy)
    if how == "accuracy":
        said = f"Of the {len(measured)} measured points this one has the highest {curve.measure}, "
        return best[0], f"{said}{as_percent(best[1].accuracy)} %{_calibrated(best[1])}."
    name, _, text = how.partition(">=" if "accuracy" in how else "<=")
    values = parse_values(f"pick: {name}", text)
    if len(values) != 1:
        raise ArgumentError(f"pick: {name}: given {text!r}; allowed: one number (percent)")
    if name == "drop" and curve.exact is None:
        raise ArgumentError(
            f"pick: given {how!r}, and the float network's accuracy is not known; allowed: accuracy>=75"
        )
    least = values[0] / 100 if name == "accuracy" else (curve.exact or 0.0) - values[0] / 100
    within = [pair for pair in measured if pair[1].accuracy >= least - 1e-12]
    if not within:
        raise InfeasibleBudgetError(
            f"pick: given {how!r}; the highest {curve.measure} of the {len(measured)} measured points is "
            f"{as_percent(best[1].accuracy)} %"
        )
    cost = next((name for name in front.objectives if name != "difference"), "bops")
    row, found = min(within, key=lambda pair: (front.points[pair[0]].value(cost), -pair[1].accuracy))
    return row, (
        f"Of the {len(measured)} measured points with {curve.measure} of at least {100 * least:.4g} % this one has the "
        f"smallest {cost}; it reaches {as_percent(found.accuracy)} %{_calibrated(found)}."
    )


def _calibrated(found: MeasuredPolicy) -> str:
    return " after calibration" if found.calibration else ""


def _unknown(front: Front, how: str) -> ArgumentError:
    return ArgumentError(f"pick: given {how!r}; allowed: {PICKS} 0..{len(front) - 1}")


def _row(front: Front, policy: Policy) -> int:
    return next(i for i, point in enumerate(front.points) if point.policy == policy)
