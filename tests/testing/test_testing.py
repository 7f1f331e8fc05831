"""The conformance checks: pymoo's own parts pass, deliberately broken ones are caught by the check that is named."""

import pickle
import random
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.core.problem import ElementwiseProblem, Problem
from pymoo.core.repair import Repair
from pymoo.core.sampling import Sampling
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.crossover.ux import UX
from pymoo.operators.mutation.bitflip import BitflipMutation
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.repair.to_bound import ToBoundOutOfBoundsRepair
from pymoo.operators.sampling.lhs import LHS
from pymoo.operators.sampling.rnd import BinaryRandomSampling, FloatRandomSampling, IntegerRandomSampling
from pymoo.problems import get_problem

from evoq_moo.errors import ArgumentError, EvoqError
from evoq_moo.operators import BitWidthRepair, UniformBitCrossover, UniformBitMutation
from evoq_moo.space import LayerInfo, SearchSpace
from evoq_moo.testing.testing import (
    ConformanceError,
    check_algorithm,
    check_crossover,
    check_mutation,
    check_problem,
    check_repair,
    check_sampling,
)

LAYERS = [LayerInfo(name=f"layer{i}", kind="Linear", params=100 + i, macs=1000 * (i + 1)) for i in range(5)]
SPACE = SearchSpace.build(LAYERS, weight_bits=[2, 3, 4, 8], activation_bits=range(2, 9))


class SpaceProblem(Problem):
    """A problem with a search space."""

    def __init__(self, space=SPACE, **kwargs):
        self.space = space
        defaults = {"n_var": space.n_var, "n_obj": 2, "xl": space.lower, "xu": space.upper, "vtype": int}
        super().__init__(**defaults | kwargs)

    def values(self, X):
        X = self.space.check(X)
        return np.stack([(4.0**-X).sum(axis=1), (X * X).sum(axis=1)], axis=1)

    def _evaluate(self, X, out, *args, **kwargs):
        out["F"] = self.values(X)


class IntegerProblem(Problem):
    """An integer problem with bounds only."""

    def __init__(self, n_var=12):
        super().__init__(n_var=n_var, n_obj=1, xl=2, xu=8, vtype=int)

    def _evaluate(self, X, out, *args, **kwargs):
        out["F"] = (X * X).sum(axis=1, keepdims=True)


class Knapsack(Problem):
    """A binary problem with bounds."""

    def __init__(self):
        super().__init__(n_var=30, n_obj=1, xl=0, xu=1, vtype=bool)

    def _evaluate(self, X, out, *args, **kwargs):
        out["F"] = -X.sum(axis=1, keepdims=True)


def fails(check):
    return pytest.raises(ConformanceError, match=rf"^{check}: .*expected")


# --- pymoo's own parts


@pytest.mark.parametrize("name", ["zdt1", "dtlz2", "bnh", "rosenbrock", "g1", "welded_beam"])
def test_stock_problems_pass(name):
    check_problem(lambda: get_problem(name), rtol=1e-12)


def test_stock_operators_pass():
    real, integer = get_problem("zdt1"), IntegerProblem()
    check_sampling(FloatRandomSampling(), real)
    check_sampling(LHS(), real)
    check_sampling(IntegerRandomSampling(), integer)
    check_sampling(BinaryRandomSampling(), Knapsack())
    for crossover in (SBX(), UX(), TwoPointCrossover()):
        check_crossover(crossover, real)
    check_crossover(UX(), Knapsack())
    check_crossover(UX(), SpaceProblem())
    check_crossover(SBX(vtype=float, repair=RoundingRepair()), integer)
    check_crossover(SBX(vtype=float, repair=BitWidthRepair()), SpaceProblem())
    check_mutation(PM(), real)
    check_mutation(PM(eta=3, vtype=float, repair=RoundingRepair()), integer)
    check_mutation(BitflipMutation(), Knapsack())
    check_repair(RoundingRepair(), integer)
    check_repair(ToBoundOutOfBoundsRepair(), real, outside=True)
    check_repair(BitWidthRepair(), SpaceProblem(), outside=True)


