"""Running a captured network: micro-batches through plans, and the sensitivity scan from kept float results."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from evoq_moo._compute import ComputePool
from evoq_moo.difference import heads_of
from evoq_moo.engines._kernels import Quantizer
from evoq_moo.engines._layers import BoundLayer, BoundNetwork, IntegerLayer
from evoq_moo.engines._lower import Layer, Program, lower
from evoq_moo.engines._plan import Plan, compile_plan, static_values
from evoq_moo.engines._steps import FLOAT, FLOAT_GROUP, Batch, Frame, Step
from evoq_moo.graph import GraphNetwork, Grid, Samples, count, filled, leaves, split
from evoq_moo.quantizer import ResultRanges
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
    """A network at one micro-batch size, and the samples cut into such micro-batches.

    Attributes:
        program: The lowered graph.
        batches: Micro-batches; the last is filled up to the size.
    """

    program: Program
    batches: list[Batch] = field(default_factory=list)
    _plans: dict[tuple[tuple[bool, ...], tuple[str, ...], bool], Plan] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Samples in a micro-batch."""
        return self.program.graph.samples

    @property
    def kept_bytes(self) -> int:
        """Memory that all float32 results of a micro-batch take (bytes)."""
        return 4 * sum(math.prod(op.shape) for op in self.program.graph.ops if op.shape)

    def cut(self, samples: Samples, pool: ComputePool) -> None:
        """Cut samples into micro-batches."""
        self.batches = pool.map(self._batch, [filled(part, self.size) for part in split(samples, self.size)])

    def _batch(self, samples: Samples) -> Batch:
        tensors = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in leaves(samples)]
        return Batch(static_values(self.program, tensors))

    def plan(self, integer: tuple[bool, ...], results: Iterable[str] = (), *, keep: bool = False) -> Plan:
        """Return the plan for a choice of layers that compute in integers; see :func:`compile_plan`.

        Args:
            integer: For each layer, whether it does.
            results: Names of the results that are quantized.
            keep: Keep every result.
        """
        names = tuple(results)
        key = (integer, names, keep)
        if key not in self._plans:
            while len(self._plans) >= _PLANS:
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = compile_plan(self.program.with_results(names), integer, keep=keep)
        return self._plans[key]


@lru_cache(maxsize=4096)
def _quantizer(grid: Grid) -> Quantizer:
    return Quantizer(*grid)


