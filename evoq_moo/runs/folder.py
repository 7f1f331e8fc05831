"""A run: one search with all its files in one folder, made and resumed by the same call.

run.json             what was asked for
evaluations.sqlite   every evaluation, as soon as it was known
sensitivity.json     the sensitivity table
front.json           the front of all that the store holds; front.png its picture
accuracy.json        measured accuracies; accuracy.png their picture
latency.csv          the table of a cost that is read from one, under the cost's name
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from msgspec import Struct

from evoq_moo.accuracy import read_curve
from evoq_moo.algorithms import default_algorithm
from evoq_moo.calibration import IN_LOOP
from evoq_moo.costs import Cost, MeasuredCost, checked_budgets, cost_class, cost_names, name_of
from evoq_moo.difference import AUTO, METRICS
from evoq_moo.errors import ArgumentError, FormatError, NonFiniteError, check_count, check_name
from evoq_moo.files import (
    Few,
    Number,
    Text,
    Whole,
    check_path,
    check_writable,
    convert,
    is_writable,
    make_folder,
    package_versions,
    read_json,
    reading,
    write_atomically,
)
from evoq_moo.front import FrontPoint, ParetoFront
from evoq_moo.network import QuantizedNetwork
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.progress import Job, job
from evoq_moo.runs._run_search import SearchRun, run_search, with_expectations
from evoq_moo.runs.known import KnownPolicies
from evoq_moo.runs.recipe import Recipe
from evoq_moo.sensitivity import measure_sensitivity, scan_policies

logger = logging.getLogger("evoq_moo")
FORMAT = "evoq-moo/run"
STORE_FILE = "evaluations.sqlite"
EXPECTED_BITS = 6
"""Evaluations take nearly the same time at all bit-widths; this one is near a front's middle."""
SCAN_SHARE = 0.6
"""Time of an evaluation of the scan, which computes only what lies behind one layer, as a share of a search's."""
PROPOSING = 0.02
"""Seconds that a search takes to propose a policy (measured on two cores)."""


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
            ArgumentError: A limit is not a positive number, or a count or seed is not one.
        """
        check_count("pop_size", self.pop_size, lowest=2)
        check_count("seed", self.seed, lowest=0)
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


def load_costs(files: Mapping[str, str | Path]) -> tuple[MeasuredCost, ...]:
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
    on_network: Callable[[QuantizedNetwork], object] | None = None,
) -> SearchRun:
    """Search, or go on with a search, and write its files.

    Args:
        settings: What to search.
        folder: Where the files go; a folder that holds a run of other settings is an error. Of one that can't be
            written to, a finished run is replayed from its store, and no file is touched.
        evaluations: How many evaluations the search may ask for; may grow when a run is resumed.
        workers: Evaluate on this many processes.
        threads: Micro-batches computed at once by this process; None for one a core.
        progress: Show progress on a terminal.
        on_network: Called with the network before it is searched.

    Returns:
        What the search found.

    Raises:
        ArgumentError: The folder holds a run of other settings; the message lists the differences.
        EvoqError: As the parts.
    """
    folder = Path(folder)
    check_count("evaluations", evaluations)
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None:
            check_count(name, value)
    costs = load_costs(settings.costs)
    # A finished run may lie where nothing can be written: it is then replayed from its store.
    written = not folder.is_dir() or is_writable(folder)
    if written:
        check_writable("output", folder, folder=True)
    else:
        logger.warning("%s can't be written to: its run is replayed, and its files stay as they are", folder)
    claimed = _is_claimed(folder, settings)
    # Set-up takes as long as it takes: its seconds count for the bar's first moments only.
    with job({"set-up": 10.0, "scan": 0.0, "search": 0.0, "pictures": 2.0}, enabled=progress) as whole:
        with whole.phase("set-up"):
            network = settings.recipe(threads=threads, progress=progress)
        if on_network is not None:
            with whole.paused():
                on_network(network)
        searched: dict[str, Any] = {
            "objectives": settings.objectives,
            "budgets": settings.budgets,
            "costs": costs,
            "calibrate": settings.calibrate,
        }
        # Tried in memory first: what is refused must leave no store that belongs to this network.
        MixedPrecisionProblem(network, **searched).close()
        if written:
            make_folder(folder)
        problem = MixedPrecisionProblem(network, **searched, store=folder / STORE_FILE, workers=workers)
        try:
            # Last, so that what was refused leaves a folder that others can use.
            if written and not claimed:
                _claim(folder, settings)
            for table in costs if written else ():
                table.save(folder / table_copy(table.name))
            if progress:
                _expect(whole, problem, evaluations, workers or 1)
            with whole.phase("scan"):
                sensitivity = measure_sensitivity(
                    network, evaluator=problem.evaluator, method="sparse", progress=progress
                )
            if written:
                sensitivity.save(folder / "sensitivity.json")
            with whole.phase("search"):
                run = run_search(
                    problem,
                    default_algorithm(problem, sensitivity, pop_size=settings.pop_size),
                    evaluations=evaluations,
                    seed=settings.seed,
                    progress=progress,
                    provenance={"settings": settings.to_json(), "versions": package_versions()},
                )
            with whole.phase("pictures"):
                run = _whole_front(run, problem, costs, folder, written=written)
        finally:
            problem.close()
    return run


def _whole_front(
    run: SearchRun, problem: MixedPrecisionProblem, costs: Sequence[Cost], folder: Path, *, written: bool
) -> SearchRun:
    """Return a run with the front of all that the store holds, and write and draw it.

    A search with fewer evaluations than an earlier one asks for a part of that only.
    """
    known = KnownPolicies.of_store(
        problem.evaluator.store,
        problem.space,
        problem.objectives,
        fingerprint=problem.provenance["fingerprint"],
        costs=costs,
        budgets=problem.budgets,
    )
    provenance = {**run.front.provenance, "policies_known": len(known.X)}
    front = replace(known.front(), provenance=provenance, curve=read_curve(folder))
    front = with_expectations(replace(run, front=front), problem, progress=False).front
    if written:
        front.save(folder / "front.json")
        draw_pictures(folder, front, known.uniform())
    return replace(run, front=front)


def _expect(whole: Job, problem: MixedPrecisionProblem, evaluations: int, workers: int) -> None:
    """Say how long scan and search will take, from the time of one evaluation."""
    evaluated, space = problem.evaluator.network, problem.space
    scanned = scan_policies(space, "sparse")[1]
    missing = len(scanned) - int(problem.evaluator.known(scanned).sum())
    left = max(evaluations - problem.evaluator.store.count(evaluated.fingerprint), 0)
    if not missing + left:
        return
    bits = space.decode(space.uniform(EXPECTED_BITS)[None])[0]
    seconds = 0.0
    for _ in range(2):  # the first prepares what all later ones use
        begun = time.perf_counter()
        with suppress(NonFiniteError):
            evaluated.difference_of(bits)
        seconds = time.perf_counter() - begun
    whole.expect("scan", missing * SCAN_SHARE * seconds / workers)
    whole.expect("search", left * (seconds / workers + PROPOSING))


def _is_claimed(folder: Path, settings: RunSettings) -> bool:
    """Tell whether a folder holds a run of these settings, else none.

    Raises:
        ArgumentError: It holds a run of others.
    """
    path = folder / "run.json"
    if not path.exists():
        return False
    if differences := _differences(read_settings(path), settings.to_json()):
        raise ArgumentError(
            f"output: {folder} holds a run of other settings ({'; '.join(differences)}); "
            "give another folder, or the same settings to go on"
        )
    return True


def _claim(folder: Path, settings: RunSettings) -> None:
    data = {"format": FORMAT, "version": 1, "settings": settings.to_json()}
    write_atomically(folder / "run.json", (json.dumps(data, indent=1) + "\n").encode())


def cost_files(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the files that settings of a run name as tables of costs, by the costs' names.

    Args:
        settings: As :meth:`RunSettings.to_json` gives them.
    """
    return {name: settings[name] for name in cost_names() if settings.get(name) is not None}


