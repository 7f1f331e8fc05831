"""Calibration in the loop: features matched inside each evaluation, so that a search ranks what will be shipped."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evoq_moo._setup import digest
from evoq_moo.calibration._features import gain_of
from evoq_moo.calibration._graph import MICRO_BATCH, CapturedNetwork, Stage, Values, call_with, float_call, run_stage
from evoq_moo.calibration._moments import ChannelMoments, moments_of, output_axis, together
from evoq_moo.calibration._parameters import LayerParameters, parameters_of
from evoq_moo.engines._capture import Op
from evoq_moo.errors import ArgumentError, check_name
from evoq_moo.evaluated import DerivedNetwork, EvaluatedNetwork
from evoq_moo.network import QuantizedNetwork
from evoq_moo.space import Policy

VERSION = 2
"""Changes whenever a result could change: it is part of the fingerprint."""
IN_LOOP = ("light",)
"""What can be done inside an evaluation."""
PLACES = 32
"""Places of each sample's output that correlations are taken from (our choice): their float values are kept."""


@dataclass(frozen=True)
class _Feature:
    """What is kept of one layer's output in the float network.

    Attributes:
        axis: Axis of channels.
        moments: Of all places.
        places: Which places of a sample are kept.
        values: For each micro-batch, float32 `(samples, channels, places)`.
    """

    axis: int
    moments: ChannelMoments
    places: Tensor
    values: list[Tensor]


class _Light:
    """The float features of a network's samples, and evaluations that match them."""

    def __init__(self, network: QuantizedNetwork) -> None:
        self._pool = network.pool
        self._ranges = network.ranges
        self._names = network.space.layer_names
        self._modules = dict(network.network.named_modules())
        sizes = [len(batch) for batch in torch.split(network.samples, MICRO_BATCH)]
        self._captured = CapturedNetwork(network.network, self._names, network.samples, sizes[0])
        self._captured.prepare(sizes[-1])
        self._batches = torch.split(network.samples, MICRO_BATCH)
        self._features: dict[int, _Feature] = {}
        self._run(None)

    def heads(self, bits: npt.NDArray[np.int64]) -> list[Tensor]:
        """Return the heads under bit-widths `(layers, 2)`, each layer's features matched before the next layer runs."""
        parameters = [
            parameters_of(name, self._modules[name], self._ranges[name], pair)
            for name, pair in zip(self._names, bits.tolist(), strict=True)
        ]
        return self._run(parameters)

    def _run(self, parameters: list[LayerParameters] | None) -> list[Tensor]:
        sizes = [len(batch) for batch in self._batches]
        stream = [self._captured.start(batch) for batch in self._batches]
        for stage in zip(*(self._captured.stages(size) for size in sizes), strict=True):
            outputs: list[Tensor] | None = None
            layer = stage[0].layer
            if layer is not None:
                op = stage[0].ops[0]
                inputs = [values[op.args[0].name] for values in stream]
                outputs = self._outputs(op, inputs, None if parameters is None else parameters[layer])
                if self._captured.calls[layer] == 1:
                    if parameters is None:
                        self._features[layer] = self._feature(op, outputs)
                    else:
                        self._match(outputs, self._features[layer])
            self._finish(stage, stream, outputs)
        parts = map(self._captured.heads, stream, sizes)
        return [torch.cat(head) for head in zip(*parts, strict=True)]

    def _finish(self, stage: Sequence[Stage], stream: list[Values], outputs: list[Tensor] | None) -> None:
        """Run a stage on all micro-batches; `outputs` is what its layer's call gave, if it has one."""

        def run(i: int) -> None:
            run_stage(stage[i], stream[i], lambda op, x: float_call(op, x) if outputs is None else outputs[i])

        self._pool.map(run, range(len(stream)))

    def _outputs(self, op: Op, inputs: list[Tensor], parameters: LayerParameters | None) -> list[Tensor]:
        if parameters is None:
            return self._pool.map(lambda x: float_call(op, x), inputs)
        weight = self._pool.run(parameters.value)
        return self._pool.map(lambda x: call_with(op, parameters.quantize_input(x), weight, parameters.bias), inputs)

    def _feature(self, op: Op, outputs: list[Tensor]) -> _Feature:
        axis = output_axis(op, outputs[0])
        moments = together(self._pool.map(lambda y: moments_of(y, axis), outputs))
        count = outputs[0][0].numel() // outputs[0].shape[axis]
        # Spread evenly over the positions: deterministic, and no row or column of an image alone.
        places = torch.linspace(0, count - 1, min(count, PLACES)).round().long()
        return _Feature(axis, moments, places, [_kept(y, axis, places) for y in outputs])

    def _match(self, outputs: list[Tensor], feature: _Feature) -> None:
        """Match outputs to the float network's, in place."""
        moments = together(self._pool.map(lambda y: moments_of(y, feature.axis), outputs))
        gain, shift = self._pool.run(lambda: _correction(outputs, moments, feature))
        shape = [1] * outputs[0].dim()
        shape[feature.axis] = -1
        self._pool.map(lambda y: y.mul_(gain.reshape(shape)).add_(shift.reshape(shape)), outputs)


