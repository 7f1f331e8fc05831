"""What a callable computes, as a hash: the same in every process, another one whenever the result could be another.

Of functions count source, bytecode, constants, defaults, closure values and the globals they read, in turn; of objects
their class and their attributes; of tensors, arrays and modules their content. What comes with Python or is installed
counts by its name and version. Memory addresses, line numbers and module names of a user's own code do not count.
"""

import copyreg
import dis
import functools
import hashlib
import importlib
import inspect
import pickle
import site
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Mapping
from importlib.util import resolve_name
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evoq_moo.errors import ArgumentError

_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
_FOLDERS = [sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
_LIBRARIES = {Path(folder).resolve() for folder in (*_FOLDERS, *site.getsitepackages(), site.getusersitepackages())}
_NOT_CONTENT = frozenset(
    [
        "__dict__",
        "__weakref__",
        "__doc__",
        "__module__",
        "__annotations__",
        "__annotate_func__",
        "__annotations_cache__",
        "__qualname__",
        "__firstlineno__",
        "__static_attributes__",
        "__orig_bases__",
        "__parameters__",
        "__slots__",
        "_abc_impl",
        "__dataclass_fields__",
        "__dataclass_params__",
    ]
)
"""What a class holds that changes nothing it computes, or says again what its methods say."""


def identity_of(function: Callable[..., object]) -> str:
    """Return the SHA-256, in hexadecimal, of what a callable computes.

    Raises:
        ArgumentError: Part of it can't be told apart from others; the message names it and advises a name.
    """
    try:
        return _Hasher().digest(function).hex()
    except _UnknownContentError as error:
        name = getattr(function, "__qualname__", type(function).__qualname__)
        raise ArgumentError(
            f"difference: given {name}, which can't be told from others like it: {error}; allowed: what is made of "
            "functions with source and plain data, or Difference(function, name='...') with a name of your own, "
            "another one whenever it computes something else"
        ) from error


class _UnknownContentError(Exception):
    """Something has content that can't be read."""


def _top(module: str | None) -> str:
    return (module or "").partition(".")[0]


@functools.cache
def _is_library(module: str | None) -> bool:
    """Return whether a module comes with Python or is installed, so that name and version say what it does."""
    if _top(module) in {"__main__", "__mp_main__"}:  # a script, whatever runs it
        return False
    if _top(module) in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(_top(module)), "__file__", None)
    return file is not None and any(folder in Path(file).resolve().parents for folder in _LIBRARIES)


def _known(module: str, name: str) -> str:
    """Return what says everything of a part of a library."""
    python = sys.version_info[:2] if _top(module) in sys.stdlib_module_names else ""
    return f"{module}.{name} {getattr(sys.modules.get(_top(module)), '__version__', python)}"


