"""The command `evoq models`."""

from typing import Annotated

import typer
from rich.table import Table

from evoq_moo import zoo
from evoq_moo.cli._console import console
from evoq_moo.errors import MissingPackageError


def models_command(
    name: Annotated[str, typer.Argument(help="Show everything that is known of one network.")] = "",
) -> None:
    """List the networks that are known by name, with their costs at their input size, or show one of them."""
    if name:
        console.print(_details(zoo.entry(name)))
        return
    table = Table()
    for column in ("name", "task", "dataset", "input", "classes", "GMACs", "10^6 parameters", "genes", "weights"):
        table.add_column(column, overflow="fold")
    for known in zoo.names():
        entry = zoo.entry(known)
        row = (known, entry.task, entry.dataset, _size(entry), str(entry.classes))
        table.add_row(*row, *_figures(entry), _weights(entry))
    console.print(table)


def _size(entry: zoo.ZooEntry) -> str:
    return "x".join(str(side) for side in entry.input_size)


def _figures(entry: zoo.ZooEntry) -> tuple[str, str, str]:
    try:
        found = zoo.figures_of(entry)
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
    table = Table(show_header=False)
    preprocess = ", ".join(f"{key} {value}" for key, value in entry.preprocess.to_json().items())
    macs, parameters, genes = _figures(entry)
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
