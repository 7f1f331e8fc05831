"""Tables of the command line: for readers, or as JSON or CSV for programs."""

import csv
import io
import json
from enum import Enum
from typing import Annotated

import typer
from rich.table import Table

from evoq_moo.cli._console import console
from evoq_moo.errors import ArgumentError

Json = Annotated[bool, typer.Option("--json", help="Print the table as JSON, and all else on stderr.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print the table as CSV, and all else on stderr.")]
Value = str | int | float | None


class TableForm(Enum):
    """How a table is printed."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"

    @classmethod
    def of(cls, as_json: bool, as_csv: bool) -> "TableForm":
        """Return what two options ask for; stdout is then the table's alone.

        Raises:
            ArgumentError: Both are given.
        """
        if as_json and as_csv:
            raise ArgumentError("json, csv: given both; allowed: one of them")
        form = cls.JSON if as_json else cls.CSV if as_csv else cls.TEXT
        console.stderr = form is not cls.TEXT
        return form


def emit(table: Table, form: TableForm) -> None:
    """Print a table; numbers in it are numbers in JSON, and a cell without a value is null, in CSV empty."""
    if form is TableForm.TEXT:
        console.print(table)
        return
    names = [str(column.header) for column in table.columns]
    cells = [[_value(str(cell)) for cell in column.cells] for column in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]
    if form is TableForm.JSON:
        typer.echo(json.dumps(rows, indent=1))
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    typer.echo(text.getvalue(), nl=False)


def _value(cell: str) -> Value:
    """Return what a cell says."""
    text = cell.removesuffix(" *")  # of a calibrated network, says the table's caption
    if text in {"", "-"}:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