class _Hasher:
    def __init__(self) -> None:
        self._done: dict[tuple[int, frozenset[str]], bytes] = {}
        self._running: list[int] = []
        self._kept: list[object] = []  # keeps ids unique
        self._classes = 0  # how many classes are being read

    def digest(self, value: object, names: frozenset[str] = frozenset()) -> bytes:
        """Return the hash of a value.

        Args:
            value: Anything.
            names: Of a module: the attributes that are read.
        """
        if isinstance(value, _ATOMS) and type(value) in _ATOMS:
            return _sha("atom", type(value).__name__, repr(value))
        key = (id(value), names)
        if key in self._done:
            return self._done[key]
        if id(value) in self._running:  # a cycle: where it leads back to
            return _sha("cycle", str(len(self._running) - self._running.index(id(value))))
        self._kept.append(value)
        self._running.append(id(value))
        try:
            own = self._module(value, names) if isinstance(value, types.ModuleType) else self._content(value)
        except RecursionError:
            raise _UnknownContentError(f"a {type(value).__qualname__} is nested too deeply") from None
        finally:
            self._running.pop()
        self._done[key] = own
        return own

    def _each(self, kind: str, values: Iterable[object]) -> bytes:
        return _sha(kind, *[self.digest(value) for value in values])

    def _pairs(self, kind: str, items: Mapping[str, object]) -> bytes:
        """Return the hash of named values, whatever their order."""
        return self._each(kind, [part for key in sorted(items) for part in (key, items[key])])

    @functools.singledispatchmethod
    def _content(self, value: object) -> bytes:
        """Return the hash of anything that has no rule of its own below."""
        if isinstance(value, tuple | list) and type(value) in {tuple, list}:
            return self._each(type(value).__name__, value)
        if isinstance(value, dict) and type(value) is dict:
            return self._each("dict", [part for item in value.items() for part in item])
        if _is_library(type(value).__module__) and hasattr(value, "__wrapped__"):  # what functools.lru_cache gives
            return self._each("wrapped", [type(value), value.__wrapped__])
        return self._reduced(value)

    @_content.register(Tensor)
    def _of_tensor(self, tensor: Tensor) -> bytes:
        return _sha("tensor", self.digest(type(tensor)), *_tensor(tensor))

    @_content.register(np.ndarray)
    def _of_array(self, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
        if array.dtype.hasobject:
            return self._reduced(array)
        content = np.ascontiguousarray(array).tobytes()
        return _sha("array", self.digest(type(array)), repr(array.dtype), repr(array.shape), content)

    @_content.register(set)
    @_content.register(frozenset)
    def _of_set(self, values: set[object] | frozenset[object]) -> bytes:
        """Return the hash of a set, whose order depends on the process."""
        members = sorted(self.digest(member) for member in values)
        return _sha("set", self.digest(type(values)), *members, self._pairs("state", getattr(values, "__dict__", {})))

    @_content.register(property)
    def _of_property(self, value: property) -> bytes:
        return self._each("property", [value.fget])

    @_content.register(functools.cached_property)
    def _of_cached_property(self, value: functools.cached_property[object]) -> bytes:
        return self._each("property", [value.func])

    @_content.register(staticmethod)
    @_content.register(classmethod)
    def _of_method(self, value: "staticmethod[..., object] | classmethod[object, ..., object]") -> bytes:
        return self._each("method", [type(value), value.__func__])

    @_content.register(types.CellType)
    def _of_cell(self, cell: types.CellType) -> bytes:
        try:
            return self._each("cell", [cell.cell_contents])
        except ValueError:
            return _sha("empty cell")

    def _reduced(self, value: object) -> bytes:
        """Return the hash of what would be pickled of an object: its class and its state."""
        name = type(value).__qualname__
        try:
            registered = copyreg.dispatch_table.get(type(value))
            reduced = value.__reduce_ex__(4) if registered is None else registered(value)
        except Exception as error:  # an object may raise anything there
            raise _UnknownContentError(f"the state of a {name} can't be read ({error})") from error
        if isinstance(reduced, str):
            module = pickle.whichmodule(value, reduced)  # type: ignore[attr-defined]
            try:
                same = attrgetter(reduced)(sys.modules[module]) is value
            except (AttributeError, KeyError):
                same = False
            if not same or not _is_library(module):
                raise _UnknownContentError(f"a {name} {reduced!r} does not show what it is made of")
            return _sha("global", _known(module, reduced))
        make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        if isinstance(state, dict) and all(isinstance(key, str) for key in state):
            told = self._pairs("state", state)
        else:
            told = self.digest(state)
        rest = [list(part) if part is not None else None for part in (items, pairs)]
        return _sha("object", self._each("made", [type(value), make, arguments, *rest]), told)

    @_content.register(types.FunctionType)
    def _of_function(self, function: types.FunctionType) -> bytes:
        library = _is_library(function.__module__)
        try:
            source = inspect.getsource(function)
        except (OSError, TypeError) as error:
            if not library and not self._classes:  # decorators of classes generate methods that have none
                raise _UnknownContentError(f"the source of function {function.__qualname__!r} can't be read") from error
            source = ""
        return _sha(
            "function",
            source,
            self._of_code(function.__code__),
            self.digest(function.__defaults__),
            self.digest(function.__kwdefaults__),
            self._each("closure", function.__closure__ or ()),
            self._pairs("attributes", function.__dict__),
            _known(function.__module__, function.__qualname__) if library else self._globals(function),
        )

    @_content.register(types.CodeType)
    def _of_code(self, code: types.CodeType) -> bytes:
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        return _sha("code", repr(counts), repr(names), code.co_code, self._each("constants", code.co_consts))

    def _globals(self, function: types.FunctionType) -> bytes:
        """Return the hash of the globals that a function reads and of the modules that it imports."""
        known = function.__globals__
        read, loaded, imported = _names_of(function.__code__, str(known.get("__package__") or ""))
        values = {name: known[name] for name in loaded if name in known}
        for name in imported:
            try:
                values[f"import {name}"] = importlib.import_module(name)
            except ImportError:
                continue  # the function would fail there too, or knows what to do without it
        return self._read("globals", values, read)

    def _read(self, kind: str, values: Mapping[str, object], read: frozenset[str]) -> bytes:
        """Return the hash of named values, and of what is read of those that are a user's own modules."""
        parts: list[str | bytes] = []
        for name in sorted(values):
            own = isinstance(values[name], types.ModuleType)
            parts += [name, self.digest(values[name], read if own else frozenset())]
        return _sha(kind, *parts)

    def _module(self, module: types.ModuleType, read: frozenset[str]) -> bytes:
        """Return the hash of a module: of a user's own, what is read of it."""
        if _is_library(module.__name__):
            return _sha("module", _known(module.__name__, ""))
        return self._read("module", {name: vars(module)[name] for name in read if name in vars(module)}, read)

    @_content.register(type)
    def _of_class(self, kind: type) -> bytes:
        if _is_library(kind.__module__) and "<locals>" not in kind.__qualname__:
            return _sha("class", _known(kind.__module__, kind.__qualname__))
        slots = types.MemberDescriptorType | types.GetSetDescriptorType
        members = {
            name: value
            for name, value in vars(kind).items()
            if name not in _NOT_CONTENT and not isinstance(value, slots)
        }
        self._classes += 1
        try:
            return _sha(
                "class", kind.__qualname__, self._each("bases", kind.__bases__), self._pairs("members", members)
            )
        finally:
            self._classes -= 1


def _names_of(code: types.CodeType, package: str) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Return the names that a function and the functions in it use.

    Returns:
        All names of globals and attributes, those of globals alone, and the modules that it imports when it runs.
    """
    read, loaded, imported = set(code.co_names), set(), set()
    steps = list(dis.get_instructions(code))
    for i, step in enumerate(steps):
        if step.opname in {"LOAD_GLOBAL", "LOAD_NAME"}:
            loaded.add(str(step.argval))
        elif step.opname == "IMPORT_NAME":
            level = steps[i - 2].argval  # loaded before the names that are asked for
            imported.add(resolve_name("." * level + str(step.argval), package))
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            inner = _names_of(const, package)
            read, loaded, imported = read | inner[0], loaded | inner[1], imported | inner[2]
    return frozenset(read), frozenset(loaded), frozenset(imported)


def _tensor(tensor: Tensor) -> tuple[str, bytes]:
    """Return the dtype and shape, and the values of a tensor as bytes."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        raise _UnknownContentError(f"a tensor of layout {tensor.layout} on {tensor.device} has no plain content")
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return f"{tensor.dtype} {tuple(tensor.shape)}", plain.view(torch.uint8).numpy().tobytes()


def _sha(*parts: str | bytes) -> bytes:
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "little"))
        sha.update(data)
    return sha.digest()
