"""Run our own search on the bit sets that another tool can express, with the wall time of everything it needs.

Runs in our environment:

    python benchmarks/peers/run_ours.py /tmp/peers/exports/cifar10_resnet20 --weight-bits 2,4,8 --activation-bits 8 \
        --objective size --evaluations 1000 --output /tmp/peers/results/cifar10_resnet20/ours_248.json

What it runs is what `evoq_moo.search` does: a sparse sensitivity scan (two or three evaluations for each gene), then
`SurrogateSearch`. Counted in the time: clipping ranges and the engine (set-up), the scan, and the search.
`--evaluations` is what the scan and the search together may ask for. The file holds every policy of the search in
order, and when each generation ended, so that `compare.py` can say when the search first reached another tool's
hypervolume; `--front` writes its front. `compare.py` computes all those differences again, unless `--store` gave both
the same file.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

from _common import Clock, bit_set, float_forward_seconds, load_export, parser, write_result
from pymoo.core.algorithm import Algorithm
from pymoo.core.callback import Callback

import evoq_moo as evoq
from evoq_moo.problems import MixedPrecisionProblem


class GenerationTimes(Callback):
    """Wall time (s) since `start` at the end of each generation."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start = start
        self.seconds: list[float] = []

    def notify(self, algorithm: Algorithm) -> None:
        """Take the time; called by pymoo."""
        self.seconds.append(time.perf_counter() - self.start)


def recipe_of(description: dict[str, Any], weight_bits: str, activation_bits: str, threads: int | None) -> evoq.Recipe:
    """Return an export's recipe on other bit sets; ``"tied"`` activations have their layer's weight bits."""
    tied = activation_bits == "tied"
    return dataclasses.replace(
        evoq.Recipe.from_json(description["recipe"], trust=True),
        weight_bits=tuple(bit_set(weight_bits)),
        activation_bits=tuple(bit_set(weight_bits if tied else activation_bits)),
        tied=tied,
    )


def main() -> None:
    """Search and write what was evaluated."""
    made = parser(__doc__)
    made.add_argument("--weight-bits", default="2-8", help="e.g. 2-8 or 2,4,8")
    made.add_argument("--activation-bits", default="8", help="bit-widths, or 'tied' to the weights'")
    made.add_argument("--objective", choices=("size", "bops"), default="size")
    made.add_argument("--evaluations", type=int, default=1000, help="of the scan and the search together")
    made.add_argument("--pop-size", type=int, default=40, help="policies to start with")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--store", type=Path, help="new SQLite file to keep differences in, for compare.py --store")
    made.add_argument("--front", type=Path, help="write the front here")
    arguments = made.parse_args()
    if arguments.store is not None and arguments.store.exists():
        made.error(f"--store: {arguments.store} exists; what it knows would not be paid for in the wall time")
    export = load_export(arguments.export, threads=arguments.threads)
    recipe = recipe_of(export.description, arguments.weight_bits, arguments.activation_bits, arguments.threads)
    clock = Clock(forward_before=float_forward_seconds(export.model, export.samples))
    start = time.perf_counter()
    with clock.part("setup"):
        network = recipe(threads=arguments.threads, progress=False)
        problem = MixedPrecisionProblem(network, objectives=("difference", arguments.objective), store=arguments.store)
    with clock.part("scan"):
        sensitivity = evoq.measure_sensitivity(network, evaluator=problem.evaluator, method="sparse", progress=False)
    scanned = problem.evaluator.computed
    algorithm = evoq.SurrogateSearch(sensitivity, pop_size=arguments.pop_size)
    algorithm.callback = times = GenerationTimes(start)
    with clock.part("search"):
        run = evoq.run_search(
            problem,
            algorithm,
            evaluations=arguments.evaluations - scanned,
            seed=arguments.seed,
            progress=False,
            provenance={"settings": {"recipe": recipe.to_json()}},
        )
    clock.forward_after = float_forward_seconds(export.model, export.samples)
    bits = problem.space.decode(run.vectors)
    problem.close()
    if arguments.front is not None:
        arguments.front.parent.mkdir(parents=True, exist_ok=True)
        run.front.save(arguments.front)
    history = [
        {"seconds": round(s, 3), "evaluations": scanned + row.evaluations, "policies": row.policies}
        for s, row in zip(times.seconds, run.trace, strict=True)
    ]
    write_result(
        arguments.output,
        package="evoq-moo",
        label="ours",
        export=export,
        settings={
            "weight_bits": list(recipe.weight_bits),
            "activation_bits": "tied" if recipe.tied else list(recipe.activation_bits),
            "cost": arguments.objective,
            "algorithm": type(algorithm).__name__,
            "seed": arguments.seed,
            "engine": network.engine_name,
            "labels": False,
        },
        policies=[{"weight_bits": b[:, 0].tolist(), "activation_bits": b[:, 1].tolist()} for b in bits],
        clock=clock,
        evaluations=scanned + run.trace[-1].evaluations,
        evaluations_mean="output differences on all samples, the sparse scan included",
        more={"history": history},
        release=evoq.__version__,
    )


if __name__ == "__main__":
    main()