def test_stock_algorithms_pass():
    check_algorithm(lambda: get_problem("zdt1"), lambda: NSGA2(pop_size=10), n_eval=40)
    check_algorithm(lambda: get_problem("bnh"), lambda: NSGA2(pop_size=10), n_eval=40)
    check_algorithm(lambda: get_problem("g1"), lambda: GA(pop_size=10), n_eval=40)


def test_stock_defaults_on_integers_are_caught():
    """The trap: vtype=int is only a hint to pymoo."""
    with fails("dtype"):
        check_algorithm(IntegerProblem, lambda: NSGA2(pop_size=10), n_eval=40)
    with fails("dtype"):
        check_sampling(FloatRandomSampling(), IntegerProblem())
    with fails("dtype"):
        check_mutation(PM(), IntegerProblem())
    check_crossover(SBX(), IntegerProblem())  # no error, but Crossover.do truncates what SBX gives: biased downwards
    with fails("allowed-values"):
        check_sampling(IntegerRandomSampling(), SpaceProblem())  # bounds, but not the gaps


def test_the_callers_random_state_is_left_alone():
    np.random.seed(123)  # noqa: NPY002
    random.seed(123)
    before = pickle.dumps((np.random.get_state(), random.getstate()))  # noqa: NPY002
    check_mutation(UniformBitMutation(), SpaceProblem())
    check_problem(SpaceProblem)
    with fails("global-rng"):
        check_sampling(GlobalSampling(), SpaceProblem())
    assert pickle.dumps((np.random.get_state(), random.getstate())) == before  # noqa: NPY002


def test_error_is_an_assertion_with_a_whole_message():
    with pytest.raises(AssertionError) as caught:
        check_mutation(Identity(), SpaceProblem())
    assert isinstance(caught.value, EvoqError)
    assert str(caught.value) == "different-seed: Identity: saw one result from two seeds; expected different results"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# --- broken operators


class Identity(Mutation):
    def _do(self, problem, X, *args, **kwargs):
        return X.copy()


class GlobalSampling(Sampling):
    def _do(self, problem, n_samples, *args, **kwargs):
        return problem.space.sample(n_samples, np.random)


class Unseeded(Mutation):
    """Ignores random_state."""

    def _do(self, problem, X, *args, **kwargs):
        return UniformBitMutation()._do(problem, X, random_state=np.random.default_rng())


class FixedSeed(Mutation):
    def _do(self, problem, X, *args, **kwargs):
        return UniformBitMutation()._do(problem, X, random_state=np.random.default_rng(0))


class GlobalNumpy(Mutation):
    def _do(self, problem, X, *args, **kwargs):
        return UniformBitMutation()._do(
            problem,
            X,
            random_state=np.random.default_rng(np.random.randint(2**31)),  # noqa: NPY002
        )


class GlobalButUnused(UniformBitMutation):
    def _do(self, problem, X, *args, random_state, **kwargs):
        np.random.rand()  # noqa: NPY002
        return super()._do(problem, X, random_state=random_state)


class GlobalPython(Mutation):
    def _do(self, problem, X, *args, **kwargs):
        return UniformBitMutation()._do(problem, X, random_state=np.random.default_rng(random.randrange(2**31)))


class Writes(Mutation):
    """Mutates its input."""

    def _do(self, problem, X, *args, random_state, **kwargs):
        X[:] = UniformBitMutation()._do(problem, X, random_state=random_state)
        return X


class WritesIndividuals(UniformBitMutation):
    def do(self, problem, pop, *args, **kwargs):
        pop[0].X[0] = 8
        pop[1].X[0] = 2
        return super().do(problem, pop, *args, **kwargs)


class Floats(UniformBitMutation):
    def do(self, *args, **kwargs):
        self.vtype = None
        return super().do(*args, **kwargs)

    def _do(self, problem, X, **kwargs):
        return super()._do(problem, X, **kwargs).astype(float)


