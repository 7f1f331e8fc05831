"""Mean average precision by pycocotools: COCO's, VOC 2007's over 11 recalls, and VOC's over all recalls."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evoq_moo.detection._decode import Detections
from evoq_moo.detection._read import require_pycocotools
from evoq_moo.detection._truth import Truth
from evoq_moo.errors import ImageError

MANY = 10_000
"""Detections of an image that count in VOC's measures, which have no limit."""
_BEYOND_ALL_AREAS = 1e11


@dataclass(frozen=True, kw_only=True)
class DetectionAccuracy:
    """What was measured, as fractions in 0..1; means over the classes that have objects.

    Attributes:
        count: Number of images.
        objects: Number of objects that count (difficult ones and crowds don't).
        map: COCO's main figure: over intersections over union of 0.5, 0.55, ..., 0.95, at 101 recalls, 100 detections
            of a class in an image.
        map50: The same at an intersection over union of 0.5.
        map75: And at 0.75.
        voc07: VOC 2007's: at an intersection over union of 0.5, the mean precision at recalls 0, 0.1, ..., 1.
        voc: VOC's since 2010: the area under the curve of precision over recall.
        classes: `map50` of each class that has objects, by name.
    """

    count: int
    objects: int
    map: float
    map50: float
    map75: float
    voc07: float
    voc: float
    classes: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON-ready plain data."""
        return asdict(self) | {"classes": dict(self.classes)}

    def __str__(self) -> str:
        figures = (("mAP", self.map), ("mAP50", self.map50), ("mAP75", self.map75), ("VOC07", self.voc07))
        parts = [f"{name} {100 * value:.2f} %" for name, value in (*figures, ("VOC", self.voc))]
        return f"{', '.join(parts)} ({self.count} images, {self.objects} objects)"


def mean_average_precision(
    found: Sequence[Detections], truths: Sequence[Truth], class_names: Sequence[str]
) -> DetectionAccuracy:
    """Return what detections are worth.

    All measures match as COCO does: a detection takes the object not yet taken that it overlaps most. VOC's own program
    takes the object it overlaps most, taken or not, asks for more than half instead of at least half, and counts
    corners as whole pixels: hardly ever another result. Difficult objects are ignored in every measure.

    Args:
        found: For each image; labels are indices of `class_names`.
        truths: For each image.
        class_names: Of the classes.

    Raises:
        MissingPackageError: pycocotools isn't installed.
        ImageError: No object counts.
    """
    require_pycocotools()
    objects = np.zeros(len(class_names), dtype=np.int64)
    for truth in truths:
        counted = ~(truth.difficult | truth.crowd)
        objects += np.bincount(truth.labels[counted].numpy(), minlength=len(class_names))
    present = [int(c) for c in np.flatnonzero(objects)]
    if not present:
        raise ImageError(f"truths: given {len(truths)} images without an object that counts; needs at least 1")
    with contextlib.redirect_stdout(io.StringIO()):
        results = _loaded(found, truths, len(class_names))
        coco = _precision(results, np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101), 100)[:, :, present]
        # The area under the curve of precision, made monotonous, is its mean over the recalls at which it can change.
        steps = [np.arange(1, n + 1) / n for n in objects[present]]
        eleven = np.arange(11) / 10  # as recalls are divided: linspace gives 0.30000000000000004
        recalls = np.unique(np.concatenate([eleven, *steps]))
        curves = _precision(results, np.array([0.5]), recalls, MANY)[0][:, present]
    voc = [curves[np.searchsorted(recalls, step), i].mean() for i, step in enumerate(steps)]
    return DetectionAccuracy(
        count=len(truths),
        objects=int(objects.sum()),
        map=_mean(coco),
        map50=_mean(coco[0]),
        map75=_mean(coco[5]),
        voc07=_mean(curves[np.searchsorted(recalls, eleven)]),
        voc=_mean(voc),
        classes={class_names[c]: float(coco[0, :, i].mean()) for i, c in enumerate(present)},
    )


def _mean(values: npt.ArrayLike) -> float:
    return float(np.asarray(values).mean())


def _loaded(found: Sequence[Detections], truths: Sequence[Truth], classes: int) -> tuple[Any, Any]:
    """Return ground truth and detections as pycocotools holds them."""
    from pycocotools.coco import COCO

    categories = [{"id": i, "name": str(i)} for i in range(classes)]
    images = [{"id": i} for i in range(len(truths))]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (one, truth) in enumerate(zip(found, truths, strict=True)):
        rows = zip(
            truth.boxes.double().tolist(),
            truth.labels.tolist(),
            truth.difficult.tolist(),
            truth.crowd.tolist(),
            strict=True,
        )
        for (x1, y1, x2, y2), label, difficult, crowd in rows:
            box = [x1, y1, x2 - x1, y2 - y1]
            # Objects outside every range of areas are ignored by the ordinary rules of overlap, not those of crowds.
            area = _BEYOND_ALL_AREAS if difficult else box[2] * box[3]
            # Ids from 1: pycocotools takes 0 for "no match".
            annotation = {"id": len(annotations) + 1, "image_id": image, "category_id": label, "bbox": box}
            annotations.append({**annotation, "area": area, "iscrowd": int(crowd)})
        for (x1, y1, x2, y2), label, score in zip(
            one.boxes.double().tolist(), one.labels.tolist(), one.scores.tolist(), strict=True
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            result = {"id": len(results) + 1, "image_id": image, "category_id": label, "bbox": box, "score": score}
            results.append({**result, "area": box[2] * box[3], "iscrowd": 0})
    loaded = []
    for rows_of in (annotations, results):
        coco = COCO()
        coco.dataset = {"images": images, "categories": categories, "annotations": rows_of}
        coco.createIndex()
        loaded.append(coco)
    return loaded[0], loaded[1]


def _precision(
    results: tuple[Any, Any], overlaps: npt.NDArray[np.float64], recalls: npt.NDArray[np.float64], limit: int
) -> npt.NDArray[np.float64]:
    """Return precisions `(overlaps, recalls, classes)`; -1 where a class has no object."""
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(*results, "bbox")
    evaluation.params.iouThrs = overlaps
    evaluation.params.recThrs = recalls
    evaluation.params.maxDets = [limit]
    evaluation.params.areaRng = [[0, 1e10]]
    evaluation.params.areaRngLbl = ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    precision: npt.NDArray[np.float64] = evaluation.eval["precision"][:, :, :, 0, 0]
    return precision
