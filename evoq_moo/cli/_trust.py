"""Options by which a user consents to what a file names, and what they do."""

from pathlib import Path
from typing import Annotated

import typer

from evoq_moo.front import ParetoFront
from evoq_moo.runs import Recipe, recipe_of

Trust = Annotated[
    bool,
    typer.Option("--trust", help="I know who made the given files: run the code and read the files that they name."),
]
Factory = Annotated[
    str | None, typer.Option("--model", help="The run's package.module:factory again, to allow it to run.")
]


def recipe_for(front: ParetoFront, source: Path, *, model: str | None, trust: bool) -> Recipe:
    """Return the recipe of a front, with the user's consent where it was given.

    Raises:
        ArgumentError: `model` is another one than the recipe's.
        TrustError: The recipe needs consent.
        FormatError: The front holds no recipe.
    """
    recipe = recipe_of(front, source=source, trust=trust)
    if model is not None:
        recipe = recipe.vouch(model)
    recipe.check_trust()
    return recipe
