"""Runs the Python blocks of the documentation that are marked with `<!-- run -->`."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from evoq_moo.costs import _cost

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [DOCS / "index.md", *sorted((DOCS / "how-to").glob("*.md"))]
RUN = re.compile(r"^<!-- run -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, pattern: re.Pattern[str]) -> list[str]:
    """Blocks of code, each behind as many empty lines as put its lines where they are on the page."""
    text = page.read_text()
    return ["\n" * text.count("\n", 0, found.start(1)) + found[1] for found in pattern.finditer(text)]


RUNNABLE = [page for page in PAGES if blocks(page, RUN)]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A page may register a cost of its own.
    monkeypatch.setattr(_cost, "_REGISTRY", dict(_cost._REGISTRY))
    module = ModuleType("documentation_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # so that what a page defines can be pickled
    for code in blocks(page, RUN):
        exec(compile(code, str(page), "exec"), module.__dict__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_python(page):
    for code in blocks(page, PYTHON):
        compile(code, str(page), "exec")


def test_every_mark_is_above_a_block():
    for page in PAGES:
        assert page.read_text().count("<!-- run -->") == len(blocks(page, RUN)), page


def test_every_how_to_page_runs_something():
    overview = DOCS / "how-to" / "index.md"
    assert [page for page in PAGES if page not in RUNNABLE] == [overview]