def _kept(output: Tensor, axis: int, places: Tensor) -> Tensor:
    y = output.movedim(axis, 1).flatten(2) if output.dim() > 2 else output[:, :, None]
    return y[:, :, places].clone()


def _correction(outputs: list[Tensor], moments: ChannelMoments, feature: _Feature) -> tuple[Tensor, Tensor]:
    """Return gain and shift of each channel: those of :func:`match_features`, the correlation from kept places."""
    ours = torch.cat([_kept(y, feature.axis, feature.places) for y in outputs]).movedim(1, 0).flatten(1).double()
    exact = torch.cat(feature.values).movedim(1, 0).flatten(1).double()
    ours, exact = ours - ours.mean(1, keepdim=True), exact - exact.mean(1, keepdim=True)
    power = (ours.square().sum(1) * exact.square().sum(1)).sqrt()
    correlation = torch.where(power > 0, (ours * exact).sum(1) / power.clamp_min(1e-300), 0.0)
    wanted = feature.moments
    gain = gain_of(moments.variance, wanted.variance, correlation * (moments.variance * wanted.variance).sqrt())
    return gain, (wanted.mean - gain.double() * moments.mean).float()


class CalibratingNetwork(DerivedNetwork):
    """The differences of a network's policies after light calibration: what a search in the loop evaluates.

    Means and spreads of every layer's output are matched to the float network's as the evaluation goes (the step
    ``"features"`` of :func:`calibrate`, its correlations from a few places of each output). Computed by float32 fake
    quantization whatever the network's own engine is, and results are kept under a fingerprint of their own.

    Args:
        network: The network; it is not changed.
        calibrate: ``"light"``.

    Attributes:
        network: The network.
        calibrate: What is done inside an evaluation.
        fingerprint: Of the network and of that.

    Raises:
        ArgumentError: Not a network, or its samples are not on the CPU.
        UnknownNameError: `calibrate` is unknown.
    """

    def __init__(self, network: QuantizedNetwork, calibrate: str = "light") -> None:
        super().__init__(network)
        check_name("calibrate", calibrate, IN_LOOP)
        if network.samples.device.type != "cpu":
            raise ArgumentError(f"network: its samples are on {network.samples.device}; calibration runs on the CPU")
        self.calibrate = calibrate
        self.fingerprint = digest(network.fingerprint.encode(), f"calibrate {calibrate}, version {VERSION}".encode())
        self._light: _Light | None = None

    @property
    def samples(self) -> Tensor:
        """The network's samples."""
        return self.network.samples

    def set_threads(self, threads: int | None) -> None:
        """Compute this many micro-batches at once from now on; None for one a core. Results stay the same."""
        self.network.set_threads(threads)
        self._light = None

    def difference_of(self, bits: npt.ArrayLike) -> float:
        """Return the output difference of bit-widths `(layers, 2)` after light calibration.

        Raises:
            NonFiniteError: The network computes NaN or infinity.
            NetworkError: The network can't be captured as a graph.
        """
        array = Policy.from_array(self.space.layer_names, bits).to_array()
        with self._lock:
            if self._light is None:
                self._light = _Light(self.network)
            heads = self._light.heads(array)
        return self.network.finite_difference(heads, array)

    def scan(self, bits: npt.ArrayLike) -> Iterator[float]:
        """Give the difference of many bit-widths `(policies, layers, 2)`, one full evaluation each."""
        return (self.difference_of(policy) for policy in np.asarray(bits, dtype=np.int64))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_light": None}


@dataclass(frozen=True)
class CalibratingRecipe:
    """Makes a calibrating network in a worker process.

    Attributes:
        recipe: Makes the network.
        calibrate: What is done inside an evaluation.
    """

    recipe: Callable[[], EvaluatedNetwork]
    calibrate: str = "light"

    def __call__(self) -> CalibratingNetwork:
        """Make the network."""
        network = self.recipe()
        if not isinstance(network, QuantizedNetwork):
            raise ArgumentError(f"recipe: made a {type(network).__name__}; allowed: a QuantizedNetwork")
        return CalibratingNetwork(network, self.calibrate)
