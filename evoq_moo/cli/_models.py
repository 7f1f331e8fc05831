"""The command `evoq models`."""

from collections.abc import Callable
from functools import cache
from typing import Annotated

import typer
from rich.table import Table

from evoq_moo import zoo
from evoq_moo.cli._console import console
from evoq_moo.cli._tables import Csv, Json, TableForm, emit
from evoq_moo.errors import MissingPackageError


def models_command(
    name: Annotated[str, typer.Argument(help="Show everything that is known of one network.")] = "",
    *,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """List the networks that are known by name, with their costs at their input size, or show one of them."""
    form = TableForm.of(as_json, as_csv)
    if name:
        emit(_details(zoo.entry(name)), form)
        return
    # What a narrow terminal has no room for is in the files' forms, and in `evoq models NAME`.
    wide = form is not TableForm.TEXT or console.width >= WIDE
    table = Table()
    for column, _ in COLUMNS:
        if wide or column in NARROW:
            table.add_column(column, overflow="fold", no_wrap=column == "name")
    for known in zoo.names():
        entry = zoo.entry(known)
        figures = dict(zip(("GMACs", "10^6 parameters", "genes"), _figures(entry.name), strict=True))
        cells = {column: figures[column] if of is None else of(entry) for column, of in COLUMNS}
        table.add_row(*(cell for column, cell in cells.items() if wide or column in NARROW))
    emit(table, form)


def _size(entry: zoo.ZooEntry) -> str:
    return "x".join(str(side) for side in entry.input_size)


@cache
def _figures(name: str) -> tuple[str, str, str]:
    try:
        found = zoo.figures_of(zoo.entry(name))
    except MissingPackageError:
        return "-", "-", "-"
    return f"{found.macs / 1e9:.3g}", f"{found.parameters / 1e6:.3g}", str(found.genes)


def _weights(entry: zoo.ZooEntry) -> str:
    if entry.extra is not None:
        return f"in extra {entry.extra}"
    if entry.own_weights is not None:
        return "embedded"
    return ", ".join(n for n in zoo.published_weights(entry) if n != "DEFAULT") or "give a file"


def _details(entry: zoo.ZooEntry) -> Table:
    table = Table("what", "value", show_header=False)
    preprocess = ", ".join(f"{key} {value}" for key, value in entry.preprocess.to_json().items())
    macs, parameters, genes = _figures(entry.name)
    rows = [
        ("name", entry.name),
        ("task", entry.task),
        ("dataset", entry.dataset),
        ("classes", f"{entry.classes}{', background counted' if entry.make_decoder is not None else ''}"),
        ("input", _size(entry)),
        ("preprocess", preprocess),
        ("GMACs", macs),
        ("10^6 parameters", parameters),
        ("genes", genes),
        ("licence of the code", entry.licence),
        ("source", entry.source),
    ]
    for published in zoo.published_weights(entry).values():
        digest = f"SHA-256 starts with {published.digest}" if published.digest else "no published checksum"
        here = "it is there" if published.path.is_file() else "not there"
        rows.append((f"weights {published.name}", f"{published.url} ({digest}), belongs at {published.path}: {here}"))
    for known in entry.checkpoints:
        if known.sha256 is not None:
            rows.append(("recognised weights", f"{known.source}; {known.licence}; SHA-256 {known.sha256}"))
        else:
            rows.append(("licence of the weights", known.licence))
    for row in rows:
        table.add_row(*row)
    return table


COLUMNS: tuple[tuple[str, Callable[[zoo.ZooEntry], str] | None], ...] = (
    ("name", lambda entry: entry.name),
    ("task", lambda entry: entry.task),
    ("dataset", lambda entry: entry.dataset),
    ("input", _size),
    ("classes", lambda entry: str(entry.classes)),
    ("GMACs", None),
    ("10^6 parameters", None),
    ("genes", None),
    ("weights", _weights),
)
"""Headings, and what they show; None for figures that are computed together."""
NARROW = {"name", "input", "GMACs", "genes", "weights"}
WIDE = 120
"""Columns of a terminal that has room for all."""
