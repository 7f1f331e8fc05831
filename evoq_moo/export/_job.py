"""What one export is asked for, and the parts it works on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evoq_moo.export._build import Build
from evoq_moo.export._products import LayerPlan
from evoq_moo.export._shipment import Shipment
from evoq_moo.export._target import Target


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is asked for.

    Attributes:
        shipment: The network.
        target: For which runtime.
        packed: Pack weights without an ONNX type of their own as bit planes.
        two_bit_types: Whether ONNX's 2-bit types may be used.
    """

    shipment: Shipment
    target: Target
    packed: bool
    two_bit_types: bool


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a form's nodes are made of.

    Attributes:
        choice: What is asked for.
        model: The marked graph, a model of onnx; may be changed.
        results: Names of the results that its marks count.
        build: Where nodes and constants go.
        plans: How each layer is written.
    """

    choice: Choice
    model: Any
    results: Sequence[str]
    build: Build
    plans: Sequence[LayerPlan]
