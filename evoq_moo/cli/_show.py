"""The command `evoq show`."""

from pathlib import Path
from typing import Annotated

import typer

from evoq_moo.cli._costs import limit_options, with_options
from evoq_moo.cli._next import (
    consent_words,
    say_next,
)
from evoq_moo.cli._policy import print_policy
from evoq_moo.cli._tables import Csv, Json, TableForm, emit
from evoq_moo.front import PICKS
from evoq_moo.runs import (
    load_front,
)


@with_options(limit_options())
def show_command(
    front: Annotated[Path, typer.Argument(help="Folder of a run, or a front file.")],
    *,
    pick: Annotated[str | None, typer.Option(help=f"Show one policy: {PICKS}.")] = None,
    as_json: Json = False,
    as_csv: Csv = False,
    **limits: float | None,
) -> None:
    """Show a front as a table, or one of its policies layer by layer."""
    form = TableForm.of(as_json, as_csv)
    loaded = load_front(front)
    if pick is None:
        emit(loaded.under(**limits).table(title=str(front)), form)
    elif form is TableForm.TEXT:
        print_policy(loaded, loaded.pick(pick))
    else:
        emit(loaded.pick(pick).table(), form)
    say_next("ship", front, "--pick", pick or "knee", "-o", "model.onnx", *consent_words(front))
