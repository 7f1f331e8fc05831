"""`QuantizedNetwork`: a pre-trained network, its samples and ranges, and the difference of any policy."""

import copy
import logging
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from evoq_moo._compute import MICRO_BATCH, ComputePool
from evoq_moo.costs import PolicyCost, policy_cost
from evoq_moo.difference import AUTO, Difference, Metric, resolve
from evoq_moo.engines import Engine, EngineName, IntegerEngine, ReferenceEngine, arithmetic_of, integer_supported
from evoq_moo.errors import ArgumentError, NetworkError, NonFiniteError, check_count, check_memory, check_name
from evoq_moo.graph import (
    LARGEST_ERROR,
    GraphNetwork,
    Prepared,
    ResultPlaces,
    Samples,
    bias_of,
    check_micro_batches,
    check_samples,
    count,
    device_of,
    digest,
    first_apart,
    has_stream,
    leaves,
    lone_outputs,
    map_samples,
    network_fingerprint,
    own_copy,
    prepare,
    relative_error,
    rows,
    split,
    tensor_bytes,
    untouched,
    weight_bytes,
    weight_of,
)
from evoq_moo.network._setup import check_finite, ranges_fingerprint, result_ranges, tabulate
from evoq_moo.network.module import QuantizedModule
from evoq_moo.network.report import Evaluation, NetworkReport
from evoq_moo.quantizer import (
    FLOAT_RESULTS,
    LayerParameters,
    ResultRanges,
    arithmetic,
    outlier_note,
    parameters_of,
)
from evoq_moo.space import FloatArray, IntArray, Policy, SearchSpace, check_bits, whole_bits

logger = logging.getLogger("evoq_moo")

PINNED_BITS = 8
"""Bit-width of pinned layers: the field's habit for the first and last layer."""
ResultsName = Literal["auto", "float", "int8"]
"""Which results have 8 bits."""


class QuantizedNetwork:
    """A pre-trained network made ready to be quantized by any policy.

    The given module is copied and never changed. It is captured once as a graph, on which BatchNorm is folded and the
    quantizable layers are found: products with a constant weight, however they are written. Before anything is
    searched, all samples check that the graph computes what the module computes, that the module repeats itself and
    that each sample's output depends on that sample alone. Clipping ranges are tabulated from the samples for every
    layer and bit-width from 2 to 8. What torch.export can't capture is quantized module by module instead, by the
    reference engine, and `notes` says so.

    Args:
        model: The pre-trained network; it is used in evaluation mode, in float32.
        samples: Float32 or integers `(samples, ...)`, as the network takes them; a tuple of such tensors is its
            positional arguments, a mapping its keyword arguments.
        weight_bits: Bit-widths the search may give to weights: any of 2..8, 16 and 32 (not quantized).
        activation_bits: The same for each layer's input. One value, e.g. ``[8]`` or ``[32]``, searches weights only.
        pinned: ``"ends"`` holds the layers that no layer feeds and those that feed none at 8 bits (the field's
            habit), ``"none"`` pins nothing, names or a mapping from names to bit-widths pin those layers.
        tied: One gene sets a layer's weight and activation bit-width.
        overrides: For a layer's name, ``{"weight_bits": ..., "activation_bits": ...}`` instead of the defaults.
        difference: ``"kl"``, ``"nmse"``, ``"cosine"``, ``"sqnr"``, ``"top1_flips"``, or a callable of
            (float heads, quantized heads). ``"auto"``: ``"nmse"``, which holds best on images that a search never saw
            (`docs/measurements.md`).
        class_dim: The dimension of classes in the outputs, for ``"kl"`` and ``"top1_flips"``; None: the second, and of
            outputs `(N, T, classes)` the last.
        results: Which results between layers have 8 bits, as integer runtimes need it where something else than one
            quantized layer reads them. ``"auto"``: those of convolutions, and of sums and joins of these, except in
            networks that normalize layers or attend as transformers do, where 8-bit streams hurt. ``"int8"``: in any
            network, and those of matrix products too. ``"float"``: none. See
            :class:`evoq_moo.graph.results.ResultPlaces`.
        engine: ``"reference"`` computes fake quantization in float32, on any network and device: the definition.
            ``"integer"`` computes the same arithmetic in integers, for a fraction of a float forward, where the
            processor has the instructions (AVX2 without VNNI: less of a gain, and layers of 8 by 8 bits compute in
            float32). ``"auto"`` takes the integer engine where it runs and gives the float network's outputs with
            all layers in float; elsewhere `notes` says why not: other processors, models and samples on a GPU, and
            networks that were not captured.
        batch_size: Samples in a micro-batch. Results may depend on it in the last float32 digit, so it is part of
            the fingerprint. Five keeps the activations of ImageNet networks in cache (measured). The integer engine
            chooses its own; its results do not depend on it.
        threads: Micro-batches computed at once; None for one a core. Results do not depend on it.
        progress: Show progress of the set-up on a terminal.

    Attributes:
        network: The float network as it is quantized: captured, its layers submodules under their names.
        graph: What it does; None where it runs module by module.
        prepared: What was found in it.
        samples: The samples.
        space: The search space.
        ranges: Clipping ranges of each layer by name.
        results: Which results can have 8 bits, and their ranges.
        float_heads: The float network's outputs on the samples.
        metric: Name of the difference.
        float_difference: The difference of the float network to itself: that of 16 and 32 bits.
        notes: What a user should know of the network, one sentence each.
        identity: Fingerprint of the pre-trained network alone.
        float_error: Largest distance of the captured network's outputs to the given one's, of their largest value.
        engine_name: The engine that computes policies.
        engine_reason: Why that is not the integer engine; empty if it is.
        fingerprint: Fingerprint of weights, samples, arithmetic and metric: with a policy, it determines a difference.

    Raises:
        ArgumentError: An argument is not allowed.
        UnknownNameError: `pinned`, `overrides` or `difference` name something unknown.
        NetworkError: The network can't run on the samples or has no quantizable layer.
        NonFiniteError: Its output is NaN or infinite; the message names the first layer.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        *,
        weight_bits: Iterable[int] = range(2, 9),
        activation_bits: Iterable[int] = range(2, 9),
        pinned: Literal["ends", "none"] | Iterable[str] | Mapping[str, int] = "ends",
        tied: bool = False,
        overrides: Mapping[str, Mapping[str, Iterable[int]]] | None = None,
        difference: str | Metric | Difference = AUTO,
        class_dim: int | None = None,
        results: ResultsName = "auto",
        engine: EngineName = "auto",
        batch_size: int = MICRO_BATCH,
        threads: int | None = None,
        progress: bool = True,
    ) -> None:
        given = check_samples(samples)
        allowed_weight_bits = check_bits("weight_bits", weight_bits)
        allowed_activation_bits = check_bits("activation_bits", activation_bits)
        self._batch_size = check_count("batch_size", batch_size)
        self._pool = ComputePool(threads=threads)
        check_name("engine", engine, ("auto", "reference", "integer"))
        check_name("results", results, ("auto", "float", "int8"))
        self.difference = resolve(difference, class_dim=class_dim)
        self._engine: Engine | None = None
        # The engine holds one policy at a time.
        self._lock = threading.RLock()

        with untouched():
            # The caller's own tensors are never handed to a network.
            self.samples: Samples = map_samples(lambda tensor: tensor.detach().clone(), given)
            own, self.notes = own_copy(model)
            self.notes += self._notes_of_samples()
            self.identity = network_fingerprint(own)
            outputs = self._lone_outputs(own)
            self.prepared: Prepared = self._pool.run(
                lambda: prepare(own, self.samples, micro_batch=min(self._batch_size, count(self.samples)))
            )
            self.network, self.graph = self.prepared.network, self.prepared.graph
            self.space = SearchSpace.build(
                self.prepared.layers,
                weight_bits=allowed_weight_bits,
                activation_bits=allowed_activation_bits,
                pinned=self._pinned(pinned),
                tied=tied,
                overrides=overrides,
            )
            self._tabulate(results, progress=progress)
            self.float_error = self._checked_error(own, outputs)
        self.notes += self.prepared.notes
        self.metric = self.difference.name
        # A metric that can't judge this network's output should say so now, not after an hour of search.
        self.float_difference = self.difference_between(self.float_heads)
        self.engine_name, self.engine_reason = self._chosen_engine(engine)
        for note in self.notes:
            logger.info("%s", note)
        products = arithmetic_of(self.engine_name)
        self.fingerprint = digest(
            self.identity.encode(),
            *(tensor_bytes(tensor) for tensor in leaves(self.samples)),
            *(tensor_bytes(head) for head in self.float_heads),
            ranges_fingerprint(self.ranges).encode(),
            self.results.fingerprint().encode(),
            f"arithmetic {arithmetic.VERSION}, {products}, micro-batches of {batch_size}".encode(),
            self.difference.identity.encode(),
        )

    def __repr__(self) -> str:
        return (
            f"QuantizedNetwork({len(self.space.layers)} layers, {self.space.n_var} genes, "
            f"{count(self.samples)} samples, difference {self.metric!r}, {self.engine_name} engine)"
        )

    def _repr_html_(self) -> str:
        return "".join(f"<p>{escape(line)}</p>" for line in (repr(self), *str(self.report()).splitlines()))

    def _notes_of_samples(self) -> tuple[str, ...]:
        tensors = [tensor for tensor in leaves(self.samples) if tensor.is_floating_point()]
        return tuple(note for note in map(outlier_note, tensors) if note is not None)

    def _lone_outputs(self, own: nn.Module) -> list[Tensor]:
        """Return the given network's outputs on each sample alone, once it has shown that they can be relied on."""
        outputs, changes = lone_outputs(own, self.samples, self._batch_size, self._pool)
        if changes:
            self.notes += ("forward changes its input in place; it is given copies",)
        return outputs

    def _checked_error(self, own: nn.Module, outputs: Sequence[Tensor]) -> float:
        """Return how far the captured network's outputs are from those of the given one on each sample alone.

        Raises:
            NetworkError: Too far: the given network's depend on the batch, or the captured one computes something else.
                The message names the first module where they part.
        """
        error = relative_error(outputs, self.float_heads)
        if error > LARGEST_ERROR:
            check_micro_batches(own, self.samples, outputs, self._batch_size, self._pool)
            first = rows(self.samples, slice(0, self._batch_size))
            where = self._pool.run(lambda: first_apart(own, self.network, first))
            raise NetworkError(
                f"model: its captured graph computes something else (relative error {error:.2g} on the samples), first "
                f"in {where!r}; please report the module"
            )
        return error

    def _tabulate(self, results: ResultsName, *, progress: bool) -> None:
        """Run the float network on the samples, and set its outputs and all ranges."""
        names = self.space.layer_names

        def run() -> None:
            self.float_heads, self.ranges = tabulate(self.network, self._batches, names, self._pool, progress=progress)

        places, reason = self._result_places(results)
        if places is None or not isinstance(self.network, GraphNetwork):
            run()
            self.results = replace(FLOAT_RESULTS, reason=f"{FLOAT_RESULTS.reason}: {reason}")
            return
        with result_ranges(self.network, places.names) as ranges:
            run()
        self.results = ResultRanges(places, ranges, f"results of 8 bits in up to {len(places.names)} places: {reason}")

    def _result_places(self, results: ResultsName) -> tuple[ResultPlaces | None, str]:
        """Return where results may be quantized, None for nowhere, and why.

        Raises:
            ArgumentError: 8 bits were asked for in a network that was not captured.
        """
        if results == "float":
            return None, "it was asked for"
        if self.graph is None:
            if results == "int8":
                raise ArgumentError(
                    "results: given 'int8' for a network that is quantized module by module "
                    f"({self.prepared.reason}); allowed: 'auto' or 'float'"
                )
            return None, "the network is quantized module by module"
        if results == "int8":
            return ResultPlaces(self.graph, linear=True), "it was asked for"
        if has_stream(self.graph):
            return None, "the network normalizes or attends between its layers, where 8-bit results hurt"
        return ResultPlaces(
            self.graph
        ), "what integer kernels of convolutions leave where not one quantizer alone reads"

    def _pinned(self, pinned: str | Iterable[str] | Mapping[str, int]) -> dict[str, int]:
        if isinstance(pinned, Mapping):
            return dict(pinned)
        if isinstance(pinned, str):
            check_name("pinned", pinned, ("ends", "none"))
            ends = self.prepared.first + self.prepared.last
            return dict.fromkeys(ends, PINNED_BITS) if pinned == "ends" else {}
        return dict.fromkeys(pinned, PINNED_BITS)

    @property
    def _batches(self) -> Sequence[Samples]:
        return split(self.samples, self._batch_size)

    def _chosen_engine(self, engine: EngineName) -> tuple[str, str]:
        """Return the engine that computes policies, checked, and why it is not the integer engine."""
        reason = ""
        supported, unsupported = self._pool.run(integer_supported)
        if engine == ReferenceEngine.name:
            reason = "it was asked for"
        elif self.graph is None:
            reason = f"the network is quantized module by module: {self.prepared.reason}"
        elif not supported:
            reason = unsupported
        elif device_of(self.samples).type != "cpu":
            reason = f"the samples are on {device_of(self.samples)}"
        else:
            try:
                made = self._integer_engine(self.samples)
                made.check(self.float_heads, LARGEST_ERROR)
                self._engine = made
            except Exception as error:
                check_memory(error)
                if engine != "auto":
                    raise
                reason = f"the integer engine can't run this network: {type(error).__name__}: {str(error)[:300]}"
        if reason and engine == IntegerEngine.name:
            raise ArgumentError(f"engine: 'integer' can't be used: {reason}; allowed: 'reference' or 'auto'")
        if reason and engine == "auto":
            self.notes += (f"the reference engine is used: {reason}",)
        return (ReferenceEngine.name if reason else IntegerEngine.name), reason

    def _integer_engine(self, samples: Samples) -> IntegerEngine:
        if not isinstance(self.network, GraphNetwork):
            raise NetworkError("network: the integer engine needs the network as a graph")
        return IntegerEngine(
            network=self.network,
            samples=samples,
            layers=self.space.layers,
            ranges=self.ranges,
            results=self.results,
            pool=self._pool,
        )

    @property
    def engine(self) -> Engine:
        """The engine that computes policies, made on first use."""
        with self._lock:
            if self._engine is None:
                self._engine = self.engine_on(self.samples)
            return self._engine

    def engine_on(self, samples: Samples) -> Engine:
        """Return a new engine that computes policies on some samples, with the ranges of all."""
        if self.engine_name == IntegerEngine.name:
            return self._integer_engine(samples)
        return ReferenceEngine(
            network=copy.deepcopy(self.network),
            samples=samples,
            layers=self.space.layers,
            ranges=self.ranges,
            results=self.results,
            batch_size=self._batch_size,
            pool=self._pool,
        )

    def set_threads(self, threads: int | None) -> None:
        """Compute this many micro-batches at once from now on; None for one a core. Results stay the same.

        Raises:
            ArgumentError: Not a positive integer or None.
        """
        self._pool = ComputePool(threads=threads)
        self._engine = None

    def report(self) -> NetworkReport:
        """Return what was found at set-up: how true the copy is, what is quantized and what stays float."""
        return NetworkReport(
            float_error=self.float_error,
            engine=self.engine_name,
            engine_reason=self.engine_reason,
            results=self.results.reason,
            difference=self.metric,
            layers=len(self.space.layers),
            macs_quantized=self.prepared.macs_quantized,
            parameters_quantized=self.prepared.parameters_quantized,
            notes=self.notes,
        )

    @property
    def pool(self) -> ComputePool:
        """Where micro-batches run."""
        return self._pool

    def difference_between(self, heads: list[Tensor], float_heads: list[Tensor] | None = None) -> float:
        """Return the difference of outputs, float32 `(samples, ...)` each, to the float network's.

        Args:
            heads: The outputs.
            float_heads: Those of the float network on the same samples; None for those on all samples.

        Raises:
            NonFiniteError: The metric gives NaN or infinity.
        """
        reference = self.float_heads if float_heads is None else float_heads
        value = self._pool.run(lambda: self.difference(reference, heads))
        if not math.isfinite(value):
            raise NonFiniteError(f"difference: {self.metric!r} gave {value}")
        return value

    def difference_of_each(self, heads: list[Tensor], float_heads: list[Tensor] | None = None) -> FloatArray:
        """Return the difference of each sample's outputs alone, float64 `(samples,)`, as :meth:`difference_between`.

        Raises:
            NonFiniteError: The metric gives NaN or infinity of some sample.
        """
        reference = self.float_heads if float_heads is None else float_heads
        rows_ = [slice(i, i + 1) for i in range(len(reference[0]))]
        values = [self.difference_between([h[r] for h in heads], [f[r] for f in reference]) for r in rows_]
        return np.array(values, dtype=np.float64)

    def difference_of(self, bits: npt.ArrayLike) -> float:
        """Return the output difference of bit-widths `(layers, 2)`, whether or not the space holds them.

        Raises:
            NonFiniteError: The quantized network computes NaN or infinity; the message names the first layer.
        """
        array = Policy.from_array(self.space.layer_names, bits).to_array()
        return self.finite_difference(self.heads_of(array), array)

    def heads_of(self, bits: IntArray) -> list[Tensor]:
        """Return the outputs under bit-widths `(layers, 2)`; one thread at a time, as the engine holds one policy."""
        with self._lock:
            return self.engine.heads(bits)

    def scan(self, bits: npt.ArrayLike) -> Iterator[float]:
        """Give the output difference of many bit-widths `(policies, layers, 2)` that leave most layers in float.

        The same numbers as :meth:`difference_of`, but the integer engine recomputes only what comes behind the first
        quantized layer.

        Raises:
            NonFiniteError: A quantized network computes NaN or infinity; the message names the first layer.
        """
        array = whole_bits("bits", bits)
        with self._lock:
            for policy, heads in zip(array, self.engine.scan(array), strict=True):
                yield self.finite_difference(heads, policy)

    def finite_difference(self, heads: list[Tensor], bits: IntArray, float_heads: list[Tensor] | None = None) -> float:
        """Return the difference of the outputs under bit-widths `(layers, 2)`, as :meth:`difference_between`.

        Raises:
            NonFiniteError: The outputs hold NaN or infinity (the message names the first layer), or the metric does.
        """
        if not all(head.isfinite().all() for head in heads):
            policy = Policy.from_array(self.space.layer_names, bits)
            check_finite(heads, self.apply(policy).network, self._batches, f"the network under {bits.tolist()}")
        return self.difference_between(heads, float_heads)

    def evaluate(self, policy: Policy) -> Evaluation:
        """Return the difference and costs of one policy.

        Raises:
            ArgumentError: The policy is of another network's layers.
        """
        costs = self.cost(policy).costs
        return Evaluation(difference=self.difference_of(policy.to_array()), costs=costs)

    def cost(self, policy: Policy) -> PolicyCost:
        """Return the costs of one policy; needs no computation of the network.

        Raises:
            ArgumentError: The policy is of another network's layers.
        """
        floats = weight_bytes(self.network, self.space.layer_names)
        return policy_cost(self.space.layers, self.bits_of(policy), float_params=floats)

    def uniform(self, bits: int) -> Policy:
        """Return the policy with every gene at the allowed bit-width nearest to `bits`; pinned layers stay pinned."""
        return self.space.policy(self.space.uniform(bits))

    def apply(self, policy: Policy) -> QuantizedModule:
        """Return a copy of the network that computes with a policy.

        Raises:
            ArgumentError: The policy is of another network's layers.
        """
        parameters = self.parameters_of(self.bits_of(policy))
        return QuantizedModule(
            layers=parameters, results=self.results.of(parameters), policy=policy, reference=self.network
        )

    def parameters_of(self, bits: npt.ArrayLike) -> tuple[LayerParameters, ...]:
        """Return what each layer computes with under bit-widths `(layers, 2)`, before any calibration."""
        modules = dict(self.network.named_modules())
        return tuple(
            parameters_of(
                info, weight_of(modules[info.name]), bias_of(modules[info.name]), self.ranges[info.name], pair
            )
            for info, pair in zip(self.space.layers, whole_bits("bits", bits).tolist(), strict=True)
        )

    def bits_of(self, policy: Policy) -> IntArray:
        """Return a policy's bit-widths, int64 `(layers, 2)`.

        Raises:
            ArgumentError: The policy is of another network's layers.
        """
        if policy.layers != self.space.layer_names:
            raise ArgumentError(
                f"policy: is of layers {policy.layers[:3]}...; allowed: this network's, {self.space.layer_names[:3]}..."
            )
        return policy.to_array()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()
