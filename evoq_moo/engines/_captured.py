"""Running a captured network: micro-batches through plans, and the sensitivity scan from kept float results."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from evoq_moo._compute import ComputePool
from evoq_moo.difference import heads_of
from evoq_moo.engines._capture import CaptureError, Graph, capture, geometry_of
from evoq_moo.engines._layers import BoundLayer, IntegerLayer
from evoq_moo.engines._lower import Layer, Program, lower
from evoq_moo.engines._plan import Plan, compile_plan, static_values
from evoq_moo.engines._steps import FLOAT, FLOAT_GROUP, Batch, Frame, Step
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


@dataclass
class Sized:
    """A network captured at one micro-batch size, and the samples cut into such micro-batches.

    Attributes:
        size: Samples in a micro-batch.
        graph: The captured graph.
        program: The lowered graph.
        batches: Micro-batches; the last is filled up to the size.
    """

    size: int
    graph: Graph
    program: Program
    batches: list[Batch] = field(default_factory=list)
    _plans: dict[tuple[tuple[bool, ...], bool], Plan] = field(default_factory=dict)

    @property
    def kept_bytes(self) -> int:
        """Memory that all float32 results of a micro-batch take (bytes)."""
        return 4 * sum(math.prod(op.shape) for op in self.graph.ops if op.shape)

    def cut(self, samples: Tensor, pool: ComputePool) -> None:
        """Cut samples into micro-batches."""
        filled = torch.cat([samples, *[samples[:1]] * (-len(samples) % self.size)])
        self.batches = pool.map(self._batch, torch.split(filled, self.size))

    def _batch(self, samples: Tensor) -> Batch:
        if samples.dim() == 4:
            samples = samples.contiguous(memory_format=torch.channels_last)
        return Batch(static_values(self.program, samples))

    def plan(self, integer: tuple[bool, ...], *, keep: bool = False) -> Plan:
        """Return the plan for a choice of layers that compute in integers; see :func:`compile_plan`."""
        key = (integer, keep)
        if key not in self._plans:
            while len(self._plans) >= _PLANS:
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = compile_plan(self.program, integer, self.size, keep=keep)
        return self._plans[key]


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
        self._network = network
        self._samples = samples
        self._layers = layers
        self._pool = pool
        self._names = {layer.name: i for i, layer in enumerate(layers)}
        size = batch_size or samples_per_batch(len(samples), pool.threads, LARGEST_BATCH)
        size = min(size, len(samples))
        sized = self._capture(size)
        if batch_size is None:
            smaller = samples_per_batch(len(samples), pool.threads, self._fitting(sized))
            if smaller < size:
                sized = self._capture(smaller)
        self._sized = sized
        self._scan_sized: Sized | None = None
        shapes = {op.name: op.shape for op in sized.graph.ops} | {sized.graph.input: (sized.size, *samples.shape[1:])}
        for op in sized.program.ops:
            if isinstance(op, Layer):
                layers[op.index].place(geometry_of(op.op), shapes[op.inputs[0]])
        sized.cut(samples, pool)
        self._heads_bytes = len(sized.batches) * self._check(network, sized)

    def _capture(self, size: int) -> Sized:
        graph = capture(self._network, self._samples[:size], self._names)
        return Sized(size, graph, lower(graph))

    def _fitting(self, sized: Sized) -> int:
        """Return how many samples' largest result fits the cache when all layers compute in integers."""
        plan = compile_plan(sized.program, [not layer.refusal for layer in self._layers], 1)
        sizes = {op.name: math.prod(op.shape) for op in sized.graph.ops if op.shape}
        written = [key for step in plan.steps for key in step.writes]
        largest = max((sizes.get(name, 0) * (4 if want == FLOAT else 1) for name, want in written), default=1)
        samples = next(op.shape[0] for op in sized.graph.ops if op.shape)
        return max(1, _CACHED_BYTES * samples // max(1, largest))

    def _check(self, network: nn.Module, sized: Sized) -> int:
        """Compare one micro-batch of the captured float network with the network itself; return its heads' bytes."""
        bound = [layer.bind(32, 32) for layer in self._layers]
        plan = sized.plan((False,) * len(bound))
        expected = self._pool.run(lambda: heads_of(network(self._samples[: sized.size])))
        found = self._pool.run(lambda: heads_of(plan.run(sized.batches[0], bound)))
        for a, b in zip(expected, found, strict=True):
            if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-3, atol=1e-3 * a.abs().max().item()):
                raise CaptureError("its captured graph computes something else than the network")
        return sum(head.nbytes for head in found)

    def _integer(self, bits: IntArray) -> tuple[bool, ...]:
        return tuple(layer.is_integer(w, a) for layer, (w, a) in zip(self._layers, bits.tolist(), strict=True))

    def heads(self, bits: IntArray) -> list[Tensor]:
        """Return the heads under bit-widths `(layers, 2)`."""
        plan = self._sized.plan(self._integer(bits))
        pairs = bits.tolist()
        bound = self._pool.map(lambda i: self._layers[i].bind(*pairs[i]), range(len(pairs)))
        return self._joined(self._pool.map(lambda batch: heads_of(plan.run(batch, bound)), self._sized.batches))

    def _joined(self, parts: Sequence[list[Tensor]]) -> list[Tensor]:
        return [torch.cat(head)[: len(self._samples)] for head in zip(*parts, strict=True)]

    def scan(self, policies: IntArray) -> Iterator[list[Tensor]]:
        """Give the heads under each of some bit-widths `(policies, layers, 2)`, most layers of which are float.

        The float network runs on each micro-batch and its results are kept; each policy then computes only what its
        quantized layers change. Where all micro-batches' results fit in memory the float network runs once, else once
        for each chunk of policies. Heads of a chunk are held at once, within a bound.
        """
        sized = self._for_scans()
        fits = len(sized.batches) * sized.kept_bytes <= _SCAN_KEPT
        bases = self._pool.map(lambda batch: self._base(sized, batch), sized.batches) if fits else None
        together = min(max(1, _SCAN_BYTES // max(1, self._heads_bytes)), _SCAN_POLICIES)
        for start in range(0, len(policies), together):
            yield from self._scan(sized, policies[start : start + together], bases)

    def _for_scans(self) -> Sized:
        """Return the network at the micro-batch size of scans.

        Float layers compute in groups of that size, so it changes no result, and nearly all layers of a scan are
        float: their results stay in cache (measured: MobileNetV2 in 0.7 of the time of micro-batches of 10).
        """
        if self._scan_sized is None:
            self._scan_sized = self._sized
            if self._sized.size > FLOAT_GROUP:
                self._scan_sized = self._capture(FLOAT_GROUP)
                self._scan_sized.cut(self._samples, self._pool)
        return self._scan_sized

    def _base(self, sized: Sized, batch: Batch) -> Frame:
        """Return all results of the float network on a micro-batch."""
        floats = [layer.bind(32, 32) for layer in self._layers]
        return sized.plan((False,) * len(floats), keep=True).run_keeping(batch, floats)

    def _scan(self, sized: Sized, policies: IntArray, bases: Sequence[Frame] | None) -> list[list[Tensor]]:
        floats = [layer.bind(32, 32) for layer in self._layers]
        known = {key for step in sized.plan((False,) * len(floats), keep=True).steps for key in step.writes}
        work: list[tuple[Plan, tuple[Step, ...], set[int], IntArray]] = []
        for bits in policies:
            changed = {i for i, (w, a) in enumerate(bits.tolist()) if w <= 8 or a <= 8}
            plan = sized.plan(self._integer(bits), keep=True)
            work.append((plan, plan.changed_steps(changed, known), changed, bits))

        def run(i: int) -> list[list[Tensor]]:
            base = self._base(sized, sized.batches[i]) if bases is None else bases[i]
            results = []
            for plan, steps, changed, bits in work:
                bound: list[BoundLayer] = list(floats)
                for layer in changed:
                    bound[layer] = self._layers[layer].bind(int(bits[layer, WEIGHT]), int(bits[layer, ACTIVATION]))
                results.append(heads_of(plan.run_some(steps, base, bound)))
            return results

        parts: list[list[list[Tensor]]] = []
        at_once = max(1, _SCAN_KEPT // max(1, sized.kept_bytes))
        for start in range(0, len(sized.batches), at_once):
            parts += self._pool.map(run, range(len(sized.batches))[start : start + at_once])
        return [self._joined([part[i] for part in parts]) for i in range(len(work))]
