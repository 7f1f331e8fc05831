"""The command `evoq evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from torch import nn

from evoq_moo.accuracy import CURVE_FILE, Accuracy, evaluate_accuracy
from evoq_moo.calibration import CalibratingNetwork
from evoq_moo.cli._console import files
from evoq_moo.cli._images import (
    Annotations,
    Crop,
    LabelledImagesOption,
    LabelsOption,
    Limit,
    Mean,
    Resize,
    Std,
    annotated_images,
    changed,
    check_classifier,
    classified_images,
    image_words,
    is_detector,
    judge_of,
)
from evoq_moo.cli._new_images import print_difference
from evoq_moo.cli._next import GOES_ON, consent_words, say_if_interrupted, say_next
from evoq_moo.cli._policy import print_policy
from evoq_moo.cli._tables import Csv, Json, TableForm, emit
from evoq_moo.cli._trust import Factory, Trust, recipe_for
from evoq_moo.detection import BoxDecoder, DetectionSet, attribute_of, evaluate_detection
from evoq_moo.errors import ArgumentError
from evoq_moo.export import OnnxNetwork, load_calibrated
from evoq_moo.files import check_writable
from evoq_moo.front import PICKS, ParetoFront, check_costs
from evoq_moo.images import Preprocess, have_labels
from evoq_moo.network import QuantizedNetwork
from evoq_moo.runs import (
    RECIPE_FILE,
    Recipe,
    checked_calibration,
    load_front,
    measure_curve,
    measure_run,
    read_recipe,
    tables_of,
)

CURVE = "The accuracy curve"
Networks = list[tuple[str, nn.Module]]


def evaluate_command(
    source: Annotated[
        Path, typer.Argument(help="Folder of a run, its front file, a folder of `evoq calibrate`, or an .onnx file.")
    ],
    *,
    pick: Annotated[str, typer.Option(help=f"Which policy: {PICKS}.")] = "knee",
    everything: Annotated[
        bool, typer.Option("--all", help="Measure every point of the front, and keep it.", rich_help_panel=CURVE)
    ] = False,
    points: Annotated[
        int | None,
        typer.Option(help="Measure so many points of the front, and keep it in the run.", rich_help_panel=CURVE),
    ] = None,
    calibrated: Annotated[
        bool,
        typer.Option("--calibrated", help="Measure them after calibration too.", rich_help_panel=CURVE),
    ] = False,
    steps: Annotated[
        str, typer.Option(help="Steps of that calibration: light, full, or names.", rich_help_panel=CURVE)
    ] = "light",
    again: Annotated[
        bool, typer.Option("--again", help="Forget what was measured before.", rich_help_panel=CURVE)
    ] = False,
    images: LabelledImagesOption = None,
    labels: LabelsOption = None,
    annotations: Annotations = None,
    limit: Limit = None,
    resize: Resize = None,
    crop: Crop = None,
    mean: Mean = None,
    std: Std = None,
    threads: Annotated[int | None, typer.Option(help="Micro-batches computed at once; default: one a core.")] = None,
    factory: Factory = None,
    trust: Trust = False,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Measure accuracy on labelled images: of one policy beside the float network, or the curve of a whole front.

    On images without labels: the policy's difference there, and the ratio to that on the samples of the search.
    """
    form = TableForm.of(as_json, as_csv)
    options = {"resize": resize, "crop": crop, "mean": mean, "std": std}
    curve = everything or points is not None
    if everything and points is not None:
        raise ArgumentError(f"points: given {points} with --all; allowed: one of them")
    if not curve and (calibrated or again):
        name = "calibrated" if calibrated else "again"
        raise ArgumentError(f"{name}: given without a curve to measure; allowed: with --all or --points 12")
    checked_calibration(steps)
    one = _one_policy(source, factory, trust=trust)
    if one is not None:
        if curve:
            raise ArgumentError(f"source: given {source}, which holds one policy; --all and --points: a run")
        networks, model, base, recipe = one
        preprocess = _preprocess_of(model, base, recipe, options)
        _compare(networks, model, preprocess, recipe, form, images, labels, annotations, limit, threads)
        return
    front = load_front(source)
    recipe = recipe_for(front, source, model=factory, trust=trust)
    model, base = recipe.load_model()
    preprocess = _preprocess_of(model, base, recipe, options)
    if not curve:
        policy = front.pick(pick)
        unlabelled = (
            images is not None and labels is None and not is_detector(model) and annotations is None
        ) and not have_labels(images)
        if not unlabelled:
            _check_images(model, recipe, images, labels, annotations)
        network = _network(recipe, front, threads)
        if form is TableForm.TEXT:
            print_policy(front, policy)
        if unlabelled and images is not None:
            calibrating = front.provenance["settings"].get("calibrate")
            evaluated = network if calibrating is None else CalibratingNetwork(network, calibrating)
            print_difference(evaluated, front.point_of(policy), images, preprocess, limit, form)
            return
        networks = [("float", network.network), ("quantized", network.apply(policy))]
        _compare(networks, model, preprocess, recipe, form, images, labels, annotations, limit, threads)
        return
    kept = (source if source.is_dir() else source.parent) / CURVE_FILE
    check_writable("source", kept)
    judge = judge_of(
        model,
        preprocess,
        recipe,
        images=images,
        labels=labels,
        annotations=annotations,
        limit=limit,
        threads=threads,
    )
    say_if_interrupted(GOES_ON)
    network = _network(recipe, front, threads)
    measured: dict[str, Any] = {"points": points, "calibration": steps if calibrated else "", "again": again}
    if source.is_dir():
        found = measure_run(network, source, judge, costs=tables_of(source, trust=trust), **measured)
    else:
        found = measure_curve(network, front, judge, path=kept, **measured)
    emit(found.table(), form)
    files(kept.parent, kept.name, *(("accuracy.png", "front.png") if source.is_dir() else ()))
    words = [*consent_words(source), *image_words(images, labels, annotations)]
    say_next("ship", source, "--pick", "drop<=1", "-o", "model.onnx", *words)


