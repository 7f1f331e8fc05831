import functools

import pytest
import torch
from torch import nn

import evoq_moo as evoq
from evoq_moo.errors import ArgumentError, NetworkError
from evoq_moo.images import Preprocess
from evoq_moo.samples import cached_samples, distill_samples

PREPROCESS = Preprocess(crop=8, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture
def network():
    """Two layers of BatchNorm whose statistics are those of smooth images."""
    generator = torch.Generator().manual_seed(5)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4))
    for p in net.parameters():
        p.data.normal_(0, 0.5, generator=generator)
    small = torch.randn(64, 3, 3, 3, generator=generator) * 0.8 + 0.3
    images = nn.functional.interpolate(small, size=(8, 8), mode="bilinear")
    for norm in (net[1], net[4]):
        norm.momentum = 1.0
    with torch.no_grad():
        net.train()(images)
    return net.eval()


def distance(network, images):
    total = 0.0

    def compare(norm, args):
        nonlocal total
        rows = args[0].transpose(0, 1).flatten(1)
        total += (rows.mean(1) - norm.running_mean).square().mean().item()
        total += (rows.std(1) - norm.running_var.sqrt()).square().mean().item()

    handles = [network[i].register_forward_pre_hook(compare) for i in (1, 4)]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return total


def test_statistics_are_matched_within_the_range_of_pixels(network):
    images = distill_samples(network, count=10, preprocess=PREPROCESS, iterations=80)
    noise = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert distance(network, images) < 0.05 * distance(network, noise)
    assert images.shape == (10, 3, 8, 8)
    assert images.min() >= -2
    assert images.max() <= 2
    assert not images.requires_grad


def test_the_same_seed_gives_the_same_bits(network):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    one = distill_samples(network, count=4, shape=(3, 8, 8), iterations=5, seed=3)
    assert torch.equal(torch.rand(1), expected)
    with torch.no_grad():
        two = distill_samples(network, count=4, shape=(3, 8, 8), iterations=5, seed=3)
    assert torch.equal(one, two)
    assert not torch.equal(one, distill_samples(network, count=4, shape=(3, 8, 8), iterations=5, seed=4))
    assert not network[1]._forward_pre_hooks


def test_networks_without_statistics_are_refused(network):
    with pytest.raises(NetworkError, match="the network has none: give images"):
        distill_samples(nn.Conv2d(3, 4, 3), shape=(3, 8, 8))
    for norm in (network[1], network[4]):
        norm.reset_running_stats()
    with pytest.raises(NetworkError, match="2 layers as a fresh one has them"):
        distill_samples(network, shape=(3, 8, 8))
    with pytest.raises(NetworkError, match="give images"):
        evoq.Recipe(model="squeezenet1_1", samples="synthetic")()


@pytest.mark.real
def test_folded_weights_are_refused(shared_data):
    weights = shared_data("weights/mobilenet_v2.safetensors")
    with pytest.raises(NetworkError, match=r"layers as a fresh one has them \(folded"):
        evoq.Recipe(model="mobilenet_v2", weights=str(weights), samples="synthetic")()


def test_bad_arguments(network):
    with pytest.raises(ArgumentError, match="preprocess: none given"):
        distill_samples(network)
    with pytest.raises(ArgumentError, match="shape: given"):
        distill_samples(network, shape=(8, 8))
    with pytest.raises(ArgumentError, match="iterations: given 0"):
        distill_samples(network, shape=(3, 8, 8), iterations=0)
    with pytest.raises(ArgumentError, match="choose: given 'k-center' with synthetic samples"):
        evoq.Recipe(model="digits", samples="synthetic", choose="k-center")()


def test_are_kept_in_the_cache(network, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("EVOQ_CACHE", str(tmp_path))
    options = {"count": 2, "preprocess": PREPROCESS, "seed": 0, "progress": False}
    first = cached_samples(network, **options)
    (file,) = tmp_path.glob("synthetic-*.safetensors")
    monkeypatch.setattr("evoq_moo.samples.distill_samples", lambda *_args, **_kwargs: pytest.fail("distilled again"))
    assert torch.equal(cached_samples(network, **options), first)
    monkeypatch.undo()
    monkeypatch.setenv("EVOQ_CACHE", str(tmp_path))
    file.write_bytes(b"damaged")
    assert torch.equal(cached_samples(network, **options), first)
    assert "damaged" in caplog.text


def test_a_recipe_with_synthetic_samples(monkeypatch, tmp_path):
    (tmp_path / "synthetic").mkdir()
    monkeypatch.chdir(tmp_path)
    quick = functools.partial(distill_samples, iterations=3)
    monkeypatch.setattr("evoq_moo.samples.distill_samples", quick)
    recipe = evoq.Recipe(model="digits", samples="synthetic", count=3)
    assert recipe.to_json()["samples"] == "synthetic"
    made = recipe()
    assert made.samples.shape == (3, 1, 8, 8)
    assert made.fingerprint == recipe().fingerprint
