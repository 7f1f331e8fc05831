"""`Cost`: what a policy costs, as a sum over layers; and the registry of all costs by name."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np

from evoq_moo.costs.genes import GeneTables, layer_choices
from evoq_moo.errors import ArgumentError, BitWidthError, check_name, check_number
from evoq_moo.space import ACTIVATION, ALLOWED_BITS, WEIGHT, FloatArray, IntArray, LayerInfo, SearchSpace

_COLUMN = np.full(max(ALLOWED_BITS) + 1, -1, dtype=np.int64)
_COLUMN[list(ALLOWED_BITS)] = np.arange(len(ALLOWED_BITS))
UNKNOWN = -1
"""What :meth:`Cost.layer_counts` holds for bit-widths that a cost can't be told for."""


class Cost(ABC):
    """A cost of policies: a sum over layers, each layer's part given by its weight and activation bit-widths.

    A new cost is a subclass with :func:`register` above it: objectives, budgets, tables, axes, the command line and the
    operators know it then. It may tie, or grow where bit-widths shrink. Costs are counted in whole numbers, so that
    sums are exact and do not depend on their order.

    Attributes:
        name: Name of the objective and of the budget.
        unit: Unit of the values.
        label: What is measured, in words, for axes and tables.
        column: The name with its unit, as files and table headings have it; read as a name too.
        scale: Counts in one unit.
        fixed: Counts of what does not depend on the policy.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    label: ClassVar[str]
    column: ClassVar[str]
    scale: ClassVar[int]

    @property
    def fixed(self) -> int:
        """Counts of what does not depend on the policy."""
        return 0

    @abstractmethod
    def layer_counts(self, layers: Sequence[LayerInfo]) -> IntArray:
        """Return what each layer adds at every pair of bit-widths.

        Args:
            layers: The network's layers.

        Returns:
            Int64 `(layers, 9, 9)`: counts at each weight and activation bit-width of `ALLOWED_BITS`; `UNKNOWN` where
            there is none.

        Raises:
            ArgumentError: The cost can't be told for these layers.
        """

    def by_layer(self, layers: Sequence[LayerInfo], bits: IntArray) -> IntArray:
        """Return what each layer adds under bit-widths `(..., layers, 2)`, in counts, int64 `(..., layers)`.

        Raises:
            ArgumentError: The cost can't be told for these layers and bit-widths.
            BitWidthError: A bit-width is not an allowed one.
        """
        columns = _COLUMN[np.clip(bits, 0, len(_COLUMN) - 1)]
        if (columns < 0).any():
            raise BitWidthError(f"bits: given {sorted(set(bits[columns < 0].tolist()))}; allowed: {list(ALLOWED_BITS)}")
        found = self.layer_counts(layers)[np.arange(len(layers)), columns[..., WEIGHT], columns[..., ACTIVATION]]
        if (found == UNKNOWN).any():
            where = tuple(np.argwhere(found == UNKNOWN)[0])
            raise ArgumentError(self._no_value(layers[where[-1]], *bits[where].tolist()))
        return np.asarray(found, dtype=np.int64)

    def _no_value(self, layer: LayerInfo, weight: int, activation: int) -> str:
        """Return the message for a layer and bit-widths that the cost can't be told for."""
        return f"{self.name}: has no value for W{weight} A{activation} of layer {layer.name!r}"

    def count(self, layers: Sequence[LayerInfo], bits: IntArray) -> IntArray:
        """Return the exact cost of bit-widths `(..., layers, 2)` in counts, int64 `(...)`; raises as `by_layer`."""
        return np.asarray(self.by_layer(layers, bits).sum(axis=-1) + self.fixed, dtype=np.int64)

    def of(self, layers: Sequence[LayerInfo], bits: IntArray) -> FloatArray:
        """Return the cost of bit-widths `(..., layers, 2)` in its unit, float64 `(...)`; raises as `by_layer`."""
        return np.asarray(self.count(layers, bits) / self.scale)

    def change(self, tables: GeneTables, X: IntArray) -> IntArray:
        """Return what every single-gene move changes, exactly.

        Args:
            tables: The space's arrays.
            X: Vectors `(n, n_var)`, already known to be allowed.

        Returns:
            Int64 `(n, n_var, c)`: the change, in counts, when gene `j` of vector `i` is set to `bits[k]`; 0 where the
            gene does not allow that.
        """
        weight, activation = (_COLUMN[bits][:, tables.layer] for bits in tables.bit_widths(X))
        to = _COLUMN[tables.bits]
        table = self.layer_counts(tables.space.layers)[tables.layer]
        genes = np.arange(len(tables.layer))
        new_weight = np.where(tables.sets_weight[:, None], to, weight[..., None])
        new_activation = np.where(tables.sets_activation[:, None], to, activation[..., None])
        after = table[genes[:, None], new_weight, new_activation]
        return np.where(tables.allowed, after - table[genes, weight, activation][..., None], 0)

    def options(self, space: SearchSpace) -> list[IntArray]:
        """Return, for each layer, the counts of its choices in the order of `layer_choices`, int64 `(k,)`.

        Raises:
            ArgumentError: The cost can't be told for one of them.
        """
        layers = space.layers
        return [
            self.by_layer([layers[choices.layer]], choices.widths[:, None])[:, 0] for choices in layer_choices(space)
        ]

    def bounds(self, space: SearchSpace) -> tuple[float, float]:
        """Return the smallest and the largest cost of any policy of a space."""
        options = self.options(space)
        low, high = (sum(int(end(counts)) for counts in options) + self.fixed for end in (np.min, np.max))
        return low / self.scale, high / self.scale

    def cheapest(self, space: SearchSpace) -> IntArray:
        """Return a vector of the smallest cost, the widest where layers have several, int64 `(n_var,)`."""
        x = np.empty(space.n_var, dtype=np.int64)
        for choices, counts in zip(layer_choices(space), self.options(space), strict=True):
            x[list(choices.genes)] = choices.bits[int(counts.argmin())]
        return x


