"""Mixed-precision quantization of neural networks as a multi-objective search: EvoQ for pymoo.

Re-implemented from the abstract of "EvoQ: Mixed Precision Quantization of DNNs via Sensitivity Guided Evolutionary
Search" (Yuan, Chen, Hu, Peng; IJCNN 2020); what the abstract leaves open is our choice, and marked so.
"""

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
