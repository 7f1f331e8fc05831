"""The evaluator: nothing is computed twice, in this process or in workers."""

import concurrent.futures
import pickle
from functools import partial

import numpy as np
import pytest

import evoq_moo as evoq
from evoq_moo.errors import ArgumentError, NonFiniteError, StoreError
from evoq_moo.evaluation import Evaluator


@pytest.fixture
def network(tiny_model, tiny_samples):
    return evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False)


@pytest.fixture
def bits(network):
    vectors = network.space.sample(6, np.random.default_rng(0))
    return network.space.decode(np.concatenate([vectors, vectors[:3]]))


def test_each_policy_is_computed_once(network, bits, tmp_path):
    with evoq.EvaluationStore(tmp_path / "a.sqlite") as store:
        evaluator = Evaluator(network, store=store)
        results = []
        first = evaluator.differences(bits, on_result=lambda: results.append(1))
        assert evaluator.computed == len(results) == store.count() == 6
        assert np.array_equal(first[:3], first[6:])
        again = Evaluator(network, store=tmp_path / "a.sqlite")
        assert np.array_equal(again.differences(bits), first)
        assert again.computed == 0
        again.close()


def test_differences_are_the_networks(network, bits):
    found = Evaluator(network).differences(bits)
    assert found.tolist() == [network.difference_of(b) for b in bits]


def test_interrupted_evaluations_are_kept(network, bits, tmp_path):
    evaluator = Evaluator(network, store=tmp_path / "a.sqlite")

    def stop():
        if evaluator.computed == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator.differences(bits, on_result=stop)
    evaluator.close()
    with evoq.EvaluationStore(tmp_path / "a.sqlite") as store:
        assert store.count() == 4


def test_workers_give_the_same_bits(network, bits):
    expected = Evaluator(network).differences(bits)
    evaluator = Evaluator(network, workers=2)
    try:
        assert np.array_equal(evaluator.differences(bits), expected)
        assert evaluator.computed == 6
    finally:
        evaluator.close()


def digits_recipe() -> evoq.QuantizedNetwork:
    return evoq.Recipe(model="digits", count=10)(threads=1)


def test_any_executor_with_a_recipe():
    network = digits_recipe()
    policies = network.space.decode(network.space.sample(4, np.random.default_rng(1)))
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        evaluator = Evaluator(network, executor=executor, recipe=digits_recipe)
        assert evaluator.differences(policies).tolist() == [network.difference_of(p) for p in policies]
        evaluator.close()
        assert executor.submit(int, "3").result() == 3


def test_a_recipe_for_another_network_is_refused(network, bits, monkeypatch):
    monkeypatch.setattr("evoq_moo.evaluation.workers._networks", {})  # threads of other tests may have left this one
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        evaluator = Evaluator(network, executor=executor, recipe=digits_recipe)
        with pytest.raises(ArgumentError, match="recipe: made a network with fingerprint"):
            evaluator.differences(bits)


def test_arguments_that_do_not_fit(network):
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        with pytest.raises(ArgumentError, match="give one of them"):
            Evaluator(network, workers=1, executor=executor)
        with pytest.raises(ArgumentError, match="recipe: given None"):
            Evaluator(network, executor=executor)
    with pytest.raises(ArgumentError, match="workers: given 0"):
        Evaluator(network, workers=0)
    with pytest.raises(ArgumentError, match="store: given int"):
        Evaluator(network, store=3)


def test_a_lambda_cannot_go_to_workers(tiny_model, tiny_samples):
    network = evoq.QuantizedNetwork(tiny_model, tiny_samples, difference=lambda r, q: 0.0, progress=False)
    with pytest.raises(ArgumentError, match="can't be sent to other processes"):
        Evaluator(network, workers=1)


def test_a_store_of_another_network(network, tiny_model, tiny_samples, tmp_path):
    Evaluator(network, store=tmp_path / "a.sqlite").close()
    tiny_model[0].weight.data += 1
    other = evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False)
    with pytest.raises(StoreError, match="belongs to another network"):
        Evaluator(other, store=tmp_path / "a.sqlite")


def test_pickles_without_its_processes(network, bits, tmp_path):
    evaluator = Evaluator(network, store=tmp_path / "a.sqlite", workers=1)
    try:
        copied = pickle.loads(pickle.dumps(evaluator))
        assert copied.differences(bits[:2]).tolist() == [network.difference_of(b) for b in bits[:2]]
        copied.close()
    finally:
        evaluator.close()


def fail_below(limit, _reference, quantized):
    return float("nan") if quantized[0].std() < limit else 1.0


def test_a_policy_without_a_difference_is_infinite_and_the_others_go_on(tiny_model, tiny_samples, tmp_path, caplog):
    network = evoq.QuantizedNetwork(tiny_model, tiny_samples, difference=partial(fail_below, 0.0), progress=False)
    evaluator = Evaluator(network, store=tmp_path / "a.sqlite")
    policies = network.space.decode(network.space.sample(3, np.random.default_rng(0)))
    evaluator.differences(policies[:2])
    network.difference = partial(fail_below, 1e9)
    with caplog.at_level("WARNING", logger="evoq_moo"):
        found = evaluator.differences(policies)
    assert found.tolist() == [1.0, 1.0, np.inf]
    assert "a policy is infeasible: difference: 'functools.partial' gave nan" in caplog.text
    assert evaluator.differences(policies).tolist() == found.tolist()  # from the store
    assert (evaluator.store.count(), evaluator.computed) == (3, 3)
    with pytest.raises(NonFiniteError):
        network.difference_of(policies[2])
    evaluator.close()
