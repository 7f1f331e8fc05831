"""The main claims on real weights and real images; skipped where those are absent."""

import numpy as np
import pytest
import torch

import evoq_moo as evoq

IMAGENET = ("imagenet_calibration_500", "imagenet_val_650")
CIFAR = ("cifar10_calibration.npz", "cifar10_test_5000.npz")


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "sets"), [("cifar10_resnet20", CIFAR), ("squeezenet1_1", IMAGENET), ("mobilenet_v2", IMAGENET)]
)
def test_w8a8_is_within_0_3_points_of_float(shared_data, name, sets):
    model = evoq.zoo.load(name, weights=shared_data(f"weights/{name}.safetensors"))
    samples = evoq.load_samples(shared_data(sets[0]), count=50, preprocess=model.preprocess)
    network = evoq.QuantizedNetwork(model.network, samples, progress=False)
    preprocess = model.preprocess.replace(resize=None)
    found = evoq.LabelledImages(shared_data(sets[1]), preprocess=preprocess, limit=3000)
    images, labels = zip(*found, strict=True)
    pair = (torch.cat(images), torch.cat(labels))
    exact = evoq.evaluate_accuracy(network.network, pair, progress=False)
    quantized = evoq.evaluate_accuracy(network.apply(network.uniform(8)), pair, progress=False)
    print(f"{name}: float {exact}, W8A8 {quantized}")
    assert quantized.top1 >= exact.top1 - 0.003


@pytest.mark.real
def test_a_search_is_not_behind_uniform_bits_on_cifar10_resnet20(shared_data):
    model = evoq.zoo.load("cifar10_resnet20", weights=shared_data("weights/cifar10_resnet20.safetensors"))
    samples = evoq.load_samples(shared_data("cifar10_calibration.npz"), count=16, preprocess=model.preprocess)
    network = evoq.QuantizedNetwork(
        model.network, samples, weight_bits=[2, 4, 8], activation_bits=[4, 8], progress=False
    )
    run = evoq.search(network, evaluations=200, pop_size=20, seed=0, progress=False)
    uniform = network.evaluate(network.uniform(4))
    found = network.evaluate(run.front.under(bops=uniform.gbops).best("difference"))
    assert found.difference <= uniform.difference
    assert np.isfinite(run.trace[-1].hypervolume)
