"""Screening: differences of policies on the few samples that hold most of it."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from evoq_moo.algorithms.surrogate._archive import Archive, PolicyScale
from evoq_moo.algorithms.surrogate._model import local_moments
from evoq_moo.algorithms.surrogate._samples import hardest_samples
from evoq_moo.costs import BoolArray
from evoq_moo.evaluation import Evaluator
from evoq_moo.graph import count
from evoq_moo.network import QuantizedNetwork
from evoq_moo.problems import MixedPrecisionProblem, PolicyProblem
from evoq_moo.space import FloatArray, IntArray

PROBES = 3
"""Our choice: policies of the start, evenly spread, that tell which samples are hard; one evaluation each."""

OPTIMISM = 1.0
"""Our choice: standard deviations by which a policy may turn out better than its estimate at another look."""

REACH = 0.15
"""Our choice: length over which the step from screened to real values is averaged, in the archive's unit."""


class Screen:
    """Screened policies, and what they tell of the difference on all samples.

    Policies are looked at once or several times, each time on more samples; most are not worth a second look. The step
    from what a look gives to what the next one gives, and from the last to the real value, is learned from policies of
    which both are known, averaged around the value, with its scatter.

    Attributes:
        preparation: What setting it up cost (evaluations).
    """

    def __init__(self, evaluators: Sequence[Evaluator], scale: PolicyScale, samples: int) -> None:
        self._evaluators = tuple(evaluators)
        self._counts = np.array([count(evaluator.network.samples) for evaluator in evaluators])
        self._samples = samples
        self._scale = scale
        self.preparation = 0.0
        self._rows: dict[bytes, int] = {}
        self._all = np.empty((0, scale.space.n_var), dtype=np.int64)
        self._seen = np.empty((0, len(self._evaluators)))
        """Differences of all policies ever screened after each look, NaN where there was none."""
        self._waiting_rows = np.empty(0, dtype=np.int64)

    @classmethod
    def of(
        cls, problem: PolicyProblem, X: IntArray, archive: Archive, shares: Sequence[float], scale: PolicyScale
    ) -> Self | None:
        """Return a screen for a problem; None where there is nothing to screen with.

        Args:
            problem: The problem.
            X: The first policies, all evaluated, `(n, n_var)`.
            archive: What is known of them.
            shares: Share of the difference that the samples of each look and those before it must hold.
            scale: The search's scales.
        """
        if not isinstance(problem, MixedPrecisionProblem):
            return None
        evaluator, network = problem.evaluator, problem.evaluator.network
        if not isinstance(network, QuantizedNetwork):
            return None
        order = np.argsort(archive.values, kind="stable")
        probes = X[order[np.linspace(0, len(X) - 1, PROBES + 2).round().astype(int)[1:-1]]]
        looks = hardest_samples(network, problem.space.decode(probes), shares=shares)
        if not looks:
            return None
        screen = cls([evaluator.on_samples(look) for look in looks], scale, count(network.samples))
        rows = screen._new_rows(X)
        screen.preparation = PROBES + sum(screen._look(rows, look) for look in range(len(looks)))
        return screen

    def _new_rows(self, X: IntArray) -> IntArray:
        rows = np.arange(len(self._all), len(self._all) + len(X))
        self._rows.update((x.tobytes(), row) for x, row in zip(X, rows.tolist(), strict=True))
        self._all = np.concatenate([self._all, X])
        self._seen = np.concatenate([self._seen, np.full((len(X), len(self._evaluators)), np.nan)])
        return rows

    def _look(self, rows: IntArray, look: int) -> float:
        """Take a look at policies that had all those before it, and return what it cost (evaluations)."""
        found = self._evaluators[look].differences(self._scale.space.decode(self._all[rows]))
        # A policy without a difference on these samples counts as the worst that was looked at.
        defined = np.isfinite(found)
        worst = max(found[defined].max(initial=0.0), np.nanmax(self._seen, initial=0.0))
        found = np.where(defined, found, worst)
        if look:
            new = self._counts[look] / self._counts[: look + 1].sum()
            found = (1 - new) * self._seen[rows, look - 1] + new * found
        self._seen[rows, look] = found
        return float(self._counts[look] / self._samples * len(rows))

    @property
    def waiting(self) -> IntArray:
        """Screened policies that were not evaluated yet, int64 `(n, n_var)`."""
        return self._all[self._waiting_rows]

    @property
    def complete(self) -> BoolArray:
        """Which of them had all looks, bool `(n,)`."""
        return np.asarray(np.isfinite(self._seen[self._waiting_rows, -1]))

    def add(self, X: IntArray) -> float:
        """Take a first look at policies and return what it cost (evaluations)."""
        rows = self._new_rows(X)
        self._waiting_rows = np.concatenate([self._waiting_rows, rows])
        return self._look(rows, 0)

    def look_again(self, archive: Archive) -> float:
        """Take all further looks that policies are worth, and return what it cost (evaluations).

        A policy is worth one while its estimate, less `OPTIMISM` standard deviations, is better than what is known to
        cost no more.

        Args:
            archive: The evaluated policies.
        """
        cost = 0.0
        for look in range(1, len(self._evaluators)):
            values, noise = self.estimates(archive)
            hopeful = values - OPTIMISM * noise < archive.cells().best_at(self._scale.costs(self.waiting))
            seen = np.isfinite(self._seen[self._waiting_rows])
            rows = self._waiting_rows[hopeful & seen[:, look - 1] & ~seen[:, look]]
            cost += self._look(rows, look) if len(rows) else 0.0
        return cost

    def remove(self, rows: list[int]) -> IntArray:
        """Take out policies that will be evaluated, and return them, int64 `(n, n_var)`."""
        chosen = self.waiting[rows]
        kept = np.ones(len(self._waiting_rows), dtype=bool)
        kept[rows] = False
        self._waiting_rows = self._waiting_rows[kept]
        return chosen

    def estimates(self, archive: Archive) -> tuple[FloatArray, FloatArray]:
        """Return what the screened policies' values on all samples should be, and standard deviations, `(n,)` each.

        Args:
            archive: The evaluated policies.
        """
        known = self._scale.values(self._seen)
        seen = known[self._waiting_rows]
        rows = [i for i, x in enumerate(archive.X) if x.tobytes() in self._rows]
        real = known[[self._rows[archive.X[i].tobytes()] for i in rows], -1]
        value, variance = seen[:, 0], np.zeros(len(seen))
        for look in range(len(self._evaluators)):
            last = look == len(self._evaluators) - 1
            before, after = (real, archive.values[rows]) if last else (known[:, look], known[:, look + 1])
            both = np.isfinite(before) & np.isfinite(after)
            mean, square = local_moments(value, before[both], (after - before)[both], REACH * archive.unit)
            value, variance = value + mean, variance + np.maximum(square - mean**2, 0)
            if not last:
                again = np.isfinite(seen[:, look + 1])
                value, variance = np.where(again, seen[:, look + 1], value), np.where(again, 0, variance)
        return value, np.sqrt(variance + (0.003 * archive.unit) ** 2)
