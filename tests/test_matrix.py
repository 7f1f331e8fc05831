"""Every network of the zoo through every stage: engine, scan, search, calibration, accuracy. Random weights.

The networks are whole; what is small is their input, the number of samples, and the number of layers with genes: a few,
spread from first to last, and the others hold 8 bits. SSD300's last feature maps vanish below 268 pixels.
"""

import numpy as np
import pytest
import torch
from PIL import Image

import evoq_moo as evoq
from evoq_moo.engines import integer_supported
from evoq_moo.errors import MissingPackageError
from evoq_moo.graph import own_copy, prepare
from evoq_moo.images import Preprocess

SIZES = {
    "digits": 8,
    "cifar10_resnet20": 32,
    "resnet101": 32,
    "efficientnet_lite0": 64,
    "ssd_mobilenet_v1_075_coco": 64,
    "ssd300_resnet50": 268,
    "ssd300_vgg16": 268,
}
FREE = 2
"""Layers with genes."""


def build(name):
    entry = evoq.zoo.entry(name)
    detects = entry.task == "detection"
    base = entry.preprocess
    size = SIZES.get(name, 64)
    preprocess = Preprocess(
        crop=size, stretch=detects, mean=base.mean, std=base.std, channels=base.channels, rotate180=base.rotate180
    )
    try:
        # 5 classes: the heads of a detector for 91 are most of its work on small images.
        return evoq.zoo.load(name, preprocess=preprocess, **({"classes": 5} if detects else {}))
    except MissingPackageError as error:
        pytest.skip(str(error))


def spread(names):
    return [names[i] for i in np.linspace(0, len(names) - 1, FREE).round().astype(int)]


@pytest.mark.parametrize("name", evoq.zoo.names())
def test_every_network_through_every_stage(name, tmp_path, monkeypatch):
    # Ranges of the bit-widths used here alone: five more for 45 million weights are most of ResNet101's set-up.
    monkeypatch.setattr("evoq_moo.network._setup.QUANTIZED_BITS", (4, 8))
    model = build(name)
    detects = model.decoder is not None
    rng = np.random.default_rng(0)
    side, channels = model.preprocess.crop, model.preprocess.channels
    pixels = rng.integers(0, 256, (2, side, side, channels), dtype=np.uint8)
    samples = evoq.load_samples(pixels, count=2, preprocess=model.preprocess)
    options = {"weight_bits": [4, 8], "activation_bits": [8], "threads": 1, "progress": False}
    names = [layer.name for layer in prepare(own_copy(model.network)[0], samples).layers]
    free = set(spread(names))
    network = evoq.QuantizedNetwork(model.network, samples, pinned=[n for n in names if n not in free], **options)
    assert len(network.space.layers) == len(names)
    assert network.metric == "nmse"

    assert network.graph.any_size
    assert not network.prepared.reason

    # The engine: where integers are supported.
    if integer_supported()[0]:
        assert network.engine_name == "integer"
    else:
        assert network.engine_name == "reference"

    # Two generations.
    run = evoq.search(network, evaluations=8, pop_size=4, store=tmp_path / "s.sqlite", progress=False)
    values = run.front.values("difference")
    assert np.isfinite(values).all()
    with evoq.EvaluationStore(tmp_path / "s.sqlite") as store:
        assert store.count() > 2 * FREE
    policy = run.front.best("bops")
    quantized = network.apply(policy)
    tuned = evoq.calibrate(network, policy, "light", progress=False)
    for module in (quantized, tuned):
        if detects:
            found = evoq.Detector(module).detect([Image.fromarray(pixels[0])], threads=1, progress=False)
            assert torch.isfinite(found[0].boxes).all()
            with pytest.raises(evoq.EvoqError, match="is a detector"):
                evoq.evaluate_accuracy(module, pixels, labels=[0, 1])
        else:
            accuracy = evoq.evaluate_accuracy(module, pixels, labels=[0, 1], threads=1, progress=False)
            assert accuracy.agreement is not None
            assert 0 <= accuracy.top1 <= 1
