"""`Judge`: measures networks on one set of images, classifiers by top-1 and detectors by mean average precision."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from evoq_moo.accuracy.accuracy import evaluate_accuracy
from evoq_moo.detection import DetectionSet, evaluate_detection
from evoq_moo.graph import digest
from evoq_moo.images import Images, ImageSource, LabelledImages, Labels, Preprocess


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What judges networks.

    Attributes:
        measure: ``"top-1"`` or ``"mAP"``.
        images: Where the images are from, for readers.
        count: How many there are.
        digest: Of all that decides an accuracy beside the network.
        accuracy_of: Gives the accuracy of a network, 0..1.
    """

    measure: Literal["top-1", "mAP"]
    images: str
    count: int
    digest: str
    accuracy_of: Callable[[nn.Module], float]


def top1_judge(
    images: Images,
    labels: Labels | None,
    preprocess: Preprocess,
    *,
    limit: int | None = None,
    threads: int | None = None,
) -> Judge:
    """Return a judge by top-1; the arguments are those of :func:`evaluate_accuracy`.

    Raises:
        EvoqError: As :class:`LabelledImages`; no image is decoded yet.
    """
    source = LabelledImages(images, labels=labels, preprocess=preprocess, limit=limit)
    return Judge(
        measure="top-1",
        images=source.origin,
        count=len(source),
        digest=digest(repr(preprocess.to_json()).encode(), source.digest().encode()),
        accuracy_of=lambda network: evaluate_accuracy(network, source, compare=False, threads=threads).top1,
    )


def map_judge(found: DetectionSet, *, threads: int | None = None) -> Judge:
    """Return a judge by mean average precision.

    Args:
        found: Images and what is in them.
        threads: As for :func:`evaluate_detection`.
    """
    truths = repr([(t.boxes.tolist(), t.labels.tolist()) for t in found.truths])
    return Judge(
        measure="mAP",
        images=found.origin,
        count=len(found),
        digest=digest(truths.encode(), ImageSource(found.files).digest(len(found)).encode()),
        accuracy_of=lambda network: evaluate_detection(network, found, threads=threads).map,
    )
