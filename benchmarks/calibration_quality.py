"""What calibration recovers: top-1 on the labelled images of ../shared/data, plain, light and full.

    python benchmarks/calibration_quality.py run -o calibration_rows mobilenet_v2 --bits W4A8,W4A4 --draws 0
    python benchmarks/calibration_quality.py run -o calibration_rows mobilenet_v2 --bits W4A4 --front RUN
    python benchmarks/calibration_quality.py show calibration_rows

Each row (network, bits, draw of 50 samples, mode) is a JSON file in the folder; rows that are there are not computed
again, so the same command goes on where it was. First and last layers at 8 bits. With `--front`, also the policy of
that run's front with the least difference among those of at most the size and BOPs of each uniform row. Rows say how
busy the machine was (load average): seconds of a shared machine say little, float forwards of the samples say more.
"""

import json
import os
import re
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accuracy import labelled_images, recipe_for
from rich.console import Console
from rich.table import Table

import evoq_moo as evoq
from evoq_moo._files import write_atomically
from evoq_moo.calibration import FULL, LIGHT, calibrate
from evoq_moo.run import load_front

app = typer.Typer(add_completion=False, help=__doc__)
console = Console()
NETWORKS = ("cifar10_resnet20", "squeezenet1_1", "mobilenet_v2", "efficientnet_lite0")
MODES = {"light": LIGHT, "full": FULL}


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


def found_beside(network: evoq.QuantizedNetwork, front: evoq.ParetoFront, policy: evoq.Policy) -> evoq.Policy:
    """Return the front's policy of least difference that costs no more than another."""
    cost = network.cost(policy)
    return front.under(bops=cost.gbops, size_mib=cost.size_mib).best("difference")


@app.command()
def run(
    networks: Annotated[list[str] | None, typer.Argument(help="Names; default: all four.")] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of rows.")],
    bits: Annotated[str, typer.Option(help="Like W4A8,W4A4,W3A8.")] = "W4A8,W4A4,W3A8",
    draws: Annotated[str, typer.Option(help="Seeds of the draws of samples.")] = "0,1,2,3,4",
    modes: Annotated[str, typer.Option(help="Any of plain,light,full.")] = "plain,light,full",
    front: Annotated[Path | None, typer.Option(help="A run of the network, for mixed-precision rows.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many labelled images.")] = None,
) -> None:
    """Compute the rows that are missing."""
    for name in networks or NETWORKS:
        for draw in map(int, draws.split(",")):
            cells = [
                (b, mode, mixed)
                for b in bits.split(",")
                for mixed in (False, True)[: 1 + (front is not None)]
                for mode in modes.split(",")
            ]
            missing = [cell for cell in cells if not _path(output, name, draw, cell).exists()]
            if missing:
                _compute(output, name, draw, missing, front, limit)


def _path(folder: Path, name: str, draw: int, cell: tuple[str, str, bool]) -> Path:
    bits, mode, mixed = cell
    return folder / f"{name}-{bits}{'-mixed' if mixed else ''}-{mode}-{draw}.json"


def _compute(
    folder: Path, name: str, draw: int, cells: list[tuple[str, str, bool]], front: Path | None, limit: int | None
) -> None:
    recipe = recipe_for(name, draw=draw)
    network = recipe()
    images, labels = labelled_images(name, recipe, limit)
    exact = evoq.evaluate_accuracy(network.network, (images, labels)).top1
    for cell in cells:
        bits, mode, mixed = cell
        policy = uniform(network, bits)
        if mixed and front is not None:
            policy = found_beside(network, load_front(front), policy)
        started = time.monotonic()
        network.pool.map(network.network, torch.split(network.samples, 5))
        forward = time.monotonic() - started
        started = time.monotonic()
        report: dict[str, Any] | None = None
        if mode == "plain":
            quantized: torch.nn.Module = network.apply(policy)
        else:
            calibrated = calibrate(network, policy, MODES[mode])
            quantized, report = calibrated, calibrated.report.to_json()
        seconds = time.monotonic() - started
        found = evoq.evaluate_accuracy(quantized, (images, labels))
        row = {
            "network": name,
            "bits": bits,
            "mixed": mixed,
            "mode": mode,
            "draw": draw,
            "images": found.count,
            "float_top1": 100 * exact,
            "top1": 100 * found.top1,
            "agreement": 100 * (found.agreement or 0.0),
            "seconds": seconds,
            "float_forwards": seconds / forward,
            "load": os.getloadavg()[0],
            "report": report,
        }
        write_atomically(_path(folder, name, draw, cell), (json.dumps(row, indent=1) + "\n").encode())
        what = f"{name} {bits} {'mixed ' if mixed else ''}{mode}, draw {draw}"
        console.print(f"{what}: {row['top1']:.2f} of {row['float_top1']:.2f} %, {seconds:.0f} s")


@app.command()
def show(folder: Annotated[Path, typer.Argument(help="Folder of rows.")]) -> None:
    """Print the rows as a table: mean and range over draws."""
    groups: dict[tuple[str, str, bool], dict[str, list[dict[str, Any]]]] = {}
    for path in sorted(folder.glob("*.json")):
        row = json.loads(path.read_text())
        groups.setdefault((row["network"], row["bits"], row["mixed"]), {}).setdefault(row["mode"], []).append(row)
    table = Table("network", "bits", "float", "plain", "light", "full", "points below", "light s", "full s", "draws")
    for (name, bits, mixed), modes in groups.items():
        exact = next(iter(modes.values()))[0]["float_top1"]
        figures = [_span([row["top1"] for row in modes.get(mode, [])]) for mode in ("plain", "light", "full")]
        below = _span([exact - row["top1"] for row in modes.get("full", [])])
        seconds = [_span([row["seconds"] for row in modes.get(mode, [])], 0) for mode in ("light", "full")]
        draws = str(max(len(rows) for rows in modes.values()))
        table.add_row(name, bits + (" mixed" if mixed else ""), f"{exact:.2f}", *figures, below, *seconds, draws)
    console.print(table)


def _span(values: list[float], digits: int = 1) -> str:
    if not values:
        return "-"
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


if __name__ == "__main__":
    app()
