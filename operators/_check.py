"""Checks of constructor arguments shared by the operators."""

import math
from typing import Any

from evoq_moo.cost import COSTS
from evoq_moo.errors import ArgumentError, check_name
from evoq_moo.sensitivity import SensitivityTable


def check_number(argument: str, value: Any, low: float, high: float, *, open_low: bool = False) -> float:
    """Return a number within limits.

    Args:
        argument: The argument's name, for the message.
        value: What was given.
        low: Smallest allowed value.
        high: Largest allowed value; may be infinity, which itself is not allowed.
        open_low: Whether `low` itself is not allowed.

    Raises:
        ArgumentError: The value is not a finite number within the limits.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (open_low and value == low):
        limits = f"{'above' if open_low else 'from'} {low:g}" + (f" to {high:g}" if math.isfinite(high) else "")
        raise ArgumentError(f"{argument}: given {value!r}; allowed: a number {limits}")
    return float(value)


def check_sensitivity(sensitivity: Any) -> SensitivityTable:
    """Return a sensitivity table of a space with genes.

    Raises:
        ArgumentError: It is not such a table.
    """
    if not isinstance(sensitivity, SensitivityTable):
        raise ArgumentError(f"sensitivity: given {type(sensitivity).__name__}; allowed: a SensitivityTable")
    if not sensitivity.space.genes:
        raise ArgumentError("sensitivity: its space has no genes; allowed: one or more")
    return sensitivity


def check_cost(cost: str | None) -> None:
    """Raise unless `cost` is None or the name of a cost.

    Raises:
        UnknownNameError: It is neither.
    """
    if cost is not None:
        check_name("cost", cost, COSTS)
