"""The sensitivity table as a map."""

from typing import Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize

from evoq_moo.errors import ArgumentError, check_name
from evoq_moo.plots._style import axes_for_rows, name_rows, shown
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import FLOAT_BITS

Kind = Literal["weight", "activation", "both"]


def plot_sensitivity(table: SensitivityTable, *, kind: Kind | None = None, ax: Axes | None = None) -> Axes:
    """Draw how much the output changes with one gene alone quantized: one row a layer, one column a bit-width.

    Args:
        table: The table.
        kind: Genes to draw: ``"weight"``, ``"activation"``, or ``"both"`` where they are tied; None for the first
            that the table has. Layers without such a gene (pinned ones) have no row.
        ax: Where to draw; None for a new figure.

    Returns:
        The axes. The colour scale is logarithmic where all differences are positive; what was not measured is blank.

    Raises:
        UnknownNameError: `kind` is unknown.
        ArgumentError: The table has no such gene.
    """
    kinds = [gene.kind for gene in table.space.genes]
    if kind is None:
        kind = kinds[0] if kinds else "weight"
    check_name("kind", kind, get_args(Kind))
    rows = [j for j, found in enumerate(kinds) if found == kind]
    columns = [k for k, b in enumerate(table.bits) if b not in FLOAT_BITS]
    if not rows or not columns:
        raise ArgumentError(f"kind: given {kind!r}; allowed: one the table has: {sorted(set(kinds))}")
    values = np.ma.masked_invalid(table.values[np.ix_(rows, columns)])
    measured = values.compressed()
    logarithmic = bool((measured >= 0).all() and (measured > 0).any())
    norm: Normalize = Normalize()
    if logarithmic:
        values = np.ma.masked_where(values <= 0, values)
        norm = LogNorm()
    ax = axes_for_rows(len(rows)) if ax is None else ax
    image = ax.imshow(values, aspect="auto", interpolation="nearest", cmap="cividis", norm=norm)
    figure = ax.get_figure(root=True)
    if figure is not None:
        figure.colorbar(image, ax=ax, label=f"output difference ({shown(table.metric)})")
    name_rows(ax, [table.space.layers[table.space.genes[j].layer].name for j in rows])
    ax.set_xticks(range(len(columns)), [str(table.bits[k]) for k in columns])
    ax.set_xlabel(f"{'weight and activation' if kind == 'both' else kind} bit-width (bits)")
    ax.set_ylabel("layer")
    return ax
