"""The commands `evoq export` and `evoq verify`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from evoq_moo._compute import MICRO_BATCH
from evoq_moo.cli._console import console
from evoq_moo.cli._results import save_result
from evoq_moo.cli._trust import Trust
from evoq_moo.errors import ArgumentError, check_count
from evoq_moo.export import (
    DEFAULT_TARGET,
    FORMS,
    INT8,
    TARGETS,
    export_onnx,
    export_program,
    form_of,
    load_calibrated,
    target_of,
    verify_onnx,
    write_bits,
)
from evoq_moo.files import check_writable
from evoq_moo.images import ImageSource
from evoq_moo.runs import RECIPE_FILE, Recipe, read_recipe

Model = Annotated[
    str | None,
    typer.Option(help="The network, where the folder's recipe does not fit: a zoo name or package.module:factory."),
]
Weights = Annotated[str | None, typer.Option(help="Its weights; only with --model.")]


def _recipe(folder: Path, model: str | None, weights: str | None) -> Recipe | None:
    """Return the recipe that options give, None for the folder's own; one that names the folder's factory again."""
    if model is None and weights is not None:
        raise ArgumentError(f"weights: given {weights!r} without --model; allowed: both or neither")
    if model is None:
        return None
    own = folder / RECIPE_FILE
    if weights is None and own.is_file() and (found := read_recipe(own)).model == model:
        return found.vouch(model)
    return Recipe(model=model, weights=weights)


def export_command(
    calibrated: Annotated[Path, typer.Argument(help="Folder made by `evoq calibrate`.")],
    *,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The file: .onnx, .pt2 (torch.export), or .csv or .json for bit-widths."),
    ] = Path("model.onnx"),
    form: Annotated[
        str, typer.Option(help="; ".join(f"{found.name}: {found.why}" for found in FORMS.values()) + ".")
    ] = INT8,
    target: Annotated[
        str | None,
        typer.Option(
            help=f"Of an int8 file (default: {DEFAULT_TARGET}). "
            + "; ".join(f"{found.name}: {found.why}" for found in TARGETS.values())
            + "."
        ),
    ] = None,
    packed: Annotated[
        bool | None,
        typer.Option(
            "--packed/--plain",
            help="Pack 3-, 5-, 6- and 7-bit weights as bits, or store them in wider ONNX types; default: the target's.",
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="The number of images it takes; default: any.")] = None,
    opset: Annotated[int | None, typer.Option(help="21, or 25 for 2-bit types; default: what runs here.")] = None,
    model: Model = None,
    weights: Weights = None,
    trust: Trust = False,
) -> None:
    """Write a calibrated network as a file that other programs run."""
    if output.suffix not in {".onnx", ".pt2", ".csv", ".json"}:
        raise ArgumentError(f"output: given {str(output)!r}; allowed: a name ending in .onnx, .pt2, .csv or .json")
    form_of(form)
    if target is not None:
        target_of(target)
    check_writable("output", output)
    network, recipe = load_calibrated(calibrated, recipe=_recipe(calibrated, model, weights), trust=trust)
    if output.suffix == ".pt2":
        size = save_result(output, lambda path: export_program(network, path))
        console.say(f"{output}: {size / 1024:.1f} KiB")
        return
    if output.suffix != ".onnx":
        save_result(output, lambda path: write_bits(network.policy, path))
        return
    options: dict[str, Any] = {"form": form, "target": target, "packed": packed, "batch": batch, "opset": opset}
    provenance = {"recipe": recipe.to_json()}
    written = save_result(output, lambda path: export_onnx(network, path, provenance=provenance, **options))
    console.say(str(written))
    if written.reason:
        console.say(written.reason)


def verify_command(
    file: Annotated[Path, typer.Argument(help="The .onnx file.")],
    *,
    against: Annotated[Path, typer.Option(help="Folder made by `evoq calibrate`.")],
    images: Annotated[Path, typer.Option(help="Folder of images or .npz file; no labels needed.")],
    limit: Annotated[int | None, typer.Option(help="Only the first so many images.")] = None,
    level_images: Annotated[int, typer.Option(help="Compare the levels of every layer on so many of them.")] = 10,
    repeats: Annotated[int, typer.Option(help="Passes for its time, which is compared with float ONNX; 0: none.")] = 20,
    model: Model = None,
    weights: Weights = None,
    trust: Trust = False,
) -> None:
    """Check an exported file against the network it was made from; exit code 1 where they differ."""
    if limit is not None:
        check_count("limit", limit)
    check_count("level_images", level_images)
    check_count("repeats", repeats, lowest=0)
    network, _ = load_calibrated(against, recipe=_recipe(against, model, weights), trust=trust)
    source = ImageSource(images)
    count = len(source) if limit is None else min(limit, len(source))
    preprocess = network.preprocess
    starts = range(0, count, MICRO_BATCH)
    batches = (source.batch(range(start, min(start + MICRO_BATCH, count)), preprocess) for start in starts)
    found = verify_onnx(file, network, batches, level_images=level_images, repeats=repeats, count=count)
    console.print(found.table())
    for note in found.notes:
        console.say(note)
    for line in found.disagreements:
        console.say(str(line))
    for problem in found.problems:
        console.say(f"mismatch: {problem}", style="red")
    if not found.passed:
        raise typer.Exit(1)
