"""Versions that results depend on."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("evoq-moo", "torch", "pymoo", "moocore", "numpy")


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    return {"Python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "not installed"
