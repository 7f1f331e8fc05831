"""Plans: a lowered program turned into steps, for one choice of which layers compute in integers.

Working backwards, each result is wanted as float32 values, as the levels of some layers' inputs, or both. Where only
one layer's levels are wanted, the operation that makes the result makes the levels itself; otherwise the float32 values
are made and quantized once for each distinct quantizer.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from evoq_moo.engines import _steps as steps
from evoq_moo.engines._layers import BoundNetwork
from evoq_moo.engines._lower import Add, Compute, Layer, Lowered, Move, Program, Result
from evoq_moo.engines._steps import FLOAT, Batch, Frame, Key, Step
from evoq_moo.graph import Ref, aten

_FINITE = {
    aten.adaptive_avg_pool2d.default,
    aten.avg_pool2d.default,
    aten.mean.dim,
    aten.relu.default,
    aten.silu.default,
    aten.sigmoid.default,
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten.gelu.default,
    aten.softmax.int,
    aten.mul.Tensor,
}
"""Operators that make finite values of finite (and not astronomically large) ones."""


@dataclass(frozen=True)
class Plan:
    """Steps in execution order, and what computes the network's output from their results."""

    program: Program
    steps: tuple[Step, ...]

    def run(self, batch: Batch, network: BoundNetwork) -> list[Tensor]:
        """Return the tensors of the network's output on a micro-batch."""
        frame = Frame(batch, network, {(name, FLOAT): value for name, value in batch.values.items()})
        for step in self.steps:
            step.run(frame)
            for key in step.frees:
                del frame.results[key]
        return self.output(frame)

    def run_keeping(self, batch: Batch, network: BoundNetwork) -> Frame:
        """Return all results on a micro-batch; for plans compiled with `keep`."""
        frame = Frame(batch, network, {(name, FLOAT): value for name, value in batch.values.items()})
        for step in self.steps:
            step.run(frame)
        return frame

    def run_some(self, steps: Sequence[Step], base: Frame, network: BoundNetwork) -> list[Tensor]:
        """Return the tensors of the output from some steps, all else being as in another run."""
        frame = Frame(base.batch, network, dict(base.results))
        for step in steps:
            step.run(frame)
            for key in step.frees:
                del frame.results[key]
        return self.output(frame)

    def changed_steps(self, changed: Container[int], known: Container[Key]) -> tuple[Step, ...]:
        """Return the steps that make what is not known, or what differs once some layers have changed."""
        dirty: set[Key] = set()
        found = []
        for step in self.steps:
            if step.layer in changed or not dirty.isdisjoint(step.reads) or any(k not in known for k in step.writes):
                dirty.update(step.writes)
                found.append(replace(step, run=step.run_reusing) if step.run_reusing and step.reuse in dirty else step)
        return tuple(_with_frees(found, self.program))

    def output(self, frame: Frame) -> list[Tensor]:
        """Return the tensors of the network's output from the results of a run."""
        constants = self.program.constants
        return [frame.results[o.name, FLOAT] if isinstance(o, Ref) else constants[o.name] for o in self.program.outputs]


def static_names(program: Program) -> frozenset[str]:
    """Return the names of results that depend on the samples alone, not on any layer."""
    names = set(program.graph.inputs)
    for op in program.ops:
        if not isinstance(op, Layer) and all(name in names for name in op.inputs):
            names.add(op.name)
    return frozenset(names)


def static_values(program: Program, samples: Sequence[Tensor]) -> dict[str, Any]:
    """Return the results that depend on the samples alone and that an operation behind them or the output reads."""
    names = static_names(program)
    inputs = zip(program.graph.inputs, samples, strict=True)
    frame = Frame(Batch({}), BoundNetwork(()), {(name, FLOAT): tensor for name, tensor in inputs})
    read = {output.name for output in program.outputs if isinstance(output, Ref)}
    for op in program.ops:
        if op.name in names and not isinstance(op, Result):
            _float_step(op, program, reuse=None, finite=False).run(frame)
        else:
            read |= set(op.inputs)
    return {name: value for (name, _), value in frame.results.items() if name in read}


def compile_plan(program: Program, integer: Sequence[bool], *, keep: bool = False) -> Plan:
    """Return the plan of a program.

    Args:
        program: The lowered network.
        integer: For each layer in policy order, whether it computes in integers.
        keep: Keep every result to the end and overwrite none.
    """
    static = static_names(program)
    wants = _wants(program, integer, static)
    made: list[Step] = []
    for name in sorted(static & wants.keys()):
        made += _quantize_steps(name, wants[name], static=True, check=False)
    doubtful = _doubtful(program, integer)
    readers = _readers(program, wants)
    for op in program.ops:
        wanted = wants.get(op.name, set())
        if op.name in static or not wanted:
            continue
        target = _only_levels(wanted)
        if isinstance(op, Result):
            source, targets = (op.inputs[0], op.target), tuple(sorted(wanted))
            read = steps.read_result(source, targets, op.name)
            made.append(Step((source,), tuple((op.name, t) for t in targets), read))
            continue
        if isinstance(op, Layer) and integer[op.index]:
            source, out = (op.inputs[0], op.index), (op.name, FLOAT if target is None else target)
            run = steps.integer_layer(op, source, target, out)
            made.append(Step((source,), (out,), run, layer=op.index))
        elif isinstance(op, Add) and target is not None and (on_levels := program.result_targets(op)):
            left, right = ((name, on_levels[name]) for name in op.inputs)
            run = steps.add_results(left, right, op.clip, target, (op.name, target))
            made.append(Step((left, right), ((op.name, target),), run))
        elif isinstance(op, Move) and target is not None:
            sources, out = tuple((name, target) for name in op.inputs), (op.name, target)
            made.append(Step(sources, (out,), steps.move_levels(op, sources, target, out)))
        else:
            reuse = _overwritable(op, readers, static) if isinstance(op, Add) else None
            step = _float_step(op, program, reuse=None if keep else reuse, finite=op.name not in doubtful)
            if keep and reuse is not None:
                reusing = _float_step(op, program, reuse=reuse, finite=op.name not in doubtful)
                step = replace(step, reuse=reuse, run_reusing=reusing.run)
            made.append(step)
            target = None
        if target is None:
            made += _quantize_steps(op.name, wanted, static=False, check=op.name in doubtful)
    return Plan(program, tuple(made if keep else _with_frees(made, program)))