C = TypeVar("C", bound=Cost)
_REGISTRY: dict[str, type[Cost]] = {}


def register(cost: type[C]) -> type[C]:
    """Make a class of costs known by its name: a decorator.

    Raises:
        ArgumentError: Another one has the name, or it is ``"difference"``.
    """
    taken = {"difference", *_REGISTRY, *(known.column for known in _REGISTRY.values())}
    for name in {cost.name, cost.column}:
        if name in taken:
            raise ArgumentError(f"register: {name!r} is taken; allowed: a new name")
    _REGISTRY[cost.name] = cost
    return cost


def cost_names() -> tuple[str, ...]:
    """Return the names of all costs."""
    return tuple(_REGISTRY)


def objective_names() -> tuple[str, ...]:
    """Return what an objective or a budget may be: the difference, and all costs."""
    return ("difference", *_REGISTRY)


def cost_class(name: str) -> type[Cost]:
    """Return the class of costs of a name.

    Raises:
        UnknownNameError: No cost has it.
    """
    return _REGISTRY[name_of(name, "cost", allowed=cost_names())]


def name_of(name: str, argument: str, *, allowed: Sequence[str] | None = None) -> str:
    """Return the name of an objective or budget, which may be given as a file's column has it (``"size_mib"``).

    Args:
        name: The name or column.
        argument: The argument's name, for the message.
        allowed: The allowed names; None for the difference and all costs.

    Raises:
        UnknownNameError: Neither; the message suggests the nearest.
    """
    names = objective_names() if allowed is None else allowed
    found = next((cost.name for cost in _REGISTRY.values() if cost.column == name), name)
    check_name(argument, name if found not in names else found, names)
    return found


def label_of(name: str) -> str:
    """Return an objective in words with its unit, for axes and tables.

    Raises:
        UnknownNameError: No such objective.
    """
    if name == "difference":
        return "output difference"
    cost = cost_class(name)
    return f"{cost.label} ({cost.unit})"


def as_cost(cost: "str | Cost", argument: str = "cost") -> Cost:
    """Return a cost given as itself or by its name.

    Args:
        cost: A cost, or the name of one that needs no table.
        argument: The argument's name, for messages.

    Raises:
        UnknownNameError: Unknown name.
        ArgumentError: Neither, or the cost needs a table.
    """
    if isinstance(cost, Cost):
        return cost
    if not isinstance(cost, str):
        raise ArgumentError(f"{argument}: given {type(cost).__name__}; allowed: a Cost or the name of one")
    found = _REGISTRY[name_of(cost, argument, allowed=cost_names())]
    if issubclass(found, MeasuredCost):
        raise ArgumentError(f"{argument}: {_needs_table(found)}")
    return found()


