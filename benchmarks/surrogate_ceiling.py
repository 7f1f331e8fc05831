"""How well any surrogate could rank policies: the same policies under changes that mean nothing.

    python benchmarks/surrogate_ceiling.py digits --data data --count 300

The first so many held-out policies are evaluated again: on another draw of as many samples, and with `--rounding` by
the reference engine (the same arithmetic, sums rounded in another order). Kendall's tau between the two is what a
perfect model of the noise's size could reach, if rounding and the draw are taken as chance. The shipped surrogate's
agreement on the same policies stands beside it.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from surrogate_data import recipe_of
from surrogate_fit import agreement, held_out, load

from evoq_moo.problems import get_problem

console = Console()


def main(
    name: Annotated[str, typer.Argument(help="Name of a network.")],
    *,
    data: Annotated[Path, typer.Option(help="Folder of surrogate_data.py.")] = Path("data"),
    count: Annotated[int, typer.Option(help="Number of policies.")] = 300,
    rounding: Annotated[bool, typer.Option(help="Evaluate by the reference engine too.")] = False,
) -> None:
    """Measure."""
    table, X, y, _, place, _ = load(name, data)
    rows = np.flatnonzero(held_out(place))[:count]
    console.print(name, "surrogate", agreement(y[rows], get_problem(f"{name}-bops").values(X[rows])["difference"]))
    recipe = recipe_of(name)
    changes = {"another draw of samples": dataclasses.replace(recipe, samples_seed=1)}
    if rounding:
        changes["reference engine"] = dataclasses.replace(recipe, engine="reference")
    for label, changed in changes.items():
        network = changed(threads=1)
        again = np.array([network.difference_of(bits) for bits in table.space.decode(X[rows])])
        console.print(name, label, agreement(y[rows], again))


if __name__ == "__main__":
    typer.run(main)
