"""The quantized network: what a policy makes of a given network, evaluated, applied and identified."""

from evoq_moo.network.evaluated import DerivedNetwork, EvaluatedNetwork
from evoq_moo.network.network import Evaluation, NetworkReport, QuantizedModule, QuantizedNetwork, ResultsName

__all__ = [
    "DerivedNetwork",
    "EvaluatedNetwork",
    "Evaluation",
    "NetworkReport",
    "QuantizedModule",
    "QuantizedNetwork",
    "ResultsName",
]
