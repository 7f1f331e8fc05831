"""Calibration inside evaluations: the store, workers, and what it changes."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from evoq_moo.calibration import CalibratingNetwork, calibrate
from evoq_moo.errors import UnknownNameError
from evoq_moo.problems import MixedPrecisionProblem


def bits_of(network, weight, activation):
    return np.tile([weight, activation], (len(network.space.layer_names), 1))


def test_float_bits_change_nothing(tiny_network):
    found = CalibratingNetwork(tiny_network)
    assert found.difference_of(bits_of(tiny_network, 32, 32)) < 1e-6


def test_it_is_close_to_the_features_step(tiny_network, policy_of, monkeypatch):
    monkeypatch.setattr("evoq_moo.calibration._in_loop.PLACES", 10**6)
    seen = []
    from evoq_moo.calibration import _calibrate

    original = _calibrate._Calibration._differences
    monkeypatch.setattr(
        _calibrate._Calibration, "_differences", lambda self, s: seen.append(original(self, s)) or seen[-1]
    )
    calibrate(tiny_network, policy_of(tiny_network, 4, 4), ("features",), progress=False)
    found = CalibratingNetwork(tiny_network).difference_of(bits_of(tiny_network, 4, 4))
    assert found == pytest.approx(seen[-1][0], rel=1e-3)


def test_threads_do_not_matter_and_the_network_is_untouched(tiny_network):
    plain = tiny_network.difference_of(bits_of(tiny_network, 3, 3))
    found = CalibratingNetwork(tiny_network)
    one = found.difference_of(bits_of(tiny_network, 3, 3))
    found.set_threads(1)
    assert found.difference_of(bits_of(tiny_network, 3, 3)) == one
    assert tiny_network.difference_of(bits_of(tiny_network, 3, 3)) == plain
    assert found.fingerprint != tiny_network.fingerprint
    assert found.identity == tiny_network.identity


def test_it_pickles(tiny_network):
    found = CalibratingNetwork(tiny_network)
    one = found.difference_of(bits_of(tiny_network, 4, 4))
    assert pickle.loads(pickle.dumps(found)).difference_of(bits_of(tiny_network, 4, 4)) == one


def test_a_problem_keeps_both_kinds_apart_in_one_store(tiny_network, tmp_path):
    X = tiny_network.space.sample(3, np.random.default_rng(0))
    values = {}
    for _ in range(2):
        for kind in (None, "light"):
            problem = MixedPrecisionProblem(tiny_network, store=tmp_path / "s.sqlite", calibrate=kind)
            found = problem.values(X)["difference"]
            assert kind not in values or np.array_equal(values[kind], found)
            assert problem.evaluator.computed == (0 if kind in values else 3)
            values[kind] = found
            problem.close()
    assert not np.array_equal(values[None], values["light"])


def same_network(network):
    return network


def test_workers_give_the_same(tiny_network):
    X = tiny_network.space.sample(2, np.random.default_rng(1))
    alone = MixedPrecisionProblem(tiny_network, calibrate="light").values(X)["difference"]
    with ThreadPoolExecutor(1) as executor:
        recipe = partial(same_network, tiny_network)
        problem = MixedPrecisionProblem(tiny_network, calibrate="light", executor=executor, recipe=recipe)
        assert np.array_equal(problem.values(X)["difference"], alone)
    problem = MixedPrecisionProblem(tiny_network, calibrate="light", workers=1)
    assert np.array_equal(problem.values(X)["difference"], alone)
    problem.close()


def test_an_unknown_kind(tiny_network):
    with pytest.raises(UnknownNameError, match="calibrate"):
        MixedPrecisionProblem(tiny_network, calibrate="heavy")


def test_it_lowers_the_difference_of_a_coarse_network(tiny_network):
    bits = bits_of(tiny_network, 3, 8)
    assert CalibratingNetwork(tiny_network).difference_of(bits) < tiny_network.difference_of(bits)
    assert torch.is_grad_enabled()
