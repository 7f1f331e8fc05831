"""How good searches are at equal evaluations, on real weights and images of ../shared/data.

    python benchmarks/search_quality.py run cifar10_resnet20 --cost bops --seeds 11 -o quality
    python benchmarks/search_quality.py table quality

Every method gets `--evaluations`, the sensitivity scan counted in for those that need the table. `run` appends a line
to `runs.jsonl` when a run ends and keeps all evaluations in one store for each network, so it goes on where it was
killed. The same policies cost nothing twice; methods never see each other's results.

Hypervolume is that of log10 difference and cost in a frozen box: log10 differences from -6.5 to 1, costs from the
narrowest to the widest policy's (exact, from the layers alone). Policies outside add nothing.

`table` prints medians, the share of ours that the others reach, and one-sided Wilcoxon tests over the paired seeds.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import moocore
import numpy as np
import typer
from accuracy import recipe_for
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.algorithm import Algorithm
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from rich.console import Console
from rich.table import Table
from scipy.stats import wilcoxon

import evoq_moo as evoq
from evoq_moo.analysis import log_difference, normalized_hypervolume
from evoq_moo.baselines import additive_front, random_policies, spread
from evoq_moo.cost import COSTS, cost_matrix
from evoq_moo.operators import (
    BitWidthRepair,
    SensitivityGuidedMutation,
    SensitivitySampling,
    UniformBitCrossover,
    UniformBitMutation,
    greedy_path,
)
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.sensitivity import SensitivityTable

app = typer.Typer(add_completion=False, help=__doc__)
console = Console()
LOG_DIFFERENCE = (-6.5, 1.0)
COST_NAMES = {"bops": "gbops", "size": "size_mib"}
CHECKPOINTS = (300, 400, 500, 700, 1000, 1500, 2000)
Vectors = np.ndarray[Any, np.dtype[np.int64]]


def stock(eta: float) -> dict[str, Any]:
    """Return pymoo's own operators for real vectors, repaired to bit-widths."""
    return {
        "crossover": SBX(eta=eta, vtype=float, repair=BitWidthRepair()),
        "mutation": PM(eta=eta, vtype=float, repair=BitWidthRepair()),
    }


def searchers(table: SensitivityTable) -> dict[str, tuple[bool, Callable[[], Algorithm]]]:
    """Return, by name, whether a search needs the scan, and its algorithm."""
    diagonal = {"diagonal": 1.0}

    def start(mix: dict[str, float] | None = None) -> SensitivitySampling:
        return SensitivitySampling(table, mix=mix)

    guided = {"crossover": UniformBitCrossover(), "mutation": SensitivityGuidedMutation(table)}
    uniform = {"crossover": UniformBitCrossover(), "mutation": UniformBitMutation()}
    return {
        "ours": (True, lambda: evoq.guided_nsga2(table)),
        "stock, same start": (True, lambda: NSGA2(pop_size=40, sampling=start(), **stock(3))),
        "stock, diagonal start": (False, lambda: NSGA2(pop_size=40, sampling=start(diagonal), **stock(3))),
        "pymoo defaults": (False, lambda: NSGA2(pop_size=100, repair=BitWidthRepair(), **stock(20))),
        "guided, diagonal start": (True, lambda: NSGA2(pop_size=40, sampling=start(diagonal), **guided)),
        "guided, greedy start": (True, lambda: NSGA2(pop_size=40, sampling=start({"greedy": 1.0}), **guided)),
        "uniform, same start": (True, lambda: NSGA2(pop_size=40, sampling=start(), **uniform)),
    }


def lookups(table: SensitivityTable, cost: str, evaluations: int, seed: int) -> dict[str, Vectors]:
    """Return the vectors of methods that don't search, as many as are left after what the method paid for."""
    n = evaluations - int(table.allowed.sum())
    path = greedy_path(table, COST_NAMES[cost])
    rows = np.unique(np.linspace(0, len(path) - 1, n).round().astype(int))
    return {
        "additive front": spread(additive_front(table, cost=COST_NAMES[cost], progress=False), n),
        "greedy path": path[rows],
        "random, budget-matched": random_policies(table.space, evaluations, seed, cost=COST_NAMES[cost]),
    }


def box(problem: MixedPrecisionProblem, cost: str) -> tuple[Any, Any]:
    """Return the frozen ideal and reference point."""
    ends = problem.space.decode(np.stack([problem.space.lower, problem.space.upper]))
    low, high = cost_matrix(problem.space.layers, ends)[:, COSTS.index(COST_NAMES[cost])]
    return np.array([LOG_DIFFERENCE[0], low]), np.array([LOG_DIFFERENCE[1], high])


