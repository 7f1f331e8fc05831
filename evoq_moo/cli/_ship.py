"""The command `evoq ship`: from a run to a verified file, with what it costs and reaches."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from torch import nn

from evoq_moo.accuracy import Judge, as_percent
from evoq_moo.calibration import FULL, LIGHT, STEPS, CalibratedNetwork, calibrate
from evoq_moo.cli._console import console, files
from evoq_moo.cli._images import (
    Annotations,
    Crop,
    LabelledImagesOption,
    LabelsOption,
    Limit,
    Mean,
    Resize,
    Std,
    changed,
    has_own_images,
    judge_of,
)
from evoq_moo.cli._next import say_next
from evoq_moo.cli._results import save_result
from evoq_moo.cli._tables import Csv, Json, TableForm, emit
from evoq_moo.cli._trust import Factory, Trust, recipe_for
from evoq_moo.detection import BoxDecoder, attribute_of
from evoq_moo.errors import ArgumentError
from evoq_moo.export import (
    DEFAULT_TARGET,
    OnnxNetwork,
    Verification,
    check_packages,
    export_onnx,
    saturates,
    verify_onnx,
)
from evoq_moo.files import check_writable
from evoq_moo.front import PICKS, ParetoFront, check_costs
from evoq_moo.network import QuantizedNetwork
from evoq_moo.runs import RECIPE_FILE, Recipe, checked_calibration, load_front, write_recipe
from evoq_moo.space import Policy

CALIBRATED = "calibrated"
"""Where a run's calibrated network lies, in its folder."""


def calibrated_folder(source: Path, given: Path | None) -> Path:
    """Return where a calibrated policy of a run goes: what is given, else beside the run's files.

    Args:
        source: The run's folder, or a front file.
        given: What the user said.
    """
    return given if given is not None else (source if source.is_dir() else source.parent) / CALIBRATED


@dataclass(frozen=True, kw_only=True)
class Shipping:
    """What is shipped, and to where.

    Attributes:
        recipe: How the network is made.
        steps: Of the calibration.
        folder: Of the calibrated network.
        output: The ONNX file.
        judge: What measures accuracy; None where there are no labelled images.
    """

    recipe: Recipe
    steps: tuple[str, ...]
    folder: Path
    output: Path
    judge: Judge | None

    def check(self) -> None:
        """Raise where something is wrong that would show only after long work.

        Raises:
            EvoqError: The file's name, a folder that can't be written to, or a missing package.
        """
        if self.output.suffix != ".onnx":
            raise ArgumentError(f"output: given {str(self.output)!r}; allowed: a name ending in .onnx")
        check_writable("output", self.output)
        check_writable("calibrated", self.folder, folder=True)
        check_packages()

    def ship(self, network: QuantizedNetwork, policy: Policy) -> tuple[Table, Verification]:
        """Calibrate, export, verify and measure one policy.

        Returns:
            The summary, and what verifying found.
        """
        calibrated = calibrate(network, policy, self.steps)
        console.print(calibrated.report.table())

        def write(folder: Path) -> None:
            calibrated.save(folder)
            write_recipe(folder / RECIPE_FILE, self.recipe)

        save_result(self.folder, write)
        provenance = {"recipe": self.recipe.to_json()}
        target = "avx2" if saturates() else DEFAULT_TARGET  # the file is verified, and runs, here
        console.say(
            str(
                save_result(
                    self.output, lambda path: export_onnx(calibrated, path, target=target, provenance=provenance)
                )
            )
        )
        verified = verify_onnx(self.output, calibrated, network.samples)
        console.print(verified.table())
        return self._summary(network, policy, calibrated, verified), verified

    def _summary(
        self, network: QuantizedNetwork, policy: Policy, calibrated: CalibratedNetwork, verified: Verification
    ) -> Table:
        """Return float, chosen and shipped network side by side."""
        judge = self.judge
        table = Table(
            "network", "size (KiB)", "one image in onnxruntime (ms)", f"{judge.measure if judge else 'accuracy'} (%)"
        )
        floating = sum(p.numel() * p.element_size() for p in network.network.parameters())
        cost = network.cost(policy)
        latency = verified.latency
        shipped = OnnxNetwork(
            self.output,
            decoder=attribute_of(network.network, "decoder", BoxDecoder),
            class_names=attribute_of(network.network, "class_names", tuple),
        )
        rows: list[tuple[str, float, float | None, nn.Module]] = [
            ("float", floating / 1024, latency.float_onnx if latency else None, network.network),
            ("chosen, before calibration", 1024 * (cost.size_mib + cost.overhead_mib), None, network.apply(policy)),
            ("shipped", verified.size / 1024, latency.onnx if latency else None, shipped),
        ]
        for name, size, time, module in rows:
            accuracy = None if judge is None else judge.accuracy_of(module)
            table.add_row(name, f"{size:.1f}", "-" if time is None else f"{time:.3f}", as_percent(accuracy))
        return table


