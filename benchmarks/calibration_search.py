"""Mixed-precision policies of a uniform network's size and BOPs, for `calibration_quality.py --fronts`.

    python benchmarks/calibration_search.py cifar10_resnet20 -o fronts --bits W4A8,W4A4,W3A8 --evaluations 500
    python benchmarks/calibration_search.py cifar10_resnet20 -o fronts --bits W4A4 --evaluations 500 --in-loop
    python benchmarks/calibration_search.py cifar10_resnet20 -o more --in-loop --mirror --distilled 50 --difference nmse

One objective, the difference, with both of the uniform network's costs as budgets: our best search of one objective,
from the sensitivity scan. With `--in-loop` every evaluation is that of the network after light calibration
(`MixedPrecisionProblem(..., calibrate="light")`), by the same search, after a sparse scan: such evaluations are
expensive. With `--mirror` and `--distilled 50` the search also looks at the samples' mirror images and at as many
images distilled from BatchNorm statistics, with `--difference nmse` at another difference (a folder for each, and for
each `--draw`). Each search gives two JSON files in the folder: the front (`NAME-W4A4.front.json`, or
`NAME-W4A4-loop.front.json`) and what it took (`.cost.json`: evaluations, seconds, seconds of one evaluation and of one
float forward of the samples, in the same process). A search whose files are there is not repeated; one that was
interrupted goes on from the store in the folder.
"""

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from accuracy import recipe_for

import evoq_moo as evoq
from evoq_moo.algorithms import default_algorithm
from evoq_moo.files import write_atomically
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.runs import run_search
from evoq_moo.sensitivity import Method, measure_sensitivity


def uniform(network: evoq.QuantizedNetwork, bits: str) -> evoq.Policy:
    """Return the policy of a text like W4A8, pinned layers pinned.

    Raises:
        typer.BadParameter: Not such a text.
    """
    match = re.fullmatch(r"W([2-8])A([2-8])", bits)
    if match is None:
        raise typer.BadParameter(f"bits: given {bits!r}; allowed: like W4A8")
    policies = [network.uniform(int(b)).to_array() for b in match.groups()]
    array = policies[0].copy()
    array[:, 1] = policies[1][:, 1]
    return evoq.Policy.from_array(network.space.layer_names, array)


def with_more_samples(
    recipe: evoq.Recipe, *, mirror: bool = False, distilled: int = 0, difference: str | None = None, threads: int | None
) -> evoq.QuantizedNetwork:
    """Return a recipe's network with its samples and others that need no image.

    Args:
        recipe: The recipe.
        mirror: The samples' mirror images too.
        distilled: So many images distilled from BatchNorm statistics too.
        difference: Another difference than the recipe's.
        threads: Micro-batches computed at once; None for one a core.
    """
    if difference is not None:
        recipe = replace(recipe, difference=difference)
    network = recipe(threads=threads)
    samples = [network.samples]
    if mirror:
        samples.append(network.samples.flip(-1))
    if distilled:
        samples.append(replace(recipe, samples="synthetic", count=distilled, samples_seed=0)(threads=threads).samples)
    if len(samples) == 1:
        return network
    module, _ = recipe.load_model()
    return evoq.QuantizedNetwork(module, torch.cat(samples), difference=recipe.difference, threads=threads)


def front_file(folder: Path, name: str, bits: str, *, loop: bool) -> Path:
    """Return where the front of a search is kept."""
    return folder / f"{name}-{bits}{'-loop' if loop else ''}.front.json"


def forward_seconds(network: evoq.QuantizedNetwork) -> float:
    """Return the time of one float forward of the samples, in the micro-batches that everything here uses (s)."""
    started = time.monotonic()
    network.pool.map(network.network, torch.split(network.samples, 5))
    return time.monotonic() - started


def main(
    name: Annotated[str, typer.Argument(help="Name of a zoo entry.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of fronts.")],
    bits: Annotated[str, typer.Option(help="Uniform networks whose costs are the budgets.")] = "W4A8,W4A4,W3A8",
    evaluations: Annotated[int, typer.Option(help="Of each search; the scan's come on top, once.")] = 500,
    in_loop: Annotated[bool, typer.Option(help="Calibrate inside each evaluation.")] = False,
    draw: Annotated[int, typer.Option(help="Seed of the draw of samples.")] = 0,
    mirror: Annotated[bool, typer.Option(help="Search on the samples' mirror images too.")] = False,
    distilled: Annotated[int, typer.Option(help="And on so many distilled images.")] = 0,
    difference: Annotated[str | None, typer.Option(help="Name of another difference.")] = None,
    threads: Annotated[int | None, typer.Option(help="Micro-batches computed at once; default: one a core.")] = None,
) -> None:
    """Search with the costs of uniform networks as budgets."""
    output.mkdir(parents=True, exist_ok=True)
    recipe = recipe_for(name, draw=draw)
    network = with_more_samples(recipe, mirror=mirror, distilled=distilled, difference=difference, threads=threads)
    for text in bits.split(","):
        path = front_file(output, name, text, loop=in_loop)
        if path.exists():
            continue
        cost = network.cost(uniform(network, text))
        problem = MixedPrecisionProblem(
            network,
            objectives=["difference"],
            budgets=cost.costs,
            store=output / f"{name}.sqlite",
            calibrate="light" if in_loop else None,
        )
        try:
            started = time.monotonic()
            method: Method = "sparse" if in_loop else "full"
            sensitivity = measure_sensitivity(network, evaluator=problem.evaluator, method=method)
            scanned, after_scan = problem.evaluator.computed, time.monotonic()
            algorithm = default_algorithm(problem, sensitivity)
            found = run_search(problem, algorithm, evaluations=evaluations, seed=0)
            ended = time.monotonic()
        finally:
            problem.close()
        computed = problem.evaluator.computed - scanned
        # Of this process: what an interrupted one had computed is not counted, so neither are its seconds.
        row = {
            "budgets": dict(problem.budgets),
            "scan_policies": scanned,
            "scan_seconds": after_scan - started,
            "search_policies": computed,
            "search_seconds": ended - after_scan,
            "evaluation_seconds": (ended - after_scan) / max(1, computed),
            "float_forward_seconds": forward_seconds(network),
            "load": os.getloadavg()[0],
        }
        write_atomically(path.with_suffix("").with_suffix(".cost.json"), (json.dumps(row, indent=1) + "\n").encode())
        found.front.save(path)
        print(f"{path}: difference {found.front.points[0].difference:.4g}; {row}")


if __name__ == "__main__":
    typer.run(main)
