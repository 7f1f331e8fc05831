"""Pages of the tutorial: the notebooks with the outputs they were committed with; nothing is executed."""

from pathlib import Path
from typing import Any

import nbformat
from modules import ROOT
from nbconvert import MarkdownExporter

NOTEBOOKS = ROOT / "notebooks"


def notebooks() -> list[Path]:
    """Return the notebooks in order."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def title(path: Path) -> str:
    """Return the first heading of a notebook.

    Raises:
        ValueError: Its first cell is not Markdown that begins with a heading.
    """
    first = nbformat.read(path, as_version=4).cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        raise ValueError(f"{path}: its first cell does not begin with a heading (# ...)")
    return str(first.source.split("\n")[0].removeprefix("# "))


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and the pictures it shows by file name (relative to the page)."""
    exporter = MarkdownExporter()
    resources: dict[str, Any] = {"output_files_dir": path.stem, "unique_key": path.stem}
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        # What goes to stderr (progress, logs) is of the run, not of the lesson.
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
    body, resources = exporter.from_notebook_node(notebook, resources=resources)
    note = f"*This page is the notebook `notebooks/{path.name}` as it was last executed.*"
    head, rest = body.strip().split("\n", 1)
    return f"{head}\n\n{note}\n{rest}\n", dict(resources.get("outputs", {}))