class CapturedRunner:
    """Runs a captured network.

    Args:
        network: The captured float network.
        samples: The samples.
        layers: The layers' weights, in policy order.
        results: Ranges of results between them.
        batch_size: Samples in a micro-batch; None for a size whose results stay in cache.
        pool: Where micro-batches run.
    """

    def __init__(
        self,
        *,
        network: GraphNetwork,
        samples: Samples,
        layers: Sequence[IntegerLayer],
        results: ResultRanges,
        batch_size: int | None,
        pool: ComputePool,
    ) -> None:
        self._network = network
        self._samples = samples
        self._count = count(samples)
        self._layers = layers
        self._results = results
        self._pool = pool
        graph = network.graph
        if graph.any_size:
            size = min(batch_size or samples_per_batch(self._count, pool.threads, LARGEST_BATCH), self._count)
            sized = self._at(size)
            if batch_size is None:
                smaller = samples_per_batch(self._count, pool.threads, self._fitting(sized))
                sized = self._at(smaller) if smaller < size else sized
        else:
            sized = self._at(graph.samples)
        self._sized = sized
        self._scan_sized: Sized | None = None
        shapes = {op.name: op.shape for op in sized.program.graph.ops}
        shapes |= {name: tuple(x[: sized.size].shape) for name, x in zip(graph.inputs, leaves(samples), strict=True)}
        for op in sized.program.ops:
            if isinstance(op, Layer):
                layers[op.index].place(shapes.get(op.inputs[0]))
        sized.cut(samples, pool)
        self._heads_bytes = 1

    def _at(self, size: int) -> Sized:
        return Sized(lower(self._network.graph.at(size), self._network))

    def _fitting(self, sized: Sized) -> int:
        """Return how many samples' largest result fits the cache when all layers compute in integers."""
        widest = np.full((len(self._layers), 2), 8)
        plan = sized.plan(tuple(not layer.refusal for layer in self._layers), self._grids(widest))
        sizes = {op.name: math.prod(op.shape) for op in sized.program.graph.ops if op.shape}
        written = [key for step in plan.steps for key in step.writes]
        largest = max((sizes.get(name, 0) * (4 if want == FLOAT else 1) for name, want in written), default=1)
        return max(1, _CACHED_BYTES * sized.size // max(1, largest))

    def _integer(self, bits: IntArray) -> tuple[bool, ...]:
        return tuple(layer.is_integer(w, a) for layer, (w, a) in zip(self._layers, bits.tolist(), strict=True))

    def _grids(self, bits: IntArray) -> dict[str, Quantizer]:
        """Return the quantizers of the results that bit-widths `(layers, 2)` quantize, by name."""
        pairs = list(zip(self._layers, bits.tolist(), strict=True))
        grids = self._results.grids(
            [layer.grid(a) for layer, (_, a) in pairs], [layer.is_quantized(*b) for layer, b in pairs]
        )
        return {name: _quantizer(grid) for name, grid in grids.items()}

    def heads(self, bits: IntArray) -> list[Tensor]:
        """Return the heads under bit-widths `(layers, 2)`."""
        grids = self._grids(bits)
        plan = self._sized.plan(self._integer(bits), grids)
        pairs = bits.tolist()
        layers = self._pool.map(lambda i: self._layers[i].bind(*pairs[i]), range(len(pairs)))
        bound = BoundNetwork(layers, tuple(grids.values()))
        heads = self._joined(self._pool.map(lambda batch: self._heads(plan.run(batch, bound)), self._sized.batches))
        self._heads_bytes = sum(head.nbytes for head in heads)
        return heads

    def _heads(self, tensors: list[Tensor]) -> list[Tensor]:
        return heads_of(self._network.graph.rebuild(tensors))

    def _joined(self, parts: Sequence[list[Tensor]]) -> list[Tensor]:
        return [torch.cat(head)[: self._count] for head in zip(*parts, strict=True)]

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
            if self._sized.size > FLOAT_GROUP and self._network.graph.any_size:
                self._scan_sized = self._at(FLOAT_GROUP)
                self._scan_sized.cut(self._samples, self._pool)
        return self._scan_sized

    def _base(self, sized: Sized, batch: Batch) -> Frame:
        """Return all results of the float network on a micro-batch."""
        floats = [layer.bind(32, 32) for layer in self._layers]
        return sized.plan((False,) * len(floats), keep=True).run_keeping(batch, BoundNetwork(floats))

    def _scan(self, sized: Sized, policies: IntArray, bases: Sequence[Frame] | None) -> list[list[Tensor]]:
        floats = [layer.bind(32, 32) for layer in self._layers]
        known = {key for step in sized.plan((False,) * len(floats), keep=True).steps for key in step.writes}
        work: list[tuple[Plan, tuple[Step, ...], set[int], IntArray, tuple[Quantizer, ...]]] = []
        for bits in policies:
            changed = {i for i, (w, a) in enumerate(bits.tolist()) if w <= 8 or a <= 8}
            grids = self._grids(bits)
            plan = sized.plan(self._integer(bits), grids, keep=True)
            work.append((plan, plan.changed_steps(changed, known), changed, bits, tuple(grids.values())))

        def run(i: int) -> list[list[Tensor]]:
            base = self._base(sized, sized.batches[i]) if bases is None else bases[i]
            results = []
            for plan, steps, changed, bits, quantizers in work:
                bound: list[BoundLayer] = list(floats)
                for layer in changed:
                    bound[layer] = self._layers[layer].bind(int(bits[layer, WEIGHT]), int(bits[layer, ACTIVATION]))
                results.append(self._heads(plan.run_some(steps, base, BoundNetwork(bound, quantizers))))
            return results

        parts: list[list[list[Tensor]]] = []
        at_once = max(1, _SCAN_KEPT // max(1, sized.kept_bytes))
        for start in range(0, len(sized.batches), at_once):
            parts += self._pool.map(run, range(len(sized.batches))[start : start + at_once])
        return [self._joined([part[i] for part in parts]) for i in range(len(work))]
