"""What `evoq evaluate` does for an exported file: the accuracy of what ships."""

from pathlib import Path
from typing import Any

from torch import nn

from evoq_moo import zoo
from evoq_moo.accuracy import Accuracy, evaluate_accuracy
from evoq_moo.cli._accuracy import print_accuracy
from evoq_moo.cli._detection import annotated_images, print_detection
from evoq_moo.detection import BoxDecoder, attribute_of
from evoq_moo.errors import ArgumentError
from evoq_moo.export import OnnxNetwork
from evoq_moo.images import Preprocess


def evaluate_file(
    path: Path,
    *,
    images: str | None,
    labels: str | None,
    annotations: str | None,
    limit: int | None,
    preprocess: dict[str, int | None],
    threads: int | None,
    model: str | None,
    trust: bool,
) -> None:
    """Print the accuracy of a file beside the float network's that it was made from.

    Args:
        path: The file.
        images: Labelled images.
        labels: Their labels.
        annotations: Of a detector's images.
        limit: Only the first so many images.
        preprocess: Changes of the preprocessing that the file names.
        threads: Micro-batches of the float network computed at once.
        model: The factory that the file's recipe names, again.
        trust: Allow it to run the code and read the files that the file names.

    Raises:
        EvoqError: The file is not of ours, its recipe needs consent, or as the readers of images.
    """
    file = OnnxNetwork(path)
    recipe = file.recipe(trust=trust)
    if model is not None:
        recipe = recipe.vouch(model)
    floating, base = recipe.load_model()
    if file.detects:
        if preprocess:
            raise ArgumentError(f"resize, crop: {recipe.model} is a detector, which takes whole images: allowed: none")
        found = annotated_images(images, annotations, labels=labels).first(limit)
        file.decoder = attribute_of(floating, "decoder", BoxDecoder)
        file.class_names = attribute_of(floating, "class_names", tuple)
        print_detection({"float": floating, "file": file}, found, threads=threads)
        return
    if annotations is not None:
        raise ArgumentError(f"annotations: given {annotations}; {recipe.model} is no detector: allowed: --labels")
    given: tuple[Any, Any] = (images, labels)
    if images is None:
        default = zoo.entry(recipe.model).default_labelled if ":" not in recipe.model else None
        if default is None:
            raise ArgumentError(
                f"images: given none; {recipe.model} has no labelled images of its own: give a folder or .npz"
            )
        given = default()
    used: Preprocess = (file.preprocess or base).replace(**preprocess)

    def measured(network: nn.Module, reference: nn.Module | None = None) -> Accuracy:
        return evaluate_accuracy(
            network, given[0], labels=given[1], preprocess=used, limit=limit, reference=reference, threads=threads
        )

    print_accuracy({"float": measured(floating), "file": measured(file, floating)})