class OutOfBounds(UniformBitMutation):
    def _do(self, problem, X, **kwargs):
        return super()._do(problem, X, **kwargs) + 1


class InTheGap(UniformBitMutation):
    def _do(self, problem, X, **kwargs):
        mutated = super()._do(problem, X, **kwargs)
        mutated[0, 0] = 5
        return mutated


class Stateful(UniformBitMutation):
    calls = 0

    def _do(self, problem, X, **kwargs):
        self.calls += 1
        mutated = super()._do(problem, X, **kwargs)
        mutated[0, 0] = 2 + self.calls % 2
        return mutated


class Unpicklable(UniformBitMutation):
    def __init__(self):
        super().__init__()
        self.helper = lambda: None


class ForgetsInPickle(UniformBitMutation):
    def __init__(self):
        super().__init__(prob_var=0.9)

    def __setstate__(self, state):
        self.__dict__.update(UniformBitMutation(prob_var=0.1).__dict__)


@pytest.mark.parametrize(
    ("mutation", "check"),
    [
        (Identity, "different-seed"),
        (Unseeded, "same-seed"),
        (FixedSeed, "different-seed"),
        (GlobalNumpy, "global-rng"),
        (GlobalButUnused, "global-rng"),
        (GlobalPython, "global-rng"),
        (Writes, "inputs-untouched"),
        (WritesIndividuals, "inputs-untouched"),
        (Floats, "dtype"),
        (OutOfBounds, "bounds"),
        (InTheGap, "allowed-values"),
        (Stateful, "same-seed"),
        (Unpicklable, "pickle"),
        (ForgetsInPickle, "pickle"),
    ],
)
def test_broken_mutations_are_caught(mutation, check):
    with fails(check):
        check_mutation(mutation(), SpaceProblem())


class WritingCrossover(Crossover):
    """Corrupts the pairs that are not crossed, which pymoo copies from X afterwards."""

    def __init__(self):
        super().__init__(2, 2, prob=0.5)

    def _do(self, problem, X, *args, **kwargs):
        X[0, :, 0] = X[1, :, 0]
        return X


class UnseededCrossover(Crossover):
    def __init__(self):
        super().__init__(2, 2)

    def _do(self, problem, X, *args, **kwargs):
        return UniformBitCrossover()._do(problem, X, random_state=np.random.default_rng())


def test_broken_crossovers_are_caught():
    with fails("inputs-untouched"):
        check_crossover(WritingCrossover(), SpaceProblem())
    with fails("same-seed"):
        check_crossover(UnseededCrossover(), SpaceProblem())


class TooFew(Sampling):
    def _do(self, problem, n_samples, *args, random_state, **kwargs):
        return problem.space.sample(n_samples - 1, random_state)


class Constant(Sampling):
    def _do(self, problem, n_samples, *args, **kwargs):
        return np.tile(problem.space.upper, (n_samples, 1))


def test_broken_samplings_are_caught():
    with fails("count"):
        check_sampling(TooFew(), SpaceProblem())
    with fails("different-seed"):
        check_sampling(Constant(), SpaceProblem())
    check_sampling(Constant(), SpaceProblem(), deterministic=True)


class Shifts(Repair):
    def _do(self, problem, X, **kwargs):
        return np.clip(problem.space.snap(X), 3, 3)


def test_broken_repairs_are_caught():
    with fails("fixed-point"):
        check_repair(Shifts(), SpaceProblem())
    with fails("bounds"):
        check_repair(RoundingRepair(), IntegerProblem(), outside=True)
    with fails("allowed-values"):
        check_repair(RoundingRepair(), SpaceProblem())


def test_bounds_are_needed():
    with pytest.raises(ArgumentError, match="xl and xu"):
        check_mutation(PM(), Problem(n_var=2, n_obj=1))
    with pytest.raises(ArgumentError, match="n_points"):
        check_problem(IntegerProblem, n_points=1)


