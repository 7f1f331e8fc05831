"""How much faster two Dask workers of one thread are than one, on real evaluations of the digits network.

    python benchmarks/dask_scaling.py --runs 8 --evaluations 150

A cluster on loopback for each number of workers, each warmed up by a run a worker (so that every worker has made the
network), then a study of random searches, timed from submitting to the last file. Means something only where as many
cores are free.
"""

import tempfile
import time
from typing import Annotated

import typer
from distributed import Client, LocalCluster
from rich.console import Console

import evoq_moo as evoq
from evoq_moo.study import NetworkProblem, Study

console = Console()
PROBLEM = NetworkProblem(name="digits", recipe=evoq.Recipe(model="digits"))


def seconds(workers: int, runs: int, evaluations: int) -> float:
    """Return the time that a study of random searches takes on so many workers."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        options = {
            "problems": [PROBLEM],
            "algorithms": ["random"],
            "executor": client.get_executor(),
            "progress": False,
        }
        path = f"{folder}/study"
        warm = Study(**options, seeds=range(1000, 1000 + 2 * workers), budget=evaluations, path=path)
        warm.run()
        start = time.perf_counter()
        Study(**options, seeds=range(runs), budget=evaluations, path=path).run()
        return time.perf_counter() - start


def main(
    *,
    runs: Annotated[int, typer.Option(help="Runs of the timed study.")] = 8,
    evaluations: Annotated[int, typer.Option(help="Evaluations of each.")] = 150,
) -> None:
    """Measure."""
    one, two = (seconds(workers, runs, evaluations) for workers in (1, 2))
    console.print(
        f"{runs} runs of {evaluations} evaluations: one worker {one:.1f} s, two {two:.1f} s, {one / two:.2f} times",
        highlight=False,
    )


if __name__ == "__main__":
    typer.run(main)
