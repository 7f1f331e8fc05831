"""What `evoq evaluate` does for detectors."""

from collections.abc import Mapping

from rich.table import Table
from torch import nn

from evoq_moo.cli._console import console
from evoq_moo.detection import DetectionSet, evaluate_detection, read_detection
from evoq_moo.errors import ArgumentError


def annotated_images(images: str | None, annotations: str | None, *, labels: str | None) -> DetectionSet:
    """Return the annotated images that options name.

    Raises:
        ArgumentError: None are named, or labels of classes are.
        EvoqError: As :func:`evoq_moo.detection.read_detection`.
    """
    if labels is not None:
        raise ArgumentError(f"labels: given {labels} for a detector; allowed: --annotations (mAP, not top-1)")
    if images is None:
        raise ArgumentError("images: given none for a detector; allowed: a folder, with --annotations where they are")
    return read_detection(images, annotations)


def print_detection(networks: Mapping[str, nn.Module], found: DetectionSet, *, threads: int | None) -> None:
    """Print the mean average precision of networks, by name."""
    table = Table("network", "images", "objects", "mAP (%)", "mAP50 (%)", "mAP75 (%)", "VOC07 (%)", "VOC (%)")
    for name, module in networks.items():
        scored = evaluate_detection(module, found, threads=threads)
        figures = (scored.map, scored.map50, scored.map75, scored.voc07, scored.voc)
        table.add_row(name, str(scored.count), str(scored.objects), *(f"{100 * v:.2f}" for v in figures))
    console.print(table)
