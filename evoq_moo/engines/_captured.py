"""Running a captured network: micro-batches through plans, and the sensitivity scan from kept float results."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from evoq_moo._compute import ComputePool
from evoq_moo.difference import heads_of
from evoq_moo.engines._capture import CaptureError, Graph, capture, geometry_of
from evoq_moo.engines._layers import BoundLayer, IntegerLayer
from evoq_moo.engines._lower import Layer, Program, lower
from evoq_moo.engines._plan import Plan, compile_plan, static_values
from evoq_moo.engines._steps import FLOAT, Batch
from evoq_moo.space import ACTIVATION, WEIGHT, IntArray

LARGEST_BATCH = 64
_CACHED_BYTES = 16 * 2**20
"""The largest result of a micro-batch should stay in the last level of the cache (measured on 32 MiB and two threads at
224 pixels: 5 samples for ResNets, whose sums are float32; 13 for MobileNetV2, SqueezeNet and ShuffleNetV2)."""
_SCAN_KEPT = 2**30
"""Memory a scan may take for the float network's kept results (bytes)."""
_SCAN_POLICIES = 32
_SCAN_BYTES = 256 * 2**20
_PLANS = 256


def samples_per_batch(samples: int, threads: int, largest: int) -> int:
    """Return a micro-batch size of at most `largest` that keeps all threads equally busy."""
    count = math.ceil(samples / min(largest, samples))
    if samples >= threads:
        count = math.ceil(count / threads) * threads
    return math.ceil(samples / count)


