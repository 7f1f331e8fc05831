"""Accuracy of a detector on annotated images."""

from collections.abc import Sequence

import torch
from torch import nn

from evoq_moo.detection._decode import BoxDecoder, Detections
from evoq_moo.detection._detector import Detector
from evoq_moo.detection._read import StrPath, read_detection, require_pycocotools
from evoq_moo.detection._score import DetectionAccuracy, mean_average_precision
from evoq_moo.detection._truth import DetectionSet, match_classes
from evoq_moo.errors import ArgumentError, check_count
from evoq_moo.images import Preprocess


def evaluate_detection(
    network: nn.Module | Detector,
    images: DetectionSet | StrPath,
    *,
    annotations: StrPath | None = None,
    decoder: BoxDecoder | None = None,
    preprocess: Preprocess | None = None,
    class_names: Sequence[str] | None = None,
    limit: int | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> DetectionAccuracy:
    """Measure the mean average precision of a detector.

    The detector's classes are matched with the set's by name; detections of classes that the set doesn't have are
    left out.

    Args:
        network: Gives raw heads, see :class:`Detector`; quantized and calibrated networks too. Or a `Detector`.
        images: A :class:`DetectionSet`, or what :func:`read_detection` takes.
        annotations: As :func:`read_detection` takes them.
        decoder: Default: the network's.
        preprocess: Default: the network's.
        class_names: Default: the network's.
        limit: Take the first `limit` images only.
        threads: Micro-batches computed at once; None for one a core. Results do not depend on it.
        progress: Show a progress bar where stderr is a terminal.

    Raises:
        ArgumentError: An argument is not allowed, the network is no detector, or its classes and the set's don't match.
        MissingFileError: No such folder or file.
        MissingPackageError: pycocotools isn't installed.
        ImageError: Images or annotations are missing, unreadable or don't match.
        NetworkError: The network's result isn't raw heads of the decoder's default boxes.
    """
    require_pycocotools()
    options = {"decoder": decoder, "preprocess": preprocess, "class_names": class_names}
    if isinstance(network, Detector):
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise ArgumentError(f"{given[0]}: given beside a Detector, which has its own; allowed: None")
        detector = network
    else:
        detector = Detector(network, decoder=decoder, preprocess=preprocess, class_names=class_names)
    if limit is not None:
        check_count("limit", limit)
    if isinstance(images, DetectionSet):
        if annotations is not None:
            raise ArgumentError("annotations: given beside a DetectionSet, which has its own; allowed: None")
        found_set = images
    else:
        found_set = read_detection(images, annotations)
    found_set = found_set.first(limit)
    labels = match_classes(found_set, detector.class_names, detector.count_classes(found_set.files[0]))
    found = detector.detect(found_set.files, threads=threads, progress=progress)
    return mean_average_precision([_relabelled(one, labels) for one in found], found_set.truths, found_set.class_names)


def _relabelled(found: Detections, labels: dict[int, int]) -> Detections:
    own = torch.tensor([labels.get(label, -1) for label in found.labels.tolist()], dtype=torch.int64)
    kept = own >= 0
    return Detections(boxes=found.boxes[kept], scores=found.scores[kept], labels=own[kept])
