"""SSD300 on VGG16 and on ResNet50, of torchvision's SSD class, with raw heads.

Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016. The ResNet50 form is that of NVIDIA's public training
recipe (DeepLearningExamples, PyTorch/Detection/SSD): the trunk ends behind the third stage (conv4), whose stride is
removed, and five pairs of convolutions follow. Checkpoints of that recipe load, see :func:`adapt_nvidia_weights`.
"""

from collections import OrderedDict

import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from evoq_moo.detection import BoxDecoder
from evoq_moo.errors import ArgumentError
from evoq_moo.images import IMAGENET_MEAN, IMAGENET_STD

ASPECT_RATIOS = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
BOXES = [2 + 2 * len(ratios) for ratios in ASPECT_RATIOS]
"""Default boxes of a position, for each feature map."""
SCALES = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
STEPS = [8, 16, 32, 64, 100, 300]
CHANNELS = [1024, 512, 512, 256, 256, 256]
"""Of the feature maps on ResNet50."""
_INNER = [256, 256, 128, 128, 128]
_TRUNK = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")


class SSDHeads(nn.Module):
    """The part of torchvision's SSD that a search quantizes: backbone and heads on prepared tensors.

    Names of parameters are torchvision's, so its checkpoints load.

    Args:
        ssd: The detector; its modules are shared.

    `forward` maps float32 `(N, 3, H, W)` to ``cls_logits`` `(N, boxes, classes)` and ``bbox_regression``
    `(N, boxes, 4)`; 8732 boxes at 300 pixels.
    """

    def __init__(self, ssd: SSD) -> None:
        super().__init__()
        self.backbone = ssd.backbone
        self.head = ssd.head

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the raw heads."""
        heads = self.head(list(self.backbone(x).values()))
        return {"cls_logits": heads["cls_logits"], "bbox_regression": heads["bbox_regression"]}


class ResNet50Maps(nn.Module):
    """Six feature maps: ResNet50 up to conv4, at a stride of 8, and five pairs of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        trunk = resnet50(weights=None)
        first = trunk.layer3[0]
        first.conv2.stride = first.downsample[0].stride = (1, 1)
        self.features = nn.Sequential(OrderedDict((name, getattr(trunk, name)) for name in _TRUNK))
        pairs = zip(CHANNELS, _INNER, CHANNELS[1:], strict=False)
        self.extra = nn.ModuleList(_pair(*channels, halved=i < 3) for i, channels in enumerate(pairs))
        self.out_channels = CHANNELS

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map float32 `(N, 3, H, W)` to the feature maps, of 38, 19, 10, 5, 3 and 1 positions a side at 300 pixels."""
        x = self.features(x)
        maps = [x]
        for pair in self.extra:
            x = pair(x)
            maps.append(x)
        return OrderedDict((str(i), m) for i, m in enumerate(maps))


def _pair(inputs: int, inner: int, outputs: int, *, halved: bool) -> nn.Sequential:
    second = nn.Conv2d(inner, outputs, 3, stride=2 if halved else 1, padding=1 if halved else 0, bias=False)
    return nn.Sequential(
        nn.Conv2d(inputs, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        second,
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def vgg16_ssd(classes: int = 91) -> SSD:
    """Return torchvision's SSD300-VGG16 with random weights."""
    return ssd300_vgg16(weights=None, weights_backbone=None, num_classes=classes)


def resnet50_ssd(classes: int = 81) -> SSD:
    """Return an SSD300-ResNet50 with random weights; scores above 0.05 count, as in the recipe."""
    return SSD(
        ResNet50Maps(),
        DefaultBoxGenerator(ASPECT_RATIOS, scales=SCALES, steps=STEPS),
        (300, 300),
        classes,
        image_mean=list(IMAGENET_MEAN),
        image_std=list(IMAGENET_STD),
        score_thresh=0.05,
    )


def decoder_of(ssd: SSD, size: int, *, clip_centers: bool = False) -> BoxDecoder:
    """Return the decoder of a detector's heads with its own settings.

    Args:
        ssd: The detector, on the device ``meta``.
        size: Side of its images (pixels).
        clip_centers: Hold the centers of default boxes within the image, as NVIDIA's recipe does (at 300 pixels it
            moves those of one row and one column); torchvision clips widths and heights alone.

    Raises:
        ArgumentError: The images are so small that the last feature map vanishes.
    """
    image = torch.empty(1, 3, size, size, device="meta")
    try:
        maps = list(ssd.backbone.eval()(image).values())
    except RuntimeError as error:
        raise ArgumentError(
            f"preprocess: crop: given {size}; the feature maps of SSD300 need about 270: {error}"
        ) from None
    places = [torch.empty(1, 1, *m.shape[-2:]) for m in maps]
    corners = ssd.anchor_generator(ImageList(image, [(size, size)]), places)[0] / size
    boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
    return BoxDecoder(
        default_boxes=boxes.clamp(0, 1) if clip_centers else boxes,
        weights=ssd.box_coder.weights,
        score_threshold=ssd.score_thresh,
        nms_threshold=ssd.nms_thresh,
        candidates=ssd.topk_candidates,
        detections=ssd.detections_per_img,
    )


def adapt_nvidia_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state of NVIDIA's SSD300-ResNet50 as one of ours; such a one as it is.

    Beside the names, the order of a head's channels differs: theirs has all boxes of the first coordinate (or class),
    then of the next, ours all coordinates of the first box, then of the next.
    """
    if not any(name.startswith("feature_extractor.") for name in state):
        return state
    adapted = {}
    heads = {"loc": "regression_head", "conf": "classification_head"}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part == "feature_extractor":
            place, _, inner = rest.removeprefix("feature_extractor.").partition(".")
            known = place.isdecimal() and int(place) < len(_TRUNK)
            adapted[f"backbone.features.{_TRUNK[int(place)]}.{inner}" if known else name] = value
        elif part == "additional_blocks":
            adapted[f"backbone.extra.{rest}"] = value
        elif part in heads:
            place = rest.partition(".")[0]
            known = place.isdecimal() and int(place) < len(BOXES) and len(value) % BOXES[int(place)] == 0
            adapted[f"head.{heads[part]}.module_list.{rest}"] = _box_first(value, BOXES[int(place)]) if known else value
        else:
            adapted[name] = value
    return adapted


def _box_first(value: torch.Tensor, boxes: int) -> torch.Tensor:
    return value.reshape(-1, boxes, *value.shape[1:]).transpose(0, 1).flatten(0, 1).contiguous()


def classes_of(state: dict[str, torch.Tensor]) -> int | None:
    """Return the number of classes of a state, background among them; None where it can't be told."""
    bias = state.get("head.classification_head.module_list.0.bias")
    return None if bias is None else len(bias) // BOXES[0]
