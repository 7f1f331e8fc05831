"""Fit the surrogate problems of `evoq_moo.problems.get_problem`, judge them, and write their files.

    python benchmarks/surrogate_fit.py fit digits --data data       # writes problems/data/digits.npz
    python benchmarks/surrogate_fit.py show                         # fidelity and speed of all files
    python benchmarks/surrogate_fit.py redraw digits --data data    # how real evaluations of other samples agree

`data` is the folder of `surrogate_data.py`. Every fifth policy of its sequence is held out: no fit and no choice ever
sees it. Of the others every fifth again chooses the number of directions and the ridge penalty of the noise model, then
the number of rectified units, if any, that learn what is left over, and their penalty; the chosen model is then fitted
on all but the held-out ones.

Frozen references: the problem's own best known front, by a Pareto local search on the surrogate from the additive
fronts (moves of one or two genes and exchanges between points, for a number of rounds), thinned evenly along the curve;
the additive problems' are their exact fronts by dynamic programming. Ideal and nadir are those of that set.
"""

import dataclasses
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau
from surrogate_data import KINDS, front_of, policies, recipe_of

from evoq_moo._files import write_atomically
from evoq_moo.analysis import FrozenReference, nondominated
from evoq_moo.analysis._reference import log_scale
from evoq_moo.baselines import spread_rows
from evoq_moo.cost import COSTS
from evoq_moo.evaluation import Evaluator
from evoq_moo.problems import get_problem, problem_names
from evoq_moo.problems._suite import VARIANTS, variant_budgets, write_surrogate
from evoq_moo.problems._surrogate_model import AdditiveModel, NoiseModel
from evoq_moo.problems.surrogate import Surrogate, SurrogateProblem
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.store import EvaluationStore

app = typer.Typer(add_completion=False, help=__doc__)
console = Console()
FILES = Path(__file__).resolve().parents[1] / "problems" / "data"
NEAR = 0.05
SMALLEST = 1e-9
KNOTS = np.linspace(-12, 3, 6)
RIDGE = {"gene": 0.01, "bits": 0.1, "shared": 0.01, "shared_bits": 0.1, "shift": 0.1, "bends": 0.01}
DIRECTIONS = (0, 4, 8)
PENALTIES = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
STEPS = 600
UNITS = (0, 16, 32)
UNIT_PENALTIES = (2.0, 5.0, 15.0, 50.0)
UNIT_STEPS = 1500
BATCH = 1024
REFERENCE_POINTS = 500
Array = np.ndarray[Any, Any]


class Fit(torch.nn.Module):
    """The model of `NoiseModel` with its parameters as deviations from the sensitivity table."""

    def __init__(self, table: SensitivityTable, directions: int) -> None:
        super().__init__()
        genes, bits = table.values.shape
        generator = torch.Generator().manual_seed(0)
        measured = np.maximum(np.nan_to_num(table.values), SMALLEST)
        self.base = torch.tensor(np.log(measured) / 2, dtype=torch.float32)
        self.gene = torch.nn.Parameter(torch.zeros(genes, 1))
        self.bits = torch.nn.Parameter(torch.zeros(genes, bits))
        self.shared = torch.nn.Parameter(0.1 * torch.randn(genes, 1, directions, generator=generator))
        self.shared_bits = torch.nn.Parameter(torch.zeros(genes, bits, directions))
        self.shift = torch.nn.Parameter(torch.zeros(genes, bits))
        self.floor = torch.nn.Parameter(torch.tensor(-14.0))
        self.slope = torch.nn.Parameter(torch.tensor([0.0, 1.0]))
        self.knots = torch.tensor(KNOTS, dtype=torch.float32)
        self.bends = torch.nn.Parameter(torch.zeros(len(KNOTS)))

    def parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return own noise, shared noise and main effects of all genes and bits."""
        u = torch.exp(self.base + self.gene + self.bits)
        return u * u, u[..., None] * (self.shared + self.shared_bits), self.shift

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the log of the difference; `rows` are gene * bits + column, `(n, genes)`."""
        own, shared, shift = self.parts()
        table = torch.cat([own[..., None], shift[..., None], shared], dim=2).flatten(0, 1)
        sums = torch.nn.functional.embedding_bag(rows, table, mode="sum")
        level = torch.log(torch.exp(self.floor) + sums[:, 0] + sums[:, 2:].square().sum(1))
        bent = (torch.nn.functional.softplus(level[:, None] - self.knots) * self.bends).sum(1)
        return self.slope[0] + self.slope[1] * level + bent + sums[:, 1]

    def penalty(self) -> torch.Tensor:
        """Return the ridge penalty."""
        return sum(weight * getattr(self, name).square().sum() for name, weight in RIDGE.items())

    def model(self) -> NoiseModel:
        """Return the fitted numbers."""
        with torch.no_grad():
            own, shared, shift = (part.double().numpy() for part in self.parts())
            return NoiseModel(
                own=own,
                shared=shared,
                shift=shift,
                floor=float(self.floor.exp()),
                slope=self.slope.double().numpy(),
                knots=KNOTS,
                bends=self.bends.double().numpy(),
                **Units(*own.shape, 0).arrays(),
            )