# --- broken problems


def broken(method, **kwargs):
    """Return a class of problems whose values go through `method(self, X, F)`."""

    class Broken(SpaceProblem):
        def __init__(self):
            super().__init__(**kwargs)

        def _evaluate(self, X, out, *args, **kw):
            out["F"] = method(self, X, self.values(X))

    return Broken


def nan(self, X, F):
    F[0, 0] = np.nan
    return F


def write(self, X, F):
    X[0] = 2
    return F


def unseeded(self, X, F):
    return F + np.random.default_rng().random(F.shape)


def globally_seeded(self, X, F):
    return F + np.random.random(F.shape)  # noqa: NPY002


def of_the_batch(self, X, F):
    return F / F.max(axis=0)


def by_position(self, X, F):
    return F + np.where(len(F) > 1, np.arange(len(F)), self.values(X)[:, 0] * 0)[:, None]


@pytest.mark.parametrize(
    ("method", "check"),
    [
        (nan, "finite"),
        (write, "inputs-untouched"),
        (unseeded, "same-seed"),
        (globally_seeded, "global-rng"),
        (of_the_batch, "batch"),
        (by_position, "batch"),
    ],
)
def test_broken_problems_are_caught(method, check):
    with fails(check):
        check_problem(broken(method))


class ByPosition(SpaceProblem):
    """Right for single vectors and for the first of a batch, so that only the order can tell."""

    def _evaluate(self, X, out, *args, **kwargs):
        out["F"] = self.values(X)
        if len(X) == 8 and (X[0] < X[-1]).sum() != ORDERED:
            out["F"][-1] += 1


class WrongTwice(SpaceProblem):
    def _evaluate(self, X, out, *args, **kwargs):
        out["F"] = self.values(X)
        _, first = np.unique(X, axis=0, return_index=True)
        twice = np.setdiff1d(np.arange(len(X)), first)
        out["F"][twice] += 1


class Rounds(SpaceProblem):
    def values(self, X):
        return super().values(self.space.snap(X))


class NotPicklable(SpaceProblem):
    def __init__(self):
        super().__init__()
        self.helper = lambda: None


class PicklesWrong(SpaceProblem):
    offset = 0.0

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.offset = 1.0

    def values(self, X):
        return super().values(X) + self.offset


SAMPLE = SPACE.sample(8, np.random.default_rng(0))
ORDERED = int((SAMPLE[0] < SAMPLE[-1]).sum())


@pytest.mark.parametrize(
    ("problem", "check"),
    [
        (ByPosition, "order"),
        (WrongTwice, "duplicates"),
        (Rounds, "allowed-values"),
        (NotPicklable, "pickle"),
        (PicklesWrong, "pickle"),
        (lambda: SpaceProblem(xl=SPACE.lower - 1), "bounds"),
        (lambda: SpaceProblem(n_var=4), "bounds"),
    ],
)
def test_more_broken_problems_are_caught(problem, check):
    with fails(check):
        check_problem(problem)


class WrongShape(SpaceProblem):
    """pymoo checks what _evaluate gives, so this goes around it."""

    def evaluate(self, X, *args, **kwargs):
        return {"F": np.zeros((len(X), 3))}


class Forgetful(SpaceProblem):
    def evaluate(self, X, *args, **kwargs):
        return {}


@pytest.mark.parametrize("problem", [WrongShape, Forgetful])
def test_wrong_shape_is_caught(problem):
    with fails("shape"):
        check_problem(problem)


class Elementwise(ElementwiseProblem):
    def __init__(self, wrong=0.0, **kwargs):
        self.wrong = wrong
        super().__init__(n_var=3, n_obj=2, n_ieq_constr=1, xl=0.0, xu=1.0, **kwargs)

    def _evaluate(self, x, out, *args, **kwargs):
        out["F"] = [x.sum() + self.wrong, x[0]]
        out["G"] = [x[1] - 0.5]


