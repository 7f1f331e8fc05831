"""Running a pymoo algorithm on a problem: with progress, interruptible, resumable, and with every policy kept."""

import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import moocore
import numpy as np
from pymoo.core.algorithm import Algorithm

from evoq_moo._text import html_table
from evoq_moo.calibration import CalibratingNetwork
from evoq_moo.costs import chosen_costs
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError, check_count
from evoq_moo.front import ParetoFront
from evoq_moo.indicators import log_difference, normalized_hypervolume
from evoq_moo.network import QuantizedNetwork
from evoq_moo.problems import BitWidthProblem, MixedPrecisionProblem
from evoq_moo.progress import track
from evoq_moo.runs._loop import Record, run_algorithm
from evoq_moo.space import FloatArray, IntArray


@dataclass(frozen=True, kw_only=True)
class TraceRow:
    """State of a search after one generation.

    Attributes:
        evaluations: Evaluations the algorithm asked for so far.
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

    def __repr__(self) -> str:
        state = ", interrupted" if self.interrupted else ""
        return f"SearchRun({self.front!r} of {len(self.vectors)} policies{state})"

    def _repr_html_(self) -> str:
        picture = ""
        if len(self.front) and len(self.front.objectives) > 1:
            from evoq_moo.plots import image_bytes, plot_front  # brings matplotlib

            drawn = b64encode(image_bytes(plot_front(self.front), "svg")).decode()
            picture = f'<img alt="the front" src="data:image/svg+xml;base64,{drawn}">'
        return picture + html_table(self.front.table(title=repr(self), max_rows=15))


def hypervolume_box(problem: BitWidthProblem, F: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the ideal and reference point of a problem, each float64 `(objectives,)`; nothing is evaluated.

    Our choice: costs between their smallest and largest on the space; log10 of the difference between one hundredth of
    the smallest of some policies and the largest of them (or ten times the smallest, if that is more).

    Args:
        problem: The problem.
        F: Finite objectives of the first policies of a search, one or more, `(n, objectives)`.
    """
    ideal, reference = np.empty(problem.n_obj), np.empty(problem.n_obj)
    for k, name in enumerate(problem.objectives):
        if name == "difference":
            least, most = F[:, k].min(), F[:, k].max()
            low, high = log_difference([least, max(most, 10 * least)])
            ideal[k], reference[k] = low - 2, high
        else:
            low, high = chosen_costs((name,), problem.costs, "objectives")[0].bounds(problem.space)
            ideal[k], reference[k] = low, high if high > low else low + 1  # all policies share a constant cost
    return ideal, reference


class _Progress:
    """How far a search is: a row for each generation."""

    def __init__(self, problem: BitWidthProblem, record: Record) -> None:
        self._problem = problem
        self._record = record
        self._box: tuple[FloatArray, FloatArray] | None = None

    def row(self) -> TraceRow:
        """Return the state of the search so far."""
        X, F, _ = self._record.arrays()
        F = F[self._record.feasible()]
        front = int(moocore.is_nondominated(F, keep_weakly=False).sum()) if len(F) else 0
        return TraceRow(
            evaluations=self._record.evaluations,
            policies=len(np.unique(X, axis=0)),
            front=front,
            hypervolume=self._hypervolume(F),
        )

    def _hypervolume(self, F: FloatArray) -> float:
        if self._problem.n_obj < 2:
            return float("nan")
        everything = self._record.arrays()[1]
        defined = everything[np.isfinite(everything).all(axis=1)]
        if self._box is None and len(defined):
            self._box = hypervolume_box(self._problem, defined)
        if self._box is None or not len(F):
            return 0.0
        scaled = F.copy()
        for k, name in enumerate(self._problem.objectives):
            if name == "difference":
                scaled[:, k] = log_difference(F[:, k])
        return normalized_hypervolume(scaled, ideal=self._box[0], reference=self._box[1])


def run_search(
    problem: BitWidthProblem,
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
        evaluations: How many evaluations the algorithm may ask for, known ones included; the last generation is cut
            where it has more.
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
    record = Record(problem, evaluations)
    state = _Progress(problem, record)
    trace: list[TraceRow] = []
    interrupted = False
    start = time.perf_counter()
    with track(evaluations, "searching", enabled=progress) as bar:
        shown = 0

        def on_result() -> None:
            nonlocal shown
            shown += 1
            bar.advance()

        def on_generation() -> None:
            nonlocal shown
            trace.append(state.row())
            bar.advance(record.evaluations - shown)  # what was found in the store counts too
            shown = record.evaluations
            bar.update(description=f"searching, hypervolume {trace[-1].hypervolume:.4f}")

        problem.on_result = on_result
        try:
            run_algorithm(algorithm, problem, record, seed, on_generation=on_generation)
        except KeyboardInterrupt:
            interrupted = True
            problem.on_result = None
            asked = record.asked
            if (known := problem.known(asked)).any():
                record.evaluate(asked[known])
                trace.append(state.row())
        finally:
            problem.on_result = None
    X, F, _ = record.arrays()
    feasible = record.feasible()
    vectors = np.array(list({x.tobytes(): x for x in X}.values()), dtype=np.int64).reshape(-1, problem.n_var)
    without = int((~np.isfinite(F).all(axis=1)).sum())
    if not feasible.any():
        raise InfeasibleBudgetError(
            f"no policy within the budgets {problem.budgets} among {len(vectors)} evaluated"
            f"{' before the search was interrupted' if interrupted else ''}"
            f"{f' ({without} of them have no difference: NaN or infinite)' if without else ''}; they are kept in the "
            "store"
        )
    details = {
        **problem.provenance,
        "algorithm": type(algorithm).__name__,
        "seed": seed,
        "evaluations": record.evaluations,
        "policies": len(vectors),
        **({"policies_without_difference": without} if without else {}),
        "seconds": round(time.perf_counter() - start, 2),
        "interrupted": interrupted,
        **(provenance or {}),
    }
    return SearchRun(
        front=ParetoFront.from_vectors(problem, X[feasible], provenance=details),
        vectors=vectors,
        trace=tuple(trace),
        interrupted=interrupted,
    )


def with_expectations(run: SearchRun, problem: MixedPrecisionProblem, *, progress: bool) -> SearchRun:
    """Return a run whose front says what to expect on new images; an interrupted one as it is.

    Args:
        run: What a search found.
        problem: The problem that it was of.
        progress: Show progress on a terminal.
    """
    network = problem.evaluator.network
    if run.interrupted or not isinstance(network, QuantizedNetwork | CalibratingNetwork):
        return run
    return replace(run, front=run.front.expecting(network, progress=progress))
