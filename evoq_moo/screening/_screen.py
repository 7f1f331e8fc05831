"""Screening: differences of policies on the few samples that hold most of it."""

from typing import Any, Self

import numpy as np

from evoq_moo.evaluation import Evaluator
from evoq_moo.network import QuantizedNetwork
from evoq_moo.space import FloatArray, IntArray

from ._archive import Archive, PolicyScale
from ._model import local_moments
from ._samples import hardest_samples

PROBES = 3
"""Our choice: policies of the start, evenly spread, that tell which samples are hard; one evaluation each."""

REACH = 0.15
"""Our choice: length over which the step from screened to real values is averaged, in the archive's unit."""


class Screen:
    """Screened policies, and what they tell of the difference on all samples.

    The step from the one to the other is learned from policies of which both are known, averaged around the screened
    value, with its scatter.

    Attributes:
        X: Screened policies that were not evaluated yet, int64 `(n, n_var)`.
        preparation: What setting it up cost (evaluations).
    """

    def __init__(self, evaluator: Evaluator, scale: PolicyScale, share: float, preparation: float) -> None:
        self._evaluator = evaluator
        self._scale = scale
        self._share = share
        self.preparation = preparation
        self.X = np.empty((0, scale.space.n_var), dtype=np.int64)
        self._screened = np.empty(0)
        self._known: dict[bytes, float] = {}

    @classmethod
    def of(cls, problem: Any, X: IntArray, archive: Archive, share: float, scale: PolicyScale) -> Self | None:
        """Return a screen for a problem; None where there is nothing to screen with.

        Args:
            problem: The problem.
            X: The first policies, all evaluated, `(n, n_var)`.
            archive: What is known of them.
            share: Share of the difference that the samples must hold.
            scale: The search's scales.
        """
        network = getattr(problem, "network", None)
        evaluator = getattr(problem, "evaluator", None)
        if type(network) is not QuantizedNetwork or evaluator is None or evaluator.network is not network:
            return None
        order = np.argsort(archive.values, kind="stable")
        probes = X[order[np.linspace(0, len(X) - 1, PROBES + 2).round().astype(int)[1:-1]]]
        samples = hardest_samples(network, problem.space.decode(probes), share=share)
        if not len(samples):
            return None
        part = len(samples) / len(network.samples)
        screen = cls(evaluator.on_samples(samples), scale, part, PROBES + part * len(X))
        for x, value in zip(X, screen._values(X), strict=True):
            screen._known[x.tobytes()] = value
        return screen

    def _values(self, X: IntArray) -> FloatArray:
        return self._scale.values(self._evaluator.differences(self._scale.space.decode(X)))

    def add(self, X: IntArray) -> float:
        """Screen policies and return what it cost (evaluations)."""
        screened = self._values(X)
        self.X = np.concatenate([self.X, X])
        self._screened = np.concatenate([self._screened, screened])
        self._known.update(zip((x.tobytes() for x in X), screened.tolist(), strict=True))
        return self._share * len(X)

    def remove(self, rows: list[int]) -> IntArray:
        """Take out policies that will be evaluated, and return them, int64 `(n, n_var)`."""
        chosen = self.X[rows]
        kept = np.ones(len(self.X), dtype=bool)
        kept[rows] = False
        self.X, self._screened = self.X[kept], self._screened[kept]
        return chosen

    def estimates(self, archive: Archive) -> tuple[FloatArray, FloatArray]:
        """Return what the screened policies' values on all samples should be, and standard deviations, `(n,)` each.

        Args:
            archive: The evaluated policies.
        """
        rows = [i for i, x in enumerate(archive.X) if x.tobytes() in self._known]
        screened = np.array([self._known[archive.X[i].tobytes()] for i in rows])
        steps = archive.values[rows] - screened
        mean, square = local_moments(self._screened, screened, steps, REACH * archive.unit)
        std = np.sqrt(np.maximum(square - mean**2, 0) + (0.003 * archive.unit) ** 2)
        return self._screened + mean, std
