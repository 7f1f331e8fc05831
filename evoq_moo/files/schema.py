"""The one door of files: types, ranges and sizes of what is read, checked before anything is made of it.

Every reader says what its file may hold as types, which `msgspec` checks, or as a :class:`Layout` of arrays; tensors
are checked by `evoq_moo.files.tensors`. Reading costs time and memory in proportion to the file: what a file only
claims (the size of a packed array, the shape of a tensor, a count) is compared with the file before it is expanded.
"""

import csv
import io
import json
import math
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar
from xml.etree import ElementTree

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from evoq_moo.errors import EvoqError, FormatError, MissingFileError, OutOfMemoryError, is_out_of_memory

T = TypeVar("T")

Whole = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""An integer from 0."""
Count = Annotated[int, Meta(ge=1, le=2**63 - 1)]
"""An integer from 1."""
Extent = Annotated[int, Meta(ge=0, le=10**14)]
"""A number of weights, products or layers: a hundred of them, times 32 times 32, fit an int64."""
Pixels = Annotated[int, Meta(ge=1, le=2**14)]
"""A side of a network's input."""
Few = Annotated[int, Meta(ge=1, le=10**6)]
"""A number of samples, classes, individuals or seeds; our choice of what is beyond reason."""
MOST_EVALUATIONS = 10**8
"""Our choice: a run keeps all its evaluations in memory, so that more than these are a mistake."""
Evaluations = Annotated[int, Meta(ge=0, le=MOST_EVALUATIONS)]
"""A number of evaluations."""
Number = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
"""A finite number."""
Difference = Annotated[float, Meta(ge=-sys.float_info.max)]
"""A finite number, or infinity: that of a policy without a difference."""
Amount = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
"""A finite number from 0: a cost, a time."""
BitWidth = Annotated[int, Meta(ge=2, le=32)]
"""Policies and spaces allow fewer: `evoq_moo.space.ALLOWED_BITS`."""
_DIGITS, _NO_ZERO = r"^[0-9]{1,18}\Z", r"^[^\x00]*\Z"
Digits = Annotated[str, Meta(pattern=_DIGITS)]
"""An integer from 0, as text."""
Text = Annotated[str, Meta(pattern=_NO_ZERO)]
"""A name, or a path."""
_WORDS = {
    "array": "a list",
    "object": "a table",
    "float": "a number",
    "int": "an integer",
    f"str matching regex {_DIGITS!r}": "an integer from 0 of at most 18 digits",
    f"str matching regex {_NO_ZERO!r}": "text without zero bytes",
}
_UNKNOWN = object()
_EXPLAINED = 2**20
"""Largest JSON text that is read again to say what was given (bytes)."""
GROWTH, FREE = 100, 16 * 2**20
"""Our choice: packed arrays may expand to 100 times their file; the first 16 MiB are free."""
_DEPTH = 16
"""Of XML; VOC's has 5."""


@contextmanager
def reading(
    what: str,
    error: type[EvoqError] = FormatError,
    *,
    catch: tuple[type[Exception], ...] = (ValueError,),
) -> Iterator[None]:
    """Turn whatever is wrong with a file into one sentence.

    Args:
        what: The file and what it is not, which begins the sentence.
        error: The error's class.
        catch: What the code may raise on damaged files, beside running out of depth or memory.

    Raises:
        EvoqError: Of class `error`; our own errors that are no ValueError (a file that isn't there) stay as they are.
    """
    kinds: tuple[type[Exception], ...] = (MemoryError, *catch)
    try:
        yield
    except RecursionError as found:
        raise error(f"{what}: it nests too deeply") from found
    except kinds as found:
        if is_out_of_memory(found):
            raise error(f"{what}: reading it needs more memory than there is") from found
        if isinstance(found, EvoqError) and not isinstance(found, ValueError):
            raise
        raise error(f"{what}: {_reason(found)}") from found


def _reason(error: Exception) -> str:
    text = str(error).strip().split("\n", maxsplit=1)[0]
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def read_bytes(path: str | PathLike[str], *, argument: str = "", error: type[EvoqError] = FormatError) -> bytes:
    """Return the content of a file.

    Args:
        path: The file.
        argument: Whose value it is, for the message.
        error: The class of error where it can't be read.

    Raises:
        MissingFileError: No such file.
        OutOfMemoryError: It is larger than the memory.
        EvoqError: It can't be read.
    """
    path, prefix = Path(path), f"{argument}: " if argument else ""
    try:
        if not path.exists():
            raise MissingFileError(f"{prefix}no such file: {path}")
        if not path.is_file():
            raise ValueError("it is a folder, or a device")
        return path.read_bytes()
    except MissingFileError:
        raise
    except MemoryError as found:
        raise OutOfMemoryError(f"{prefix}can't read {path}: not enough memory for what it holds") from found
    except (OSError, ValueError) as found:
        raise error(f"{prefix}can't read {path}: {found}") from found


