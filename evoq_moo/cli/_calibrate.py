"""The command `evoq calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from evoq_moo._text import parse_names
from evoq_moo.calibration import FULL, LIGHT, PRESETS, STEPS, calibrate, check_steps
from evoq_moo.cli._console import console, files
from evoq_moo.cli._results import save_result
from evoq_moo.cli._trust import Factory, Trust, recipe_for
from evoq_moo.files import check_writable
from evoq_moo.front import PICKS, check_costs
from evoq_moo.runs import RECIPE_FILE, load_front, write_recipe


def calibrate_command(
    front: Annotated[Path, typer.Argument(help="Folder of a run, or its front file.")],
    *,
    pick: Annotated[str, typer.Option(help=f"Which policy: {PICKS}.")] = "knee",
    steps: Annotated[
        str,
        typer.Option(
            help=f"light ({','.join(LIGHT)}), full ({','.join(FULL)}), or names with commas among {', '.join(STEPS)}."
        ),
    ] = "full",
    folds: Annotated[int, typer.Option(help="Parts of the cross-validation; time grows with it.")] = 2,
    mirror: Annotated[
        bool | None, typer.Option(help="Fit to mirror images of the samples too; default: where levels are fitted.")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds after which no further step or block begins.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the parts and draws.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Micro-batches computed at once; default: one a core.")] = None,
    model: Factory = None,
    trust: Trust = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the calibrated network.")] = Path(
        "calibrated"
    ),
) -> None:
    """Calibrate one policy of a front with the run's own samples, and write its parameters."""
    check_writable("output", output, folder=True)
    names = check_steps(steps if steps in PRESETS else parse_names(steps))
    loaded = load_front(front)
    policy = loaded.pick(pick)
    recipe = recipe_for(loaded, front, model=model, trust=trust)
    network = recipe(threads=threads, progress=True)
    check_costs([loaded.point_of(policy)], network.space)
    calibrated = calibrate(
        network,
        policy,
        names,
        folds=folds,
        mirror=mirror,
        time_limit=time_limit,
        seed=seed,
    )
    console.print(calibrated.report.table())

    def write(folder: Path) -> None:
        calibrated.save(folder)
        write_recipe(folder / RECIPE_FILE, recipe)

    save_result(output, write)
    files(output, "calibrated.json", "calibrated.safetensors", RECIPE_FILE)
