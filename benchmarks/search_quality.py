"""How good searches are at equal evaluations, on real weights and images of ../shared/data.

    python benchmarks/search_quality.py run cifar10_resnet20 --cost bops --seeds 11 -o quality
    python benchmarks/search_quality.py run cifar10_resnet20 --evaluations 2000 --methods "stock, diagonal start"
    python benchmarks/search_quality.py ablation digits --seeds 5 -o quality
    python benchmarks/search_quality.py table quality
    python benchmarks/search_quality.py surfaces quality digits --picture surfaces.svg

Every method gets `--evaluations`, the sensitivity scan counted in for those that need the table: a sparse one (two
evaluations for each gene) for our search and for what starts where it starts, a full one for those named so and for the
additive front. `run`
appends a line to `runs.jsonl` when a run ends and keeps all evaluations in one store for each network, so it goes on
where it was killed. The same policies cost nothing twice; methods never see each other's results.

Hypervolume is that of log10 difference and cost in a frozen box: log10 differences from -6.5 to 1, costs from the
narrowest to the widest policy's (exact, from the layers alone). Policies outside add nothing.

`table` prints medians, the share of ours that the others reach, one-sided Wilcoxon tests over the paired seeds, how
many evaluations ours needs to pass what stock NSGA-II with the diagonal start has after 2,000, and the ratio of our
difference to that of the additive model's integer program (the method of MCT) at 8 budgets. `surfaces` draws what a
quarter, half and three quarters of the seeds attain, and prints the median surface at those budgets.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
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
from evoq_moo.analysis import attainment_surfaces
from evoq_moo.baselines import additive_front, additive_optimum, budget_grid, greedy_path, random_policies, spread
from evoq_moo.costs import as_cost
from evoq_moo.indicators import log_difference, normalized_hypervolume
from evoq_moo.operators import (
    BitWidthRepair,
    FrontAwareCrossover,
    SensitivityGuidedMutation,
    SensitivitySampling,
    UniformBitCrossover,
    UniformBitMutation,
)
from evoq_moo.plots import plot_attainment, save_axes
from evoq_moo.plots._style import axis_label
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.sensitivity import SensitivityTable, scan_policies

app = typer.Typer(add_completion=False, help=__doc__)
console = Console()
LOG_DIFFERENCE = (-6.5, 1.0)
POINTS = 80
"""Points of a curve that are kept."""
ILP = "additive integer program"
Vectors = np.ndarray[Any, np.dtype[np.int64]]


def stock(eta: float) -> dict[str, Any]:
    """Return pymoo's own operators for real vectors, repaired to bit-widths."""
    return {
        "crossover": SBX(eta=eta, vtype=float, repair=BitWidthRepair()),
        "mutation": PM(eta=eta, vtype=float, repair=BitWidthRepair()),
    }


Searchers = dict[str, tuple[SensitivityTable | None, Callable[[], Algorithm]]]


def searchers(sparse: SensitivityTable, full: SensitivityTable | None) -> Searchers:
    """Return, by name, the table that a search has paid for (None for none), and its algorithm.

    Args:
        sparse: Table of a sparse scan.
        full: Table of a full scan; None leaves out what needs it.
    """
    diagonal = SensitivitySampling(sparse, mix={"diagonal": 1.0})
    same = SensitivitySampling(sparse, mix={"additive": 1.0})  # as our search starts
    found: Searchers = {
        "ours": (sparse, lambda: evoq.SurrogateSearch(sparse)),
        "stock, same start": (sparse, lambda: NSGA2(pop_size=40, sampling=same, **stock(3))),
        "stock, diagonal start": (None, lambda: NSGA2(pop_size=40, sampling=diagonal, **stock(3))),
        "pymoo defaults": (None, lambda: NSGA2(pop_size=100, repair=BitWidthRepair(), **stock(20))),
    }
    if full is not None:
        found["ours, full scan"] = (full, lambda: evoq.SurrogateSearch(full))
        found["guided NSGA-II, full scan"] = (full, lambda: evoq.guided_nsga2(full))
    return found


