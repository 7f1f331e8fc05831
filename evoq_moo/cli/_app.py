"""The commands."""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.logging import RichHandler
from rich.table import Table

from evoq_moo import zoo
from evoq_moo._text import parse_budgets, parse_names, parse_values
from evoq_moo.accuracy import Accuracy, evaluate_accuracy
from evoq_moo.calibration import CalibratingNetwork
from evoq_moo.cli._calibrate import calibrate_command
from evoq_moo.cli._compare import compare_command
from evoq_moo.cli._console import console, errors, files
from evoq_moo.cli._costs import limit_options, table_options, with_options
from evoq_moo.cli._detection import annotated_images, print_detection
from evoq_moo.cli._export import export_command, verify_command
from evoq_moo.cli._models import models_command
from evoq_moo.cli._new_images import print_difference
from evoq_moo.cli._parse import parse_bits
from evoq_moo.cli._profile import profile_command
from evoq_moo.cli._report import report_command
from evoq_moo.cli._trust import Factory, Trust, recipe_for
from evoq_moo.costs import cost_class, objective_names
from evoq_moo.detection import BoxDecoder, attribute_of
from evoq_moo.difference import AUTO, DEFAULT, METRICS
from evoq_moo.errors import ArgumentError
from evoq_moo.front import PICKS, ParetoFront, check_costs
from evoq_moo.images import Preprocess, have_labels
from evoq_moo.network import QuantizedNetwork
from evoq_moo.runs import Recipe, RunSettings, SearchRun, execute, load_front
from evoq_moo.samples import CHOOSERS, RANDOM
from evoq_moo.space import Policy

app = typer.Typer(
    name="evoq",
    help="Mixed-precision quantization of neural networks as a multi-objective search.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("calibrate")(calibrate_command)
app.command("report")(report_command)
app.command("models")(models_command)
app.command("compare")(compare_command)
app.command("export")(export_command)
app.command("verify")(verify_command)
app.command("profile")(profile_command)

Threads = Annotated[int | None, typer.Option(help="Micro-batches computed at once; default: one a core.")]
Workers = Annotated[int | None, typer.Option(help="Evaluate on this many processes instead.")]
Resize = Annotated[int | None, typer.Option(help="Shorter side before the crop (pixels); 0: no resize.")]
Crop = Annotated[int | None, typer.Option(help="Side of the network's input (pixels).")]
Mean = Annotated[str | None, typer.Option(help="Per-channel mean on the 0..1 scale, like 0.485,0.456,0.406.")]
Std = Annotated[str | None, typer.Option(help="Per-channel standard deviation on the 0..1 scale.")]


@app.callback()
def _common(verbose: Annotated[bool, typer.Option("--verbose", help="Show notes on the network.")] = False) -> None:
    console.follow_terminal()
    errors.follow_terminal()
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=errors, show_path=False, show_time=False)],
    )


