"""Metrics that must be told apart; another process imports them too."""

import functools
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import torch

from evoq_moo.difference import Difference, kl_divergence

SCALE = 2.0


def power(reference, quantized, p=1):
    return float((reference[0] - quantized[0]).abs().pow(p).sum())


def scaled(reference, quantized):
    return SCALE * power(reference, quantized)


def through(act):
    return lambda r, q: float((act(r[0]) - act(q[0])).abs().sum())


def recursive(reference, quantized):
    return recursive(reference[1:], quantized[1:]) + power(reference, quantized) if reference else 0.0


def importing(reference, quantized):
    from math import exp

    return exp(power(reference, quantized))


class Norm(Enum):
    L1 = 1
    L2 = 2


@dataclass(frozen=True)
class Inner:
    values: tuple[float, ...]
    names: frozenset[str] = frozenset({"a", "b", "c"})


@dataclass
class Weighted:
    weight: object
    inner: Inner = field(default_factory=lambda: Inner((1.0, 2.0)))

    def __call__(self, reference, quantized):
        return self.measure(reference, quantized)

    def measure(self, reference, quantized):
        return float((reference[0] - quantized[0]).square().sum())


class Doubled(Weighted):
    @property
    def factor(self):
        return 2

    def measure(self, reference, quantized):
        return self.factor * super().measure(reference, quantized)


def network(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())


def examples():
    """Return metrics of which each is another one, by name."""
    first, second = lambda r, q: power(r, q, p=3), lambda r, q: power(r, q, p=2)
    return {
        "function": power,
        "global": scaled,
        "first lambda": first,
        "second lambda": second,
        "partial 1": functools.partial(power, p=1),
        "partial 4": functools.partial(power, p=4),
        "sigmoid": through(torch.sigmoid),
        "exp": through(torch.exp),
        "relu": through(torch.nn.functional.relu),
        "numpy": through(np.abs),
        "recursive": recursive,
        "importing": importing,
        "cached": functools.lru_cache(power),
        "ours": kl_divergence,
        "ours of dimension 1": functools.partial(kl_divergence, class_dim=1),
        "bound": Weighted(1).measure,
        "number": Weighted(1),
        "other number": Weighted(2),
        "true": Weighted(True),
        "subclass": Doubled(1),
        "nested": Weighted(1, Inner((1.0, 3.0))),
        "nested set": Weighted(1, Inner((1.0, 2.0), frozenset({"a", "b"}))),
        "set": Weighted({"x", "y", "z", "w"}),
        "enum": Weighted(Norm.L1),
        "other enum": Weighted(Norm.L2),
        "tensor": Weighted(torch.tensor([1.0, 2.0])),
        "other tensor": Weighted(torch.tensor([1.0, 3.0])),
        "bfloat16": Weighted(torch.tensor([1.0, 2.0], dtype=torch.bfloat16)),
        "array": Weighted(np.array([1.0, 2.0])),
        "other shape": Weighted(np.array([[1.0, 2.0]])),
        "objects": Weighted(np.array([1, "a"], dtype=object)),
        "network": Weighted(network(1)),
        "other network": Weighted(network(2)),
        "device": Weighted(torch.device("cpu")),
        "dtype": Weighted(torch.float32),
        "generator": Weighted(np.random.default_rng(3)),
    }


def identities():
    return {name: Difference(metric).identity for name, metric in examples().items()}