class Threads:
    """An elementwise runner."""

    def __call__(self, f, X):
        with ThreadPoolExecutor(2) as executor:
            return list(executor.map(f, X))


def test_parallel():
    def parallel(wrong=0.0):
        return Elementwise(wrong, elementwise_runner=Threads())

    check_problem(Elementwise, make_parallel_problem=parallel)
    check_algorithm(Elementwise, lambda: NSGA2(pop_size=6), n_eval=24, make_parallel_problem=parallel)
    with fails("parallel"):
        check_problem(Elementwise, make_parallel_problem=lambda: parallel(1e-15))
    with fails("parallel"):
        check_algorithm(
            Elementwise, lambda: NSGA2(pop_size=6), n_eval=24, make_parallel_problem=lambda: parallel(1e-15)
        )


# --- algorithms


class StoreProblem(SpaceProblem):
    """Keeps evaluations in a file."""

    opened = 0

    def __init__(self, path, wrong=0.0):
        super().__init__()
        self.wrong = wrong
        self.computed = 0
        self.store = sqlite3.connect(path)
        self.store.execute("CREATE TABLE IF NOT EXISTS results (x BLOB PRIMARY KEY, f BLOB)")
        self.known = dict(self.store.execute("SELECT x, f FROM results"))
        self.resumed = bool(self.known)
        StoreProblem.opened += 1

    def values(self, X):
        F = np.empty((len(X), 2))
        for i, x in enumerate(X):
            if x.tobytes() not in self.known:
                f = super().values(x[None])[0]
                self.known[x.tobytes()] = f.tobytes()
                self.store.execute("INSERT INTO results VALUES (?, ?)", (x.tobytes(), f.tobytes()))
            F[i] = np.frombuffer(self.known[x.tobytes()])
        return F + (self.wrong if self.resumed else 0.0)

    def close(self):
        self.store.commit()
        self.store.close()
        StoreProblem.opened -= 1


class UniformSampling(Sampling):
    def _do(self, problem, n_samples, *args, random_state, **kwargs):
        return problem.space.sample(n_samples, random_state)


def nsga2(mutation=UniformBitMutation):
    return NSGA2(pop_size=8, sampling=UniformSampling(), crossover=UniformBitCrossover(), mutation=mutation())


def test_resume():
    check_algorithm(SpaceProblem, nsga2, n_eval=40, make_store_problem=StoreProblem)
    assert StoreProblem.opened == 0  # all of them were closed
    with fails("resume"):
        check_algorithm(SpaceProblem, nsga2, n_eval=40, make_store_problem=lambda path: StoreProblem(path, wrong=1.0))
    assert StoreProblem.opened == 0


@pytest.mark.parametrize(
    ("mutation", "check"),
    [(Unseeded, "same-seed"), (GlobalNumpy, "global-rng"), (OutOfBounds, "bounds"), (Floats, "dtype")],
)
def test_broken_algorithms_are_caught(mutation, check):
    class Tolerant(SpaceProblem):
        def values(self, X):
            return X[:, :2].astype(float)

    with fails(check):
        check_algorithm(Tolerant, lambda: nsga2(mutation), n_eval=24)


def test_state_shared_between_runs_is_caught():
    shared = Stateful()
    with fails("same-seed"):
        check_algorithm(SpaceProblem, lambda: nsga2(lambda: shared), n_eval=40)


def test_same_run_from_any_seed_is_caught():
    class Deaf(NSGA2):
        def setup(self, problem, *args, **kwargs):
            return super().setup(problem, *args, **kwargs | {"seed": 1})

    def make():
        return Deaf(
            pop_size=8, sampling=UniformSampling(), crossover=UniformBitCrossover(), mutation=UniformBitMutation()
        )

    with fails("different-seed"):
        check_algorithm(SpaceProblem, make, n_eval=24)


def test_objectives_that_are_not_finite_are_caught():
    with fails("finite"):
        check_algorithm(broken(nan), nsga2, n_eval=24)
