"""Filling the page's template."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evoq_moo.accuracy import FLOAT, as_percent
from evoq_moo.costs import cost_class, cost_names, label_of
from evoq_moo.files import package_versions, write_atomically
from evoq_moo.front import Choice, ParetoFront
from evoq_moo.plots import (
    plot_accuracy_curve,
    plot_bit_allocation,
    plot_calibration,
    plot_front,
    plot_parallel_coordinates,
    plot_policy,
    plot_sensitivity,
)
from evoq_moo.report._pictures import add_targets, svg
from evoq_moo.report._run_data import RunData, read_run
from evoq_moo.space import Policy


def write_report(
    run: str | Path,
    output: str | Path,
    *,
    pick: str = "knee",
    calibrated: str | Path | None = None,
    trust: bool = False,
) -> RunData:
    """Write the report of a run.

    Args:
        run: Folder of a run (it may be in progress) or a front file.
        output: The HTML file; replaced whole or not at all.
        pick: The policy to show first, as :meth:`ParetoFront.pick` takes it.
        calibrated: Folder that `evoq calibrate` wrote; None for `calibrated` in the run's folder, if it is there.
        trust: Allow the run to read a table of latencies outside of its folder and the working directory.

    Returns:
        What the report shows.

    Raises:
        TrustError: The run names such a table.
        MissingFileError: No such run.
        FormatError: One of its files is damaged.
        ArgumentError: `pick` is not on the front.
    """
    data = read_run(run, calibrated=calibrated, trust=trust)
    write_atomically(output, render_report(data, pick=pick).encode())
    return data


def render_report(data: RunData, *, pick: str = "knee", refresh: int | None = None) -> str:
    """Return a run's report as HTML.

    Args:
        data: What is known of the run.
        pick: The policy to show first.
        refresh: Seconds after which a browser asks for it again; None for never.

    Raises:
        ArgumentError: `pick` is not on the front.
    """
    front = data.front if data.front is not None and len(data.front) else None
    choice = front.choose(pick) if front is not None else None
    costs = [cost_class(name) for name in cost_names() if front and all(name in point.costs for point in front)]
    context: dict[str, Any] = {
        "data": data,
        "refresh": refresh,
        "front": front,
        "choice": choice,
        "facts": facts_of(data),
        "provenance": _provenance(data),
        "layers": data.sensitivity.space.layers if data.sensitivity else None,
        "points": _points(front) if front else [],
        "chosen_row": front.points.index(front.point_of(choice.policy)) if front and choice else None,
        "calibrated_row": _row_of_bits(front, data.calibrated_bits) if front else None,
        "curve": front.curve if front else None,
        "costs": costs,
        "cost_keys": [{"key": cost.column, "unit": cost.unit} for cost in costs],
        "knee_row": front.points.index(front.point_of(front.knee())) if front else None,
        **_pictures(data, front, choice),
    }
    return environment().get_template("report.html.j2").render(context)


def error_page(name: str, message: str, *, refresh: int) -> str:
    """Return a page that says what is wrong with a run's files, and asks again after so many seconds."""
    return environment().get_template("error.html.j2").render(name=name, message=message, refresh=refresh)


def environment() -> Environment:
    """Return where the pages' templates are; whatever they are filled with is escaped."""
    return Environment(loader=PackageLoader("evoq_moo.report", "templates"), autoescape=True, undefined=StrictUndefined)


def _pictures(data: RunData, front: ParetoFront | None, choice: Choice | None) -> dict[str, Any]:
    fronts: list[Markup] = []
    maps: list[tuple[str, Markup]] = []
    policy = parallel = None
    if front is not None and choice is not None:
        budgets = data.settings.get("budgets", {})
        for k, (x, y) in enumerate(_pairs(front)):
            ax = plot_front(front, x=x, y=y, uniform=data.uniform, budgets=budgets)
            add_targets(ax, front, x, y)
            fronts.append(svg(ax, f"front{k}"))
        maps += [
            (f"{kind} bits along the front", svg(plot_bit_allocation(front, kind=kind), f"bits-{kind}"))
            for kind in ("weight", "activation")
        ]
        layers = data.sensitivity.space.layers if data.sensitivity else None
        policy = svg(plot_policy(choice.policy, layers=layers), "policy")
        parallel = svg(plot_parallel_coordinates(front, highlight={choice.rule: choice.policy}), "parallel")
    if data.sensitivity is not None:
        kinds = dict.fromkeys(gene.kind for gene in data.sensitivity.space.genes)
        maps += [
            (f"sensitivity, {'weights and activations' if kind == 'both' else kind + 's'}", picture)
            for kind in kinds
            for picture in [svg(plot_sensitivity(data.sensitivity, kind=kind), f"sensitivity-{kind}")]
        ]
    calibration = None
    if data.calibration is not None and data.calibration.steps:
        calibration = svg(plot_calibration(data.calibration), "calibration")
    return {
        "accuracies": _accuracy_pictures(front, choice),
        "fronts": fronts,
        "maps": maps,
        "policy_picture": policy,
        "parallel": parallel,
        "calibration_picture": calibration,
    }


