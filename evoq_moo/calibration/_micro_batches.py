"""Samples in parts to hold out, each part in micro-batches, with or without mirror images."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evoq_moo.calibration._graph import MICRO_BATCH


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

    batches: tuple[Tensor, ...]
    seen: tuple[tuple[bool, ...], ...]
    rows: Tensor
    order: Tensor
    held_out: Tensor

    @property
    def sizes(self) -> list[int]:
        """The sizes of micro-batches, each once, the largest first."""
        return sorted({len(batch) for batch in self.batches}, reverse=True)


def cut(samples: Tensor, *, folds: int, mirror: bool, seed: int) -> MicroBatches:
    """Cut samples into parts and micro-batches.

    Args:
        samples: Float32 `(N, ...)`.
        folds: Parts to hold out.
        mirror: Whether each micro-batch also holds its samples' mirror images, which are so held out with them.
        seed: Of the parts.
    """
    parts = [torch.from_numpy(p) for p in np.array_split(np.random.default_rng(seed).permutation(len(samples)), folds)]
    each = 2 if mirror else 1
    # As even as can be: each size of micro-batch is captured by itself.
    pieces = [
        (k, piece)
        for k, part in enumerate(parts)
        for piece in torch.tensor_split(part, math.ceil(each * len(part) / MICRO_BATCH))
    ]
    batches = [samples[piece] for _, piece in pieces]
    real = [torch.arange(each * len(batch)) < len(batch) for batch in batches]
    if mirror:
        batches = [torch.cat([batch, batch.flip(-1)]) for batch in batches]
    return MicroBatches(
        batches=tuple(batches),
        seen=tuple(tuple(k != state for k, _ in pieces) for state in range(folds + 1)),
        rows=torch.cat(real).nonzero().flatten(),
        order=torch.cat(parts),
        held_out=torch.cat([torch.full((len(part),), k) for k, part in enumerate(parts)]),
    )
