"""The command `evoq demo`: the whole job on the embedded network."""

from pathlib import Path
from typing import Annotated, Any

import typer

from evoq_moo.cli._console import console
from evoq_moo.cli._images import (
    judge_of,
)
from evoq_moo.cli._next import (
    GOES_ON,
    say_if_interrupted,
    say_next,
)
from evoq_moo.cli._policy import print_policy
from evoq_moo.cli._search import Threads, end_search
from evoq_moo.cli._ship import CALIBRATED, Shipping, ship_point
from evoq_moo.cli._tables import TableForm
from evoq_moo.network import QuantizedNetwork
from evoq_moo.runs import (
    Recipe,
    RunSettings,
    checked_calibration,
    execute,
    load_front,
)


def demo_command(
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")] = Path("demo"),
    evaluations: Annotated[int, typer.Option(help="Evaluations of the search.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    threads: Threads = None,
) -> None:
    """Run the whole job on the embedded digits network, from search to shipped file. No files needed."""
    console.print("A small residual network on 8x8 digits, trained here once and kept in the cache.")
    recipe = Recipe(model="digits")
    settings = RunSettings(recipe=recipe, seed=seed)
    loaded, base = recipe.load_model()
    nothing: dict[str, Any] = {"images": None, "labels": None, "annotations": None, "limit": None}
    judge = judge_of(loaded, base, recipe, **nothing, threads=threads)
    shipping = Shipping(
        recipe=recipe,
        steps=checked_calibration("full"),
        folder=output / CALIBRATED,
        output=output / "model.onnx",
        judge=judge,
    )
    shipping.check()
    say_if_interrupted(GOES_ON)
    found: list[QuantizedNetwork] = []
    run = execute(settings, output, evaluations=evaluations, threads=threads, on_network=found.append)
    end_search(run, output, found[0], judge, settings, 8, "light")
    front = load_front(output)
    choice = front.choose("drop<=1")
    console.say(choice.reason)
    print_policy(front, choice.policy)
    ship_point(front, choice.policy, found[0], shipping, TableForm.TEXT)
    say_next("report", output, "-o", output / "report.html")
