"""Builds the site, strictly, and checks that it holds what it should."""

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import evoq_moo

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_site"))
import choices  # noqa: E402
import modules  # noqa: E402

pytest.importorskip("mkdocs", reason="the documentation's tools are not installed: pip install 'evoq-moo[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def documented(site):
    """Names that the site's inventory says are documented."""
    data = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split(" ")[0] for line in zlib.decompress(data).decode().splitlines()}


def packages():
    """Public packages that say in `__all__` what is public; those of the command line aside."""
    names = [
        "evoq_moo",
        *(f"evoq_moo.{found.name}" for found in pkgutil.iter_modules(evoq_moo.__path__) if found.ispkg),
    ]
    return [name for name in names if name != "evoq_moo.cli" and not name.split(".")[-1].startswith("_")]


@pytest.mark.parametrize("package", packages())
def test_every_public_name_is_in_the_reference(package, documented):
    module = importlib.import_module(package)
    public = {f"{package}.{name}" for name in module.__all__ if not inspect.ismodule(getattr(module, name))}
    assert public <= documented


def test_every_public_module_has_a_page(site):
    for module in modules.public_modules():
        assert (site / "reference" / f"{module.name}.html").is_file()


def test_no_page_needs_the_network(site):
    """Links may lead elsewhere; scripts, styles, fonts and pictures may not."""
    loaded = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=\"(https?:|//)")
    for page in site.rglob("*.html"):
        assert not loaded.search(page.read_text()), page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:|//)", style.read_text()), style


def test_roles_of_docstrings_do_not_show(site):
    """Regression: `:class:` and the like of our docstrings showed as text."""
    for page in site.rglob("*.html"):
        assert not re.search(r":(?:class|func|meth|data|mod):(?:<code>|`)", page.read_text()), page


def test_every_notebook_is_a_page_of_the_tutorial(site):
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert (site / "tutorial" / f"{notebook.stem}.html").is_file()


def test_choices_are_those_marked_in_docstrings_and_comments(tmp_path, monkeypatch):
    path = tmp_path / "module.py"
    path.write_text(
        '"""Module. Our choice: this.\n\nNot this paragraph.\n"""\n'
        "# Our choice: a comment\n# on two lines.\n\n# not this one\n"
        'LIMIT = 3\n"""Our choice: three."""\n\n'
        'def f(x):\n    """Do it.\n\n    - One thing (our choice).\n    - Another.\n\n'
        '    See :func:`~a.b`; the rest is ours.\n    """\n'
    )
    monkeypatch.setattr(choices, "module_files", lambda: {"m": path})
    assert choices.marked_choices() == {
        "m": [
            ("", "Module. Our choice: this."),
            ("LIMIT", "Our choice: three."),
            ("f", "One thing (our choice)."),
            ("f", "See `a.b`; the rest is ours."),
            ("", "Our choice: a comment on two lines."),
        ]
    }


def test_the_page_of_choices_lists_those_of_the_code(site):
    text = (site / "choices.html").read_text()
    assert "SensitivityGuidedMutation" in text
    for module in choices.marked_choices():
        assert f"{module}<" in text, module