def _accuracy_pictures(front: ParetoFront | None, choice: Choice | None) -> list[Markup]:
    """Return the accuracy curve against the size and against what was searched, where it was measured."""
    curve = front.curve if front is not None else None
    if curve is None or front is None:
        return []
    names = [name for name in dict.fromkeys(("size", "latency", *front.objectives)) if name != "difference"]
    known = [name for name in names if any(name in row.costs for row in curve.rows if row.kind != FLOAT)]
    chosen = choice.policy if choice is not None else None
    return [svg(plot_accuracy_curve(curve, x=name, chosen=chosen), f"accuracy-{name}") for name in known]


def _pairs(front: ParetoFront) -> list[tuple[str, str]]:
    """Return the pairs of objectives to draw: each cost and the difference, or the two costs."""
    costs = [name for name in front.objectives if name != "difference"]
    if "difference" in front.objectives:
        return [(cost, "difference") for cost in costs]
    return [(costs[0], costs[1])] if len(costs) > 1 else []


def _points(front: ParetoFront) -> list[dict[str, Any]]:
    return [
        {
            "difference": point.difference,
            "expected": None if point.expected is None else str(point.expected),
            **{cost_class(name).column: value for name, value in point.costs.items()},
            "mean_weight": sum(point.policy.weight_bits) / len(point.policy.layers),
            "mean_activation": sum(point.policy.activation_bits) / len(point.policy.layers),
            "accuracy": _accuracy(front, point.policy),
            "weight_bits": point.policy.weight_bits,
            "activation_bits": point.policy.activation_bits,
        }
        for point in front
    ]


def _accuracy(front: ParetoFront, policy: Policy) -> str:
    """Return a policy's accuracy as the table shows it."""
    found = front.curve.of(policy) if front.curve is not None else None
    if found is None:
        return ""
    return as_percent(found.accuracy) + (" calibrated" if found.calibration else "")


def _row_of_bits(front: ParetoFront, bits: tuple[tuple[int, int], ...]) -> int | None:
    rows = [tuple(zip(p.policy.weight_bits, p.policy.activation_bits, strict=True)) for p in front]
    return rows.index(bits) if bits in rows else None


def facts_of(data: RunData) -> list[tuple[str, str]]:
    """Return what was searched, as rows of a table."""
    recipe = data.settings.get("recipe", {})
    facts = [
        ("network", recipe.get("model")),
        ("weights", recipe.get("weights")),
        ("samples", recipe.get("samples") or ("those of the network" if recipe else None)),
        ("number of samples", recipe.get("count")),
        ("weight bit-widths allowed", _listed(recipe.get("weight_bits"))),
        ("activation bit-widths allowed", _listed(recipe.get("activation_bits"))),
        ("pinned at 8 bits", {"ends": "the first and last layer"}.get(str(recipe.get("pinned")), recipe.get("pinned"))),
        ("objectives", _listed([label_of(name) for name in data.front.objectives] if data.front else None)),
        ("budgets", _listed([f"{name} <= {limit:g}" for name, limit in data.settings.get("budgets", {}).items()])),
        ("population", data.settings.get("pop_size")),
    ]
    if data.sensitivity is not None:
        space = data.sensitivity.space
        facts += [
            ("layers, genes", f"{len(space.layers)}, {space.n_var}"),
            ("policies in the space", f"{space.cardinality:.3g}"),
            ("MACs", f"{sum(layer.macs for layer in space.layers):,}"),
            ("weights (parameters)", f"{sum(layer.params for layer in space.layers):,}"),
        ]
    return [(name, str(value)) for name, value in facts if value not in (None, "", [])]


def _provenance(data: RunData) -> list[tuple[str, str]]:
    found = dict(data.front.provenance) if data.front else {}
    found.pop("settings", None)
    versions = found.pop("versions", None) or {}
    rows = [(name.replace("_", " "), value) for name, value in found.items()]
    recipe = data.settings.get("recipe", {})
    rows += [("seed of the search", data.settings.get("seed")), ("seed of the samples", recipe.get("samples_seed"))]
    rows += [("evaluations in the store, scan included", data.evaluations)]
    rows += [(f"{name} of the run", value) for name, value in versions.items()]
    rows += [("report written", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))]
    rows += [("report written with", ", ".join(f"{name} {text}" for name, text in package_versions().items()))]
    return [(name, str(value)) for name, value in rows if value is not None]


def _listed(values: Any) -> str | None:
    return ", ".join(str(value) for value in values) if values else None
