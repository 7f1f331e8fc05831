"""One run of a study: what it is, doing it, and its file."""

import io
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from pymoo.core.problem import Problem

from evoq_moo.errors import ArgumentError
from evoq_moo.evaluation import policy_key
from evoq_moo.files import (
    Amount,
    Evaluations,
    Layout,
    Whole,
    parse_json,
    read_bytes,
    read_npz,
    reading,
    write_atomically,
)
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.runs import BudgetSpentError, Record
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import FloatArray, IntArray
from evoq_moo.study._algorithms import Search
from evoq_moo.study._problems import ProblemEntry, opened_problem
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
    seed: Whole
    budget: Evaluations
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
            search spent in between on something else.
        seconds: Time it took.
        problem_seconds: Time of these in the problem's evaluations.
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

        Infinite where a policy is infeasible or has no difference, and where the evaluation is of none, as in a
        scan.
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
        meta, arrays = _read(path, _ARRAYS)
        with reading(_damaged(path)):
            # Files from before there were screenings in studies have no `between`.
            rows = {name: len(array) for name, array in arrays.items() if name in _ARRAYS}
            if len(set(rows.values())) > 1 or rows["X"] > meta.key.budget or arrays["F"].shape[1] < 1:
                raise ValueError(f"arrays of {rows} rows are of no one run of {meta.key.budget} evaluations")
            X, F, G = arrays["X"].astype(np.int64), arrays["F"].astype(np.float64), arrays["G"].astype(np.float64)
            between = arrays.get("between", np.zeros(len(X), dtype=np.int64)).astype(np.int64)
            if np.isnan(F).any() or np.isnan(G).any():
                raise ValueError("holds NaN")
            spent = [meta.paid, len(X), *(int(n) for n in (between.min(initial=0), between.max(initial=0)))]
            if min(spent) < 0 or max(spent) > meta.key.budget or meta.paid + len(X) + between.sum() > meta.key.budget:
                raise ValueError(f"counts more evaluations than its budget of {meta.key.budget}, or fewer than none")
            return cls(
                key=meta.key,
                paid=meta.paid,
                X=X,
                counts=meta.paid + np.cumsum(between + 1),
                F=F,
                G=G,
                seconds=meta.seconds,
                problem_seconds=meta.problem_seconds,
            )


def load_key(path: Path) -> RunKey:
    """Read what a run is, and nothing else, from its file.

    Raises:
        MissingFileError: No such file.
        FormatError: Not a run, damaged, or of an unknown version.
    """
    return _read(path, {})[0].key


class _Meta(Struct):
    format: Literal["evoq-moo/study-run"]
    version: Literal[1]
    key: RunKey
    paid: Evaluations
    seconds: Amount
    problem_seconds: Amount


_META = {"meta": Layout(kinds="u", ndim=1)}
_ARRAYS = {
    "X": Layout(kinds="iu", ndim=2),
    "F": Layout(kinds="f", ndim=2),
    "G": Layout(kinds="f", ndim=2),
    "between": Layout(kinds="iu", ndim=1, optional=True),
}


def _read(path: Path, layouts: Mapping[str, Layout]) -> tuple[_Meta, dict[str, npt.NDArray[Any]]]:
    data = read_bytes(path)
    # numpy and zipfile raise nearly anything on damaged archives.
    with reading(_damaged(path), catch=(Exception,)):
        arrays = read_npz(io.BytesIO(data), len(data), {**_META, **layouts})
        return parse_json(arrays["meta"].tobytes(), _Meta), arrays


def _damaged(path: Path) -> str:
    return f"{path}: not a run of a study, or damaged (remove it to do it again)"


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
    with opened_problem(entry, store) as shared:
        table, scanned = sensitivity_for(shared, search)
        paid = scanned if key.charge_scan else 0
        if paid >= key.budget:
            raise ArgumentError(
                f"budget: given {key.budget}; {key.algorithm} on {key.problem} spends {paid} on the sensitivity "
                "scan alone; allowed: more, or charge_scan=False"
            )
        clock = _Clock()
        problem = _own_copy(shared, table, clock)
        record = Record(problem, key.budget, paid=paid)
        start = time.perf_counter()
        with suppress(BudgetSpentError):
            search(problem, record, key.seed)
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
        fingerprint, kept = problem.evaluator.network.fingerprint, problem.evaluator.store
        if kept.path == store:
            return RunResult(run=run, fingerprint=fingerprint)
        keys = [policy_key(bits) for bits in problem.space.decode(X)]
        return RunResult(run=run, fingerprint=fingerprint, differences=kept.get(fingerprint, sorted(set(keys))))


class _Clock:
    """Adds up the time that calls of one run take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., None]) -> Callable[..., None]:
        """Return a function whose time is added up."""

        def timed(*args: Any, **kwargs: Any) -> None:
            start = time.perf_counter()
            function(*args, **kwargs)
            self.seconds += time.perf_counter() - start

        return timed


def _own_copy(problem: Problem, table: SensitivityTable | None, clock: _Clock) -> Problem:
    """Return a problem of this run alone, with its table and its clock: other threads may run on the same one."""
    copied = object.__new__(type(problem))
    copied.__dict__.update(vars(problem))
    if table is not None:
        copied.sensitivity = table
    copied._evaluate = clock.around(copied._evaluate)
    return copied
