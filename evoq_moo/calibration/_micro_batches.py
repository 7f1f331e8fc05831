"""Samples in parts to hold out, each part in micro-batches, with or without mirror images."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evoq_moo._compute import MICRO_BATCH
from evoq_moo.graph import Samples, count, filled, map_samples, rows


@dataclass(frozen=True, eq=False)
class MicroBatches:
    """The samples as calibration reads them.

    Attributes:
        batches: Micro-batches: samples, and behind them their mirror images if there are any.
        seen: For each state and micro-batch, whether it may be fitted to: the state of each part never sees that part,
            the last state sees all.
        rows: Which rows of all micro-batches, one behind the other, are samples, int64 `(samples,)`.
        order: Which sample each of those rows is, `(samples,)`.
        held_out: Which part each of them is in, `(samples,)`.
    """

    batches: tuple[Samples, ...]
    seen: tuple[tuple[bool, ...], ...]
    rows: Tensor
    order: Tensor
    held_out: Tensor


def cut(samples: Samples, *, folds: int, mirror: bool, seed: int, size: int | None = None) -> MicroBatches:
    """Cut samples into parts and micro-batches.

    Args:
        samples: The samples.
        folds: Parts to hold out.
        mirror: Whether each micro-batch also holds its samples' mirror images, which are so held out with them.
        seed: Of the parts.
        size: The only number of samples that the network takes: a micro-batch is filled up by its first sample.
    """
    number = count(samples)
    parts = [torch.from_numpy(p) for p in np.array_split(np.random.default_rng(seed).permutation(number), folds)]
    each = 2 if mirror else 1
    most = max(1, (size or MICRO_BATCH) // each)
    pieces = [
        (k, piece)
        for k, part in enumerate(parts)
        for piece in torch.tensor_split(part, math.ceil(len(part) / (most if size else MICRO_BATCH / each)))
    ]
    batches = [rows(samples, piece) for _, piece in pieces]
    if mirror:
        batches = [map_samples(lambda x: torch.cat([x, x.flip(-1)]), batch) for batch in batches]
    if size:
        batches = [filled(batch, size) for batch in batches]
    real = [torch.arange(count(batch)) < len(piece) for batch, (_, piece) in zip(batches, pieces, strict=True)]
    return MicroBatches(
        batches=tuple(batches),
        seen=tuple(tuple(k != state for k, _ in pieces) for state in range(folds + 1)),
        rows=torch.cat(real).nonzero().flatten(),
        order=torch.cat(parts),
        held_out=torch.cat([torch.full((len(part),), k) for k, part in enumerate(parts)]),
    )
