import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evoq_moo.errors import ArgumentError, NonFiniteError, UnknownNameError
from evoq_moo.images import Preprocess
from evoq_moo.samples import load_samples
from evoq_moo.samples.choose import farthest_first

PLAIN = Preprocess(crop=2, mean=(0.0,) * 3, std=(1.0,) * 3)


def images(*values):
    return np.stack([np.full((2, 2, 3), value, np.uint8) for value in values])


def shown(samples):
    return (samples[:, 0, 0, 0] * 255).round().int().tolist()


@pytest.fixture
def brightness():
    """Logits (b, -b) of brightness b, from one feature b behind a convolution."""
    conv, linear = nn.Conv2d(3, 1, 1), nn.Linear(1, 2)
    nn.init.constant_(conv.weight, 1.0)
    nn.init.zeros_(conv.bias)
    linear.weight.data = torch.tensor([[1.0], [-1.0]])
    nn.init.zeros_(linear.bias)
    return nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


def test_farthest_first_against_plain_search():
    rows = np.random.default_rng(0).normal(size=(40, 3))
    order = farthest_first(rows, 12).tolist()
    for i in range(1, 12):
        distances = np.linalg.norm(rows[:, None] - rows[None, order[:i]], axis=2).min(axis=1)
        assert distances[order[i]] == pytest.approx(distances.max())
    assert sorted(farthest_first(np.zeros((5, 2)), 5)) == [0, 1, 2, 3, 4]


def test_k_center_spreads_and_entropy_sorts(brightness):
    pixels = images(10, 11, 12, 200, 100, 101)
    options = {"count": 3, "preprocess": PLAIN, "network": brightness}
    spread = shown(load_samples(pixels, choose="k-center", **options))
    assert {min(spread) <= 12, max(spread) == 200, 100 in spread or 101 in spread} == {True}
    assert shown(load_samples(pixels, choose="low-entropy", **options)) == [200, 101, 100]
    assert shown(load_samples(pixels, choose="high-entropy", **options)) == [10, 11, 12]


@pytest.mark.parametrize("choose", ["k-center", "high-entropy", "low-entropy"])
def test_choices_are_nested_and_leave_the_network_as_it_was(brightness, choose):
    pixels = images(*range(0, 240, 12))
    brightness.train()
    options = {"preprocess": PLAIN, "network": brightness, "choose": choose, "seed": 3}
    five, nine = (shown(load_samples(pixels, count=n, **options)) for n in (5, 9))
    assert nine[:5] == five
    assert len(set(nine)) == 9
    assert brightness.training
    assert not brightness[0]._forward_pre_hooks
    few = shown(load_samples(pixels, count=5, candidates=5, **options))
    assert sorted(few) == sorted(shown(load_samples(pixels, count=5, preprocess=PLAIN, seed=3)))


def test_detectors_and_folders(tmp_path):
    from evoq_moo import zoo

    rng = np.random.default_rng(1)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    model = zoo.load("ssd_mobilenet_v1_075_coco", preprocess=Preprocess(crop=33, stretch=True))
    for choose in ("k-center", "high-entropy"):
        options = {"preprocess": model.preprocess, "network": model.network, "choose": choose}
        assert load_samples(tmp_path, count=2, **options).shape == (2, 3, 33, 33)


def test_bad_input(brightness):
    pixels = images(1, 2, 3)
    with pytest.raises(UnknownNameError, match="did you mean 'k-center'"):
        load_samples(pixels, count=2, preprocess=PLAIN, choose="kcenter")
    with pytest.raises(ArgumentError, match="network: none given"):
        load_samples(pixels, count=2, preprocess=PLAIN, choose="k-center")
    with pytest.raises(ArgumentError, match="candidates: given 0"):
        load_samples(pixels, count=2, preprocess=PLAIN, choose="k-center", network=brightness, candidates=0)
    with pytest.raises(ArgumentError, match="one head of class logits"):
        load_samples(pixels, count=2, preprocess=PLAIN, choose="high-entropy", network=nn.Conv2d(3, 1, 2))
    brightness[0].weight.data.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="NaN or infinity on image"):
        load_samples(pixels, count=2, preprocess=PLAIN, choose="k-center", network=brightness)
