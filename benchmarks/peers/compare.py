"""Score every tool's policies in our evaluator and compare their fronts with ours.

Runs in our environment, on what `run_*.py` wrote of one network:

    python benchmarks/peers/compare.py /tmp/peers/exports/cifar10_resnet20 /tmp/peers/results/cifar10_resnet20/*.json \
        --ours /tmp/peers/results/cifar10_resnet20/ours_248.json --weight-bits 2,4,8 --activation-bits 8

`--ours` is a file of `run_ours.py`; `--front` (a front.json of `evoq search` or `run_ours.py --front`) takes its place
where only the front matters. Results of other bit sets than those asked for are left out, and said so.

Everything is measured in one evaluator: `QuantizedNetwork.difference_of` (KL divergence on the 50 samples) and the cost
named by `--objective`. Columns:

- *weight bits*: the bit set the tool was given, all or some of the comparison's;
- *policies*: different ones; *nondominated* among the tool's own, in our evaluator;
- *weakly dominated*: share of the tool's policies with a policy of ours of no larger difference and no larger cost;
- *difference ratio*: median over the tool's nondominated policies of our smallest difference at no larger cost, divided
  by theirs;
- *hypervolume*: share of the box dominated, difference on a log10 scale; the box is printed with the table;
- *seconds*, *forwards*: wall time, also in float32 forwards measured in the same process; *ours (s)*, *ours (fw)*: when
  our search first had the tool's hypervolume, set-up and sensitivity scan included.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import moocore
import numpy as np
import typer
from _common import bit_set
from rich.console import Console
from rich.table import Table
from run_ours import recipe_of

from evoq_moo.costs import as_cost
from evoq_moo.evaluation import Evaluator
from evoq_moo.front import ParetoFront
from evoq_moo.indicators import log_difference, normalized_hypervolume
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.runs._run_search import hypervolume_box
from evoq_moo.space import FloatArray, IntArray, SearchSpace


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A tool's result in our evaluator.

    Attributes:
        data: What its script wrote.
        values: Difference and cost of its policies, float64 `(policies, 2)`.
    """

    data: dict[str, Any]
    values: FloatArray

    def front(self) -> FloatArray:
        """Return the values of its nondominated policies."""
        return self.values[moocore.is_nondominated(self.values, keep_weakly=False)]


@dataclass(frozen=True, kw_only=True)
class Box:
    """Corners of the hypervolume's box: log10 of the difference, and cost."""

    ideal: FloatArray
    reference: FloatArray

    def hypervolume(self, values: FloatArray) -> float:
        """Return the share of the box that differences and costs `(n, 2)` dominate."""
        scaled = np.column_stack([log_difference(values[:, 0]), values[:, 1]])
        return normalized_hypervolume(scaled, ideal=self.ideal, reference=self.reference)


def bits_of(data: dict[str, Any]) -> IntArray:
    """Return the bit-widths of a result's policies, int64 `(policies, layers, 2)`."""
    pairs = [(policy["weight_bits"], policy["activation_bits"]) for policy in data["policies"]]
    return np.array(pairs, dtype=np.int64).transpose(0, 2, 1)


def outside(space: SearchSpace, bits: IntArray) -> int:
    """Return how many policies `(n, layers, 2)` a space does not hold."""
    columns = [(gene.layer, column) for gene in space.genes for column in gene.columns]
    allowed = {(gene.layer, column): gene.choices for gene in space.genes for column in gene.columns}
    fine = np.ones(len(bits), dtype=bool)
    for layer in range(len(space.layers)):
        for column in (0, 1):
            choices = allowed[layer, column] if (layer, column) in columns else (space.base[layer, column],)
            fine &= np.isin(bits[:, layer, column], choices)
    return int((~fine).sum())


def weakly_dominated(values: FloatArray, front: FloatArray) -> Any:
    """Return for each row of values `(n, 2)` whether a row of the front is no worse in both, bool `(n,)`."""
    return (front[None] <= values[:, None]).all(axis=2).any(axis=1)


def difference_ratio(theirs: FloatArray, ours: FloatArray) -> float:
    """Return the median of our smallest difference at no larger cost over theirs; NaN where we have none so cheap."""
    ratios = []
    for difference, cost in theirs:
        within = ours[ours[:, 1] <= cost, 0]
        if len(within) and difference > 0:
            ratios.append(float(within.min() / difference))
    return float(np.median(ratios)) if ratios else float("nan")


def reached(ours: Scored, box: Box, hypervolume: float) -> dict[str, float] | None:
    """Return the first row of our search's history with at least a hypervolume, or None."""
    for row in ours.data["history"]:
        if box.hypervolume(ours.values[: row["policies"]]) >= hypervolume:
            return row
    return None


