"""Searches: reproducible, resumable after any kill, interruptible."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2

import evoq_moo as evoq
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.runs._run_search import hypervolume_box

SCRIPT = Path(__file__).with_name("killed_search.py")


@pytest.fixture
def network(tiny_model, tiny_samples):
    return evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False)


def run(problem, *, evaluations=120, seed=5, on_result=None):
    table = evoq.measure_sensitivity(problem.network, evaluator=problem.evaluator, progress=False)
    algorithm = evoq.guided_nsga2(table, pop_size=12)
    return evoq.run_search(problem, algorithm, evaluations=evaluations, seed=seed, progress=False)


def same(one, other):
    return (
        one.front.points == other.front.points
        and np.array_equal(one.vectors, other.vectors)
        and repr(one.trace) == repr(other.trace)
    )


def test_same_seed_same_result_and_another_seed_another(network):
    first = run(MixedPrecisionProblem(network))
    assert same(first, run(MixedPrecisionProblem(network)))
    assert not same(first, run(MixedPrecisionProblem(network), seed=6))


def test_same_seed_same_result_with_two_workers(network):
    problem = MixedPrecisionProblem(network, workers=2)
    try:
        assert same(run(problem), run(MixedPrecisionProblem(network)))
    finally:
        problem.close()


def killed(tmp_path, name, kills, seed):
    command = [sys.executable, str(SCRIPT), str(tmp_path / name), str(kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_20_random_moments_ends_the_same(tmp_path):
    """Front, evaluations and trace; the uninterrupted one runs in a second process."""
    whole = killed(tmp_path, "whole.sqlite", 0, 0)
    seed = 2020
    print("seed of the kills:", seed)
    resumed = killed(tmp_path, "killed.sqlite", 20, seed)
    assert whole.pop("unfinished") == 0
    assert resumed.pop("unfinished") >= 3
    assert resumed == whole


def test_resuming_computes_nothing_twice(network, tmp_path):
    first = run(MixedPrecisionProblem(network, store=tmp_path / "a.sqlite"), evaluations=60)
    problem = MixedPrecisionProblem(network, store=tmp_path / "a.sqlite")
    longer = run(problem, evaluations=120)
    stored = problem.evaluator.store.count()
    again = MixedPrecisionProblem(network, store=tmp_path / "a.sqlite")
    assert same(longer, run(again, evaluations=120))
    assert again.evaluator.computed == 0
    assert again.evaluator.store.count() == stored
    assert np.array_equal(longer.vectors[: len(first.vectors)], first.vectors)


def test_every_policy_of_the_run_is_kept(network):
    problem = MixedPrecisionProblem(network)
    found = run(problem)
    F = problem.evaluate(found.vectors)
    best = {(p.difference, p.gbops) for p in found.front}
    for f in F:
        assert any(d <= f[0] and b <= f[1] for d, b in best)
    assert len(np.unique(found.vectors, axis=0)) == len(found.vectors) == found.trace[-1].policies
    assert found.trace[-1].front == len(found.front)
    assert [r.hypervolume for r in found.trace] == sorted(r.hypervolume for r in found.trace)
    assert found.front.provenance["seed"] == 5


class StopAfter:
    """Raises KeyboardInterrupt at the n-th computed policy."""

    def __init__(self, network, count):
        self.left = count
        self.compute = network.difference_of

    def __call__(self, bits):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.compute(bits)


@pytest.mark.parametrize("count", [5, 30])
def test_ctrl_c_leaves_a_front_and_the_same_call_goes_on(network, tmp_path, monkeypatch, count):
    expected = run(MixedPrecisionProblem(network))
    store = tmp_path / "a.sqlite"
    evoq.measure_sensitivity(network, store=store, progress=False)
    monkeypatch.setattr(network, "difference_of", StopAfter(network, count))
    problem = MixedPrecisionProblem(network, store=store)
    interrupted = run(problem)
    assert interrupted.interrupted
    assert len(interrupted.front) >= 1
    assert interrupted.front.provenance["interrupted"] is True
    assert problem.on_result is None
    problem.close()
    monkeypatch.undo()
    resumed = run(MixedPrecisionProblem(network, store=store))
    assert not resumed.interrupted
    assert same(resumed, expected)


def test_hypervolume_box_holds_the_uniform_policies(network):
    problem = MixedPrecisionProblem(network)
    first = problem.evaluate(np.stack([network.space.lower, network.space.upper]))
    ideal, reference = hypervolume_box(problem, first)
    for bits in range(2, 9):
        found = network.evaluate(network.uniform(bits))
        assert ideal[0] <= np.log10(found.difference)
        assert ideal[1] <= found.gbops <= reference[1]


def test_an_unreachable_budget_keeps_what_was_computed(network):
    widest = network.evaluate(network.uniform(8)).difference
    smallest = network.cost(network.uniform(2)).gbops
    problem = MixedPrecisionProblem(network, budgets={"difference": widest * 1.0001, "bops": smallest * 1.0001})
    with pytest.raises(InfeasibleBudgetError, match="they are kept in the store"):
        run(problem)
    assert problem.evaluator.store.count() > 10


def test_bad_arguments(network):
    problem = MixedPrecisionProblem(network)
    table = evoq.measure_sensitivity(network, progress=False)
    for options, message in (({"evaluations": 0}, "evaluations: given 0"), ({"seed": -1}, "seed: given -1")):
        with pytest.raises(ArgumentError, match=message):
            evoq.run_search(problem, evoq.guided_nsga2(table), **options)
    with pytest.raises(ArgumentError, match="algorithm: allowed"):
        evoq.run_search(problem, "NSGA2")
    with pytest.raises(ArgumentError, match="pop_size: given 1"):
        evoq.guided_nsga2(table, pop_size=1)
    used = NSGA2(pop_size=4, sampling=table.space.sample(4, np.random.default_rng(0)))
    used.setup(problem, termination=("n_eval", 4)).next()
    with pytest.raises(ArgumentError, match="has not been run"):
        evoq.run_search(problem, used)


def test_a_space_smaller_than_the_budget_ends_the_search(tiny_model, tiny_samples):
    """pymoo's `ask` gives None where a genetic algorithm finds no new offspring."""
    names = evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False).space.layer_names
    network = evoq.QuantizedNetwork(
        tiny_model, tiny_samples, weight_bits=[2, 8], activation_bits=[2, 8], pinned=names[2:], progress=False
    )
    run = evoq.search(network, evaluations=300, pop_size=16, progress=False)
    assert len(run.vectors) <= network.space.cardinality == 16
    assert not run.interrupted


