"""The checks themselves; the package says what each is called."""

import copy
import pickle
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pymoo.core.population import Population

from evoq_moo.errors import ArgumentError, BitWidthError, EvoqError
from evoq_moo.space import SearchSpace

__all__ = [
    "ConformanceError",
    "check_algorithm",
    "check_crossover",
    "check_mutation",
    "check_problem",
    "check_repair",
    "check_sampling",
]

Array = npt.NDArray[Any]
Values = Mapping[str, Array]

LARGE = 10**6
"""Number of vectors from which two seeds are expected to give different results."""


class ConformanceError(EvoqError, AssertionError):
    """A problem, operator or algorithm failed a check; the message names the check, what was seen and expected."""


def _require(passed: bool, check: str, subject: Any, seen: str, expected: str) -> None:
    """Raise unless a check passed.

    Args:
        passed: Whether it did.
        check: Name of the check.
        subject: What was checked.
        seen: What was seen.
        expected: What was expected.

    Raises:
        ConformanceError: It did not.
    """
    if not passed:
        raise ConformanceError(f"{check}: {type(subject).__name__}: saw {seen}; expected {expected}")


# --- vectors ------------------------------------------------------------------------------------------------


def _space(problem: Any) -> SearchSpace | None:
    space = getattr(problem, "space", None)
    return space if isinstance(space, SearchSpace) else None


def _discrete(problem: Any) -> bool:
    """Return whether vectors must be of integers (or of bools, for pymoo's binary problems)."""
    return _space(problem) is not None or problem.vtype in (int, bool, np.int64, np.bool_)


def _large(problem: Any) -> bool:
    """Return whether the space is so large that two seeds should not give the same vectors."""
    space = _space(problem)
    if space is not None:
        return space.cardinality >= LARGE
    return not _discrete(problem) or float(np.prod(problem.xu - problem.xl + 1.0)) >= LARGE


def _vectors(problem: Any, n: int, seed: int) -> Array:
    """Return `n` random allowed vectors of a problem, `(n, n_var)`.

    Raises:
        ArgumentError: The problem has no search space and no bounds.
    """
    random_state = np.random.default_rng(seed)
    space = _space(problem)
    if space is not None:
        return space.sample(n, random_state)
    if problem.xl is None or problem.xu is None:
        raise ArgumentError(f"problem: given {type(problem).__name__} without bounds; allowed: one with xl and xu")
    if _discrete(problem):
        low, high = (np.asarray(limit, dtype=np.int64) for limit in (np.ceil(problem.xl), np.floor(problem.xu)))
        X = random_state.integers(low, high + 1, size=(n, problem.n_var))
        return X.astype(bool) if problem.vtype in (bool, np.bool_) else X
    return random_state.uniform(problem.xl, problem.xu, size=(n, problem.n_var))


def _check_vectors(subject: Any, problem: Any, X: Array, n: int) -> None:
    """Raise unless `X` is `n` allowed vectors of the problem.

    Raises:
        ConformanceError: It is not.
    """
    shape = (n, problem.n_var)
    _require(X.shape == shape, "count", subject, f"vectors of shape {X.shape}", f"(vectors, genes) = {shape}")
    if _discrete(problem):
        integral = np.issubdtype(X.dtype, np.integer) or X.dtype == np.bool_
        _require(integral, "dtype", subject, f"vectors of dtype {X.dtype}", "integers")
    if problem.xl is not None and problem.xu is not None:
        outside = (problem.xl > X) | (problem.xu < X) | (X != X)  # noqa: PLR0124 - NaN
        if outside.any():
            i, j = np.argwhere(outside)[0]
            limits = f"a value from {problem.xl[j]:g} to {problem.xu[j]:g}"
            _require(False, "bounds", subject, f"{X[i, j]} for variable {j} of vector {i}", limits)
    space = _space(problem)
    if space is not None:
        try:
            space.check(X)
        except BitWidthError as error:
            _require(False, "allowed-values", subject, str(error), "allowed bit-widths only")


# --- randomness ---------------------------------------------------------------------------------------------


