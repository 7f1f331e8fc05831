"""A study described by a TOML file."""

import tomllib
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from evoq_moo._trust import check_path, refuse_code
from evoq_moo.errors import ArgumentError, FormatError, MissingFileError, check_name
from evoq_moo.problems import get_problem
from evoq_moo.recipe import Recipe
from evoq_moo.study._algorithms import Search, imported_algorithm, named_algorithm
from evoq_moo.study._problems import NetworkProblem, ProblemEntry

KEYS = ("problems", "algorithms", "seeds", "budget", "path", "charge_scan", "problem", "algorithm")
_PROBLEM_KEYS = (*(f.name for f in fields(Recipe)), "objectives", "budgets", "reference")
_ALGORITHM_KEYS = ("name", "pop_size", "function", "uses_sensitivity")
_FILES = ("weights", "samples")


def read_study(file: str | Path, *, output: str | Path | None = None, trust: bool = False) -> dict[str, Any]:
    """Return the arguments of :class:`Study` that a TOML file gives.

    ``problems`` and ``algorithms`` are lists of names, ``seeds`` a number (0 to it) or a list, ``budget``, ``path`` and
    ``charge_scan`` as the study takes them. A table ``[problem.NAME]`` describes a real network (the fields of
    :class:`~evoq_moo.recipe.Recipe`, `objectives`, `budgets`, and as `reference` the problem of the suite whose frozen
    reference it is measured against), ``[algorithm.NAME]`` one of our algorithms (`name`, `pop_size`) or a function
    that makes one (`function = "module:function"`, `uses_sensitivity`). Paths are relative to the file.

    Args:
        file: The TOML file.
        output: The study's folder instead of the file's `path`.
        trust: Allow it to run the code that it names, and to read and write where it says.

    Raises:
        TrustError: The file names code, or a path outside its folder and the working directory.
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
    folder = path.parent / data.get("path", path.stem) if output is None else Path(output)
    if output is None and not trust:
        check_path("path", folder, path)
    arguments: dict[str, Any] = {
        "problems": {name: _problem(name, data.get("problem", {}), path, trust) for name in data["problems"]},
        "algorithms": {name: _algorithm(name, data.get("algorithm", {}), path, trust) for name in data["algorithms"]},
        "seeds": range(seeds) if isinstance(seeds, int) else seeds,
        "path": folder,
    }
    return arguments | {key: data[key] for key in ("budget", "charge_scan") if key in data}


def _problem(name: str, tables: dict[str, Any], file: Path, trust: bool) -> ProblemEntry:
    if name not in tables:
        return name
    table = dict(tables[name])
    _check_keys(f"problem.{name}", table, _PROBLEM_KEYS)
    if "model" not in table:
        raise ArgumentError(f"problem.{name}: given no model; allowed: the name of a network, or module:function")
    for key in _FILES:
        if key in table and (file.parent / table[key]).exists():
            table[key] = str((file.parent / table[key]).resolve())
    options: dict[str, Any] = {key: table.pop(key) for key in ("objectives", "budgets") if key in table}
    if "objectives" in options:
        options["objectives"] = tuple(options["objectives"])
    reference = table.pop("reference", None)
    recipe = Recipe.from_json(table, source=file, trust=trust)
    recipe.check_trust()
    return NetworkProblem(
        name=name,
        recipe=recipe,
        reference=None if reference is None else get_problem(reference).reference,
        **options,
    )


def _algorithm(name: str, tables: dict[str, Any], file: Path, trust: bool) -> Search:
    table = dict(tables.get(name, {"name": name}))
    _check_keys(f"algorithm.{name}", table, _ALGORITHM_KEYS)
    if "function" in table:
        if not trust:
            raise refuse_code(table["function"], file)
        return imported_algorithm(table["function"], uses_sensitivity=table.get("uses_sensitivity", False))
    options = {"pop_size": table["pop_size"]} if "pop_size" in table else {}
    return named_algorithm(table.get("name", name), **options)


def _check_keys(where: str, table: Any, known: Iterable[str]) -> None:
    if not isinstance(table, dict):
        raise ArgumentError(f"{where}: given {table!r}; allowed: a table")
    for key in table:
        check_name(where, key, known)