def ablations(sparse: SensitivityTable) -> Searchers:
    """Return NSGA-II with each start, mutation and crossover, as :func:`searchers` does."""
    starts = {"additive": {"additive": 1.0}, "diagonal": {"diagonal": 1.0}}
    mutations: dict[str, Callable[[], Any]] = {
        "guided": lambda: SensitivityGuidedMutation(sparse),
        "guided, paired": lambda: SensitivityGuidedMutation(sparse, paired=0.5),
        "adaptive": lambda: SensitivityGuidedMutation(sparse, adaptive=True),
        "uniform": UniformBitMutation,
    }
    crossovers: dict[str, Callable[[], Any]] = {"uniform": UniformBitCrossover, "front-aware": FrontAwareCrossover}

    def nsga2(start: str, mutation: str, crossover: str) -> NSGA2:
        sampling = SensitivitySampling(sparse, mix=starts[start])
        return NSGA2(pop_size=40, sampling=sampling, mutation=mutations[mutation](), crossover=crossovers[crossover]())

    return {
        f"NSGA-II: {start} start, {mutation} mutation, {crossover} crossover": (
            sparse if (start, mutation) != ("diagonal", "uniform") else None,
            partial(nsga2, start, mutation, crossover),
        )
        for start in starts
        for mutation in mutations
        for crossover in crossovers
    }


def lookups(table: SensitivityTable, cost: str, evaluations: int, seed: int) -> dict[str, tuple[int, Vectors]]:
    """Return what methods that don't search pay for the scan, and their vectors, as many as are left.

    The additive model's own do not depend on the seed and run once.
    """
    scan = int(table.allowed.sum())
    found = {"random, budget-matched": (0, random_policies(table.space, evaluations, seed, cost=cost))}
    if seed == 0:
        path = greedy_path(table, cost)
        rows = np.unique(np.linspace(0, len(path) - 1, evaluations - scan).round().astype(int))
        front = additive_front(table, cost=cost, progress=False)
        optima = [additive_optimum(table, budgets=budget) for budget in budgets_of(table, cost)]
        found |= {
            "additive front": (scan, spread(front, evaluations - scan)),
            "greedy path": (scan, path[rows]),
            ILP: (scan, np.array(optima)),
        }
    return found


def budgets_of(table: SensitivityTable, cost: str) -> list[dict[str, float]]:
    """Return the 8 budgets, evenly spread between the narrowest and the widest policy's cost, both left out."""
    return budget_grid(table.space, cost=cost, n=10)[1:-1]


def box(problem: MixedPrecisionProblem, cost: str) -> tuple[Any, Any]:
    """Return the frozen ideal and reference point."""
    low, high = as_cost(cost).bounds(problem.space)
    return np.array([LOG_DIFFERENCE[0], low]), np.array([LOG_DIFFERENCE[1], high])


def curve(
    problem: MixedPrecisionProblem, X: Vectors, counts: Vectors, cost: str, evaluations: int
) -> tuple[list[tuple[int, float]], list[tuple[float, float]]]:
    """Return what a run had after some numbers of evaluations, and its front.

    Args:
        problem: The problem.
        X: Vectors in the order they were evaluated.
        counts: After how many evaluations each was known, not falling; later ones than `evaluations` don't count.
        cost: bops or size.
        evaluations: Evaluations of the run.

    Returns:
        `(evaluations, hypervolume)`, and `(difference, cost)` of the nondominated policies by cost.
    """
    X, counts = X[counts <= evaluations], counts[counts <= evaluations]
    F = problem.evaluate(X, return_as_dictionary=True)["F"]
    scaled = F.copy()
    scaled[:, 0] = log_difference(F[:, 0])
    ideal, reference = box(problem, cost)
    last = np.flatnonzero(np.diff(counts, append=np.inf))  # the last policy at each number of evaluations
    last = last[np.unique(np.linspace(0, len(last) - 1, POINTS).round().astype(int))]
    rows = [(int(counts[i]), normalized_hypervolume(scaled[: i + 1], ideal=ideal, reference=reference)) for i in last]
    front = F[moocore.is_nondominated(F)]
    return rows, [(float(d), float(c)) for d, c in front[np.argsort(front[:, 1])]]


Name = Annotated[str, typer.Argument(help="Name of a zoo entry.")]
CostOption = Annotated[str, typer.Option(help="bops or size.")]
Seeds = Annotated[int, typer.Option(help="Seeds 0..n-1.")]
Evaluations = Annotated[int, typer.Option(help="Evaluations of each run, the scan included.")]
Methods = Annotated[list[str] | None, typer.Option(help="Only these; repeatable.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")]
Threads = Annotated[int | None, typer.Option(help="Micro-batches computed at once.")]