def read_text(path: str | PathLike[str], *, argument: str = "", error: type[EvoqError] = FormatError) -> str:
    """Return the content of a text file in UTF-8, a byte order mark left out.

    Raises:
        MissingFileError: No such file.
        EvoqError: It can't be read, or is not UTF-8.
    """
    data = read_bytes(path, argument=argument, error=error)
    with reading(f"{path}: not text in UTF-8", error):
        return data.decode("utf-8-sig")


def parse_json(data: bytes | str, kind: type[T], *, nan: bool = False) -> T:
    """Return JSON data of a type; within :func:`reading`.

    Args:
        data: The text.
        kind: The type.
        nan: Whether NaN may stand in it, as Python writes it against the standard.

    Raises:
        ValueError: Not JSON, or not of the type; the message says where.
    """
    if nan:
        return convert(json.loads(data), kind)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        given = _UNKNOWN
        if len(data) < _EXPLAINED:
            with suppress(msgspec.MsgspecError, RecursionError):  # then it is known where, but not what
                given = msgspec.json.decode(data)
        raise ValueError(_explained(str(error), given)) from error
    except msgspec.DecodeError as error:
        raise ValueError(f"not JSON: {error}") from error


def convert(data: object, kind: type[T], *, text: bool = False) -> T:
    """Return plain data as a type; within :func:`reading`.

    Args:
        data: Plain data: of TOML, of a row, of a database.
        kind: A type, in full: ranges included.
        text: Numbers are given as text.

    Raises:
        ValueError: It is of another type; the message says where.
    """
    try:
        return msgspec.convert(data, kind, strict=not text)
    except msgspec.ValidationError as error:
        raise ValueError(_explained(str(error), data)) from error


def _explained(message: str, data: object) -> str:
    """Return one of msgspec's messages with what was given."""
    text, _, place = message.partition(" - at `$")
    names = place.removesuffix("`").removeprefix(".")
    for key, index in re.findall(r"([^.\[\]]+)|\[([^\]]*)\]", names):
        try:
            data = data[int(index)] if index else data[key]  # type: ignore[index]
        except (TypeError, KeyError, ValueError, LookupError):
            data = _UNKNOWN
    prefix = f"{names}: " if names else ""
    if missing := re.match("Object missing required field `(.*)`", text):
        return f"{prefix}{missing[1]} is needed, and not given"
    expected = re.match(r"Expected (.*?)(?:, got [^,]*)?$", text)
    if text.startswith("Invalid enum value"):
        return f"{prefix}given {text.removeprefix('Invalid enum value ')}, which is none of the allowed values"
    if expected is None or data is _UNKNOWN:
        return prefix + text[:1].lower() + text[1:]
    allowed = expected[1].replace(f"`float` >= -{sys.float_info.max}", "a finite number").replace("`", "")
    allowed = "a finite number" if str(sys.float_info.max) in allowed else allowed
    # What is given may be an object of objects without end.
    allowed = _WORDS.get(allowed, allowed)
    shown = repr(data) if isinstance(data, str | int | float | bool | list | tuple | None) else type(data).__name__
    return f"{prefix}given {shown}; allowed: {allowed}"


class _Head(Struct):
    format: Any = None
    version: Any = None


def read_json(path: str | PathLike[str], kind: type[T], *, format_name: str, version: int) -> T:
    """Read one of our JSON files.

    Args:
        path: The file.
        kind: What it holds, beside format and version.
        format_name: What its ``"format"`` must be.
        version: What its ``"version"`` must be.

    Raises:
        MissingFileError: No such file.
        FormatError: Not JSON, not of this format, of another version, or not of the type.
    """
    data = read_bytes(path)
    with reading(str(path)):
        head = parse_json(data, _Head)
        if head.format != format_name:
            raise ValueError(f"given format {head.format!r}; allowed: {format_name!r}")
        if head.version is True or head.version != version:
            raise ValueError(f"given version {head.version!r} of {format_name}; allowed: {version}")
    with reading(f"{path}: not {format_name}"):
        return parse_json(data, kind)


def read_toml(path: str | PathLike[str]) -> dict[str, Any]:
    """Read a TOML file; its values are to be given to :func:`convert`.

    Raises:
        MissingFileError: No such file.
        FormatError: Not TOML.
    """
    text = read_text(path)
    with reading(f"{path}: not TOML"):
        return tomllib.loads(text)


