"""What the other tools' scripts share: reading an export, timing float forwards, writing results.

Needs torch and safetensors only: it runs in each tool's own environment, which has no evoq_moo.
"""

import argparse
import importlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

FORWARD_REPEATS = 5


@dataclass(frozen=True)
class Export:
    """A network as `export_network.py` wrote it.

    Attributes:
        model: The pre-trained network, in evaluation mode, BatchNorm not folded.
        samples: Float32 `(samples, C, H, W)`.
        labels: Int64 `(samples,)`.
        layers: Names of the layers a policy covers, in its order.
        params: Weights of each layer.
        macs: Multiply-accumulate operations of each layer on one sample.
        pinned: Bit-width of each pinned layer by name.
        description: All of `description.json`.
    """

    model: nn.Module
    samples: Tensor
    labels: Tensor
    layers: tuple[str, ...]
    params: tuple[int, ...]
    macs: tuple[int, ...]
    pinned: dict[str, int]
    description: dict[str, Any]


def load_export(folder: str | Path, *, threads: int | None = None) -> Export:
    """Read what `export_network.py` wrote.

    Args:
        folder: What it wrote.
        threads: Threads torch uses from now on; None for as they are.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    folder = Path(folder).resolve()
    description = json.loads((folder / "description.json").read_text())
    module_name, _, function = description["factory"].partition(":")
    sys.path.insert(0, str(folder))
    model: nn.Module = getattr(importlib.import_module(module_name), function)()
    model.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
    tensors = load_file(folder / "samples.safetensors")
    layers = description["layers"]
    return Export(
        model=model.eval(),
        samples=tensors["samples"],
        labels=tensors["labels"],
        layers=tuple(layer["name"] for layer in layers),
        params=tuple(layer["params"] for layer in layers),
        macs=tuple(layer["macs"] for layer in layers),
        pinned=description["pinned"],
        description=description,
    )


@torch.no_grad()
def float_forward_seconds(model: nn.Module, samples: Tensor) -> float:
    """Return the median time of one float32 forward of all samples (s), torch's default threading."""
    model(samples)
    times = []
    for _ in range(FORWARD_REPEATS):
        start = time.perf_counter()
        model(samples)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@dataclass
class Clock:
    """Wall time (s) of the named parts of a run, and of float forwards before and after it."""

    parts: dict[str, float] = field(default_factory=dict)
    forward_before: float = 0.0
    forward_after: float = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add a block's wall time to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - start

    @property
    def total(self) -> float:
        """Wall time of all parts (s)."""
        return sum(self.parts.values())

    def to_json(self) -> dict[str, Any]:
        """Return the times as plain data, the total in float forwards too."""
        forward = (self.forward_before + self.forward_after) / 2
        return {
            "parts_seconds": {name: round(value, 3) for name, value in self.parts.items()},
            "total_seconds": round(self.total, 3),
            "float_forward_seconds": {"before": round(self.forward_before, 4), "after": round(self.forward_after, 4)},
            "total_in_float_forwards": round(self.total / forward, 1),
        }


def write_result(
    path: str | Path,
    *,
    package: str,
    label: str,
    export: Export,
    settings: dict[str, Any],
    policies: Sequence[dict[str, Any]],
    clock: Clock,
    evaluations: int,
    evaluations_mean: str,
    more: dict[str, Any] | None = None,
    release: str | None = None,
) -> None:
    """Write a tool's policies and what they took as JSON.

    Args:
        path: The file.
        package: The tool's name on PyPI.
        label: Name of the row in tables.
        export: The network.
        settings: How the tool was run: bit sets and options.
        policies: `weight_bits` and `activation_bits` in the order of `export.layers`, and the budget they are for.
        clock: Wall times.
        evaluations: Evaluations of the network, counted as the tool does them.
        evaluations_mean: What one of them is, in words.
        more: Further entries.
        release: The tool's version; None for that of the installed package.
    """
    width = len(export.layers)
    for policy in policies:
        if not width == len(policy["weight_bits"]) == len(policy["activation_bits"]):
            raise SystemExit(f"{package}: a policy does not cover the {width} layers: {policy}")
    data = {
        "tool": package,
        "version": version(package) if release is None else release,
        "label": label,
        "network": export.description["network"],
        "layers": list(export.layers),
        "settings": settings,
        "policies": list(policies),
        "evaluations": evaluations,
        "evaluations_mean": evaluations_mean,
        "time": clock.to_json(),
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        },
        **(more or {}),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")
    times = data["time"]
    print(
        f"{path}: {len(policies)} policies, {evaluations} evaluations, {times['total_seconds']} s "
        f"= {times['total_in_float_forwards']} float forwards"
    )


def bit_set(text: str) -> list[int]:
    """Parse bit-widths: ``2-8`` or ``2,4,8``."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(b) for b in text.split(",")]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the arguments that every tool's script has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("export", type=Path, help="folder written by export_network.py")
    made.add_argument("--output", type=Path, required=True, help="JSON file to write")
    made.add_argument("--threads", type=int, help="threads torch uses; default its own choice")
    return made


class ForwardCounter:
    """Counts forwards of a module in samples, so that they can be stated in forwards of all samples.

    Args:
        model: The module whose calls count.
        samples: Number of samples of a full forward.
    """

    def __init__(self, model: nn.Module, samples: int) -> None:
        self._samples = samples
        self._seen = 0
        model.register_forward_pre_hook(self._count)

    def _count(self, _module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self._seen += len(arguments[0])

    @property
    def forwards(self) -> float:
        """Forwards of all samples so far."""
        return self._seen / self._samples
