"""How well any surrogate could rank near-lossless policies: the same policies under changes that mean nothing.

    python benchmarks/surrogate_ceiling.py digits --data data --count 150

Of the evaluated policies with a difference below 0.05 the first so many are evaluated again: by the reference engine
(the same arithmetic, sums rounded in another order), and by the same engine on another draw of as many samples.
Kendall's tau between the two is what a perfect model of the noise's size could reach, if rounding and the draw are
taken as chance.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from surrogate_data import recipe_of
from surrogate_fit import NEAR, agreement, load

console = Console()


def main(
    name: Annotated[str, typer.Argument(help="Name of a network.")],
    *,
    data: Annotated[Path, typer.Option(help="Folder of surrogate_data.py.")] = Path("data"),
    count: Annotated[int, typer.Option(help="Number of policies.")] = 150,
) -> None:
    """Measure."""
    table, X, y, *_ = load(name, data)
    near = np.flatnonzero(y < NEAR)[:count]
    recipe = recipe_of(name)
    for label, changed in (
        ("reference engine", dataclasses.replace(recipe, engine="reference")),
        ("another draw of samples", dataclasses.replace(recipe, samples_seed=1)),
    ):
        network = changed(threads=1)
        again = np.array([network.difference_of(bits) for bits in table.space.decode(X[near])])
        console.print(name, label, agreement(y[near], again))


if __name__ == "__main__":
    typer.run(main)
