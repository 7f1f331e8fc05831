"""Bit-widths as a plain table, CSV or JSON, for toolkits that quantize by themselves."""

import csv
import io
import json
from pathlib import Path

from evoq_moo._files import read_json, write_atomically
from evoq_moo.errors import ArgumentError, EvoqError, FormatError, MissingFileError
from evoq_moo.space import Policy

FORMAT = "evoq-moo/bits"
COLUMNS = ("layer", "weight_bits", "activation_bits")


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
    if not path.is_file():
        raise MissingFileError(f"no such file: {path}")
    try:
        if path.suffix == ".json":
            layers = read_json(path, format_name=FORMAT, version=1)["layers"]
            rows = [[row[column] for column in COLUMNS] for row in layers]
        else:
            rows = [row for row in csv.reader(io.StringIO(path.read_bytes().decode()), strict=True) if row]
            if tuple(rows[:1] and rows[0]) != COLUMNS:
                raise FormatError(f"{path}: given columns {rows[:1]}; allowed: {','.join(COLUMNS)}")
            rows = rows[1:]
        names, weights, activations = zip(*rows, strict=True) if rows else ((), (), ())
        if len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
            raise FormatError(f"{path}: names layers twice, or by what is not text")
        return Policy(tuple(names), tuple(int(b) for b in weights), tuple(int(b) for b in activations))
    except (FormatError, MissingFileError):
        raise
    except (EvoqError, KeyError, TypeError, ValueError, csv.Error, OverflowError) as error:
        raise FormatError(f"{path}: not a table of bit-widths: {error}") from error
