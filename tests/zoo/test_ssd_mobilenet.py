import importlib.util
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from evoq_moo import zoo
from evoq_moo.detection import Detector
from evoq_moo.errors import ArgumentError
from evoq_moo.images import Preprocess
from evoq_moo.network import QuantizedNetwork
from evoq_moo.runs import Recipe
from evoq_moo.zoo import _ssd_mobilenet

NAME = "ssd_mobilenet_v1_075_coco"


def small(size, **options):
    return zoo.load(NAME, preprocess=Preprocess(crop=size, stretch=True), **options)


@pytest.mark.parametrize("size", [33, 64, 100])
def test_heads_have_a_row_for_each_default_box_at_any_size(size):
    model = small(size)
    with torch.no_grad():
        heads = model.network(torch.zeros(2, 3, size, size))
    boxes = len(model.decoder.default_boxes)
    assert {name: tuple(head.shape) for name, head in heads.items()} == {
        "cls_logits": (2, boxes, 91),
        "bbox_regression": (2, boxes, 4),
    }


def test_default_boxes_at_300_pixels():
    boxes = _ssd_mobilenet.default_boxes(_ssd_mobilenet.map_sizes(300))
    assert boxes.shape == (1917, 4)
    torch.testing.assert_close(boxes[1], torch.tensor([0.5 / 19, 0.5 / 19, 0.2 * 2**0.5, 0.2 / 2**0.5]))
    assert boxes[-6:, :2].eq(0.5).all()


def test_any_number_of_classes_and_their_names():
    model = small(64, classes=21)
    assert model.network(torch.zeros(1, 3, 64, 64))["cls_logits"].shape[2] == 21
    assert model.class_names[0] == "aeroplane"
    assert small(64, classes=7).class_names is None
    assert len(small(64).class_names) == 90
    with pytest.raises(ArgumentError, match="classes: given 1"):
        small(64, classes=1)
    with pytest.raises(ArgumentError, match="no detector"):
        zoo.load("digits", classes=5)


def test_what_a_detector_needs_travels_with_the_network():
    model = small(64)
    copy = pickle.loads(pickle.dumps(model.network))
    assert copy.preprocess == model.preprocess
    assert torch.equal(copy.decoder.default_boxes, model.decoder.default_boxes)
    assert Detector(copy).class_names == model.class_names


def test_its_own_saved_state_loads_unchanged(tmp_path):
    model = small(64)
    save_file(model.network.state_dict(), tmp_path / "w.safetensors")
    again = small(64, weights=tmp_path / "w.safetensors")
    assert torch.equal(again.network.loc[0].weight, model.network.loc[0].weight)


@pytest.mark.real
def test_equals_the_network_its_weights_were_converted_for(shared_data):
    weights = shared_data(f"weights/{NAME}.safetensors")
    spec = importlib.util.spec_from_file_location("networks", shared_data("networks.py"))
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    state = load_file(weights)
    anchors = state.pop("anchors")
    original = networks.SSDMobileNetV1().eval()
    original.load_state_dict(state)
    model = zoo.load(NAME, weights=weights)
    assert "dhemas" in model.source
    assert torch.equal(model.decoder.default_boxes, anchors[:, [1, 0, 3, 2]])
    x = torch.randn(1, 3, 300, 300, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        regression, logits = original(x)
        heads = model.network(x)
    torch.testing.assert_close(heads["cls_logits"], logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(heads["bbox_regression"], regression[..., [1, 0, 3, 2]], rtol=1e-4, atol=1e-4)


def test_each_head_counts_equally_in_the_difference():
    model = small(33)
    samples = torch.randn(3, 3, 33, 33, generator=torch.Generator().manual_seed(1))
    network = QuantizedNetwork(model.network, samples, progress=False)
    assert network.metric == "nmse"
    assert QuantizedNetwork(model.network, samples, difference="sqnr", progress=False).metric == "sqnr"
    policy = network.uniform(4)
    with torch.no_grad():
        exact, found = (module(samples) for module in (network.network, network.apply(policy)))
    parts = [(exact[n] - found[n]).square().sum() / exact[n].square().sum() for n in ("cls_logits", "bbox_regression")]
    assert network.evaluate(policy).difference == pytest.approx(sum(p.item() for p in parts) / 2, rel=1e-3)


def test_recipes_name_their_difference():
    assert Recipe(model=NAME).difference == "nmse"
    assert Recipe(model="digits").difference == "nmse"
    assert Recipe(model=NAME, difference="cosine").difference == "cosine"
    recipe = Recipe(model=NAME, weights="random", classes=21, preprocess=Preprocess(crop=33, stretch=True).to_json())
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.load_model()[0].classes == 21
