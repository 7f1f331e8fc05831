"""`profile_latency`: each layer's time in onnxruntime on this machine, and how far the sum is from the whole."""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from rich.table import Table

from evoq_moo.costs import LatencyTable
from evoq_moo.errors import ArgumentError, check_count
from evoq_moo.export._build import LAYER_MARK
from evoq_moo.export._model import TWO_BIT_OPSET, make_model
from evoq_moo.export._onnx import runs_two_bit_types
from evoq_moo.export._session import open_session, run_session
from evoq_moo.export._shipment import shipment_of
from evoq_moo.export._template import OPSET, make_template, require_onnx
from evoq_moo.graph import rows
from evoq_moo.network import QuantizedNetwork
from evoq_moo.progress import track
from evoq_moo.space import ALLOWED_BITS, Policy

PAIRS = ((8, 8), (8, 4), (4, 8), (4, 4), (2, 2), (32, 32))
"""Weight and activation bits of the types that ONNX has: other pairs run as the next wider of them."""
ROUNDS = 3
_FUSED = {"Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid"}
"""Activation functions that onnxruntime fuses into a product."""


@dataclass(frozen=True, kw_only=True)
class SumCheck:
    """One policy's latency by the table beside its measured one.

    Attributes:
        policy: What was measured, in words.
        summed: By the table (ms).
        measured: The whole network, median (ms).
    """

    policy: str
    summed: float
    measured: float

    @property
    def error(self) -> float:
        """How far the sum is above the whole, as a share of it."""
        return self.summed / self.measured - 1


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What was measured.

    Attributes:
        latency: The table.
        checks: Sums against wholes: every pair everywhere, and policies that mix them.
    """

    latency: LatencyTable
    checks: tuple[SumCheck, ...]

    def table(self) -> Table:
        """Return the checks as a rich table."""
        table = Table("policy", "sum (ms)", "measured (ms)", "error (%)")
        for check in self.checks:
            row = (f"{check.summed:.3f}", f"{check.measured:.3f}", f"{100 * check.error:+.1f}")
            table.add_row(check.policy, *row)
        return table


def profile_latency(
    network: QuantizedNetwork,
    *,
    pairs: Sequence[tuple[int, int]] = PAIRS,
    repeats: int = 30,
    threads: int = 1,
    mixed: int = 3,
    progress: bool = True,
) -> Profile:
    """Measure each layer of a network at pairs of bit-widths, as exported to ONNX, in onnxruntime on this machine.

    The whole network is exported with one pair everywhere and run with onnxruntime's profiler; the medians of all nodes
    of a layer (its quantization and dequantization, its product, its bias) make its time, those of all others the rest.
    The sums are then compared with runs without the profiler, which has a cost of its own. All of it is done in three
    rounds, and medians are taken over them, so that a machine that slows down does so for all.

    Args:
        network: The network; one of its samples is the input.
        pairs: (weight bits, activation bits) to measure.
        repeats: Passes for each pair, rounded up to whole rounds.
        threads: Threads of onnxruntime.
        mixed: How many random policies of the measured pairs to check the sum on.
        progress: Show progress on a terminal.

    Raises:
        ArgumentError: An argument is not allowed.
        MissingPackageError: onnx or onnxruntime is missing.
        NetworkError: The network can't be exported.
    """
    check_count("repeats", repeats)
    check_count("threads", threads)
    check_count("mixed", mixed, lowest=0)
    if not pairs or any(len(pair) != 2 or any(b not in ALLOWED_BITS for b in pair) for pair in pairs):
        raise ArgumentError(f"pairs: given {pairs!r}; allowed: pairs of {list(ALLOWED_BITS)}")
    given = list(dict.fromkeys((int(w), int(a)) for w, a in pairs))
    names = network.space.layer_names
    uniform = [Policy.from_array(names, np.tile(pair, (len(names), 1))) for pair in given]
    rng = np.random.default_rng(0)
    drawn = [Policy.from_array(names, np.array(given)[rng.integers(len(given), size=len(names))]) for _ in range(mixed)]
    called = [*(f"W{w} A{a}" for w, a in given), *(f"mixed {i}" for i in range(mixed))]
    run = _Runner(network, repeats=-(-repeats // ROUNDS), threads=threads)
    layers: list[dict[str, list[float]]] = [defaultdict(list) for _ in given]
    wholes: list[list[float]] = [[] for _ in called]
    with track(len(called) * (ROUNDS + 1), "profiling", enabled=progress) as bar:
        models = []
        for policy in (*uniform, *drawn):
            models.append(run.model(policy))
            bar.advance()
        for _ in range(ROUNDS):
            for i, model in enumerate(models):
                if i < len(given):
                    for name, spent in run.profiled(model).items():
                        layers[i][name].append(spent)
                wholes[i].append(run.whole(model))
                bar.advance()
    times = {
        name: {pair: median(found[name] or [0.0]) for pair, found in zip(given, layers, strict=True)} for name in names
    }
    rest = median([median(found[""] or [0.0]) for found in layers])
    table = LatencyTable(
        milliseconds=times, rest=rest, source=f"onnxruntime, {threads} thread(s), one sample, this machine"
    )
    checks = [
        SumCheck(
            policy=what,
            summed=float(table.of(network.space.layers, policy.to_array())),
            measured=median(spent),
        )
        for what, policy, spent in zip(called, (*uniform, *drawn), wholes, strict=True)
    ]
    return Profile(latency=table, checks=tuple(checks))


class _Runner:
    """Exports a network under policies and times the files."""

    def __init__(self, network: QuantizedNetwork, *, repeats: int, threads: int) -> None:
        self.network = network
        self.repeats = repeats
        self.threads = threads
        self.sample = rows(network.samples, slice(0, 1))
        self.template = make_template(network.apply(network.uniform(8)), network.samples)

    def model(self, policy: Policy) -> bytes:
        shipment = shipment_of(self.network.apply(policy))
        two = any(2 in pair for pair in policy.to_array().tolist()) and runs_two_bit_types()
        opset = TWO_BIT_OPSET if two else OPSET
        content: bytes = lower(shipment, self.template, opset=opset, named=True).SerializeToString()
        return content

    def whole(self, model: bytes) -> float:
        """Return the median time of one pass (ms)."""
        session = open_session(model, threads=self.threads, integer=True)
        spent = []
        for i in range(self.repeats + 2):
            begun = time.perf_counter()
            run_session(session, self.sample)
            if i >= 2:  # the first passes warm up
                spent.append(1000 * (time.perf_counter() - begun))
        return median(spent)

    def profiled(self, model: bytes) -> dict[str, float]:
        """Return the time of each layer's nodes (ms); under "" that of all others."""
        with tempfile.TemporaryDirectory() as folder:
            session = open_session(model, threads=self.threads, integer=True, profile=Path(folder) / "profile")
            for _ in range(self.repeats + 2):
                run_session(session, self.sample)
            events = json.loads(Path(session.end_profiling()).read_text())
        owners = _owners(model)
        spent: dict[str, list[float]] = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                spent[event["name"]].append(event["dur"] / 1000)
        found: dict[str, float] = defaultdict(float)
        known = set(self.network.space.layer_names)
        for name, durations in spent.items():
            node = name.removesuffix("_kernel_time").removesuffix("_nchwc")
            layer = owners.get(node, node.rpartition(LAYER_MARK)[0])
            found[layer if layer in known else ""] += median(durations[2:] or durations)
        return dict(found)


def _owners(model: bytes) -> dict[str, str]:
    """Return, for names of values, the layer they come from, an activation function between allowed.

    onnxruntime calls a float convolution that it fuses with what follows, or moves to another layout, by its result.
    """
    found: dict[str, str] = {}
    for node in require_onnx().ModelProto.FromString(model).graph.node:
        layer, mark, _ = node.name.rpartition(LAYER_MARK)
        if mark:
            found[node.output[0]] = layer
        elif node.op_type in _FUSED and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found
