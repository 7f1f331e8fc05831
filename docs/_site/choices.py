"""Collects what docstrings and comments mark as our choice, for the page of that name."""

import ast
import inspect
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from modules import module_files

MARK = re.compile(r"\bour (?:own )?choices?\b|\b(?:is|are) ours\b", re.IGNORECASE)
ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")


def plain(text: str) -> str:
    """Return a docstring's text with its roles (:class:`X`) as plain code."""
    return ROLE.sub(r"`\1`", text)


def _paragraphs(docstring: str) -> Iterator[str]:
    """Give the paragraphs and entries of lists and of sections of a docstring, each on one line."""
    paragraph: list[str] = []
    indent = 0
    for line in [*inspect.cleandoc(docstring).split("\n"), ""]:
        text = line.strip()
        depth = len(line) - len(line.lstrip())
        entry = text.startswith(("- ", "* ")) or (depth >= 4 and depth <= indent and bool(re.match(r"\w+: ", text)))
        if paragraph and (not text or entry):
            yield " ".join(paragraph)
            paragraph = []
        if text:
            if not paragraph:
                indent = depth
            paragraph.append(text.removeprefix("- ").removeprefix("* "))


def _owned(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Give every docstring of a module with the name of what it describes; the module's own with an empty one."""

    def visit(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield name, docstring
            previous: ast.stmt | None = None
            for child in node.body:
                if isinstance(child, ast.ClassDef | ast.FunctionDef):
                    yield from visit(child, f"{name}.{child.name}".lstrip("."))
                elif isinstance(child, ast.Expr) and isinstance(previous, ast.Assign | ast.AnnAssign):
                    target = previous.targets[0] if isinstance(previous, ast.Assign) else previous.target
                    if isinstance(child.value, ast.Constant) and isinstance(child.value.value, str):
                        yield ast.unparse(target), child.value.value
                previous = child

    yield from visit(tree, "")


def _comments(path: Path) -> Iterator[str]:
    """Give the comments of a file, neighbouring lines as one."""
    block: list[str] = []
    last = -1
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                if block and token.start[0] != last + 1:
                    yield " ".join(block)
                    block = []
                block.append(token.string.lstrip("# "))
                last = token.start[0]
    if block:
        yield " ".join(block)


def marked_choices() -> dict[str, list[tuple[str, str]]]:
    """Return for each module (that has any) its marked choices: (what it is about, the text)."""
    found: dict[str, list[tuple[str, str]]] = {}
    for module, path in module_files().items():
        texts = [
            (name, paragraph)
            for name, docstring in _owned(ast.parse(path.read_text()))
            for paragraph in _paragraphs(docstring)
        ]
        texts += [("", comment) for comment in _comments(path)]
        marked = [(name, plain(text)) for name, text in texts if MARK.search(text)]
        if marked:
            found[module] = marked
    return found


def choices_section() -> str:
    """Return the choices as Markdown, a heading for each module."""
    lines: list[str] = []
    for module, entries in marked_choices().items():
        lines += [f"### {module}", ""]
        lines += [f"- **`{name}`**: {text}" if name else f"- {text}" for name, text in entries]
        lines.append("")
    return "\n".join(lines)
