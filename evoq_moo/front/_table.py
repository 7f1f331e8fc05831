"""A front as a rich table."""

import numpy as np
from rich.table import Table

from evoq_moo.accuracy import AccuracyCurve, as_percent
from evoq_moo.costs import cost_class, cost_names
from evoq_moo.front.point import Front
from evoq_moo.space import Policy


def front_table(front: Front, *, title: str | None, max_rows: int | None) -> Table:
    """Return what :meth:`ParetoFront.table` shows."""
    metric = front.provenance.get("metric", "")
    starred = front.curve is not None and any(row.calibration for row in front.curve.rows)
    table = Table(title=title, caption="* after calibration" if starred else None)
    table.add_column("#", justify="right")
    table.add_column(f"difference{f' ({metric})' if metric else ''}", justify="right")
    expecting = any(point.expected is not None for point in front.points)
    if expecting:
        table.add_column("new images (90 %)", justify="right", overflow="fold")
    costs = [cost_class(name) for name in cost_names() if any(name in point.costs for point in front.points)]
    for cost in costs:
        table.add_column(f"{cost.name} ({cost.unit})", justify="right")
    if front.curve is not None:
        table.add_column(f"{front.curve.measure} (%)", justify="right")
    table.add_column("mean W bits", justify="right")
    table.add_column("mean A bits", justify="right")
    table.add_column("")
    knee = front.knee() if front.points else None
    for i in rows_of(front, max_rows):
        point = front.points[i]
        policy = point.policy
        table.add_row(
            str(i),
            f"{point.difference:.3g}",
            *(["" if point.expected is None else point.expected.short()] if expecting else []),
            *(f"{point.costs[cost.name]:.4g}" if cost.name in point.costs else "" for cost in costs),
            *(() if front.curve is None else (_accuracy(front.curve, policy),)),
            f"{np.mean(policy.weight_bits):.2f}",
            f"{np.mean(policy.activation_bits):.2f}",
            "knee" if policy == knee else "",
        )
    return table


def rows_of(front: Front, count: int | None) -> tuple[int, ...]:
    """Return what :meth:`ParetoFront.rows` returns."""
    if count is None or count >= len(front):
        return tuple(range(len(front)))
    knee = front.knee()
    rows: list[int] = np.linspace(0, len(front) - 1, count).round().astype(int).tolist()
    knee_row = next(i for i, point in enumerate(front.points) if point.policy == knee)
    nearest = min(rows[1:-1] or rows, key=lambda i: abs(i - knee_row))
    return tuple(sorted(knee_row if i == nearest else i for i in rows))


def _accuracy(curve: AccuracyCurve, policy: Policy) -> str:
    """Return a policy's accuracy as the table shows it, with a star where it is that of the calibrated network."""
    found = curve.of(policy)
    if found is None:
        return ""
    return f"{as_percent(found.accuracy)}{' *' if found.calibration else ''}"
