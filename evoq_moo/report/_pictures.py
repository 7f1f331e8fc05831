"""Pictures as SVG that can stand beside each other in one HTML file."""

import re

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes

from evoq_moo.front import ParetoFront
from evoq_moo.plots import image_bytes


def svg(ax: Axes, prefix: str) -> Markup:
    """Return the figure of some axes as an SVG element for HTML.

    Every id gets a prefix, so that several pictures don't share one; what comes before the element (a DOCTYPE that
    names a URL) and its metadata are left out. Matplotlib has escaped all text in it.

    Args:
        ax: The axes.
        prefix: Letters that no other picture of the page has.
    """
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        text = image_bytes(ax, "svg").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    return Markup(text)  # noqa: S704 - matplotlib's own output, its text escaped


def add_targets(ax: Axes, front: ParetoFront, x: str, y: str) -> None:
    """Add an invisible marker to each point of a front, with an id by which the page's script knows the row."""
    for i, point in enumerate(front):
        ax.plot([point.value(x)], [point.value(y)], "o", markersize=9, alpha=0.0, gid=f"point-{i}", zorder=6)
