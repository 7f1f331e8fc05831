"""Roots of the Hessian of a difference in the outputs, and the random vectors of Hutchinson's estimator."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Root = Callable[[Tensor, Tensor], Tensor]
"""`root(head, u)`: `R u` of a head `(samples, ...)` for `u` of its shape."""
Probe = Callable[[int, int, Sequence[Tensor]], list[Tensor]]
"""`probe(k, batch, heads)`: the k-th vectors `u` for the heads of a micro-batch."""


def kl_root(samples: int, heads: int) -> Root:
    """Return the root of the Hessian of the mean KL divergence in the logits.

    For one distribution `S = diag(p) - p p'`, and `R = diag(sqrt p) - p sqrt(p)'` is a root of it, because the squares
    of sqrt(p) sum to one.

    Args:
        samples: Number of samples, micro-batches together.
        heads: Number of heads; each counts equally.
    """

    def root(head: Tensor, u: Tensor) -> Tensor:
        p = head.softmax(-1)
        scaled = p.sqrt() * u
        positions = head[0, ..., 0].numel()
        v = scaled - p * scaled.sum(-1, keepdim=True)
        return torch.as_tensor(v / math.sqrt(samples * positions * heads))

    return root


def nmse_root(power: float, heads: int) -> Root:
    """Return the root of the Hessian of a head's normalized MSE: `S = 2 / power` times the identity.

    Args:
        power: Squared norm of the head over all samples; zero counts as 1, as in the difference.
        heads: Number of heads; each counts equally.
    """
    return lambda _head, u: u * (2.0 / ((power or 1.0) * heads)) ** 0.5


def rademacher(seed: int) -> Probe:
    """Return seeded vectors of plus and minus one that depend on nothing but the seed and their place."""

    def probe(k: int, batch: int, heads: Sequence[Tensor]) -> list[Tensor]:
        vectors = []
        for i, head in enumerate(heads):
            own_seed = int(np.random.SeedSequence([seed, k, batch, i]).generate_state(1, np.uint64)[0])
            generator = torch.Generator().manual_seed(own_seed)
            u = torch.randint(0, 2, head.shape, generator=generator).mul_(2).sub_(1)
            vectors.append(u.to(head))
        return vectors

    return probe
