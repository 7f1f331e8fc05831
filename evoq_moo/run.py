"""A run: one search with all its files in one folder, made and resumed by the same call.

run.json             what was asked for
evaluations.sqlite   every evaluation, as soon as it was known
sensitivity.json     the sensitivity table
front.json           the front; front.png its picture
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evoq_moo._files import read_json, write_atomically
from evoq_moo._run_search import SearchRun, run_search
from evoq_moo._versions import package_versions
from evoq_moo.algorithms import default_algorithm
from evoq_moo.calibration import IN_LOOP
from evoq_moo.costs import Cost, MeasuredCost, checked_budgets, cost_class, name_of
from evoq_moo.errors import ArgumentError, FormatError, check_name
from evoq_moo.front import FrontPoint, ParetoFront
from evoq_moo.plots import new_axes, plot_front, save_axes
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.recipe import Recipe
from evoq_moo.sensitivity_scan import measure_sensitivity
from evoq_moo.space import QUANTIZED_BITS

FORMAT = "evoq-moo/run"


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run searches; with the same settings it resumes.

    Attributes:
        recipe: How to make the network.
        objectives: Objectives of the search.
        budgets: Its limits.
        pop_size: Population size.
        seed: Seed of the search.
        costs: For the costs that are read from a table, their files.
        calibrate: ``"light"``: search networks after light calibration; None: as they are.
    """

    recipe: Recipe
    objectives: tuple[str, ...] = ("difference", "bops")
    budgets: Mapping[str, float] = field(default_factory=dict)
    pop_size: int = 40
    seed: int = 0
    costs: Mapping[str, str] = field(default_factory=dict)
    calibrate: str | None = None

    def __post_init__(self) -> None:
        """Check what no part checks before long work starts; budgets get the names of what they limit.

        Raises:
            UnknownNameError: `calibrate`, an objective or a budget is unknown.
            ArgumentError: A limit is not a positive number.
        """
        object.__setattr__(self, "objectives", tuple(name_of(name, "objectives") for name in self.objectives))
        object.__setattr__(self, "budgets", checked_budgets(self.budgets))
        if self.calibrate is not None:
            check_name("calibrate", self.calibrate, IN_LOOP)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-ready plain data."""
        return {
            "recipe": self.recipe.to_json(),
            "objectives": list(self.objectives),
            "budgets": dict(self.budgets),
            "pop_size": self.pop_size,
            "seed": self.seed,
            **{name: str(Path(file).resolve()) for name, file in self.costs.items()},
            **({} if self.calibrate is None else {"calibrate": self.calibrate}),
        }


def load_costs(files: Mapping[str, str]) -> tuple[Cost, ...]:
    """Read the tables of costs.

    Args:
        files: For names of costs, their files.

    Raises:
        ArgumentError: A cost has no table.
        UnknownNameError: Not a cost.
        EvoqError: As the tables.
    """
    costs = []
    for name, file in files.items():
        found = cost_class(name)
        if not issubclass(found, MeasuredCost):
            raise ArgumentError(f"costs: given a table of {name}; allowed: of costs that are read from one")
        costs.append(found.load(file))
    return tuple(costs)


def execute(
    settings: RunSettings,
    folder: str | Path,
    *,
    evaluations: int = 1000,
    workers: int | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> SearchRun:
    """Search, or go on with a search, and write its files.

    Args:
        settings: What to search.
        folder: Where the files go; a folder that holds a run of other settings is an error.
        evaluations: How many evaluations the search may ask for; may grow when a run is resumed.
        workers: Evaluate on this many processes.
        threads: Micro-batches computed at once by this process; None for one a core.
        progress: Show progress on a terminal.

    Returns:
        What the search found.

    Raises:
        ArgumentError: The folder holds a run of other settings; the message lists the differences.
        EvoqError: As the parts.
    """
    folder = Path(folder)
    costs = load_costs(settings.costs)
    _claim(folder, settings)
    network = settings.recipe(threads=threads, progress=progress)
    problem = MixedPrecisionProblem(
        network,
        objectives=settings.objectives,
        budgets=settings.budgets,
        costs=costs,
        store=folder / "evaluations.sqlite",
        workers=workers,
        calibrate=settings.calibrate,
    )
    try:
        sensitivity = measure_sensitivity(network, evaluator=problem.evaluator, method="sparse", progress=progress)
        sensitivity.save(folder / "sensitivity.json")
        run = run_search(
            problem,
            default_algorithm(problem, sensitivity, pop_size=settings.pop_size),
            evaluations=evaluations,
            seed=settings.seed,
            progress=progress,
            provenance={"settings": settings.to_json(), "versions": package_versions()},
        )
        run.front.save(folder / "front.json")
        _draw(run.front, problem, folder / "front.png")
    finally:
        problem.close()
    return run


def _claim(folder: Path, settings: RunSettings) -> None:
    path = folder / "run.json"
    asked = settings.to_json()
    if path.exists():
        found = read_json(path, format_name=FORMAT, version=1).get("settings")
        if not isinstance(found, dict):
            raise FormatError(f"{path}: holds no settings")
        # Runs of version 0.1 name some budgets by their columns.
        found = {**found, "budgets": checked_budgets(found.get("budgets", {}))}
        differences = _differences(found, asked)
        if differences:
            raise ArgumentError(
                f"output: {folder} holds a run of other settings ({'; '.join(differences)}); "
                "give another folder, or the same settings to go on"
            )
    else:
        data = {"format": FORMAT, "version": 1, "settings": asked}
        write_atomically(path, (json.dumps(data, indent=1) + "\n").encode())


def _differences(found: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key in sorted(set(found) | set(asked)):
        old, new = found.get(key), asked.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: has {old!r}, asked for {new!r}")
    return lines


def _draw(front: ParetoFront, problem: MixedPrecisionProblem, path: Path) -> None:
    if len(front.objectives) < 2 or "difference" not in front.objectives:
        return
    space = problem.space
    rows = np.unique([space.uniform(bits) for bits in QUANTIZED_BITS], axis=0)
    rows = rows[problem.known(rows)]  # a picture costs no evaluation
    values = problem.values(rows, all_values=True)
    uniform = [
        FrontPoint.of(space.policy(x), values, i) for i, x in enumerate(rows) if values["difference"][i] < np.inf
    ]
    axes = new_axes()
    plot_front(front, ax=axes, uniform=uniform)
    save_axes(axes, path)


def load_front(path: str | Path) -> ParetoFront:
    """Read the front of a run's folder, or of a front file.

    Raises:
        MissingFileError: No such file or folder, or the run has no front yet.
        FormatError: The file is damaged.
    """
    path = Path(path)
    return ParetoFront.load(path / "front.json" if path.is_dir() else path)


def recipe_of(front: ParetoFront) -> Recipe:
    """Return the recipe of the network that a front is of.

    Raises:
        FormatError: The front was not made by `evoq search`, so it holds no recipe.
    """
    settings = front.provenance.get("settings")
    if not isinstance(settings, Mapping) or "recipe" not in settings:
        raise FormatError("front: holds no recipe of its network (it was not made by `evoq search`)")
    return Recipe.from_json(settings["recipe"])
