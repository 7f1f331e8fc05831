"""Pymoo operators for bit-width vectors: sampling, crossover, mutation and repair.

Re-implemented from EvoQ's abstract ("each layer's quantization sensitivity shapes the mutation operator"); unspecified
choices are ours and marked so.
"""

from evoq_moo.baselines import greedy_path

from ._moves import move_probabilities
from .adaptive import adapted_sensitivity
from .crossover import UniformBitCrossover
from .front_crossover import FrontAwareCrossover
from .mutation import SensitivityGuidedMutation
from .repair import BitWidthRepair, BudgetRepair
from .sampling import SensitivitySampling, table_front
from .uniform_mutation import UniformBitMutation

__all__ = [
    "BitWidthRepair",
    "BudgetRepair",
    "FrontAwareCrossover",
    "SensitivityGuidedMutation",
    "SensitivitySampling",
    "UniformBitCrossover",
    "UniformBitMutation",
    "adapted_sensitivity",
    "greedy_path",
    "move_probabilities",
    "table_front",
]
