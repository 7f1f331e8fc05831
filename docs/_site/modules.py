"""The library's public modules and names, read from its source without importing it."""

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "evoq_moo"


@dataclass(frozen=True)
class Module:
    """A public module.

    Attributes:
        name: Dotted name.
        summary: First line of its docstring.
        names: Its `__all__`; without one, what it defines itself, private names left out.
    """

    name: str
    summary: str
    names: tuple[str, ...]


def module_files() -> dict[str, Path]:
    """Return every module of the library by dotted name, private ones too; packages by their ``__init__.py``."""
    files: dict[str, Path] = {}

    def visit(folder: Path, name: str) -> None:
        files[name] = folder / "__init__.py"
        for path in sorted(folder.iterdir()):
            if path.is_dir() and (path / "__init__.py").exists():
                visit(path, f"{name}.{path.name}")
            elif path.suffix == ".py" and path.name != "__init__.py":
                files[f"{name}.{path.stem}"] = path

    visit(ROOT / PACKAGE, PACKAGE)
    return files


def _all_of(tree: ast.Module) -> tuple[str, ...] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return tuple(ast.literal_eval(node.value))
    return None


def _defined(tree: ast.Module) -> tuple[str, ...]:
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return tuple(name for name in names if not name.startswith("_"))


def public_modules() -> list[Module]:
    """Return the public modules in order of name; the command line is documented by its own ``--help``.

    Modules inside packages that say in `__all__` what is public are left out, and so are those at the top whose every
    class and function is re-exported by `evoq_moo` itself.
    """
    files = module_files()
    trees = {name: ast.parse(path.read_text()) for name, path in files.items()}
    top = set(_all_of(trees[PACKAGE]) or ())
    found = []
    for name, tree in trees.items():
        parts = name.split(".")
        if any(part.startswith("_") for part in parts) or parts[1:2] == ["cli"] or len(parts) > 2:
            continue
        names = _all_of(tree)
        if names is None:
            names = tuple(n for n in _defined(tree) if n not in top)
            if all(n.isupper() for n in names):
                continue
        found.append(Module(name, (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " "), names))
    return found


def public_names() -> dict[str, str]:
    """Return for each public name the dotted name it is documented under."""
    names: dict[str, str] = {}
    for module in reversed(public_modules()):
        names |= {name: f"{module.name}.{name}" for name in module.names}
        names[module.name] = module.name
    return names
