"""What a policy costs: a registry to which each public module of this package adds one cost.

A cost of your own is a subclass of :class:`Cost` with :func:`register` above it, anywhere; in this package it is one
file, found by itself.
"""

from importlib import import_module
from pkgutil import iter_modules

from evoq_moo.costs._cost import (
    Cost,
    CostValues,
    MeasuredCost,
    as_cost,
    checked_budgets,
    chosen_costs,
    cost_class,
    cost_matrix,
    cost_names,
    known_costs,
    label_of,
    name_of,
    objective_names,
    register,
)
from evoq_moo.costs.genes import BoolArray, GeneTables, LayerChoices, gene_tables, layer_choices

from evoq_moo.costs.size import PolicyCost, Size, overhead_bytes, policy_cost  # isort: skip - the order of columns
from evoq_moo.costs.bops import BitOperations  # isort: skip
from evoq_moo.costs.latency import LatencyTable  # isort: skip

for _module in iter_modules(__path__):
    if not _module.name.startswith("_"):
        import_module(f"{__name__}.{_module.name}")

__all__ = [
    "BitOperations",
    "BoolArray",
    "Cost",
    "CostValues",
    "GeneTables",
    "LatencyTable",
    "LayerChoices",
    "MeasuredCost",
    "PolicyCost",
    "Size",
    "as_cost",
    "checked_budgets",
    "chosen_costs",
    "cost_class",
    "cost_matrix",
    "cost_names",
    "gene_tables",
    "known_costs",
    "label_of",
    "layer_choices",
    "name_of",
    "objective_names",
    "overhead_bytes",
    "policy_cost",
    "register",
]
