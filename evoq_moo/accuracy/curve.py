"""The accuracy curve of a run: what policies reach on labelled images, in one file beside the front."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct
from rich.table import Table

from evoq_moo.costs import CostValues, cost_class, cost_names
from evoq_moo.errors import ArgumentError
from evoq_moo.files import Amount, BitWidth, Few, Text, read_json, reading, write_atomically
from evoq_moo.space import FLOAT_BITS, Policy

FORMAT = "evoq-moo/accuracy"
CURVE_FILE = "accuracy.json"
"""Its name in the folder of a run."""

Fraction = Annotated[float, Meta(ge=0, le=1)]
Kind = Literal["float", "uniform", "front"]
FLOAT: Kind = "float"
UNIFORM: Kind = "uniform"
FRONT: Kind = "front"


@dataclass(frozen=True, kw_only=True)
class MeasuredPolicy(CostValues):
    """What one policy reaches.

    Attributes:
        kind: ``"float"``: the given network; ``"uniform"``: one bit-width everywhere; ``"front"``: of the run's front.
        policy: Its bit-widths; 32 everywhere of the float network.
        accuracy: As a fraction, 0..1.
        costs: For each known cost its value in its unit.
        calibration: Steps of the calibration before it was measured, as `evoq calibrate --steps` takes them; empty
            where there was none.
    """

    kind: Kind
    policy: Policy
    accuracy: float
    calibration: str = ""

    @property
    def name(self) -> str:
        """What it is called in pictures: ``"float"``, or ``"W4A4"`` by the bit-widths that most layers have."""
        if self.kind == FLOAT:
            return self.kind
        weight, activation = (
            max(sorted(set(bits)), key=bits.count) for bits in (self.policy.weight_bits, self.policy.activation_bits)
        )
        return f"W{weight}A{activation}"


@dataclass(frozen=True, kw_only=True)
class AccuracyCurve:
    """Measured accuracies of some policies of one network on one set of images.

    Attributes:
        measure: ``"top-1"`` or ``"mAP"``.
        images: Where the images are from, for readers.
        count: How many there are.
        judged_by: Digest of images, labels and preprocessing.
        network: Fingerprint of the network, its samples and its arithmetic.
        rows: What was measured, in the order in which it was.
    """

    measure: Literal["top-1", "mAP"]
    images: str
    count: int
    judged_by: str
    network: str
    rows: tuple[MeasuredPolicy, ...] = ()

    @property
    def exact(self) -> float | None:
        """The float network's accuracy, if it was measured."""
        return next((row.accuracy for row in self.rows if row.kind == FLOAT), None)

    def of(self, policy: Policy, *, calibration: str | None = None) -> MeasuredPolicy | None:
        """Return what a policy reaches, None where it was not measured.

        Args:
            policy: The policy.
            calibration: After these steps; None for calibrated where it was measured so (the last time), else as it
                is.
        """
        found = [row for row in self.rows if row.policy == policy and calibration in (None, row.calibration)]
        return max(found, key=lambda row: bool(row.calibration), default=None) if found else None

    def added(self, row: MeasuredPolicy) -> "AccuracyCurve":
        """Return the curve with one more policy."""
        return replace(self, rows=(*self.rows, row))

    def table(self) -> Table:
        """Return what was measured as a rich table, the float network first, then by size."""
        costs = [cost_class(name) for name in cost_names() if any(name in row.costs for row in self.rows)]
        table = Table(title=f"{self.measure} on {self.count} images of {self.images}")
        table.add_column("network")
        for heading in (f"{self.measure} (%)", *(f"{cost.name} ({cost.unit})" for cost in costs)):
            table.add_column(heading, justify="right")
        table.add_column("calibration")
        first = costs[0].name if costs else ""
        for row in sorted(self.rows, key=lambda row: (row.kind != FLOAT, row.costs.get(first, 0.0), row.calibration)):
            values = (f"{row.costs[cost.name]:.4g}" if cost.name in row.costs else "" for cost in costs)
            name = row.name if row.kind != FRONT else f"front, mostly {row.name}"
            table.add_row(name, as_percent(row.accuracy), *values, row.calibration)
        return table

    def save(self, path: str | Path) -> None:
        """Write the curve as JSON, whole or not at all."""
        layers = list(self.rows[0].policy.layers) if self.rows else []
        data = {
            "format": FORMAT,
            "version": 1,
            "measure": self.measure,
            "images": self.images,
            "count": self.count,
            "judged_by": self.judged_by,
            "network": self.network,
            "layers": layers,
            "rows": [
                {
                    "kind": row.kind,
                    "weight_bits": list(row.policy.weight_bits),
                    "activation_bits": list(row.policy.activation_bits),
                    "accuracy": row.accuracy,
                    "costs": dict(row.costs),
                    "calibration": row.calibration,
                }
                for row in self.rows
            ],
        }
        write_atomically(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> "AccuracyCurve":
        """Read a curve that :meth:`save` wrote.

        Raises:
            MissingFileError: No such file.
            FormatError: Not a curve, damaged, or of an unknown version.
        """
        data = read_json(path, _CurveData, format_name=FORMAT, version=1)
        with reading(f"{path}: not an accuracy curve"):
            rows = tuple(
                MeasuredPolicy(
                    kind=row.kind,
                    policy=Policy(data.layers, row.weight_bits, row.activation_bits),
                    accuracy=row.accuracy,
                    costs={name: row.costs[name] for name in cost_names() if name in row.costs},
                    calibration=row.calibration,
                )
                for row in data.rows
            )
            return cls(
                measure=data.measure,
                images=data.images,
                count=data.count,
                judged_by=data.judged_by,
                network=data.network,
                rows=rows,
            )


class _RowData(Struct):
    kind: Kind
    weight_bits: tuple[BitWidth, ...]
    activation_bits: tuple[BitWidth, ...]
    accuracy: Fraction
    costs: dict[str, Amount]
    calibration: Text = ""


class _CurveData(Struct):
    measure: Literal["top-1", "mAP"]
    images: Text
    count: Few
    judged_by: Text
    network: Text
    layers: tuple[Text, ...]
    rows: tuple[_RowData, ...]


def read_curve(folder: str | Path) -> AccuracyCurve | None:
    """Return the accuracy curve of a run's folder, None where none was measured.

    Raises:
        FormatError: The file is damaged, or of an unknown version.
    """
    path = Path(folder) / CURVE_FILE
    return AccuracyCurve.load(path) if path.is_file() else None


def float_policy(layers: tuple[str, ...]) -> Policy:
    """Return the policy that quantizes nothing."""
    bits = (max(FLOAT_BITS),) * len(layers)
    return Policy(layers, bits, bits)


def check_same_images(curve: AccuracyCurve, other: AccuracyCurve, path: str | Path) -> None:
    """Raise unless two curves are measured on the same images with the same network.

    Args:
        curve: The one that is kept.
        other: An empty one, of what is to be measured.
        path: The file of the first, for the message.

    Raises:
        ArgumentError: They are not.
    """
    for what, own, new in (
        ("images", curve.judged_by, other.judged_by),
        ("network", curve.network, other.network),
        ("measure", curve.measure, other.measure),
    ):
        if own != new:
            raise ArgumentError(
                f"{what}: {path} holds accuracies of other {what} ({curve.count} images of {curve.images}, given "
                f"{other.count} of {other.images}); give the same, or --again to measure all of it anew"
            )


def as_percent(accuracy: float | None) -> str:
    """Return an accuracy in percent as tables show it; a dash where there is none."""
    return "-" if accuracy is None else f"{100 * accuracy:.2f}"