def row_of(scored: Scored, *, ours: Scored | None, ours_front: FloatArray, box: Box) -> dict[str, Any]:
    """Return a tool's line of the table."""
    times = scored.data["time"]
    own = scored.front()
    hypervolume = box.hypervolume(scored.values)
    row = {
        "tool": f"{scored.data['label']} {scored.data['version']}",
        "weight bits": ",".join(str(b) for b in scored.data["settings"]["weight_bits"]),
        "policies": len(scored.values),
        "nondominated": len(own),
        "weakly dominated": float(weakly_dominated(scored.values, ours_front).mean()),
        "difference ratio": difference_ratio(own, ours_front),
        "hypervolume": hypervolume,
        "evaluations": scored.data["evaluations"],
        "seconds": times["total_seconds"],
        "forwards": times["total_in_float_forwards"],
    }
    if ours is not None:
        first = reached(ours, box, hypervolume)
        forward = ours.data["time"]["total_seconds"] / ours.data["time"]["total_in_float_forwards"]
        row["ours (s)"] = first["seconds"] if first else float("nan")
        row["ours (fw)"] = first["seconds"] / forward if first else float("nan")
        row["ours (evaluations)"] = first["evaluations"] if first else float("nan")
    return row


def main(
    export: Annotated[Path, typer.Argument(help="Folder of export_network.py.")],
    results: Annotated[list[Path], typer.Argument(help="Files of run_*.py; ours among them is left out.")],
    *,
    ours: Annotated[Path | None, typer.Option(help="File of run_ours.py.")] = None,
    front: Annotated[Path | None, typer.Option(help="Our front instead, as `evoq search` writes it.")] = None,
    weight_bits: Annotated[str, typer.Option(help="Bit set of the comparison, e.g. 2,4,8 or 2-8.")] = "2-8",
    activation_bits: Annotated[str, typer.Option(help="Bit set, or 'tied'.")] = "8",
    objective: Annotated[str, typer.Option(help="size or bops")] = "size",
    store: Annotated[Path | None, typer.Option(help="Keep differences in this SQLite file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the table."""
    if ours is None and front is None:
        raise typer.BadParameter("give --ours or --front")
    description = json.loads((export / "description.json").read_text())
    network = recipe_of(description, weight_bits, activation_bits, None)(progress=False)
    problem = MixedPrecisionProblem(network, objectives=("difference", objective), store=store)
    evaluator: Evaluator = problem.evaluator

    def score(bits: IntArray) -> FloatArray:
        costs = as_cost(objective).of(network.space.layers, bits)
        return np.column_stack([evaluator.differences(bits), costs])

    ends = problem.evaluate(np.stack([network.space.lower, network.space.upper]))
    corners = hypervolume_box(problem, ends)
    box = Box(ideal=corners[0], reference=corners[1])
    mine = None
    if ours is not None:
        data = json.loads(ours.read_text())
        mine = Scored(data=data, values=score(bits_of(data)))
    if front is not None:
        points = ParetoFront.load(front)
        front_values = score(np.stack([point.policy.to_array() for point in points]))
    elif mine is not None:
        front_values = mine.front()
    rows, left_out = [], []
    for path in results:
        data = json.loads(path.read_text())
        if "tool" not in data:
            left_out.append(f"{path.name}: not a file of run_*.py")
            continue
        if data["tool"] == "evoq-moo":
            continue
        if tuple(data["layers"]) != network.space.layer_names:
            raise SystemExit(f"{path}: is of other layers than {export}")
        bits = bits_of(data)
        wrong = outside(network.space, bits)
        if wrong:
            left_out.append(f"{path.name}: {wrong} of {len(bits)} policies are outside these bit sets")
            continue
        rows.append(row_of(Scored(data=data, values=score(bits)), ours=mine, ours_front=front_values, box=box))
    own_row: dict[str, Any] = {"front": len(front_values), "hypervolume": box.hypervolume(front_values)}
    if mine is not None:
        times = mine.data["time"]
        own_row |= {
            "evaluations": mine.data["evaluations"],
            "seconds": times["total_seconds"],
            "forwards": times["total_in_float_forwards"],
            "parts": times["parts_seconds"],
        }
    report = {
        "network": description["network"],
        "weight_bits": bit_set(weight_bits),
        "activation_bits": activation_bits,
        "pinned": description["pinned"],
        "objective": objective,
        "box": {"ideal": box.ideal.tolist(), "reference": box.reference.tolist()},
        "ours": own_row,
        "tools": rows,
        "left_out": left_out,
    }
    print(json.dumps(report, indent=1)) if as_json else show(report)


def show(report: dict[str, Any]) -> None:
    """Print a report as a table."""
    console = Console()
    title = (
        f"{report['network']}: log10 difference against {report['objective']}, weights {report['weight_bits']}, "
        f"activations {report['activation_bits']}, pinned {report['pinned']}"
    )
    if report["tools"]:
        table = Table(*report["tools"][0], title=title)
        for row in report["tools"]:
            table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
        console.print(table)
    console.print(f"ours: {report['ours']}", highlight=False)
    console.print(f"box: {report['box']}", highlight=False)
    for line in report["left_out"]:
        console.print(f"left out: {line}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
