"""`QuantizedLayer`: a layer of a network made to compute with given parameters; its module keeps its own class."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from evoq_moo.errors import NetworkError
from evoq_moo.graph import GraphNetwork, bias_of, set_weight, weight_of
from evoq_moo.quantizer.parameters import LayerParameters
from evoq_moo.quantizer.results import ResultParameters, ResultQuantizer


class _InputQuantizer:
    """What a layer's input passes: the last thing before the layer itself, behind hooks of the caller's own."""

    def __init__(self) -> None:
        self.parameters: LayerParameters | None = None

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.parameters is None or not self.parameters.quantized_activation:
            return None
        if args:
            return (self.parameters.quantize_input(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "input": self.parameters.quantize_input(kwargs["input"])}


class QuantizedLayer:
    """A layer of a network whose weight, bias and quantization of its input can be set.

    Args:
        module: The layer, changed in place from now on.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.float_weight = weight_of(module)
        self.float_bias = bias_of(module)
        self._input = _InputQuantizer()
        module.register_forward_pre_hook(self._input, with_kwargs=True)

    def set(self, parameters: LayerParameters) -> None:
        """Compute with these parameters from now on."""
        self._set_float(parameters.value(), parameters.bias)
        self._input.parameters = parameters

    def reset(self) -> None:
        """Compute in float again."""
        self._set_float(self.float_weight, self.float_bias)
        self._input.parameters = None

    def _set_float(self, weight: Tensor, bias: Tensor | None) -> None:
        set_weight(self.module, weight.to(self.float_weight.device))
        if bias is not None or self.float_bias is not None:
            value = None if bias is None else bias.to(self.float_weight.device)
            parameter = None if value is None else nn.Parameter(value, requires_grad=False)
            self.module.register_parameter("bias", parameter)


def quantize_results(network: nn.Module, results: Sequence[ResultParameters]) -> None:
    """Let some results of a network be quantized as soon as they are computed, and no others.

    Args:
        network: The network, changed in place.
        results: How they are quantized.

    Raises:
        NetworkError: The network was not captured, or has no such results.
    """
    if isinstance(network, GraphNetwork):
        network.place_results({p.name: ResultQuantizer(p) for p in results})
    elif results:
        raise NetworkError("results: given some of a network that was not captured as a graph; it has none")


def quantized_copy(
    network: nn.Module, layers: Sequence[LayerParameters], results: Sequence[ResultParameters] = ()
) -> nn.Module:
    """Return a copy of a float network that computes with given parameters.

    Args:
        network: The network.
        layers: The parameters of some of its layers.
        results: How some of its results are quantized.
    """
    copied = copy.deepcopy(network)
    modules = dict(copied.named_modules())
    for parameters in layers:
        QuantizedLayer(modules[parameters.name]).set(parameters)
    quantize_results(copied, results)
    return copied
