"""Fit the surrogate problems of `evoq_moo.problems.get_problem`, judge them, and write their files.

    python benchmarks/surrogate_fit.py fit digits --data data       # writes problems/data/digits.npz
    python benchmarks/surrogate_fit.py show                         # fidelity and speed of all files

`data` is the folder of `surrogate_data.py`. Every fifth policy of its sequence is held out: no fit and no choice ever
sees it. Of the others every fifth again chooses the number of directions and the ridge penalty of the noise model, then
the number of rectified units, if any, that learn what is left over, and their penalty; the chosen model is then fitted
on all but the held-out ones.

`surrogate_training.py` has the training, `surrogate_references.py` the frozen references.
"""

import dataclasses
import itertools
import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau
from surrogate_data import KINDS, policies
from surrogate_references import reference_of
from surrogate_training import DIRECTIONS, PENALTIES, choose, predictions

from evoq_moo.evaluation import EvaluationStore
from evoq_moo.files import write_atomically
from evoq_moo.problems import get_problem, problem_names
from evoq_moo.problems._suite import VARIANTS, write_surrogate
from evoq_moo.problems._surrogate_model import AdditiveModel
from evoq_moo.problems.surrogate import Surrogate
from evoq_moo.sensitivity import SensitivityTable

app = typer.Typer(add_completion=False, help=__doc__)
console = Console()
FILES = Path(__file__).resolve().parents[1] / "problems" / "data"
NEAR = 0.05
Array = np.ndarray[Any, Any]


def held_out(place: Array) -> Array:
    """Return which places of the sequence are held out."""
    return np.asarray(place % 5 == 4)


def agreement(y: Array, p: Array) -> dict[str, float]:
    """Return how well predictions agree with measured differences."""
    near = y < NEAR
    error = np.abs(p / y - 1)
    quantiles = {f"relative_error_{q}": float(np.quantile(error, q / 100)) for q in (50, 90, 99)} if len(y) else {}
    return {
        "policies": len(y),
        "tau": kendall(y, p),
        "policies_below_0.05": int(near.sum()),
        "tau_below_0.05": kendall(y[near], p[near]),
        **quantiles,
    }


def kendall(y: Array, p: Array) -> float:
    """Return Kendall's tau, NaN of fewer than ten."""
    return float(kendalltau(y, p).statistic) if len(y) >= 10 else float("nan")


def load(name: str, data: Path) -> tuple[SensitivityTable, Array, Array, Array, Array, dict[str, Any]]:
    """Return the table; vectors, differences, kinds and places in the sequence of what was evaluated; and its origin.

    A policy that the sequence holds twice counts once, at its first place.
    """
    table = SensitivityTable.load(data / f"{name}.sensitivity.json")
    origin = json.loads((data / f"{name}.json").read_text())
    X, kinds = policies(table, origin["policies"])
    with EvaluationStore(data / f"{name}.sqlite", shared=True) as store:
        bits, differences = store.archive(origin["fingerprint"], len(table.space.layers))
    known = {b.tobytes(): d for b, d in zip(bits, differences, strict=True)}
    y = np.array([known.get(b.tobytes(), np.nan) for b in table.space.decode(X)])
    first = np.zeros(len(X), dtype=bool)
    first[np.unique(X, axis=0, return_index=True)[1]] = True
    kept = np.flatnonzero(first & ~np.isnan(y))
    return table, X[kept], y[kept], kinds[kept], kept, origin


@app.command()
def fit(
    name: Annotated[str, typer.Argument(help="Name of a network.")],
    *,
    data: Annotated[Path, typer.Option(help="Folder of surrogate_data.py.")] = Path("data"),
    rounds: Annotated[int, typer.Option(help="Rounds of the Pareto local search.")] = 60,
    points: Annotated[int, typer.Option(help="Points it keeps.")] = 1000,
    directions: Annotated[list[int] | None, typer.Option(help="Choose among these; repeatable.")] = None,
    penalties: Annotated[list[float] | None, typer.Option(help="The same of the penalty.")] = None,
) -> None:
    """Choose, fit and judge a model, and write its file."""
    torch.set_num_threads(1)
    table, X, y, kinds, place, origin = load(name, data)
    held = held_out(place)
    console.print(f"{name}: {len(y)} evaluations, {held.sum()} held out, {(y < NEAR).sum()} below {NEAR}")
    grid = list(itertools.product(directions or DIRECTIONS, penalties or PENALTIES))
    choice = choose(table, X[~held], y[~held], place[~held], grid)
    model = choice.fitted(table, X[~held], y[~held])
    p = predictions(table, model, X)
    additive = predictions(table, AdditiveModel(sensitivity=table), X)
    on_front = np.isin(kinds, [KINDS.index("front"), KINDS.index("near")])
    fidelity = {
        "held_out": agreement(y[held], p[held]),
        "held_out_random": agreement(y[held & ~on_front], p[held & ~on_front]),
        "held_out_on_and_near_the_additive_front": agreement(y[held & on_front], p[held & on_front]),
        "additive_model_held_out": agreement(y[held], additive[held]),
    }
    provenance = {
        **origin,
        "evaluations": len(y),
        "fitted_on": int((~held).sum()),
        **dataclasses.asdict(choice),
        "scripts": ["benchmarks/surrogate_data.py", "benchmarks/surrogate_fit.py"],
    }
    surrogate = Surrogate(network=name, sensitivity=table, model=model, provenance=provenance, fidelity=fidelity)
    console.print_json(json.dumps(fidelity))
    references = {}
    for variant in VARIANTS:
        start = time.time()
        references[variant] = reference_of(surrogate, variant, rounds=rounds, points=points)
        console.print(f"{variant}: {len(references[variant].points)} points, {time.time() - start:.1f} s")
    FILES.mkdir(exist_ok=True)
    write_atomically(FILES / f"{name}.npz", write_surrogate(surrogate, references))


@app.command()
def show() -> None:
    """Print the held-out fidelity of every file, and policies a second on one core."""
    shown = Table(
        "network", "genes", "evaluations", "held out", "tau", "tau random", "tau near front", "tau < 0.05",
        "additive, < 0.05", "rel. error 50/90 %", "policies/s",
    )  # fmt: skip
    for name in problem_names():
        if not name.endswith("-size-bops"):
            continue
        problem = get_problem(name)
        found = problem.surrogate.fidelity
        X = problem.space.sample(50_000, np.random.default_rng(0))
        start = time.process_time()
        problem.evaluate(X)
        speed = len(X) / (time.process_time() - start)
        held = found["held_out"]
        shown.add_row(
            problem.surrogate.network,
            str(problem.n_var),
            str(problem.surrogate.provenance["evaluations"]),
            str(held["policies"]),
            f"{held['tau']:.3f}",
            f"{found['held_out_random']['tau']:.3f}",
            f"{found['held_out_on_and_near_the_additive_front']['tau']:.3f}",
            f"{held['tau_below_0.05']:.3f}",
            f"{found['additive_model_held_out']['tau_below_0.05']:.3f}",
            f"{held['relative_error_50']:.2f}/{held['relative_error_90']:.2f}",
            f"{speed:,.0f}",
        )
    console.print(shown)


if __name__ == "__main__":
    app()