def _one_policy(
    source: Path, factory: str | None, *, trust: bool
) -> tuple[Networks, nn.Module, Preprocess, Recipe] | None:
    """Return the networks of a calibrated folder or file, with the model, preprocessing and recipe; None of others."""
    if (source / "calibrated.json").is_file():
        own = source / RECIPE_FILE
        vouched = read_recipe(own).vouch(factory) if factory is not None and own.is_file() else None
        module, recipe = load_calibrated(source, recipe=vouched, trust=trust)
        model, base = recipe.load_model()
        return [("float", module.reference), ("calibrated", module)], model, base, recipe
    if source.suffix == ".onnx":
        file = OnnxNetwork(source)
        recipe = file.recipe(trust=trust)
        recipe = recipe if factory is None else recipe.vouch(factory)
        model, base = recipe.load_model()
        file.decoder = attribute_of(model, "decoder", BoxDecoder)
        file.class_names = attribute_of(model, "class_names", tuple)
        return [("float", model), ("file", file)], model, file.preprocess or base, recipe
    return None


def _preprocess_of(
    model: nn.Module, base: Preprocess, recipe: Recipe, options: dict[str, int | str | None]
) -> Preprocess:
    given = [name for name, value in options.items() if value is not None]
    if given and is_detector(model):
        raise ArgumentError(
            f"{', '.join(given)}: {recipe.model} is a detector, which takes whole images: allowed: none"
        )
    return changed(base, **options)  # type: ignore[arg-type]


def _network(recipe: Recipe, front: ParetoFront, threads: int | None) -> QuantizedNetwork:
    network = recipe(threads=threads, progress=True)
    check_costs(front.points, network.space)
    return network


def _check_images(
    model: nn.Module, recipe: Recipe, images: str | None, labels: str | None, annotations: str | None
) -> None:
    """Raise where the images can't be those of the network, before it is made ready."""
    if is_detector(model):
        annotated_images(images, annotations, labels=labels)
    else:
        check_classifier(recipe, annotations)
        classified_images(recipe, images, labels)


def _compare(
    networks: Networks,
    model: nn.Module,
    preprocess: Preprocess,
    recipe: Recipe,
    form: TableForm,
    images: str | None,
    labels: str | None,
    annotations: str | None,
    limit: int | None,
    threads: int | None,
) -> None:
    """Print what each of some networks reaches."""
    if is_detector(model):
        emit(
            _detection_table(networks, annotated_images(images, annotations, labels=labels).first(limit), threads), form
        )
        return
    check_classifier(recipe, annotations)
    source, truth = classified_images(recipe, images, labels)
    found = [
        (
            name,
            evaluate_accuracy(
                module,
                source,
                labels=truth,
                preprocess=preprocess,
                limit=limit,
                threads=threads,
                reference=networks[0][1] if name != "float" else None,
                compare=name != "float",
            ),
        )
        for name, module in networks
    ]
    emit(accuracy_table(found), form)


def accuracy_table(found: list[tuple[str, Accuracy]]) -> Table:
    """Return a table of measured networks."""
    table = Table("network", "images", "top-1 (%)", "top-5 (%)", "agreement with float (%)")
    for name, one in found:
        columns = [one.top1, one.top5, one.agreement]
        table.add_row(name, str(one.count), *("-" if v is None else f"{100 * v:.2f}" for v in columns))
    return table


def _detection_table(networks: Networks, found: DetectionSet, threads: int | None) -> Table:
    table = Table("network", "images", "objects", "mAP (%)", "mAP50 (%)", "mAP75 (%)", "VOC07 (%)", "VOC (%)")
    for name, module in networks:
        scored = evaluate_detection(module, found, threads=threads)
        figures = (scored.map, scored.map50, scored.map75, scored.voc07, scored.voc)
        table.add_row(name, str(scored.count), str(scored.objects), *(f"{100 * v:.2f}" for v in figures))
    return table