@app.command()
@with_options(table_options())
def search(
    model: Annotated[str, typer.Argument(help="Name of a zoo entry (see `evoq models`).")] = "",
    *,
    factory: Annotated[
        str | None, typer.Option("--model", help="Instead of a name: package.module:factory of any torch module.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Weights file, or a published name (see `evoq models`).")] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Get published weights where they aren't on this machine.")
    ] = False,
    samples: Annotated[
        str | None,
        typer.Option(help="Folder of images or .npz file, no labels needed; synthetic: made of BatchNorm statistics."),
    ] = None,
    choose: Annotated[str, typer.Option(help=f"How samples are drawn: {', '.join(CHOOSERS)}.")] = RANDOM,
    count: Annotated[int, typer.Option(help="Number of samples.")] = 50,
    samples_seed: Annotated[int, typer.Option(help="Seed of the draw of samples.")] = 0,
    resize: Resize = None,
    crop: Crop = None,
    mean: Mean = None,
    std: Std = None,
    weight_bits: Annotated[str, typer.Option(help="Allowed weight bit-widths, like 2-8 or 2,4,8.")] = "2-8",
    activation_bits: Annotated[
        str, typer.Option(help="Allowed activation bit-widths; 8: search weights only.")
    ] = "2-8",
    pinned: Annotated[str, typer.Option(help="Layers held at 8 bits: ends, none, or names with commas.")] = "ends",
    classes: Annotated[int | None, typer.Option(help="Of a detector, background counted.")] = None,
    tied: Annotated[bool, typer.Option("--tied", help="One bit-width for a layer's weights and activation.")] = False,
    difference: Annotated[str, typer.Option(help=f"One of {', '.join(METRICS)}; auto: {DEFAULT}.")] = AUTO,
    engine: Annotated[str, typer.Option(help="auto, reference (float32) or integer.")] = "auto",
    objectives: Annotated[str, typer.Option(help=f"Any of {','.join(objective_names())}.")] = "difference,bops",
    budget: Annotated[
        list[str] | None,
        typer.Option(help="A limit in the objective's unit: 'bops<=5', 'size<=2' or 'difference<=0.01'; repeatable."),
    ] = None,
    calibrated: Annotated[
        bool,
        typer.Option("--calibrated", help="Search networks after light calibration (slower)."),
    ] = False,
    evaluations: Annotated[int, typer.Option(help="Evaluations of the search, sensitivity scan not counted.")] = 1000,
    pop_size: Annotated[int, typer.Option(help="Population size of NSGA-II.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    workers: Workers = None,
    threads: Threads = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; the same one resumes it.")] = Path(
        "run"
    ),
    **tables: str | None,
) -> None:
    """Search for the front of output difference against cost. Ctrl-C leaves a front; the same command goes on."""
    if bool(model) == bool(factory):
        raise ArgumentError(f"model: give a name ({', '.join(zoo.names())}) or --model package.module:factory")
    name = factory or model
    if download:
        _download(name, weights, classes)
    recipe = Recipe(
        model=name,
        weights=weights,
        samples=samples,
        count=count,
        samples_seed=samples_seed,
        choose=choose,
        preprocess=_preprocess(name, weights, resize=resize, crop=crop, mean=mean, std=std),
        weight_bits=parse_bits("weight-bits", weight_bits),
        activation_bits=parse_bits("activation-bits", activation_bits),
        pinned=pinned if pinned in {"ends", "none"} else parse_names(pinned),
        tied=tied,
        difference=difference,
        engine=engine,  # type: ignore[arg-type]
        classes=classes,
    )
    settings = RunSettings(
        recipe=recipe,
        objectives=parse_names(objectives),
        budgets=parse_budgets(budget or []),
        pop_size=pop_size,
        seed=seed,
        costs={name: file for name, file in tables.items() if file is not None},
        calibrate="light" if calibrated else None,
    )
    run = execute(
        settings,
        output,
        evaluations=evaluations,
        workers=workers,
        threads=threads,
        on_network=lambda network: console.say(str(network.report())),
    )
    _print_run(run, output)


@app.command()
@with_options(limit_options())
def show(
    front: Annotated[Path, typer.Argument(help="Folder of a run, or a front file.")],
    *,
    pick: Annotated[str | None, typer.Option(help=f"Show one policy: {PICKS}.")] = None,
    **limits: float | None,
) -> None:
    """Show a front as a table, or one of its policies layer by layer."""
    loaded = load_front(front)
    if pick is not None:
        _print_policy(loaded, loaded.pick(pick))
    else:
        console.print(loaded.under(**limits).table(title=str(front)))


