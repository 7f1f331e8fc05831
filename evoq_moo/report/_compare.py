"""Several runs in one picture, and on one page."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from evoq_moo.errors import ArgumentError
from evoq_moo.files import write_atomically
from evoq_moo.front import ParetoFront
from evoq_moo.plots import plot_front
from evoq_moo.report._pictures import svg
from evoq_moo.report._render import environment, facts_of
from evoq_moo.report._run_data import RunData, read_run

LABEL = 40
"""Letters of a run's name in a legend."""


def compare_runs(runs: Sequence[str | Path], *, x: str | None = None, y: str | None = None) -> Axes:
    """Draw the fronts of several runs in one picture.

    Args:
        runs: Folders of runs, or front files: two or more, of the same objectives and the same difference.
        x: Objective on the horizontal axis; None for the first cost.
        y: Objective on the vertical axis; None for the difference.

    Returns:
        The axes.

    Raises:
        ArgumentError: Fewer than two runs, runs without a front, or of other objectives.
        EvoqError: As :func:`read_run`.
    """
    return _overlay(_read(runs), x, y)


def write_comparison(runs: Sequence[str | Path], output: str | Path) -> None:
    """Write one HTML file that compares runs: their fronts in one picture, and what they differ in.

    Args:
        runs: As :func:`compare_runs` takes them.
        output: The HTML file; replaced whole or not at all.

    Raises:
        EvoqError: As :func:`compare_runs`.
    """
    read = _read(runs)
    fronts = _fronts(read)
    pairs = [(name, "difference") for name in fronts[0].objectives if name != "difference"]
    facts = [dict(facts_of(data)) for data in read]
    rows = [(name, [one.get(name, "") for one in facts]) for name in dict.fromkeys(key for one in facts for key in one)]
    rows += [
        ("points on the front", [str(len(front)) for front in fronts]),
        ("evaluations in the store", [str(data.evaluations or "") for data in read]),
        ("seconds of the search", [str(front.provenance.get("seconds", "")) for front in fronts]),
    ]
    html = (
        environment()
        .get_template("compare.html.j2")
        .render(
            runs=read,
            pictures=[svg(_overlay(read, x, y), f"front{k}") for k, (x, y) in enumerate(pairs)],
            rows=rows,
        )
    )
    write_atomically(output, html.encode())


def _read(runs: Sequence[str | Path]) -> list[RunData]:
    if len(runs) < 2:
        raise ArgumentError(f"runs: given {len(runs)}; allowed: two or more")
    read = [read_run(run) for run in runs]
    fronts = _fronts(read)
    for what, found in (
        ("objectives", [front.objectives for front in fronts]),
        ("differences", [front.provenance.get("metric") for front in fronts]),
    ):
        if len(set(found)) > 1:
            raise ArgumentError(f"runs: given {what} {found}; allowed: the same of all")
    return read


def _fronts(read: Sequence[RunData]) -> list[ParetoFront]:
    fronts = [data.front for data in read if data.front is not None and len(data.front)]
    if len(fronts) < len(read):
        without = [data.name for data in read if data.front is None or not len(data.front)]
        raise ArgumentError(f"runs: {', '.join(without)} without a point on the front; allowed: runs that have some")
    return fronts


def _overlay(read: Sequence[RunData], x: str | None, y: str | None) -> Axes:
    # Their ends tell runs apart; a legend has no room for more.
    names = [data.name if len(data.name) <= LABEL else f"...{data.name[3 - LABEL :]}" for data in read]
    labels = [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]
    first, *others = _fronts(read)
    baselines = {label: front.points for label, front in zip(labels[1:], others, strict=True)}
    return plot_front(first, x=x, y=y, baselines=baselines, label=labels[0], knee=False)
