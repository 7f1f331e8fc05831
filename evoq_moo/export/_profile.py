"""`profile_latency`: each layer's time as it ships, on this machine, and how far the sum is from the whole."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from rich.table import Table

from evoq_moo.costs import LatencyTable
from evoq_moo.errors import ArgumentError, NetworkError, check_count
from evoq_moo.export._build import LAYER_MARK
from evoq_moo.export._floating import float_model, static_model
from evoq_moo.export._forms import FORMS, INT8
from evoq_moo.export._integer import integer_nodes
from evoq_moo.export._job import Choice
from evoq_moo.export._model import make_model
from evoq_moo.export._session import open_session, run_session
from evoq_moo.export._shipment import shipment_of
from evoq_moo.export._target import DEFAULT_TARGET, Target, target_of
from evoq_moo.export._template import OPSET, make_template, require_onnx
from evoq_moo.export._timing import WARM, in_turns
from evoq_moo.graph import RESULT_BITS, rows
from evoq_moo.network import QuantizedNetwork
from evoq_moo.progress import track
from evoq_moo.space import ALLOWED_BITS, Policy

PAIRS = ((8, 8), (8, 4), (4, 8), (4, 4), (2, 2), (32, 32))
"""Weight and activation bits: other pairs take the time of the next wider of them."""
ROUNDS = 3
_FLOAT, _STATIC = "float", "static"
_SHORTEST = 0.5
"""The profiler counts whole microseconds: a node takes some part of one at least."""
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
        floating: The float network as ONNX, median (ms).
        static: onnxruntime's own static quantization of it, median (ms).
    """

    latency: LatencyTable
    checks: tuple[SumCheck, ...]
    floating: float
    static: float

    def table(self) -> Table:
        """Return the checks as a rich table, and below them what the files are compared with."""
        table = Table("policy", "sum (ms)", "measured (ms)", "error (%)", "of float")
        for check in self.checks:
            share = f"{check.measured / self.floating:.2f}"
            table.add_row(
                check.policy, f"{check.summed:.3f}", f"{check.measured:.3f}", f"{100 * check.error:+.1f}", share
            )
        table.add_row("float ONNX", "", f"{self.floating:.3f}", "", "1.00")
        table.add_row(
            "onnxruntime's quantize_static", "", f"{self.static:.3f}", "", f"{self.static / self.floating:.2f}"
        )
        return table


