"""How far each layer's output is from the float network's, for two networks side by side."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evoq_moo._compute import MICRO_BATCH
from evoq_moo.calibration._network import CalibratedNetwork
from evoq_moo.errors import ArgumentError
from evoq_moo.graph import Samples, run, split
from evoq_moo.network import QuantizedModule
from evoq_moo.space import FloatArray


def layer_errors(
    network: QuantizedModule | CalibratedNetwork, samples: Samples, *, batch_size: int = MICRO_BATCH
) -> FloatArray:
    """Return the normalized mean squared error of every quantized layer's output against the float network's.

    What calibration of intermediate features makes smaller; errors of the layers before are part of it.

    Args:
        network: What :meth:`QuantizedNetwork.apply` or :func:`calibrate` returns.
        samples: Samples, as the network takes them.
        batch_size: Samples of one forward pass.

    Returns:
        Float64 `(layers,)` in policy order: the sum of squared errors over that of the float outputs, all calls and
        samples together; 0 where both are 0.

    Raises:
        ArgumentError: Another kind of network.
    """
    if not isinstance(network, QuantizedModule | CalibratedNetwork):
        raise ArgumentError(f"network: given {type(network).__name__}; allowed: what apply or calibrate returns")
    names = network.policy.layers
    errors, powers = np.zeros(len(names)), np.zeros(len(names))
    for batch in split(samples, batch_size):
        wanted, found = (_outputs(module, names, batch) for module in (network.reference, network.network))
        for i, name in enumerate(names):
            for y, y_float in zip(found[name], wanted[name], strict=True):
                errors[i] += float((y.double() - y_float.double()).square().sum())
                powers[i] += float(y_float.double().square().sum())
    return np.divide(errors, powers, out=np.zeros(len(names)), where=powers > 0)


def _outputs(module: nn.Module, names: tuple[str, ...], batch: Samples) -> dict[str, list[Tensor]]:
    outputs: dict[str, list[Tensor]] = {name: [] for name in names}
    modules = dict(module.named_modules())

    def keep(name: str) -> Any:
        return lambda _module, _args, output: outputs[name].append(output.detach().clone())

    handles = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        with torch.no_grad():
            run(module, batch)
    finally:
        for handle in handles:
            handle.remove()
    return outputs
