"""One run of a study: what it is, doing it, and its file."""

import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pymoo.core.problem import Problem

from evoq_moo._files import write_atomically
from evoq_moo._loop import BudgetSpentError, Record
from evoq_moo.errors import ArgumentError, FormatError, MissingFileError
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.space import FloatArray, IntArray
from evoq_moo.store import policy_key
from evoq_moo.study._algorithms import Search
from evoq_moo.study._problems import ProblemEntry, open_problem
from evoq_moo.study._sensitivity import sensitivity_for

FORMAT = "evoq-moo/study-run"


@dataclass(frozen=True, kw_only=True)
class RunKey:
    """What a run is.

    Attributes:
        problem: Name of the problem.
        algorithm: Name of the algorithm.
        description: What the algorithm is, in a line: runs of another one under this name are not this one's.
        seed: Seed.
        budget: Evaluations.
        charge_scan: Whether a sensitivity scan counts in the budget.
    """

    problem: str
    algorithm: str
    description: str
    seed: int
    budget: int
    charge_scan: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A finished run: its unbounded archive.

    Attributes:
        key: What it is.
        paid: Evaluations spent on the sensitivity scan before the search; they are of no policy of the space.
        X: Vectors in the order they were evaluated, int64 `(n, n_var)`.
        F: Objectives, float64 `(n, objectives)`.
        G: Constraints, float64 `(n, constraints)`; 0 and less is feasible.
        counts: Evaluations spent when each vector was known, int64 `(n,)`, rising: its own, the scan's, and what a
            search spent in between on screening.
        seconds: Time it took.
        problem_seconds: Time of these in the problem's evaluations, without screenings.
    """

    key: RunKey
    paid: int
    X: IntArray = field(repr=False)
    F: FloatArray = field(repr=False)
    G: FloatArray = field(repr=False)
    counts: IntArray = field(repr=False)
    seconds: float
    problem_seconds: float

    @property
    def archive(self) -> FloatArray:
        """Objectives of every evaluation, float64 `(evaluations, objectives)`.

        Infinite where a policy is infeasible or has no difference, and where the evaluation is of none: scan and
        screenings.
        """
        feasible = np.asarray(self.G <= 0).all(axis=1) & np.isfinite(self.F).all(axis=1)
        archive = np.full((int(self.counts.max(initial=self.paid)), self.F.shape[1]), np.inf)
        archive[self.counts[feasible] - 1] = self.F[feasible]
        return archive

    def save(self, path: Path) -> None:
        """Write the run as an ``.npz`` file, whole or not at all."""
        meta = {
            "format": FORMAT,
            "version": 1,
            "key": asdict(self.key),
            "paid": self.paid,
            "seconds": self.seconds,
            "problem_seconds": self.problem_seconds,
        }
        file = io.BytesIO()
        small = self.X.astype(np.int16) if np.abs(self.X).max(initial=0) < 2**15 else self.X
        np.savez_compressed(
            file,
            meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8),
            X=small,
            F=self.F,
            G=self.G,
            between=np.diff(self.counts, prepend=self.paid) - 1,
        )
        write_atomically(path, file.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Run":
        """Read a run that :meth:`save` wrote.

        Raises:
            MissingFileError: No such file.
            FormatError: Not a run, damaged, or of an unknown version.
        """
        with _opened(path) as (meta, file):
            paid, X = int(meta["paid"]), file["X"].astype(np.int64)
            # Files from before there were screenings in studies have none.
            between = file["between"] if "between" in file else np.zeros(len(X), dtype=np.int64)
            return cls(
                key=RunKey(**meta["key"]),
                paid=paid,
                X=X,
                counts=paid + np.cumsum(between + 1),
                F=file["F"],
                G=file["G"],
                seconds=float(meta["seconds"]),
                problem_seconds=float(meta["problem_seconds"]),
            )


def load_key(path: Path) -> RunKey:
    """Read what a run is, and nothing else, from its file.

    Raises:
        MissingFileError: No such file.
        FormatError: Not a run, damaged, or of an unknown version.
    """
    with _opened(path) as (meta, _):
        return RunKey(**meta["key"])


@contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    if not path.is_file():
        raise MissingFileError(f"no such file: {path}")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            meta = json.loads(file["meta"].tobytes())
            if (meta["format"], meta["version"]) != (FORMAT, 1):
                raise FormatError(f"{path}: given {meta['format']!r} {meta['version']}; allowed: {FORMAT!r} 1")
            yield meta, file
    except FormatError:
        raise
    except Exception as error:
        raise FormatError(f"{path}: not a run of a study, or damaged: {error!r}; remove it to do it again") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class RunResult:
    """What comes back from a worker.

    Attributes:
        run: The run.
        fingerprint: Of a real network's evaluations; None on other problems.
        differences: By policy, those of a worker that could not reach the study's store.
    """

    run: Run
    fingerprint: str | None = None
    differences: dict[bytes, float] = field(default_factory=dict, repr=False)


def execute_run(key: RunKey, entry: ProblemEntry, search: Search, store: str | None) -> RunResult:
    """Do one run, in this process.

    Args:
        key: What it is.
        entry: The problem.
        search: The algorithm.
        store: Where a real network's evaluations are kept.

    Raises:
        ArgumentError: The scan alone takes the budget.
        EvoqError: As the problem and the algorithm.
    """
    problem = open_problem(entry, store)
    with sensitivity_for(problem, search) as scanned:
        paid = scanned if key.charge_scan else 0
        if paid >= key.budget:
            raise ArgumentError(
                f"budget: given {key.budget}; {key.algorithm} on {key.problem} spends {paid} on the sensitivity "
                "scan alone; allowed: more, or charge_scan=False"
            )
        record = Record(problem, key.budget, paid=paid)
        clock = _Clock(problem)
        start = time.perf_counter()
        try:
            with clock:
                search(problem, record, key.seed)
        except BudgetSpentError:
            pass
    X, F, G = record.arrays()
    run = Run(
        key=key,
        paid=paid,
        X=X,
        F=F,
        G=G,
        counts=record.counts,
        seconds=time.perf_counter() - start,
        problem_seconds=clock.seconds,
    )
    if not isinstance(problem, MixedPrecisionProblem):
        return RunResult(run=run)
    fingerprint = problem.evaluator.network.fingerprint
    if problem.evaluator.store.path == store:
        return RunResult(run=run, fingerprint=fingerprint)
    keys = [policy_key(bits) for bits in problem.space.decode(X)]
    return RunResult(
        run=run, fingerprint=fingerprint, differences=problem.evaluator.store.get(fingerprint, sorted(set(keys)))
    )


class _Clock:
    """Adds up the time a problem spends in `_evaluate` while the context lasts."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.seconds = 0.0

    def __enter__(self) -> None:
        evaluate = self._problem._evaluate

        def timed(*args: Any, **kwargs: Any) -> None:
            start = time.perf_counter()
            evaluate(*args, **kwargs)
            self.seconds += time.perf_counter() - start

        self._problem._evaluate = timed

    def __exit__(self, *exception: object) -> None:
        del self._problem._evaluate