def _wants(program: Program, integer: Sequence[bool], static: frozenset[str]) -> dict[str, set[int]]:
    wants: dict[str, set[int]] = {}
    for output in program.outputs:
        if isinstance(output, Ref):
            wants.setdefault(output.name, set()).add(FLOAT)
    for op in reversed(program.ops):
        wanted = wants.get(op.name)
        if op.name in static or not wanted:
            continue
        target = _only_levels(wanted)
        if isinstance(op, Layer):
            passed = op.index if integer[op.index] else FLOAT
        elif isinstance(op, Result):
            passed = op.target
        else:
            passed = target if isinstance(op, Move) and target is not None else FLOAT
        on_levels = program.result_targets(op) if target is not None else {}
        for name in op.inputs:
            wants.setdefault(name, set()).add(on_levels.get(name, passed))
    return wants


def _only_levels(wanted: set[int]) -> int | None:
    """Return the one layer whose input's levels are all that is wanted, if so."""
    return next(iter(wanted)) if len(wanted) == 1 and FLOAT not in wanted else None


def _quantize_steps(name: str, wanted: set[int], *, static: bool, check: bool) -> list[Step]:
    targets = tuple(sorted(wanted - {FLOAT}))
    if not targets:
        return []
    run = steps.quantize_for((name, FLOAT), targets, static=static, check=check)
    return [Step(((name, FLOAT),), tuple((name, target) for target in targets), run)]


def _doubtful(program: Program, integer: Sequence[bool]) -> set[str]:
    """Return the names of results that may be NaN or infinite though the samples and every level are finite."""
    names: set[str] = set()
    for op in program.ops:
        made = isinstance(op, Compute) and op.op.target not in _FINITE
        passed = any(name in names for name in op.inputs) and not _on_levels(op, integer)
        if made or passed:
            names.add(op.name)
    return names


def _on_levels(op: Lowered, integer: Sequence[bool]) -> bool:
    """Return whether an operation reads levels, which are finite: what they were made of has been checked."""
    return isinstance(op, Result) or (isinstance(op, Layer) and integer[op.index])


def _float_step(op: Layer | Add | Move | Compute, program: Program, *, reuse: Key | None, finite: bool) -> Step:
    sources, out = tuple((name, FLOAT) for name in op.inputs), (op.name, FLOAT)
    if isinstance(op, Layer):
        run = steps.float_layer(op, sources[0], out, samples=program.graph.samples, finite=finite)
        return Step(sources, (out,), run, layer=op.index)
    if isinstance(op, Add):
        return Step(sources, (out,), steps.add(sources[0], sources[1], op.clip, reuse, out))
    if isinstance(op, Move):
        return Step(sources, (out,), steps.move_floats(op, sources, out))
    return Step(sources, (out,), steps.compute(op.op, program.constants, out))


def _readers(program: Program, wants: dict[str, set[int]]) -> dict[str, list[Lowered | None]]:
    """Return which operations read the float32 values of each result; None for the network's output."""
    readers: dict[str, list[Lowered | None]] = {}
    for op in program.ops:
        if wants.get(op.name):
            for name in op.inputs:
                readers.setdefault(name, []).append(op)
    for output in program.outputs:
        if isinstance(output, Ref):
            readers.setdefault(output.name, []).append(None)
    return readers


def _overwritable(op: Add, readers: dict[str, list[Lowered | None]], static: frozenset[str]) -> Key | None:
    """Return an operand that a layer or sum made afresh, that no view shows and that nothing reads after this sum."""
    makers = {reader.name: reader for found in readers.values() for reader in found if reader is not None}
    for name in op.inputs:
        found = readers[name]
        last = found[-1] is op and found.count(op) == 1
        if (
            last
            and name not in static
            and isinstance(makers.get(name), Layer | Add | Result)
            and all(isinstance(reader, Layer | Add) for reader in found)
        ):
            return name, FLOAT
    return None


def _with_frees(made: list[Step], program: Program) -> list[Step]:
    kept: set[Key] = {(output.name, FLOAT) for output in program.outputs if isinstance(output, Ref)}
    result = []
    for step in reversed(made):
        frees = tuple(key for key in dict.fromkeys(step.reads + step.writes) if key not in kept)
        kept |= set(frees)
        result.append(replace(step, frees=frees))
    return result[::-1]
