"""The named differences: how far the heads of two networks are apart; smaller is better for each."""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from evoq_moo.errors import ArgumentError, NonFiniteError

VERSION = 2
"""Changes whenever a named difference could give another number: it is part of every evaluation's fingerprint."""

SQNR_FLOOR = 1e-20
"""Our choice: at most 200 dB count, so that an exact output has a finite difference."""


class Metric(Protocol):
    """`metric(float_heads, quantized_heads) -> difference`; heads are float32 `(samples, ...)`."""

    def __call__(self, reference: Sequence[Tensor], quantized: Sequence[Tensor], /) -> float:
        """Return the difference of two networks' heads."""
        ...


class ClassMetric(Protocol):
    """A difference of class scores, which need to know the dimension that runs over classes."""

    def __call__(
        self, reference: Sequence[Tensor], quantized: Sequence[Tensor], /, *, class_dim: int | None = None
    ) -> float:
        """Return the difference of two networks' heads."""
        ...


def _pairs(reference: Sequence[Tensor], quantized: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Give the heads of both networks in float64.

    Raises:
        ArgumentError: Their shapes differ, or there are none.
        NonFiniteError: One holds NaN or infinity, which no difference can judge.
    """
    shapes = [[tuple(head.shape) for head in heads] for heads in (quantized, reference)]
    if shapes[0] != shapes[1] or not reference:
        raise ArgumentError(
            f"quantized: given heads of shapes {shapes[0]}; allowed: those of the float network, {shapes[1]}"
        )
    for what, heads in (("float", reference), ("quantized", quantized)):
        for i, head in enumerate(heads):
            if not head.isfinite().all():
                raise NonFiniteError(f"head {i} of the {what} network holds NaN or infinity")
    return ((r.double(), q.double()) for r, q in zip(reference, quantized, strict=True))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def class_axis(head: Tensor, class_dim: int | None = None) -> int:
    """Return the dimension of a head that runs over classes.

    Our rule, after torch's own losses and the outputs of transformers: dimension 1 of `(samples, classes)` and of
    `(samples, classes, height, width, ...)`, the last of `(samples, positions, classes)`.

    Args:
        head: `(samples, ...)`.
        class_dim: What a user says it is, may be negative; None for the rule.

    Raises:
        ArgumentError: The head has no such dimension, or it holds less than two classes.
    """
    axis = class_dim if class_dim is not None else (2 if head.dim() == 3 else 1)
    axis += head.dim() if axis < 0 else 0
    if not 1 <= axis < head.dim() or head.shape[axis] < 2:
        asked = "" if class_dim is None else f" along class_dim={class_dim}"
        raise ArgumentError(
            f"difference: needs heads of at least two class scores{asked}, given {tuple(head.shape)}; "
            "allowed: (samples, classes), (samples, positions, classes), (samples, classes, height, width, ...), "
            "others with their class_dim=; use 'nmse' for outputs that are no class scores"
        )
    return axis


def kl_divergence(reference: Sequence[Tensor], quantized: Sequence[Tensor], *, class_dim: int | None = None) -> float:
    """KL(softmax(float) || softmax(quantized)) over classes, in nats, mean over samples and positions.

    Args:
        reference: Heads of the float network: logits, e.g. `(samples, classes)`.
        quantized: Heads of the quantized network.
        class_dim: The dimension that runs over classes; None for the rule of :func:`class_axis`.

    Raises:
        ArgumentError: A head has no class dimension of at least two.
        NonFiniteError: A head holds NaN or infinity.
    """
    values = []
    for r, q in _pairs(reference, quantized):
        axis = class_axis(r, class_dim)
        log_p, log_q = r.log_softmax(axis), q.log_softmax(axis)
        # Rounding can leave a sum of products of equal distributions a hair below zero.
        values.append(((log_p.exp() * (log_p - log_q)).sum(axis)).mean().clamp_min(0).item())
    return _mean(values)


def normalized_mse(reference: Sequence[Tensor], quantized: Sequence[Tensor]) -> float:
    """Mean over heads of ||float - quantized||^2 / ||float||^2, over all samples together (no unit).

    Raises:
        NonFiniteError: A head holds NaN or infinity.
    """
    values = []
    for r, q in _pairs(reference, quantized):
        power = r.square().sum()
        error = (r - q).square().sum()
        values.append((error / power if power > 0 else error).item())
    return _mean(values)


def cosine_distance(reference: Sequence[Tensor], quantized: Sequence[Tensor]) -> float:
    """Mean over heads and samples of 1 - cos(float, quantized) of the flattened outputs (no unit, 0..2).

    Two outputs of zeros are equal: 0. Zeros have no angle to anything else: 1.

    Raises:
        NonFiniteError: A head holds NaN or infinity.
    """
    values = []
    for r, q in _pairs(reference, quantized):
        a, b = (torch.nn.functional.normalize(x.flatten(1), dim=1, eps=_SMALLEST_NORM) for x in (r, q))
        both_zero = ~(a.any(1) | b.any(1))
        values.append((1 - (a * b).sum(1) - both_zero.double()).clamp_min(0).mean().item())
    return _mean(values)


_SMALLEST_NORM = torch.finfo(torch.float64).tiny


def negative_sqnr(reference: Sequence[Tensor], quantized: Sequence[Tensor]) -> float:
    """Minus the signal-to-quantization-noise ratio in dB, mean over heads: 10 log10 of the normalized MSE.

    Our choice: at most 200 dB counts, so that an exact output has a finite difference.

    Raises:
        NonFiniteError: A head holds NaN or infinity.
    """
    return _mean([10 * math.log10(max(normalized_mse([r], [q]), SQNR_FLOOR)) for r, q in _pairs(reference, quantized)])


def top1_flips(reference: Sequence[Tensor], quantized: Sequence[Tensor], *, class_dim: int | None = None) -> float:
    """Share of samples (and positions) whose largest score is of another class than the float network's (0..1).

    Args:
        reference: Heads of the float network: class scores, e.g. `(samples, classes)`.
        quantized: Heads of the quantized network.
        class_dim: The dimension that runs over classes; None for the rule of :func:`class_axis`.

    Raises:
        ArgumentError: A head has no class dimension of at least two.
        NonFiniteError: A head holds NaN or infinity.
    """
    values = []
    for r, q in _pairs(reference, quantized):
        axis = class_axis(r, class_dim)
        values.append((r.argmax(axis) != q.argmax(axis)).double().mean().item())
    return _mean(values)


CLASS_METRICS: dict[str, ClassMetric] = {"kl": kl_divergence, "top1_flips": top1_flips}
"""The named differences of class scores."""

METRICS: dict[str, Metric] = {
    "kl": kl_divergence,
    "nmse": normalized_mse,
    "cosine": cosine_distance,
    "sqnr": negative_sqnr,
    "top1_flips": top1_flips,
}
"""The named differences; smaller is better for each."""
