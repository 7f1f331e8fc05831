"""Pictures of a whole study: what `evoq_moo.plots` draws, one PNG file each."""

from pathlib import Path
from typing import Protocol

import numpy as np

from evoq_moo.analysis import (
    FriedmanResult,
    attainment_difference,
    attainment_surfaces,
    hypervolume_curve,
    runtime_ecdf,
    runtimes,
)
from evoq_moo.costs import cost_class, cost_names
from evoq_moo.indicators import FrozenReference
from evoq_moo.space import FloatArray

TARGETS = np.linspace(0.5, 1.0, 51)
"""Our choice: targets of runtimes, in shares of the reference set's hypervolume."""


class Results(Protocol):
    """What pictures need of :class:`StudyResults`."""

    references: dict[str, FrozenReference]

    @property
    def problems(self) -> tuple[str, ...]:
        """Names of the problems."""

    @property
    def ranks_problems(self) -> bool:
        """Whether there are problems and algorithms enough to rank over."""

    def values(self, problem: str, indicator: str) -> dict[str, FloatArray]:
        """Return an indicator at the whole budget for each algorithm."""

    def archives(self, problem: str, algorithm: str) -> list[FloatArray]:
        """Return the scaled archives of an algorithm's runs."""

    def curves(self, problem: str, algorithm: str) -> list[FloatArray]:
        """Return the hypervolume against evaluations of an algorithm's runs."""

    def friedman(self, *, indicator: str) -> FriedmanResult:
        """Return the ranks of the algorithms over the problems."""


def save_pictures(results: Results, folder: Path, indicator: str, *, larger_is_better: bool) -> list[Path]:
    """Draw a study and return the files.

    For each problem hypervolume against evaluations and the runtimes to `TARGETS`; with two objectives also what the
    two best algorithms (medians of the indicator) attain, and where one does more often than the other. For two or
    more problems and three or more algorithms, the critical differences of ranks.

    Args:
        results: The study's results.
        folder: Where the files go; made if it is not there.
        indicator: What algorithms are ranked by.
        larger_is_better: Whether larger values of it are better.
    """
    from evoq_moo import plots

    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for problem in results.problems:
        reference = results.references[problem]
        values = results.values(problem, indicator)
        sign = -1.0 if larger_is_better else 1.0
        order = sorted(values, key=lambda name: sign * float(np.median(values[name])))
        curves = {name: results.curves(problem, name) for name in order}
        made[f"{problem}-hypervolume"] = plots.plot_hypervolume(curves)
        targets = TARGETS * _best(reference.scaled_points())
        made[f"{problem}-ecdf"] = plots.plot_ecdf({n: runtime_ecdf(runtimes(c, targets)) for n, c in curves.items()})
        if len(reference.objectives) == 2:
            y, x = (_axis(name) for name in reference.objectives)
            sides = {name: _fronts(results, problem, name) for name in order[:2]}
            surfaces = {name: attainment_surfaces(runs) for name, runs in sides.items() if runs}
            if surfaces:
                made[f"{problem}-attainment"] = plots.plot_attainment(surfaces, xlabel=x, ylabel=y)
            if len(surfaces) == 2 and len({len(runs) for runs in sides.values()}) == 1:
                difference = attainment_difference(*sides.values())
                if len(difference.rectangles):
                    made[f"{problem}-attainment-difference"] = plots.plot_attainment_difference(
                        difference, left=order[0], right=order[1], xlabel=x, ylabel=y
                    )
    if results.ranks_problems:
        made["critical-difference"] = plots.plot_critical_difference(results.friedman(indicator=indicator))
    files = []
    for name, ax in made.items():
        if not name.endswith("critical-difference"):
            ax.set_title(name.rpartition("-")[0].removesuffix("-attainment"), fontsize=9)
        files.append(folder / f"{name}.png")
        plots.save_axes(ax, files[-1])
    return files


def _axis(name: str) -> str:
    if name == "difference":
        return "log10 output difference (scaled)"
    return f"{cost_class(name).label if name in cost_names() else name} (scaled)"


def _best(points: FloatArray) -> float:
    """Return the hypervolume of points on the reference's scale."""
    m = points.shape[1]
    return float(hypervolume_curve(points, ideal=np.zeros(m), reference=np.ones(m))[-1])


def _fronts(results: Results, problem: str, algorithm: str) -> list[FloatArray]:
    """Return the archives of the runs that found something feasible, the second objective first."""
    archives = results.archives(problem, algorithm)
    return [archive[:, ::-1] for archive in archives if np.isfinite(archive).all(axis=1).any()]
