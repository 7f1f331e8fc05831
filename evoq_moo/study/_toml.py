"""A study described by a TOML file."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from evoq_moo.costs import checked_budgets, name_of
from evoq_moo.errors import ArgumentError, check_name
from evoq_moo.files import (
    MOST_EVALUATIONS,
    Few,
    Number,
    Text,
    Whole,
    check_path,
    convert,
    read_toml,
    reading,
    refuse_code,
)
from evoq_moo.problems import get_problem
from evoq_moo.runs import Recipe, load_costs
from evoq_moo.study._algorithms import Search, imported_algorithm, named_algorithm
from evoq_moo.study._problems import NetworkProblem, ProblemEntry

_FILES = ("weights", "samples")


def read_study(file: str | Path, *, output: str | Path | None = None, trust: bool = False) -> dict[str, Any]:
    """Return the arguments of :class:`Study` that a TOML file gives.

    ``problems`` and ``algorithms`` are lists of names, ``seeds`` a number (0 to it) or a list, ``budget``, ``path`` and
    ``charge_scan`` as the study takes them. A table ``[problem.NAME]`` describes a real network (the fields of
    :class:`~evoq_moo.runs.Recipe`, `objectives`, `budgets`, `costs` (files of tables by name), and as `reference` the
    problem of the suite whose frozen reference it is measured against), ``[algorithm.NAME]`` one of our algorithms
    (`name`, `pop_size`) or a function that makes one (`function = "module:function"`, `uses_sensitivity`). Paths are
    relative to the file.

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
    table = read_toml(path)
    _check_keys(str(path), table, _fields(_StudyTable))
    with reading(str(path), ArgumentError):
        data = convert(table, _StudyTable)
    folder = path.parent / (data.path or path.stem) if output is None else Path(output)
    if output is None and not trust:
        check_path("path", folder, path)
    arguments: dict[str, Any] = {
        "problems": {name: _problem(name, data.problem, path, trust) for name in data.problems},
        "algorithms": {name: _algorithm(name, data.algorithm, path, trust) for name in data.algorithms},
        "seeds": range(data.seeds) if isinstance(data.seeds, int) else data.seeds,
        "path": folder,
        "charge_scan": data.charge_scan,
    }
    return arguments if data.budget is None else arguments | {"budget": data.budget}


class _StudyTable(Struct):
    problems: Annotated[list[Text], Meta(min_length=1)]
    algorithms: Annotated[list[Text], Meta(min_length=1)]
    seeds: Few | Annotated[list[Whole], Meta(min_length=1)] = 31
    budget: Annotated[int, Meta(ge=1, le=MOST_EVALUATIONS)] | None = None
    path: Text | None = None
    charge_scan: bool = True
    problem: dict[str, dict[str, Any]] = {}
    algorithm: dict[str, dict[str, Any]] = {}


class _ProblemTable(Struct):
    model: Text
    weights: Text | None = None
    samples: Text | None = None
    objectives: tuple[str, ...] = ("difference", "bops")
    budgets: dict[str, Number] = {}
    costs: dict[str, Text] = {}
    reference: str | None = None


class _AlgorithmTable(Struct):
    name: str | None = None
    pop_size: Few | None = None
    function: Text | None = None
    uses_sensitivity: bool = False


def _problem(name: str, problems: Mapping[str, dict[str, Any]], file: Path, trust: bool) -> ProblemEntry:
    if name not in problems:
        return name
    where, table = f"problem.{name}", problems[name]
    recipe_keys = [field.name for field in fields(Recipe) if field.compare]
    _check_keys(where, table, {*recipe_keys, *_fields(_ProblemTable)})
    with reading(where, ArgumentError):
        data = convert(table, _ProblemTable)
        tables = {cost: file.parent / name for cost, name in data.costs.items()}
        for cost, path in tables.items():
            if not trust:
                check_path(f"{where}.costs.{cost}", path, file)
        given_recipe = {key: value for key, value in table.items() if key in recipe_keys}
        for key in _FILES:
            if key in given_recipe and (file.parent / given_recipe[key]).exists():
                given_recipe[key] = str((file.parent / given_recipe[key]).resolve())
        recipe = Recipe.from_json(given_recipe, source=file, trust=trust)
        recipe.check_trust()
        return NetworkProblem(
            name=name,
            recipe=recipe,
            objectives=tuple(name_of(one, "objectives") for one in data.objectives),
            budgets=checked_budgets(data.budgets),
            costs=load_costs(tables),
            reference=None if data.reference is None else get_problem(data.reference).reference,
        )


def _algorithm(name: str, tables: Mapping[str, dict[str, Any]], file: Path, trust: bool) -> Search:
    where, table = f"algorithm.{name}", tables.get(name, {})
    _check_keys(where, table, _fields(_AlgorithmTable))
    with reading(where, ArgumentError):
        data = convert(table, _AlgorithmTable)
    if data.function is not None:
        if not trust:
            raise refuse_code(data.function, file)
        return imported_algorithm(data.function, uses_sensitivity=data.uses_sensitivity)
    return named_algorithm(data.name or name, **({} if data.pop_size is None else {"pop_size": data.pop_size}))


def _fields(kind: type[Struct]) -> tuple[str, ...]:
    return kind.__struct_fields__


def _check_keys(where: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    for key in table:
        check_name(where, key, known)
