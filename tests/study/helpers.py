"""Picklable pieces of studies; worker processes import this module by its path."""

import os
import time
from pathlib import Path

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.operators.sampling.rnd import IntegerRandomSampling

from evoq_moo.operators import UniformBitCrossover, UniformBitMutation
from evoq_moo.study import RandomSearch


def small_nsga2(problem):
    return NSGA2(
        pop_size=8, sampling=IntegerRandomSampling(), crossover=UniformBitCrossover(), mutation=UniformBitMutation()
    )


class SlowRandom:
    """Random search that takes a while, says that it began, and kills its process the first times it runs."""

    uses_sensitivity = False

    def __init__(self, marks: str, *, deaths: int = 0, seconds: float = 0.0):
        self.marks = marks
        self.deaths = deaths
        self.seconds = seconds

    def __call__(self, problem, record, seed):
        mark = Path(self.marks) / f"{problem.name}-{seed}-{time.time_ns()}-{os.getpid()}"
        mark.touch()
        time.sleep(self.seconds)
        if len(list(Path(self.marks).iterdir())) <= self.deaths:
            os._exit(1)
        RandomSearch()(problem, record, seed)


class OneAfterAnother:
    """Asks for one policy at a time, forever."""

    uses_sensitivity = False

    def __call__(self, problem, record, seed):
        rng = np.random.default_rng(seed)
        while True:
            record.evaluate(problem.space.sample(1, rng))
