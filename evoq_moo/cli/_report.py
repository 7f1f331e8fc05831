"""The command `evoq report`."""

from pathlib import Path
from typing import Annotated

import typer

from evoq_moo.cli._console import console
from evoq_moo.cli._trust import Trust
from evoq_moo.files import check_writable
from evoq_moo.front import PICKS
from evoq_moo.report import write_report


def report_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, in progress or not, or a front file.")],
    *,
    pick: Annotated[str, typer.Option(help=f"The policy to show first: {PICKS}.")] = "knee",
    calibrated: Annotated[
        Path | None,
        typer.Option(help="Folder that `evoq calibrate` wrote; default: `calibrated` in the run's folder, if there."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")] = Path("report.html"),
    trust: Trust = False,
) -> None:
    """Write a run as one HTML file that needs no network: front, maps, chosen policy, calibration, provenance."""
    check_writable("output", output)
    data = write_report(run, output, pick=pick, calibrated=calibrated, trust=trust)
    for note in data.notes:
        console.print(note, style="yellow")
    points = len(data.front) if data.front is not None else 0
    console.say(f"{output}: {points} points on the front")
