"""Writing what took long to compute: where the user said, or else where it is possible."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from evoq_moo.errors import EvoqError, FileError
from evoq_moo.files import reason_of

R = TypeVar("R")


def save_result(target: Path, write: Callable[[Path], R]) -> R:
    """Write a result, and where that fails, write it to another place before saying so.

    Args:
        target: The file or folder.
        write: Writes it to a path.

    Returns:
        What `write` returns.

    Raises:
        FileError: The target can't be written; the message says why, and where the result is.
    """
    try:
        return write(target)
    except OSError as error:
        if isinstance(error, EvoqError) and not isinstance(error, FileError):
            raise
        reason = str(error) if isinstance(error, FileError) else reason_of(error)
        kept = _rescue(target, write)
        where = f"the result is at {kept}" if kept is not None else "nor can any other place: the result is lost"
        raise FileError(f"output: {reason}; {where}") from error


def _rescue(target: Path, write: Callable[[Path], R]) -> Path | None:
    for place in (Path.cwd(), Path.home(), Path(tempfile.gettempdir())):
        try:
            kept = Path(tempfile.mkdtemp(prefix="evoq-result-", dir=place)) / target.name[:100]
            write(kept)
        except OSError:
            continue
        return kept
    return None
