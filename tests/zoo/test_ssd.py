import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection import ssd300_vgg16

from evoq_moo import zoo
from evoq_moo.detection import Detector
from evoq_moo.errors import ArgumentError, WeightsError
from evoq_moo.images import Preprocess


def picture(seed=0):
    noise = torch.rand(3, 15, 20, generator=torch.Generator().manual_seed(seed))
    pixels = nn.functional.interpolate(noise[None], size=(375, 500), mode="bicubic").clamp(0, 1)[0]
    return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())


def test_ssd300_vgg16_finds_what_torchvisions_own_detector_finds(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        original = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=4, score_thresh=0.01).eval()
    torch.save(original.state_dict(), tmp_path / "w.pth")
    model = zoo.load("ssd300_vgg16", weights=tmp_path / "w.pth", classes=4)
    image = picture()
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
    with torch.no_grad():
        expected = original([pixels])[0]
    found = Detector(model.network).detect([image], progress=False)[0]
    assert len(found) > 100
    torch.testing.assert_close(found.scores, expected["scores"], atol=1e-4, rtol=1e-4)
    same = (found.labels == expected["labels"]) & ((found.boxes - expected["boxes"]).abs().amax(1) < 0.1)
    assert same.float().mean() > 0.97  # equal but for ties in the order of scores


class NvidiaSSD(nn.Module):
    """The recipe's network, with its names and its order of channels."""

    def __init__(self, labels):
        super().__init__()
        trunk = nn.Sequential(*list(resnet50(weights=None).children())[:7])
        for layer in (trunk[-1][0].conv1, trunk[-1][0].conv2, trunk[-1][0].downsample[0]):
            layer.stride = (1, 1)
        self.feature_extractor = nn.Sequential()
        self.feature_extractor.add_module("feature_extractor", trunk)
        channels, boxes = [1024, 512, 512, 256, 256, 256], [4, 6, 6, 6, 4, 4]
        self.additional_blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels[i], inner, 1, bias=False),
                nn.BatchNorm2d(inner),
                nn.ReLU(),
                nn.Conv2d(inner, channels[i + 1], 3, bias=False, **({"padding": 1, "stride": 2} if i < 3 else {})),
                nn.BatchNorm2d(channels[i + 1]),
                nn.ReLU(),
            )
            for i, inner in enumerate([256, 256, 128, 128, 128])
        )
        self.loc = nn.ModuleList(nn.Conv2d(c, 4 * n, 3, padding=1) for c, n in zip(channels, boxes, strict=True))
        self.conf = nn.ModuleList(nn.Conv2d(c, labels * n, 3, padding=1) for c, n in zip(channels, boxes, strict=True))
        self.labels, self.boxes = labels, boxes

    def forward(self, x):
        maps = [self.feature_extractor(x)]
        for block in self.additional_blocks:
            maps.append(block(maps[-1]))
        heads = {"cls_logits": [], "bbox_regression": []}
        for m, loc, conf, n in zip(maps, self.loc, self.conf, self.boxes, strict=True):
            for name, head, width in (("cls_logits", conf, self.labels), ("bbox_regression", loc, 4)):
                # Theirs runs over coordinates, boxes, positions; to be compared over positions, boxes, coordinates.
                flat = head(m).reshape(len(x), width, n, -1)
                heads[name].append(flat.permute(0, 3, 2, 1).reshape(len(x), -1, width))
        return {name: torch.cat(parts, 1) for name, parts in heads.items()}


def test_ssd300_resnet50_loads_checkpoints_of_the_public_recipe(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        original = NvidiaSSD(5).eval()
    for name, tensor in original.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=torch.Generator().manual_seed(5))
    checkpoint = {"epoch": 65, "model": original.state_dict(), "label_map": {1: "person"}}
    torch.save(checkpoint, tmp_path / "epoch_64.pt")
    model = zoo.load("ssd300_resnet50", weights=tmp_path / "epoch_64.pt", classes=5)
    x = torch.randn(1, 3, 300, 300, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        expected, found = original(x), model.network(x)
    assert found["cls_logits"].shape == (1, 8732, 5)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4)
    torch.save(model.network.state_dict(), tmp_path / "own.pt")
    again = zoo.load("ssd300_resnet50", weights=tmp_path / "own.pt", classes=5)
    assert torch.equal(again.network.head.regression_head.module_list[1].weight, original_weight(model))


def original_weight(model):
    return model.network.head.regression_head.module_list[1].weight


def test_ssd300_resnet50_has_the_default_boxes_of_the_recipe():
    scales, ratios = [21, 45, 99, 153, 207, 261, 315], [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    boxes = []
    for i, (side, step) in enumerate(zip([38, 19, 10, 5, 3, 1], [8, 16, 32, 64, 100, 300], strict=True)):
        small, between = scales[i] / 300, math.sqrt(scales[i] * scales[i + 1]) / 300
        shapes = [(small, small), (between, between)]
        for r in ratios[i]:
            shapes += [(small * math.sqrt(r), small / math.sqrt(r)), (small / math.sqrt(r), small * math.sqrt(r))]
        for y in range(side):
            for x in range(side):
                boxes += [((x + 0.5) * step / 300, (y + 0.5) * step / 300, w, h) for w, h in shapes]
    found = zoo.entry("ssd300_resnet50").make_decoder(300)
    torch.testing.assert_close(found.default_boxes, torch.tensor(boxes).clamp(0, 1), atol=1e-6, rtol=0)
    assert found.score_threshold == 0.05
    assert zoo.entry("ssd300_vgg16").make_decoder(300).default_boxes.shape == (8732, 4)


def test_images_too_small_for_the_last_map_are_refused():
    with pytest.raises(ArgumentError, match="crop: given 200; the feature maps"):
        zoo.load("ssd300_resnet50", preprocess=Preprocess(crop=200, stretch=True))


@pytest.mark.parametrize("name", ["ssd300_resnet50", "ssd_mobilenet_v1_075_coco"])
def test_weights_of_another_number_of_classes_say_which(tmp_path, name):
    model = zoo.load(name, classes=21)
    torch.save(model.network.state_dict(), tmp_path / "voc.pth")
    with pytest.raises(WeightsError, match=r"has 21 classes, background counted, not (81|91): give classes=21"):
        zoo.load(name, weights=tmp_path / "voc.pth")
    assert zoo.load(name, weights=tmp_path / "voc.pth", classes=21).class_names[-1] == "tvmonitor"
