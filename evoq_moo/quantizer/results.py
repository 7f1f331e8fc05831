"""Results of 8 bits: which results of a network a policy quantizes, and by which levels."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from evoq_moo.graph import RESULT_BITS, Grid, Passed, ResultPlaces
from evoq_moo.quantizer.arithmetic import fake_quantize_activation
from evoq_moo.quantizer.parameters import LayerParameters
from evoq_moo.quantizer.ranges import ActivationRange


@dataclass(frozen=True, kw_only=True)
class ResultParameters:
    """How one result is quantized: affine, per tensor, unsigned, 8 bits.

    Attributes:
        name: Its name in the network's graph.
        scale: Step (float32 value).
        zero_point: Level of zero, 0..255.
    """

    name: str
    scale: float
    zero_point: int

    def quantize(self, x: Tensor) -> Tensor:
        """Return values moved to their levels, float32."""
        return fake_quantize_activation(x, self.scale, self.zero_point, RESULT_BITS)


class ResultQuantizer(nn.Module):
    """What a result passes in a network that computes with a policy.

    Args:
        result: How it is quantized.
    """

    def __init__(self, result: ResultParameters) -> None:
        super().__init__()
        self.result = result

    def forward(self, x: Tensor) -> Tensor:
        """Return the values of a result, moved to their levels."""
        return self.result.quantize(x)

    def extra_repr(self) -> str:
        """Return scale and zero point."""
        return f"scale={self.result.scale:.6g}, zero_point={self.result.zero_point}"


@dataclass(frozen=True, eq=False)
class ResultRanges:
    """Everything needed to quantize the results of a network under any policy.

    Attributes:
        places: Where; None for nowhere: all results stay float.
        ranges: The range of each place on the samples, by name.
        reason: Why there, or nowhere, in words.
    """

    places: ResultPlaces | None
    ranges: Mapping[str, ActivationRange]
    reason: str
    own: Mapping[str, Grid] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        own = {name: Grid(r.scale, r.zero_point, RESULT_BITS) for name, r in self.ranges.items()}
        object.__setattr__(self, "own", own)

    def grids(self, inputs: Sequence[Grid | None], integer: Sequence[bool]) -> dict[str, Grid]:
        """Return the levels of each result that is quantized; see :meth:`ResultPlaces.grids`."""
        return {} if self.places is None else self.places.grids(inputs, integer, self.own)

    def fingerprint(self) -> str:
        """Return what identifies the ranges of results: plain text, empty where all stay float."""
        return json.dumps(self.own) if self.own else ""

    def of(self, layers: Sequence[LayerParameters]) -> tuple[ResultParameters, ...]:
        """Return how results are quantized where layers compute with given parameters, in execution order.

        Args:
            layers: The parameters of every layer, in policy order.
        """
        grids = self.grids([_input_grid(p) for p in layers], [p.is_integer for p in layers])
        return tuple(ResultParameters(name=name, scale=g.scale, zero_point=g.zero_point) for name, g in grids.items())

    def passed(self, layers: Sequence[LayerParameters]) -> Passed:
        """Return the same as functions of the results, by name."""
        return {p.name: p.quantize for p in self.of(layers)}


def _input_grid(p: LayerParameters) -> Grid | None:
    if p.activation_scale is None or p.activation_zero_point is None:
        return None
    return Grid(p.activation_scale, p.activation_zero_point, p.activation_bits)


FLOAT_RESULTS = ResultRanges(None, {}, "all results stay float")
"""No result is quantized."""
