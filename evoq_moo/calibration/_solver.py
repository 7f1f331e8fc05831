"""Levels of weights that minimize a layer's squared output error: a least-squares problem in integers.

The error of one output channel with weights `w = s q` is, up to a constant, `(w - t)' H (w - t)` with `H` the (ridged)
covariance of the layer's inputs and `t` the float solution. AdaRound minimizes it by gradient descent on relaxed
rounding; here it is minimized directly: an optimal-brain-quantization start (Frantar et al. 2022, GPTQ: each rounding
error is spread over the weights not yet rounded; a channel whose nearest levels are better starts at those), then
coordinate descent on the levels (as QuantEase, Behdin et al. 2023), which never makes it worse, and a closed-form step
of the scales. Deterministic, in seconds on a CPU.
"""

import torch
from torch import Tensor

from evoq_moo.quantizer import weight_range, weight_scales

BLOCK = 64
"""Columns whose errors are spread together; the result does not depend on it but for rounding."""


def ridged(gram: Tensor, strength: Tensor) -> Tensor:
    """Return a matrix with a ridge on its diagonal, float64 `(groups, k, k)`.

    Args:
        gram: Covariance of the inputs `(groups, k, k)`.
        strength: What to add to each variance `(groups,)`.
    """
    return gram.double() + strength[:, None, None] * torch.eye(gram.shape[1], dtype=torch.float64)


def target_weights(factor: Tensor, cross: Tensor, prior: Tensor, strength: Tensor) -> Tensor:
    """Return the float weights of least squared error, `(groups, channels, k)`, float32.

    Args:
        factor: Cholesky factor of the ridged covariance of the inputs, float64 `(groups, k, k)`.
        cross: Covariance of inputs and wanted outputs `(groups, k, channels)`.
        prior: Float weights `(groups, channels, k)` that the ridge pulls to.
        strength: The ridge, float64 `(groups,)`.
    """
    right = cross.double() + strength[:, None, None] * prior.double().transpose(1, 2)
    return torch.cholesky_solve(right, factor).transpose(1, 2).float()


def solve_levels(
    h: Tensor, target: Tensor, bits: int, *, scales: Tensor | None = None, sweeps: int = 4
) -> tuple[Tensor, Tensor]:
    """Return levels and scales that make `(w - target)' H (w - target)` small.

    Args:
        h: `(groups, k, k)`, positive definite.
        target: `(groups, channels, k)`.
        bits: Bit-width (bits).
        scales: Scales `(groups, channels)` to start from; None for those of minimum squared error of the target.
        sweeps: Rounds of coordinate descent; the scales are fitted between them.

    Returns:
        Levels, float32 `(groups, channels, k)`, and scales `(groups, channels)`.
    """
    lowest, highest = weight_range(bits)
    groups, channels, k = target.shape
    if scales is None:
        scales = weight_scales(target.reshape(groups * channels, k), bits).reshape(groups, channels)
    order = _order(h)
    spread = _start(h[:, order][:, :, order], target[:, :, order], scales, lowest, highest)
    levels = torch.empty_like(spread)
    levels[:, :, order] = spread
    nearest = (target / scales[:, :, None]).round_().clamp_(lowest, highest)
    better = objective(h, target, nearest * scales[:, :, None]) < objective(h, target, levels * scales[:, :, None])
    levels = torch.where(better[:, :, None], nearest, levels)
    return improve_levels(h, target, levels, scales, bits, sweeps=sweeps)


def improve_levels(
    h: Tensor, target: Tensor, levels: Tensor, scales: Tensor, bits: int, *, sweeps: int
) -> tuple[Tensor, Tensor]:
    """Return levels and scales that are no worse than given ones, by rounds of coordinate descent.

    Args:
        h: `(groups, k, k)`, positive definite.
        target: `(groups, channels, k)`.
        levels: Float32, in the shape of the target.
        scales: `(groups, channels)`.
        bits: Bit-width (bits).
        sweeps: Rounds; the scales are fitted before each.
    """
    order = _order(h)
    h = h[:, order][:, :, order].contiguous()
    target, moving = target[:, :, order].contiguous(), levels[:, :, order].contiguous()
    for _ in range(sweeps):
        scales = _fitted_scales(h, target, moving, scales)
        if not _descend(h, target, moving, scales, *weight_range(bits)):
            break
    result = torch.empty_like(moving)
    result[:, :, order] = moving
    return result, scales


def _order(h: Tensor) -> Tensor:
    """Return the order of weights: those of the largest inputs first."""
    return h.diagonal(dim1=1, dim2=2).mean(0).argsort(descending=True, stable=True)


def objective(h: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return `(w - target)' H (w - target)` of each channel, `(groups, channels)`."""
    error = weights - target
    return ((error @ h) * error).sum(-1)


def _start(h: Tensor, target: Tensor, scales: Tensor, lowest: int, highest: int) -> Tensor:
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h.double()))
    upper = torch.linalg.cholesky(inverse, upper=True).float()
    w, k = target.clone(), target.shape[-1]
    levels = torch.empty_like(w)
    for start in range(0, k, BLOCK):
        stop = min(start + BLOCK, k)
        errors = torch.empty_like(w[:, :, start:stop])
        for j in range(start, stop):
            level = (w[:, :, j] / scales).round_().clamp_(lowest, highest)
            levels[:, :, j] = level
            error = (w[:, :, j] - level * scales) / upper[:, j, j, None]
            errors[:, :, j - start] = error
            w[:, :, j:stop] -= error[:, :, None] * upper[:, None, j, j:stop]
        w[:, :, stop:] -= errors @ upper[:, start:stop, stop:]
    return levels


def _fitted_scales(h: Tensor, target: Tensor, levels: Tensor, scales: Tensor) -> Tensor:
    product = levels @ h
    power = (product * levels).sum(-1)
    best = (product * target).sum(-1) / power.clamp_min(1e-30)
    # A scale must stay positive, and near where its levels were chosen.
    usable = (power > 0) & (best > scales / 2) & (best < scales * 2)
    return torch.where(usable, best, scales)


def _descend(h: Tensor, target: Tensor, levels: Tensor, scales: Tensor, lowest: int, highest: int) -> bool:
    """Move each level in turn to its best value given all others, in place; return whether any moved."""
    k = levels.shape[-1]
    gradient = (levels * scales[:, :, None] - target) @ h
    moved = False
    for start in range(0, k, BLOCK):
        stop = min(start + BLOCK, k)
        inside = h[:, start:stop, start:stop]
        local = gradient[:, :, start:stop].clone()
        steps = torch.empty_like(local)
        for j in range(stop - start):
            old = levels[:, :, start + j]
            wanted = old - local[:, :, j] / (inside[:, j, j, None] * scales)
            new = wanted.round_().clamp_(lowest, highest)
            step = (new - old) * scales
            steps[:, :, j] = step
            levels[:, :, start + j] = new
            local += step[:, :, None] * inside[:, None, j]
        moved = moved or bool((steps != 0).any())
        gradient += steps @ h[:, start:stop]
    return moved
