"""What the scripts share that quantize one network at given bit-widths with another tool and measure its accuracy.

Needs torch and safetensors only, like `_common`.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from _common import Clock, Export, float_forward_seconds, load_export, parser
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


def run_methods(
    arguments: argparse.Namespace,
    *,
    package: str,
    settings: dict[str, Any],
    quantize: Callable[[Export, str, int, int], nn.Module],
    unsupported: tuple[type[Exception], ...] = (),
) -> None:
    """Run the methods asked for, one after the other; what is known is written after each.

    Args:
        arguments: What :func:`ptq_parser` parsed.
        package: The tool's name on PyPI.
        settings: How the tool is run.
        quantize: Returns an export's network quantized by a method, at weight and activation bits.
        unsupported: What it raises where the tool can't.
    """
    export = load_export(arguments.export, threads=arguments.threads)
    bits = bits_of(arguments.bits)
    exact = top1_percent(export.model, arguments.export)
    data: dict[str, Any] = {
        "tool": package,
        "version": version(package),
        "network": export.description["network"],
        "bits": arguments.bits,
        "settings": settings,
        "rows": [],
        "failed": {},
        "threads": torch.get_num_threads(),
    }
    what = f"{package} {data['version']} {data['network']} {arguments.bits}"
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for method in arguments.methods:
        clock = Clock(forward_before=float_forward_seconds(export.model, export.samples))
        try:
            with clock.part("quantize"):
                model = quantize(export, method, *bits)
        except unsupported as error:
            data["failed"][method] = f"{type(error).__name__}: {error}"
            print(f"{what} {method}: {data['failed'][method]}")
        else:
            clock.forward_after = float_forward_seconds(export.model, export.samples)
            top1, spent = top1_percent(model.eval(), arguments.export), clock.to_json()
            data["rows"].append({"method": method, "top1": top1, "float_top1": exact, "time": spent})
            print(
                f"{what} {method}: top-1 {top1:.2f} of {exact:.2f} %, {spent['total_seconds']:.1f} s "
                f"= {spent['total_in_float_forwards']} forwards"
            )
        arguments.output.write_text(json.dumps(data, indent=1) + "\n")
