"""Everything a report shows, read from a run's folder; what is not there yet is said, not an error."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import Struct

from evoq_moo.calibration import CALIBRATED_FORMAT, CALIBRATED_VERSION, CalibrationReport
from evoq_moo.costs import MeasuredCost
from evoq_moo.errors import MissingFileError
from evoq_moo.files import BitWidth, read_json
from evoq_moo.front import FrontPoint, ParetoFront
from evoq_moo.runs import KnownPolicies, check_settings, load_front, read_settings, tables_of
from evoq_moo.sensitivity import SensitivityTable


class _BitsData(Struct):
    weight_bits: BitWidth
    activation_bits: BitWidth


class _CalibratedData(Struct):
    layers: tuple[_BitsData, ...]
    report: CalibrationReport


@dataclass(frozen=True, kw_only=True, eq=False)
class RunData:
    """What is known of a run.

    Attributes:
        name: The network's, with that of the folder or file.
        front: Its front, perhaps empty; None where nothing is known yet.
        settings: What was asked for, as :class:`~evoq_moo.runs.RunSettings` writes it.
        sensitivity: The sensitivity table, if it was measured.
        uniform: Evaluated policies with one bit-width everywhere.
        calibration: Of a calibrated policy, if there is one.
        calibrated_bits: Weight and activation bits of the layers of that policy.
        evaluations: Evaluations in the store; None where there is no store.
        notes: What a reader must know: that the run is in progress, that no policy met the budgets, and so on.
    """

    name: str
    front: ParetoFront | None
    settings: dict[str, Any] = field(default_factory=dict)
    sensitivity: SensitivityTable | None = None
    uniform: tuple[FrontPoint, ...] = ()
    calibration: CalibrationReport | None = None
    calibrated_bits: tuple[tuple[int, int], ...] = ()
    evaluations: int | None = None
    notes: tuple[str, ...] = ()


def read_run(path: str | Path, *, calibrated: str | Path | None = None, trust: bool = False) -> RunData:
    """Read a run's folder, or a front file alone.

    A run in progress has no front yet; its front so far is that of the policies in its store.

    Args:
        path: The folder or file.
        calibrated: Folder that `evoq calibrate` wrote; None for `calibrated` in the run's folder, if it is there.
        trust: Allow tables of costs outside of the run's folder and the working directory.

    Raises:
        TrustError: The run names such a table.
        MissingFileError: No such folder or file, or the folder holds no run.
        FormatError: A file is damaged.
        StoreError: The store can't be read.
    """
    path = Path(path)
    if path.is_file():
        return _read_front(path, calibrated)
    if not path.is_dir():
        raise MissingFileError(f"no such file or folder: {path}")
    if not (path / "run.json").is_file():
        raise MissingFileError(f"{path}: holds no run.json: it is not the folder of a run")
    settings = read_settings(path / "run.json")
    if calibrated is None and (path / "calibrated" / "calibrated.json").is_file():
        calibrated = path / "calibrated"
    report, bits = _calibration(calibrated)
    front: ParetoFront | None = None
    notes: list[str] = []
    if (path / "front.json").is_file():
        front = load_front(path)
        if front.provenance.get("interrupted"):
            notes.append("The search was interrupted: this is the front so far. The same command goes on.")
    sensitivity = None
    if (path / "sensitivity.json").is_file():
        sensitivity = SensitivityTable.load(path / "sensitivity.json")
    known = _known(path, settings, sensitivity, front, tables_of(path, trust=trust))
    if front is None:
        front, note = _front_so_far(known, sensitivity)
        notes.append(note)
    return RunData(
        name=_name(path, settings),
        front=front,
        settings=settings,
        sensitivity=sensitivity,
        uniform=known.uniform() if known else (),
        calibration=report,
        calibrated_bits=bits,
        evaluations=known.evaluations if known else None,
        notes=tuple(notes),
    )


def _read_front(path: Path, calibrated: str | Path | None) -> RunData:
    front = ParetoFront.load(path)
    report, bits = _calibration(calibrated)
    settings = front.provenance.get("settings")
    settings = {} if settings is None else check_settings(str(path), settings)
    return RunData(name=_name(path, settings), front=front, settings=settings, calibration=report, calibrated_bits=bits)


def _name(path: Path, settings: dict[str, Any]) -> str:
    """Return what a page is headed with: a folder is mostly called `run`."""
    name, model = path.resolve().name, settings.get("recipe", {}).get("model")
    return name if model is None else f"{model}: {name}"


def _known(
    folder: Path,
    settings: dict[str, Any],
    sensitivity: SensitivityTable | None,
    front: ParetoFront | None,
    costs: tuple[MeasuredCost, ...],
) -> KnownPolicies | None:
    store = folder / "evaluations.sqlite"
    if sensitivity is None or not store.is_file():
        return None
    objectives = front.objectives if front else tuple(settings.get("objectives", ("difference", "bops")))
    fingerprint = front.provenance.get("fingerprint") if front else None
    return KnownPolicies.read(
        store,
        sensitivity.space,
        objectives,
        fingerprint=fingerprint,
        costs=costs,
        budgets=settings["budgets"],
    )


def _front_so_far(known: KnownPolicies | None, sensitivity: SensitivityTable | None) -> tuple[ParetoFront | None, str]:
    begun = "The run is in progress, or was stopped before its end"
    if known is None:
        return None, f"{begun}: its sensitivity scan is not complete, so there is no front yet."
    front = known.front()
    if sensitivity is not None and "metric" not in front.provenance:
        front = ParetoFront(
            points=front.points,
            objectives=front.objectives,
            provenance={**front.provenance, "metric": sensitivity.metric},
        )
    if not len(front):
        limits = ", ".join(f"{name} <= {limit:g}" for name, limit in known.budgets.items()) or "none"
        return front, f"{begun}: none of {len(known.X)} policies evaluated so far is within the budgets ({limits})."
    return front, f"{begun}: this is the front of the {len(known.X)} policies evaluated so far."


def _calibration(folder: str | Path | None) -> tuple[CalibrationReport | None, tuple[tuple[int, int], ...]]:
    if folder is None:
        return None, ()
    file = Path(folder) / "calibrated.json"
    data = read_json(file, _CalibratedData, format_name=CALIBRATED_FORMAT, version=CALIBRATED_VERSION)
    return data.report, tuple((row.weight_bits, row.activation_bits) for row in data.layers)
