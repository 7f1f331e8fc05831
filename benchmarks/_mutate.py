"""Changing files at random, for the fuzzers."""

import random
from typing import Any

INTERESTING: tuple[Any, ...] = (
    *(0, 1, -1, 2, 8, 9, 255, 2**31, 2**53 + 1, -(2**63), 2**63, 99999999999999999999, 10**400),
    *(0.5, -0.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
    *("", "x", "../../x", "/etc/passwd", "a\0b", "\ud800", "\x1b[31m", "9" * 5000, "[/x]", "5", "nan", "none:none"),
    *(None, [], {}, True, False, [None], [[1, 2], [3]], {"a": {"b": []}}),
)
"""Values that readers stumble over."""


def change_bytes(content: bytearray, rng: random.Random) -> bytes:
    """Return a file with bytes cut, set, inserted or copied."""
    for _ in range(rng.randint(1, 6)):
        where = rng.randrange(len(content)) if content else 0
        length = int(2 ** rng.uniform(0, 6))
        kind = rng.randrange(5)
        if kind == 0:
            content[where : where + 1] = bytes([rng.randrange(256)])
        elif kind == 1 and rng.random() < 0.3:
            del content[where:]
        elif kind == 2:
            del content[where : where + length]
        elif kind == 3:
            content[where:where] = rng.randbytes(length)
        else:
            source = rng.randrange(len(content)) if content else 0
            content[where:where] = content[source : source + length]
    return bytes(content)


def change_json(data: Any, rng: random.Random, values: tuple[Any, ...] = INTERESTING) -> Any:
    """Return JSON data with one thing in it changed."""
    if isinstance(data, dict | list) and data and rng.random() < 0.8:
        copy = dict(data) if isinstance(data, dict) else list(data)
        key = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
        if rng.random() < 0.2:
            del copy[key]
        else:
            copy[key] = change_json(copy[key], rng, values)
        return copy
    return rng.choice(values)
