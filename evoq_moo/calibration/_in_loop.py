"""Calibration in the loop: features matched inside each evaluation, so that a search ranks what will be shipped."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evoq_moo._compute import MICRO_BATCH
from evoq_moo.calibration._features import gain_of, shift_to
from evoq_moo.calibration._moments import ChannelMoments, moments_of, together
from evoq_moo.errors import ArgumentError, check_name
from evoq_moo.graph import (
    Passed,
    Samples,
    Stage,
    StagedNetwork,
    Values,
    count,
    device_of,
    digest,
    filled,
    product,
    split,
)
from evoq_moo.network import DerivedNetwork, EvaluatedNetwork, QuantizedModule, QuantizedNetwork
from evoq_moo.quantizer import LayerParameters
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
        self._results = network.results
        self._captured = StagedNetwork(network.network)
        self._count = count(network.samples)
        size = self._captured.size
        batches = split(network.samples, size or MICRO_BATCH)
        self._batches = [filled(batch, size) for batch in batches] if size else list(batches)
        self._features: dict[int, _Feature] = {}
        self._run(None)

    def heads(self, parameters: Sequence[LayerParameters]) -> tuple[list[Tensor], tuple[LayerParameters, ...]]:
        """Return the heads, each layer's features matched before the next layer runs, and the matched parameters."""
        return self._run(list(parameters))

    def _run(self, parameters: list[LayerParameters] | None) -> tuple[list[Tensor], tuple[LayerParameters, ...]]:
        network = self._captured
        passed = self._results.passed(parameters) if parameters else {}
        stream = [network.start(batch) for batch in self._batches]
        for stage in network.stages:
            outputs: list[Tensor] | None = None
            layer = stage.layer
            if layer is not None:
                inputs = [values[stage.ops[0].inputs[0]] for values in stream]
                outputs = self._outputs(layer, inputs, None if parameters is None else parameters[layer])
                if network.calls[layer] == 1 and parameters is None:
                    self._features[layer] = self._feature(layer, outputs)
                elif network.calls[layer] == 1 and parameters is not None:
                    parameters[layer] = self._match(parameters[layer], outputs, self._features[layer])
            self._finish(stage, stream, outputs, passed)
        parts = [network.heads(values) for values in stream]
        heads = [torch.cat(head)[: self._count] for head in zip(*parts, strict=True)]
        return heads, tuple(parameters or ())

    def _finish(self, stage: Stage, stream: list[Values], outputs: list[Tensor] | None, passed: Passed) -> None:
        """Run a stage on all micro-batches.

        Args:
            stage: The stage.
            stream: What was computed before.
            outputs: What its layer's call gave, if it has one.
            passed: What results pass.
        """
        network = self._captured

        def run(i: int) -> None:
            network.run_stage(
                stage, stream[i], lambda op, x: network.float_call(op, x) if outputs is None else outputs[i], passed
            )

        self._pool.map(run, range(len(stream)))

    def _outputs(self, layer: int, inputs: list[Tensor], parameters: LayerParameters | None) -> list[Tensor]:
        own = self._captured.layers[layer]
        if parameters is None:
            return self._pool.map(own, inputs)
        weight, bias = self._pool.run(parameters.value), parameters.bias
        return self._pool.map(lambda x: product(parameters.quantize_input(x), weight, bias, own.geometry), inputs)

    def _feature(self, layer: int, outputs: list[Tensor]) -> _Feature:
        axis = self._captured.layers[layer].geometry.channel_axis
        moments = together(self._pool.map(lambda y: moments_of(y, axis), outputs))
        number = outputs[0][0].numel() // outputs[0].shape[axis]
        # Spread evenly over the positions: deterministic, and no row or column of an image alone.
        places = torch.linspace(0, number - 1, min(number, PLACES)).round().long()
        return _Feature(axis, moments, places, [_kept(y, axis, places) for y in outputs])

    def _match(self, parameters: LayerParameters, outputs: list[Tensor], feature: _Feature) -> LayerParameters:
        """Match outputs to the float network's, in place, and return the parameters that give them."""
        moments = together(self._pool.map(lambda y: moments_of(y, feature.axis), outputs))
        gain, shift = self._pool.run(lambda: _correction(outputs, moments, feature))
        old = parameters.bias
        fitted = parameters.scaled(gain, shift if old is None else old * gain + shift)
        shape = [1] * outputs[0].dim()
        shape[feature.axis] = -1
        term = shift_to(fitted, gain, old).reshape(shape)
        self._pool.map(lambda y: y.mul_(gain.reshape(shape)).add_(term), outputs)
        return fitted


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
        if device_of(network.samples).type != "cpu":
            raise ArgumentError(
                f"network: its samples are on {device_of(network.samples)}; calibration runs on the CPU"
            )
        self.calibrate = calibrate
        self.fingerprint = digest(network.fingerprint.encode(), f"calibrate {calibrate}, version {VERSION}".encode())
        self._light: _Light | None = None

    @property
    def samples(self) -> Samples:
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
        return self.network.finite_difference(self._calibrated(array)[0], array)

    def _calibrated(self, bits: npt.NDArray[np.int64]) -> tuple[list[Tensor], tuple[LayerParameters, ...]]:
        with self._lock:
            if self._light is None:
                self._light = _Light(self.network)
            return self._light.heads(self.network.parameters_of(bits))

    def apply(self, policy: Policy) -> QuantizedModule:
        """Return a copy of the network that computes with a policy after light calibration.

        Raises:
            ArgumentError: The policy is of another network's layers.
            NetworkError: The network can't be captured as a graph.
        """
        layers = self._calibrated(self.network.bits_of(policy))[1]
        results = self.network.results.of(layers)
        return QuantizedModule(layers=layers, results=results, policy=policy, reference=self.network.network)

    def scan(self, bits: npt.ArrayLike) -> Iterator[float]:
        """Give the difference of many bit-widths `(policies, layers, 2)`, one full evaluation each."""
        return (self.difference_of(policy) for policy in np.asarray(bits))

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
