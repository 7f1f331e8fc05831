"""Running a pymoo algorithm on a problem: with progress, interruptible, resumable, and with every policy kept."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import moocore
import numpy as np
from pymoo.core.algorithm import Algorithm

from evoq_moo.analysis import log_difference, normalized_hypervolume
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError, check_count
from evoq_moo.front import ParetoFront
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.progress import track
from evoq_moo.space import FloatArray, IntArray
from evoq_moo.store import policy_key


@dataclass(frozen=True, kw_only=True)
class TraceRow:
    """State of a search after one generation.

    Attributes:
        evaluations: Evaluations the algorithm asked for so far, screenings on few samples counted as parts.
        policies: Different policies among them.
        front: Feasible nondominated points among them.
        hypervolume: Share of the box between ideal and reference point that they dominate, the difference on a log10
            scale; NaN with one objective. See :func:`hypervolume_box`.
    """

    evaluations: int
    policies: int
    front: int
    hypervolume: float


@dataclass(frozen=True, kw_only=True)
class SearchRun:
    """What a search found.

    Attributes:
        front: Nondominated policies among all that the search evaluated.
        vectors: Every different vector the algorithm asked for, in order, int64 `(n, n_var)`.
        trace: One row a generation.
        interrupted: Whether Ctrl-C ended it early; running it again with the same seed goes on where it was.
    """

    front: ParetoFront
    vectors: IntArray = field(repr=False)
    trace: tuple[TraceRow, ...] = field(repr=False)
    interrupted: bool


def hypervolume_box(problem: MixedPrecisionProblem) -> tuple[FloatArray, FloatArray]:
    """Return the ideal and reference point of a problem, each float64 `(objectives,)`.

    Our choice: costs between those of the narrowest and the widest policy; log10 of the difference between one
    hundredth of the widest policy's and the narrowest policy's (or ten times the widest's, if that is more).
    """
    values = problem.values(np.stack([problem.space.lower, problem.space.upper]), all_values=True)
    ideal, reference = [], []
    for name in problem.objectives:
        narrow, wide = (float(v) for v in values[name])
        if name == "difference":
            low, high = log_difference([wide, max(narrow, 10 * wide)])
            ideal.append(low - 2)
            reference.append(high)
        else:
            ideal.append(narrow)
            reference.append(wide)
    return np.array(ideal), np.array(reference)


class _Archive:
    """Every vector a search asked for, and the values of those that are known."""

    def __init__(self, problem: MixedPrecisionProblem) -> None:
        self._problem = problem
        self._ideal, self._reference = hypervolume_box(problem)
        self._F: dict[bytes, FloatArray] = {}
        self._feasible: dict[bytes, bool] = {}
        self.X: dict[bytes, IntArray] = {}

    def add(self, X: IntArray, F: FloatArray, G: FloatArray | None) -> None:
        """Take in evaluated vectors `(n, n_var)`, their objectives and, if there are budgets, their constraints."""
        feasible = np.ones(len(X), dtype=bool)
        if G is not None:
            feasible = np.asarray((G <= 0).all(axis=1))
        for x, f, ok in zip(np.asarray(X, dtype=np.int64), F, feasible, strict=True):
            key = x.tobytes()
            self.X.setdefault(key, x)
            self._F[key] = f
            self._feasible[key] = bool(ok)

    def add_known(self, X: IntArray) -> None:
        """Take in those of some vectors whose difference is in the store; nothing is computed."""
        bits = self._problem.space.decode(X)
        evaluator = self._problem.evaluator
        keys = [policy_key(b) for b in bits]
        known = evaluator.store.get(self._problem.network.fingerprint, keys)
        kept = np.array([key in known for key in keys])
        if kept.any():
            found = self._problem.evaluate(X[kept], return_as_dictionary=True)
            self.add(X[kept], found["F"], found.get("G"))

    def feasible(self) -> list[IntArray]:
        """Return the feasible vectors."""
        return [x for key, x in self.X.items() if self._feasible[key]]

    def row(self, evaluations: int) -> TraceRow:
        """Return the state after so many evaluations."""
        F = np.array([f for key, f in self._F.items() if self._feasible[key]]).reshape(-1, self._problem.n_obj)
        hypervolume = float("nan")
        if self._problem.n_obj > 1:
            scaled = F.copy()
            for i, name in enumerate(self._problem.objectives):
                if name == "difference":
                    scaled[:, i] = log_difference(F[:, i])
            hypervolume = normalized_hypervolume(scaled, ideal=self._ideal, reference=self._reference)
        front = int(moocore.is_nondominated(F, keep_weakly=False).sum()) if len(F) else 0
        return TraceRow(evaluations=evaluations, policies=len(self.X), front=front, hypervolume=hypervolume)


def run_search(
    problem: MixedPrecisionProblem,
    algorithm: Algorithm,
    *,
    evaluations: int = 1000,
    seed: int = 0,
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> SearchRun:
    """Run a pymoo algorithm and keep every policy it evaluates.

    To resume a killed or interrupted search, call it again with the same problem, algorithm, seed and store: it
    replays what is known and goes on. The result is the same as an uninterrupted run's.

    Args:
        problem: The problem; its store is what makes a search resumable.
        algorithm: A pymoo algorithm that was not run before; it is used up.
        evaluations: How many evaluations the algorithm may ask for, known ones included.
        seed: Seed of the algorithm.
        progress: Show progress on a terminal.
        provenance: Plain JSON data to keep with the front.

    Raises:
        ArgumentError: An argument is not allowed.
        InfeasibleBudgetError: No evaluated policy meets the budgets.
    """
    check_count("evaluations", evaluations)
    check_count("seed", seed, lowest=0)
    if not isinstance(algorithm, Algorithm) or algorithm.is_initialized:
        raise ArgumentError("algorithm: allowed: a pymoo algorithm that has not been run yet")
    archive = _Archive(problem)
    trace: list[TraceRow] = []
    interrupted = False
    start = time.time()
    algorithm.setup(problem, termination=("n_eval", evaluations), seed=seed)
    with track(evaluations, "searching", enabled=progress) as bar:
        computed = 0

        def on_result() -> None:
            nonlocal computed
            computed += 1
            bar.advance()

        problem.on_result = on_result
        pending: IntArray | None = None
        try:
            while algorithm.has_next():
                before, computed = algorithm.evaluator.n_eval, 0
                generation = algorithm.ask()
                if generation is None:  # no new offspring: the population holds every policy it can reach
                    break
                pending = generation.get("X")
                algorithm.evaluator.eval(problem, generation, algorithm=algorithm)
                algorithm.tell(infills=generation)
                archive.add(*generation.get("X", "F", "G"))
                trace.append(archive.row(algorithm.evaluator.n_eval))
                # What was found in the store counts too.
                bar.advance(algorithm.evaluator.n_eval - before - computed)
                bar.update(description=f"searching, hypervolume {trace[-1].hypervolume:.4f}")
        except KeyboardInterrupt:
            interrupted = True
            if pending is not None:
                archive.add_known(pending)
        finally:
            problem.on_result = None
    feasible = archive.feasible()
    if not feasible:
        raise InfeasibleBudgetError(
            f"no policy within the budgets {problem.budgets} among {len(archive.X)} evaluated"
            f"{' before the search was interrupted' if interrupted else ''}; they are kept in the store"
        )
    details = {
        "metric": problem.network.metric,
        "fingerprint": problem.network.fingerprint,
        "algorithm": type(algorithm).__name__,
        "seed": seed,
        "evaluations": trace[-1].evaluations if trace else 0,
        "policies": len(archive.X),
        "seconds": round(time.time() - start, 2),
        "interrupted": interrupted,
        **(provenance or {}),
    }
    return SearchRun(
        front=ParetoFront.from_vectors(problem, np.stack(feasible), provenance=details),
        vectors=np.stack(list(archive.X.values())),
        trace=tuple(trace),
        interrupted=interrupted,
    )
