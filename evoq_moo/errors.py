"""The errors of evoq-moo: every one is an :class:`EvoqError` and also the built-in error a caller would expect."""

import difflib
import math
import re
import sys
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

import numpy as np

QUOTE = 200
"""Longest quote of what was given that a message holds (characters)."""
_WORD, _MESSAGE = 500, 4000
_NO_MEMORY = re.compile(
    r"allocate memory|bad_alloc|out of memory|bad allocation|can't start new thread|"
    r"could not create a (memory|primitive)(?! descriptor)"
)
"""What the interpreter, the C++ library, PyTorch, oneDNN, onnxruntime and the system's loader say then."""
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


class EvoqError(Exception):
    """Base of every error that evoq-moo raises on purpose.

    Every message passes here: quotes in it are cut at :data:`QUOTE` characters, and what no terminal can print (lone
    surrogates, control characters) is escaped.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(shortened(given) if isinstance(given, str) else given for given in arguments))


class ArgumentError(EvoqError, ValueError):
    """An argument is not of the allowed values; the message names it, what was given and what is allowed."""


class UnknownNameError(ArgumentError):
    """A name is not among the known ones; the message suggests the nearest."""


class InfeasibleBudgetError(ArgumentError):
    """No policy can meet a budget; the message states the smallest reachable value."""


class BitWidthError(ArgumentError):
    """A vector holds a value that is not an allowed bit-width of its gene."""


class ImageError(EvoqError, ValueError):
    """Images are missing, too few, unreadable or of the wrong shape."""


class MissingFileError(EvoqError, FileNotFoundError):
    """A file or folder isn't there."""


class WeightsError(EvoqError, ValueError):
    """Weights can't be read or don't fit the network."""


class NetworkError(EvoqError, ValueError):
    """A network can't be quantized or run on the samples."""


class NonFiniteError(EvoqError, ArithmeticError):
    """A network computes NaN or infinity; the message names the first layer where they appear."""


class StoreError(EvoqError, OSError):
    """An evaluation store is locked, damaged, not a store, or of another network."""


class FormatError(EvoqError, ValueError):
    """A file of ours (a front, a sensitivity table, a run) is damaged or of an unknown version."""


class TrustError(EvoqError, PermissionError):
    """A file names code to run, or a path elsewhere to read, without the user's consent."""


class FileError(EvoqError, OSError):
    """A file can't be written or read; the message names it and says why."""


class WorkerError(EvoqError, RuntimeError):
    """Worker processes die again and again."""


class OutOfMemoryError(EvoqError, MemoryError):
    """There is not enough memory; nothing else is wrong."""


class MissingPackageError(EvoqError, ImportError):
    """An optional package is needed; the message says how to install it."""


def shortened(text: str) -> str:
    """Return a message with its quotes cut at :data:`QUOTE` characters and all of it printable.

    A quote is what stands between quotation marks or brackets. Words and messages without end are cut too.

    Args:
        text: The message.
    """
    if len(text) > 20 * _MESSAGE:
        text = text[: 10 * _MESSAGE] + text[-10 * _MESSAGE :]
    text = text.encode("utf-8", "backslashreplace").decode()
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)
    if len(text) <= QUOTE:
        return text
    ends = _quotes(text)
    parts, i = [], 0
    while i < len(text):
        end = ends.get(i, i)
        if end - i > QUOTE:
            parts.append(f"{text[i : i + QUOTE - 4]}...{text[end]}")
        else:
            parts.append(text[i : end + 1])
        i = end + 1
    text = re.sub(
        rf"\S{{{_WORD + 1},}}", lambda found: f"{found[0][: _WORD - 103]}...{found[0][-100:]}", "".join(parts)
    )
    return text if len(text) <= _MESSAGE else f"{text[: _MESSAGE - 3]}..."


