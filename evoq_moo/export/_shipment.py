"""What is exported: the layers' levels and scales, the network around them, and where both come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from evoq_moo.calibration import CalibratedNetwork, OutputMap
from evoq_moo.costs import PolicyCost, policy_cost
from evoq_moo.errors import ArgumentError, NetworkError, check_memory
from evoq_moo.graph import (
    GraphNetwork,
    Product,
    Samples,
    check_samples,
    digest,
    filled,
    network_fingerprint,
    rows,
    run,
    tensor_bytes,
)
from evoq_moo.images import Preprocess
from evoq_moo.network import QuantizedModule
from evoq_moo.quantizer import LayerParameters, ResultParameters
from evoq_moo.space import LayerInfo, Policy


@dataclass(frozen=True, kw_only=True, eq=False)
class Shipment:
    """A network under one policy, as plain parameters.

    Attributes:
        network: The folded float network; not changed.
        layers: Parameters of each quantizable layer, in policy order.
        results: How results between layers are quantized, in execution order.
        outputs: For each head, the affine map behind the network; none for "no map".
        preprocess: What the network's attribute of that name says, if it has one.
        provenance: Where it comes from: plain JSON data.
    """

    network: nn.Module
    layers: tuple[LayerParameters, ...]
    results: tuple[ResultParameters, ...] = ()
    outputs: tuple[OutputMap, ...] = ()
    preprocess: Preprocess | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def policy(self) -> Policy:
        """The bit-widths."""
        return Policy(
            tuple(p.name for p in self.layers),
            tuple(p.weight_bits for p in self.layers),
            tuple(p.activation_bits for p in self.layers),
        )

    @property
    def maps(self) -> tuple[OutputMap, ...]:
        """The maps of the heads, none where all change nothing."""
        return () if all(m.is_identity for m in self.outputs) else self.outputs

    @property
    def graph(self) -> GraphNetwork:
        """The network as a graph.

        Raises:
            NetworkError: It was not captured.
        """
        if not isinstance(self.network, GraphNetwork):
            raise NetworkError("network: can't be exported: it could not be captured as a graph (see its notes)")
        return self.network

    @property
    def products(self) -> tuple[Product, ...]:
        """The float layers, in policy order."""
        return tuple(layer for layer in self.graph.products if isinstance(layer, Product))

    def cost(self) -> PolicyCost:
        """Return the size (MiB) and overhead (MiB) of the weights; bit operations are not known here and 0."""
        return policy_cost([_info(p) for p in self.layers], self.policy.to_array())

    def fingerprint(self) -> str:
        """Return what identifies the parameters: levels, scales, zero points, biases, results and maps."""
        parts: list[bytes] = []
        for p in self.layers:
            parts.append(f"{p.name} {p.kind} {p.weight_bits} {p.activation_bits}".encode())
            parts.append(f"{p.activation_scale!r} {p.activation_zero_point!r}".encode())
            parts += [tensor_bytes(t) for t in (p.weight, p.weight_levels, p.weight_scales, p.bias) if t is not None]
        parts += [f"{r.name} {r.scale!r} {r.zero_point}".encode() for r in self.results]
        for m in self.maps:
            parts += [tensor_bytes(m.scale), tensor_bytes(m.shift), str(m.axis).encode()]
        return digest(*parts)

    def network_fingerprint(self) -> str:
        """Return what identifies the float network."""
        return network_fingerprint(self.network)


def _info(p: LayerParameters) -> LayerInfo:
    weight = p.value()
    return LayerInfo(
        name=p.name,
        kind=p.kind,
        params=weight.numel(),
        macs=0,
        bias_params=0 if p.bias is None else p.bias.numel(),
        output_channels=len(weight),
    )


def shipment_of(module: nn.Module, *, provenance: Mapping[str, Any] | None = None) -> Shipment:
    """Return the parameters of a network that computes with a policy.

    Args:
        module: What `calibrate` or `CalibratedNetwork.load` returns, or `QuantizedNetwork.apply`.
        provenance: Where it comes from: plain JSON data.

    Raises:
        ArgumentError: Another kind of module.
    """
    if not isinstance(module, CalibratedNetwork | QuantizedModule):
        raise ArgumentError(
            f"network: given {type(module).__name__}; allowed: a CalibratedNetwork, or QuantizedNetwork.apply's"
        )
    found = module.preprocess
    return Shipment(
        network=module.reference,
        layers=module.layers,
        results=module.results,
        outputs=module.outputs if isinstance(module, CalibratedNetwork) else (),
        preprocess=found if isinstance(found, Preprocess) else None,
        provenance=dict(provenance or {}),
    )


def sample_for(shipment: Shipment, sample: Samples | Sequence[int] | None) -> Samples:
    """Return an input to trace a network with: two samples, so that the batch does not look like a constant.

    Args:
        shipment: The network.
        sample: Samples as the network takes them, or the shape of one sample such as `(3, 224, 224)`; None for what
            the network's preprocessing says.

    Raises:
        ArgumentError: Neither is given, or what is given is of another kind.
    """
    given: Samples
    if sample is None:
        if shipment.preprocess is None:
            raise ArgumentError(
                "sample: given none, and the network has no `preprocess` attribute; allowed: float32 samples, or the "
                "shape of one, like (3, 224, 224)"
            )
        p = shipment.preprocess
        given = torch.rand((1, p.channels, p.crop, p.crop), generator=torch.Generator().manual_seed(0))
    elif isinstance(sample, Tensor | Mapping) or any(isinstance(n, Tensor) for n in sample):
        given = check_samples(sample)
    else:
        sides = tuple(sample)
        if not sides or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sides):
            raise ArgumentError(f"sample: given {sample!r}; allowed: float32 samples, or a shape like (3, 224, 224)")
        given = torch.rand([int(n) for n in sides if isinstance(n, int)], generator=torch.Generator().manual_seed(0))[
            None
        ]
    size = shipment.graph.graph.samples
    return filled(rows(given, [0] * min(2, size)), size) if not shipment.graph.graph.any_size else rows(given, [0, 0])


def check_network(shipment: Shipment, sample: Samples) -> None:
    """Raise unless the float network runs on a sample.

    Raises:
        NetworkError: It does not.
    """
    try:
        with torch.no_grad():
            run(shipment.network, sample)
    except Exception as error:  # a network can fail in any way
        check_memory(error)
        raise NetworkError(f"sample: the network can't run on it: {type(error).__name__}: {error}") from error
