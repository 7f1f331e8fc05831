"""The command `evoq search`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from evoq_moo import zoo
from evoq_moo._text import parse_budgets, parse_names
from evoq_moo.accuracy import CURVE_FILE, Judge
from evoq_moo.cli._console import console, files
from evoq_moo.cli._costs import table_options, with_options
from evoq_moo.cli._images import (
    Annotations,
    Crop,
    LabelledImagesOption,
    LabelsOption,
    Limit,
    Mean,
    Resize,
    Std,
    image_words,
    judge_of,
    preprocess_json,
)
from evoq_moo.cli._next import (
    FRONT_SO_FAR,
    GOES_ON,
    INTERRUPTED,
    consent_words,
    say_if_interrupted,
    say_next,
)
from evoq_moo.cli._parse import parse_bits
from evoq_moo.cli._tables import TableForm, emit
from evoq_moo.costs import objective_names
from evoq_moo.difference import AUTO, DEFAULT, METRICS
from evoq_moo.errors import ArgumentError, check_count
from evoq_moo.network import QuantizedNetwork
from evoq_moo.runs import (
    Recipe,
    RunSettings,
    SearchRun,
    execute,
    load_costs,
    measure_run,
)
from evoq_moo.samples import CHOOSERS, RANDOM

NETWORK, SAMPLES, SPACE, SEARCH, CURVE = "Network", "Samples", "Search space", "Search", "Accuracy curve at the end"

Threads = Annotated[
    int | None,
    typer.Option(help="Micro-batches computed at once; default: one a core.", rich_help_panel="This machine"),
]
Workers = Annotated[
    int | None, typer.Option(help="Evaluate on this many processes instead.", rich_help_panel="This machine")
]


@with_options(table_options())
def search_command(
    model: Annotated[str, typer.Argument(help="Name of a zoo entry (see `evoq models`).")] = "",
    *,
    factory: Annotated[
        str | None,
        typer.Option(
            "--model", help="Instead of a name: package.module:factory of any torch module.", rich_help_panel=NETWORK
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Weights file, a published name (see `evoq models`), or random.", rich_help_panel=NETWORK),
    ] = None,
    download: Annotated[
        bool,
        typer.Option(
            "--download", help="Get published weights where they aren't on this machine.", rich_help_panel=NETWORK
        ),
    ] = False,
    samples: Annotated[
        str | None,
        typer.Option(
            help="Folder of images or .npz file, no labels needed; synthetic: made of BatchNorm statistics.",
            rich_help_panel=SAMPLES,
        ),
    ] = None,
    choose: Annotated[
        str, typer.Option(help=f"How samples are drawn: {', '.join(CHOOSERS)}.", rich_help_panel=SAMPLES)
    ] = RANDOM,
    count: Annotated[int, typer.Option(help="Number of samples.", rich_help_panel=SAMPLES)] = 50,
    samples_seed: Annotated[int, typer.Option(help="Seed of the draw of samples.", rich_help_panel=SAMPLES)] = 0,
    resize: Resize = None,
    crop: Crop = None,
    mean: Mean = None,
    std: Std = None,
    weight_bits: Annotated[
        str, typer.Option(help="Allowed weight bit-widths, like 2-8 or 2,4,8.", rich_help_panel=SPACE)
    ] = "2-8",
    activation_bits: Annotated[
        str, typer.Option(help="Allowed activation bit-widths; 8: search weights only.", rich_help_panel=SPACE)
    ] = "2-8",
    pinned: Annotated[
        str, typer.Option(help="Layers held at 8 bits: ends, none, or names with commas.", rich_help_panel=SPACE)
    ] = "ends",
    classes: Annotated[
        int | None, typer.Option(help="Of a detector, background counted.", rich_help_panel=NETWORK)
    ] = None,
    tied: Annotated[
        bool, typer.Option("--tied", help="One bit-width for a layer's weights and activation.", rich_help_panel=SPACE)
    ] = False,
    difference: Annotated[
        str,
        typer.Option(help=f"One of {', '.join(METRICS)}; auto: {DEFAULT}.", rich_help_panel=SEARCH),
    ] = AUTO,
    results: Annotated[
        str,
        typer.Option(
            help="Results between layers that have 8 bits: auto, float (none) or int8 (of Linear too).",
            rich_help_panel=SEARCH,
        ),
    ] = "auto",
    engine: Annotated[str, typer.Option(help="auto, reference (float32) or integer.", rich_help_panel=SEARCH)] = "auto",
    objectives: Annotated[
        str, typer.Option(help=f"Any of {','.join(objective_names())}.", rich_help_panel=SEARCH)
    ] = "difference,bops",
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="A limit in the objective's unit: 'bops<=5', 'size<=2' or 'difference<=0.01'; repeatable.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    calibrated: Annotated[
        bool,
        typer.Option("--calibrated", help="Search networks after light calibration (slower).", rich_help_panel=SEARCH),
    ] = False,
    evaluations: Annotated[
        int, typer.Option(help="Evaluations of the search, sensitivity scan not counted.", rich_help_panel=SEARCH)
    ] = 1000,
    pop_size: Annotated[int, typer.Option(help="Population size of NSGA-II.", rich_help_panel=SEARCH)] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the search.", rich_help_panel=SEARCH)] = 0,
    images: LabelledImagesOption = None,
    labels: LabelsOption = None,
    annotations: Annotations = None,
    limit: Limit = None,
    points: Annotated[
        int, typer.Option(help="Points of the front to measure, where there are images.", rich_help_panel=CURVE)
    ] = 12,
    workers: Workers = None,
    threads: Threads = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; the same one resumes it.")] = Path(
        "run"
    ),
    **tables: str | None,
) -> None:
    """Search for the front of output difference against cost. Ctrl-C leaves a front; the same command goes on.

    With labelled images, the accuracy curve of the front is measured at the end.
    """
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
        preprocess=preprocess_json(name, weights, resize=resize, crop=crop, mean=mean, std=std),
        weight_bits=parse_bits("weight-bits", weight_bits),
        activation_bits=parse_bits("activation-bits", activation_bits),
        pinned=pinned if pinned in {"ends", "none"} else parse_names(pinned),
        tied=tied,
        difference=difference,
        results=results,  # type: ignore[arg-type]
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
    check_count("points", points)
    given: dict[str, Any] = {"images": images, "labels": labels, "annotations": annotations, "limit": limit}
    judge = None
    if any(value is not None for value in given.values()):
        loaded, base = recipe.load_model()
        judge = judge_of(loaded, base, recipe, **given, threads=threads)
    found: list[QuantizedNetwork] = []

    def take(network: QuantizedNetwork) -> None:
        console.say(str(network.report()))
        found.append(network)
        say_if_interrupted(GOES_ON)

    run = execute(settings, output, evaluations=evaluations, workers=workers, threads=threads, on_network=take)
    end_search(run, output, found[0], judge, settings, points)
    words = [*consent_words(output), *image_words(images, labels, annotations)]
    if judge is not None:
        say_next("ship", output, "--pick", "drop<=1", "-o", "model.onnx", *words)
    else:
        say_next("show", output, "--pick", "knee")


def end_search(
    run: SearchRun,
    output: Path,
    network: QuantizedNetwork,
    judge: Judge | None,
    settings: RunSettings,
    points: int,
    calibration: str = "",
) -> None:
    """Print what a search found, and measure its accuracy curve where images are given.

    Raises:
        typer.Exit: The search was interrupted.
    """
    _print_run(run, output)
    if run.interrupted:
        say_if_interrupted(FRONT_SO_FAR)
        raise typer.Exit(INTERRUPTED)
    if judge is not None:
        costs = load_costs(settings.costs)
        curve = measure_run(network, output, judge, points=points, calibration=calibration, costs=costs)
        emit(curve.table(), TableForm.TEXT)
        files(output, CURVE_FILE, "accuracy.png")


def _download(name: str, weights: str | None, classes: int | None) -> None:
    """Get published weights now, so that everything after it finds them on this machine."""
    if ":" in name:
        raise ArgumentError(f"download: a factory ({name}) loads its own weights")
    zoo.load(name, weights=weights, classes=classes, download=True)


def _print_run(run: SearchRun, output: Path) -> None:
    shown = min(len(run.front), 25)
    known = run.front.provenance["policies_known"]
    title = f"{shown} of {len(run.front)} points on the front of {known} policies"
    console.print(run.front.table(title=title, max_rows=shown))
    files(output, "front.json", "front.png", "sensitivity.json", "evaluations.sqlite")
