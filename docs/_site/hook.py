"""MkDocs hook: adds what the site shows of other files, so that it can't go stale.

The tutorial comes from the notebooks, the reference from the public modules, and the list of our choices from the
docstrings.
"""

from typing import Any

from choices import choices_section, plain
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from modules import PACKAGE, public_modules
from tutorial import notebooks, page, title

PLACE_OF_CHOICES = "<!-- choices -->"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation."""
    generated: dict[str, list[Any]] = {
        "Tutorial": [{title(path): f"tutorial/{path.stem}.md"} for path in notebooks()],
        "Reference": ["reference/index.md", *({m.name: f"reference/{m.name}.md"} for m in public_modules())],
    }
    nav: list[Any] = []
    for entry in config.nav or ():
        (name,) = entry
        if name not in generated:
            nav.append(entry)
        elif generated[name]:
            nav.append({name: generated[name]})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the notebooks' pictures."""
    modules = public_modules()
    for module in modules:
        files.append(
            File.generated(config, f"reference/{module.name}.md", content=_reference(module.name, module.names))
        )
    index = ["# Reference", "", "| module | what it is |", "|---|---|"]
    index += [f"| [`{m.name}`]({m.name}.md) | {plain(m.summary)} |" for m in modules]
    files.append(File.generated(config, "reference/index.md", content="\n".join(index)))
    for path in notebooks():
        body, pictures = page(path)
        files.append(File.generated(config, f"tutorial/{path.stem}.md", content=body))
        for name, content in pictures.items():
            files.append(File.generated(config, f"tutorial/{name}", content=content))
    return files


def _reference(module: str, names: tuple[str, ...]) -> str:
    members = [name for name in names if (module, name) != (PACKAGE, "zoo")]  # a module with a page of its own
    lines = [
        f"# {module}",
        "",
        f"::: {module}",
        "    options:",
        "      heading_level: 1",
        "      show_root_heading: false",
    ]
    lines += ["      show_root_toc_entry: false", "      members:", *(f"        - {name}" for name in members)]
    return "\n".join(lines) + "\n"


def on_page_markdown(markdown: str, **_kwargs: Any) -> str:
    """Fill in the list of our choices."""
    if PLACE_OF_CHOICES not in markdown:
        return markdown
    return markdown.replace(PLACE_OF_CHOICES, choices_section())
