"""What policies change on images that the search did not see."""

import numpy as np
import pytest
import torch
from torch import nn

import evoq_moo as evoq
from evoq_moo.calibration import CalibratingNetwork
from evoq_moo.difference import kl_divergence, normalized_mse, top1_flips
from evoq_moo.errors import ArgumentError
from evoq_moo.evaluation import NewImages, mirror_images


@pytest.fixture
def network(tiny_model, tiny_samples):
    return evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False)


def like(samples, n=9, seed=5):
    print(f"seed {seed}")
    return torch.randn(n, *samples.shape[1:], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("calibrated", [False, True])
def test_the_difference_is_that_of_the_applied_network(network, calibrated):
    images, policy = like(network.samples), network.uniform(4)
    evaluated = CalibratingNetwork(network) if calibrated else network
    found = NewImages(evaluated, images).measure(policy)
    with torch.no_grad():
        reference, quantized = [network.network(images)], [evaluated.apply(policy)(images)]
    assert found.difference == pytest.approx(normalized_mse(reference, quantized), rel=1e-3)
    assert found.low < found.difference < found.high
    assert found.others == {
        "kl": pytest.approx(kl_divergence(reference, quantized), rel=1e-2),
        "top1_flips": top1_flips(reference, quantized),
    }


def test_samples_of_the_search_are_left_out(network):
    images = like(network.samples)
    new = NewImages(network, torch.cat([network.samples[:3], images]))
    assert new.left_out == 3
    assert torch.equal(new.images, images)
    assert new.measure(network.uniform(4)) == NewImages(network, images).measure(network.uniform(4))
    with pytest.raises(ArgumentError, match="images: all 3 are among the samples that the policies were searched with"):
        NewImages(network, network.samples[:3])


def test_fewer_than_eight_images_have_no_interval(network):
    found = NewImages(network, like(network.samples, 7)).measure(network.uniform(4))
    assert (found.low, found.high) == (None, None)


def test_mirror_images(network):
    found = mirror_images(network)
    assert torch.equal(found.images, network.samples.flip(-1))
    assert found.left_out == 0
    flat = evoq.QuantizedNetwork(nn.Linear(6, 3), torch.randn(9, 6), pinned="none", progress=False)
    assert mirror_images(flat) is None
    even = network.samples + network.samples.flip(-1)
    assert mirror_images(evoq.QuantizedNetwork(network.network, even, progress=False)) is None


def test_a_front_says_what_to_expect(network, tmp_path):
    run = evoq.search(network, evaluations=30, pop_size=4, progress=False)
    mirror = mirror_images(network)
    for point in run.front:
        assert point.expected == mirror.measure(point.policy)
    path = tmp_path / "front.json"
    run.front.save(path)
    assert evoq.ParetoFront.load(path) == run.front
    table = run.front.table()
    assert table.columns[2].header == "new images (90 %)"
    assert next(iter(table.columns[2].cells)) == run.front[0].expected.short()
    assert "in 90 %), kl " in str(run.front[0].expected)


def test_a_front_of_what_has_no_mirror_images_says_nothing():
    flat = evoq.QuantizedNetwork(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)), torch.randn(9, 6), pinned="none")
    run = evoq.search(flat, evaluations=20, pop_size=4, progress=False)
    assert all(point.expected is None for point in run.front)
    assert "new images (90 %)" not in [column.header for column in run.front.table().columns]
    assert np.isfinite(run.front.values("difference")).all()
