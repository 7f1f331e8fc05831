"""Writing our own files: whole or not at all."""

import errno
import os
import platform
import re
import secrets
import zlib
from pathlib import Path

from evoq_moo.errors import FileError

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_TEMPORARY = re.compile(rf"\.evoq-{_HOST}-(\d+)-[0-9a-f]+\.tmp")


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file so that a reader, a kill or a power cut at any moment leaves the old or the new content, whole.

    What killed writes of this machine left in the folder is removed.

    Args:
        path: The file; its folder is made if needed.
        data: The content.

    Raises:
        FileError: It can't be written; the message names the file and says why. Nothing is changed then.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise FileError(f"{path}: can't be written: is {'a folder' if path.is_dir() else 'a device'}")
        make_folder(path.parent)
        _sweep(path.parent)
        temporary = path.parent / f".evoq-{_HOST}-{os.getpid()}-{secrets.token_hex(8)}.tmp"
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path}: can't be written: {reason_of(error)}") from error


def is_writable(path: str | Path) -> bool:
    """Tell whether this process may write a file, or files into a folder."""
    mode = os.W_OK | (os.X_OK if Path(path).is_dir() else 0)
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def reason_of(error: OSError) -> str:
    """Return in a few words why the system refused something, with the file where the error names one."""
    words = (error.strerror or str(error) or type(error).__name__).strip()
    named = error.filename is not None and error.strerror is not None
    return f"{words} ({os.fsdecode(error.filename)})" if named and isinstance(error.filename, str | bytes) else words


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they outlast a power cut."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's list of files is on disk; some file systems, and Windows, know no such thing."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Remove temporary files of processes of this machine that are gone."""
    if os.name != "posix":  # elsewhere, asking whether a process lives ends it
        return
    with os.scandir(folder) as entries:
        found = [(entry.path, match) for entry in entries if (match := _TEMPORARY.fullmatch(entry.name))]
    for path, match in found:
        try:
            os.kill(int(match[1]), 0)
        except ProcessLookupError:
            Path(path).unlink(missing_ok=True)
        except (PermissionError, OverflowError):  # a process of another user, or none that can be
            continue


def check_writable(argument: str, path: str | Path, *, folder: bool = False) -> None:
    """Raise unless a file or folder looks writable; nothing is written. To be asked before long work.

    Args:
        argument: The argument's name, for the message.
        path: The file or folder, there or not.
        folder: Whether a folder is meant.

    Raises:
        FileError: It can't be written; the message says why.
    """
    path = Path(path)
    try:
        missing = []
        there = path
        while not there.exists():
            missing.append(there.name)
            there = there.parent
        if not missing and there.is_dir() != folder:
            raise FileError(
                f"{argument}: given {path}, {'a folder' if there.is_dir() else 'a file'}; allowed: "
                f"a {'folder' if folder else 'file'}"
            )
        if not missing and not folder and not there.is_file():
            raise FileError(f"{argument}: given {path}, a device; allowed: a file")
        home = there if there.is_dir() else there.parent
        if missing and not there.is_dir():
            raise FileError(f"{argument}: given {path}, but {there} is a file, not a folder")
        if not is_writable(home):
            raise FileError(f"{argument}: given {path}, but {home} can't be written to (read-only, or no permission)")
        longest = os.pathconf(home, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
        if any(len(os.fsencode(name)) > longest for name in missing):
            raise FileError(f"{argument}: given {path}, a name of more than {longest} bytes")
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{argument}: given {path}: {error.strerror}") from error
