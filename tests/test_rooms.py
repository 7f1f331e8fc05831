"""The rooms of the house: what import-linter's contracts in pyproject.toml leave to say."""

from importlib import import_module
from pathlib import Path

import pytest

import evoq_moo

grimp = pytest.importorskip("grimp")

ROOT = Path(evoq_moo.__file__).parent


def room_of(module: str) -> str:
    return module.split(".")[1]


def shown(module: str) -> bool:
    """Tell whether a door gives a whole file as a name of its own, like `evoq_moo.images.class_names`."""
    door, _, name = module.rpartition(".")
    return name in import_module(door).__all__


def test_only_doors_are_imported_from_outside():
    """A room's files are its own: others import what its `__init__` names."""
    graph = grimp.build_graph("evoq_moo", cache_dir=None)
    inside = [m for m in graph.modules if m.count(".") > 1 and not shown(m)]
    broken = [
        f"{importer} imports {module}"
        for module in inside
        for importer in graph.find_modules_that_directly_import(module)
        if "." in importer and room_of(importer) != room_of(module)
    ]
    assert graph.count_imports() > 500
    assert broken == []


def test_the_root_holds_what_everybody_uses_and_nothing_else():
    assert len(list(ROOT.glob("*.py"))) <= 8


def test_every_room_is_a_package_that_is_installed():
    """A room that `pyproject.toml` does not list would be missing in the wheel."""
    text = (ROOT.parent / "pyproject.toml").read_text()
    rooms = [p.relative_to(ROOT.parent) for p in ROOT.rglob("__init__.py")]
    missing = [".".join(p.parent.parts) for p in rooms if f'"{".".join(p.parent.parts)}"' not in text]
    assert missing == []