def profile_latency(
    network: QuantizedNetwork,
    *,
    pairs: Sequence[tuple[int, int]] = PAIRS,
    repeats: int = 30,
    threads: int = 1,
    mixed: int = 3,
    target: str = DEFAULT_TARGET,
    progress: bool = True,
) -> Profile:
    """Measure each layer of a network at pairs of bit-widths, as it ships: int8 files in onnxruntime on this machine.

    The whole network is exported with one pair everywhere and run with onnxruntime's profiler; the medians of all nodes
    of a layer (its quantization, its product with its bias and what follows in the same kernel) make its time, those of
    all others the rest. The sums are then compared with runs without the profiler, which has a cost of its own, beside
    the float network and onnxruntime's own static quantization, all in turns. All of it is done in three rounds, and
    medians are taken over them, so that a machine that slows down does so for all.

    Args:
        network: The network; one of its samples is the input.
        pairs: (weight bits, activation bits) to measure.
        repeats: Passes for each pair, rounded up to whole rounds.
        threads: Threads of onnxruntime.
        mixed: How many random policies of the measured pairs to check the sum on.
        target: Of the files, as :func:`export_onnx` takes it.
        progress: Show progress on a terminal.

    Raises:
        ArgumentError: An argument is not allowed.
        MissingPackageError: onnx or onnxruntime is missing.
        NetworkError: The network can't be exported, or onnxruntime's profile does not tell a layer's time.
    """
    runtime = target_of(target)
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
    run = _Runner(network, runtime, repeats=-(-repeats // ROUNDS), threads=threads)
    layers: list[dict[str, list[float]]] = [defaultdict(list) for _ in given]
    wholes: dict[str, list[float]] = defaultdict(list)
    with track(len(called) + ROUNDS * (len(given) + 1), "profiling", enabled=progress) as bar:
        models = []
        for policy in (*uniform, *drawn):
            models.append(run.model(policy))
            bar.advance()
        compared = {**dict(zip(called, models, strict=True)), **run.compared()}
        for _ in range(ROUNDS):
            for i, model in enumerate(models[: len(given)]):
                for name, spent in run.profiled(model).items():
                    layers[i][name].append(spent)
                bar.advance()
            for name, all_spent in run.wholes(compared).items():
                wholes[name] += all_spent
            bar.advance()
    lost = [
        f"{name} at W{w} A{a}"
        for (w, a), found in zip(given, layers, strict=True)
        for name in names
        if name not in found
    ]
    if lost:
        raise NetworkError(f"onnxruntime's profile does not tell the time of layer {', '.join(lost[:3])}: not measured")
    times = {name: {pair: median(found[name]) for pair, found in zip(given, layers, strict=True)} for name in names}
    rest = median([median(found[""] or [0.0]) for found in layers])
    table = LatencyTable(
        milliseconds=times, rest=rest, source=f"onnxruntime, {threads} thread(s), one sample, this machine"
    )
    checks = [
        SumCheck(
            policy=what,
            summed=float(table.of(network.space.layers, policy.to_array())),
            measured=median(wholes[what]),
        )
        for what, policy in zip(called, (*uniform, *drawn), strict=True)
    ]
    return Profile(latency=table, checks=tuple(checks), floating=median(wholes[_FLOAT]), static=median(wholes[_STATIC]))


class _Runner:
    """Exports a network under policies and times the files."""

    def __init__(self, network: QuantizedNetwork, target: Target, *, repeats: int, threads: int) -> None:
        self.network = network
        self.target = target
        self.repeats = repeats
        self.threads = threads
        self.sample = rows(network.samples, slice(0, 1))
        self.base = shipment_of(network.apply(network.uniform(RESULT_BITS)))
        self.template = make_template(self.base, network.samples)

    def model(self, policy: Policy) -> bytes:
        choice = Choice(
            shipment=shipment_of(self.network.apply(policy)),
            target=self.target,
            packed=self.target.packed,
            two_bit_types=False,
        )
        model, _ = make_model(self.template, choice, FORMS[INT8], opset=OPSET, named=True)
        content: bytes = model.SerializeToString()
        return content

    def compared(self) -> dict[str, bytes]:
        """Return what the files are compared with."""
        floating = float_model(self.base, self.network.samples, self.template)
        return {_FLOAT: floating, _STATIC: static_model(floating, self.network.samples)}

    def wholes(self, models: Mapping[str, bytes]) -> dict[str, list[float]]:
        """Return the times of whole passes (ms), all models in turns."""
        sessions = {name: open_session(model, threads=self.threads, integer=True) for name, model in models.items()}
        return in_turns({name: partial(run_session, one, self.sample) for name, one in sessions.items()}, self.repeats)

    def profiled(self, model: bytes) -> dict[str, float]:
        """Return the time of each layer's nodes (ms); under "" that of all others."""
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            session = open_session(
                model, threads=self.threads, integer=True, profile=Path(folder) / "profile", optimized=optimized
            )
            for _ in range(self.repeats + WARM):
                run_session(session, self.sample)
            events = json.loads(Path(session.end_profiling()).read_text())
            owners = {**_owners(model), **integer_nodes(optimized, self.network.space.layer_names)}
        spent: dict[str, list[float]] = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                spent[event["name"]].append(max(event["dur"], _SHORTEST) / 1000)
        found: dict[str, float] = defaultdict(float)
        known = set(self.network.space.layer_names)
        for name, durations in spent.items():
            node = name.removesuffix("_kernel_time").removesuffix("_nchwc")
            layer = owners.get(node, node.rpartition(LAYER_MARK)[0])
            found[layer if layer in known else ""] += median(durations[WARM:] or durations)
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