class MeasuredCost(Cost):
    """A cost that is read from a table, which the user measures or is given: it is passed as an object."""

    @classmethod
    @abstractmethod
    def load(cls, path: str | Path) -> "MeasuredCost":
        """Read the table.

        Raises:
            MissingFileError: No such file.
            FormatError: Not such a table; the message names the line.
        """

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write the table as CSV."""


def _needs_table(cost: type[Cost]) -> str:
    return f"{cost.name}: given no table; allowed: costs=[{cost.__name__}.load(...)] (evoq search: --{cost.name} FILE)"


def known_costs(given: Sequence[Cost] = ()) -> tuple[Cost, ...]:
    """Return the costs that a problem knows: all that need no table, and those that are given.

    Raises:
        ArgumentError: Not costs, or two of one name.
    """
    if isinstance(given, str | Cost) or not isinstance(given, Sequence):
        raise ArgumentError(f"costs: given {type(given).__name__}; allowed: a sequence of Cost objects")
    for cost in given:
        if not isinstance(cost, Cost):
            raise ArgumentError(f"costs: given {type(cost).__name__}; allowed: Cost objects, like a LatencyTable")
        if _REGISTRY.get(cost.name) is not type(cost):
            raise ArgumentError(f"costs: {type(cost).__name__} is not registered; put @register above its class")
    names = [cost.name for cost in given]
    if len(set(names)) < len(names):
        raise ArgumentError(f"costs: given {names}; allowed: one of each name")
    own = {cost.name: cost for cost in given}
    plain = {name: kind() for name, kind in _REGISTRY.items() if not issubclass(kind, MeasuredCost) and name not in own}
    return tuple({**plain, **own}[name] for name in _REGISTRY if name in plain or name in own)


def chosen_costs(names: Sequence[str], costs: Sequence[Cost], argument: str) -> tuple[Cost, ...]:
    """Return those costs among some that are named, in the order of the names; the difference is passed over.

    Raises:
        ArgumentError: A cost that is named needs a table, and is not among them.
    """
    by_name = {cost.name: cost for cost in costs}
    for name in names:
        if name != "difference" and name not in by_name:
            raise ArgumentError(f"{argument}: {_needs_table(_REGISTRY[name])}")
    return tuple(by_name[name] for name in names if name != "difference")


def checked_budgets(budgets: Mapping[str, float], *, difference: bool = True) -> dict[str, float]:
    """Return budgets by the names of what they limit.

    Args:
        budgets: The budgets.
        difference: Whether the difference may be limited, or costs alone.

    Raises:
        UnknownNameError: A budget is unknown.
        ArgumentError: Not a positive number, or one thing is limited twice.
    """
    if not isinstance(budgets, Mapping):
        raise ArgumentError(f"budgets: given {budgets!r}; allowed: a mapping from names to limits")
    names = objective_names() if difference else cost_names()
    found: dict[str, float] = {}
    for given, limit in budgets.items():
        name = name_of(given, "budgets", allowed=names)
        if name in found:
            raise ArgumentError(f"budgets: given {list(budgets)}; allowed: one limit of {name}")
        found[name] = check_number(f"budgets[{given!r}]", limit, 0, np.inf, open_low=True)
    return found


def cost_matrix(layers: Sequence[LayerInfo], bits: IntArray, costs: Sequence[Cost] | None = None) -> FloatArray:
    """Return costs of bit-widths `(..., layers, 2)`, float64 `(..., costs)`.

    Args:
        layers: The quantizable layers.
        bits: The bit-widths.
        costs: The costs; None for all that need no table (size in MiB, then GBOPs).
    """
    chosen = known_costs() if costs is None else costs
    found = np.empty((*bits.shape[:-2], len(chosen)))
    for k, cost in enumerate(chosen):
        found[..., k] = cost.of(layers, bits)
    return found


@dataclass(frozen=True, kw_only=True)
class CostValues:
    """Costs of one policy by name.

    Attributes:
        costs: For each known cost its value in its unit.
    """

    costs: Mapping[str, float]

    def value(self, name: str) -> float:
        """Return a cost by its name, in its unit.

        Raises:
            UnknownNameError: No such cost.
            ArgumentError: It is not known of this policy.
        """
        found = name_of(name, "cost", allowed=cost_names())
        if found not in self.costs:
            raise ArgumentError(f"cost: given {name!r}, which is not known of this policy; known: {list(self.costs)}")
        return self.costs[found]

    @property
    def size_mib(self) -> float:
        """Size of the quantized weights (MiB)."""
        return self.value("size")

    @property
    def gbops(self) -> float:
        """Bit operations of one forward pass on one sample (10^9 BOPs)."""
        return self.value("bops")