@app.command()
def run(
    name: Name,
    *,
    cost: CostOption = "bops",
    seeds: Seeds = 11,
    evaluations: Evaluations = 1000,
    methods: Methods = None,
    output: Output = Path("quality"),
    threads: Threads = None,
) -> None:
    """Run what is missing in the results, seed by seed."""
    _run(name, cost, seeds, evaluations, methods, output, threads, ablation=False)


@app.command()
def ablation(
    name: Name,
    *,
    cost: CostOption = "bops",
    seeds: Seeds = 5,
    evaluations: Evaluations = 1000,
    methods: Methods = None,
    output: Output = Path("quality"),
    threads: Threads = None,
) -> None:
    """The same with NSGA-II and each start, mutation and crossover."""
    _run(name, cost, seeds, evaluations, methods, output, threads, ablation=True)


def _run(
    name: str,
    cost: str,
    seeds: int,
    evaluations: int,
    methods: list[str] | None,
    output: Path,
    threads: int | None,
    *,
    ablation: bool,
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    results = output / "runs.jsonl"
    done = {(r["network"], r["cost"], r["method"], r["seed"], r["asked"]) for r in read(results)}
    network = (evoq.Recipe(model=name) if name == "digits" else recipe_for(name))(threads=threads)
    problem = MixedPrecisionProblem(network, objectives=("difference", cost), store=output / f"{name}.sqlite")
    sparse = evoq.measure_sensitivity(network, evaluator=problem.evaluator, method="sparse")
    sparse_scan, full_scan = (len(scan_policies(network.space, method)[0]) for method in ("sparse", "full"))
    needs_full = not methods or not set(methods) <= set(searchers(sparse, None))
    full = None
    if needs_full and not ablation and full_scan < evaluations:
        full = evoq.measure_sensitivity(network, evaluator=problem.evaluator)
    algorithms = ablations(sparse) if ablation else searchers(sparse, full)
    for seed in range(seeds):
        fixed = {} if full is None else lookups(full, cost, evaluations, seed)
        for method in [*algorithms, *fixed]:
            if (methods and method not in methods) or (name, cost, method, seed, evaluations) in done:
                continue
            start = time.time()
            if method in fixed:
                paid, X = fixed[method]
                counts = paid + 1 + np.arange(len(X))
            else:
                table, make = algorithms[method]
                paid = 0 if table is None else sparse_scan if table is sparse else full_scan
                found = evoq.run_search(problem, make(), evaluations=evaluations - paid, seed=seed)
                X = found.vectors
                generations = np.diff([row.policies for row in found.trace], prepend=0)
                counts = paid + np.repeat([row.evaluations for row in found.trace], generations)
                if not method.startswith("ours"):  # one evaluation each, so the last generation may be cut anywhere
                    counts = paid + 1 + np.arange(len(X))
            rows, front = curve(problem, X, counts, cost, evaluations)
            row = {
                "network": name,
                "cost": cost,
                "method": method,
                "seed": seed,
                "asked": evaluations,
                "hypervolume": rows,
                "front": front,
                "policies": int((counts <= evaluations).sum()),
                "budgets": [next(iter(budget.values())) for budget in budgets_of(sparse, cost)],
                "seconds": round(time.time() - start, 1),
                "fingerprint": network.fingerprint,
            }
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            console.print(f"{name} {cost} seed {seed} {method}: {rows[-1][1]:.4f}")
    problem.close()


def read(results: Path) -> list[dict[str, Any]]:
    """Return the rows of a results file."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


Runs = dict[int, dict[str, Any]]


@app.command()
def table(folder: Annotated[Path, typer.Argument(help="Folder of the results.")]) -> None:
    """Print the medians, ours against each other method over the seeds that both have, and points 2 and 3."""
    groups: dict[tuple[str, str, int], dict[str, Runs]] = defaultdict(lambda: defaultdict(dict))
    for row in read(folder / "runs.jsonl"):
        groups[row["network"], row["cost"], row["asked"]][row["method"]][row["seed"]] = row
    for (network, cost, asked), methods in groups.items():
        console.print(_medians(f"{network}, {cost}, {asked} evaluations, moocore {moocore.__version__}", methods))
        ours = methods.get("ours", {})
        target = groups.get((network, cost, 2000), {}).get("stock, diagonal start", {})
        if ours and target and asked != 2000:
            _print_target(ours, target)
        if ours and ILP in methods:
            _print_budgets(ours, methods[ILP][0])


@app.command()
def surfaces(
    folder: Annotated[Path, typer.Argument(help="Folder of the results.")],
    name: Name,
    *,
    cost: CostOption = "bops",
    evaluations: Evaluations = 1000,
    methods: Methods = None,
    picture: Annotated[Path | None, typer.Option(help="Draw them into this file; best with few methods.")] = None,
) -> None:
    """Print the difference that half of the seeds attain at each of the 8 budgets, by method."""
    fronts: dict[str, list[Any]] = defaultdict(list)
    budgets: list[float] = []
    for row in read(folder / "runs.jsonl"):
        if (row["network"], row["cost"], row["asked"]) == (name, cost, evaluations):
            if row["method"] != ILP and (not methods or row["method"] in methods):
                fronts[row["method"]].append(np.array(row["front"])[:, ::-1])
            budgets = row["budgets"]
    found = {method: attainment_surfaces(runs, percentiles=(25, 50, 75)) for method, runs in fronts.items()}
    shown = Table("method", "seeds", *(f"{budget:.4g}" for budget in budgets), title=f"{name}, {cost}")
    for method, (_, median, _) in found.items():
        attained = [median.points[median.points[:, 0] <= budget * (1 + 1e-12), 1] for budget in budgets]
        cells = (f"{part.min():.2g}" if len(part) else "-" for part in attained)
        shown.add_row(method, str(len(fronts[method])), *cells)
    console.print(shown)
    if picture is not None:
        axes = plot_attainment(found, xlabel=axis_label(cost))
        axes.set_yscale("log")
        save_axes(axes, picture)


def _medians(title: str, methods: dict[str, Runs]) -> Table:
    last = {method: {seed: r["hypervolume"][-1][1] for seed, r in runs.items()} for method, runs in methods.items()}
    last.pop(ILP, None)
    shown = Table(title=title)
    for column in ("method", "seeds", "median", "lowest", "highest", "ours / it", "seeds ours wins", "p"):
        shown.add_column(column, justify="left" if column == "method" else "right")
    ours = last.get("ours", {})
    for method, found in sorted(last.items(), key=lambda item: -float(np.median(list(item[1].values())))):
        values = list(found.values())
        paired = dict.fromkeys(ours, values[0]) if method == "additive front" else found  # that one has no seed
        both = sorted(set(ours) & set(paired)) if method != "ours" else []
        gain = np.array([ours[s] - paired[s] for s in both])
        ratio = f"{np.median([ours[s] / paired[s] for s in both]):.3f}" if both else ""
        p = f"{wilcoxon(gain, alternative='greater').pvalue:.4f}" if len(both) > 1 and gain.any() else ""
        wins = f"{(gain > 0).sum()}/{len(both)}" if both else ""
        spread_ = (f"{v:.4f}" for v in (np.median(values), min(values), max(values)))
        shown.add_row(method, str(len(values)), *spread_, ratio, wins, p)
    return shown


def _print_target(ours: Runs, target: Runs) -> None:
    """Print after how many evaluations ours passes the median of what stock NSGA-II has after 2,000."""
    passed = float(np.median([r["hypervolume"][-1][1] for r in target.values()]))
    needed = [next((n for n, h in r["hypervolume"] if h > passed), None) for r in ours.values()]
    console.print(
        f"ours passes {passed:.4f} (median of {len(target)} runs of 2,000 evaluations of stock NSGA-II, diagonal "
        f"start) after {sorted(n for n in needed if n is not None)} evaluations, never in {needed.count(None)} runs"
    )


def _print_budgets(ours: Runs, optima: dict[str, Any]) -> None:
    """Print the ratio of our difference to the integer program's at each budget, and its median over all."""
    ratios = []
    for limit in optima["budgets"]:
        theirs = min((d for d, c in optima["front"] if c <= limit * (1 + 1e-12)), default=np.nan)
        best = [min((d for d, c in r["front"] if c <= limit * (1 + 1e-12)), default=np.nan) for r in ours.values()]
        ratios.append(np.array(best) / theirs)
    per_budget = ", ".join(f"{np.median(r):.2f}" for r in ratios)
    console.print(
        f"our difference / the additive integer program's at 8 budgets (medians of {len(ours)} seeds): {per_budget}; "
        f"median of all {np.median(ratios):.3f}"
    )


if __name__ == "__main__":
    app()