def tables_of(folder: str | Path, *, trust: bool = False) -> tuple[MeasuredCost, ...]:
    """Return a run's tables of costs: the copies that the search left in its folder, else what its settings name.

    Args:
        folder: The folder.
        trust: Allow tables outside of it and of the working directory.

    Raises:
        TrustError: The settings name such a table.
        EvoqError: As :func:`read_settings` and :func:`load_costs`.
    """
    folder = Path(folder)
    files: dict[str, str | Path] = {}
    for name, named in cost_files(read_settings(folder / "run.json")).items():
        copy = folder / table_copy(name)
        if not copy.is_file() and not trust:
            check_path(name, named, folder / "run.json")
        files[name] = copy if copy.is_file() else named
    return load_costs(files)


def table_copy(name: str) -> str:
    """Return the name of the file in a run's folder that holds the run's own copy of a cost's table."""
    return f"{name}.csv"


class _RunData(Struct):
    settings: dict[str, Any]


class _SettingsData(Struct):
    recipe: dict[str, Any]
    objectives: tuple[str, ...]
    budgets: dict[str, Number]
    pop_size: Few
    seed: Whole
    calibrate: str | None = None


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read what a run was asked for, as :meth:`RunSettings.to_json` wrote it.

    Raises:
        MissingFileError: No such file.
        FormatError: Not the file of a run, damaged, or of an unknown version.
    """
    return check_settings(str(path), read_json(path, _RunData, format_name=FORMAT, version=1).settings)


def check_settings(where: str, found: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a run; objectives and budgets of version 0.1 get the names of today.

    Args:
        where: The file, for messages.
        found: What it holds as settings.

    Raises:
        FormatError: It is not what :meth:`RunSettings.to_json` gives.
    """
    with reading(f"{where}: not the settings of a run"):
        data = convert(found, _SettingsData)
        Recipe.from_json(data.recipe)
        convert(cost_files(found), dict[str, Text])
        objectives = [name_of(name, "objectives") for name in data.objectives]
        return {**found, "objectives": objectives, "budgets": checked_budgets(data.budgets)}