def _quotes(text: str) -> dict[int, int]:
    """Return where quotes end, by where they begin."""
    ends: dict[int, int] = {}
    open_brackets: dict[str, list[int]] = {close: [] for close in _BRACKETS.values()}
    for i, letter in enumerate(text):
        # Our own sentences have parentheses too; those of a tuple begin with what it holds.
        if letter in _BRACKETS and (letter != "(" or text[i + 1 : i + 2] in set("0123456789'\"([{-")):
            open_brackets[_BRACKETS[letter]].append(i)
        elif open_brackets.get(letter):
            ends[open_brackets[letter].pop()] = i
    for mark in "'\"":
        # An apostrophe within a word opens nothing and closes nothing.
        closing = [found.start() for found in re.finditer(rf"(?<!\\){mark}(?!\w)", text)]
        for found in re.finditer(rf"(?<!\w){mark}", text):
            k = bisect_right(closing, found.start())
            if k < len(closing):
                ends[found.start()] = closing[k]
    return ends


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the known name nearest to `name`, else all known names.

    Args:
        name: The unknown name.
        known: The allowed names.
    """
    names = [str(k) for k in known]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(repr(n) for n in names[:20])
    return f"known: {shown}{', ...' if len(names) > 20 else ''}"


def check_name(argument: str, name: str, known: Iterable[str]) -> None:
    """Raise :class:`UnknownNameError` unless `name` is among the known names.

    Args:
        argument: The argument's name, for the message.
        name: What was given.
        known: The allowed names.

    Raises:
        UnknownNameError: `name` is not known; the message suggests the nearest.
    """
    names = list(known)
    if name not in names:
        raise UnknownNameError(f"{argument}: unknown name {name!r}; {nearest(str(name), names)}")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out; PyTorch and oneDNN say so by RuntimeErrors.

    Args:
        error: Whatever was raised.
    """
    if isinstance(error, EvoqError | ValueError):  # these quote what files and users say
        return isinstance(error, MemoryError)
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def check_memory(error: BaseException) -> None:
    """Raise :class:`OutOfMemoryError` where an error means that memory ran out, before something else is blamed for it.

    Args:
        error: Whatever was raised.

    Raises:
        OutOfMemoryError: Memory ran out.
    """
    if is_out_of_memory(error):
        reason = "" if not str(error) else f" ({str(error).strip().splitlines()[0]})"
        raise OutOfMemoryError(f"not enough memory{reason}") from error


def check_text(argument: str, value: str | None) -> None:
    """Raise unless a name or path can be written to a file as UTF-8 and read again; None is fine.

    Args:
        argument: The argument's name, for the message.
        value: What was given.

    Raises:
        ArgumentError: It holds a lone surrogate (of a file name that is not UTF-8) or a zero byte.
    """
    if value is not None and ("\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value)):
        raise ArgumentError(f"{argument}: given {value!r}; allowed: text in UTF-8 without zero bytes")


def check_count(argument: str, value: object, *, lowest: int = 1, highest: int = 2**63 - 1) -> int:
    """Return a count or a seed.

    Args:
        argument: The argument's name, for the message.
        value: What was given.
        lowest: Smallest allowed value.
        highest: Largest allowed value.

    Raises:
        ArgumentError: Not an integer within these limits.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ArgumentError(f"{argument}: given {value!r}; allowed: an integer of at least {lowest}")
    count = int(value)
    if count < lowest:
        raise ArgumentError(f"{argument}: given {quoted(count)}; allowed: an integer of at least {lowest}")
    if count > highest:
        raise ArgumentError(f"{argument}: given {quoted(count)}; allowed: an integer of at most {highest}")
    return count


def quoted(value: object) -> str:
    """Return what was given as text for a message; Python itself can't write integers of thousands of digits.

    Args:
        value: What was given.
    """
    if isinstance(value, int) and value.bit_length() > 4 * QUOTE:
        return f"an integer of {value.bit_length()} bits"
    try:
        return repr(value)
    except ValueError:
        return f"a {type(value).__name__} of integers of thousands of digits"


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
    given = value.item() if isinstance(value, np.integer | np.floating) else value
    number = isinstance(given, int | float) and not isinstance(given, bool) and abs(given) <= sys.float_info.max
    if not number or not low <= given <= high or (open_low and given == low):
        limits = f"{'above' if open_low else 'from'} {low:g}" + (f" to {high:g}" if math.isfinite(high) else "")
        raise ArgumentError(f"{argument}: given {quoted(value)}; allowed: a number {limits}")
    return float(given)