def read_csv(
    path: str | PathLike[str], columns: Sequence[str], *, error: type[EvoqError] = FormatError, others: bool = False
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV file, by column, with where they are, for messages; empty lines are left out.

    Args:
        path: The file, in UTF-8.
        columns: The columns it has; their texts are to be given to :func:`convert`.
        error: The class of errors.
        others: Whether the file may have other columns, and these in any order; else it has just these.

    Raises:
        MissingFileError: No such file.
        EvoqError: Not CSV, other columns, or a row of another length.
    """
    reader = csv.reader(io.StringIO(read_text(path, error=error), newline=""), strict=True)
    with reading(f"{path}: not CSV", error, catch=(ValueError, csv.Error)):
        header = [cell.strip() for cell in next(reader, [])]
        missing = not set(columns) <= set(header) if others else header != list(columns)
        if missing:
            more = " (others are ignored)" if others else ""
            raise ValueError(f"given the columns {header}; allowed: {','.join(columns)}{more}")
        order = {name: header.index(name) for name in columns}
        for row in reader:
            if row and len(row) != len(header):
                raise ValueError(f"line {reader.line_num}: given {row}; allowed: {len(header)} columns")
            if row:
                yield f"{path}, line {reader.line_num}", {name: row[k].strip() for name, k in order.items()}


def read_xml(path: str | PathLike[str], error: type[EvoqError]) -> ElementTree.Element:
    """Read an XML file.

    Raises:
        MissingFileError: No such file.
        EvoqError: Not XML, or nested too deeply.
    """
    data = read_bytes(path, error=error)
    depth = 0
    root: ElementTree.Element | None = None
    with reading(f"{path}: not XML", error, catch=(ValueError, ElementTree.ParseError)):
        # Expat refuses entities that expand beyond proportion.
        for event, element in ElementTree.iterparse(io.BytesIO(data), events=("start", "end")):  # noqa: S314
            root = element if root is None else root
            depth += 1 if event == "start" else -1
            if depth > _DEPTH:
                raise ValueError(f"elements nest deeper than {_DEPTH}")
        if root is None:
            raise ValueError("it is empty")
    return root


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What an array of an ``.npz`` file may be.

    Attributes:
        kinds: Letters of numpy's kinds of dtypes: b, u, i, f.
        ndim: Number of dimensions; None for any.
        optional: Whether the file may lack it.
    """

    kinds: str
    ndim: int | None = None
    optional: bool = False


def read_npz(stream: BinaryIO, size: int, layouts: Mapping[str, Layout]) -> dict[str, npt.NDArray[Any]]:
    """Read arrays of an ``.npz`` file; within :func:`reading` that catches any Exception.

    Nothing is unpickled. The sizes that the file claims are compared with each other and with the file's before an
    array is expanded.

    Args:
        stream: The file, open.
        size: Its size (bytes).
        layouts: The arrays to read, by name; others are left alone.

    Raises:
        ValueError: An array is missing, of another kind, or expands beyond all proportion.
        Exception: As zipfile and numpy on damaged files.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    left = FREE + GROWTH * size
    with zipfile.ZipFile(stream) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        for name, layout in layouts.items():
            if name not in names:
                if layout.optional:
                    continue
                raise ValueError(f"given the arrays {names[:20]}; {name!r} is needed")
            info = archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.NameToInfo else name)
            left -= info.file_size
            if left < 0:
                raise ValueError(f"array {name!r} expands to {info.file_size} bytes, from a file of {size}")
            # Other packings are never numpy's, and may ask for gigabytes to unpack a byte.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"array {name!r} is packed by method {info.compress_type}; allowed: stored, deflated")
            with archive.open(info) as member:
                _check_header(name, member, info.file_size, layout)
            with archive.open(info) as member:
                arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    return arrays


def _check_header(name: str, member: Any, size: int, layout: Layout) -> None:
    version = np.lib.format.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"array {name!r} is of npy version {version}; allowed: 1.0, 2.0")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    if dtype.kind not in layout.kinds or layout.ndim not in (None, len(shape)):
        dimensions = "" if layout.ndim is None else f" in {layout.ndim} dimensions"
        raise ValueError(
            f"array {name!r} is {dtype} of shape {shape}; allowed: numbers of kind {'/'.join(layout.kinds)}{dimensions}"
        )
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != size - member.tell():
        raise ValueError(f"array {name!r} says shape {shape} of {dtype} but holds {size - member.tell()} bytes")


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file that another file names, within a folder.

    Raises:
        ValueError: The name leads out of the folder.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"names the file {name!r}; allowed: a path within {folder}")
    return folder / path
