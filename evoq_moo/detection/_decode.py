"""From a detector's raw heads to boxes: decoding and non-maximum suppression, in float and outside the network."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from evoq_moo.errors import ArgumentError, NetworkError, check_count, check_name

HEADS = ("cls_logits", "bbox_regression")
"""Names of a detector's heads: class logits `(N, boxes, classes)` and box regressions `(N, boxes, 4)`."""
_LARGEST_LOG = math.log(1000 / 16)
"""Boxes grow at most to this many times (the logarithm) their default box, as in torchvision: exp must not overflow."""
T = TypeVar("T")


def attribute_of(network: nn.Module, name: str, kind: type[T]) -> T | None:
    """Return what a network says of itself: its own attribute, or that of the float network it was made from."""
    for holder in (network, getattr(network, "reference", None)):
        found = getattr(holder, name, None)
        if isinstance(found, kind):
            return found
    return None


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """What a detector found in one image, by falling score.

    Attributes:
        boxes: Float32 `(found, 4)`: x1, y1, x2, y2 in pixels of the image.
        scores: Float32 `(found,)`, 0..1.
        labels: Int64 `(found,)`: the detector's classes; 0 is background and never found.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxDecoder:
    """Turns the raw heads of SSD-like detectors into boxes.

    A regression `(x, y, w, h)` of a default box moves its center by `x / wx * width` and `y / wy * height` and scales
    its sides by `exp(w / ww)` and `exp(h / wh)` (Liu et al. 2016, equation 2, with the usual weights). Then, as in
    torchvision: boxes are clipped to the image, in each class the `candidates` best of more than `score_threshold`
    are kept, those that overlap a better one of their class by more than `nms_threshold` are dropped, and the
    `detections` best of all classes stay.

    Attributes:
        default_boxes: Float32 `(boxes, 4)`: center x, center y, width, height, 1 being the image's side.
        scores: How logits become scores: ``"softmax"`` over the classes, or ``"sigmoid"`` of each.
        weights: Of x, y, width and height.
        score_threshold: Lowest score, 0..1, exclusive.
        nms_threshold: Largest intersection over union of two boxes of a class, 0..1.
        candidates: Boxes of a class that suppression looks at.
        detections: Boxes of an image.
    """

    default_boxes: Tensor
    scores: Literal["softmax", "sigmoid"] = "softmax"
    weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    score_threshold: float = 0.01
    nms_threshold: float = 0.45
    candidates: int = 400
    detections: int = 200

    def __post_init__(self) -> None:
        shape = tuple(self.default_boxes.shape)
        if len(shape) != 2 or shape[1] != 4 or not shape[0]:
            raise ArgumentError(f"default_boxes: given shape {shape}; allowed: (boxes, 4), at least one box")
        check_name("scores", self.scores, ("softmax", "sigmoid"))
        for name in ("score_threshold", "nms_threshold"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ArgumentError(f"{name}: given {value!r}; allowed: 0..1")
        check_count("candidates", self.candidates)
        check_count("detections", self.detections)

    def __call__(self, heads: Any) -> list[Detections]:
        """Return what the heads of a batch say, boxes in 0..1 of the image's sides.

        Args:
            heads: A mapping with ``cls_logits`` and ``bbox_regression``.

        Raises:
            NetworkError: `heads` is another thing, or of other default boxes.
        """
        logits, regression = self.check(heads)
        scores = logits.float().softmax(-1) if self.scores == "softmax" else logits.float().sigmoid()
        boxes = self._decoded(regression.float())
        return [self._suppressed(b, s) for b, s in zip(boxes, scores, strict=True)]

    def check(self, heads: Any) -> tuple[Tensor, Tensor]:
        """Return the class logits and the box regressions among heads.

        Raises:
            NetworkError: `heads` is another thing, or of other default boxes.
        """
        found = tuple(heads.get(name) for name in HEADS) if isinstance(heads, Mapping) else ()
        shapes = [tuple(head.shape) for head in found if isinstance(head, Tensor)]
        count = len(self.default_boxes)
        if (
            [len(shape) for shape in shapes] != [3, 3]
            or any(shape[1] != count for shape in shapes)
            or shapes[1][2] != 4
            or shapes[0][2] < 2
        ):
            given = f"{type(heads).__name__}{f' with heads of shapes {shapes}' if shapes else ''}"
            raise NetworkError(
                f"heads: the network gave a {given}; the decoder of {count} default boxes needs "
                f"cls_logits (N, {count}, 2 or more classes) and bbox_regression (N, {count}, 4)"
            )
        return found  # type: ignore[return-value]

    def _decoded(self, regression: Tensor) -> Tensor:
        """Return boxes `(N, boxes, 4)`: x1, y1, x2, y2, clipped to the image."""
        codes = regression / torch.tensor(self.weights)
        centers, sides = self.default_boxes[:, :2].float(), self.default_boxes[:, 2:].float()
        middle = centers + codes[..., :2] * sides
        half = sides * codes[..., 2:].clamp(max=_LARGEST_LOG).exp() / 2
        return torch.cat([middle - half, middle + half], dim=-1).clamp(0, 1)

    def _suppressed(self, boxes: Tensor, scores: Tensor) -> Detections:
        from torchvision.ops import batched_nms

        # Column 0 is background.
        best, rows = scores[:, 1:].topk(min(self.candidates, len(scores)), dim=0)
        place, column = (best > self.score_threshold).nonzero(as_tuple=True)
        found, kept_scores = boxes[rows[place, column]], best[place, column]
        kept = batched_nms(found, kept_scores, column, self.nms_threshold)[: self.detections]
        return Detections(boxes=found[kept], scores=kept_scores[kept], labels=column[kept] + 1)
