"""The errors of evoq-moo: every one is an :class:`EvoqError` and also the built-in error a caller would expect."""

import difflib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np


class EvoqError(Exception):
    """Base of every error that evoq-moo raises on purpose."""


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


class MissingPackageError(EvoqError, ImportError):
    """An optional package is needed; the message says how to install it."""


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


def check_count(argument: str, value: object, *, lowest: int = 1) -> int:
    """Return a count or a seed.

    Args:
        argument: The argument's name, for the message.
        value: What was given.
        lowest: Smallest allowed value.

    Raises:
        ArgumentError: Not an integer of at least `lowest`.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < lowest:
        raise ArgumentError(f"{argument}: given {value!r}; allowed: an integer of at least {lowest}")
    return int(value)


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
