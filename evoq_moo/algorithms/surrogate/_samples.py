"""Which samples tell of a policy: where the difference sits in few samples, those tell nearly all.

Measured on CIFAR-10 ResNet20: 8 of the 50 samples hold 97 % of the KL divergence of policies near the front (an image
that the network is sure of hardly changes its output), and the rest is the same for all of them.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from evoq_moo.errors import ArgumentError, NonFiniteError, check_number
from evoq_moo.graph import count
from evoq_moo.network import QuantizedNetwork, SampleSubset
from evoq_moo.space import FloatArray, IntArray

SHARES = (0.5, 0.9)
"""Our choice: a first look is at as many samples as hold the first share of the difference, a second look at as many
more as the second share needs."""

MOST = 0.5
"""Our choice: where more than this share of the samples would be needed, none screen."""


def sample_differences(network: QuantizedNetwork, bits: IntArray) -> FloatArray:
    """Return the difference on each sample alone under bit-widths `(layers, 2)`, float64 `(samples,)`.

    Costs one evaluation, which no store keeps.
    """
    heads = network.heads_of(bits)
    values = [
        SampleSubset(network, [i]).difference_between([head[i : i + 1] for head in heads])
        for i in range(count(network.samples))
    ]
    return np.array(values, dtype=np.float64)


def hardest_samples(
    network: QuantizedNetwork, policies: IntArray, *, shares: Sequence[float] = SHARES
) -> tuple[IntArray, ...]:
    """Return the fewest samples that hold each share of the difference, the hardest first.

    Each policy counts the same: a sample's part is the mean of its shares in their differences.

    Args:
        network: The network.
        policies: Bit-widths int64 `(n, layers, 2)`, one evaluation each.
        shares: Rising shares from 0 to 1.

    Returns:
        For each share the indices of the samples that it needs beyond the share before it, int64; one that needs none
        is left out. Nothing where a difference is negative on some sample (decibels don't add up) or NaN, where all are
        zero, or where more than half of the samples are needed (`MOST`).

    Raises:
        ArgumentError: As :func:`check_shares`.
    """
    check_shares(shares)
    try:
        parts = np.array([sample_differences(network, bits) for bits in policies])
    except NonFiniteError:
        return ()
    totals = parts.sum(axis=1, keepdims=True)
    if (parts < 0).any() or (totals <= 0).any():
        return ()
    parts = (parts / totals).mean(axis=0)
    order = np.argsort(-parts, kind="stable")
    ends = 1 + np.searchsorted(np.cumsum(parts[order]), shares)
    if ends[-1] > MOST * len(parts):
        return ()
    return tuple(look for look in np.split(order[: ends[-1]], ends[:-1]) if len(look))


def check_shares(shares: Sequence[float]) -> tuple[float, ...]:
    """Return rising shares, or raise.

    Raises:
        ArgumentError: Not one or more rising numbers from 0 to 1.
    """
    values = tuple(shares) if isinstance(shares, Sequence) and not isinstance(shares, str) else ()
    for i, share in enumerate(values):
        check_number(f"shares[{i}]", share, 0, 1)
    if not values or any(a >= b for a, b in pairwise(values)):
        raise ArgumentError(f"shares: given {shares!r}; allowed: one or more rising numbers from 0 to 1")
    return values
