"""Detection measured: mean average precision of a front's points, and what the large networks cost to search.

    python -m evoq_moo search ssd_mobilenet_v1_075_coco --weights W --samples COCO_VAL_64 --weight-bits 3-6 ... -o RUN
    python benchmarks/detection.py front RUN -o detection_rows      # float, then eight points, plain and calibrated
    python benchmarks/detection.py costs -o detection_rows --samples 2 --evaluations 5
    python benchmarks/detection.py show detection_rows

Each row is a JSON file in the folder; rows that are there are not computed again, so the same command goes on where it
was. Images: the 64 labelled ones of COCO val2017 in ../shared/data. The samples of RUN are drawn from the same 64
images (there are no others), without labels: figures after calibration are of images it has partly seen.
"""

import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from accuracy import DATA
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

import evoq_moo as evoq
from evoq_moo.calibration import LIGHT, calibrate
from evoq_moo.detection import DetectionSet, Detector, evaluate_detection, read_detection
from evoq_moo.files import write_atomically
from evoq_moo.runs import load_front, recipe_of

app = typer.Typer(add_completion=False, help=__doc__)
console = Console()
LARGE = ("resnet101", "ssd300_vgg16", "ssd300_resnet50")
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of rows.")]


def plain_pycocotools(network: torch.nn.Module, images: DetectionSet, threads: int | None) -> list[float]:
    """Return COCO's mAP, mAP50 and mAP75 by pycocotools alone, with COCO's category ids."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    detector = Detector(network)
    ids = {name: i + 1 for i, name in enumerate(detector.class_names or ())}
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": i} for i in ids.values()]}
    rows = []
    for i, (file, one) in enumerate(zip(images.files, images.truths, strict=True)):
        truth["images"].append({"id": i, "file_name": file.name})
        for (x1, y1, x2, y2), label in zip(one.boxes.tolist(), one.labels.tolist(), strict=True):
            row = {"id": len(truth["annotations"]) + 1, "image_id": i, "iscrowd": 0, "area": (x2 - x1) * (y2 - y1)}
            row |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": ids[images.class_names[label]]}
            truth["annotations"].append(row)
    for i, one in enumerate(detector.detect(images.files, threads=threads)):
        for (x1, y1, x2, y2), s, c in zip(one.boxes.tolist(), one.scores.tolist(), one.labels.tolist(), strict=True):
            rows.append({"image_id": i, "category_id": c, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": s})
    coco = COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(v) for v in evaluation.stats[:3]]


@app.command()
def front(
    run: Annotated[Path, typer.Argument(help="Folder of a run of a detector.")],
    *,
    output: Output,
    points: Annotated[int, typer.Option(help="Points of the front, evenly spread by rank.")] = 8,
    calibrated: Annotated[bool, typer.Option(help="Also after light calibration.")] = True,
    threads: Annotated[int, typer.Option(help="Micro-batches computed at once.")] = 1,
) -> None:
    """Measure the float network and points of a front."""
    loaded = load_front(run)
    images = read_detection(DATA / "coco_val_64")
    network = recipe_of(loaded, trust=True)(threads=threads)

    def measured(name: str, module: torch.nn.Module, **more: Any) -> None:
        started = time.process_time()
        found = evaluate_detection(module, images, threads=threads)
        _write(output / f"{name}.json", {"kind": "map", "name": name, **found.to_json(), **more}, started)
        console.print(f"{name}: {found}", highlight=False)

    if not (output / "float.json").exists():
        measured("float", network.network, plain=plain_pycocotools(network.network, images, threads))
    chosen = np.unique(np.linspace(0, len(loaded) - 1, points).round().astype(int))
    for mode in ("plain", "light")[: 1 + calibrated]:
        for row in chosen.tolist():
            if (output / f"{mode}-{row}.json").exists():
                continue
            point = loaded[row]
            values = {"row": row, "mode": mode, "size_mib": point.size_mib, "gbops": point.gbops}
            if mode == "plain":
                measured(f"plain-{row}", network.apply(point.policy), **values, difference=point.difference)
            else:
                tuned = calibrate(network, point.policy, LIGHT)
                after = tuned.report.to_json()["steps"][-1]["after"]
                measured(f"light-{row}", tuned, **values, difference=after)


@app.command()
def costs(
    networks: Annotated[list[str] | None, typer.Argument(help="Names; default: the three large ones.")] = None,
    *,
    output: Output,
    samples: Annotated[int, typer.Option(help="Samples of random values.")] = 50,
    evaluations: Annotated[int, typer.Option(help="Random policies.")] = 200,
) -> None:
    """Measure set-up, evaluations and peak memory of large networks, each in a process of its own, one thread."""
    for name in networks or LARGE:
        if not (output / f"costs-{name}.json").exists():
            command = [sys.executable, __file__, "one-cost", name, str(output), str(samples), str(evaluations)]
            subprocess.run(command, check=True)


@app.command(hidden=True)
def one_cost(name: str, output: Path, samples: int, evaluations: int) -> None:
    """Measure one network in this process."""
    torch.set_num_threads(1)
    started = time.process_time()
    model = evoq.zoo.load(name)
    x = torch.randn(samples, *model.entry.input_size, generator=torch.Generator().manual_seed(0))

    def forward() -> float:
        begun = time.process_time()
        with torch.no_grad():
            for batch in torch.split(x, 5):
                model.network(batch)
        return time.process_time() - begun

    forwards = [forward()]
    begun = time.process_time()
    network = evoq.QuantizedNetwork(model.network, x, threads=1)
    setup = time.process_time() - begun
    rng = np.random.default_rng(0)
    seconds = []
    for vector in network.space.sample(evaluations, rng):
        begun = time.process_time()
        network.evaluate(network.space.policy(vector))
        seconds.append(time.process_time() - begun)
        console.print(f"{name}: {seconds[-1]:.2f} s", highlight=False)
    forwards.append(forward())
    row = {
        "kind": "costs",
        "name": name,
        "layers": len(network.space.layers),
        "samples": samples,
        "evaluations": evaluations,
        "engine": network.engine_name,
        "captured": network.graph is not None,
        "forward_s": float(np.mean(forwards)),
        "setup_s": setup,
        "first_s": seconds[0],
        "median_s": float(np.median(seconds[1:] or seconds)),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }
    _write(output / f"costs-{name}.json", row, started)


def _write(path: Path, row: dict[str, Any], started: float) -> None:
    row |= {"cpu_s": time.process_time() - started, "load": os.getloadavg()[0]}
    write_atomically(path, (json.dumps(row, indent=1) + "\n").encode())


@app.command()
def show(folder: Annotated[Path, typer.Argument(help="Folder of rows.")]) -> None:
    """Print the rows as tables, and Kendall's tau between minus the difference and mAP."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    maps = [row for row in rows if row["kind"] == "map"]
    maps.sort(key=lambda row: (row.get("mode", ""), row.get("row", 0)))
    columns: tuple[str, ...] = ("name", "difference", "size_mib", "gbops", "map", "map50", "map75", "voc07", "voc")
    _table("mean average precision", columns, maps)
    for row in maps:
        if "plain" in row:
            console.print(f"float by plain pycocotools: {row['plain']}", highlight=False)
    for mode in ("plain", "light"):
        chosen = [row for row in maps if row.get("mode") == mode]
        if len(chosen) > 1:
            found = kendalltau([-row["difference"] for row in chosen], [row["map"] for row in chosen])
            console.print(f"{mode}: tau {found.statistic:.3f}, p {found.pvalue:.2g}, {len(chosen)} points")
    costs_of = [row for row in rows if row["kind"] == "costs"]
    columns = ("name", "layers", "samples", "evaluations", "engine")
    columns += ("forward_s", "setup_s", "first_s", "median_s", "peak_mib")
    _table("costs (CPU s of one thread)", columns, costs_of)


def _table(title: str, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    table = Table(*columns, title=title)
    for row in rows:
        values = [row.get(column, "") for column in columns]
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in values))
    console.print(table)


if __name__ == "__main__":
    app()
