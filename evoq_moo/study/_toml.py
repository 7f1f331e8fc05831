"""A study described by a TOML file."""

import tomllib
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from evoq_moo.errors import ArgumentError, FormatError, MissingFileError, check_name
from evoq_moo.problems import get_problem
from evoq_moo.recipe import Recipe
from evoq_moo.run import load_costs
from evoq_moo.study._algorithms import Search, imported_algorithm, named_algorithm
from evoq_moo.study._problems import NetworkProblem, ProblemEntry

KEYS = ("problems", "algorithms", "seeds", "budget", "path", "charge_scan", "problem", "algorithm")
_PROBLEM_KEYS = (*(f.name for f in fields(Recipe)), "objectives", "budgets", "costs", "reference")
_ALGORITHM_KEYS = ("name", "pop_size", "function", "uses_sensitivity")
_FILES = ("weights", "samples")


def read_study(file: str | Path) -> dict[str, Any]:
    """Return the arguments of :class:`Study` that a TOML file gives.

    ``problems`` and ``algorithms`` are lists of names, ``seeds`` a number (0 to it) or a list, ``budget``, ``path`` and
    ``charge_scan`` as the study takes them. A table ``[problem.NAME]`` describes a real network (the fields of
    :class:`~evoq_moo.recipe.Recipe`, `objectives`, `budgets`, `costs` (files of tables by name), and as `reference` the
    problem of the suite whose frozen reference it is measured against), ``[algorithm.NAME]`` one of our algorithms
    (`name`, `pop_size`) or a function that makes one (`function = "module:function"`, `uses_sensitivity`). Paths are
    relative to the file.

    Args:
        file: The TOML file.

    Raises:
        MissingFileError: No such file.
        FormatError: Not TOML.
        ArgumentError: A value is not allowed.
        UnknownNameError: A key or name is unknown; the message suggests the nearest.
    """
    path = Path(file)
    if not path.is_file():
        raise MissingFileError(f"no such file: {path}")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{path}: not TOML: {error}") from error
    _check_keys(str(path), data, KEYS)
    for key in ("problems", "algorithms"):
        names = data.get(key)
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ArgumentError(f"{path}: {key}: given {names!r}; allowed: a list of names")
    seeds = data.get("seeds", 31)
    arguments: dict[str, Any] = {
        "problems": {name: _problem(name, data.get("problem", {}), path.parent) for name in data["problems"]},
        "algorithms": {name: _algorithm(name, data.get("algorithm", {})) for name in data["algorithms"]},
        "seeds": range(seeds) if isinstance(seeds, int) else seeds,
        "path": path.parent / data.get("path", path.stem),
    }
    return arguments | {key: data[key] for key in ("budget", "charge_scan") if key in data}


def _problem(name: str, tables: dict[str, Any], folder: Path) -> ProblemEntry:
    if name not in tables:
        return name
    table = dict(tables[name])
    _check_keys(f"problem.{name}", table, _PROBLEM_KEYS)
    if "model" not in table:
        raise ArgumentError(f"problem.{name}: given no model; allowed: the name of a network, or module:function")
    for key in _FILES:
        if key in table and (folder / table[key]).exists():
            table[key] = str((folder / table[key]).resolve())
    options: dict[str, Any] = {key: table.pop(key) for key in ("objectives", "budgets") if key in table}
    if "objectives" in options:
        options["objectives"] = tuple(options["objectives"])
    tables_of_costs = table.pop("costs", {})
    if not isinstance(tables_of_costs, dict):
        raise ArgumentError(f"problem.{name}: costs: given {tables_of_costs!r}; allowed: files by the names of costs")
    options["costs"] = load_costs({cost: str(folder / str(file)) for cost, file in tables_of_costs.items()})
    reference = table.pop("reference", None)
    return NetworkProblem(
        name=name,
        recipe=Recipe.from_json(table),
        reference=None if reference is None else get_problem(reference).reference,
        **options,
    )


def _algorithm(name: str, tables: dict[str, Any]) -> Search:
    table = dict(tables.get(name, {"name": name}))
    _check_keys(f"algorithm.{name}", table, _ALGORITHM_KEYS)
    if "function" in table:
        return imported_algorithm(table["function"], uses_sensitivity=table.get("uses_sensitivity", False))
    options = {"pop_size": table["pop_size"]} if "pop_size" in table else {}
    return named_algorithm(table.get("name", name), **options)


def _check_keys(where: str, table: Any, known: Iterable[str]) -> None:
    if not isinstance(table, dict):
        raise ArgumentError(f"{where}: given {table!r}; allowed: a table")
    for key in table:
        check_name(where, key, known)
