"""Block-wise reconstruction: what BRECQ minimizes, with AdaRound's rounding, LSQ's steps and QDrop's mixing.

Blocks are found in the graph: the shortest runs of operations from one tensor to one tensor, so that a residual or
fire module is never cut. Our choices: neighbouring runs are joined while together they have at most three layers; the
error is the plain squared one, as QDrop uses (BRECQ weighs it by gradients of a label's loss, and there are no labels
here); a block that got no better on the samples it was fitted to stays as it was.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evoq_moo._compute import ComputePool
from evoq_moo.calibration._graph import CapturedNetwork, LayerCall, Stage, Values, call_with, float_call, run_stage
from evoq_moo.calibration._learnable import DropMask, LearnableLayer, annealed_beta
from evoq_moo.calibration._moments import moments_of, output_axis
from evoq_moo.calibration._parameters import LayerParameters
from evoq_moo.calibration._walk import Candidate, Parameters, quantized_call
from evoq_moo.engines._capture import Op

LAYERS = 3
"""Layers of a joined block, at most."""


@dataclass(frozen=True, kw_only=True)
class BlockOptions:
    """How blocks are learned.

    Attributes:
        iterations: Adam steps of each block.
        batch: Micro-batches of a step.
        rounding_rate: Learning rate of the rounding variables.
        step_rate: Of the logarithms of input steps.
        bias_rate: Of bias shifts, in standard deviations of the output.
        penalty: Weight of the rounding penalty against the error relative to its start.
        drop: Probability that an element stays in float (QDrop).
    """

    iterations: int = 100
    batch: int = 2
    rounding_rate: float = 0.03
    step_rate: float = 0.01
    bias_rate: float = 0.003
    penalty: float = 0.2
    drop: float = 0.5


@dataclass(frozen=True)
class Block:
    """A run of stages from one tensor to one tensor.

    Attributes:
        stages: Indices of its stages, first and one past the last.
        layers: Indices of its layers.
        source: Name of its input.
        result: Name of its output.
    """

    stages: tuple[int, int]
    layers: tuple[int, ...]
    source: str
    result: str


def blocks_of(network: CapturedNetwork, batch_size: int) -> tuple[Block, ...]:
    """Return the blocks of a network.

    Stages before the first layer, and before the first tensor that is alone, belong to none.
    A block whose layers are also called elsewhere is left out of what can be learned, see :func:`learn_blocks`.
    """
    stages = network.stages(batch_size)
    live: set[str] = {network.input_name(batch_size)}
    between: list[str | None] = []
    for stage in stages:
        for op, dead in zip(stage.ops, stage.dead, strict=True):
            live.add(op.name)
            live -= set(dead)
        between.append(next(iter(live)) if len(live) == 1 else None)
    found: list[Block] = []
    start = 0 if stages[0].layer is not None else 1
    source = between[0] if start else network.input_name(batch_size)
    for i in range(start, len(stages)):
        result = between[i] if i < len(stages) - 1 else network.single_output(batch_size)
        if result is None:
            continue
        if source is None:  # more than one tensor reaches the first layer: no block begins before one is alone
            source, start = result, i + 1
            continue
        layers = tuple(s.layer for s in stages[start : i + 1] if s.layer is not None)
        block = Block((start, i + 1), layers, source, result)
        if found and len(found[-1].layers) + len(layers) <= LAYERS:
            block = Block((found[-1].stages[0], i + 1), found[-1].layers + layers, found[-1].source, result)
            found.pop()
        found.append(block)
        source, start = result, i + 1
    return tuple(found)


def learn_blocks(
    network: CapturedNetwork,
    batches: Sequence[Tensor],
    candidates: Sequence[Candidate],
    pool: ComputePool,
    *,
    options: BlockOptions,
    seed: int,
    deadline: float | None,
    on_block: Callable[[], None] | None = None,
) -> tuple[list[Parameters], list[list[Tensor]], int]:
    """Learn every block in execution order, each on what the candidate's learned blocks before it give.

    Args:
        network: The float network.
        batches: Micro-batches of the samples, of prepared sizes.
        candidates: Quantized networks, learned one after the other on each block.
        pool: Where micro-batches run.
        options: How to learn.
        seed: Of the draws of micro-batches and of what stays in float.
        deadline: When to stop, on `time.monotonic`'s clock; blocks share the time left by their number of layers.
        on_block: Called after each block.

    Returns:
        For each candidate its new parameters and its heads on all samples; and how many (block, candidate) pairs the
        deadline cut short.
    """
    learned = [list(c.parameters) for c in candidates]
    sizes = [len(batch) for batch in batches]
    exact = [network.start(batch) for batch in batches]
    streams = [[network.start(batch) for batch in batches] for _ in candidates]
    blocks = blocks_of(network, sizes[0])
    left = sum(len(b.layers) for b in blocks) * len(candidates)
    cut = 0
    stages = [network.stages(size) for size in sizes]
    first = blocks[0].stages[0] if blocks else len(stages[0])
    _run_stages(stages, (0, first), exact, float_call, pool)
    for k, stream in enumerate(streams):
        _run_stages(stages, (0, first), stream, quantized_call(learned[k]), pool)
    for number, block in enumerate(blocks):
        float_inputs = [values[block.source] for values in exact]
        _run_stages(stages, block.stages, exact, float_call, pool)
        targets = [values[block.result] for values in exact]
        for k, candidate in enumerate(candidates):
            now = time.monotonic()
            share = None if deadline is None else now + (deadline - now) * len(block.layers) / left
            left -= len(block.layers)
            seen = [i for i, s in enumerate(candidate.seen) if s]
            job = _Job(
                stages=[stages[i][slice(*block.stages)] for i in seen],
                block=block,
                inputs=[streams[k][i][block.source] for i in seen],
                float_inputs=[float_inputs[i] for i in seen],
                targets=[targets[i] for i in seen],
                pool=pool,
            )
            if all(network.calls[i] == 1 for i in block.layers):
                current = {i: learned[k][i] for i in block.layers}
                result, complete = job.learn(current, options, seed=seed * 65_537 + number, deadline=share)
                cut += not complete
                for i, parameters in result.items():
                    learned[k][i] = parameters
            _run_stages(stages, block.stages, streams[k], quantized_call(learned[k]), pool)
        if on_block is not None:
            on_block()
    last = blocks[-1].stages[1] if blocks else first
    rest = (last, len(stages[0]))
    _run_stages(stages, rest, exact, float_call, pool)
    for k, stream in enumerate(streams):
        _run_stages(stages, rest, stream, quantized_call(learned[k]), pool)
    heads = [[torch.cat(head) for head in zip(*map(network.heads, stream, sizes), strict=True)] for stream in streams]
    return [tuple(layers) for layers in learned], heads, cut


def _run_stages(
    stages: Sequence[Sequence[Stage]],
    which: tuple[int, int],
    streams: Sequence[Values],
    call: LayerCall,
    pool: ComputePool,
) -> None:
    def run(i: int) -> None:
        for stage in stages[i][slice(*which)]:
            run_stage(stage, streams[i], call)

    pool.map(run, range(len(streams)))


@dataclass(frozen=True)
class _Job:
    """One block of one candidate, on the micro-batches that may be fitted to."""

    stages: list[tuple[Stage, ...]]
    block: Block
    inputs: list[Tensor]
    float_inputs: list[Tensor]
    targets: list[Tensor]
    pool: ComputePool

    def output(self, i: int, x: Tensor, call: LayerCall) -> Tensor:
        """Return the block's output on a micro-batch."""
        values: Values = {self.block.source: x}
        for stage in self.stages[i]:
            run_stage(stage, values, call)
        return values[self.block.result]

    def error(self, parameters: Mapping[int, LayerParameters]) -> float:
        """Return the squared error of the quantized block."""
        call = quantized_call(parameters)

        def one(i: int) -> float:
            return float((self.output(i, self.inputs[i], call) - self.targets[i]).square().sum(dtype=torch.float64))

        return sum(self.pool.map(one, range(len(self.inputs))))

    def learnable(self, parameters: Mapping[int, LayerParameters]) -> tuple[dict[int, LearnableLayer], int]:
        """Return the block's layers made ready to learn, and the elements of the largest input of any of them."""
        largest = max(x.numel() for x in self.inputs)
        weights: dict[int, Tensor] = {}
        outputs: dict[int, list[Tensor]] = {i: [] for i in parameters}

        def observe(op: Op, x: Tensor) -> Tensor:
            nonlocal largest
            largest = max(largest, x.numel())
            y = float_call(op, x)
            if op.layer is not None:
                weights[op.layer] = op.args[1]
                found = moments_of(y, output_axis(op, y))
                outputs[op.layer].append((found.variance + found.mean.square()).float())
            return y

        # In order, on one thread: which micro-batches were seen first must not matter.
        self.pool.run(lambda: [self.output(i, x, observe) for i, x in enumerate(self.float_inputs)])
        layers = {
            i: LearnableLayer(p, weights[i], torch.stack(outputs[i]).mean(0).sqrt()) for i, p in parameters.items()
        }
        return layers, largest

    def learn(
        self, parameters: Mapping[int, LayerParameters], options: BlockOptions, *, seed: int, deadline: float | None
    ) -> tuple[Mapping[int, LayerParameters], bool]:
        """Return the block's learned parameters, or those given if they are better, and whether time sufficed."""
        before = self.error(parameters)
        if before == 0:
            return parameters, True
        layers, largest = self.learnable(parameters)
        variables = [v for layer in layers.values() for v in layer.variables()]
        for variable in variables:
            variable.requires_grad_(True)
        generator = torch.Generator().manual_seed(seed)
        mask = DropMask(generator, options.drop)
        mask.reserve(largest)
        optimizer = torch.optim.Adam(
            [
                {
                    "params": [x.rounding for x in layers.values() if x.rounding is not None],
                    "lr": options.rounding_rate,
                },
                {"params": [x.step for x in layers.values() if x.step is not None], "lr": options.step_rate},
                {"params": [x.shift for x in layers.values()], "lr": options.bias_rate},
            ]
        )
        count, complete = len(self.inputs), True
        # Relative to the error at the start, so that the penalty weighs the same in every block.
        scale = count / (options.batch * before)
        order: list[int] = []
        for iteration in range(options.iterations):
            # Time is measured against the clock, so a run that is cut short is not reproducible; it says so.
            if deadline is not None and time.monotonic() > deadline:
                complete = False
                break
            while len(order) < options.batch:
                order += torch.randperm(count, generator=generator).tolist()
            chosen, order = order[: options.batch], order[options.batch :]
            places = mask.places(len(chosen) * (1 + len(self.block.layers)))
            width = 1 + len(self.block.layers)
            jobs = [(i, places[j * width : (j + 1) * width]) for j, i in enumerate(chosen)]
            grads = self.pool.map(lambda job: self._gradient(job, layers, variables, mask, scale), jobs)
            for variable, *parts in zip(variables, *grads, strict=True):
                variable.grad = torch.stack(parts).sum(0)
            beta = annealed_beta(iteration / options.iterations)
            if beta is not None:
                _add_penalty(layers, beta, options.penalty)
            optimizer.step()
        result = {i: layer.result() for i, layer in layers.items()}
        return (result if self.error(result) < before else parameters), complete

    def _gradient(
        self,
        job: tuple[int, list[int]],
        layers: Mapping[int, LearnableLayer],
        variables: list[Tensor],
        mask: DropMask,
        scale: float,
    ) -> tuple[Tensor, ...]:
        """Return the gradient of one micro-batch's error."""
        i, places = job
        cuts = iter(places)

        def call(op: Op, x: Tensor) -> Tensor:
            layer = layers[-1 if op.layer is None else op.layer]
            return call_with(op, layer.quantize_input(x, mask.at(next(cuts), x)), layer.value(), layer.bias())

        with torch.enable_grad():
            x = torch.where(mask.at(next(cuts), self.inputs[i]), self.float_inputs[i], self.inputs[i])
            error = (self.output(i, x, call) - self.targets[i]).square().sum() * scale
            return torch.autograd.grad(error, variables)


def _add_penalty(layers: Mapping[int, LearnableLayer], beta: float, weight: float) -> None:
    with torch.enable_grad():
        for layer in layers.values():
            penalty = layer.penalty(beta)
            if penalty is not None and layer.rounding is not None and layer.rounding.grad is not None:
                layer.rounding.grad += weight * torch.autograd.grad(penalty, layer.rounding)[0]
