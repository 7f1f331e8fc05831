"""Turning short texts into values: budgets, numbers, names."""

import math

from evoq_moo.errors import ArgumentError


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names in a text with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_budgets(texts: list[str]) -> dict[str, float]:
    """Return budgets of texts like ``bops<=5`` or ``size<=2.5``.

    Raises:
        ArgumentError: Not such a text, or the same budget twice.
    """
    budgets: dict[str, float] = {}
    for text in texts:
        name, sign, value = (part.strip() for part in text.partition("<="))
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if not sign or not math.isfinite(limit):
            raise ArgumentError(f"budget: given {text!r}; allowed: like 'bops<=5', 'size<=2' or 'difference<=0.01'")
        if name in budgets:
            raise ArgumentError(f"budget: given {name} twice")
        budgets[name] = limit
    return budgets


def parse_values(argument: str, text: str) -> tuple[float, ...]:
    """Return the numbers in a text with commas.

    Raises:
        ArgumentError: A part is not a number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ArgumentError(f"{argument}: given {text!r}; allowed: numbers with commas") from None
