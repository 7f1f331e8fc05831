"""Problems of a study: of the suite by name, real networks by recipe, or any pymoo problem."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from pymoo.core.problem import Problem

from evoq_moo.costs import Cost
from evoq_moo.errors import ArgumentError, check_name
from evoq_moo.evaluation import EvaluationStore
from evoq_moo.indicators import FrozenReference
from evoq_moo.problems import MixedPrecisionProblem, get_problem, problem_names
from evoq_moo.runs import Recipe


@dataclass(frozen=True, kw_only=True)
class NetworkProblem:
    """A problem of a study on a real network: plain data, from which every worker makes the network once.

    Attributes:
        name: Name of the problem.
        recipe: How to make the network.
        objectives: As :class:`MixedPrecisionProblem` takes them.
        budgets: The same.
        costs: The same.
        reference: What its indicators are measured against, e.g. that of the suite's surrogate of the network; None
            for ideal, nadir and front of the study's own runs.
    """

    name: str
    recipe: Recipe
    objectives: tuple[str, ...] = ("difference", "bops")
    budgets: Mapping[str, float] = field(default_factory=dict)
    costs: tuple[Cost, ...] = ()
    reference: FrozenReference | None = field(default=None, repr=False)

    def open(self, store: str | Path | None) -> MixedPrecisionProblem:
        """Return the problem, computing on one thread.

        Args:
            store: Where evaluations are kept; None for memory.
        """
        network = self.recipe(threads=1)
        opened = None if store is None else EvaluationStore(store, shared=True)
        return MixedPrecisionProblem(
            network, objectives=self.objectives, budgets=self.budgets, costs=self.costs, store=opened
        )


ProblemEntry: TypeAlias = str | NetworkProblem | Problem | Callable[[], Problem]
"""A name of the suite, a real network, a picklable pymoo problem, or a picklable function that makes one."""


def problem_entries(problems: Sequence[ProblemEntry] | Mapping[str, ProblemEntry]) -> dict[str, ProblemEntry]:
    """Return a study's problems by name.

    Raises:
        ArgumentError: There is none, two have one name, or one is not of an allowed kind.
        UnknownNameError: A name is not one of the suite.
    """
    if isinstance(problems, str | Problem | NetworkProblem):
        raise ArgumentError(f"problems: given one {type(problems).__name__}; allowed: a sequence or mapping of them")
    pairs = list(problems.items()) if isinstance(problems, Mapping) else [(_name_of(p), p) for p in problems]
    entries = dict(pairs)
    if not entries or len(entries) < len(pairs):
        raise ArgumentError(f"problems: given {[name for name, _ in pairs]}; allowed: one or more, of different names")
    for name, entry in entries.items():
        if isinstance(entry, str):
            check_name("problems", entry, problem_names())
        elif not isinstance(entry, NetworkProblem | Problem) and not callable(entry):
            raise ArgumentError(
                f"problems[{name!r}]: given {type(entry).__name__}; allowed: a name of the suite, a NetworkProblem, a "
                "pymoo problem or a function that makes one"
            )
    return entries


def _name_of(entry: ProblemEntry) -> str:
    name = entry if isinstance(entry, str) else getattr(entry, "name", "")
    if not isinstance(name, str) or not name:
        raise ArgumentError(
            f"problems: a {type(entry).__name__} has no name; allowed: a mapping from names to problems"
        )
    return name


@dataclass
class _Opened:
    """A real network's problem that this process has open, and how many runs use it."""

    problem: MixedPrecisionProblem
    users: int = 0


_opened: dict[tuple[str, str | None], _Opened] = {}
"""One that nobody uses is kept until another one is opened: networks are large, and take time to make."""
_opening = threading.RLock()


@contextmanager
def opened_problem(entry: ProblemEntry, store: str | None) -> Iterator[Problem]:
    """Give a problem to run on; real networks are made once a process, and shared by its threads.

    Args:
        entry: The entry.
        store: Where a real network's evaluations are kept; a folder that this machine doesn't have means memory.
    """
    if isinstance(entry, str):
        yield get_problem(entry)
        return
    if not isinstance(entry, NetworkProblem):
        yield entry if isinstance(entry, Problem) else entry()
        return
    path = store if store is not None and Path(store).parent.is_dir() else None
    key = (repr(entry), path)
    with _opening:
        for old in [k for k, kept in _opened.items() if k != key and not kept.users]:
            _opened.pop(old).problem.close()
        if key not in _opened:
            _opened[key] = _Opened(entry.open(path))
        found = _opened[key]
        found.users += 1
    try:
        yield found.problem
    finally:
        with _opening:
            found.users -= 1


def reference_of(entry: ProblemEntry) -> FrozenReference | None:
    """Return the frozen reference that comes with a problem; None where there is none."""
    found = getattr(get_problem(entry) if isinstance(entry, str) else entry, "reference", None)
    return found if isinstance(found, FrozenReference) else None
