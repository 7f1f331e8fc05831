"""What the scripts share that quantize one network at given bit-widths with another tool and measure its accuracy.

Needs torch and safetensors only, like `_common`.
"""

import argparse
import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from _common import Clock, Export, parser
from safetensors.torch import load_file
from torch import Tensor, nn

BATCH = 50


def ptq_parser(description: str | None, methods: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with the arguments that every tool's script has; `methods` are the tool's."""
    made = parser(description)
    made.add_argument("--bits", default="W4A4", help="weight and activation bits, like W4A8")
    made.add_argument("--methods", nargs="+", choices=methods, default=list(methods), help="which to run")
    return made


def bits_of(text: str) -> tuple[int, int]:
    """Parse bit-widths: ``W4A8``."""
    match = re.fullmatch(r"W([2-8])A([2-8])", text)
    if match is None:
        raise SystemExit(f"--bits: given {text!r}; allowed: like W4A8")
    return int(match[1]), int(match[2])


@torch.no_grad()
def top1_percent(model: nn.Module, folder: Path) -> float:
    """Return the accuracy of a network on the export's labelled images (percent)."""
    path = folder / "labelled.safetensors"
    if not path.exists():
        raise SystemExit(f"{path} is missing: export_network.py --labelled writes it")
    tensors = load_file(path)
    pairs = zip(tensors["images"].split(BATCH), tensors["labels"].split(BATCH), strict=True)
    right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in pairs)
    return 100 * right / len(tensors["labels"])


def batches(samples: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the samples in batches as the tools' loaders give them, with labels that say nothing."""
    return [(batch, torch.zeros(len(batch), dtype=torch.int64)) for batch in samples.split(BATCH // 5)]


def write_rows(
    path: Path, *, package: str, export: Export, bits: str, settings: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    """Write a tool's rows as JSON and print them.

    Args:
        path: The file.
        package: The tool's name on PyPI.
        export: The network.
        bits: The bit-widths.
        settings: How the tool was run.
        rows: For each way of running it: `method`, `top1` (percent), `float_top1`, `time`.
    """
    data = {
        "tool": package,
        "version": version(package),
        "network": export.description["network"],
        "bits": bits,
        "settings": settings,
        "rows": rows,
        "threads": torch.get_num_threads(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")
    for row in rows:
        spent = row["time"]
        print(
            f"{package} {data['version']} {data['network']} {bits} {row['method']}: top-1 {row['top1']:.2f} of "
            f"{row['float_top1']:.2f} %, {spent['total_seconds']:.1f} s = {spent['total_in_float_forwards']} forwards"
        )


def row(method: str, top1: float, float_top1: float, clock: Clock) -> dict[str, Any]:
    """Return one row."""
    return {"method": method, "top1": top1, "float_top1": float_top1, "time": clock.to_json()}
