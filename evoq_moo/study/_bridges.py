"""Other libraries' NSGA-II on our problems, counted and seeded like everything else."""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pymoo.core.problem import Problem

from evoq_moo.costs import GeneTables, gene_tables
from evoq_moo.problems import problem_space
from evoq_moo.runs import Record


@dataclass(frozen=True)
class OptunaNSGA2:
    """Optuna's NSGA-II sampler, with its own defaults but the population size.

    Genes are categorical-like integers: the position among the gene's choices.

    Args:
        pop_size: Population size.
    """

    pop_size: int
    uses_sensitivity: bool = field(default=False, init=False)

    def __call__(self, problem: Problem, record: Record, seed: int) -> None:
        """Ask and tell until the budget is spent."""
        import optuna

        tables = gene_tables(problem_space(problem))

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.NSGAIISampler(population_size=self.pop_size, seed=seed)
        study = optuna.create_study(directions=["minimize"] * problem.n_obj, sampler=sampler)
        spaces: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.IntDistribution(0, int(count) - 1)
            for name, count in zip(tables.space.gene_names, tables.counts, strict=True)
        }
        while record.left > 0:
            trial = study.ask(spaces)
            position = np.array([trial.params[name] for name in spaces])
            F, G = record.evaluate(_vector(tables, position))
            for i, violation in enumerate(G[0].tolist()):
                trial.set_constraint(f"g{i}", violation)
            study.tell(trial, F[0].tolist())


@dataclass(frozen=True)
class DeapNSGA2:
    """DEAP's NSGA-II: its `selTournamentDCD`, `cxUniform`, `mutUniformInt` and `selNSGA2`, as in its examples.

    Constraints count by Deb's rule, by DEAP's `DeltaPenalty`-like distance: an infeasible policy is worse than every
    feasible one by what it violates.

    Args:
        pop_size: Population size, a multiple of 4.
        crossover: Probability that two parents are crossed.
    """

    pop_size: int
    crossover: float = 0.9
    uses_sensitivity: bool = field(default=False, init=False)

    def __call__(self, problem: Problem, record: Record, seed: int) -> None:
        """Run until the budget is spent."""
        from deap import base, tools

        tables = gene_tables(problem_space(problem))
        # DEAP draws from the global generator of Python; it gets its own state for the time of the run.
        state = random.getstate()
        random.seed(seed)
        try:
            self._run(tables, record, base, tools)
        finally:
            random.setstate(state)

    def _run(self, tables: GeneTables, record: Record, base: Any, tools: Any) -> None:
        n_obj = record.problem.n_obj

        class Fitness(base.Fitness):  # type: ignore[misc]
            weights = (-1.0,) * n_obj

        class Individual(list):  # type: ignore[type-arg]
            def __init__(self, genes: Any) -> None:
                super().__init__(genes)
                self.fitness = Fitness()

        highest = (tables.counts - 1).tolist()

        def evaluate(population: list[Any]) -> None:
            X = np.array([_vector(tables, np.array(individual)) for individual in population])
            F, G = record.evaluate(X)
            violation = np.maximum(G, 0).sum(axis=1)
            worst = np.abs(F).max(axis=0) * 10 + 1
            for individual, f, v in zip(population, F, violation, strict=True):
                individual.fitness.values = tuple(f if v == 0 else worst * (1 + v))

        population = [Individual(random.randint(0, h) for h in highest) for _ in range(self.pop_size)]
        evaluate(population)
        population = tools.selNSGA2(population, len(population))
        while record.left > 0:
            parents = tools.selTournamentDCD(population, len(population))
            children = [Individual(parent) for parent in parents]
            for first, second in zip(children[::2], children[1::2], strict=True):
                if random.random() < self.crossover:
                    tools.cxUniform(first, second, indpb=0.5)
            for child in children:
                tools.mutUniformInt(child, low=[0] * len(highest), up=highest, indpb=1 / len(highest))
            evaluate(children)
            population = tools.selNSGA2(population + children, self.pop_size)


def _vector(tables: GeneTables, position: Any) -> Any:
    """Return the vector of positions among each gene's choices, int64 `(n_var,)`."""
    return tables.choices[np.arange(len(tables.counts)), position]
