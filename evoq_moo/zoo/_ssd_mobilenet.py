"""SSD on MobileNetV1 of width 0.75, as TensorFlow's object-detection API defines it, with raw heads.

Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016; Howard et al., "MobileNets", 2017. Checkpoints come from
TensorFlow, whose 'SAME' padding puts the odd row and column after the image: kernels are stored rotated by 180
degrees and `forward` rotates the image, so that every layer is a plain `nn.Conv2d`.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

CHANNELS = (24, 48, 96, 96, 192, 192, 384, 384, 384, 384, 384, 384, 768, 768)
"""Outputs of the first convolution and of the 13 separable ones: MobileNetV1's, times 0.75."""
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
EXTRAS = ((192, 384), (96, 192), (96, 192), (48, 96))
SOURCES = (11, 13)
"""Blocks of the backbone that heads read, beside all extra layers."""
BOXES = (3, 6, 6, 6, 6, 6)
"""Default boxes of a position, for each feature map."""


class SSDMobileNetV1(nn.Module):
    """Float32 `(N, 3, H, W)` to raw heads; BatchNorm is folded already.

    Args:
        classes: Class logits of a box, background (class 0) among them.

    `forward` gives ``cls_logits`` `(N, boxes, classes)` and ``bbox_regression`` `(N, boxes, 4)`: x, y, width and height
    in the coding of :class:`evoq_moo.detection.BoxDecoder`. At 300 pixels there are 1917 boxes.
    """

    def __init__(self, classes: int = 91) -> None:
        super().__init__()
        blocks = [nn.Sequential(nn.Conv2d(3, CHANNELS[0], 3, 2, 1), nn.ReLU6())]
        for inputs, outputs, stride in zip(CHANNELS, CHANNELS[1:], STRIDES, strict=False):
            blocks.append(
                nn.Sequential(
                    nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs),
                    nn.ReLU6(),
                    nn.Conv2d(inputs, outputs, 1),
                    nn.ReLU6(),
                )
            )
        self.backbone = nn.ModuleList(blocks)
        extras, inputs = [], CHANNELS[-1]
        for inner, outputs in EXTRAS:
            extras.append(
                nn.Sequential(nn.Conv2d(inputs, inner, 1), nn.ReLU6(), nn.Conv2d(inner, outputs, 3, 2, 1), nn.ReLU6())
            )
            inputs = outputs
        self.extras = nn.ModuleList(extras)
        sources = [CHANNELS[i] for i in SOURCES] + [outputs for _, outputs in EXTRAS]
        self.loc = nn.ModuleList(nn.Conv2d(c, 4 * n, 1) for c, n in zip(sources, BOXES, strict=True))
        self.cls = nn.ModuleList(nn.Conv2d(c, classes * n, 1) for c, n in zip(sources, BOXES, strict=True))
        self.classes = classes

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the raw heads of images that are not rotated."""
        x = x.flip(2, 3)
        maps = []
        for i, block in enumerate(self.backbone):
            x = block(x)
            if i in SOURCES:
                maps.append(x)
        for extra in self.extras:
            x = extra(x)
            maps.append(x)
        logits = [_boxes_of(head(m), self.classes) for head, m in zip(self.cls, maps, strict=True)]
        regression = [_boxes_of(head(m), 4) for head, m in zip(self.loc, maps, strict=True)]
        return {"cls_logits": torch.cat(logits, 1), "bbox_regression": torch.cat(regression, 1)}


def _boxes_of(head: torch.Tensor, width: int) -> torch.Tensor:
    """Return a head's map `(N, boxes of a position * width, H, W)`, rotated back, as `(N, boxes, width)`."""
    return head.flip(2, 3).permute(0, 2, 3, 1).reshape(head.shape[0], -1, width)


def adapt_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a converted TensorFlow checkpoint as a state of :class:`SSDMobileNetV1`; such a one as it is.

    The checkpoint holds its default boxes (we make the same ones) and orders regressions y, x, height, width.
    """
    if "anchors" not in state:
        return state
    adapted = {name: value for name, value in state.items() if name != "anchors"}
    for name, value in adapted.items():
        if name.startswith("loc."):
            adapted[name] = value.reshape(-1, 4, *value.shape[1:])[:, [1, 0, 3, 2]].flatten(0, 1)
    return adapted


def classes_of(state: dict[str, torch.Tensor]) -> int | None:
    """Return the number of classes of a state, background among them; None where it can't be told."""
    bias = state.get("cls.0.bias")
    return None if bias is None else len(bias) // BOXES[0]


def map_sizes(size: int) -> list[int]:
    """Return the side of each feature map for square images of `size` pixels: every stride rounds up."""
    sides = [math.ceil(size / 16), math.ceil(size / 32)]
    for _ in EXTRAS:
        sides.append(math.ceil(sides[-1] / 2))
    return sides


def default_boxes(sides: Sequence[int]) -> torch.Tensor:
    """Return the default boxes of the object-detection API's `ssd_anchor_generator`.

    Six scales from 0.2 to 0.95 of the image; aspect ratios 1, 2, 1/2, 3, 1/3 and a square between two scales, but
    only three boxes, the square of scale 0.1, in the first map.

    Args:
        sides: Of the feature maps.

    Returns:
        Float32 `(boxes, 4)`: center x, center y, width, height, 1 being the image's side.
    """
    scales = [0.2 + 0.15 * i for i in range(len(BOXES))] + [1.0]
    boxes = []
    for i, side in enumerate(sides):
        ratios = [(scales[i], r) for r in (1, 2, 1 / 2, 3, 1 / 3)] + [(math.sqrt(scales[i] * scales[i + 1]), 1)]
        if i == 0:
            ratios = [(0.1, 1), (scales[0], 2), (scales[0], 1 / 2)]
        shapes = torch.tensor([(s * math.sqrt(r), s / math.sqrt(r)) for s, r in ratios], dtype=torch.float64)
        places = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        y, x = torch.meshgrid(places, places, indexing="ij")
        centers = torch.stack([x, y], dim=-1).reshape(-1, 1, 2).expand(-1, len(shapes), 2)
        boxes.append(torch.cat([centers, shapes.expand(len(centers), -1, 2)], dim=-1).flatten(0, 1))
    return torch.cat(boxes).float()
