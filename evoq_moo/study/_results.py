"""What the runs of a study show: scaled archives, one tidy table, and the statistics of `evoq_moo.analysis`."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evoq_moo.analysis import (
    FriedmanResult,
    PairResult,
    bootstrap_interval,
    compare_pairs,
    friedman_nemenyi,
    hypervolume_curve,
)
from evoq_moo.costs import objective_names
from evoq_moo.errors import ArgumentError, check_name
from evoq_moo.files import write_atomically
from evoq_moo.indicators import FrozenReference, additive_epsilon, igd_plus, log_scale, nondominated
from evoq_moo.space import FloatArray
from evoq_moo.study._pictures import save_pictures
from evoq_moo.study._problems import reference_of
from evoq_moo.study._runs import Run

if TYPE_CHECKING:
    import pandas as pd

    from evoq_moo.study._problems import ProblemEntry

INDICATORS = {"hypervolume": True, "igd_plus": False, "additive_epsilon": False}
"""The indicators of the table, and whether larger is better."""
CHECKPOINTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Our choice: shares of the budget at which the table states the indicators."""


class StudyResults:
    """The finished runs of a study.

    Args:
        runs: The runs.
        problems: The problems they are of, by name.
        path: The study's folder.

    Attributes:
        runs: The runs.
        references: Each problem's reference: the frozen one that comes with it, else ideal, nadir and front of all the
            study's own runs of it (which change as runs are added).
    """

    def __init__(self, *, runs: Sequence[Run], problems: Mapping[str, "ProblemEntry"], path: Path) -> None:
        self.runs = tuple(runs)
        self.path = path
        self.references: dict[str, FrozenReference] = {}
        for name, entry in problems.items():
            found = reference_of(entry)
            own = [run for run in self.runs if run.key.problem == name]
            if found is None and own:
                found = _own_reference(own, getattr(entry, "objectives", None))
            if found is not None:
                self.references[name] = found
        self._table: pd.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def problems(self) -> tuple[str, ...]:
        """Names of the problems that have runs."""
        return tuple(dict.fromkeys(run.key.problem for run in self.runs))

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Names of the algorithms that have runs."""
        return tuple(dict.fromkeys(run.key.algorithm for run in self.runs))

    def of(self, problem: str, algorithm: str) -> list[Run]:
        """Return an algorithm's runs on a problem, by seed.

        Raises:
            UnknownNameError: The study has no such run.
        """
        check_name("problem", problem, self.problems)
        check_name("algorithm", algorithm, self.algorithms)
        chosen = [run for run in self.runs if (run.key.problem, run.key.algorithm) == (problem, algorithm)]
        return sorted(chosen, key=lambda run: run.key.seed)

    def archives(self, problem: str, algorithm: str, *, scaled: bool = True) -> list[FloatArray]:
        """Return the archives of runs, by seed: what the functions of `evoq_moo.analysis` take.

        Args:
            problem: Name of the problem.
            algorithm: Name of the algorithm.
            scaled: On the reference's scale (ideal 0, nadir 1, log10 of differences), else in the objectives' units.

        Returns:
            Float64 `(evaluations, objectives)` each; infinite where infeasible or spent on a scan.

        Raises:
            UnknownNameError: The study has no such run.
        """
        archives = [run.archive for run in self.of(problem, algorithm)]
        return [self.references[problem].scaled(archive) for archive in archives] if scaled else archives

    def curves(self, problem: str, algorithm: str) -> list[FloatArray]:
        """Return the normalized hypervolume after every evaluation of each run, by seed, float64 `(evaluations,)`.

        Raises:
            UnknownNameError: The study has no such run.
        """
        return [_curve(archive) for archive in self.archives(problem, algorithm)]

    def table(self) -> "pd.DataFrame":
        """Return one tidy table: a row for each run and checkpoint of the budget.

        Columns: `problem`, `algorithm`, `seed`, `budget`, `evaluations` (the checkpoint; a run that ended before it
        keeps its last state), `policies` (different ones until then), `hypervolume`, `igd_plus` and
        `additive_epsilon` of the feasible archive until then on the reference's scale, `seconds` and
        `problem_seconds` of the whole run.
        """
        import pandas as pd

        if self._table is None:
            rows = [row for run in self.runs for row in _rows(run, self.references[run.key.problem])]
            self._table = pd.DataFrame(rows)
        return self._table

    def final(self) -> "pd.DataFrame":
        """Return the table's rows at the whole budget."""
        table = self.table()
        return table if table.empty else table[table["evaluations"] == table["budget"]].reset_index(drop=True)

    def save(self) -> list[Path]:
        """Write the table to the folder as CSV, and as Parquet where pyarrow is installed; return the files."""
        files = [self.path / "table.csv"]
        write_atomically(files[0], self.table().to_csv(index=False).encode())
        if find_spec("pyarrow") is not None:
            files.append(self.path / "table.parquet")
            write_atomically(files[1], self.table().to_parquet(index=False))
        return files

    def save_plots(self, folder: str | Path | None = None, *, indicator: str = "hypervolume") -> list[Path]:
        """Draw the study, one PNG file a picture, and return the files.

        For each problem: hypervolume against evaluations, the ECDF of runtimes to 51 targets from half to all of the
        reference set's hypervolume, and, with two objectives, attainment of the two best algorithms and its difference.
        For all together: Demsar's critical-difference diagram.

        Args:
            folder: Where the files go; None for `plots` in the study's folder.
            indicator: What decides which algorithms are best: ``"hypervolume"``, ``"igd_plus"`` or
                ``"additive_epsilon"``.

        Raises:
            UnknownNameError: An unknown indicator.
        """
        check_name("indicator", indicator, INDICATORS)
        place = self.path / "plots" if folder is None else Path(folder)
        return save_pictures(self, place, indicator, larger_is_better=INDICATORS[indicator])

    @property
    def ranks_problems(self) -> bool:
        """Whether there are problems and algorithms enough to rank over: two and three."""
        return len(self.problems) > 1 and len(self.algorithms) > 2

    def values(self, problem: str, indicator: str = "hypervolume") -> dict[str, FloatArray]:
        """Return an indicator at the whole budget for each algorithm, over the seeds that all have, by seed.

        Args:
            problem: Name of the problem.
            indicator: ``"hypervolume"``, ``"igd_plus"`` or ``"additive_epsilon"``.

        Raises:
            UnknownNameError: An unknown name.
            ArgumentError: No seed is finished for all algorithms.
        """
        check_name("indicator", indicator, INDICATORS)
        check_name("problem", problem, self.problems)
        final = self.final()
        final = final[final["problem"] == problem]
        wide = final.pivot_table(index="seed", columns="algorithm", values=indicator).dropna()
        if wide.empty:
            raise ArgumentError(f"problem: {problem} has no seed that all algorithms finished")
        return {name: wide[name].to_numpy(dtype=np.float64) for name in self.algorithms if name in wide}

    def compare(
        self, problem: str, *, indicator: str = "hypervolume", against: str | None = None, paired: bool = True
    ) -> tuple[PairResult, ...]:
        """Test algorithms two by two on one problem at the whole budget, Holm-corrected.

        Args:
            problem: Name of the problem.
            indicator: What is compared.
            against: Only pairs with this algorithm; None for all pairs.
            paired: Pair runs by seed (Wilcoxon); else Mann-Whitney.

        Raises:
            UnknownNameError: An unknown name.
            ArgumentError: Fewer than two algorithms have runs.
        """
        values = self.values(problem, indicator)
        if against is not None:
            check_name("against", against, values)
        pairs = None if against is None else [(against, name) for name in values if name != against]
        return compare_pairs(values, paired=paired, larger_is_better=INDICATORS[indicator], pairs=pairs)

    def friedman(self, *, indicator: str = "hypervolume", alpha: float = 0.05) -> FriedmanResult:
        """Rank algorithms over problems by their median at the whole budget, with Nemenyi's post-hoc.

        Args:
            indicator: What is ranked.
            alpha: Level.

        Raises:
            ArgumentError: Fewer than two problems or three algorithms have runs everywhere.
        """
        check_name("indicator", indicator, INDICATORS)
        medians = [{name: np.median(v) for name, v in self.values(p, indicator).items()} for p in self.problems]
        names = [name for name in self.algorithms if all(name in row for row in medians)]
        scores = np.array([[row[name] for name in names] for row in medians])
        return friedman_nemenyi(scores, names, larger_is_better=INDICATORS[indicator], alpha=alpha)

    def summary(self, *, indicator: str = "hypervolume") -> "pd.DataFrame":
        """Return, for each problem and algorithm, the median with its bootstrap interval, and how it compares.

        Columns: `problem`, `algorithm`, `runs`, `median`, `low`, `high` (95 %), `rank` on the problem, and against the
        best algorithm of the problem: `a12` (of the best over it) and `p_holm` (NaN for the best itself).

        Args:
            indicator: What is summarized.

        Raises:
            UnknownNameError: Unknown indicator.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for problem in self.problems:
            values = self.values(problem, indicator)
            sign = -1 if INDICATORS[indicator] else 1
            order = sorted(values, key=lambda name: sign * float(np.median(values[name])))
            tests: dict[str, PairResult] = {}
            if len(values) > 1:
                tests = {t.second: t for t in self.compare(problem, indicator=indicator, against=order[0])}
            for rank, name in enumerate(order, start=1):
                interval = bootstrap_interval(values[name])
                test = tests.get(name)
                rows.append(
                    {
                        "problem": problem,
                        "algorithm": name,
                        "runs": len(values[name]),
                        "median": interval.value,
                        "low": interval.low,
                        "high": interval.high,
                        "rank": rank,
                        "a12": np.nan if test is None else test.a12,
                        "p_holm": np.nan if test is None else test.p_holm,
                    }
                )
        return pd.DataFrame(rows)


def _curve(scaled: FloatArray) -> FloatArray:
    m = scaled.shape[1]
    return hypervolume_curve(scaled, ideal=np.zeros(m), reference=np.ones(m))


def _rows(run: Run, reference: FrozenReference) -> list[dict[str, Any]]:
    scaled = reference.scaled(run.archive)
    points = reference.scaled_points()
    curve = _curve(scaled)
    first = np.full(len(run.X), False)
    first[np.unique(run.X, axis=0, return_index=True)[1]] = True
    policies = np.zeros(len(scaled), dtype=int)
    policies[run.counts - 1] = first
    policies = np.cumsum(policies)
    rows = []
    front = np.empty((0, scaled.shape[1]))
    done = 0
    for count in sorted({max(1, round(share * run.key.budget)) for share in CHECKPOINTS}):
        front = np.concatenate([front, scaled[done:count]])
        front = front[nondominated(front)]
        done = count
        last = min(count, len(curve)) - 1
        rows.append(
            {
                "problem": run.key.problem,
                "algorithm": run.key.algorithm,
                "seed": run.key.seed,
                "budget": run.key.budget,
                "evaluations": count,
                "policies": int(policies[last]) if last >= 0 else 0,
                "hypervolume": float(curve[last]) if last >= 0 else 0.0,
                "igd_plus": igd_plus(front, reference_set=points),
                "additive_epsilon": additive_epsilon(front, reference_set=points),
                "seconds": run.seconds,
                "problem_seconds": run.problem_seconds,
            }
        )
    return rows


def _own_reference(runs: Sequence[Run], objectives: Sequence[str] | None) -> FrozenReference | None:
    """Return ideal, nadir and front of all that some runs found; None where nothing feasible was."""
    archive = np.concatenate([run.archive for run in runs])
    front = archive[nondominated(archive)]
    if len(front) == 0:
        return None
    names = tuple(objectives) if objectives is not None else tuple(f"f{i}" for i in range(archive.shape[1]))
    known = set(names) <= set(objective_names())
    finite = archive[np.isfinite(archive).all(axis=1)]
    log = log_scale(names) if known and (finite > 0).all() else (False,) * len(names)
    ideal, nadir = front.min(axis=0), front.max(axis=0)
    # One point has no extent: the box then reaches to the worst that was found, or to anything where all is alike.
    worst = finite.max(axis=0)
    nadir = np.where(nadir > ideal, nadir, np.where(worst > ideal, worst, ideal + 1))
    return FrozenReference(
        objectives=names, log=log, ideal=ideal, nadir=nadir, points=front, provenance="this study's own runs"
    )
