"""A copy of the caller's network to work with: float32, in evaluation mode, the caller's own untouched."""

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from evoq_moo.errors import ArgumentError, NetworkError, check_memory


@contextmanager
def untouched() -> Iterator[None]:
    """Run without gradients and leave the caller's random states and autograd mode as they are."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the caller's own state
    try:
        with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def own_copy(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a copy of a network in float32 and evaluation mode, without gradients, and notes.

    Raises:
        ArgumentError: Not a module.
        NetworkError: It is scripted, has parameters without values or on several devices, or can't be copied.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model: given {type(model).__name__}; allowed: a torch.nn.Module")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = f"its module {name!r} is" if name else "it is"
            raise NetworkError(
                f"model: {where} compiled by TorchScript, which hides what it computes; give the module it was made of"
            )
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in tensors.items():
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise NetworkError(f"model: {name!r} has no values yet (a lazy module); run it once on a batch first")
        if tensor.device.type == "meta":
            raise NetworkError(f"model: {name!r} is on the device 'meta', without values; load its weights first")
    devices = sorted({str(tensor.device) for tensor in tensors.values()})
    if len(devices) > 1:
        raise NetworkError(f"model: its parameters are on several devices, {devices}; move them to one")
    try:
        network = copy.deepcopy(model, _own_values(model))
    except Exception as error:  # whatever a module holds can refuse to be copied
        check_memory(error)
        raise NetworkError(f"model: can't be copied: {type(error).__name__}: {error}") from error
    network.eval().requires_grad_(False)
    others = sorted({str(t.dtype) for t in tensors.values() if t.is_floating_point() and t.dtype != torch.float32})
    if not others:
        return network, ()
    return network.float(), (f"parameters of {', '.join(others)} are computed with in float32",)


def _own_values(model: nn.Module) -> dict[int, Any]:
    """Return what a deep copy must not copy by itself: results of other tensors, and tensors of inference mode."""
    own: dict[int, Any] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers, module.__dict__):
            for value in held.values():
                if isinstance(value, Tensor) and (not value.is_leaf or value.is_inference()):
                    plain = value.detach().clone()
                    own[id(value)] = nn.Parameter(plain) if isinstance(value, nn.Parameter) else plain
    return own
