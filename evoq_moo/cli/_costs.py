"""Options of commands that follow from the registry of costs."""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import typer

from evoq_moo.costs import MeasuredCost, cost_class, cost_names

Command = TypeVar("Command", bound=Callable[..., None])


def table_options() -> list[inspect.Parameter]:
    """Return one option for the file of each cost that is read from a table."""
    costs = [cost_class(name) for name in cost_names()]
    return [
        _option(cost.name, str, typer.Option(help=f"Table for the cost {cost.name} ({cost.label}), a CSV file."))
        for cost in costs
        if issubclass(cost, MeasuredCost)
    ]


def limit_options() -> list[inspect.Parameter]:
    """Return one option for a limit of the difference and of each cost; old names, with units, are read too."""
    options = [_option("difference", float, typer.Option(help="Only points of at most so much difference."))]
    for cost in map(cost_class, cost_names()):
        names = [f"--{name.replace('_', '-')}" for name in dict.fromkeys((cost.name, cost.column))]
        text = f"Only points of at most so much {cost.label} ({cost.unit})."
        options.append(_option(cost.name, float, typer.Option(*names, help=text)))
    return options


def with_options(options: Sequence[inspect.Parameter]) -> Callable[[Command], Command]:
    """Return a decorator that gives typer further options of a command, which takes them as `**keywords`."""

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        command.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        command.__annotations__ |= {option.name: option.annotation for option in options}
        return command

    return decorate


def _option(name: str, kind: type, option: typer.models.OptionInfo) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )
