"""`QuantizedNetwork`: a pre-trained network, its samples and ranges, and the difference of any policy."""

import copy
import logging
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from evoq_moo import arithmetic
from evoq_moo._compute import ComputePool
from evoq_moo._setup import (
    check_finite,
    check_samples,
    digest,
    network_fingerprint,
    ranges_fingerprint,
    tabulate,
    tensor_bytes,
)
from evoq_moo.costs import CostValues, PolicyCost, policy_cost
from evoq_moo.difference import CLASSIFICATION_DEFAULT, DETECTION_DEFAULT, Metric, resolve
from evoq_moo.engines import (
    Engine,
    EngineName,
    IntegerEngine,
    ReferenceEngine,
    arithmetic_of,
    integer_supported,
)
from evoq_moo.engines.reference import replace_layers
from evoq_moo.errors import ArgumentError, NonFiniteError, check_count, check_name
from evoq_moo.layers import Discovery, discover, fold_batch_norm, weight_of
from evoq_moo.space import IntArray, Policy, SearchSpace, check_bits

logger = logging.getLogger("evoq_moo")

PINNED_BITS = 8
"""Bit-width of pinned layers: the field's habit for the first and last layer."""


@dataclass(frozen=True, kw_only=True)
class Evaluation(CostValues):
    """What one policy costs and changes.

    Attributes:
        difference: Output difference to the pre-trained network on the samples, in the metric's unit.
        costs: Every cost that needs no table, by name.
    """

    difference: float


class QuantizedModule(nn.Module):
    """A network that computes with one policy: what :meth:`QuantizedNetwork.apply` returns.

    Attributes:
        network: The network with its layers quantized.
        policy: The policy.
        reference: The float network; not a submodule, so not in `parameters()` or `state_dict()`.
        preprocess: The float network's attribute of that name, if it has one (networks of the zoo do).
    """

    reference: nn.Module

    def __init__(self, *, network: nn.Module, policy: Policy, reference: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.policy = policy
        self.__dict__["reference"] = reference
        self.preprocess: Any = getattr(reference, "preprocess", None)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the quantized network."""
        return self.network(*args, **kwargs)


class QuantizedNetwork:
    """A pre-trained network made ready to be quantized by any policy.

    The given module is copied and never changed. BatchNorm is folded, the quantizable layers are found by running
    one sample, and clipping ranges are tabulated from the samples for every layer and bit-width from 2 to 8.

    Args:
        model: The pre-trained network; it is used in evaluation mode.
        samples: Float32 `(samples, ...)`, as the network takes them.
        weight_bits: Bit-widths the search may give to weights: any of 2..8, 16 and 32 (not quantized).
        activation_bits: The same for each layer's input. One value, e.g. ``[8]`` or ``[32]``, searches weights only.
        pinned: ``"ends"`` holds the layers that no layer feeds and those that feed none at 8 bits (the field's
            habit), ``"none"`` pins nothing, names or a mapping from names to bit-widths pin those layers.
        tied: One gene sets a layer's weight and activation bit-width.
        overrides: For a layer's name, ``{"weight_bits": ..., "activation_bits": ...}`` instead of the defaults.
        difference: ``"kl"``, ``"nmse"``, ``"cosine"``, ``"sqnr"``, ``"top1_flips"``, or a callable of
            (float heads, quantized heads). ``"auto"``: ``"nmse"`` for a detector, which has an attribute `decoder`,
            else ``"kl"``.
        engine: ``"reference"`` computes fake quantization in float32, on any network and device: the definition.
            ``"integer"`` computes the same arithmetic in integers, for a fraction of a float forward, where the
            processor has the instructions (AVX2 without VNNI: less of a gain, and layers of 8 by 8 bits compute in
            float32). ``"auto"`` takes the integer engine where it runs, and says in one log line
            where it does not: other processors, and models and samples on a GPU, which the reference engine computes
            there.
        batch_size: Samples in a micro-batch. Results may depend on it in the last float32 digit, so it is part of
            the fingerprint. Five keeps the activations of ImageNet networks in cache (measured). The integer engine
            chooses its own; its results do not depend on it.
        threads: Micro-batches computed at once; None for one a core. Results do not depend on it.
        progress: Show progress of the set-up on a terminal.

    Attributes:
        network: The folded float network.
        samples: The samples.
        space: The search space.
        ranges: Clipping ranges of each layer by name.
        float_heads: The float network's outputs on the samples.
        metric: Name of the difference.
        notes: What a user should know of the network, one sentence each.
        identity: Fingerprint of the pre-trained network alone.
        engine_name: The engine that computes policies.
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
        samples: Tensor,
        *,
        weight_bits: Iterable[int] = range(2, 9),
        activation_bits: Iterable[int] = range(2, 9),
        pinned: Literal["ends", "none"] | Iterable[str] | Mapping[str, int] = "ends",
        tied: bool = False,
        overrides: Mapping[str, Mapping[str, Iterable[int]]] | None = None,
        difference: str | Metric = "auto",
        engine: EngineName = "auto",
        batch_size: int = 5,
        threads: int | None = None,
        progress: bool = True,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ArgumentError(f"model: given {type(model).__name__}; allowed: a torch.nn.Module")
        self.samples = check_samples(samples)
        allowed_weight_bits = check_bits("weight_bits", weight_bits)
        allowed_activation_bits = check_bits("activation_bits", activation_bits)
        if difference == "auto":
            difference = DETECTION_DEFAULT if getattr(model, "decoder", None) is not None else CLASSIFICATION_DEFAULT
        self.metric, self._difference = resolve(difference)
        self._batch_size = check_count("batch_size", batch_size)
        self._pool = ComputePool(threads=threads)
        check_name("engine", engine, ("auto", "reference", "integer"))
        self._engine: Engine | None = None
        # The engine holds one policy at a time.
        self._lock = threading.RLock()

        self.network = copy.deepcopy(model).eval().requires_grad_(False)
        sample = self.samples[:1]
        self.identity = network_fingerprint(self.network)
        folded = self._pool.run(lambda: fold_batch_norm(self.network, sample))
        self.discovery: Discovery = self._pool.run(lambda: discover(self.network, sample, folded))
        self.notes = self.discovery.notes
        for note in self.notes:
            logger.info("%s", note)
        self.space = SearchSpace.build(
            self.discovery.layers,
            weight_bits=allowed_weight_bits,
            activation_bits=allowed_activation_bits,
            pinned=self._pinned(pinned),
            tied=tied,
            overrides=overrides,
        )
        self.float_heads, self.ranges = tabulate(
            self.network, self._batches, self.space.layer_names, self._pool, progress=progress
        )
        self.engine_name = self._chosen_engine(engine)
        # A metric that can't judge this network's output should say so now, not after an hour of search.
        self.difference_between(self.float_heads)
        products = arithmetic_of(self.engine_name)
        self.fingerprint = digest(
            self.identity.encode(),
            tensor_bytes(self.samples),
            ranges_fingerprint(self.ranges).encode(),
            f"arithmetic {arithmetic.VERSION}, {products}, micro-batches of {batch_size}".encode(),
            self.metric.encode(),
        )

    def _pinned(self, pinned: str | Iterable[str] | Mapping[str, int]) -> dict[str, int]:
        if isinstance(pinned, Mapping):
            return dict(pinned)
        if isinstance(pinned, str):
            check_name("pinned", pinned, ("ends", "none"))
            ends = self.discovery.first + self.discovery.last
            return dict.fromkeys(ends, PINNED_BITS) if pinned == "ends" else {}
        return dict.fromkeys(pinned, PINNED_BITS)

    @property
    def _batches(self) -> Sequence[Tensor]:
        return torch.split(self.samples, self._batch_size)

    def _chosen_engine(self, engine: EngineName) -> str:
        if engine != "auto":
            return engine
        supported, reason = self._pool.run(integer_supported)
        if supported and self.samples.device.type != "cpu":
            supported, reason = False, f"the samples are on {self.samples.device}"
        if not supported:
            logger.info("the reference engine is used: %s", reason)
        return IntegerEngine.name if supported else ReferenceEngine.name

    @property
    def engine(self) -> Engine:
        """The engine that computes policies, made on first use."""
        if self._engine is None:
            self._engine = self.engine_on(self.samples)
        return self._engine

    def engine_on(self, samples: Tensor) -> Engine:
        """Return a new engine that computes policies on some samples, with the ranges of all."""
        network = copy.deepcopy(self.network)
        if self.engine_name == IntegerEngine.name:
            return IntegerEngine(network=network, samples=samples, ranges=self.ranges, pool=self._pool)
        return ReferenceEngine(
            network=network, samples=samples, ranges=self.ranges, batch_size=self._batch_size, pool=self._pool
        )

    def set_threads(self, threads: int | None) -> None:
        """Compute this many micro-batches at once from now on; None for one a core. Results stay the same.

        Raises:
            ArgumentError: Not a positive integer or None.
        """
        self._pool = ComputePool(threads=threads)
        self._engine = None

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
        value = self._pool.run(lambda: float(self._difference(reference, heads)))
        if not math.isfinite(value):
            raise NonFiniteError(f"difference: {self.metric!r} gave {value}")
        return value

    def difference_of(self, bits: npt.ArrayLike) -> float:
        """Return the output difference of bit-widths `(layers, 2)`, whether or not the space holds them.

        Raises:
            NonFiniteError: The quantized network computes NaN or infinity; the message names the first layer.
        """
        array = Policy.from_array(self.space.layer_names, bits).to_array()
        with self._lock:
            heads = self.engine.heads(array)
        return self.finite_difference(heads, array)

    def scan(self, bits: npt.ArrayLike) -> Iterator[float]:
        """Give the output difference of many bit-widths `(policies, layers, 2)` that leave most layers in float.

        The same numbers as :meth:`difference_of`, but the integer engine recomputes only what comes behind the first
        quantized layer.

        Raises:
            NonFiniteError: A quantized network computes NaN or infinity; the message names the first layer.
        """
        array = np.asarray(bits, dtype=np.int64)
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
        return policy_cost(self.space.layers, self._bits_of(policy))

    def uniform(self, bits: int) -> Policy:
        """Return the policy with every gene at the allowed bit-width nearest to `bits`; pinned layers stay pinned."""
        return self.space.policy(self.space.uniform(bits))

    def apply(self, policy: Policy) -> QuantizedModule:
        """Return a copy of the network that computes with a policy.

        Raises:
            ArgumentError: The policy is of another network's layers.
        """
        bits = self._bits_of(policy)
        network = copy.deepcopy(self.network)
        wrapped = replace_layers(network, self.ranges)
        for layer, (w, a) in zip(wrapped, bits.tolist(), strict=True):
            layer.set_bits(w, a, float_weight=weight_of(layer.layer))
        return QuantizedModule(network=network, policy=policy, reference=self.network).eval()

    def _bits_of(self, policy: Policy) -> IntArray:
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
