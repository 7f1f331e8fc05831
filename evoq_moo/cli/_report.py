"""The command `evoq report`."""

from pathlib import Path
from typing import Annotated

import typer

from evoq_moo.cli._console import console
from evoq_moo.cli._next import say_if_interrupted
from evoq_moo.cli._trust import Trust
from evoq_moo.errors import ArgumentError
from evoq_moo.files import check_writable
from evoq_moo.front import PICKS


def report_command(
    runs: Annotated[
        list[Path], typer.Argument(help="Folder of a run, in progress or not, or a front file; several: compare them.")
    ],
    *,
    pick: Annotated[str, typer.Option(help=f"The policy to show first: {PICKS}.")] = "knee",
    calibrated: Annotated[
        Path | None,
        typer.Option(help="Folder that `evoq calibrate` wrote; default: `calibrated` in the run's folder, if there."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")] = Path("report.html"),
    serve: Annotated[
        bool, typer.Option("--serve", help="Show it to this machine's browsers instead, following a running search.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of --serve; 0: any that is free.")] = 0,
    trust: Trust = False,
) -> None:
    """Write a run as one HTML file that needs no network: accuracies, front, maps, chosen policy, calibration.

    Of several runs it shows their fronts in one picture, and what they differ in.
    """
    from evoq_moo.report import ReportServer, write_comparison, write_report  # brings matplotlib

    if serve:
        if len(runs) > 1 or calibrated is not None:
            raise ArgumentError("serve: given with several runs or --calibrated; allowed: with one run")
        server = ReportServer(runs[0], port=port, pick=pick, trust=trust)
        console.say(f"{server.url}  (Ctrl-C ends it)")
        say_if_interrupted("stopped: the page is no longer served")
        server.serve()
        return
    check_writable("output", output)
    if len(runs) > 1:
        if calibrated is not None:
            raise ArgumentError(f"calibrated: given {calibrated} with {len(runs)} runs; allowed: with one")
        write_comparison(runs, output)
        console.say(f"{output}: {len(runs)} runs")
        return
    data = write_report(runs[0], output, pick=pick, calibrated=calibrated, trust=trust)
    for note in data.notes:
        console.print(note, style="yellow")
    points = len(data.front) if data.front is not None else 0
    console.say(f"{output}: {points} points on the front")
