"""What a file may make us do: nothing that its reader did not consent to.

A name of code and a path that the user types are the user's own. The same words read from a file may be a stranger's:
code runs, and files elsewhere are read, only with consent.
"""

import os
from pathlib import Path

from evoq_moo.errors import FormatError, TrustError

_CONSENT = "allowed: --trust where you know who made the file (in Python trust=True)"


def refuse_code(name: str, source: str | Path, *, again: str = "") -> TrustError:
    """Return the error that code which a file names is not run without consent.

    Args:
        name: ``package.module:function``.
        source: The file that names it.
        again: An option that names the same code again, which is consent too.
    """
    other = f", or {again} {name} again" if again else ""
    return TrustError(f"{source}: names code, {name!r}, which would be run; {_CONSENT}{other}")


def check_path(what: str, path: str | Path, source: str | Path) -> None:
    """Raise unless a path that a file names stays where the user already is.

    That is below the file's folder or below the working directory, links followed; a working directory that is the
    root of the file system allows nothing.

    Args:
        what: What the path is of, for the message.
        path: The path, relative to the working directory.
        source: The file that names it.

    Raises:
        TrustError: The path leads elsewhere.
        FormatError: It can't be a path.
    """
    here = Path.cwd()
    allowed = [Path(source).resolve().parent, *([here.resolve()] if here != Path(here.anchor) else [])]
    try:
        found = Path(path).resolve()
        found.exists()
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise FormatError(f"{source}: {what} can't be a path: {why}") from error
    if not any(found.is_relative_to(folder) for folder in allowed):
        raise TrustError(
            f"{source}: names {what} {os.fspath(path)!r}, outside its folder and the working directory; {_CONSENT}"
        )
