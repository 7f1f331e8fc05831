"""The names of the commands, known before any of them is imported: help and a wrong name need no torch."""

import logging
from typing import Annotated, Any

import typer
from rich.logging import RichHandler
from typer.core import TyperCommand, TyperGroup

from evoq_moo.cli._console import console, errors
from evoq_moo.cli._next import NOTHING_KEPT, say_if_interrupted

COMMANDS = {
    "demo": "Run the whole job on the embedded digits network, from search to shipped file.",
    "models": "List the networks that are known by name, with their costs at their input size, or show one of them.",
    "profile": "Measure each layer's time here as it ships, beside the float network.",
    "search": "Search for the front of output difference against cost.",
    "show": "Show a front as a table, or one of its policies layer by layer.",
    "evaluate": "Measure accuracy on labelled images: of one policy beside the float network, or the curve of a whole"
    " front.",
    "ship": "Calibrate, export, verify and measure one policy of a front: a file that runs.",
    "calibrate": "Calibrate one policy of a front with the run's own samples, and write its parameters.",
    "export": "Write a calibrated network as a file that other programs run.",
    "verify": "Check an exported file against the network it was made from; exit code 1 where they differ.",
    "report": "Write a run as one HTML file that needs no network.",
    "compare": "Run every algorithm on every problem with every seed; the same command goes on where it was.",
}
"""Each command and what its own help begins with."""


class Commands(TyperGroup):
    """The commands by their names; the one that is called is imported then."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: TyperCommand(name, help=text) for name, text in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Return the command that is called and its arguments."""
        if args and args[0] in COMMANDS:
            from evoq_moo.cli._app import app

            group: Any = typer.main.get_command(app)
            return args[0], group.commands[args[0]], args[1:]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="evoq",
    cls=Commands,
    help="Mixed-precision quantization of neural networks as a multi-objective search.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _common(verbose: Annotated[bool, typer.Option("--verbose", help="Show notes on the network.")] = False) -> None:
    say_if_interrupted(NOTHING_KEPT)
    console.stderr = False
    console.follow_terminal()
    errors.follow_terminal()
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=errors, show_path=False, show_time=False)],
    )
