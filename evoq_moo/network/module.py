"""A network that computes with one policy, as a module."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from evoq_moo.quantizer import LayerParameters, ResultParameters, quantized_copy
from evoq_moo.space import Policy


class QuantizedModule(nn.Module):
    """A network that computes with one policy: what :meth:`QuantizedNetwork.apply` returns.

    Attributes:
        network: The network with its layers quantized.
        policy: The policy.
        layers: What each quantized layer computes with, in policy order.
        results: How results between layers are quantized, in execution order.
        reference: The float network; not a submodule, so not in `parameters()` or `state_dict()`.
        preprocess: The float network's attribute of that name, if it has one (networks of the zoo do).
    """

    reference: nn.Module

    def __init__(
        self,
        *,
        layers: Sequence[LayerParameters],
        results: Sequence[ResultParameters],
        policy: Policy,
        reference: nn.Module,
    ) -> None:
        super().__init__()
        self.network = quantized_copy(reference, layers, results)
        self.policy = policy
        self.layers = tuple(layers)
        self.results = tuple(results)
        self.__dict__["reference"] = reference
        self.preprocess: Any = getattr(reference, "preprocess", None)
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the quantized network."""
        return self.network(*args, **kwargs)
