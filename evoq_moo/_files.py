"""Reading and writing our own files: whole or not at all, with errors that name the file."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from evoq_moo.errors import FormatError, MissingFileError


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old or the new content, never a part.

    Args:
        path: The file; its folder is made if needed.
        data: The content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp makes files private; ours get the mode any new file of the user has.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_json(path: str | Path, *, format_name: str, version: int) -> dict[str, Any]:
    """Read one of our JSON files.

    Args:
        path: The file.
        format_name: What its ``"format"`` must be.
        version: What its ``"version"`` must be.

    Raises:
        MissingFileError: No such file.
        FormatError: Not JSON, not of this format, or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no such file: {path}")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != format_name:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise FormatError(f"{path}: given format {found!r}; allowed: {format_name!r}")
    if data.get("version") != version:
        raise FormatError(f"{path}: given version {data.get('version')!r} of {format_name}; allowed: {version}")
    return data
