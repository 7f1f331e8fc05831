"""What one evaluation of a policy costs, in float32 forwards of the same network.

Times, interleaved on one machine, on random images and a fresh random 2..8-bit policy (first and last layer at 8 bits)
at each evaluation:

- the network's plain float32 forward: all images in one batch, torch's default threading;
- the best float32 forward over memory formats, micro-batch sizes and ways of threading, so that nobody is flattered;
- fake quantization (the reference engine);
- the integer engine.

Also set-up times, peak memory of set-up and integer evaluations, and the sensitivity scan's time for one policy, in
plain and in best float32 forwards (at most a third of a plain one, issue 3).
Weights are random: times do not depend on them. Each network runs in a process of its own.

    python benchmarks/evaluation_cost.py --json > evaluation_cost.json
"""

import argparse
import copy
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from evoq_moo._compute import ComputePool
from evoq_moo.engines.integer import IntegerEngine
from evoq_moo.engines.reference import ReferenceEngine
from evoq_moo.network import QuantizedNetwork

TARGETS = {
    "mobilenet_v2": 0.15,
    "resnet18": 0.25,
    "resnet50": 0.22,
    "squeezenet1_1": 0.25,
    "shufflenet_v2_x1_0": 0.40,
}
"""Integer evaluation in plain float32 forwards, at most (issue 3)."""
SCANNED_LAYERS = 8


def seconds(run: Callable[[], object]) -> float:
    """Return how long a call takes (s)."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_mib() -> float:
    """Return the process's peak memory so far (MiB)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def best_float(network: nn.Module, images: Tensor, pool: ComputePool, repeats: int) -> tuple[float, str]:
    """Return the shortest float32 time over memory formats, micro-batch sizes and ways of threading, and its way."""
    best = (float("inf"), "")
    for layout in (torch.contiguous_format, torch.channels_last):
        laid = copy.deepcopy(network).to(memory_format=layout)  # type: ignore[call-overload]
        for size in (5, 10, len(images)):
            batches = [batch.contiguous(memory_format=layout) for batch in torch.split(images, size)]
            ways = {
                "torch's threads": lambda laid=laid, batches=batches: [laid(batch) for batch in batches],
                "a micro-batch a thread": lambda laid=laid, batches=batches: pool.map(laid, batches),
            }
            for way, run in ways.items():
                found = min(seconds(run) for _ in range(repeats))
                best = min(best, (found, f"{str(layout).removeprefix('torch.')}, micro-batches of {size}, {way}"))
    return best


def random_policy(rng: np.random.Generator, layers: int) -> Any:
    """Return bit-widths `(layers, 2)` from 2 to 8, first and last layer at 8."""
    bits = rng.integers(2, 9, (layers, 2))
    bits[[0, -1]] = 8
    return bits


def scan_policies(layers: int) -> Any:
    """Return bit-widths `(policies, layers, 2)` with one gene of some evenly spaced layers at 3 or 6 bits."""
    chosen = np.unique(np.linspace(0, layers - 1, SCANNED_LAYERS).round().astype(int))
    policies = np.full((4 * len(chosen), layers, 2), 32)
    for i, layer in enumerate(chosen):
        policies[4 * i, layer, 0] = policies[4 * i + 1, layer, 1] = 3
        policies[4 * i + 2, layer, 0] = policies[4 * i + 3, layer, 1] = 6
    return policies


