"""The quantized network: what a policy makes of a given network, evaluated, applied and identified."""

from evoq_moo.network.evaluated import DerivedNetwork, EvaluatedNetwork
from evoq_moo.network.module import QuantizedModule
from evoq_moo.network.network import QuantizedNetwork, ResultsName
from evoq_moo.network.report import Evaluation, NetworkReport

__all__ = [
    "DerivedNetwork",
    "EvaluatedNetwork",
    "Evaluation",
    "NetworkReport",
    "QuantizedModule",
    "QuantizedNetwork",
    "ResultsName",
]
