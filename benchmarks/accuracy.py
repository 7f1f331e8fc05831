"""Accuracy of quantized networks on the labelled images of ../shared/data, and how well the difference predicts it.

    python benchmarks/accuracy.py uniform mobilenet_v2            # one bit-width everywhere, 2..8
    python benchmarks/accuracy.py front mobilenet_v2 --run RUN    # ten points of a run's front, 40 random policies

`RUN` is the folder of `evoq search`. Every figure is top-1 on all labelled images of the network's data set
(imagenet_val_650, or cifar10_test_5000), computed by the default engine; the float network is measured on the same
images.
"""

import copy
import json
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

import evoq_moo as evoq
from evoq_moo.runs import load_front

app = typer.Typer(add_completion=False, help=__doc__)
console = Console()
DATA = Path(os.environ.get("EVOQ_SHARED_DATA") or Path(__file__).resolve().parents[1].parent / "shared" / "data")
Network = Annotated[str, typer.Argument(help="Name of a zoo entry.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many labelled images.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def recipe_for(name: str, *, draw: int = 0) -> evoq.Recipe:
    """Return the recipe of a network with a draw of 50 calibration images."""
    weights = DATA / "weights" / f"{name}.safetensors"
    cifar = name.startswith("cifar10")
    samples = DATA / ("cifar10_calibration.npz" if cifar else "imagenet_calibration_500")
    return evoq.Recipe(
        model=name, weights=str(weights) if weights.exists() else None, samples=str(samples), samples_seed=draw
    )


def labelled_images(name: str, recipe: evoq.Recipe, limit: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the labelled images of a network and their labels."""
    # The validation images are 227 pixels and were cut for a centre crop of 224: no resize.
    preprocess = recipe.load_model()[1].replace(resize=None)
    source = DATA / ("cifar10_test_5000.npz" if name.startswith("cifar10") else "imagenet_val_650")
    images, labels = zip(*evoq.LabelledImages(source, preprocess=preprocess, limit=limit), strict=True)
    return torch.cat(images), torch.cat(labels)


class Bench:
    """A network and its labelled images."""

    def __init__(self, name: str, limit: int | None) -> None:
        recipe = recipe_for(name)
        self.network = recipe()
        images, self.labels = labelled_images(name, recipe, limit)
        self.exact = evoq.evaluate_accuracy(self.network.network, (images, self.labels))
        # The same ranges, on the labelled images instead of the samples.
        self.labelled = copy.copy(self.network)
        self.labelled.samples = images
        self.labelled.set_threads(None)
        self.float_choice = self.labelled.engine.heads(np.full((len(self.network.space.layers), 2), 32))[0].argmax(1)

    def measure(self, policy: evoq.Policy) -> dict[str, Any]:
        """Return values and accuracy of a policy."""
        found = self.network.evaluate(policy)
        choice = self.labelled.engine.heads(policy.to_array())[0].argmax(1)
        return {
            "difference": found.difference,
            "size_mib": found.size_mib,
            "gbops": found.gbops,
            "top1": 100 * (choice == self.labels).double().mean().item(),
            "agreement": 100 * (choice == self.float_choice).double().mean().item(),
        }


def tau(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return Kendall's tau (and p) between minus the difference and top-1."""
    result = kendalltau([-row["difference"] for row in rows], [row["top1"] for row in rows])
    return {"tau": float(result.statistic), "p": float(result.pvalue)}


def report(title: str, rows: list[dict[str, Any]], as_json: bool, **more: Any) -> None:
    """Print rows as a table or JSON."""
    if as_json:
        print(json.dumps({"title": title, "rows": rows, **more}))
        return
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    console.print(table)
    for key, value in more.items():
        console.print(f"{key}: {value}", highlight=False)


@app.command()
def uniform(network: Network, *, limit: Limit = None, as_json: Json = False) -> None:
    """Measure one bit-width everywhere (ends at 8), from 8 to 2."""
    bench = Bench(network, limit)
    rows = [{"bits": b, **bench.measure(bench.network.uniform(b))} for b in range(8, 1, -1)]
    report(f"{network}, W=A uniform", rows, as_json, float_top1=100 * bench.exact.top1, images=bench.exact.count)


@app.command()
def front(
    network: Network,
    *,
    run: Annotated[Path, typer.Option(help="Folder of a run of this network.")],
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Measure ten points of a front and 40 random policies, and Kendall's tau of the difference and top-1 on each."""
    bench = Bench(network, limit)
    loaded = load_front(run)
    rows = np.linspace(0, len(loaded) - 1, 10).round().astype(int)
    points = [{"row": int(i), **bench.measure(loaded[int(i)].policy)} for i in rows]
    report(f"{network}, ten points of the front", points, as_json, **tau(points), float_top1=100 * bench.exact.top1)
    rng = np.random.default_rng(0)
    for lowest in (2, 5):
        vectors = np.maximum(bench.network.space.sample(40, rng), lowest)
        policies = [bench.measure(bench.network.space.policy(x)) for x in vectors]
        report(f"{network}, 40 random policies of {lowest}..8 bits", policies, as_json, **tau(policies))


if __name__ == "__main__":
    app()
