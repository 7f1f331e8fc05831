"""`Study`: every (problem, algorithm, seed), each on disk as soon as it is finished."""

import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from pathlib import Path
from typing import Any

from msgspec import Struct
from pymoo.core.algorithm import Algorithm
from pymoo.core.problem import Problem

from evoq_moo.errors import ArgumentError, check_count
from evoq_moo.evaluation import EvaluationStore, ProcessPool, live_with_parent
from evoq_moo.files import MOST_EVALUATIONS, Evaluations, read_json, write_atomically
from evoq_moo.problems import get_problem
from evoq_moo.progress import Tracker, track
from evoq_moo.study._algorithms import Search, check_algorithm, describe
from evoq_moo.study._problems import NetworkProblem, ProblemEntry, problem_entries
from evoq_moo.study._results import StudyResults
from evoq_moo.study._runs import Run, RunKey, RunResult, execute_run, load_key
from evoq_moo.study._sensitivity import check_sensitivity_of

FORMAT = "evoq-moo/study"
STORE = "evaluations.sqlite"


class _StudyData(Struct):
    budget: Evaluations
    charge_scan: bool


class Study:
    """Runs every algorithm on every problem with every seed, and keeps each run's archive.

    Runs of one seed start from it alone, so results do not depend on where, in which order or how often they were
    begun. A finished run is a file in the folder at once; the same study on the same folder does the missing ones.
    Problems, algorithms and seeds may be added to a folder; another budget needs another folder.

    Args:
        problems: Names of the suite (:func:`evoq_moo.problems.problem_names`), :class:`NetworkProblem` for real
            networks, pymoo problems with a `name`; or a mapping from names to these or to functions that make one.
        algorithms: By name: one of `evoq_moo.study.ALGORITHMS`, or a function that makes a pymoo algorithm for a
            problem, or any :class:`~evoq_moo.study.Search`. A sequence of names is enough for those of ours.
        seeds: Whole numbers.
        budget: Evaluations of each run.
        path: The study's folder; it is made if it isn't there.
        executor: None runs in this process, a number on that many processes of our own, else any
            `concurrent.futures.Executor` (Dask: `client.get_executor()`), which stays open. Workers compute on one
            thread each.
        charge_scan: Whether algorithms that use the sensitivity table pay for its scan out of the budget.
        progress: Show progress on a terminal.

    Attributes:
        path: The folder.
        problems: The problems by name.
        algorithms: The algorithms by name.
        seeds: The seeds.
        budget: Evaluations of each run.

    Raises:
        ArgumentError: An argument is not of its allowed values, an algorithm can't run on one of the problems, or the
            folder holds a study of another budget.
        UnknownNameError: A name is unknown.
    """

    def __init__(
        self,
        *,
        problems: Sequence[ProblemEntry] | Mapping[str, ProblemEntry],
        algorithms: Sequence[str] | Mapping[str, str | Search | Callable[[Any], Algorithm]],
        seeds: Iterable[int] = range(31),
        budget: int = 1000,
        path: str | Path = "study",
        executor: Executor | int | None = None,
        charge_scan: bool = True,
        progress: bool = True,
    ) -> None:
        self.problems = problem_entries(problems)
        named = algorithms if isinstance(algorithms, Mapping) else {name: name for name in algorithms}
        if not named or isinstance(algorithms, str):
            raise ArgumentError(
                f"algorithms: given {algorithms!r}; allowed: a sequence of names or a mapping from names"
            )
        self.algorithms: dict[str, Search] = {name: check_algorithm(name, given) for name, given in named.items()}
        self._check_pairs()
        for name in (*self.problems, *self.algorithms):
            if not name or "/" in name or name.startswith("."):
                raise ArgumentError(f"name: given {name!r}; allowed: names that can be a folder's")
        self.seeds = tuple(dict.fromkeys(check_count("seeds", seed, lowest=0) for seed in seeds))
        if not self.seeds:
            raise ArgumentError("seeds: given none; allowed: one or more")
        self.budget = check_count("budget", budget, highest=MOST_EVALUATIONS)
        self.path = Path(path)
        if isinstance(executor, int):
            check_count("executor", executor)
        elif executor is not None and not isinstance(executor, Executor):
            raise ArgumentError(
                f"executor: given {type(executor).__name__}; allowed: None, a number of processes or an Executor"
            )
        self._executor = executor
        self._charge_scan = charge_scan
        self._progress = progress
        self._claim()

    def _check_pairs(self) -> None:
        """Raise where an algorithm is known not to run on a problem; what a function makes is known when it runs."""
        for name, entry in self.problems.items():
            problem = get_problem(entry) if isinstance(entry, str) else entry
            if not isinstance(problem, NetworkProblem | Problem):
                continue
            for search in self.algorithms.values():
                if (check := getattr(search, "check", None)) is not None:
                    check(name, problem)
                if search.uses_sensitivity and isinstance(problem, Problem):
                    check_sensitivity_of(problem)

    def _claim(self) -> None:
        file = self.path / "study.json"
        asked = {"budget": self.budget, "charge_scan": self._charge_scan}
        if file.exists():
            found = read_json(file, _StudyData, format_name=FORMAT, version=1)
            for name, value in asked.items():
                if getattr(found, name) != value:
                    raise ArgumentError(
                        f"{name}: given {value!r}; the study in {self.path} has {getattr(found, name)}: give another "
                        "path"
                    )
            return
        write_atomically(file, json.dumps({"format": FORMAT, "version": 1, **asked}).encode())

    def keys(self) -> Iterator[RunKey]:
        """Give every run, all of one seed before those of the next."""
        for seed in self.seeds:
            for problem in self.problems:
                for algorithm, search in self.algorithms.items():
                    yield RunKey(
                        problem=problem,
                        algorithm=algorithm,
                        description=describe(search),
                        seed=seed,
                        budget=self.budget,
                        charge_scan=self._charge_scan,
                    )

    def file_of(self, key: RunKey) -> Path:
        """Return the file of a run, there or not."""
        return self.path / "runs" / key.problem / key.algorithm / f"seed_{key.seed}.npz"

    def run(self) -> StudyResults:
        """Do the runs that are missing.

        Ctrl-C and kills lose the runs that were under way, nothing else; the same call goes on.

        Returns:
            What is known now: all runs.

        Raises:
            FormatError: A file of a run is damaged; the message names it.
            ArgumentError: A file is of another algorithm under the same name, or a run's arguments don't fit.
            EvoqError: As the problems and algorithms.
        """
        missing = self.missing()
        with track(len(missing), "runs", enabled=self._progress and bool(missing)) as bar:
            if self._executor is None:
                for key in missing:
                    bar.update(description=f"{key.problem} {key.algorithm} seed {key.seed}")
                    self._take(key, execute_run(*self._arguments(key)), bar)
            elif missing:
                self._check_picklable()
                if isinstance(self._executor, int):
                    self._run_on_own_pool(missing, self._executor, bar)
                else:
                    self._run_on(self._executor, missing, bar)
        return self.results()

    def missing(self) -> list[RunKey]:
        """Return the runs that have no file yet.

        Raises:
            FormatError: A file of a run is damaged; the message names it.
            ArgumentError: A file is of another algorithm under the same name.
        """
        missing = []
        for key in self.keys():
            file = self.file_of(key)
            if not file.exists():
                missing.append(key)
            elif (found := load_key(file)) != key:
                raise ArgumentError(
                    f"algorithms[{key.algorithm!r}]: given {key.description}; {file} is of {found.description}: give "
                    "it another name, or the study another path"
                )
        return missing

    def _arguments(self, key: RunKey) -> tuple[RunKey, ProblemEntry, Search, str | None]:
        entry = self.problems[key.problem]
        store = str((self.path / STORE).resolve()) if isinstance(entry, NetworkProblem) else None
        return key, entry, self.algorithms[key.algorithm], store

    def _take(self, key: RunKey, result: RunResult, bar: Tracker) -> None:
        if result.fingerprint is not None and result.differences:
            with EvaluationStore(self.path / STORE, shared=True) as store:
                store.put(result.fingerprint, result.differences)
        result.run.save(self.file_of(key))
        bar.advance()
        bar.update(description=f"{key.problem} {key.algorithm} seed {key.seed}")

    def _run_on(self, executor: Executor, missing: list[RunKey], bar: Tracker) -> None:
        futures: dict[Future[RunResult], RunKey] = {}
        try:
            for key in missing:
                futures[executor.submit(execute_run, *self._arguments(key))] = key
            for future in as_completed(futures):
                self._take(futures[future], future.result(), bar)
        finally:
            for future in futures:
                future.cancel()

    def _run_on_own_pool(self, missing: list[RunKey], workers: int, bar: Tracker) -> None:
        pool = ProcessPool(min(workers, len(missing)), _prepare)
        try:
            for i, result in pool.results(execute_run, [self._arguments(key) for key in missing]):
                self._take(missing[i], result, bar)
        finally:
            pool.close()

    def _check_picklable(self) -> None:
        for kind, entries in (("problems", self.problems), ("algorithms", self.algorithms)):
            for name, entry in entries.items():
                try:
                    pickle.dumps(entry)
                except (pickle.PicklingError, AttributeError, TypeError) as error:
                    raise ArgumentError(
                        f"{kind}[{name!r}]: can't be sent to other processes ({error}); allowed with executor=: "
                        "functions and classes at the top level of a module"
                    ) from error

    def results(self) -> StudyResults:
        """Return the runs that are on disk, of this study's problems, algorithms and seeds."""
        runs = [Run.load(file) for file in map(self.file_of, self.keys()) if file.exists()]
        return StudyResults(runs=runs, problems=self.problems, path=self.path)


def _prepare() -> None:
    import torch

    live_with_parent()
    torch.set_num_threads(1)
