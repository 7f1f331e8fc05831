"""Do algorithms rank alike on a surrogate and on real evaluations? And how good is the surrogate on real fronts?

    python benchmarks/surrogate_rankings.py digits --seeds 5 --budget 600 -o rankings

Runs the same algorithms with the same seeds and budget on `NETWORK-bops` of the suite and on the network itself, both
measured against the surrogate's frozen reference, and prints Spearman's correlation of the algorithms' median
hypervolumes (and of their ranks within single seeds), and Kendall's tau of predicted and real differences on the
nondominated policies of all real runs, which no fit has seen. It goes on where it was killed.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from surrogate_data import recipe_of
from surrogate_fit import agreement

from evoq_moo.indicators import nondominated
from evoq_moo.problems import get_problem
from evoq_moo.study import NetworkProblem, Study

console = Console()
ALGORITHMS = ("guided", "nsga2", "nsga2_uniform", "nsga3", "spea2", "sms_emoa", "age_moea", "random")


def main(
    network: Annotated[str, typer.Argument(help="Name of a network of the suite.")],
    *,
    cost: Annotated[str, typer.Option(help="bops or size.")] = "bops",
    seeds: Annotated[int, typer.Option(help="Seeds 0..n-1.")] = 5,
    budget: Annotated[int, typer.Option(help="Evaluations of each run.")] = 600,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the studies.")] = Path("rankings"),
) -> None:
    """Compare rankings."""
    name = f"{network}-{cost}"
    problem = get_problem(name)
    real = NetworkProblem(
        name=f"{name}-real",
        recipe=recipe_of(network),
        objectives=("difference", cost),
        reference=problem.reference,
    )
    study = Study(
        problems={name: name, real.name: real},
        algorithms=ALGORITHMS,
        seeds=range(seeds),
        budget=budget,
        path=output / network,
    )
    results = study.run()
    values = {p: results.values(p) for p in (name, real.name)}
    table = Table(
        "algorithm", "surrogate", "real", title=f"{name}: median hypervolume, {seeds} seeds, {budget} evaluations"
    )
    for algorithm in ALGORITHMS:
        table.add_row(algorithm, *(f"{np.median(values[p][algorithm]):.4f}" for p in values))
    console.print(table)
    medians = [[np.median(values[p][a]) for a in ALGORITHMS] for p in values]
    console.print(f"Spearman of medians: {spearmanr(*medians).statistic:.3f}")
    singles = [
        spearmanr([values[name][a][i] for a in ALGORITHMS], [values[real.name][a][i] for a in ALGORITHMS]).statistic
        for i in range(seeds)
    ]
    console.print(f"Spearman within single seeds: median {np.median(singles):.3f}, lowest {min(singles):.3f}")
    X, F = [], []
    for algorithm in ALGORITHMS:
        for run in results.of(real.name, algorithm):
            kept = nondominated(run.F)
            X.append(run.X[kept])
            F.append(run.F[kept])
    X, rows = np.unique(np.concatenate(X), axis=0, return_index=True)
    y = np.concatenate(F)[rows, 0]
    console.print("on the fronts of real runs:", agreement(y, problem.values(X)["difference"]))


if __name__ == "__main__":
    typer.run(main)
