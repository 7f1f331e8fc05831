"""What all pictures share: size, colours, labels with units."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evoq_moo.costs import label_of
from evoq_moo.errors import ArgumentError
from evoq_moo.files import write_atomically

BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#56B4E9",
    "#000000",
)
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""Okabe and Ito's colour-blind-safe palette, in the order several things are drawn."""
MARKERS = ("s", "^", "D", "v", "P", "X", "o")
DASHES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
WIDTH = 5.0
_ROW = 0.16
_DENSE = 40
_LONG = 30
"""Letters of a label of which two fit beside each other in a legend."""


def new_axes(*, height: float = 3.4) -> Axes:
    """Return the axes of a new figure at column width; not pyplot's, so there is nothing to close.

    Args:
        height: Of the figure (inches); it is 5 inches wide.
    """
    return Figure(figsize=(WIDTH, height), dpi=150, layout="constrained").add_subplot()


def axes_for_rows(rows: int) -> Axes:
    """Return the axes of a new figure that is tall enough to name so many rows."""
    return new_axes(height=max(2.6, min(1.0 + _ROW * rows, 14.0)))


def save_axes(ax: Axes, path: str | Path) -> None:
    """Write the figure of some axes as PNG, whole or not at all."""
    write_atomically(path, image_bytes(ax, "png"))


def image_bytes(ax: Axes, kind: Literal["png", "svg"]) -> bytes:
    """Return the figure of some axes as a file's content, the same at each call.

    Raises:
        ArgumentError: The axes belong to no figure.
    """
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ArgumentError("ax: belongs to no figure")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def axis_label(objective: str, metric: object = None) -> str:
    """Return the label of an objective's axis; the difference's names its metric."""
    label = label_of(objective)
    return f"{label} ({shown(str(metric))})" if objective == "difference" and metric else label


def legend_above(ax: Axes) -> None:
    """Put the legend above the axes, where it covers nothing."""
    labels = ax.get_legend_handles_labels()[1]
    longest = max(map(len, labels), default=0)
    columns = 1 if longest > _LONG else 2 if longest > _LONG // 2 or len(labels) < 3 else 3
    ax.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, columnspacing=1.0)


def shown(name: str) -> str:
    """Return a name as matplotlib draws it unchanged: no mathematics between dollars, no name hidden from legends."""
    text = name.replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Name the rows 0, 1, ... of a picture, in small letters where there are many."""
    ax.set_yticks(range(len(names)), [shown(name) for name in names])
    ax.tick_params(axis="y", labelsize=7 if len(names) <= _DENSE else 5)


def name_columns(ax: Axes, names: Sequence[str]) -> None:
    """Name the columns 0, 1, ... of a picture, upright and in small letters where there are many."""
    ax.set_xticks(range(len(names)), [shown(name) for name in names], rotation=90)
    ax.tick_params(axis="x", labelsize=7 if len(names) <= _DENSE else 5)