class Units(torch.nn.Module):
    """The rectified units of `NoiseModel`: linear in a gene's place among the bit-widths, plus free deviations."""

    def __init__(self, genes: int, bits: int, units: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.place = torch.linspace(-1, 1, bits)[:, None]
        self.linear = torch.nn.Parameter(torch.randn(genes, 1, units, generator=generator) / genes**0.5)
        self.free = torch.nn.Parameter(torch.zeros(genes, bits, units))
        self.levels = torch.nn.Parameter(0.2 * torch.randn(units, generator=generator))
        self.offsets = torch.nn.Parameter(0.5 * torch.randn(units, generator=generator))
        self.readout = torch.nn.Parameter(torch.zeros(units))

    def forward(self, rows: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return what is added to the noise model's log differences `value`."""
        table = (self.linear * self.place + self.free).flatten(0, 1)
        sums = torch.nn.functional.embedding_bag(rows, table, mode="sum")
        return torch.relu(sums + value[:, None] * self.levels + self.offsets) @ self.readout

    def penalty(self) -> torch.Tensor:
        """Return the ridge penalty."""
        return sum(part.square().sum() for part in (self.linear, self.free, self.readout))

    def arrays(self) -> dict[str, Array]:
        """Return the fitted numbers as `NoiseModel` names them."""
        with torch.no_grad():
            parts = {"hidden": self.linear * self.place + self.free, "levels": self.levels, "offsets": self.offsets}
            return {name: part.double().numpy() for name, part in {**parts, "readout": self.readout}.items()}


def fitted(table: SensitivityTable, X: Array, y: Array, *, directions: int, penalty: float) -> NoiseModel:
    """Return the model that fits log differences with a ridge penalty, by full-batch Adam."""
    net = Fit(table, directions)
    rows = torch.tensor(table.columns(X) + np.arange(X.shape[1]) * len(table.bits))
    target = torch.tensor(np.log(np.maximum(y, SMALLEST)), dtype=torch.float32)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.06, total_steps=STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = (net(rows) - target).square().mean() + penalty * net.penalty() / len(X)
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.model()


def with_units(
    table: SensitivityTable, model: NoiseModel, X: Array, y: Array, *, units: int, penalty: float
) -> NoiseModel:
    """Return the noise model with units fitted to what it leaves over, by Adam on random batches."""
    if units == 0:
        return model
    net = Units(X.shape[1], len(table.bits), units)
    rows = torch.tensor(table.columns(X) + np.arange(X.shape[1]) * len(table.bits))
    value = torch.tensor(np.log(predictions(table, model, X)), dtype=torch.float32)
    target = torch.tensor(np.log(np.maximum(y, SMALLEST)), dtype=torch.float32) - value
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=UNIT_STEPS)
    for _ in range(UNIT_STEPS):
        batch = torch.randint(len(X), (min(BATCH, len(X)),), generator=generator)
        optimizer.zero_grad()
        loss = (net(rows[batch], value[batch]) - target[batch]).square().mean() + penalty * net.penalty() / len(X)
        loss.backward()
        optimizer.step()
        schedule.step()
    return dataclasses.replace(model, **net.arrays())


def predictions(table: SensitivityTable, model: NoiseModel | AdditiveModel, X: Array) -> Array:
    """Return the differences of a model."""
    columns = table.columns(X)
    return model.differences(model.terms[np.arange(X.shape[1]), columns].sum(axis=1))


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


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What validation chooses."""

    directions: int
    penalty: float
    units: int = 0
    unit_penalty: float = 0.0

    def fitted(self, table: SensitivityTable, X: Array, y: Array) -> NoiseModel:
        """Return the model of this choice, fitted."""
        model = fitted(table, X, y, directions=self.directions, penalty=self.penalty)
        return with_units(table, model, X, y, units=self.units, penalty=self.unit_penalty)


def choose(table: SensitivityTable, X: Array, y: Array, place: Array, grid: list[tuple[int, float]]) -> Choice:
    """Return the choice of the smallest squared error of every fifth policy: the noise model's, then its units'."""
    check = place % 5 == 3
    bases: dict[tuple[int, float], NoiseModel] = {}
    errors: dict[Choice, float] = {}

    def judge(choice: Choice, model: NoiseModel) -> None:
        errors[choice] = float(np.mean(np.square(np.log(predictions(table, model, X[check]) / y[check]))))
        console.print(f"  {choice}: {errors[choice]:.4f}", highlight=False)

    for directions, penalty in grid:
        bases[directions, penalty] = fitted(table, X[~check], y[~check], directions=directions, penalty=penalty)
        judge(Choice(directions=directions, penalty=penalty), bases[directions, penalty])
    best = min(errors, key=lambda choice: errors[choice])
    base = bases[best.directions, best.penalty]
    for units, penalty in itertools.product(UNITS, UNIT_PENALTIES):
        if units:
            model = with_units(table, base, X[~check], y[~check], units=units, penalty=penalty)
            judge(dataclasses.replace(best, units=units, unit_penalty=penalty), model)
    return min(errors, key=lambda choice: errors[choice])


def pareto_local_search(problem: SurrogateProblem, X: Array, *, points: int, rounds: int, seed: int) -> Array:
    """Return vectors of a front that no neighbour of one gene improves, thinned to so many points in each round."""
    rng = np.random.default_rng(seed)
    space = problem.space
    archive = keep(problem, X, points)
    for _ in range(rounds):
        near = np.repeat(archive, 40, axis=0)
        near[np.arange(len(near)), rng.integers(space.n_var, size=len(near))] += rng.choice([-1, 1], size=len(near))
        mates = archive[rng.integers(len(archive), size=len(archive) * 10)]
        mixed = np.where(
            rng.random(mates.shape) < rng.choice([0.02, 0.1, 0.5], size=(len(mates), 1)),
            mates,
            np.repeat(archive, 10, axis=0),
        )
        swap = near[rng.integers(len(near), size=len(near))].copy()
        swap[np.arange(len(swap)), rng.integers(space.n_var, size=len(swap))] += rng.choice([-1, 1], size=len(swap))
        found = space.snap(np.concatenate([archive, near, mixed, swap]))
        archive = keep(problem, found, points)
    return archive


def keep(problem: SurrogateProblem, X: Array, points: int) -> Array:
    """Return the feasible nondominated vectors, at most so many, evenly along the curve."""
    values = problem.evaluate(X, return_as_dictionary=True)
    feasible = (values["G"] <= 0).all(axis=1) if problem.budgets else np.ones(len(X), dtype=bool)
    X, F = X[feasible], values["F"][feasible]
    rows = np.flatnonzero(nondominated(F))
    return X[rows[thinned(F[rows], problem.objectives, points)]]


def thinned(F: Array, objectives: tuple[str, ...], points: int) -> Array:
    """Return rows of at most so many points: one of each cell of a grid on the logged, scaled objectives; the ends."""
    if len(F) <= points:
        return np.arange(len(F))
    values = np.where(log_scale(objectives), np.log(np.maximum(F, 1e-12)), F)
    scaled = (values - values.min(axis=0)) / np.ptp(values, axis=0)
    ends = np.concatenate([scaled.argmin(axis=0), scaled.argmax(axis=0)])
    cells = 2 * points
    while True:
        grid = np.floor(scaled[:, 1:] * cells ** (1 / (F.shape[1] - 1)))
        order = np.lexsort((scaled[:, 0], *grid.T))
        _, first = np.unique(grid[order], axis=0, return_index=True)
        rows = np.union1d(order[first], ends)
        if len(rows) <= points:
            return rows
        cells *= 0.9


def reference_of(surrogate: Surrogate, variant: str, *, rounds: int, points: int) -> FrozenReference:
    """Return the frozen reference of a variant, by so many rounds of search (twice the points in three objectives)."""
    objectives = VARIANTS[variant]
    table = surrogate.sensitivity
    if variant.startswith("additive"):
        cost = COSTS[0] if "size" in objectives else COSTS[1]
        front = front_of(table, cost)
        rows = spread_rows(front, REFERENCE_POINTS)
        F = np.column_stack([front.differences[rows], front.costs[rows]])
        exact = "the exact front" if front.exact else f"the front within {front.error_bound:.3g} of the cost"
        provenance = f"{REFERENCE_POINTS} points of {exact}, by dynamic programming (evoq_moo.baselines)"
    else:
        problem = SurrogateProblem(surrogate, objectives=objectives, budgets=variant_budgets(surrogate, variant))
        points *= len(objectives) - 1
        starts = [front_of(table, cost) for cost in COSTS]
        X = np.concatenate([front.vectors(spread_rows(front, 1000)) for front in starts])
        X = np.concatenate([X, table.space.lower[None], table.space.upper[None]])
        X = pareto_local_search(problem, X, points=points, rounds=rounds, seed=0)
        F = problem.evaluate(X, return_values_of=["F"])
        F = F[thinned(F, objectives, REFERENCE_POINTS)]
        provenance = (
            f"best known front of the surrogate: {rounds} rounds of Pareto local search from {points} points "
            "(benchmarks/surrogate_fit.py)"
        )
    F = F[np.lexsort(F.T)]
    return FrozenReference(
        objectives=objectives,
        log=log_scale(objectives),
        ideal=F.min(axis=0),
        nadir=F.max(axis=0),
        points=F,
        provenance=provenance,
    )


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
    held = place % 5 == 4
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


@app.command()
def redraw(
    name: Annotated[str, typer.Argument(help="Name of a network.")],
    *,
    data: Annotated[Path, typer.Option(help="Folder of surrogate_data.py.")] = Path("data"),
    limit: Annotated[int, typer.Option(help="Held-out policies to evaluate.")] = 300,
    draw: Annotated[int, typer.Option(help="Seed of the other draw of samples.")] = 1,
) -> None:
    """Evaluate held-out policies on another draw of as many samples, and print how the two real differences agree.

    The shipped surrogate's agreement with the first draw on the same policies stands beside it.
    """
    table, X, y, _, place, _ = load(name, data)
    rows = np.flatnonzero(place % 5 == 4)[:limit]
    network = dataclasses.replace(recipe_of(name), samples_seed=draw)(threads=1)
    with EvaluationStore(data / f"{name}.redraw{draw}.sqlite") as store:
        again = Evaluator(network, store=store).differences(table.space.decode(X[rows]))
    surrogate = get_problem(f"{name}-bops").values(X[rows])["difference"]
    console.print({"other draw": agreement(y[rows], again), "surrogate": agreement(y[rows], surrogate)})


if __name__ == "__main__":
    app()