def ship_command(
    source: Annotated[Path, typer.Argument(help="Folder of a run, or its front file.")],
    *,
    pick: Annotated[str, typer.Option(help=f"Which policy: {PICKS}.")] = "knee",
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file.")] = Path("model.onnx"),
    calibrated: Annotated[
        Path | None, typer.Option(help="Folder of the calibrated network; default: `calibrated` in the run's folder.")
    ] = None,
    steps: Annotated[
        str,
        typer.Option(
            help=f"Of calibration: light ({','.join(LIGHT)}), full ({','.join(FULL)}), or names with commas among "
            f"{', '.join(STEPS)}."
        ),
    ] = "full",
    images: LabelledImagesOption = None,
    labels: LabelsOption = None,
    annotations: Annotations = None,
    limit: Limit = None,
    resize: Resize = None,
    crop: Crop = None,
    mean: Mean = None,
    std: Std = None,
    threads: Annotated[int | None, typer.Option(help="Micro-batches computed at once; default: one a core.")] = None,
    model: Factory = None,
    trust: Trust = False,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Calibrate, export, verify and measure one policy of a front: a file that runs, and what it costs and reaches."""
    form = TableForm.of(as_json, as_csv)
    front = load_front(source)
    policy = front.pick(pick)
    recipe = recipe_for(front, source, model=model, trust=trust)
    judge = None
    if images is not None or has_own_images(recipe):
        loaded, base = recipe.load_model()
        judge = judge_of(
            loaded,
            changed(base, resize=resize, crop=crop, mean=mean, std=std),
            recipe,
            images=images,
            labels=labels,
            annotations=annotations,
            limit=limit,
            threads=threads,
        )
    shipping = Shipping(
        recipe=recipe,
        steps=checked_calibration(steps),
        folder=calibrated_folder(source, calibrated),
        output=output,
        judge=judge,
    )
    shipping.check()
    network = recipe(threads=threads, progress=True)
    check_costs([front.point_of(policy)], network.space)
    ship_point(front, policy, network, shipping, form)
    say_next("report", source, "--calibrated", shipping.folder, "-o", "report.html")


def ship_point(
    front: ParetoFront, policy: Policy, network: QuantizedNetwork, shipping: Shipping, form: TableForm
) -> None:
    """Ship one policy, and say what came of it; exit code 1 where the file is not what it should be."""
    row = front.points.index(front.point_of(policy))
    summary, verified = shipping.ship(network, policy)
    summary.title = f"point {row} of the front"
    if shipping.judge is not None:
        summary.title += f", {shipping.judge.count} images of {shipping.judge.images}"
    emit(summary, form)
    files(shipping.folder, "calibrated.json", "calibrated.safetensors", RECIPE_FILE)
    console.say(f"file: {shipping.output}")
    for problem in verified.problems:
        if problem in verified.slow:  # as it may be for a network this small, or on a busy machine
            console.say(f"slow: {problem}", style="yellow")
        else:
            console.say(f"mismatch: {problem}", style="red")
    if set(verified.problems) - set(verified.slow):
        raise typer.Exit(1)
