"""How much does the found front move with the number, the draw and the kind of samples? Do 50 suffice?

    python benchmarks/sample_counts.py run cifar10_resnet20 -o sample_rows
    python benchmarks/sample_counts.py run cifar10_resnet20 -o sample_rows --kinds k-center,high-entropy,synthetic
    python benchmarks/sample_counts.py show sample_rows

Each row searches one front with its own samples (scan, then the search), and measures points of it, evenly spread,
once more on a large set of other samples that all rows share. Rows are compared by the hypervolume of those common
values (BOPs and log10 difference, in one fixed box), and by how far the front's own values are from the common ones. A
row is a JSON file in the folder; rows that are there are not computed again.
"""

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from accuracy import recipe_for
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

import evoq_moo as evoq
from evoq_moo.files import write_atomically
from evoq_moo.indicators import log_difference, normalized_hypervolume
from evoq_moo.samples import SYNTHETIC

app = typer.Typer(add_completion=False, help=__doc__)
console = Console()
BITS = (2, 3, 4, 6, 8)
LARGE_SEED = 1000
"""Of the draw of the common samples."""


def network_of(name: str, *, count: int, draw: int, kind: str, bits: tuple[int, ...], threads: int) -> Any:
    """Return a quantized network with its own samples."""
    recipe = recipe_for(name, draw=draw).to_json() | {"count": count, "weight_bits": bits, "activation_bits": bits}
    recipe |= {"samples": SYNTHETIC} if kind == SYNTHETIC else {"choose": kind}
    return evoq.Recipe.from_json(recipe | {"tied": True}, trust=True)(threads=threads)


@app.command()
def run(
    network: Annotated[str, typer.Argument(help="Name of a zoo entry with weights in ../shared/data.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of rows.")],
    counts: Annotated[str, typer.Option(help="Numbers of samples, one draw each.")] = "5,10,20,50,100,200,500",
    draws: Annotated[int, typer.Option(help="Draws of 50 samples.")] = 10,
    kinds: Annotated[str, typer.Option(help="Other ways to get 50 samples, with commas.")] = "",
    common: Annotated[int, typer.Option(help="Samples of the common set.")] = 500,
    evaluations: Annotated[int, typer.Option(help="Of each search, beyond the scan.")] = 300,
    points: Annotated[int, typer.Option(help="Points of each front to measure on the common set.")] = 10,
    threads: Annotated[int, typer.Option(help="Micro-batches computed at once.")] = 1,
) -> None:
    """Compute the rows that are missing. One gene a layer (weights and activations alike), of 2, 3, 4, 6 or 8 bits."""
    cells = [(50, draw, "random") for draw in range(draws)]
    several = [(int(count), 0, "random") for count in counts.split(",") if count]
    cells += [cell for cell in several if cell not in cells]
    cells += [(50, 0, kind) for kind in kinds.split(",") if kind]
    output.mkdir(parents=True, exist_ok=True)
    judge = None
    for count, draw, kind in cells:
        path = output / f"{network}-{kind}-{count}-{draw}.json"
        if path.exists():
            continue
        if judge is None:
            judge = network_of(network, count=common, draw=LARGE_SEED, kind="random", bits=BITS, threads=threads)
        started = time.process_time()
        own = network_of(network, count=count, draw=draw, kind=kind, bits=BITS, threads=threads)
        store = output / f"{path.stem}.sqlite"
        found = evoq.search(own, evaluations=evaluations, pop_size=20, seed=0, store=store).front
        rows = np.unique(np.linspace(0, len(found) - 1, points).round().astype(int)).tolist()
        measured = [judge.evaluate(found[i].policy) for i in rows]
        row = {
            "network": network,
            "kind": kind,
            "count": count,
            "draw": draw,
            "evaluations": evaluations,
            "common": common,
            "gbops": [found[i].gbops for i in rows],
            "own": [found[i].difference for i in rows],
            "on_common": [one.difference for one in measured],
            "bits": [found[i].policy.to_array()[:, 0].tolist() for i in rows],
            "widest": judge.cost(judge.uniform(8)).gbops,
            "cpu_s": time.process_time() - started,
            "load": os.getloadavg()[0],
        }
        write_atomically(path, (json.dumps(row, indent=1) + "\n").encode())
        console.print(f"{path.stem}: hypervolume {hypervolume(row):.4f}, {row['cpu_s']:.0f} CPU s", highlight=False)


def hypervolume(row: dict[str, Any]) -> float:
    """Return the share of a fixed box: BOPs from 0 to all 8 bits, differences from 1e-4 to 10."""
    values = np.column_stack([row["gbops"], log_difference(np.array(row["on_common"]))])
    return normalized_hypervolume(values, ideal=[0, -4], reference=[row["widest"], 1])


@app.command()
def show(folder: Annotated[Path, typer.Argument(help="Folder of rows.")]) -> None:
    """Print a line a kind and count: hypervolume on the common samples, and how own values rank and err."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        row = json.loads(path.read_text())
        groups.setdefault((row["network"], row["kind"], row["count"]), []).append(row)
    table = Table("network", "samples", "count", "draws", "hypervolume", "own / common", "tau", "CPU s")
    for (name, kind, count), rows in sorted(groups.items()):
        volumes = [hypervolume(row) for row in rows]
        ratios = [float(np.median(np.array(row["own"]) / np.array(row["on_common"]))) for row in rows]
        taus = [float(kendalltau(row["own"], row["on_common"]).statistic) for row in rows]
        spread = f" +- {np.std(volumes, ddof=1):.4f}" if len(rows) > 1 else ""
        figures = (f"{np.mean(volumes):.4f}{spread}", f"{np.mean(ratios):.2f}", f"{np.mean(taus):.3f}")
        seconds = f"{np.mean([row['cpu_s'] for row in rows]):.0f}"
        table.add_row(name, kind, str(count), str(len(rows)), *figures, seconds)
    console.print(table)


if __name__ == "__main__":
    app()
