"""A front as a rich table."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from evoq_moo.costs import cost_class, cost_names
from evoq_moo.front.point import Front


def front_table(front: Front, *, title: str | None, max_rows: int | None) -> Table:
    """Return what :meth:`ParetoFront.table` shows."""
    metric = front.provenance.get("metric", "")
    table = Table(title=title)
    table.add_column("#", justify="right")
    table.add_column(f"difference{f' ({metric})' if metric else ''}", justify="right")
    expecting = any(point.expected is not None for point in front.points)
    if expecting:
        table.add_column("new images (90 %)", justify="right")
    costs = [cost_class(name) for name in cost_names() if any(name in point.costs for point in front.points)]
    for cost in costs:
        table.add_column(f"{cost.name} ({cost.unit})", justify="right")
    table.add_column("mean W bits", justify="right")
    table.add_column("mean A bits", justify="right")
    table.add_column("")
    knee = front.knee() if front.points else None
    rows: Sequence[int] = range(len(front))
    if max_rows is not None and max_rows < len(front):
        rows = np.linspace(0, len(front) - 1, max_rows).round().astype(int).tolist()
        knee_row = next(i for i, point in enumerate(front.points) if point.policy == knee)
        nearest = min(rows[1:-1] or rows, key=lambda i: abs(i - knee_row))
        rows = sorted(knee_row if i == nearest else i for i in rows)
    for i in rows:
        point = front.points[i]
        policy = point.policy
        table.add_row(
            str(i),
            f"{point.difference:.3g}",
            *(["" if point.expected is None else point.expected.short()] if expecting else []),
            *(f"{point.costs[cost.name]:.4g}" if cost.name in point.costs else "" for cost in costs),
            f"{np.mean(policy.weight_bits):.2f}",
            f"{np.mean(policy.activation_bits):.2f}",
            "knee" if policy == knee else "",
        )
    return table
