"""Choosing a search's samples by what a network makes of them, without labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from evoq_moo._compute import MICRO_BATCH, ComputePool, evaluation_mode
from evoq_moo.detection import HEADS
from evoq_moo.difference import heads_of
from evoq_moo.errors import ArgumentError, NonFiniteError, check_name
from evoq_moo.graph import observed, prepare
from evoq_moo.images import ImageSource, Transform
from evoq_moo.progress import track

RANDOM = "random"
CHOOSERS = (RANDOM, "k-center", "high-entropy", "low-entropy")
"""Ways to choose samples."""


def choose_samples(
    network: nn.Module,
    source: ImageSource,
    candidates: Sequence[int],
    *,
    preprocess: Transform,
    count: int,
    choose: str,
    progress: bool = True,
) -> list[int]:
    """Return which candidates to take, best first, so that the choices of a smaller count are the first of a larger's.

    - ``"k-center"``: diversity without classes. Starting with the first candidate, always the one farthest (Euclidean)
      from those taken, by penultimate features: inputs of the network's last layers, averaged over positions
      (Gonzalez 1985; Sener and Savarese 2018 for learning). Twice the best possible radius at most.
    - ``"high-entropy"``, ``"low-entropy"``: the network's least, or most, certain images: entropy of its softmax, mean
      over positions (a detector's: over default boxes).

    Args:
        network: The float network; left as it is.
        source: The images.
        candidates: Which of them may be taken, in an order that decides ties.
        preprocess: The network's.
        count: How many.
        choose: The way; not ``"random"``.
        progress: Show progress on a terminal.

    Raises:
        UnknownNameError: No such way.
        ArgumentError: The network has no class logits, or several heads, for entropy.
        NonFiniteError: The network computes NaN or infinity.
        NetworkError: The network can't run on the images.
    """
    check_name("choose", choose, CHOOSERS[1:])
    with evaluation_mode(network):
        rows = _rows_of(network, source, candidates, preprocess, choose, progress=progress)
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise NonFiniteError(f"choose: the network computes NaN or infinity on image {candidates[bad]}")
    if choose == "k-center":
        order = farthest_first(rows, count)
    else:
        order = np.argsort(-rows[:, 0] if choose == "high-entropy" else rows[:, 0], kind="stable")[:count]
    return [candidates[i] for i in order]


def farthest_first(rows: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Return the greedy k-center order of points `(n, d)`: the first, then always the farthest from those before."""
    order = [0]
    distances = np.linalg.norm(rows - rows[0], axis=1)
    while len(order) < count:
        # Points taken must not come again where all others lie on top of them.
        distances[order] = -1
        order.append(int(distances.argmax()))
        distances = np.minimum(distances, np.linalg.norm(rows - rows[order[-1]], axis=1))
    return np.array(order)


def _rows_of(
    network: nn.Module,
    source: ImageSource,
    candidates: Sequence[int],
    preprocess: Transform,
    choose: str,
    *,
    progress: bool,
) -> npt.NDArray[np.float64]:
    pool = ComputePool(threads=1)
    last: tuple[str, ...] = ()
    if choose == "k-center":
        found = pool.run(lambda: prepare(network, source.batch(candidates[:2], preprocess)))
        network, last = found.network, found.last
    parts: list[Tensor] = []
    with track(len(candidates), "looking at images", enabled=progress) as bar:
        for start in range(0, len(candidates), MICRO_BATCH):
            indices = candidates[start : start + MICRO_BATCH]
            batch = source.batch(indices, preprocess)
            seen: dict[str, Tensor] = {}

            def run(batch: Tensor = batch, seen: dict[str, Tensor] = seen) -> Tensor:
                with observed(network, last, lambda name, x: seen.update({name: _pooled(x)})):
                    output = network(batch)
                return torch.cat([seen[name] for name in last], 1) if last else _entropy(output)

            parts.append(pool.run(run))
            bar.advance(len(indices))
    return torch.cat(parts).double().numpy()


def _pooled(x: Tensor) -> Tensor:
    if x.dim() == 2:
        return x
    # Positions of images lie behind the channels, those of sequences before the features.
    return x.flatten(2).mean(2) if x.dim() == 4 else x.flatten(1, -2).mean(1)


def _entropy(output: Any) -> Tensor:
    heads = [output[HEADS[0]]] if isinstance(output, Mapping) and HEADS[0] in output else heads_of(output)
    if len(heads) != 1 or heads[0].dim() < 2 or heads[0].shape[-1] < 2:
        shapes = [tuple(head.shape) for head in heads]
        raise ArgumentError(f"choose: entropy needs one head of class logits; the network gives {shapes}")
    log_p = heads[0].double().log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return entropy.reshape(len(entropy), -1).mean(1, keepdim=True)
