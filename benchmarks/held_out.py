"""How good fronts are on images that their search never saw, with real weights and images of ../shared/data.

    python benchmarks/held_out.py run cifar10_resnet20 --draws 5 --difference kl --difference nmse -o held_out
    python benchmarks/held_out.py run squeezenet1_1 --evaluations 600 --draws 2 --methods ours -o held_out
    python benchmarks/held_out.py table held_out

A draw is 50 samples and as many other images of the same calibration set as `--images` says; its number is the seed of
the search too. Each method gets `--evaluations`, the scan counted in. Lookups evaluate `--points` policies of the
additive front or the greedy path, of a full scan or of a sparse one.

A front is judged at 35 budgets, evenly spread between the narrowest and the widest policy's cost: at each, the policy
that a user would pick (the smallest difference on the samples within it) is measured on the other images, by every
difference of `JUDGES` and by how often it agrees with the float network. "As found" is the mean over the budgets of the
share of the box, log10 differences from -6.5 to 1, below what was picked: the normalized hypervolume; "re-filtered"
takes the best of what was picked at the budget and at all smaller ones.

`run` appends a line to `runs.jsonl` for each method of a draw, keeps evaluations in a store, and goes on where it was
killed. `table` prints medians over the draws and Wilcoxon's signed-rank tests, paired by draw, against `--against`.
"""

import json
import runpy
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from accuracy import DATA, recipe_for
from pymoo.algorithms.moo.nsga2 import NSGA2
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from search_quality import stock
from torch import Tensor, nn
from torchvision import models

import evoq_moo as evoq
from evoq_moo.analysis import wilcoxon_signed_rank
from evoq_moo.baselines import additive_front, budget_grid, greedy_path, spread
from evoq_moo.difference import METRICS
from evoq_moo.operators import SensitivitySampling
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.sensitivity import SensitivityTable, scan_policies

app = typer.Typer(add_completion=False, help=__doc__)
console = Console()
SAMPLES = 50
LOG_DIFFERENCE = (-6.5, 1.0)
BUDGETS = 35
"""Budgets that a front is judged at; every fourth is one of the 8 at which agreement is stated."""
JUDGES = ("kl", "nmse", "top1_flips")
Vectors = np.ndarray[Any, np.dtype[np.int64]]
CIFAR = {
    "cifar10_resnet8": lambda shared: shared["ResNet8"](),
    "cifar10_resnet32": lambda shared: shared["CifarResNet"](32),
    "cifar10_resnet18": lambda _shared: models.resnet18(num_classes=10),
    "cifar10_shufflenet_v2_x1_0": lambda _shared: models.shufflenet_v2_x1_0(num_classes=10),
}
"""Networks of ../shared/data that the zoo lacks."""


def _shared_network(name: str) -> tuple[nn.Module, Any]:
    """Return a network of ../shared/data and its preprocessing, as that folder's README says."""
    network = CIFAR[name](runpy.run_path(str(DATA / "networks.py")))
    network.load_state_dict({k: v.float() for k, v in load_file(DATA / "weights" / f"{name}.safetensors").items()})
    if name == "cifar10_resnet8":
        return network, lambda images: torch.from_numpy(images).permute(0, 3, 1, 2).float()
    normalize = evoq.zoo.load("cifar10_resnet20").preprocess
    if name != "cifar10_shufflenet_v2_x1_0":
        return network, normalize
    return network, lambda images: nn.functional.interpolate(normalize(images), size=64, mode="bilinear")


