"""Differences between the outputs of the quantized and the pre-trained network on the samples.

A network's output may be any nesting of tuples, lists and mappings; its floating-point tensors, in order, are its
heads. Each head counts equally. All sums run in float64.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from evoq_moo.errors import ArgumentError, NetworkError, check_name

Metric = Callable[[Sequence[Tensor], Sequence[Tensor]], float]
"""`metric(float_heads, quantized_heads) -> difference`; heads are float32 `(samples, ...)`."""


def heads_of(output: Any) -> list[Tensor]:
    """Return the floating-point tensors of a nested network output, in order (mappings by insertion order).

    Raises:
        NetworkError: The output holds no floating-point tensor.
    """
    heads: list[Tensor] = []

    def visit(part: Any) -> None:
        if isinstance(part, Tensor):
            if part.is_floating_point():
                heads.append(part)
        elif isinstance(part, Mapping):
            for value in part.values():
                visit(value)
        elif isinstance(part, list | tuple):
            for value in part:
                visit(value)
        elif part is not None and hasattr(part, "__dataclass_fields__"):
            for name in part.__dataclass_fields__:
                visit(getattr(part, name))

    visit(output)
    if not heads:
        raise NetworkError(f"the network's output ({type(output).__name__}) holds no floating-point tensor to compare")
    return heads


def _pairs(reference: Sequence[Tensor], quantized: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    if len(reference) != len(quantized) or any(r.shape != q.shape for r, q in zip(reference, quantized, strict=False)):
        raise ArgumentError(
            f"quantized: given heads of shapes {[tuple(q.shape) for q in quantized]}; "
            f"allowed: those of the float network, {[tuple(r.shape) for r in reference]}"
        )
    return [(r.double(), q.double()) for r, q in zip(reference, quantized, strict=True)]


def kl_divergence(reference: Sequence[Tensor], quantized: Sequence[Tensor]) -> float:
    """KL(softmax(float) || softmax(quantized)) over the last dimension, in nats, mean over samples and positions.

    Args:
        reference: Heads of the float network: logits `(samples, ..., classes)`.
        quantized: Heads of the quantized network.

    Raises:
        ArgumentError: A head has no class dimension of at least two.
    """
    values = []
    for r, q in _pairs(reference, quantized):
        if r.dim() < 2 or r.shape[-1] < 2:
            raise ArgumentError(
                f"difference: 'kl' needs heads of logits (samples, ..., classes >= 2), given {tuple(r.shape)}; "
                "use 'nmse' for other outputs"
            )
        log_p, log_q = r.log_softmax(-1), q.log_softmax(-1)
        # Rounding can leave a sum of products of equal distributions a hair below zero.
        values.append(((log_p.exp() * (log_p - log_q)).sum(-1)).mean().clamp_min(0).item())
    return sum(values) / len(values)


def normalized_mse(reference: Sequence[Tensor], quantized: Sequence[Tensor]) -> float:
    """Mean over heads of ||float - quantized||^2 / ||float||^2, over all samples together (no unit)."""
    values = []
    for r, q in _pairs(reference, quantized):
        power = r.square().sum()
        error = (r - q).square().sum()
        values.append((error / power).item() if power > 0 else (0.0 if error == 0 else error.item()))
    return sum(values) / len(values)


def cosine_distance(reference: Sequence[Tensor], quantized: Sequence[Tensor]) -> float:
    """Mean over heads and samples of 1 - cos(float, quantized) of the flattened outputs (no unit, 0..2)."""
    values = []
    for r, q in _pairs(reference, quantized):
        similarity = torch.nn.functional.cosine_similarity(r.flatten(1), q.flatten(1), dim=1)
        values.append((1 - similarity).clamp_min(0).mean().item())
    return sum(values) / len(values)


def negative_sqnr(reference: Sequence[Tensor], quantized: Sequence[Tensor]) -> float:
    """Minus the signal-to-quantization-noise ratio in dB, mean over heads: 10 log10 of the normalized MSE.

    Our choice: at most 200 dB counts, so that an exact output has a finite difference.
    """
    values = []
    for pair in _pairs(reference, quantized):
        nmse = normalized_mse([pair[0]], [pair[1]])
        values.append(10 * torch.tensor(max(nmse, 1e-20), dtype=torch.float64).log10().item())
    return sum(values) / len(values)


def top1_flips(reference: Sequence[Tensor], quantized: Sequence[Tensor]) -> float:
    """Share of samples (and positions) whose largest logit is another class than the float network's (0..1)."""
    values = [(r.argmax(-1) != q.argmax(-1)).double().mean().item() for r, q in _pairs(reference, quantized)]
    return sum(values) / len(values)


METRICS: dict[str, Metric] = {
    "kl": kl_divergence,
    "nmse": normalized_mse,
    "cosine": cosine_distance,
    "sqnr": negative_sqnr,
    "top1_flips": top1_flips,
}
"""The named differences; smaller is better for each."""
CLASSIFICATION_DEFAULT = "kl"
DETECTION_DEFAULT = "nmse"
"""What ``"auto"`` means: a detector's class logits and box regressions count equally, before suppression."""


def resolve(difference: str | Metric) -> tuple[str, Metric]:
    """Return the name and function of a difference.

    Args:
        difference: A name in :data:`METRICS`, or a callable of (float heads, quantized heads).

    Raises:
        UnknownNameError: No difference of that name.
        ArgumentError: Neither a name nor a callable.
    """
    if isinstance(difference, str):
        check_name("difference", difference, METRICS)
        return difference, METRICS[difference]
    if not callable(difference):
        raise ArgumentError(f"difference: given {difference!r}; allowed: one of {list(METRICS)} or a callable")
    module = getattr(difference, "__module__", "")
    name = getattr(difference, "__qualname__", type(difference).__qualname__)
    return f"{module}.{name}", difference


@dataclass(frozen=True)
class Rebuild:
    """Makes an output of its tensors: the output itself with numbers in the place of its tensors."""

    nesting: Any

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        return _map(self.nesting, _Leaf, lambda leaf: tensors[leaf.index])


@dataclass(frozen=True)
class _Leaf:
    index: int


def _map(part: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    if isinstance(part, kind):
        return function(part)
    if isinstance(part, Mapping):
        changed = {key: _map(value, kind, function) for key, value in part.items()}
        return changed if type(part) is dict else type(part)(changed)
    if isinstance(part, tuple) and hasattr(part, "_fields"):
        return type(part)(*(_map(value, kind, function) for value in part))
    if isinstance(part, list | tuple):
        return type(part)(_map(value, kind, function) for value in part)
    if part is not None and hasattr(part, "__dataclass_fields__"):
        return replace(part, **{n: _map(getattr(part, n), kind, function) for n in part.__dataclass_fields__})
    return part


def skeleton(output: Any) -> tuple[list[Tensor], Rebuild]:
    leaves: list[Tensor] = []

    def take(tensor: Tensor) -> _Leaf:
        leaves.append(tensor)
        return _Leaf(len(leaves) - 1)

    nesting = _map(output, Tensor, take)
    return leaves, Rebuild(nesting)