@app.command()
def evaluate(
    front: Annotated[Path, typer.Argument(help="Folder of a run, or its front file.")],
    *,
    pick: Annotated[str, typer.Option(help=f"Which policy: {PICKS}.")] = "knee",
    images: Annotated[
        str | None, typer.Option(help="A folder or .npz file; images without labels tell the difference.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="CSV file with columns file,label.")] = None,
    annotations: Annotated[
        str | None, typer.Option(help="Of a detector: COCO's JSON, or YOLO's folder; VOC's is in the images' folder.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many images.")] = None,
    resize: Resize = None,
    crop: Crop = None,
    threads: Threads = None,
    factory: Factory = None,
    trust: Trust = False,
) -> None:
    """Measure one policy of a front beside the float network: top-1, or a detector's mean average precision.

    On images without labels: its difference there, and the ratio to that on the samples of the search.
    """
    loaded = load_front(front)
    recipe = recipe_for(loaded, front, model=factory, trust=trust)
    policy = loaded.pick(pick)
    model, base = recipe.load_model()
    found = None
    if attribute_of(model, "decoder", BoxDecoder) is not None:
        if resize is not None or crop is not None:
            raise ArgumentError(f"resize, crop: {recipe.model} is a detector, which takes whole images: allowed: none")
        found = annotated_images(images, annotations, labels=labels).first(limit)
    elif annotations is not None:
        raise ArgumentError(f"annotations: given {annotations}; {recipe.model} is no detector: allowed: --labels")
    network = recipe(threads=threads, progress=True)
    check_costs([loaded.point_of(policy)], network.space)
    preprocess = _changed(base, resize=resize, crop=crop)
    _print_policy(loaded, policy)
    if found is not None:
        print_detection(network, policy, found, threads=threads)
        return
    if images is not None and labels is None and not have_labels(images):
        calibrated = loaded.provenance["settings"].get("calibrate")
        evaluated = network if calibrated is None else CalibratingNetwork(network, calibrated)
        print_difference(evaluated, loaded.point_of(policy), images, preprocess, limit)
        return
    _print_accuracy(*_accuracies(network, policy, recipe.model, images, labels, preprocess, limit))


@app.command()
def demo(
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")] = Path("demo"),
    evaluations: Annotated[int, typer.Option(help="Evaluations of the search.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    threads: Threads = None,
) -> None:
    """Run the main job on the embedded digits network: scan, search, front, knee, accuracy. No files needed."""
    console.print("A small residual network on 8x8 digits, trained here once and kept in the cache.")
    recipe = Recipe(model="digits")
    run = execute(RunSettings(recipe=recipe, seed=seed), output, evaluations=evaluations, threads=threads)
    _print_run(run, output)
    network = recipe(threads=threads)
    knee = run.front.knee()
    _print_policy(run.front, knee)
    _print_accuracy(*_accuracies(network, knee, "digits", None, None, recipe.load_model()[1], None))


def _download(name: str, weights: str | None, classes: int | None) -> None:
    """Get published weights now, so that everything after it finds them on this machine."""
    if ":" in name:
        raise ArgumentError(f"download: a factory ({name}) loads its own weights")
    zoo.load(name, weights=weights, classes=classes, download=True)


def _changed(
    base: Preprocess, *, resize: int | None, crop: int | None, mean: str | None = None, std: str | None = None
) -> Preprocess:
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


def _preprocess(
    name: str, weights: str | None, *, resize: int | None, crop: int | None, mean: str | None, std: str | None
) -> dict[str, Any] | None:
    """Return the preprocessing that options change, as JSON data; None where they change nothing."""
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
    return _changed(base, resize=resize, crop=crop, mean=mean, std=std).to_json()


def _accuracies(
    network: QuantizedNetwork,
    policy: Policy,
    model: str,
    images: str | None,
    labels: str | None,
    preprocess: Preprocess,
    limit: int | None,
) -> tuple[Accuracy, Accuracy]:
    source: Any = images
    source_labels: Any = labels
    if images is None:
        default = zoo.entry(model).default_labelled if ":" not in model else None
        if default is None:
            raise ArgumentError(f"images: given none; {model} has no labelled images of its own: give a folder or .npz")
        source, source_labels = default()
    options: dict[str, Any] = {"labels": source_labels, "preprocess": preprocess, "limit": limit}
    exact = evaluate_accuracy(network.network, source, **options)
    quantized = evaluate_accuracy(network.apply(policy), source, reference=network.network, **options)
    return exact, quantized


def _print_run(run: SearchRun, output: Path) -> None:
    shown = min(len(run.front), 25)
    title = f"{shown} of {len(run.front)} points on the front of {len(run.vectors)} policies"
    console.print(run.front.table(title=title, max_rows=shown))
    files(output, "front.json", "front.png", "sensitivity.json", "evaluations.sqlite")
    if run.interrupted:
        console.print("interrupted: this is the front so far; the same command goes on", style="yellow")


def _print_policy(front: ParetoFront, policy: Policy) -> None:
    point = front.point_of(policy)
    costs = [f"{name} {value:.4g} {cost_class(name).unit}" for name, value in point.costs.items()]
    console.print(", ".join([f"difference {point.difference:.4g}", *costs]))
    if point.expected is not None:
        console.print(f"expected on new images: {point.expected}")
    table = Table("layer", "weight bits", "activation bits")
    for name, weight, activation in zip(policy.layers, policy.weight_bits, policy.activation_bits, strict=True):
        table.add_row(name, str(weight), str(activation))
    console.print(table)


def _print_accuracy(exact: Accuracy, quantized: Accuracy) -> None:
    table = Table("network", "images", "top-1 (%)", "top-5 (%)", "agreement with float (%)")
    for name, found in (("float", exact), ("quantized", quantized)):
        columns = [found.top1, found.top5, found.agreement]
        table.add_row(name, str(found.count), *("-" if v is None else f"{100 * v:.2f}" for v in columns))
    console.print(table)