def draw_of(name: str, draw: int, images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a float network, a draw of samples, and other images."""
    if name in CIFAR:
        model, preprocess = _shared_network(name)
        pixels = np.load(DATA / "cifar10_calibration.npz")["images"]
        chosen = np.random.default_rng(draw).permutation(len(pixels))[: SAMPLES + images]  # as load_samples draws
        x = preprocess(pixels[chosen])
    else:
        recipe = recipe_for(name)
        model, preprocess = recipe.load_model()
        x = evoq.load_samples(recipe.samples or "", count=SAMPLES + images, preprocess=preprocess, seed=draw)
    return model, x[:SAMPLES], x[SAMPLES:]


class Judge:
    """Measures policies on images, with the ranges of a network's samples."""

    def __init__(self, network: evoq.QuantizedNetwork, images: Tensor) -> None:
        self._engine = network.engine_on(images)
        self._float = self._engine.heads(np.full((len(network.space.layers), 2), 32))

    def __call__(self, bits: Vectors) -> dict[str, float]:
        """Return the differences of bit-widths `(layers, 2)` by name."""
        heads = self._engine.heads(bits)
        return {name: METRICS[name](self._float, heads) for name in JUDGES}


def searched(problem: MixedPrecisionProblem, algorithm: Any, evaluations: int, seed: int) -> Vectors:
    """Return what a search evaluated."""
    return evoq.run_search(problem, algorithm, evaluations=evaluations, seed=seed, progress=False).vectors


def looked_up(table: SensitivityTable, cost: str, points: int) -> dict[str, Vectors]:
    """Return policies of the two lookups."""
    path = greedy_path(table, cost)
    return {
        "additive": spread(additive_front(table, cost=cost, progress=False), points),
        "greedy": path[np.unique(np.linspace(0, len(path) - 1, points).round().astype(int))],
    }


METHODS = ("ours", "additive", "greedy", "additive, sparse scan", "greedy, sparse scan", "stock")


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="Name of a zoo entry, or of a network of ../shared/data.")],
    *,
    cost: Annotated[str, typer.Option(help="bops or size.")] = "bops",
    draws: Annotated[int, typer.Option(help="Draws of samples, 0..n-1.")] = 5,
    first: Annotated[int, typer.Option(help="The first draw.")] = 0,
    difference: Annotated[list[str], typer.Option(help="Repeatable.")] = ["auto"],  # noqa: B006
    evaluations: Annotated[int, typer.Option(help="Evaluations of each method, the scan included.")] = 1000,
    points: Annotated[int, typer.Option(help="Policies that a lookup evaluates.")] = 200,
    images: Annotated[int, typer.Option(help="Other images.")] = 300,
    methods: Annotated[list[str], typer.Option(help="Only these; repeatable.")] = list(METHODS),  # noqa: B006
    label: Annotated[str, typer.Option(help="Added to the names of methods, for other versions of them.")] = "",
    mirror: Annotated[
        bool, typer.Option(help="Mirror images are samples too; half the evaluations, which then cost twice as much.")
    ] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path("held_out"),
    threads: Annotated[int | None, typer.Option(help="Micro-batches computed at once.")] = None,
) -> None:
    """Run what is missing in the results, draw by draw."""
    output.mkdir(parents=True, exist_ok=True)
    results = output / "runs.jsonl"
    done = {(r["network"], r["cost"], r["draw"], r["difference"], r["method"], r["asked"]) for r in read(output)}
    for draw in range(first, first + draws):
        for asked in difference:
            names = {method: " ".join([method, *["mirror"] * mirror, *[label] * bool(label)]) for method in methods}
            names = {m: n for m, n in names.items() if (name, cost, draw, asked, n, evaluations) not in done}
            if not names:
                continue
            model, samples, others = draw_of(name, draw, images)
            samples = torch.cat([samples, samples.flip(-1)]) if mirror else samples
            network = evoq.QuantizedNetwork(model, samples, difference=asked, threads=threads, progress=False)
            judge = Judge(network, others)
            own = Judge(network, samples)
            store = evoq.EvaluationStore(output / f"{name}.sqlite", shared=True)
            problem = MixedPrecisionProblem(network, objectives=("difference", cost), store=store)
            for method, shown in names.items():
                start = time.time()
                X = _vectors(problem, method, cost, evaluations // (1 + mirror), points, draw)
                row = {
                    "network": name,
                    "cost": cost,
                    "draw": draw,
                    "difference": asked,
                    "metric": network.metric,
                    "method": shown,
                    "asked": evaluations,
                    "policies": len(X),
                    "seconds": round(time.time() - start, 1),
                    **_judged(problem, X, own, judge),
                }
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                console.print(f"{name} {cost} draw {draw} {asked} {shown}: {_summary(row)}", highlight=False)
            problem.close()
            store.close()


def _vectors(
    problem: MixedPrecisionProblem, method: str, cost: str, evaluations: int, points: int, seed: int
) -> Vectors:
    network, evaluator = problem.network, problem.evaluator
    sparse = method in {"ours", "stock"} or method.endswith("sparse scan")
    scan = "sparse" if sparse else "full"
    table = evoq.measure_sensitivity(network, evaluator=evaluator, method=scan, progress=False)
    left = evaluations - len(scan_policies(network.space, scan)[0])
    if method == "ours":
        return searched(problem, evoq.SurrogateSearch(table), left, seed)
    if method == "stock":
        sampling = SensitivitySampling(table, mix={"additive": 1.0})
        return searched(problem, NSGA2(pop_size=40, sampling=sampling, **stock(3)), left, seed)
    return looked_up(table, cost, min(points, left))[method.partition(",")[0]]


def _judged(problem: MixedPrecisionProblem, X: Vectors, own: Judge, judge: Judge) -> dict[str, Any]:
    """Return, for each budget, what was picked, and what is true of it on the samples and on other images."""
    cost = problem.objectives[1]
    front = evoq.ParetoFront.from_vectors(problem, X)
    costs, differences = front.values(cost), front.values("difference")
    picks: list[dict[str, Any]] = []
    known: dict[int, dict[str, Any]] = {}
    for budget in budget_grid(problem.space, cost=cost, n=BUDGETS + 2)[1:-1]:
        limit = budget[cost] * (1 + 1e-12)
        within = np.flatnonzero(costs <= limit)
        if not len(within):
            picks.append({"budget": budget[cost]})
            continue
        i = int(within[np.argmin(differences[within])])
        if i not in known:
            bits = front[i].policy.to_array()
            known[i] = {"cost": float(costs[i]), "samples": own(bits), "others": judge(bits), "bits": bits.tolist()}
        picks.append({"budget": budget[cost], **known[i]})
    return {"points": len(front), "picks": picks}


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a folder of results."""
    path = folder / "runs.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def area(row: dict[str, Any], judge: str, *, where: str = "others", again: bool = False) -> float:
    """Return the normalized hypervolume of what was picked.

    Args:
        row: A row of the results.
        judge: By which difference.
        where: ``"others"`` or ``"samples"``.
        again: Re-filtered: the best of what was picked at no larger budget.
    """
    low, high = LOG_DIFFERENCE
    values = [np.log10(max(p[where][judge], 1e-12)) if where in p else high for p in row["picks"]]
    if again:
        values = np.minimum.accumulate(values).tolist()
    return float(np.mean(np.clip((high - np.array(values)) / (high - low), 0, 1)))


def ratio(row: dict[str, Any], *, below: float = np.inf) -> float:
    """Return the median held-out difference over that on the samples, in the search's own difference."""
    metric = row["metric"]
    found = {p["cost"]: (p["others"][metric], p["samples"][metric]) for p in row["picks"] if "others" in p}
    ratios = [others / own for others, own in found.values() if 0 < own < below]
    return float(np.median(ratios)) if ratios else float("nan")


def agreement(row: dict[str, Any]) -> list[float]:
    """Return how often what was picked at 8 budgets agrees with the float network on the other images (%)."""
    return [100 * (1 - p["others"]["top1_flips"]) if "others" in p else 0.0 for p in row["picks"][3::4]]


def _summary(row: dict[str, Any]) -> str:
    areas = " ".join(
        f"{judge} {area(row, judge, where='samples'):.4f} -> {area(row, judge):.4f}/{area(row, judge, again=True):.4f}"
        for judge in ("kl", "nmse")
    )
    return (
        f"{areas}; ratio {ratio(row):.2f} ({ratio(row, below=1e-3):.2f} below 1e-3); agreement "
        f"{np.mean(agreement(row)):.2f}; {row['points']} points, {row['seconds']} s"
    )


@app.command()
def table(
    folder: Annotated[Path, typer.Argument(help="Folder of the results.")],
    *,
    judge: Annotated[list[str], typer.Option(help="By which difference; repeatable.")] = ["kl", "nmse"],  # noqa: B006
    against: Annotated[str, typer.Option(help="`difference method` that the others are compared with.")] = "nmse ours",
) -> None:
    """Print the medians over the draws, and each method against one, paired by draw."""
    groups: dict[Any, dict[str, dict[int, Any]]] = defaultdict(lambda: defaultdict(dict))
    for row in read(folder):
        found = groups[row["network"], row["cost"], row["asked"]]
        found[f"{row['difference']} {row['method']}"][row["draw"]] = row
    for (network, cost, asked), methods in groups.items():
        for by in judge:
            console.print(_table(f"{network}, {cost}, {asked} evaluations; judged by {by}", methods, by, against))


def _table(title: str, methods: dict[str, dict[int, Any]], judge: str, against: str) -> Table:
    shown = Table(title=title)
    columns = ("difference, method", "draws", "samples", "as found", "re-filtered", "ours / it", "draws ours wins", "p")
    for column in (*columns, "ratio", "below 1e-3", "agreement", "least gain at 8"):
        shown.add_column(column, justify="left" if column == columns[0] else "right")
    base = methods.get(against, {})
    for method, rows in sorted(methods.items(), key=lambda m: -np.median([area(r, judge) for r in m[1].values()])):
        values = [np.median([area(r, judge, **k) for r in rows.values()]) for k in _COLUMNS]
        both = sorted(set(base) & set(rows)) if method != against else []
        ours, its = ([area(r[d], judge) for d in both] for r in (base, rows))
        gains = [np.array(agreement(base[d])) - agreement(rows[d]) for d in both]
        shown.add_row(
            method,
            str(len(rows)),
            *(f"{v:.4f}" for v in values),
            f"{np.mean(np.divide(ours, its)):.3f}" if both else "",
            f"{int(np.greater(ours, its).sum())}/{len(both)}" if both else "",
            f"{wilcoxon_signed_rank(ours, its)[1]:.4f}" if len(both) > 1 else "",
            *(f"{np.median([ratio(r, **k) for r in rows.values()]):.2f}" for k in ({}, {"below": 1e-3})),
            f"{np.mean([agreement(r) for r in rows.values()]):.2f}",
            f"{np.mean(gains, axis=0).min():.2f}" if both else "",
        )
    return shown


_COLUMNS: tuple[dict[str, Any], ...] = ({"where": "samples"}, {}, {"again": True})

if __name__ == "__main__":
    app()
