"""Hessian traces of a network's weights and layer inputs, by Hutchinson's estimator from unlabelled samples.

The loss is the difference to the float network itself, so its gradient at the float network is zero and its Hessian is
exactly `J' S J`: J the Jacobian of the outputs, S the Hessian of the difference in the outputs. With a factorization
`S = R R'` the trace of a block is that of `R' J J' R`, and Hutchinson's estimator of it is `|J' R u|^2` with Rademacher
vectors `u`: one backward pass for all layers at once, where Hessian-vector products would take two and need
double backward of every operation.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evoq_moo._compute import ComputePool
from evoq_moo.baselines._roots import Probe, Root
from evoq_moo.difference import heads_of
from evoq_moo.errors import NetworkError, NonFiniteError
from evoq_moo.graph import Samples, count, run
from evoq_moo.quantizer import LayerRanges, fake_quantize_activation


@dataclass(frozen=True, kw_only=True)
class Traces:
    """Traces of the Hessian of the difference in each layer.

    Attributes:
        weights: For each layer's name, float64 `(probes,)`: estimates of the trace over its weights.
        inputs: For each layer's name, float64 `(probes, samples)`: the same over its input, for each sample.
        input_errors: For each layer's name and bit-width, float64 `(samples,)`: `|Q_b(x) - x|^2` of its input.
        elements: For each layer's name, elements of its input for one sample, all calls together.
    """

    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    input_errors: dict[str, dict[int, Tensor]]
    elements: dict[str, int]


class _Inputs(threading.local):
    """What the layers of one thread's forward pass were given."""

    def __init__(self) -> None:
        self.given: list[tuple[str, Tensor]] = []


@contextmanager
def _captured(layers: Mapping[str, nn.Module], inputs: _Inputs) -> Iterator[None]:
    """Let every layer work on its own copy of its input, and keep the copy: only this layer's reading is quantized."""

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x = args[0] if args else kwargs["input"]
        own = x.clone()
        if not own.requires_grad:
            own.requires_grad_()
        inputs.given.append((name, own))
        return ((own, *args[1:]), kwargs) if args else (args, {**kwargs, "input": own})

    handles = [
        layer.register_forward_pre_hook(lambda _m, a, k, name=name: hook(name, a, k), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _input_errors(x: Tensor, ranges: LayerRanges) -> Tensor:
    """Return `|Q_b(x) - x|^2` of each sample, float64 `(bit-widths, samples)`."""
    errors = []
    for bits, found in ranges.activation.items():
        restored = fake_quantize_activation(x, found.scale, found.zero_point, bits)
        errors.append((restored - x).double().square().reshape(len(x), -1).sum(1).cpu())
    return torch.stack(errors)


class _Batches:
    """The float network, ready to be differentiated on one micro-batch after the other."""

    def __init__(
        self, network: nn.Module, ranges: Mapping[str, LayerRanges], *, roots: Sequence[Root], probe: Probe, probes: int
    ) -> None:
        self._network = copy.deepcopy(network).requires_grad_(False)
        modules = dict(self._network.named_modules())
        self.layers = {name: modules[name] for name in ranges}
        for layer in self.layers.values():  # layers that share a weight get one each
            layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=True)
        self._weights: list[Any] = [layer.weight for layer in self.layers.values()]
        self._index = {name: i for i, name in enumerate(ranges)}
        self._ranges = ranges
        self._roots, self._probe, self._probes = roots, probe, probes
        self.inputs = _Inputs()

    def run(self, b: int, batch: Samples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what one micro-batch adds.

        Returns:
            Squared gradients of weights `(probes, layers)` and inputs `(probes, layers, samples)`, errors of inputs
            `(layers, bit-widths, samples)`, all float64, and elements of the inputs of one sample `(layers,)`.

        Raises:
            NetworkError: The outputs have no gradient.
        """
        self.inputs.given = []
        with torch.enable_grad():
            heads = heads_of(run(self._network, batch))
        given, self.inputs.given = self.inputs.given, []
        used = [i for i, head in enumerate(heads) if head.requires_grad]
        if not used:
            raise NetworkError("the network's outputs have no gradient; allowed: a network that can be differentiated")
        weights = torch.zeros(self._probes, len(self.layers), dtype=torch.float64)
        inputs = torch.zeros(self._probes, len(self.layers), count(batch), dtype=torch.float64)
        targets = [*self._weights, *(x for _, x in given)]
        for k in range(self._probes):
            u = self._probe(k, b, heads)
            vectors = [self._roots[i](heads[i].detach(), u[i]) for i in used]
            last = k + 1 == self._probes
            gradients = torch.autograd.grad(
                [heads[i] for i in used], targets, vectors, retain_graph=not last, allow_unused=True
            )
            for i, gradient in enumerate(gradients[: len(self._weights)]):
                if gradient is not None:
                    weights[k, i] = gradient.double().square().sum()
            for (name, _), gradient in zip(given, gradients[len(self._weights) :], strict=True):
                if gradient is not None:
                    squares = gradient.double().square().reshape(len(batch), -1).sum(1).cpu()
                    inputs[k, self._index[name]] += squares
        widths = len(next(iter(self._ranges.values())).activation)
        errors = torch.zeros(len(self.layers), widths, len(batch), dtype=torch.float64)
        elements = torch.zeros(len(self.layers), dtype=torch.int64)
        for name, x in given:
            errors[self._index[name]] += _input_errors(x.detach(), self._ranges[name])
            elements[self._index[name]] += x[0].numel()
        return weights, inputs, errors, elements


def hessian_traces(
    network: nn.Module,
    batches: Sequence[Samples],
    ranges: Mapping[str, LayerRanges],
    *,
    roots: Sequence[Root],
    probe: Probe,
    probes: int,
    pool: ComputePool,
    on_batch: Callable[[], None],
) -> Traces:
    """Estimate the trace of the Hessian over every layer's weights and over every layer's input.

    Every micro-batch is run once, with one backward pass for each probe; what is kept at once are the activations
    of one micro-batch a thread, and their gradients.

    Args:
        network: The float network; not changed.
        batches: Micro-batches of the samples.
        ranges: Ranges for each layer's name.
        roots: Root of the difference's Hessian for each head.
        probe: Gives the vectors `u`.
        probes: How many.
        pool: Where micro-batches run.
        on_batch: Called after each.

    Raises:
        NetworkError: The outputs have no gradient.
        NonFiniteError: A gradient is NaN or infinite.
    """
    runner = _Batches(network, ranges, roots=roots, probe=probe, probes=probes)

    def run(item: tuple[int, Samples]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found = runner.run(*item)
        on_batch()
        return found

    with _captured(runner.layers, runner.inputs):
        parts = pool.map(run, enumerate(batches))
    weights = torch.stack([part[0] for part in parts]).sum(dim=0)
    inputs = torch.cat([part[1] for part in parts], dim=2)
    errors = torch.cat([part[2] for part in parts], dim=2)
    for i, name in enumerate(ranges):
        if not (weights[:, i].isfinite().all() and inputs[:, i].isfinite().all()):
            raise NonFiniteError(f"the gradient of the difference is NaN or infinite in layer {name!r}")
    return Traces(
        weights={name: weights[:, i] for i, name in enumerate(ranges)},
        inputs={name: inputs[:, i] for i, name in enumerate(ranges)},
        input_errors={
            name: dict(zip(found.activation, errors[i], strict=True)) for i, (name, found) in enumerate(ranges.items())
        },
        elements=dict(zip(ranges, parts[0][3].tolist(), strict=True)),
    )
