"""The command `evoq compare`."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from evoq_moo.cli._console import console
from evoq_moo.cli._next import GOES_ON, say_if_interrupted
from evoq_moo.cli._tables import Csv, Json, TableForm, emit
from evoq_moo.cli._trust import Trust
from evoq_moo.errors import ArgumentError, MissingPackageError
from evoq_moo.study import INDICATORS, Study, StudyResults, read_study


def compare_command(
    file: Annotated[Path, typer.Argument(help="TOML file that describes the study.")],
    *,
    workers: Annotated[int | None, typer.Option(help="Run on this many processes.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Run on the Dask cluster of this scheduler, like tcp://host:8786.")
    ] = None,
    indicator: Annotated[str, typer.Option(help=f"What to print: {', '.join(INDICATORS)}.")] = "hypervolume",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; default: the file's `path`.")] = None,
    plots: Annotated[bool, typer.Option(help="Draw curves, runtimes, attainment and ranks into plots/.")] = True,
    trust: Trust = False,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Run every algorithm on every problem with every seed; the same command goes on where it was."""
    form = TableForm.of(as_json, as_csv)
    arguments = read_study(file, output=output, trust=trust)
    say_if_interrupted(GOES_ON)
    with _executor(workers, scheduler) as executor:
        results = Study(**arguments, executor=executor).run()
    if form is TableForm.TEXT:
        for problem in results.problems:
            console.print(_table(results, (problem,), indicator))
    else:
        emit(_table(results, results.problems, indicator), form)
    if results.ranks_problems:
        ranking = results.friedman(indicator=indicator)
        order = np.argsort(ranking.average_ranks)
        ranks = ", ".join(f"{ranking.names[i]} {ranking.average_ranks[i]:.2f}" for i in order)
        console.print(
            f"average ranks over {len(results.problems)} problems: {ranks}\nFriedman p = {ranking.p_value:.2g}, "
            f"critical difference {ranking.critical_difference:.2f} (Nemenyi, {ranking.alpha:g})"
        )
    written = results.save()
    if plots:
        drawn = results.save_plots(indicator=indicator)
        console.say(f"{len(drawn)} pictures in {drawn[0].parent}")
    console.say(f"files: {', '.join(str(path) for path in written)}; each run's archive in runs/")


def _executor(workers: int | None, scheduler: str | None) -> AbstractContextManager[Executor | int | None]:
    """Return what a study runs on, as a context.

    Raises:
        ArgumentError: Both are given, or there is no scheduler at the address.
        MissingPackageError: Dask isn't installed.
    """
    if workers is not None and scheduler is not None:
        raise ArgumentError("workers, scheduler: given both; allowed: one of them")
    return _given(workers) if scheduler is None else _dask(scheduler)


@contextmanager
def _given(workers: int | None) -> Iterator[int | None]:
    yield workers


@contextmanager
def _dask(scheduler: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise MissingPackageError("--scheduler needs Dask: pip install 'evoq-moo[dask]'") from error
    try:
        client: Any = Client(scheduler, timeout=30)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ArgumentError(f"scheduler: given {scheduler!r}; no Dask scheduler answers there: {error}") from error
    with client:
        yield client.get_executor()


def _table(results: StudyResults, problems: Sequence[str], indicator: str) -> Table:
    """Return the algorithms on some problems, best first on each."""
    rows = results.summary(indicator=indicator)
    rows = rows[rows["problem"].isin(problems)]
    one = len(problems) == 1
    table = Table(title=f"{problems[0]}: {indicator}, {int(rows['runs'].min())} seeds" if one else None)
    for column in ("problem", "algorithm", "median", "95 % interval", "A12 of the best over it", "p (Holm)"):
        if column != "problem" or not one:
            table.add_column(column, justify="left" if column in {"problem", "algorithm"} else "right")
    for row in rows.itertuples():
        first = np.isnan(row.p_holm)
        table.add_row(
            *(() if one else (row.problem,)),
            row.algorithm,
            f"{row.median:.4f}",
            f"{row.low:.4f} .. {row.high:.4f}",
            "" if first else f"{row.a12:.2f}",
            "" if first else f"{row.p_holm:.2g}",
        )
    return table
