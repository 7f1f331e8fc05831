"""Evaluating policies: once each, on any number of workers, kept in a store."""

from evoq_moo.evaluation.evaluator import Evaluator
from evoq_moo.evaluation.new_images import Measured, NewImages, mirror_images
from evoq_moo.evaluation.store import EvaluationStore, policy_key
from evoq_moo.evaluation.workers import NetworkFactory, ProcessPool, Workers, live_with_parent

__all__ = [
    "EvaluationStore",
    "Evaluator",
    "Measured",
    "NetworkFactory",
    "NewImages",
    "ProcessPool",
    "Workers",
    "live_with_parent",
    "mirror_images",
    "policy_key",
]