class CapturedRunner:
    """Runs a captured network.

    Args:
        network: The folded float network.
        samples: Float32 `(samples, ...)`.
        layers: The layers' weights, in policy order.
        batch_size: Samples in a micro-batch; None for a size whose results stay in cache.
        pool: Where micro-batches run.

    Raises:
        CaptureError: The network can't be captured, or its graph does not compute what it computes.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        samples: Tensor,
        layers: Sequence[IntegerLayer],
        batch_size: int | None,
        pool: ComputePool,
    ) -> None:
        self._layers = layers
        self._pool = pool
        self._count = len(samples)
        self._names = {layer.name: i for i, layer in enumerate(layers)}
        size = batch_size or samples_per_batch(len(samples), pool.threads, LARGEST_BATCH)
        size = min(size, len(samples))
        graph, program = self._capture(network, samples[:size])
        if batch_size is None:
            smaller = samples_per_batch(len(samples), pool.threads, self._fitting(graph, program))
            if smaller < size:
                size = smaller
                graph, program = self._capture(network, samples[:size])
        self._size = size
        self._kept_bytes = 4 * sum(math.prod(op.shape) for op in graph.ops if op.shape)
        self._program = program
        shapes = {op.name: op.shape for op in graph.ops} | {graph.input: (size, *samples.shape[1:])}
        for op in program.ops:
            if isinstance(op, Layer):
                layers[op.index].place(geometry_of(op.op), shapes[op.inputs[0]])
        # All micro-batches have one size: the last is filled up, and its surplus rows are dropped from the heads.
        filled = torch.cat([samples, *[samples[:1]] * (-len(samples) % size)])
        self._batches = pool.map(self._batch, torch.split(filled, size))
        self._plans: dict[tuple[tuple[bool, ...], bool], Plan] = {}
        self._heads_bytes = len(self._batches) * self._check(network, filled[:size])

    def _capture(self, network: nn.Module, batch: Tensor) -> tuple[Graph, Program]:
        graph = capture(network, batch, self._names)
        return graph, lower(graph)

    def _fitting(self, graph: Graph, program: Program) -> int:
        """Return how many samples' largest result fits the cache when all layers compute in integers."""
        plan = compile_plan(program, [not layer.refusal for layer in self._layers], 1)
        sizes = {op.name: math.prod(op.shape) for op in graph.ops if op.shape}
        written = [key for step in plan.steps for key in step.writes]
        largest = max((sizes.get(name, 0) * (4 if want == FLOAT else 1) for name, want in written), default=1)
        samples = next(op.shape[0] for op in graph.ops if op.shape)
        return max(1, _CACHED_BYTES * samples // max(1, largest))

    def _batch(self, samples: Tensor) -> Batch:
        if samples.dim() == 4:
            samples = samples.contiguous(memory_format=torch.channels_last)
        return Batch(static_values(self._program, samples))

    def _check(self, network: nn.Module, batch: Tensor) -> int:
        """Compare one micro-batch of the captured float network with the network itself; return its heads' bytes."""
        bound = [layer.bind(32, 32) for layer in self._layers]
        plan = self._plan((False,) * len(bound))
        expected = self._pool.run(lambda: heads_of(network(batch)))
        found = self._pool.run(lambda: heads_of(plan.run(self._batches[0], bound)))
        for a, b in zip(expected, found, strict=True):
            if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-3, atol=1e-3 * a.abs().max().item()):
                raise CaptureError("its captured graph computes something else than the network")
        return sum(head.nbytes for head in found)

    def _plan(self, integer: tuple[bool, ...], *, keep: bool = False) -> Plan:
        key = (integer, keep)
        if key not in self._plans:
            while len(self._plans) >= _PLANS:
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = compile_plan(self._program, integer, self._size, keep=keep)
        return self._plans[key]

    def _integer(self, bits: IntArray) -> tuple[bool, ...]:
        return tuple(layer.is_integer(w, a) for layer, (w, a) in zip(self._layers, bits.tolist(), strict=True))

    def heads(self, bits: IntArray) -> list[Tensor]:
        """Return the heads under bit-widths `(layers, 2)`."""
        plan = self._plan(self._integer(bits))
        pairs = bits.tolist()
        bound = self._pool.map(lambda i: self._layers[i].bind(*pairs[i]), range(len(pairs)))
        return self._joined(self._pool.map(lambda batch: heads_of(plan.run(batch, bound)), self._batches))

    def _joined(self, parts: Sequence[list[Tensor]]) -> list[Tensor]:
        return [torch.cat(head)[: self._count] for head in zip(*parts, strict=True)]

    def scan(self, policies: IntArray) -> Iterator[list[Tensor]]:
        """Give the heads under each of some bit-widths `(policies, layers, 2)`, most layers of which are float.

        The float network runs once on each micro-batch and its results are kept; each policy then computes only what
        its quantized layers change. Heads of many policies are held at once, within a bound.
        """
        together = min(max(1, _SCAN_BYTES // max(1, self._heads_bytes)), _SCAN_POLICIES)
        for start in range(0, len(policies), together):
            yield from self._scan(policies[start : start + together])

    def _scan(self, policies: IntArray) -> list[list[Tensor]]:
        no_layer = (False,) * len(self._layers)
        floats = [layer.bind(32, 32) for layer in self._layers]
        known = {key for step in self._plan(no_layer, keep=True).steps for key in step.writes}
        work = []
        for bits in policies:
            integer = self._integer(bits)
            changed = {i for i, (w, a) in enumerate(bits.tolist()) if w <= 8 or a <= 8}
            plan = self._plan(integer, keep=True)
            work.append((plan, plan.changed_steps(changed, known), changed, bits))

        def run(batch: Batch) -> list[list[Tensor]]:
            base = self._plan(no_layer, keep=True).run_keeping(batch, floats)
            results = []
            for plan, steps, changed, bits in work:
                bound: list[BoundLayer] = list(floats)
                for i in changed:
                    bound[i] = self._layers[i].bind(int(bits[i, WEIGHT]), int(bits[i, ACTIVATION]))
                results.append(heads_of(plan.run_some(steps, base, bound)))
            return results

        parts: list[list[list[Tensor]]] = []
        at_once = max(1, _SCAN_KEPT // max(1, self._kept_bytes))
        for start in range(0, len(self._batches), at_once):
            parts += self._pool.map(run, self._batches[start : start + at_once])
        return [self._joined([part[i] for part in parts]) for i in range(len(work))]
