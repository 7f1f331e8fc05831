from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import evoq_moo as evoq
from evoq_moo.algorithms.surrogate._samples import hardest_samples, sample_differences
from evoq_moo.calibration import CalibratingNetwork
from evoq_moo.difference import kl_divergence
from evoq_moo.errors import ArgumentError
from evoq_moo.network import SampleSubset


@pytest.fixture
def network(tiny_model, tiny_samples):
    return evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False)


def test_a_subset_is_the_metric_on_those_samples(network):
    subset = SampleSubset(network, [3, 0, 5])
    bits = network.uniform(3).to_array()
    heads = network.engine.heads(bits)
    expected = kl_divergence([h[[3, 0, 5]] for h in network.float_heads], [h[[3, 0, 5]] for h in heads])
    assert subset.difference_of(bits) == pytest.approx(expected, rel=1e-4)
    assert len({network.fingerprint, subset.fingerprint, SampleSubset(network, [0, 3, 5]).fingerprint}) == 3
    assert subset.identity == network.identity


def test_sample_differences_average_to_the_difference(network):
    bits = network.uniform(3).to_array()
    found = sample_differences(network, bits)
    assert found.shape == (len(network.samples),)
    assert found.mean() == pytest.approx(network.difference_of(bits), rel=1e-6)


def test_threads_do_not_disturb_each_other(network):
    """38 of 60 results were wrong beside another thread: the engine holds one policy at a time."""
    policies = [network.uniform(b).to_array() for b in (2, 3, 4, 5)] * 6
    samples = [sample_differences(network, bits) for bits in policies[:4]] * 6
    wholes = [network.difference_of(bits) for bits in policies[:4]] * 6
    subsets = [SampleSubset(network, [i, 7]) for i in range(5)]
    parts = [subsets[i % 5].difference_of(policies[i % 4]) for i in range(24)]
    with ThreadPoolExecutor(4) as pool:
        threads = [
            (
                pool.submit(sample_differences, network, bits),
                pool.submit(network.difference_of, bits),
                pool.submit(subsets[i % 5].difference_of, policies[i % 4]),
            )
            for i, bits in enumerate(policies)
        ]
        for i, (one, two, three) in enumerate(threads):
            assert np.array_equal(one.result(), samples[i])
            assert two.result() == wholes[i]
            assert three.result() == parts[i]


def test_the_fewest_samples_that_hold_each_share(network):
    policies = np.stack([network.uniform(b).to_array() for b in (2, 3)])
    parts = np.array([sample_differences(network, bits) for bits in policies])
    parts = (parts / parts.sum(axis=1, keepdims=True)).mean(axis=0)
    hardest = np.argsort(-parts)[:3].tolist()
    one, two, three = np.cumsum(parts[hardest]) - 1e-9
    for shares, looks in [
        ([two], [hardest[:2]]),
        ([one, three], [hardest[:1], hardest[1:]]),
        ([one / 2, one, two], [hardest[:1], hardest[1:2]]),  # the second needs none beyond the first
    ]:
        assert [look.tolist() for look in hardest_samples(network, policies, shares=shares)] == looks
    assert hardest_samples(network, policies, shares=[1.0]) == ()  # more than half would be needed


def test_nothing_to_screen_with_where_parts_do_not_add_up(tiny_model, tiny_samples):
    network = evoq.QuantizedNetwork(tiny_model, tiny_samples, difference="sqnr", progress=False)
    assert hardest_samples(network, network.uniform(3).to_array()[None], shares=[0.3]) == ()
    network = evoq.QuantizedNetwork(tiny_model, tiny_samples, difference=zero, progress=False)
    assert hardest_samples(network, network.uniform(3).to_array()[None], shares=[0.3]) == ()


def zero(float_heads, quantized_heads):
    return 0.0


def test_refuses(network):
    for samples in ([], [0, 0], [len(network.samples)], [-1]):
        with pytest.raises(ArgumentError, match="samples"):
            SampleSubset(network, samples)
    with pytest.raises(ArgumentError, match="CalibratingNetwork"):
        SampleSubset(CalibratingNetwork(network), [0])
    for shares in ([], [2], [0.5, 0.5], [0.9, 0.5], "0.5", 0.5):
        with pytest.raises(ArgumentError, match="shares"):
            hardest_samples(network, network.uniform(3).to_array()[None], shares=shares)
    assert torch.equal(network.samples, SampleSubset(network, range(len(network.samples))).samples)
