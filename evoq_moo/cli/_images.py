"""Options of labelled images and of preprocessing, and the judge that they make."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from evoq_moo import zoo
from evoq_moo.accuracy import Judge, map_judge, top1_judge
from evoq_moo.cli._parse import parse_values
from evoq_moo.detection import BoxDecoder, DetectionSet, attribute_of, read_detection
from evoq_moo.errors import ArgumentError
from evoq_moo.images import Images, Labels, Preprocess
from evoq_moo.runs import Recipe

JUDGING = "Images that judge"
PREPROCESSING = "Preprocessing"
Resize = Annotated[
    int | None,
    typer.Option(help="Shorter side before the crop (pixels); 0: no resize.", rich_help_panel=PREPROCESSING),
]
Crop = Annotated[int | None, typer.Option(help="Side of the network's input (pixels).", rich_help_panel=PREPROCESSING)]
Mean = Annotated[
    str | None,
    typer.Option(help="Per-channel mean on the 0..1 scale, like 0.485,0.456,0.406.", rich_help_panel=PREPROCESSING),
]
Std = Annotated[
    str | None,
    typer.Option(help="Per-channel standard deviation on the 0..1 scale.", rich_help_panel=PREPROCESSING),
]
LabelledImagesOption = Annotated[
    str | None, typer.Option("--images", help="Labelled images: a folder or .npz file.", rich_help_panel=JUDGING)
]
LabelsOption = Annotated[
    str | None, typer.Option("--labels", help="CSV file with columns file,label.", rich_help_panel=JUDGING)
]
Annotations = Annotated[
    str | None,
    typer.Option(
        help="Of a detector: COCO's JSON, or YOLO's folder; VOC's is in the images' folder.", rich_help_panel=JUDGING
    ),
]
Limit = Annotated[int | None, typer.Option(help="Only the first so many images.", rich_help_panel=JUDGING)]


def changed(base: Preprocess, *, resize: int | None, crop: int | None, mean: str | None, std: str | None) -> Preprocess:
    """Return preprocessing with what options change.

    Raises:
        ArgumentError: An option is not allowed.
    """
    changes: dict[str, Any] = {}
    if resize is not None:
        changes["resize"] = resize or None
    if crop is not None:
        changes["crop"] = crop
    if mean is not None:
        changes["mean"] = parse_values("mean", mean)
    if std is not None:
        changes["std"] = parse_values("std", std)
    return base.replace(**changes) if changes else base


def is_detector(model: nn.Module) -> bool:
    """Return whether a network is judged by mean average precision."""
    return attribute_of(model, "decoder", BoxDecoder) is not None


def classified_images(recipe: Recipe, images: str | None, labels: str | None) -> tuple[Images, Labels | None]:
    """Return images and labels that options name, those of the network where they name none.

    Raises:
        ArgumentError: There are none.
    """
    if images is not None:
        return images, labels
    default = zoo.entry(recipe.model).default_labelled if ":" not in recipe.model else None
    if default is None:
        raise ArgumentError(
            f"images: given none; {recipe.model} has no labelled images of its own: give a folder or .npz"
        )
    return default()


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


def judge_of(
    model: nn.Module,
    preprocess: Preprocess,
    recipe: Recipe,
    *,
    images: str | None,
    labels: str | None,
    annotations: str | None,
    limit: int | None,
    threads: int | None,
) -> Judge:
    """Return what measures a network on the images that options name; none is decoded yet.

    Raises:
        ArgumentError: The options do not fit the network.
        EvoqError: As the readers.
    """
    if is_detector(model):
        found = annotated_images(images, annotations, labels=labels).first(limit)
        return map_judge(found, threads=threads)
    check_classifier(recipe, annotations)
    source, truth = classified_images(recipe, images, labels)
    judge = top1_judge(source, truth, preprocess, limit=limit, threads=threads)
    return judge if images is not None else replace(judge, images=f"{recipe.model} itself")


def check_classifier(recipe: Recipe, annotations: str | None) -> None:
    """Raise where annotations are given for a network that is no detector.

    Raises:
        ArgumentError: They are.
    """
    if annotations is not None:
        raise ArgumentError(f"annotations: given {annotations}; {recipe.model} is no detector: allowed: --labels")


def has_own_images(recipe: Recipe) -> bool:
    """Return whether a network of the zoo comes with labelled images."""
    return ":" not in recipe.model and zoo.entry(recipe.model).default_labelled is not None


def image_words(images: str | Path | None, labels: str | Path | None, annotations: str | None) -> list[str]:
    """Return the words of a command line that name the same images again."""
    named = (("--images", images), ("--labels", labels), ("--annotations", annotations))
    return [word for option, value in named if value is not None for word in (option, str(value))]


def preprocess_json(
    name: str, weights: str | None, *, resize: int | None, crop: int | None, mean: str | None, std: str | None
) -> dict[str, Any] | None:
    """Return the preprocessing that options change, as JSON data; None where they change nothing.

    Raises:
        ArgumentError: A factory's network is given without `crop`, or an option is not allowed.
    """
    if resize is None and crop is None and mean is None and std is None:
        return None
    if ":" in name:
        if crop is None:
            raise ArgumentError(
                "crop: given none; with --model package.module:factory, --crop is needed to change others"
            )
        base = Preprocess(crop=crop)
    else:
        base = Recipe(model=name, weights=weights).load_model()[1]
    return changed(base, resize=resize, crop=crop, mean=mean, std=std).to_json()
