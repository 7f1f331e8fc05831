"""What a network's set-up found, and what evaluating a policy finds."""

from dataclasses import dataclass

from evoq_moo.costs import CostValues


@dataclass(frozen=True, kw_only=True)
class NetworkReport:
    """What a network's set-up found.

    Attributes:
        float_error: Largest distance of the captured network's float outputs to the given one's on all samples, as a
            share of their largest value.
        engine: The engine that computes policies.
        engine_reason: Why that is not the integer engine; empty if it is.
        results: Which results have 8 bits and why.
        difference: Name of the difference.
        layers: Quantizable layers.
        macs_quantized: Share of the multiply-accumulates that they compute, 0..1.
        parameters_quantized: Share of the parameters that are their weights, 0..1.
        notes: What stays float and why, and what else a user should know, one sentence each.
    """

    float_error: float
    engine: str
    engine_reason: str
    results: str
    difference: str
    layers: int
    macs_quantized: float
    parameters_quantized: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        why = f" ({self.engine_reason})" if self.engine_reason else ""
        first = (
            f"{self.layers} layers with {100 * self.macs_quantized:.1f} % of the MACs and "
            f"{100 * self.parameters_quantized:.1f} % of the parameters; float outputs off by {self.float_error:.1g}; "
            f"engine: {self.engine}{why}"
        )
        return "\n".join([first, self.results, f"difference: {self.difference}", *self.notes])


@dataclass(frozen=True, kw_only=True)
class Evaluation(CostValues):
    """What one policy costs and changes.

    Attributes:
        difference: Output difference to the pre-trained network on the samples, in the metric's unit.
        costs: Every cost that needs no table, by name.
    """

    difference: float
