"""Measuring the accuracy curve of a run: the float network, uniform bit-widths and points of the front."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import nn

from evoq_moo._text import parse_names
from evoq_moo.accuracy import (
    CURVE_FILE,
    FLOAT,
    FRONT,
    UNIFORM,
    AccuracyCurve,
    Judge,
    Kind,
    MeasuredPolicy,
    check_same_images,
    float_policy,
)
from evoq_moo.calibration import PRESETS, calibrate, check_steps
from evoq_moo.costs import Cost, known_costs
from evoq_moo.errors import ArgumentError, check_count
from evoq_moo.front import ParetoFront
from evoq_moo.network import QuantizedNetwork
from evoq_moo.progress import track
from evoq_moo.runs.folder import STORE_FILE, draw_pictures, load_front
from evoq_moo.runs.known import KnownPolicies
from evoq_moo.space import IntArray, Policy

UNIFORM_BITS = range(8, 2, -1)
"""Our choice: 2 bits everywhere are left out, where every network of the zoo guesses."""


def measure_curve(
    network: QuantizedNetwork,
    front: ParetoFront,
    judge: Judge,
    *,
    path: str | Path | None = None,
    points: int | None = None,
    calibration: str = "",
    costs: Sequence[Cost] = (),
    again: bool = False,
    progress: bool = True,
) -> AccuracyCurve:
    """Measure the float network, uniform bit-widths and points of a front on labelled images.

    Args:
        network: The network that the front is of.
        front: The front.
        judge: What measures.
        path: The curve's file. What it holds is not measured again, and each point is in it as soon as it is known.
        points: Only so many points of the front, spread evenly, the ends and the knee among them; None for all.
        calibration: Measure the points after calibration too: ``"light"``, ``"full"`` or names of steps with commas.
        costs: Costs beside those that need no table.
        again: Forget what the file holds.
        progress: Show progress on a terminal.

    Returns:
        The curve, what the file held before included.

    Raises:
        ArgumentError: An argument is not allowed, or the file holds accuracies on other images.
        FormatError: The file is damaged.
        EvoqError: As the judge and :func:`calibrate`.
    """
    if points is not None:
        check_count("points", points)
    steps = checked_calibration(calibration)
    curve = AccuracyCurve(
        measure=judge.measure,
        images=judge.images,
        count=judge.count,
        judged_by=judge.digest,
        network=network.fingerprint,
    )
    if path is not None and Path(path).is_file() and not again:
        kept = AccuracyCurve.load(path)
        check_same_images(kept, curve, path)
        curve = kept
    wanted = [
        (kind, policy, text)
        for kind, policy, text in _wanted(network, front, points, calibration)
        if curve.of(policy, calibration=text) is None
    ]
    with track(len(wanted), f"{judge.measure} on {judge.count} images", enabled=progress and bool(wanted)) as bar:
        for kind, policy, text in wanted:
            known = curve.of(policy, calibration=text)  # a point of the front may have one bit-width everywhere
            module: nn.Module = network.network
            if kind != FLOAT and known is None:
                module = calibrate(network, policy, steps) if text else network.apply(policy)
            curve = curve.added(
                MeasuredPolicy(
                    kind=kind,
                    policy=policy,
                    accuracy=judge.accuracy_of(module) if known is None else known.accuracy,
                    costs=_costs(network, policy.to_array(), costs),
                    calibration=text,
                )
            )
            if path is not None:
                curve.save(path)
            bar.advance()
    return curve


def measure_run(
    network: QuantizedNetwork,
    folder: str | Path,
    judge: Judge,
    *,
    points: int | None = None,
    calibration: str = "",
    costs: Sequence[Cost] = (),
    again: bool = False,
    progress: bool = True,
) -> AccuracyCurve:
    """Measure the accuracy curve of a run's folder, keep it there and draw its pictures anew.

    Args:
        network: The network of the run.
        folder: Its folder.
        judge: As for :func:`measure_curve`, and so are the others.
        points: The same.
        calibration: The same.
        costs: The same.
        again: The same.
        progress: The same.

    Raises:
        EvoqError: As :func:`measure_curve`.
    """
    curve = measure_curve(
        network,
        load_front(folder),
        judge,
        path=Path(folder) / CURVE_FILE,
        points=points,
        calibration=calibration,
        costs=costs,
        again=again,
        progress=progress,
    )
    front = load_front(folder)
    known = KnownPolicies.read(
        Path(folder) / STORE_FILE,
        network.space,
        front.objectives,
        fingerprint=front.provenance.get("fingerprint"),
        costs=costs,
    )
    draw_pictures(folder, front, known.uniform())
    return curve


def checked_calibration(text: str) -> tuple[str, ...]:
    """Return the steps of a calibration that is given as a text; none for an empty one.

    Raises:
        ArgumentError: It names an unknown step.
    """
    return check_steps(text if text in PRESETS else parse_names(text)) if text else ()


def _wanted(
    network: QuantizedNetwork, front: ParetoFront, points: int | None, calibration: str
) -> Iterator[tuple[Kind, Policy, str]]:
    """Give kind, policy and calibration of all that a curve shows."""
    yield FLOAT, float_policy(network.space.layer_names), ""
    for policy in dict.fromkeys(network.uniform(bits) for bits in UNIFORM_BITS):
        yield UNIFORM, policy, ""
    for text in dict.fromkeys(("", calibration)):
        for row in front.rows(points):
            yield FRONT, front[row].policy, text


def _costs(network: QuantizedNetwork, bits: IntArray, costs: Sequence[Cost]) -> dict[str, float]:
    """Return the costs of bit-widths `(layers, 2)` by name; a table need not know those of the float network."""
    found = {}
    for cost in known_costs(costs):
        try:
            found[cost.name] = float(cost.of(network.space.layers, bits))
        except ArgumentError:
            if (bits <= max(UNIFORM_BITS)).any():
                raise
    return found
