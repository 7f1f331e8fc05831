"""A front as a rich table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

if TYPE_CHECKING:
    from evoq_moo.front import ParetoFront


def front_table(front: "ParetoFront", *, title: str | None, max_rows: int | None) -> Table:
    """Return what :meth:`ParetoFront.table` shows."""
    metric = front.provenance.get("metric", "")
    table = Table(title=title)
    table.add_column("#", justify="right")
    table.add_column(f"difference{f' ({metric})' if metric else ''}", justify="right")
    table.add_column("size (MiB)", justify="right")
    table.add_column("GBOPs", justify="right")
    timed = any(point.latency_ms is not None for point in front.points)
    if timed:
        table.add_column("latency (ms)", justify="right")
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
            f"{point.size_mib:.4g}",
            f"{point.gbops:.4g}",
            *([f"{point.value('latency'):.4g}"] if timed else []),
            f"{np.mean(policy.weight_bits):.2f}",
            f"{np.mean(policy.activation_bits):.2f}",
            "knee" if policy == knee else "",
        )
    return table