def _differences(found: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key in sorted(set(found) | set(asked)):
        old, new = found.get(key), asked.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: has {old!r}, asked for {new!r}")
    return lines


def draw_pictures(folder: str | Path, front: ParetoFront, uniform: Sequence[FrontPoint]) -> None:
    """Draw a run's front, with its accuracies where they are known, and its accuracy curve.

    Args:
        folder: The run's folder.
        front: Its front.
        uniform: Evaluated policies with one bit-width everywhere.
    """
    from evoq_moo.plots import plot_accuracy_curve, plot_front, save_axes  # brings matplotlib

    if len(front) and len(front.objectives) > 1 and "difference" in front.objectives:
        accuracies = None
        if front.curve is not None:
            rows = [front.curve.of(point.policy) for point in front]
            accuracies = [None if row is None else row.accuracy for row in rows]
        save_axes(plot_front(front, uniform=uniform, accuracies=accuracies), Path(folder) / "front.png")
    if front.curve is not None and front.curve.rows:
        save_axes(plot_accuracy_curve(front.curve), Path(folder) / "accuracy.png")


def load_front(path: str | Path) -> ParetoFront:
    """Read the front of a run's folder, with the accuracies that were measured, or of a front file.

    Raises:
        MissingFileError: No such file or folder, or the run has no front yet.
        FormatError: The file is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        return ParetoFront.load(path)
    return replace(ParetoFront.load(path / "front.json"), curve=read_curve(path))


def recipe_of(front: ParetoFront, *, source: str | Path = "front", trust: bool = False) -> Recipe:
    """Return the recipe of the network that a front is of.

    Args:
        front: The front.
        source: The front's file, or its run's folder; paths in it may be read.
        trust: Allow the recipe to run the code and to read the files that it names, wherever they are.

    Raises:
        FormatError: The front was not made by `evoq search`, so it holds no recipe.
    """
    settings = front.provenance.get("settings")
    if settings is None or "recipe" not in settings:
        raise FormatError("front: holds no recipe of its network (it was not made by `evoq search`)")
    file = Path(source) / "front.json" if Path(source).is_dir() else source
    recipe = dict(settings["recipe"])
    metric = front.provenance.get("metric")
    if recipe.get("difference") == AUTO and metric in METRICS:  # version 0.1 chose by the outputs
        recipe["difference"] = metric
    return Recipe.from_json(recipe, source=file, trust=trust)
