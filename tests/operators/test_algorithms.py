"""Our operators inside pymoo's algorithms."""

import itertools

import moocore
import numpy as np
import pytest
from pymoo.algorithms.moo.age2 import AGEMOEA2
from pymoo.algorithms.moo.moead import ParallelMOEAD
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.algorithms.moo.rvea import RVEA
from pymoo.algorithms.moo.sms import SMSEMOA
from pymoo.algorithms.moo.spea2 import SPEA2, SPEA2Survival
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.optimize import minimize
from pymoo.util.ref_dirs import get_reference_directions

from evoq_moo.baselines import greedy_path
from evoq_moo.costs import cost_matrix
from evoq_moo.operators import (
    BitWidthRepair,
    BudgetRepair,
    FrontAwareCrossover,
    SensitivityGuidedMutation,
    SensitivitySampling,
    UniformBitCrossover,
    UniformBitMutation,
)
from evoq_moo.testing.testing import check_algorithm


def operators(table):
    return {
        "sampling": SensitivitySampling(table),
        "crossover": UniformBitCrossover(),
        "mutation": SensitivityGuidedMutation(table),
    }


def new_operators(table):
    """Front-aware crossover, paired moves, and a budget that some offspring break."""
    ends = cost_matrix(table.space.layers, table.space.decode([table.space.lower, table.space.upper]))
    return {
        "sampling": SensitivitySampling(table),
        "crossover": FrontAwareCrossover(),
        "mutation": SensitivityGuidedMutation(table, paired=0.5),
        "repair": BudgetRepair(table, budgets={"bops": float(ends.mean(axis=0)[1])}),
    }


def directions(n_obj):
    return get_reference_directions("das-dennis", n_obj, n_partitions=11 if n_obj == 2 else 4)


# SPEA2's default survival is one object shared by all instances of the class: runs would see each other
ALGORITHMS = {
    "NSGA2": lambda n_obj, ops: NSGA2(pop_size=12, **ops),
    "NSGA3": lambda n_obj, ops: NSGA3(pop_size=16, ref_dirs=directions(n_obj), **ops),
    "SMSEMOA": lambda n_obj, ops: SMSEMOA(pop_size=12, **ops),
    "SPEA2": lambda n_obj, ops: SPEA2(pop_size=12, survival=SPEA2Survival(normalize=True), **ops),
    "RVEA": lambda n_obj, ops: RVEA(pop_size=16, ref_dirs=directions(n_obj), **ops),
    "AGEMOEA2": lambda n_obj, ops: AGEMOEA2(pop_size=12, **ops),
    "ParallelMOEAD": lambda n_obj, ops: ParallelMOEAD(directions(n_obj), n_neighbors=4, **ops),
    "GA": lambda n_obj, ops: GA(pop_size=12, **ops),
}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("name", "objectives"),
    [
        *itertools.product(
            [name for name in ALGORITHMS if name != "GA"], [("difference", "bops"), ("difference", "size", "bops")]
        ),
        ("GA", ("difference",)),
    ],
)
def test_runs_depend_on_the_seed_only(toys, name, objectives, seed):
    space = toys.space(10)

    def make_problem():
        return toys.problem(space, objectives=objectives)

    def make_algorithm():
        return ALGORITHMS[name](len(objectives), operators(make_problem().sensitivity()))

    check_algorithm(make_problem, make_algorithm, n_eval=72, seed=seed)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_new_operators_conform(toys, name):
    space = toys.space(6)
    objectives = ("difference",) if name == "GA" else ("difference", "size", "bops")

    def make_problem():
        return toys.problem(space, objectives=objectives)

    def make_algorithm():
        return ALGORITHMS[name](len(objectives), new_operators(make_problem().sensitivity()))

    check_algorithm(make_problem, make_algorithm, n_eval=60)


@pytest.mark.parametrize("options", [{"tied": True}, {"weight_bits": [2, 4, 8]}, {"pinned": {"layer0": 8}}])
def test_other_spaces(toys, options):
    problem = toys.problem(toys.space(6, **options))
    ops = operators(problem.sensitivity()) | {"mutation": UniformBitMutation(), "repair": BitWidthRepair()}
    result = minimize(problem, NSGA2(pop_size=12, **ops), ("n_gen", 5), seed=1)
    problem.space.check(result.pop.get("X"))


def hypervolume(problem, F):
    F = np.column_stack([np.log10(F[:, 0]), F[:, 1]])
    corners = problem.evaluate(np.stack([problem.space.upper, problem.space.lower]))
    corners[:, 0] = np.log10(corners[:, 0])
    ideal, nadir = corners.min(axis=0), corners.max(axis=0)
    return moocore.hypervolume((F - ideal) / (nadir - ideal), ref=[1.0, 1.0])


def test_search_earns_its_keep_on_interactions(toys):
    """1000 evaluations beat the greedy path, which is all that the table alone can give."""
    problem = toys.problem(toys.space(20))
    table = problem.sensitivity()
    greedy = hypervolume(problem, problem.evaluate(greedy_path(table, "bops")))
    for seed in (1, 2):
        algorithm = NSGA2(pop_size=40, **operators(table))
        algorithm.setup(problem, termination=("n_eval", 1000), seed=seed)
        F = []
        while algorithm.has_next():
            algorithm.next()
            F.append(algorithm.off.get("F"))
        searched = hypervolume(problem, np.vstack(F))
        print(f"seed {seed}: normalized hypervolume {searched:.4f}, of the greedy path {greedy:.4f}")
        assert searched > greedy


def test_budget_as_constraint(toys):
    """A user's own problem: one objective, and the size limited by a constraint."""
    space = toys.space(6)

    class Budgeted(toys.problem):
        def __init__(self):
            super().__init__(space, objectives=("difference",))
            self.n_ieq_constr = 1
            self.budgets = {"size": 0.5 * self.size(space.upper)}

        def size(self, x):
            return float(cost_matrix(space.layers, space.decode(x))[0, 0])

        def _evaluate(self, X, out, *args, **kwargs):
            super()._evaluate(X, out)
            out["G"] = np.array([[self.size(x) / self.budgets["size"] - 1] for x in X])

    problem = Budgeted()
    result = minimize(problem, GA(pop_size=20, **operators(problem.sensitivity())), ("n_gen", 15), seed=1)
    assert problem.size(result.X) <= problem.budgets["size"]
    assert result.F[0] < problem.difference(space.uniform(3)[None])[0]
