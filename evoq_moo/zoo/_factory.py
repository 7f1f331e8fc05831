"""A user's own network, named as ``package.module:factory``."""

import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import nn

from evoq_moo.errors import ArgumentError, nearest
from evoq_moo.images import Preprocess


def import_function(factory: str) -> Callable[..., Any]:
    """Import a function of the user's.

    The working directory is on the import path meanwhile, as with ``python -m``. A name that was read from a file needs
    consent first: see `evoq_moo.files.trust`.

    Args:
        factory: ``"package.module:function"``; of timm e.g. ``"timm.models.resnet:resnet26d"`` (random weights; for
            others, a function of your own that calls `timm.create_model`).

    Raises:
        ArgumentError: Not of this form, or the module or function isn't there or fails.
    """
    module_name, colon, attribute = factory.partition(":") if isinstance(factory, str) else ("", "", "")
    if not colon or not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise ArgumentError(f"factory: given {factory!r}; allowed: 'package.module:function'")
    with _working_directory_importable():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
                raise ArgumentError(
                    f"factory: no module {error.name!r} (of {factory!r}) on the import path or in {os.getcwd()}"
                ) from error
            raise ArgumentError(f"factory: importing {module_name} needs the missing module {error.name!r}") from error
        # The module is the user's code: it may raise anything, also what would end this process.
        except BaseException as error:
            raise ArgumentError(f"factory: importing {module_name} failed: {type(error).__name__}: {error}") from error
        try:
            function: Callable[..., Any] = getattr(module, attribute)
        except AttributeError as error:
            public = [name for name in vars(module) if not name.startswith("_")]
            raise ArgumentError(f"factory: {module_name} has no {attribute!r}; {nearest(attribute, public)}") from error
        except BaseException as error:
            raise ArgumentError(f"factory: {factory}: {type(error).__name__}: {error}") from error
        if not callable(function):
            raise ArgumentError(f"factory: {factory} is a {type(function).__name__}; allowed: a function")
    return function


def load_factory(factory: str) -> nn.Module:
    """Import and call a function without arguments that makes a network.

    The working directory is on the import path meanwhile, as with ``python -m``.

    Args:
        factory: ``"package.module:function"``.

    Returns:
        The network, in evaluation mode.

    Raises:
        ArgumentError: Not of this form, the module or function isn't there or fails, or what it makes isn't a network.
    """
    network = call_function(factory)
    if not isinstance(network, nn.Module):
        raise ArgumentError(f"factory: {factory}() made a {type(network).__name__}; allowed: a torch.nn.Module")
    return network.eval()


def call_function(factory: str, *arguments: object) -> Any:
    """Import a function of the user's and return what it returns; whatever it raises becomes an error of ours.

    Args:
        factory: ``"package.module:function"``.
        *arguments: What it is called with.

    Raises:
        ArgumentError: The module or function isn't there or fails, be it by SystemExit or KeyboardInterrupt.
    """
    function = import_function(factory)
    with _working_directory_importable():
        try:
            return function(*arguments)
        except BaseException as error:
            raise ArgumentError(f"factory: {factory}() failed: {type(error).__name__}: {error}") from error


def known_preprocess(network: nn.Module) -> Preprocess | None:
    """Return the preprocessing that a network says of itself, None where it says none.

    Its attribute `preprocess`, or timm's `pretrained_cfg`: input size, crop share, mean and standard deviation; always
    with bilinear interpolation, where timm's evaluation may use another.
    """
    own = getattr(network, "preprocess", None)
    if isinstance(own, Preprocess):
        return own
    config = getattr(network, "pretrained_cfg", None)
    try:
        channels, side, _ = config["input_size"]  # type: ignore[index]
        resize = max(side, math.floor(side / config["crop_pct"]))  # type: ignore[index]
        return Preprocess(crop=side, resize=resize, mean=config["mean"], std=config["std"], channels=channels)  # type: ignore[index]
    except (TypeError, KeyError, ValueError, ZeroDivisionError):
        return None


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(here)
