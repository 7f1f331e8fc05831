"""`calibrate`: the chosen solution, made better with the samples it was found with."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from evoq_moo.calibration._gate import p_of_gain
from evoq_moo.calibration._micro_batches import cut
from evoq_moo.calibration._network import CalibratedNetwork
from evoq_moo.calibration._outputs import OutputMap
from evoq_moo.calibration._report import CalibrationReport, StepReport
from evoq_moo.calibration._steps import FITS_LEVELS, STEPS, Setting, State, check_steps
from evoq_moo.calibration._walk import heads_of_candidate
from evoq_moo.errors import ArgumentError, NonFiniteError, check_count
from evoq_moo.graph import StagedNetwork, are_images, count, device_of, leaves
from evoq_moo.network import QuantizedNetwork
from evoq_moo.progress import track
from evoq_moo.space import FloatArray, Policy

LARGEST_P = 0.5
"""Our choice: a step is kept while the samples held out speak rather for it than against it."""


def calibrate(
    network: QuantizedNetwork,
    policy: Policy,
    steps: str | Sequence[str] = "full",
    *,
    folds: int = 2,
    mirror: bool | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    progress: bool = True,
) -> CalibratedNetwork:
    """Adapt the parameters of a quantized network to its samples: no labels, no other images, same bit-widths.

    Steps run in the given order, each on what the ones before left:

    - ``"equalize"``: channels that only a depthwise layer reads get one range, which costs nothing;
    - ``"features"``: mean and spread, by bias and weight scales;
    - ``"rounding"``: levels and scales of each layer for the least error of its output (AdaRound's objective on the
      quantized network's inputs, solved directly), then its features;
    - ``"outputs"``: scale and shift of each logit or head channel, shrunk by leave-one-out.

    ``"light"`` is equalize, features and outputs, ``"full"`` equalize, rounding and outputs.

    Each step is also run by cross-validation: for each part of the samples, a network that never saw it goes through
    the same steps. Each sample's difference by the network that did not see it is compared before and after the step;
    the step is rolled back where more speaks for worse than for better (Wilcoxon's signed-rank test; our choice), so
    that the few samples which hold most of a difference don't decide. Only the tabulated clip ranges it all begins
    with, and what ``"equalize"`` makes of them, come from all samples.

    Steps that fit levels have more unknowns than 50 samples settle, so they also get each sample's mirror image (left
    to right; our choice): what the float network makes of it needs no label. An image and its mirror image are held out
    together, and differences are those of the samples alone.

    Args:
        network: The network; it is not changed.
        policy: The bit-widths.
        steps: ``"light"``, ``"full"``, or names.
        folds: Parts of the cross-validation. Time grows with it: each step runs `folds + 1` times.
        mirror: Whether to fit to mirror images too, which takes about half as long again; None: if ``"rounding"`` is
            among the steps. Only samples `(N, channels, height, width)` have any.
        time_limit: Seconds after which no further step begins; a pass over the layers is not interrupted.
            Without it the result depends on the seed alone, not on the machine's speed or number of threads.
        seed: Of the parts and draws.
        progress: Show progress on a terminal.

    Returns:
        The calibrated network, with its report.

    Raises:
        ArgumentError: An argument is not allowed; the policy is of another network; the samples are not on the CPU.
        UnknownNameError: A step is unknown.
        NetworkError: The network can't be captured as a graph.
    """
    names = check_steps(steps)
    if not isinstance(network, QuantizedNetwork):
        raise ArgumentError(f"network: given {type(network).__name__}; allowed: a QuantizedNetwork")
    if not isinstance(policy, Policy) or policy.layers != network.space.layer_names:
        raise ArgumentError("policy: allowed: a Policy of this network's layers")
    number = count(network.samples)
    check_count("folds", folds, lowest=2)
    if folds > number:
        raise ArgumentError(f"folds: given {folds}; allowed: 2..{number}, the number of samples")
    check_count("seed", seed, lowest=0)
    if mirror is not None and not isinstance(mirror, bool):
        raise ArgumentError(f"mirror: given {mirror!r}; allowed: True, False or None")
    images = are_images(network.samples)
    if mirror and not images:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in leaves(network.samples))
        raise ArgumentError(f"mirror: given True with samples {shapes}; allowed with (N, channels, height, width)")
    if mirror is None:
        mirror = images and not FITS_LEVELS.isdisjoint(names)
    if time_limit is not None and not (isinstance(time_limit, int | float) and 0 < time_limit < math.inf):
        raise ArgumentError(f"time_limit: given {time_limit!r}; allowed: a positive number of seconds, or None")
    if device_of(network.samples).type != "cpu":
        raise ArgumentError(f"network: its samples are on {device_of(network.samples)}; calibration runs on the CPU")
    with _one_thread(), torch.no_grad():
        calibration = _Calibration(network, policy, folds=folds, mirror=mirror, seed=seed)
        return calibration.run(names, time_limit=time_limit, progress=progress)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread here: results must not depend on how many there are. The pool has its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Calibration:
    """The states of one calibration: one for each part held out, and one that sees all samples, the last."""

    def __init__(
        self,
        network: QuantizedNetwork,
        policy: Policy,
        *,
        folds: int,
        mirror: bool,
        seed: int,
    ) -> None:
        self.started = time.monotonic()
        self.network = network
        self.folds = folds
        self.mirror = mirror
        self.seed = seed
        captured = StagedNetwork(network.network)
        self.cut = cut(network.samples, folds=folds, mirror=mirror, seed=seed, size=captured.size)
        self.setting = Setting(
            network=captured,
            cut=self.cut,
            float_heads=[head[self.cut.order] for head in network.float_heads],
            pool=network.pool,
            results=network.results,
            seed=seed,
        )
        start = network.parameters_of(policy.to_array())
        heads = heads_of_candidate(captured, self.cut.batches, start, network.results, network.pool)
        state = State(start, tuple(OutputMap.identity(head) for head in heads), heads)
        self.states: list[State] = [state] * (folds + 1)

    def run(self, names: Sequence[str], *, time_limit: float | None, progress: bool) -> CalibratedNetwork:
        """Run steps and return the calibrated network."""
        reports: list[StepReport] = []
        deadline = None if time_limit is None else self.started + time_limit
        total = sum(STEPS[name].units(self.setting) for name in names)
        with track(total, "calibrating", enabled=progress) as bar:
            for name in names:
                bar.update(description=f"calibrating: {name}")
                reports.append(self._step(name, deadline, bar.advance))
        final = self.states[-1]
        report = CalibrationReport(
            metric=self.network.metric,
            samples=len(self.cut.order),
            folds=self.folds,
            seed=self.seed,
            steps=tuple(reports),
            seconds=time.monotonic() - self.started,
            mirror=self.mirror,
        )
        return CalibratedNetwork(
            reference=self.network.network,
            layers=final.parameters,
            results=self.network.results.of(final.parameters),
            outputs=final.outputs,
            report=report,
        )

    def _step(self, name: str, deadline: float | None, advance: Callable[[], None]) -> StepReport:
        before, held_before = self._differences(self.states)
        begun = time.monotonic()
        if deadline is not None and begun > deadline:
            return StepReport(
                step=name,
                outcome="no time",
                before=before,
                after=before,
                held_out_before=held_before,
                held_out_after=held_before,
                seconds=0.0,
            )
        result = STEPS[name].run(replace(self.setting, advance=advance), self.states)
        states = result.states
        after, held_after = self._differences(states)
        p_value = p_of_gain(*(self._each_held_out(s) for s in (self.states, states)))
        rows = self.cut.rows
        changed = any(
            not torch.equal(old, new)
            for a, b in zip(self.states, states, strict=True)
            for old, new in zip(a.mapped(rows), b.mapped(rows), strict=True)
        )
        kept = p_value <= LARGEST_P
        if kept:
            self.states = states
            self.setting = replace(self.setting, network=result.network or self.setting.network)
        return StepReport(
            step=name,
            outcome=("kept" if changed else "no change") if kept else "rolled back",
            before=before,
            after=after,
            held_out_before=held_before,
            held_out_after=held_after,
            seconds=time.monotonic() - begun,
            p_value=p_value,
        )

    def _differences(self, states: Sequence[State]) -> tuple[float, float]:
        """Return the difference of the network that saw all samples, and that over the parts held out."""
        return self._difference(states[-1].mapped(self.cut.rows)), self._difference(self._held_out(states))

    def _held_out(self, states: Sequence[State]) -> list[Tensor]:
        """Return each sample's outputs by the network that was calibrated without it, in the order of the rows."""
        heads = [state.mapped(self.cut.rows) for state in states]
        return [
            torch.stack([heads[k][h][row] for row, k in enumerate(self.cut.held_out.tolist())])
            for h in range(len(heads[0]))
        ]

    def _each_held_out(self, states: Sequence[State]) -> FloatArray:
        """Return the difference of each sample's outputs by the network that was calibrated without it.

        A metric that can't judge one sample alone judges all together.
        """
        heads = self._in_order(self._held_out(states))
        if not all(head.isfinite().all() for head in heads):
            return np.full(len(self.cut.order), np.inf)
        try:
            return self.network.difference_of_each(heads)
        except NonFiniteError:
            return np.array([self.network.difference_between(heads)])

    def _in_order(self, heads: list[Tensor]) -> list[Tensor]:
        back = torch.argsort(self.cut.order)
        return [head[back] for head in heads]

    def _difference(self, heads: list[Tensor]) -> float:
        if not all(head.isfinite().all() for head in heads):
            return math.inf
        return self.network.difference_between(self._in_order(heads))
