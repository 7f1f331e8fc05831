"""Bit-widths as a plain table, CSV or JSON, for toolkits that quantize by themselves."""

import csv
import io
import json
from pathlib import Path

from msgspec import Struct

from evoq_moo.errors import ArgumentError, FormatError
from evoq_moo.files import BitWidth, Text, convert, read_csv, read_json, reading, write_atomically
from evoq_moo.space import Policy

FORMAT = "evoq-moo/bits"
COLUMNS = ("layer", "weight_bits", "activation_bits")


class _Row(Struct):
    layer: Text
    weight_bits: BitWidth
    activation_bits: BitWidth


class _Table(Struct):
    layers: list[_Row]


def write_bits(policy: Policy, path: str | Path) -> None:
    """Write a policy as a table: `.csv` with the columns `layer,weight_bits,activation_bits`, or `.json`.

    Layers are dotted module names of the float network; `activation_bits` are those of the layer's *input*.

    Raises:
        ArgumentError: The name ends in something else.
    """
    path = Path(path)
    rows = list(zip(policy.layers, policy.weight_bits, policy.activation_bits, strict=True))
    if path.suffix == ".csv":
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([COLUMNS, *rows])
        text = buffer.getvalue()
    elif path.suffix == ".json":
        layers = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        text = json.dumps({"format": FORMAT, "version": 1, "layers": layers}, indent=1) + "\n"
    else:
        raise ArgumentError(f"path: given {str(path)!r}; allowed: a name ending in .csv or .json")
    write_atomically(path, text.encode())


def read_bits(path: str | Path) -> Policy:
    """Read what :func:`write_bits` wrote.

    Raises:
        MissingFileError: No such file.
        FormatError: Not such a table.
    """
    path = Path(path)
    rows: list[_Row] = []
    if path.suffix == ".json":
        rows = read_json(path, _Table, format_name=FORMAT, version=1).layers
    else:
        for where, row in read_csv(path, COLUMNS):
            with reading(where):
                rows.append(convert(row, _Row, text=True))
    names = tuple(row.layer for row in rows)
    if len(set(names)) != len(names):
        raise FormatError(f"{path}: names a layer twice")
    with reading(f"{path}: not a table of bit-widths"):
        return Policy(names, tuple(row.weight_bits for row in rows), tuple(row.activation_bits for row in rows))