def nan_where_coarse(reference, quantized):
    """A metric that gives NaN for some policies: those that move the outputs far."""
    moved = float((reference[0] - quantized[0]).square().mean() / reference[0].square().mean())
    return moved if moved < 0.05 else float("nan")


@pytest.mark.parametrize("name", ["default", "nsga2", "one objective"])
def test_a_metric_that_gives_nan_for_some_policies(tiny_model, tiny_samples, tmp_path, name):
    network = evoq.QuantizedNetwork(
        tiny_model, tiny_samples, difference=nan_where_coarse, engine="reference", progress=False
    )
    options = {"evaluations": 60, "pop_size": 12, "progress": False, "store": tmp_path / "s.sqlite"}
    if name == "one objective":
        options |= {"objectives": ["difference"], "budgets": evoq.uniform_budget(network, 6)}

    def search():
        if name != "nsga2":
            return evoq.search(network, **options)
        problem = MixedPrecisionProblem(network, store=options["store"])
        table = evoq.measure_sensitivity(network, evaluator=problem.evaluator, progress=False)
        found = evoq.run_search(problem, evoq.guided_nsga2(table, pop_size=12), evaluations=60, progress=False)
        problem.close()
        return found

    found = search()
    assert found.front.provenance["policies_without_difference"] > 0
    assert np.isfinite(found.front.values("difference")).all()
    again = search()  # as a resumed one: from the store
    assert again.front.points == found.front.points
    assert np.array_equal(again.vectors, found.vectors)


def test_ctrl_c_in_the_first_generation_of_a_calibrated_search(network, tmp_path, monkeypatch):
    problem = MixedPrecisionProblem(network, store=tmp_path / "a.sqlite", calibrate="light")
    evaluated = problem.evaluator.network
    table = evoq.measure_sensitivity(network, evaluator=problem.evaluator, method="sparse", progress=False)
    monkeypatch.setattr(evaluated, "difference_of", StopAfter(evaluated, 3))
    found = evoq.run_search(problem, evoq.guided_nsga2(table, pop_size=8), evaluations=20, progress=False)
    assert found.interrupted
    assert len(found.vectors) >= 3
    assert found.front.provenance["fingerprint"] == evaluated.fingerprint != network.fingerprint
    assert found.front.provenance["fingerprint"] in problem.evaluator.store.fingerprints()
    problem.close()
