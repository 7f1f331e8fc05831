"""What calibration recovers: top-1 on the labelled images of ../shared/data, plain, light and full.

    python benchmarks/calibration_quality.py run -o calibration_rows mobilenet_v2 --bits W4A8,W4A4 --draws 0
    python benchmarks/calibration_quality.py run -o calibration_rows cifar10_resnet20 --fronts FRONTS --draws 0
    python benchmarks/calibration_quality.py show calibration_rows

Each row (network, bits, draw of 50 samples, mode) is a JSON file in the folder; rows that are there are not computed
again, so the same command goes on where it was. First and last layers at 8 bits. With `--fronts`, the folder of
`calibration_search.py`, also the mixed-precision policies that were found at most as large as each uniform row, in size
and BOPs ("mixed"), and those found with calibration in the loop ("loop"). Rows say how busy the machine was (load
average): seconds of a shared machine say little, float forwards of the samples and seconds of processor time say more.
"""

import json
import os
import time
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accuracy import labelled_images, recipe_for
from calibration_search import forward_seconds, front_file, uniform, with_more_samples
from rich.console import Console
from rich.table import Table

import evoq_moo as evoq
from evoq_moo.calibration import FULL, LIGHT, calibrate
from evoq_moo.files import write_atomically

app = typer.Typer(add_completion=False, help=__doc__)
console = Console()
NETWORKS = ("cifar10_resnet20", "squeezenet1_1", "mobilenet_v2", "efficientnet_lite0")
MODES = {"light": LIGHT, "full": FULL}


@app.command()
def run(
    networks: Annotated[list[str] | None, typer.Argument(help="Names; default: all four.")] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of rows.")],
    bits: Annotated[str, typer.Option(help="Like W4A8,W4A4,W3A8.")] = "W4A8,W4A4,W3A8",
    draws: Annotated[str, typer.Option(help="Seeds of the draws of samples.")] = "0,1,2,3,4",
    modes: Annotated[str, typer.Option(help="Any of plain,light,full.")] = "plain,light,full",
    fronts: Annotated[Path | None, typer.Option(help="Folder of calibration_search.py, for mixed rows.")] = None,
    distilled: Annotated[int, typer.Option(help="Calibrate to so many distilled images too.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Only the first so many labelled images.")] = None,
    threads: Annotated[int | None, typer.Option(help="Micro-batches computed at once; default: one a core.")] = None,
) -> None:
    """Compute the rows that are missing."""
    for draw in map(int, draws.split(",")):
        for name in networks or NETWORKS:
            cells = [
                (b, mode, kind)
                for b in bits.split(",")
                for kind in ("", "mixed", "loop")
                if not kind or (fronts is not None and front_file(fronts, name, b, loop=kind == "loop").exists())
                for mode in modes.split(",")
            ]
            missing = [cell for cell in cells if not _path(output, name, draw, cell, distilled).exists()]
            if missing:
                _compute(output, name, draw, missing, fronts, distilled, limit, threads)


def _path(folder: Path, name: str, draw: int, cell: tuple[str, str, str], distilled: int) -> Path:
    bits, mode, kind = cell
    more = f"-distilled{distilled}" if distilled else ""
    return folder / f"{name}-{bits}{kind and '-' + kind}-{mode}-{draw}{more}.json"


@cache
def _labelled(name: str, limit: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    return labelled_images(name, recipe_for(name), limit)


@cache
def _float_choice(name: str, limit: int | None, threads: int | None) -> torch.Tensor:
    network = recipe_for(name)(threads=threads)
    return _choice(network, network.network, _labelled(name, limit)[0])


def _choice(network: evoq.QuantizedNetwork, module: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return a module's top-1, in micro-batches on the network's threads: several times faster than large batches."""
    return torch.cat(network.pool.map(module, torch.split(images, 5))).argmax(1)


def _compute(
    folder: Path,
    name: str,
    draw: int,
    cells: list[tuple[str, str, str]],
    fronts: Path | None,
    distilled: int,
    limit: int | None,
    threads: int | None,
) -> None:
    network = with_more_samples(recipe_for(name, draw=draw), distilled=distilled, threads=threads)
    images, labels = _labelled(name, limit)
    exact = _float_choice(name, limit, threads)
    for cell in cells:
        bits, mode, kind = cell
        policy = uniform(network, bits)
        if kind and fronts is not None:
            front = evoq.ParetoFront.load(front_file(fronts, name, bits, loop=kind == "loop"))
            policy = front.best("difference")
        forward = forward_seconds(network)
        started, used = time.monotonic(), time.process_time()
        report: dict[str, Any] | None = None
        if mode == "plain":
            quantized: torch.nn.Module = network.apply(policy)
        else:
            calibrated = calibrate(network, policy, MODES[mode])
            quantized, report = calibrated, calibrated.report.to_json()
        seconds, used = time.monotonic() - started, time.process_time() - used
        found = _choice(network, quantized, images)
        row = {
            "network": name,
            "bits": bits,
            "kind": kind,
            "mode": mode,
            "draw": draw,
            "distilled": distilled,
            "images": len(found),
            "float_top1": 100 * float((exact == labels).float().mean()),
            "top1": 100 * float((found == labels).float().mean()),
            "agreement": 100 * float((found == exact).float().mean()),
            "seconds": seconds,
            "processor_seconds": used,
            "threads": network.pool.threads,
            "float_forwards": seconds / forward,
            "load": os.getloadavg()[0],
            "report": report,
        }
        write_atomically(_path(folder, name, draw, cell, distilled), (json.dumps(row, indent=1) + "\n").encode())
        what = f"{name} {bits} {kind} {mode}, draw {draw}"
        console.print(f"{what}: {row['top1']:.2f} of {row['float_top1']:.2f} %, {used:.0f} s of processor time")


@app.command()
def show(folder: Annotated[Path, typer.Argument(help="Folder of rows.")]) -> None:
    """Print the rows as a table: mean and range over draws."""
    groups: dict[tuple[str, str, str], dict[str, list[dict[str, Any]]]] = {}
    for path in sorted(folder.glob("*.json")):
        row = json.loads(path.read_text())
        kind = row["kind"] + (f" +{row['distilled']}" if row["distilled"] else "")
        groups.setdefault((row["network"], row["bits"], kind), {}).setdefault(row["mode"], []).append(row)
    table = Table(
        "network", "bits", "float", "plain", "light", "full", "points below", "light cpu s", "full cpu s", "draws"
    )
    for (name, bits, kind), modes in groups.items():
        exact = next(iter(modes.values()))[0]["float_top1"]
        figures = [_span([row["top1"] for row in modes.get(mode, [])]) for mode in ("plain", "light", "full")]
        below = _span([exact - row["top1"] for row in modes.get("full", [])])
        seconds = [_span([row["processor_seconds"] for row in modes.get(mode, [])], 0) for mode in ("light", "full")]
        draws = str(max(len(rows) for rows in modes.values()))
        table.add_row(name, f"{bits} {kind}".strip(), f"{exact:.2f}", *figures, below, *seconds, draws)
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
