"""The command line: `evoq`, or `python -m evoq_moo`."""

import sys

from rich.console import Console

from evoq_moo.cli._app import app
from evoq_moo.errors import EvoqError

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; errors of ours become one line and exit code 1, Ctrl-C exit code 130."""
    try:
        app()
    except EvoqError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; the same command goes on where it was", style="yellow")
        sys.exit(130)
