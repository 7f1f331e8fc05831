"""Ground truth of a set of images: what every reader gives, checked box by box."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evoq_moo.errors import ArgumentError, ImageError, MissingFileError

logger = logging.getLogger("evoq_moo")

INSIDE = 1.0
"""Boxes that reach beyond the picture by at most so many pixels are rounding, and clipped without a word."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """One annotated object.

    Attributes:
        label: Its class, an index of the set's `class_names`.
        corners: x1, y1, x2, y2 in pixels.
        difficult: Neither finding nor missing it counts (VOC).
        crowd: A region of many; detections within it don't count (COCO).
    """

    label: int
    corners: tuple[float, float, float, float]
    difficult: bool = False
    crowd: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What is in one image.

    Attributes:
        boxes: Float32 `(objects, 4)`: x1, y1, x2, y2 in pixels.
        labels: Int64 `(objects,)`: indices of the set's `class_names`.
        difficult: Bool `(objects,)`.
        crowd: Bool `(objects,)`.
    """

    boxes: Tensor
    labels: Tensor
    difficult: Tensor
    crowd: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionSet:
    """Images and what is in them.

    Attributes:
        files: Paths of the images.
        truths: What is in each.
        class_names: Names of the classes 0, 1, ...; no background.
        origin: Where it comes from, for messages.
        named: Whether the names come with the data; False for numbers in place of names.
    """

    files: tuple[Path, ...]
    truths: tuple[Truth, ...]
    class_names: tuple[str, ...]
    origin: str
    named: bool = True

    def __len__(self) -> int:
        return len(self.files)

    def first(self, count: int | None) -> "DetectionSet":
        """Return the first so many images; all of them for None."""
        return DetectionSet(
            files=self.files[:count],
            truths=self.truths[:count],
            class_names=self.class_names,
            origin=self.origin,
            named=self.named,
        )


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """One image as a reader found it.

    Attributes:
        file: Its path.
        size: Width and height (pixels); None where the annotations don't say.
        boxes: Its objects.
        where: The file, or file and entry, that says so, for messages.
    """

    file: Path
    size: tuple[int, int] | None
    boxes: Sequence[Box]
    where: str


def make_set(
    images: Sequence[Annotated], class_names: Sequence[str], origin: str, *, named: bool = True
) -> DetectionSet:
    """Check what a reader found and make a set of it.

    Boxes that reach beyond the picture are clipped to it; one line in the log counts those more than a pixel beyond.

    Args:
        images: In the order of the set.
        class_names: Of the classes.
        origin: Where it comes from, for messages.
        named: Whether the names come with the data.

    Raises:
        ImageError: No images, no objects at all, a box without area or outside the picture, or an unknown class.
        MissingFileError: An image isn't there.
    """
    if not images:
        raise ImageError(f"{origin}: given no annotated images; needs at least 1")
    if not any(one.boxes for one in images):
        raise ImageError(f"{origin}: given no objects in {len(images)} images; needs at least 1 to measure precision")
    missing = next((one for one in images if not one.file.is_file()), None)
    if missing is not None:
        raise MissingFileError(f"{missing.where}: no such image: {missing.file}")
    clipped = 0
    truths = []
    for one in images:
        corners = np.array([box.corners for box in one.boxes], dtype=np.float64).reshape(-1, 4)
        beyond = _check_boxes(corners, one, len(class_names))
        clipped += int((beyond > INSIDE).sum())
        if one.size is not None:
            corners = corners.clip(0, [*one.size, *one.size])
        truths.append(
            Truth(
                boxes=torch.from_numpy(corners).float(),
                labels=torch.tensor([box.label for box in one.boxes], dtype=torch.int64),
                difficult=torch.tensor([box.difficult for box in one.boxes], dtype=torch.bool),
                crowd=torch.tensor([box.crowd for box in one.boxes], dtype=torch.bool),
            )
        )
    if clipped:
        logger.warning("%s: %d boxes reach beyond their picture by more than a pixel: clipped to it", origin, clipped)
    return DetectionSet(
        files=tuple(one.file for one in images),
        truths=tuple(truths),
        class_names=tuple(class_names),
        origin=origin,
        named=named,
    )


def _check_boxes(corners: npt.NDArray[np.float64], one: Annotated, classes: int) -> npt.NDArray[np.float64]:
    """Return by how many pixels each box reaches beyond the picture."""
    width, height = one.size or (np.inf, np.inf)
    for i, (box, (x1, y1, x2, y2)) in enumerate(zip(one.boxes, corners.tolist(), strict=True)):
        given = f"{one.where}: box {i}: given x {x1:g}..{x2:g}, y {y1:g}..{y2:g}"
        if not np.isfinite(corners[i]).all() or x2 <= x1 or y2 <= y1:
            raise ImageError(f"{given}; allowed: finite corners with x1 < x2 and y1 < y2")
        if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
            raise ImageError(f"{given}; allowed: within the picture of {width:g}x{height:g} pixels")
        if not 0 <= box.label < classes:
            raise ImageError(f"{one.where}: box {i}: given class {box.label}; allowed: 0..{classes - 1}")
    over = np.stack([-corners[:, 0], -corners[:, 1], corners[:, 2] - width, corners[:, 3] - height])
    beyond: npt.NDArray[np.float64] = over.max(axis=0, initial=0)
    return beyond


def match_classes(found: DetectionSet, class_names: tuple[str, ...] | None, classes: int) -> dict[int, int]:
    """Return, for each of a detector's classes, the set's class of the same name.

    Args:
        found: The set.
        class_names: Of the detector's classes 1, 2, ...; None for unknown names.
        classes: The detector's, background counted.

    Returns:
        A set's class for each of the detector's (from 1) that the set has.

    Raises:
        ArgumentError: The set has a class that the detector can't find, or names are unknown and the counts differ.
    """
    if class_names is not None and len(class_names) != classes - 1:
        raise ArgumentError(
            f"class_names: given {len(class_names)} names; the network has {classes - 1} classes beside background"
        )
    if class_names is None or not found.named:
        if len(found.class_names) != classes - 1:
            raise ArgumentError(
                f"images: {found.origin} has {len(found.class_names)} classes, the detector {classes - 1} beside "
                "background, and without names they can't be matched; allowed: equal counts, or names on both sides"
            )
        return {label + 1: label for label in range(classes - 1)}
    by_name: Mapping[str, int] = {name: label for label, name in enumerate(class_names, start=1)}
    used = {found.class_names[label] for truth in found.truths for label in truth.labels.tolist()}
    unknown = sorted(used - set(by_name))
    if unknown:
        raise ArgumentError(
            f"images: {found.origin} has the classes {', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}, "
            f"which the detector does not know; it knows {len(by_name)}: {', '.join(list(by_name)[:5])}, ..."
        )
    return {by_name[name]: label for label, name in enumerate(found.class_names) if name in by_name}
