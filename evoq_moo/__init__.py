"""Mixed-precision quantization of neural networks as a multi-objective search: EvoQ for pymoo.

Re-implemented from the abstract of "EvoQ: Mixed Precision Quantization of DNNs via Sensitivity Guided Evolutionary
Search" (Yuan, Chen, Hu, Peng; IJCNN 2020); what the abstract leaves open is our choice, and marked so.

Names are imported when they are first used: a command that needs no network does not wait for torch.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evoq_moo import zoo
    from evoq_moo.accuracy import Accuracy, evaluate_accuracy
    from evoq_moo.algorithms import EvoQGA, SurrogateSearch, guided_nsga2, uniform_budget
    from evoq_moo.calibration import CalibratedNetwork, calibrate
    from evoq_moo.costs import Cost, LatencyTable, PolicyCost
    from evoq_moo.detection import DetectionAccuracy, Detector, evaluate_detection
    from evoq_moo.errors import EvoqError
    from evoq_moo.evaluation import EvaluationStore
    from evoq_moo.export import load
    from evoq_moo.front import Choice, FrontPoint, ParetoFront, choose_by_accuracy
    from evoq_moo.images import LabelledImages, Preprocess
    from evoq_moo.network import Evaluation, QuantizedModule, QuantizedNetwork
    from evoq_moo.report import compare_runs
    from evoq_moo.runs import Recipe, SearchRun, run_search, search
    from evoq_moo.samples import distill_samples, load_samples
    from evoq_moo.sensitivity import SensitivityTable, measure_sensitivity
    from evoq_moo.space import LayerInfo, Policy, SearchSpace
    from evoq_moo.study import Study, StudyResults

__all__ = [
    "Accuracy",
    "CalibratedNetwork",
    "Choice",
    "Cost",
    "DetectionAccuracy",
    "Detector",
    "Evaluation",
    "EvaluationStore",
    "EvoQGA",
    "EvoqError",
    "FrontPoint",
    "LabelledImages",
    "LatencyTable",
    "LayerInfo",
    "ParetoFront",
    "Policy",
    "PolicyCost",
    "Preprocess",
    "QuantizedModule",
    "QuantizedNetwork",
    "Recipe",
    "SearchRun",
    "SearchSpace",
    "SensitivityTable",
    "Study",
    "StudyResults",
    "SurrogateSearch",
    "calibrate",
    "choose_by_accuracy",
    "compare_runs",
    "distill_samples",
    "evaluate_accuracy",
    "evaluate_detection",
    "guided_nsga2",
    "load",
    "load_samples",
    "measure_sensitivity",
    "run_search",
    "search",
    "uniform_budget",
    "zoo",
]
__version__ = "0.1.0"
_ROOMS = {
    "accuracy": (
        "Accuracy",
        "evaluate_accuracy",
    ),
    "algorithms": (
        "EvoQGA",
        "SurrogateSearch",
        "guided_nsga2",
        "uniform_budget",
    ),
    "calibration": (
        "CalibratedNetwork",
        "calibrate",
    ),
    "costs": (
        "Cost",
        "LatencyTable",
        "PolicyCost",
    ),
    "detection": (
        "DetectionAccuracy",
        "Detector",
        "evaluate_detection",
    ),
    "errors": ("EvoqError",),
    "evaluation": ("EvaluationStore",),
    "export": ("load",),
    "front": (
        "Choice",
        "FrontPoint",
        "ParetoFront",
        "choose_by_accuracy",
    ),
    "images": (
        "LabelledImages",
        "Preprocess",
    ),
    "network": (
        "Evaluation",
        "QuantizedModule",
        "QuantizedNetwork",
    ),
    "report": ("compare_runs",),
    "runs": (
        "Recipe",
        "SearchRun",
        "run_search",
        "search",
    ),
    "samples": (
        "distill_samples",
        "load_samples",
    ),
    "sensitivity": (
        "SensitivityTable",
        "measure_sensitivity",
    ),
    "space": (
        "LayerInfo",
        "Policy",
        "SearchSpace",
    ),
    "study": (
        "Study",
        "StudyResults",
    ),
}
"""The names of each room that are given here."""


def __getattr__(name: str) -> object:
    if name.startswith("_") or (name not in __all__ and importlib.util.find_spec(f"evoq_moo.{name}") is None):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = next((room for room, names in _ROOMS.items() if name in names), None)
    value = importlib.import_module(f"evoq_moo.{room or name}")  # a room itself, like `evoq_moo.problems`
    globals()[name] = value if room is None else getattr(value, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
