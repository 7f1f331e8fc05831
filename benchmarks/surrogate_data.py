"""Real evaluations that the surrogate problems of `evoq_moo.problems.get_problem` are fitted on and judged by.

    python benchmarks/surrogate_data.py digits=20000 cifar10_resnet20=8000 squeezenet1_1=1000 -o data

For each network: the sensitivity scan, then the first so many policies of a fixed sequence, one thread. Every result
is in `data/NETWORK.sqlite` at once, so it goes on where it was killed. Networks take turns, a hundredth of their
policies each, so that a run that is ended early has something of all. The search's usual 50 samples, but for the
networks in `SAMPLES`.

The sequence draws independently, with seed 0: 0.3 random policies around random levels of bits, 0.1 with every gene
uniform, 0.2 points of the additive model's fronts (of bit operations and of size, evenly along the curve), 0.4 points
near them: layers exchanged with another point of the front or a random policy, then genes moved by one or two choices.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from accuracy import DATA, recipe_for
from rich.console import Console

import evoq_moo as evoq
from evoq_moo.baselines import AdditiveFront, additive_front, spread
from evoq_moo.costs import Cost, gene_tables, known_costs
from evoq_moo.evaluation import Evaluator
from evoq_moo.files import write_atomically
from evoq_moo.operators.sampling import STEPS
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import SearchSpace

console = Console()
KINDS = ("levels", "uniform", "front", "near")
SHARES = (0.3, 0.1, 0.2, 0.4)
FRONT_POINTS = 2000
SEED = 0
SAMPLES = {"squeezenet1_1": 16, "mobilenet_v2": 8, "efficientnet_lite0": 8, "ssd_mobilenet_v1_075_coco": 8}
"""Fewer samples where an evaluation is dear: the problem made of them says so."""
TURNS = 100
Vectors = np.ndarray[Any, np.dtype[np.int64]]


def recipe_of(name: str) -> evoq.Recipe:
    """Return the recipe of a network of the suite."""
    if name == "digits":
        return evoq.Recipe(model=name)
    images = {"samples": str(DATA / "coco_val_64")} if name.endswith("_coco") else {}
    return dataclasses.replace(recipe_for(name), count=SAMPLES.get(name, 50), **images)


def front_of(table: SensitivityTable, cost: Cost) -> AdditiveFront:
    """Return the additive front, in steps fine enough for any use here."""
    low, high = cost.bounds(table.space)
    return additive_front(table, cost=cost, resolution=(high - low) / STEPS, progress=False)


def random_levels(space: SearchSpace, rng: np.random.Generator) -> Vectors:
    """Return a policy around a random level of bits, weights and activations apart half of the time."""
    level = np.repeat(rng.uniform(1.5, 8.5, size=1), 2) if rng.random() < 0.5 else rng.uniform(1.5, 8.5, size=2)
    is_weight = np.array([gene.kind != "activation" for gene in space.genes])
    values = np.where(is_weight, level[0], level[1]) + rng.uniform(0, 2.5) * rng.standard_normal(space.n_var)
    return space.snap(values[None])[0]


def near(space: SearchSpace, points: Vectors, rng: np.random.Generator) -> Vectors:
    """Return a policy near a point of the additive front."""
    tables = gene_tables(space)
    x = points[rng.integers(len(points))]
    kind = rng.integers(3)
    if kind > 0:
        other = points[rng.integers(len(points))] if kind == 1 else random_levels(space, rng)
        share = rng.uniform(0.02, 0.5)
        x = np.where((rng.random(len(space.layers)) < share)[tables.layer], other, x)
    genes = np.arange(space.n_var)
    moved = rng.random(space.n_var) < np.exp(rng.uniform(np.log(1 / space.n_var), np.log(0.4)))
    step = np.where(moved, rng.choice([-2, -1, -1, 1, 1, 2], size=space.n_var), 0)
    rank = tables.rank[genes, tables.columns(x[None])[0]]
    return tables.choices[genes, np.clip(rank + step, 0, tables.counts - 1)]


def policies(table: SensitivityTable, n: int) -> tuple[Vectors, np.ndarray[Any, Any]]:
    """Return the first `n` vectors of the sequence, and the index into `KINDS` of each."""
    rng = np.random.default_rng(SEED)
    space = table.space
    points = np.concatenate([spread(front_of(table, cost), FRONT_POINTS) for cost in known_costs()])
    X, kinds = [], []
    for _ in range(n):
        kind = int(rng.choice(len(KINDS), p=SHARES))
        kinds.append(kind)
        if KINDS[kind] == "levels":
            X.append(random_levels(space, rng))
        elif KINDS[kind] == "uniform":
            X.append(space.sample(1, rng)[0])
        elif KINDS[kind] == "front":
            X.append(points[rng.integers(len(points))])
        else:
            X.append(near(space, points, rng))
    return np.array(X), np.array(kinds)


def main(
    targets: Annotated[list[str], typer.Argument(help="NETWORK=POLICIES, several.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the stores.")] = Path("data"),
) -> None:
    """Evaluate what is missing."""
    output.mkdir(parents=True, exist_ok=True)
    work = []
    for target in targets:
        name, count = target.split("=")
        start = time.time()
        network = recipe_of(name)(threads=1)
        evaluator = Evaluator(network, store=output / f"{name}.sqlite")
        table = evoq.measure_sensitivity(network, evaluator=evaluator)
        table.save(output / f"{name}.sensitivity.json")
        origin = {
            "identity": network.identity,
            "fingerprint": network.fingerprint,
            "metric": network.metric,
            "samples": len(network.samples),
            "engine": network.engine_name,
            "policies": int(count),
            "seed": SEED,
        }
        write_atomically(output / f"{name}.json", json.dumps(origin).encode())
        bits = network.space.decode(policies(table, int(count))[0])
        work.append((name, evaluator, np.array_split(bits, TURNS)))
        console.print(f"{name}: {network.space.n_var} genes, ready after {time.time() - start:.1f} s", highlight=False)
    for turn in range(TURNS):
        for name, evaluator, parts in work:
            start, before = time.time(), evaluator.computed
            evaluator.differences(parts[turn])
            seconds = time.time() - start
            console.print(
                f"turn {turn + 1}/{TURNS} {name}: {evaluator.computed - before} in {seconds:.1f} s", highlight=False
            )
    for _, evaluator, _ in work:
        evaluator.close()


if __name__ == "__main__":
    typer.run(main)
