"""What a study costs in processor time: each algorithm's runs, our share beside pymoo's, and a whole study's estimate.

    python benchmarks/study_cost.py --problem cifar10_resnet20-bops --repeats 3

For each algorithm: seconds of processor time of a run of 1,000 evaluations in a study, with saving its file; of pymoo
alone (its loop and operators, on a problem that costs nothing); and of the problem's evaluations. What is left is the
study's own. The runs of each kind alternate, after one that isn't counted (age_moea compiles). The estimate is for
8 algorithms x 12 problems x 31 seeds on two cores, indicators of all runs included.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pymoo.core.problem import Problem
from rich.console import Console
from rich.table import Table
from surrogate_rankings import ALGORITHMS

from evoq_moo.problems import get_problem
from evoq_moo.study import PymooSearch, Study, named_algorithm
from evoq_moo.study._results import StudyResults
from evoq_moo.study._runs import execute_run

console = Console()


class Free(Problem):
    """The same space, objectives that cost next to nothing: what is left of a run is pymoo."""

    def __init__(self, like: Any) -> None:
        super().__init__(n_var=like.n_var, n_obj=like.n_obj, xl=like.xl, xu=like.xu, vtype=int)
        self.space, self.sensitivity, self.objectives = like.space, like.sensitivity, like.objectives
        self.weights = np.random.default_rng(0).random((like.n_var, like.n_obj))

    def _evaluate(self, X: Any, out: dict[str, Any], *_args: Any, **_kwargs: Any) -> None:
        F = X @ self.weights
        out["F"] = np.stack([F[:, 0], -F[:, 1]], axis=1)


def alone(problem: Any, name: str, budget: int) -> float:
    """Return the processor time of pymoo's own loop."""
    algorithm = named_algorithm(name).make(problem)
    start = time.process_time()
    algorithm.setup(problem, termination=("n_eval", budget), seed=0)
    while algorithm.has_next():
        algorithm.next()
    return time.process_time() - start


def main(
    problem: Annotated[str, typer.Option(help="Problem of the suite, of two objectives.")] = "cifar10_resnet20-bops",
    *,
    budget: Annotated[int, typer.Option(help="Evaluations of a run.")] = 1000,
    repeats: Annotated[int, typer.Option(help="Runs of each kind; medians are shown.")] = 3,
) -> None:
    """Measure."""
    like = get_problem(problem)
    free = Free(like)
    table = Table("algorithm", "study", "pymoo alone", "problem", "study's own", "per evaluation")
    total = 0.0
    with tempfile.TemporaryDirectory() as folder:
        study = Study(problems=[problem], algorithms=ALGORITHMS, seeds=[0], budget=budget, path=folder)
        runs = []
        for key in study.missing():
            search = study.algorithms[key.algorithm]
            whole, pymoo, evaluated = [], [], []
            for turn in range(repeats + 1):
                start = time.process_time()
                run = execute_run(*study._arguments(key)).run
                run.save(study.file_of(key))
                whole.append(time.process_time() - start)
                pymoo.append(alone(free, key.algorithm, budget - run.paid) if isinstance(search, PymooSearch) else 0.0)
                X = run.X
                start = time.process_time()
                for part in np.array_split(X, max(1, len(X) // 40)):
                    like.evaluate(part)
                evaluated.append(time.process_time() - start)
                if turn == 0:
                    whole, pymoo, evaluated = [], [], []
            runs.append(run)
            a, b, c = (float(np.median(values)) for values in (whole, pymoo, evaluated))
            total += a
            own = a - b - c
            table.add_row(
                key.algorithm, f"{a:.3f} s", f"{b:.3f} s", f"{c:.3f} s", f"{own:.3f} s", f"{1e6 * own / budget:.0f} us"
            )
        start = time.process_time()
        StudyResults(runs=runs, problems=study.problems, path=Path(folder)).table()
        indicators = time.process_time() - start
    console.print(table)
    console.print(f"indicators of {len(runs)} runs: {indicators:.2f} s", highlight=False)
    minutes = (total * 12 * 31 / 2 + indicators * 12 * 31) / 60
    console.print(
        f"8 algorithms x 12 problems x 31 seeds, two processes, no other load: {minutes:.1f} min", highlight=False
    )


if __name__ == "__main__":
    typer.run(main)
