"""The steps of calibration, by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from evoq_moo._compute import ComputePool
from evoq_moo.calibration._blocks import BlockOptions, blocks_of, learn_blocks
from evoq_moo.calibration._equalize import equalize
from evoq_moo.calibration._features import match_features, match_mean
from evoq_moo.calibration._graph import CapturedNetwork
from evoq_moo.calibration._micro_batches import MicroBatches
from evoq_moo.calibration._outputs import OutputMap, fit_output
from evoq_moo.calibration._parameters import LayerParameters
from evoq_moo.calibration._ranges import tune_range
from evoq_moo.calibration._rounding import fit_rounding
from evoq_moo.calibration._walk import Candidate, LayerView, Parameters, heads_of_candidate, walk
from evoq_moo.errors import ArgumentError, check_name


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
        seed: Of draws.
        options: Of block-wise reconstruction.
        deadline: On `time.monotonic`'s clock, or None.
        advance: Called after each unit of work.
    """

    network: CapturedNetwork
    cut: MicroBatches
    float_heads: list[Tensor]
    pool: ComputePool
    seed: int
    options: BlockOptions = field(default_factory=BlockOptions)
    deadline: float | None = None
    advance: Callable[[], None] = lambda: None

    def candidates(self, states: Sequence[State]) -> list[Candidate]:
        """Return the states as candidates."""
        return [Candidate(state.parameters, seen) for state, seen in zip(states, self.cut.seen, strict=True)]


@dataclass(frozen=True)
class Result:
    """What a step gives.

    Attributes:
        states: The new states.
        cut: How many blocks a time limit cut short.
        network: The float network from now on, where the step changes its weights (not what it computes).
    """

    states: list[State]
    cut: int = 0
    network: CapturedNetwork | None = None


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
    network, candidates = equalize(setting.network, setting.cut.batches, [s.parameters for s in states], setting.pool)
    setting.advance()
    if network is setting.network:
        return Result(list(states))
    results: dict[int, State] = {}
    for parameters, state in zip(candidates, states, strict=True):
        # Before any fit, all states are one and the same.
        if id(state) not in results:
            heads = heads_of_candidate(network, setting.cut.batches, parameters, setting.pool)
            results[id(state)] = State(parameters, state.outputs, heads)
    return Result([results[id(state)] for state in states], network=network)


def _layerwise(fit: Callable[[LayerView, int], LayerParameters]) -> Step:
    def run(setting: Setting, states: Sequence[State]) -> Result:
        parameters, heads = walk(
            setting.network,
            setting.cut.batches,
            setting.candidates(states),
            lambda view: fit(view, setting.seed),
            setting.pool,
            on_layer=setting.advance,
        )
        return Result([State(p, s.outputs, h) for p, s, h in zip(parameters, states, heads, strict=True)])

    return Step(run, lambda setting: sum(setting.network.calls))


def _rounding(view: LayerView, seed: int) -> LayerParameters:
    view.parameters = fit_rounding(view, seed=seed)
    return match_features(view)


def _blocks(setting: Setting, states: Sequence[State]) -> Result:
    parameters, heads, cut = learn_blocks(
        setting.network,
        setting.cut.batches,
        setting.candidates(states),
        setting.pool,
        options=setting.options,
        seed=setting.seed,
        deadline=setting.deadline,
        on_block=setting.advance,
    )
    return Result([State(p, s.outputs, h) for p, s, h in zip(parameters, states, heads, strict=True)], cut)


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
    "ranges": _layerwise(lambda view, seed: tune_range(view, seed=seed)),
    "bias": _layerwise(lambda view, _seed: match_mean(view)),
    "features": _layerwise(lambda view, _seed: match_features(view)),
    "rounding": _layerwise(_rounding),
    "blocks": Step(_blocks, lambda setting: len(blocks_of(setting.network, len(setting.cut.batches[0])))),
    "outputs": Step(_outputs, lambda _setting: 1),
}
"""Every step: one range for all channels of depthwise layers; clip ranges of inputs; means; means and spreads; rounding
by layer; blocks by gradient; outputs."""

LIGHT = ("equalize", "features", "outputs")
"""The abstract's two: intermediate features and outputs."""
FULL = ("equalize", "rounding", "outputs")
"""Everything that measured better than without it. Rounding matches features itself, and another pass of that changed
nothing; nor did ranges tuned inside it. Blocks don't help: from this rounding on, with 50 samples, a few hundred steps
fit the samples and leave other images no better or worse (CIFAR-10 ResNet20, MobileNetV2 at W4A4)."""
PRESETS = {"light": LIGHT, "full": FULL}
FITS_LEVELS = frozenset({"rounding", "blocks"})
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
