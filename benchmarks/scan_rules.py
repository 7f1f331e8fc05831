"""Which two choices of each gene a sparse scan should measure: what a search would start from, on ../shared/data.

    python benchmarks/scan_rules.py cifar10_resnet20 --draws 0,1,2,3 -o scan_rules

For each draw of 50 samples: a full scan, the tables that sparse scans of it would have given, and for each the
hypervolume (in the box of `search_quality.py`) of the 40 points of its additive front that our search starts from. All
evaluations are kept in the folder, so the same command goes on where it was. Scans are not counted: a full one of bits
2 to 8 costs 3.5 times a sparse one.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from accuracy import recipe_for
from rich.console import Console
from rich.table import Table
from search_quality import curve

import evoq_moo as evoq
from evoq_moo.operators import SensitivitySampling
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.sensitivity import SensitivityTable, sparse_table

app = typer.Typer(add_completion=False)
PAIRS = ((2, 5), (2, 6), (2, 7), (2, 8), (3, 6), (3, 7))
POINTS = 40


@app.command(help=__doc__)
def main(
    name: Annotated[str, typer.Argument(help="Name of a zoo entry.")],
    *,
    draws: Annotated[str, typer.Option(help="Seeds of the draws of samples.")] = "0,1,2,3",
    cost: Annotated[str, typer.Option(help="bops or size.")] = "bops",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of evaluations.")] = Path("scan_rules"),
    threads: Annotated[int | None, typer.Option(help="Micro-batches computed at once.")] = None,
) -> None:
    """Print the hypervolume of each start."""
    output.mkdir(parents=True, exist_ok=True)
    seeds = [int(draw) for draw in draws.split(",")]
    found: dict[str, list[float]] = {}
    for draw in seeds:
        network = recipe_for(name, draw=draw)(threads=threads)
        store = output / f"{name}-{draw}.sqlite"
        problem = MixedPrecisionProblem(network, objectives=("difference", cost), store=store)
        full = evoq.measure_sensitivity(network, evaluator=problem.evaluator)
        for pair in PAIRS:
            start = _start(problem, sparse_table(full, near=pair), cost)
            found.setdefault("{} and {}".format(*pair), []).append(start)
        found.setdefault("all", []).append(_start(problem, full, cost))
        problem.close()
    table = Table("draw", *found, title=f"{name}, {cost}")
    columns = [[*values, float(np.mean(values))] for values in found.values()]
    for draw, row in zip([*map(str, seeds), "mean"], zip(*columns, strict=True), strict=True):
        table.add_row(draw, *(f"{v:.4f}" for v in row))
    Console().print(table)


def _start(problem: MixedPrecisionProblem, table: SensitivityTable, cost: str) -> float:
    """Return the hypervolume of what a search starts from with this table."""
    sampling = SensitivitySampling(table, mix={"additive": 1.0})
    X = sampling._do(problem, POINTS, random_state=np.random.default_rng(0))
    rows, _ = curve(problem, X, 1 + np.arange(len(X)), cost, POINTS)
    return rows[-1][1]


if __name__ == "__main__":
    app()
