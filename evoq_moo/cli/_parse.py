"""Turning words of the command line into values."""

import math
import re

from evoq_moo.errors import ArgumentError
from evoq_moo.space import check_bits


def parse_bits(argument: str, text: str) -> tuple[int, ...]:
    """Return bit-widths of a text like ``2-8``, ``2,4,8`` or ``4-6,8``.

    Raises:
        ArgumentError: Not such a text, or a bit-width that is not allowed.
    """
    bits: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,2})(?:\s*-\s*(\d{1,2}))?\s*", part)
        if match is None:
            raise ArgumentError(f"{argument}: given {text!r}; allowed: bit-widths like 2-8 or 2,4,8")
        first, last = int(match[1]), int(match[2] or match[1])
        bits += range(first, last + 1)
    return check_bits(argument, bits)


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names in a text with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_budgets(texts: list[str]) -> dict[str, float]:
    """Return budgets of texts like ``bops<=5`` or ``size_mib<=2.5``.

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
        if not sign or math.isnan(limit):
            raise ArgumentError(f"budget: given {text!r}; allowed: like 'bops<=5', 'size_mib<=2' or 'difference<=0.01'")
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