def curve(problem: MixedPrecisionProblem, X: Vectors, cost: str, scan: int) -> dict[str, float]:
    """Return the hypervolume after some numbers of evaluations, the scan's included, and at the end."""
    F = problem.evaluate(X, return_as_dictionary=True)["F"].copy()
    F[:, 0] = log_difference(F[:, 0])
    ideal, reference = box(problem, cost)
    counts = [count for count in CHECKPOINTS if scan < count < scan + len(X)] + [scan + len(X)]
    return {str(count): normalized_hypervolume(F[: count - scan], ideal=ideal, reference=reference) for count in counts}


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="Name of a zoo entry.")],
    *,
    cost: Annotated[str, typer.Option(help="bops or size.")] = "bops",
    seeds: Annotated[int, typer.Option(help="Seeds 0..n-1.")] = 11,
    evaluations: Annotated[int, typer.Option(help="Evaluations of each run, the scan included.")] = 1000,
    methods: Annotated[list[str] | None, typer.Option(help="Only these; repeatable.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path("quality"),
    threads: Annotated[int | None, typer.Option(help="Micro-batches computed at once.")] = None,
) -> None:
    """Run what is missing in the results, seed by seed."""
    output.mkdir(parents=True, exist_ok=True)
    results = output / "runs.jsonl"
    done = {(r["network"], r["cost"], r["method"], r["seed"], r["asked"]) for r in read(results)}
    network = recipe_for(name)(threads=threads)
    problem = MixedPrecisionProblem(network, objectives=("difference", cost), store=output / f"{name}.sqlite")
    table = evoq.measure_sensitivity(network, evaluator=problem.evaluator)
    scan = int(table.allowed.sum())
    if evaluations <= scan:
        raise typer.BadParameter(
            f"given {evaluations}; more than the scan's {scan} is allowed", param_hint="--evaluations"
        )
    algorithms = searchers(table)
    for seed in range(seeds):
        fixed = lookups(table, cost, evaluations, seed)
        for method in [*algorithms, *fixed]:
            if (methods and method not in methods) or (name, cost, method, seed, evaluations) in done:
                continue
            start = time.time()
            if method in fixed:
                paid, X = scan * (method != "random, budget-matched"), fixed[method]
            else:
                needs, make = algorithms[method]
                paid = scan * needs
                X = evoq.run_search(problem, make(), evaluations=evaluations - paid, seed=seed).vectors
            X = X[: evaluations - paid]  # the last generation may go beyond
            row = {
                "network": name,
                "cost": cost,
                "method": method,
                "seed": seed,
                "asked": evaluations,
                "hypervolume": curve(problem, X, cost, paid),
                "seconds": round(time.time() - start, 1),
                "fingerprint": network.fingerprint,
            }
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            console.print(f"{name} {cost} seed {seed} {method}: {list(row['hypervolume'].values())[-1]:.4f}")
    problem.close()


def read(results: Path) -> list[dict[str, Any]]:
    """Return the rows of a results file."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


@app.command()
def table(folder: Annotated[Path, typer.Argument(help="Folder of the results.")]) -> None:
    """Print the medians, and ours against each other method over the seeds that both have."""
    groups: dict[tuple[str, str, int], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in read(folder / "runs.jsonl"):
        last = list(row["hypervolume"].values())[-1]
        groups[row["network"], row["cost"], row["asked"]][row["method"]][row["seed"]] = last
    for (network, cost, asked), methods in groups.items():
        shown = Table(title=f"{network}, {cost}, {asked} evaluations, moocore {moocore.__version__}")
        for column in ("method", "seeds", "median", "lowest", "highest", "ours / it", "seeds ours wins", "p"):
            shown.add_column(column, justify="left" if column == "method" else "right")
        ours = methods.get("ours", {})
        for method, found in sorted(methods.items(), key=lambda item: -float(np.median(list(item[1].values())))):
            values = list(found.values())
            both = sorted(set(ours) & set(found)) if method != "ours" else []
            gain = np.array([ours[s] - found[s] for s in both])
            ratio = f"{np.median([ours[s] / found[s] for s in both]):.3f}" if both else ""
            p = f"{wilcoxon(gain, alternative='greater').pvalue:.4f}" if len(both) > 1 and gain.any() else ""
            wins = f"{(gain > 0).sum()}/{len(both)}" if both else ""
            spread_ = (f"{v:.4f}" for v in (np.median(values), min(values), max(values)))
            shown.add_row(method, str(len(values)), *spread_, ratio, wins, p)
        console.print(shown)


if __name__ == "__main__":
    app()