def measure(name: str, *, images: int, size: int, repeats: int) -> dict[str, Any]:
    """Return the figures of one network."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)().eval().requires_grad_(False)
    samples = torch.randn(images, 3, size, size)
    pool = ComputePool()
    start = time.perf_counter()
    quantized = QuantizedNetwork(model, samples, progress=False)
    tabulated = time.perf_counter() - start
    layers = len(quantized.ranges)
    start = time.perf_counter()
    options = {
        "samples": samples,
        "layers": quantized.space.layers,
        "ranges": quantized.ranges,
        "results": quantized.results,
        "pool": pool,
    }
    engine = IntegerEngine(network=quantized.network, **options)
    constructed = time.perf_counter() - start
    rng = np.random.default_rng(0)
    for bits in range(2, 9):  # packs every layer's weights at every bit-width once
        engine.heads(np.full((layers, 2), bits))
    peak = peak_mib()
    reference = ReferenceEngine(network=copy.deepcopy(quantized.network), batch_size=5, **options)
    times: dict[str, list[float]] = {"float32": [], "fake quantization": [], "integer": []}
    with torch.no_grad():
        model(samples)
        for _ in range(repeats):
            times["float32"].append(seconds(lambda: model(samples)))
            times["integer"].append(seconds(lambda: engine.heads(random_policy(rng, layers))))
            times["fake quantization"].append(seconds(lambda: reference.heads(random_policy(rng, layers))))
        best, way = best_float(model, samples, pool, max(2, repeats // 3))
        policies = scan_policies(layers)
        scan = seconds(lambda: list(engine.scan(policies))) / len(policies)
        times["float32"].append(seconds(lambda: model(samples)))
    medians = {kind: statistics.median(found) for kind, found in times.items()}
    return {
        "network": name,
        "seconds": {**{kind: round(value, 4) for kind, value in medians.items()}, "best float32": round(best, 4)},
        "all_seconds": {kind: [round(value, 4) for value in found] for kind, found in times.items()},
        "best_float32": way,
        "integer_over_float32": round(medians["integer"] / medians["float32"], 3),
        "integer_over_best_float32": round(medians["integer"] / best, 3),
        "fake_quantization_over_float32": round(medians["fake quantization"] / medians["float32"], 3),
        "target": TARGETS.get(name),
        "scan_policy_over_float32": round(scan / medians["float32"], 3),
        "scan_policy_over_best_float32": round(scan / best, 3),
        "ranges_seconds": round(tabulated, 2),
        "engine_setup_seconds": round(constructed, 2),
        "peak_mib": round(peak),
        "captured": quantized.graph is not None,
    }


def in_own_process(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one network, measured in a process of its own."""
    command = [sys.executable, __file__, "--worker", name, "--repeats", str(arguments.repeats)]
    command += ["--images", str(arguments.images), "--size", str(arguments.size)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def row(found: dict[str, Any]) -> str:
    """Return one line of the table."""
    s = found["seconds"]
    return (
        f"{found['network']:<20}{s['float32']:>9.3f}{s['best float32']:>9.3f}{s['fake quantization']:>9.3f}"
        f"{s['integer']:>9.3f}{found['integer_over_float32']:>9.3f}{found['target'] or float('nan'):>8.2f}"
        f"{found['integer_over_best_float32']:>9.3f}{found['fake_quantization_over_float32']:>9.3f}"
        f"{found['scan_policy_over_float32']:>8.3f}{found['scan_policy_over_best_float32']:>10.3f}{found['ranges_seconds']:>8.1f}{found['engine_setup_seconds']:>8.1f}"
        f"{found['peak_mib']:>8}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(TARGETS), help="names of torchvision classifiers")
    parser.add_argument("--repeats", type=int, default=7, help="interleaved runs of each kind")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        found = measure(arguments.worker, images=arguments.images, size=arguments.size, repeats=arguments.repeats)
        print(json.dumps(found))
        return
    if not arguments.json:
        print(
            f"{'network':<20}{'float32':>9}{'best':>9}{'fake':>9}{'integer':>9}{'/float32':>9}{'target':>8}"
            f"{'/best':>9}{'fake/fl':>9}{'scan/fl':>8}{'scan/best':>10}{'ranges':>8}{'engine':>8}{'MiB':>8}"
        )
    results = []
    for name in arguments.networks:
        results.append(in_own_process(name, arguments))
        if not arguments.json:
            print(row(results[-1]), flush=True)
    if arguments.json:
        machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
        print(json.dumps({"machine": machine | versions, "images": arguments.images, "results": results}, indent=2))


if __name__ == "__main__":
    main()
