"""How `surrogate_fit.py` trains the surrogate problems' models, and chooses among them: no command of its own."""

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console

from evoq_moo.problems._surrogate_model import AdditiveModel, NoiseModel
from evoq_moo.sensitivity import SensitivityTable

console = Console()
SMALLEST = 1e-9
KNOTS = np.linspace(-12, 3, 6)
RIDGE = {"gene": 0.01, "bits": 0.1, "shared": 0.01, "shared_bits": 0.1, "shift": 0.1, "bends": 0.01}
DIRECTIONS = (0, 4, 8)
PENALTIES = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
STEPS = 600
UNITS = (16, 32)
UNIT_PENALTIES = (2.0, 5.0, 15.0, 50.0)
UNIT_STEPS = 1500
BATCH = 1024
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


def rows_of(table: SensitivityTable, X: Array) -> torch.Tensor:
    """Return gene * bits + column of every gene, `(n, genes)`."""
    return torch.tensor(table.columns(X) + np.arange(X.shape[1]) * len(table.bits))


def minimize(net: torch.nn.Module, loss: Callable[[], torch.Tensor], *, steps: int, rate: float) -> None:
    """Minimize a loss over a network's parameters by Adam, in one cycle of learning rates up to `rate`."""
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()


def fitted(table: SensitivityTable, X: Array, y: Array, *, directions: int, penalty: float) -> NoiseModel:
    """Return the model without units that fits log differences with a ridge penalty, on all policies at once."""
    net = Fit(table, directions)
    rows = rows_of(table, X)
    target = torch.tensor(np.log(np.maximum(y, SMALLEST)), dtype=torch.float32)
    minimize(
        net,
        lambda: (net(rows) - target).square().mean() + penalty * net.penalty() / len(X),
        steps=STEPS,
        rate=0.06,
    )
    return net.model()


def with_units(
    table: SensitivityTable, model: NoiseModel, X: Array, y: Array, *, units: int, penalty: float
) -> NoiseModel:
    """Return the model with units fitted to what it leaves over, on random batches."""
    if units == 0:
        return model
    net = Units(X.shape[1], len(table.bits), units)
    rows = rows_of(table, X)
    value = torch.tensor(np.log(predictions(table, model, X)), dtype=torch.float32)
    target = torch.tensor(np.log(np.maximum(y, SMALLEST)), dtype=torch.float32) - value
    generator = torch.Generator().manual_seed(0)

    def loss() -> torch.Tensor:
        batch = torch.randint(len(X), (min(BATCH, len(X)),), generator=generator)
        return (net(rows[batch], value[batch]) - target[batch]).square().mean() + penalty * net.penalty() / len(X)

    minimize(net, loss, steps=UNIT_STEPS, rate=0.02)
    return dataclasses.replace(model, **net.arrays())


def predictions(table: SensitivityTable, model: NoiseModel | AdditiveModel, X: Array) -> Array:
    """Return the differences of a model."""
    columns = table.columns(X)
    return model.differences(model.terms[np.arange(X.shape[1]), columns].sum(axis=1))


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
        model = with_units(table, base, X[~check], y[~check], units=units, penalty=penalty)
        judge(dataclasses.replace(best, units=units, unit_penalty=penalty), model)
    return min(errors, key=lambda choice: errors[choice])
