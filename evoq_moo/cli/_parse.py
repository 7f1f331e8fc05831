"""Turning words of the command line into values."""

import re

from evoq_moo._text import parse_budgets, parse_names, parse_values
from evoq_moo.errors import ArgumentError
from evoq_moo.space import check_bits

__all__ = ["parse_bits", "parse_budgets", "parse_names", "parse_values"]


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