def _global_state() -> tuple[object, ...]:
    """Return the state of the global random number generators of numpy and Python, comparable with ``==``."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the point is to see whether it is used
    return (name, np.asarray(keys).tobytes(), *rest, random.getstate())


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed the global random number generators of numpy and Python, and put them back as they were at the end."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def _check_seeded(subject: Any, run: Callable[[], Values]) -> Values:
    """Return a run's result, which must be the same when repeated and whatever the global generators are seeded with.

    Args:
        subject: What is checked.
        run: Does the work from one seed.

    Raises:
        ConformanceError: It is not the same, or the global generators were used.
    """
    with _global_seed(1):
        before = _global_state()
        first = run()
        used = before != _global_state()
    with _global_seed(1):
        again = run()
    if not _equal(first, again):
        seen = f"two results from one seed, {_first_difference(first, again)}"
        _require(False, "same-seed", subject, seen, "the same result; all randomness must come from random_state")
    with _global_seed(2):
        other = run()
    if not _equal(first, other):
        seen = f"another result after np.random.seed, {_first_difference(first, other)}"
        _require(False, "global-rng", subject, seen, "randomness from random_state (or the seed) only")
    _require(not used, "global-rng", subject, "a changed state of np.random or random", "global generators left alone")
    return first


def _equal(a: Values, b: Values, rtol: float = 0.0) -> bool:
    """Return whether two results have the same arrays, to a relative tolerance."""
    return a.keys() == b.keys() and all(_close(a[key], b[key], rtol) for key in a)


def _close(a: Array, b: Array, rtol: float) -> bool:
    """Return whether two arrays are of one shape and hold the same values, to a relative tolerance."""
    if a.shape != b.shape:
        return False
    same = (a == b) | ((a != a) & (b != b))  # noqa: PLR0124 - NaN
    if rtol > 0:
        same = same | np.isclose(a, b, rtol=rtol, atol=0)
    return bool(np.all(same))


def _first_difference(a: Values, b: Values) -> str:
    """Describe where two results differ first."""
    for key in a:
        if key not in b or a[key].shape != b[key].shape:
            return f"{key} of shape {a[key].shape} and {b[key].shape if key in b else None}"
        differs = np.argwhere(np.atleast_1d((a[key] != b[key]) & ~((a[key] != a[key]) & (b[key] != b[key]))))
        if len(differs):
            at = tuple(int(i) for i in differs[0])
            return f"{key}[{', '.join(map(str, at))}] = {np.atleast_1d(a[key])[at]} and {np.atleast_1d(b[key])[at]}"
    return f"results {sorted(a)} and {sorted(b)}"


def _pickled(subject: Any) -> Any:
    """Return a copy of an object through pickle.

    Raises:
        ConformanceError: The object can't be pickled.
    """
    try:
        return pickle.loads(pickle.dumps(subject))  # noqa: S301 - our own bytes
    except Exception as error:
        raise ConformanceError(
            f"pickle: {type(subject).__name__}: saw {type(error).__name__}: {error}; expected a copy through pickle"
        ) from error


# --- operators ----------------------------------------------------------------------------------------------


def _spied(operator: Any) -> Any:
    """Return a copy of an operator that raises when its `_do` writes to an array it is given."""
    spy = copy.copy(operator)

    def _do(problem: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        before = np.copy(X)
        result = operator._do(problem, X, *args, **kwargs)
        _require(
            np.array_equal(before, X), "inputs-untouched", operator, "_do write to the X it was given", "a new array"
        )
        return result

    spy._do = _do
    return spy


def _apply(operator: Any, problem: Any, given: Any, seed: int) -> Values:
    """Return what an operator makes of its input: ``{"X": vectors}``.

    Args:
        operator: A pymoo operator.
        problem: A problem.
        given: A number of samples, a population, or a list of populations of parents; only its vectors are looked at.
        seed: Seed of `random_state`.

    Raises:
        ConformanceError: A vector of the input was written to.
    """
    populations = [] if isinstance(given, int) else [given] if isinstance(given, Population) else given
    arrays = [individual.X for population in populations for individual in population]
    before = [np.copy(x) for x in arrays]
    result = operator(problem, given, random_state=np.random.default_rng(seed))
    untouched = all(np.array_equal(x, y) for x, y in zip(arrays, before, strict=True))
    _require(untouched, "inputs-untouched", operator, "a vector of the input written to", "new vectors")
    return {"X": np.array([individual.X for individual in result])}


def _check_operator(
    operator: Any, problem: Any, make_input: Callable[[], Any], n: int, *, seed: int, differs: bool, spy: bool = False
) -> Array:
    """Check an operator on an input.

    Args:
        operator: A pymoo operator.
        problem: A problem.
        make_input: Builds the input anew, always the same.
        n: Number of vectors that must come out.
        seed: Seed of `random_state`.
        differs: Whether another seed must give another result.
        spy: Whether to look for writes to the array that pymoo hands to `_do`. Repairs are free to write to theirs.

    Returns:
        The vectors that came out, `(n, n_var)`.

    Raises:
        ConformanceError: A check failed.
    """

    def run(subject: Any = operator, seed: int = seed) -> Values:
        return _apply(subject, problem, make_input(), seed)

    values = _check_seeded(operator, run)
    _check_vectors(operator, problem, values["X"], n)
    if spy:
        run(_spied(operator))
    copied = run(_pickled(operator))
    same = _equal(values, copied)
    seen = "" if same else _first_difference(values, copied)
    _require(same, "pickle", operator, f"another result from a copy through pickle, {seen}", "the same result")
    if differs and _large(problem):
        other = run(seed=seed + 1)
        _require(
            not _equal(values, other), "different-seed", operator, "one result from two seeds", "different results"
        )
    return values["X"]


def check_sampling(
    operator: Any, problem: Any, *, n_samples: int = 20, seed: int = 0, deterministic: bool = False
) -> None:
    """Check a sampling operator.

    Args:
        operator: A pymoo sampling.
        problem: A pymoo problem.
        n_samples: Number of vectors to sample.
        seed: Seed of `random_state`.
        deterministic: The sampling is meant to give the same vectors for every seed.

    Raises:
        ConformanceError: A check failed.
    """
    _check_operator(operator, problem, lambda: n_samples, n_samples, seed=seed, differs=not deterministic)


def check_crossover(operator: Any, problem: Any, *, n_matings: int = 10, seed: int = 0) -> None:
    """Check a crossover operator.

    Args:
        operator: A pymoo crossover.
        problem: A pymoo problem.
        n_matings: Number of matings.
        seed: Seed of the parents and of `random_state`.

    Raises:
        ConformanceError: A check failed.
    """

    def parents() -> list[Population]:
        X = _vectors(problem, n_matings * operator.n_parents, seed)
        return [Population.new("X", x) for x in X.reshape(n_matings, operator.n_parents, -1)]

    _check_operator(operator, problem, parents, n_matings * operator.n_offsprings, seed=seed, differs=False, spy=True)


def check_mutation(operator: Any, problem: Any, *, n_individuals: int = 20, seed: int = 0) -> None:
    """Check a mutation operator.

    Args:
        operator: A pymoo mutation.
        problem: A pymoo problem.
        n_individuals: Number of individuals to mutate.
        seed: Seed of the individuals and of `random_state`.

    Raises:
        ConformanceError: A check failed.
    """

    def population() -> Population:
        return Population.new("X", _vectors(problem, n_individuals, seed))

    _check_operator(operator, problem, population, n_individuals, seed=seed, differs=True, spy=True)


def check_repair(operator: Any, problem: Any, *, n_individuals: int = 20, seed: int = 0, outside: bool = False) -> None:
    """Check a repair operator on real vectors, and that it leaves allowed ones alone.

    Args:
        operator: A pymoo repair.
        problem: A pymoo problem with bounds.
        n_individuals: Number of vectors to repair.
        seed: Seed of the vectors and of `random_state`.
        outside: Whether the vectors may also be outside the bounds, by up to a quarter of their width.

    Raises:
        ConformanceError: A check failed.
    """
    margin = 0.25 * (problem.xu - problem.xl) if outside else 0.0
    shape = (n_individuals, problem.n_var)
    X = np.random.default_rng(seed).uniform(problem.xl - margin, problem.xu + margin, size=shape)

    def population() -> Population:
        return Population.new("X", X)

    repaired = _check_operator(operator, problem, population, n_individuals, seed=seed, differs=False)
    for allowed in (repaired, _vectors(problem, n_individuals, seed)):
        again = _apply(operator, problem, Population.new("X", allowed), seed)
        same = _equal({"X": allowed}, again)
        seen = "" if same else _first_difference({"X": allowed}, again)
        _require(
            same, "fixed-point", operator, f"an allowed vector changed, {seen}", "allowed vectors left as they are"
        )


# --- problems -----------------------------------------------------------------------------------------------


@contextmanager
def _opened(make: Callable[[], Any]) -> Iterator[Any]:
    """Build an object, and close it at the end if it has a `close` method."""
    built = make()
    try:
        yield built
    finally:
        if callable(getattr(built, "close", None)):
            built.close()


def _evaluate(problem: Any, X: Array) -> Values:
    """Return all that a problem computes of vectors: F, and G and H where there are constraints.

    Raises:
        ConformanceError: The problem writes to the vectors.
    """
    given = X.copy()
    values: Values = problem.evaluate(given, return_as_dictionary=True)
    _require(np.array_equal(X, given), "inputs-untouched", problem, "evaluate write to X", "X left as it is")
    return values


def _check_form(problem: Any) -> None:
    """Check a problem's bounds against its search space.

    Raises:
        ConformanceError: They differ.
    """
    space = _space(problem)
    if space is None:
        return
    _require(problem.n_var == space.n_var, "bounds", problem, f"n_var = {problem.n_var}", f"{space.n_var} as its space")
    for name, given, wanted in (("xl", problem.xl, space.lower), ("xu", problem.xu, space.upper)):
        _require(np.array_equal(given, wanted), "bounds", problem, f"{name} = {given}", f"{wanted} as its space")


def _check_values(problem: Any, values: Values, n: int) -> None:
    """Check the shape of what a problem computed of `n` vectors, and that it is finite.

    Raises:
        ConformanceError: A check failed.
    """
    for key, width in (("F", problem.n_obj), ("G", problem.n_ieq_constr), ("H", problem.n_eq_constr)):
        if key != "F" and width == 0:
            continue
        shape = values[key].shape if key in values else None
        _require(shape == (n, width), "shape", problem, f"{key} of shape {shape}", f"{(n, width)}")
        numeric = np.issubdtype(values[key].dtype, np.number)
        finite = numeric and np.isfinite(values[key]).all()
        _require(bool(finite), "finite", problem, f"{key} with NaN or infinity", "finite numbers")


def _check_same(check: str, problem: Any, what: str, a: Values, b: Values, rtol: float = 0.0) -> None:
    """Raise unless two results are the same.

    Raises:
        ConformanceError: They differ.
    """
    if not _equal(a, b, rtol):
        _require(False, check, problem, f"other values {what}: {_first_difference(a, b)}", "the same values")


def check_problem(
    make_problem: Callable[[], Any],
    *,
    seed: int = 0,
    n_points: int = 8,
    rtol: float = 0.0,
    make_parallel_problem: Callable[[], Any] | None = None,
) -> None:
    """Check a problem.

    Args:
        make_problem: Builds the problem anew at each call.
        seed: Seed of the vectors to evaluate.
        n_points: Number of vectors, 2 or more; about seven times as many are evaluated.
        rtol: Relative tolerance between a batch and its vectors one by one, and between serial and parallel.
        make_parallel_problem: Builds the same problem with parallel evaluation; its values must be the same.

    Raises:
        ConformanceError: A check failed.
        ArgumentError: `n_points` is too small, or the problem has no bounds.
    """
    if n_points < 2:
        raise ArgumentError(f"n_points: given {n_points}; allowed: 2 or more")
    with _opened(make_problem) as problem, _opened(make_problem) as fresh:
        _check_form(problem)
        X = _vectors(problem, n_points, seed)
        problems = iter((problem, fresh))
        values = _check_seeded(problem, lambda: _evaluate(next(problems, fresh), X))
        _check_values(problem, values, n_points)

    def rows(index: npt.ArrayLike) -> Values:
        return {key: value[np.asarray(index)] for key, value in values.items()}

    # each of these on a problem that has evaluated nothing yet, so that no cache can hide anything
    with _opened(make_problem) as fresh:
        single = [_evaluate(fresh, x) for x in X]
        stacked = {key: np.stack([one[key] for one in single]) for key in single[0]}
        _check_same("batch", fresh, "one by one", values, stacked, rtol)
    with _opened(make_problem) as fresh:
        order = np.random.default_rng(seed).permutation(n_points)[::-1]
        _check_same("order", fresh, "in another order", rows(order), _evaluate(fresh, X[order]), rtol)
    with _opened(make_problem) as fresh:
        twice = [0, 1, 0, 0]
        _check_same("duplicates", fresh, "where a vector occurs twice", rows(twice), _evaluate(fresh, X[twice]), rtol)
    with _opened(make_problem) as problem:
        _evaluate(problem, X[:1])  # a problem that is in use is the harder one to pickle
        with _opened(lambda: _pickled(problem)) as copied:
            _check_same("pickle", problem, "from a copy through pickle", values, _evaluate(copied, X))
        _check_refuses(problem, X)
    if make_parallel_problem is not None:
        with _opened(make_parallel_problem) as parallel:
            _check_same("parallel", parallel, "in parallel", values, _evaluate(parallel, X), rtol)


def _check_refuses(problem: Any, X: Array) -> None:
    """Check that a problem with a search space refuses a value that is not an allowed bit-width.

    Raises:
        ConformanceError: It evaluates it.
    """
    if _space(problem) is None:
        return
    wrong = X[:2].astype(np.float64)
    wrong[1, 0] -= 0.5
    try:
        _evaluate(problem, wrong)
    except EvoqError:
        return
    seen = f"values for a vector with {wrong[1, 0]} bits"
    _require(False, "allowed-values", problem, seen, "an EvoqError: it is not an allowed bit-width")


# --- algorithms ---------------------------------------------------------------------------------------------


def _run(problem: Any, algorithm: Any, n_eval: int, seed: int) -> dict[str, Array]:
    """Run an algorithm and return its population after every generation and its result, as arrays by name.

    Args:
        problem: A problem.
        algorithm: A new algorithm.
        n_eval: Number of evaluations after which no generation is begun.
        seed: Seed of the run.

    Raises:
        ConformanceError: A population holds vectors that are not allowed, or values that are not finite.
    """
    algorithm.setup(problem, termination=("n_eval", n_eval), seed=seed)
    trace: dict[str, Array] = {}
    generation = 0
    while algorithm.has_next():
        algorithm.next()
        X, F = algorithm.pop.get("X"), algorithm.pop.get("F")
        _check_vectors(algorithm, problem, X, len(algorithm.pop))
        finite = bool(np.isfinite(F.astype(np.float64)).all())
        _require(finite, "finite", algorithm, "objectives with NaN or infinity", "finite numbers")
        trace |= {f"X of generation {generation}": X, f"F of generation {generation}": F}
        generation += 1
    result = algorithm.result()
    if result.X is not None:
        trace |= {"X of the result": np.asarray(result.X), "F of the result": np.asarray(result.F)}
    return trace


def check_algorithm(
    make_problem: Callable[[], Any],
    make_algorithm: Callable[[], Any],
    *,
    n_eval: int,
    seed: int = 0,
    make_parallel_problem: Callable[[], Any] | None = None,
    make_store_problem: Callable[[Path], Any] | None = None,
) -> None:
    """Check that runs of an algorithm depend on the seed, and on nothing but the seed.

    Populations are compared after every generation.

    Args:
        make_problem: Builds the problem anew at each call.
        make_algorithm: Builds the algorithm anew at each call.
        n_eval: Number of evaluations of each run; four to seven runs are made.
        seed: Seed of the runs.
        make_parallel_problem: Builds the same problem with parallel evaluation; the run must be the same.
        make_store_problem: Builds the same problem over a store at the path it is given (no file is there yet). A
            run of half the evaluations is made and dropped; a whole run from the same path, with a new problem and
            algorithm, must then be the same as an uninterrupted one.

    Raises:
        ConformanceError: A check failed.
    """

    def run(make: Callable[[], Any] = make_problem, n_eval: int = n_eval, seed: int = seed) -> Values:
        with _opened(make) as problem:
            return _run(problem, make_algorithm(), n_eval, seed)

    algorithm = make_algorithm()
    trace = _check_seeded(algorithm, run)
    with _opened(make_problem) as problem:
        large = _large(problem)
    if large:
        same = _equal(trace, run(seed=seed + 1))
        _require(not same, "different-seed", algorithm, "one run from two seeds", "different runs")
    if make_parallel_problem is not None:
        _check_same("parallel", algorithm, "in parallel", trace, run(make_parallel_problem))
    if make_store_problem is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "evaluations.sqlite"
            run(lambda: make_store_problem(path), n_eval=n_eval // 2)
            resumed = run(lambda: make_store_problem(path))
        _check_same("resume", algorithm, "after a restart", trace, resumed)
