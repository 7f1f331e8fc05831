"""The steps of calibration, by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from evoq_moo._compute import ComputePool
from evoq_moo.calibration._equalize import equalize
from evoq_moo.calibration._features import match_features
from evoq_moo.calibration._micro_batches import MicroBatches
from evoq_moo.calibration._outputs import OutputMap, fit_output
from evoq_moo.calibration._rounding import fit_rounding
from evoq_moo.calibration._walk import Candidate, LayerView, Parameters, heads_of_candidate, walk
from evoq_moo.errors import ArgumentError, check_name
from evoq_moo.graph import StagedNetwork
from evoq_moo.quantizer import LayerParameters, ResultRanges


@dataclass(frozen=True)
class State:
    """A quantized network in calibration.

    Attributes:
        parameters: Of every layer.
        outputs: The map of each head.
        heads: Its heads on all micro-batches in their order, before the maps.
    """

    parameters: Parameters
    outputs: tuple[OutputMap, ...]
    heads: list[Tensor]

    def mapped(self, rows: Tensor) -> list[Tensor]:
        """Return some rows of the heads, behind the maps."""
        return [m(head[rows]) for m, head in zip(self.outputs, self.heads, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What steps work with.

    Attributes:
        network: The float network.
        cut: The samples in micro-batches, and which of them each state may be fitted to.
        float_heads: The float network's heads on the samples, in the order of the micro-batches.
        pool: Where micro-batches run.
        results: Ranges of results between layers.
        seed: Of draws.
        advance: Called after each unit of work.
    """

    network: StagedNetwork
    cut: MicroBatches
    float_heads: list[Tensor]
    pool: ComputePool
    results: ResultRanges
    seed: int
    advance: Callable[[], None] = lambda: None

    def candidates(self, states: Sequence[State]) -> list[Candidate]:
        """Return the states as candidates."""
        return [Candidate(state.parameters, seen) for state, seen in zip(states, self.cut.seen, strict=True)]


@dataclass(frozen=True)
class Result:
    """What a step gives.

    Attributes:
        states: The new states.
        network: The float network from now on, where the step changes its weights (not what it computes).
    """

    states: list[State]
    network: StagedNetwork | None = None


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        run: Returns what it makes of the states.
        units: How much work it is, in calls of `advance`.
    """

    run: Callable[[Setting, Sequence[State]], Result]
    units: Callable[[Setting], int]


def _equalize(setting: Setting, states: Sequence[State]) -> Result:
    network, candidates = equalize(
        setting.network, setting.cut.batches, [s.parameters for s in states], setting.results, setting.pool
    )
    setting.advance()
    if network is setting.network:
        return Result(list(states))
    results: dict[int, State] = {}
    for parameters, state in zip(candidates, states, strict=True):
        # Before any fit, all states are one and the same.
        if id(state) not in results:
            heads = heads_of_candidate(network, setting.cut.batches, parameters, setting.results, setting.pool)
            results[id(state)] = State(parameters, state.outputs, heads)
    return Result([results[id(state)] for state in states], network=network)


def _layerwise(fit: Callable[[LayerView, int], LayerParameters]) -> Step:
    def run(setting: Setting, states: Sequence[State]) -> Result:
        parameters, heads = walk(
            setting.network,
            setting.cut.batches,
            setting.candidates(states),
            setting.results,
            lambda view: fit(view, setting.seed),
            setting.pool,
            on_layer=setting.advance,
        )
        return Result([State(p, s.outputs, h) for p, s, h in zip(parameters, states, heads, strict=True)])

    return Step(run, lambda setting: sum(setting.network.calls))


def _rounding(view: LayerView, seed: int) -> LayerParameters:
    view.parameters = fit_rounding(view, seed=seed)
    return match_features(view)


def _outputs(setting: Setting, states: Sequence[State]) -> Result:
    result = []
    for k, state in enumerate(states):
        known = setting.cut.held_out != k
        maps = [
            fit_output(head[setting.cut.rows[known]], wanted[known], OutputMap.identity(head))
            for head, wanted in zip(state.heads, setting.float_heads, strict=True)
        ]
        result.append(State(state.parameters, tuple(maps), state.heads))
    setting.advance()
    return Result(result)


STEPS: dict[str, Step] = {
    "equalize": Step(_equalize, lambda _setting: 1),
    "features": _layerwise(lambda view, _seed: match_features(view)),
    "rounding": _layerwise(_rounding),
    "outputs": Step(_outputs, lambda _setting: 1),
}
"""Every step: one range for all channels of depthwise layers; means and spreads; rounding by layer; outputs."""

LIGHT = ("equalize", "features", "outputs")
"""The abstract's two: intermediate features and outputs."""
FULL = ("equalize", "rounding", "outputs")
"""Everything that measured better than without it. Rounding matches features itself, and another pass of that changed
nothing. Rounding by blocks (BRECQ), other clip ranges and corrections of means alone did not help on other images and
are gone."""
PRESETS = {"light": LIGHT, "full": FULL}
FITS_LEVELS = frozenset({"rounding"})
"""Steps that fit every weight to the samples: too many unknowns for few images."""


def check_steps(steps: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of steps.

    Args:
        steps: ``"light"``, ``"full"``, or names in the order they shall run.

    Raises:
        ArgumentError: No step.
        UnknownNameError: A step or preset is unknown.
    """
    if isinstance(steps, str):
        check_name("steps", steps, PRESETS)
        return PRESETS[steps]
    try:
        names = tuple(steps)
    except TypeError:
        raise ArgumentError(f"steps: given {steps!r}; allowed: {list(PRESETS)} or names among {list(STEPS)}") from None
    if not names:
        raise ArgumentError(f"steps: given none; allowed: {list(PRESETS)} or names among {list(STEPS)}")
    for name in names:
        check_name("steps", name, STEPS)
    return names
