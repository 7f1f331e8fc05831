"""Set-up of a quantized network: float outputs and clipping ranges."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from evoq_moo._compute import ComputePool
from evoq_moo.difference import heads_of
from evoq_moo.errors import NonFiniteError
from evoq_moo.graph import GraphNetwork, Samples, bias_of, digest, first_nonfinite, observed, run, weight_of
from evoq_moo.progress import track
from evoq_moo.quantizer import (
    ActivationHistogram,
    ActivationRange,
    LayerRanges,
    activation_range_of,
    layer_weight_scales,
    result_range,
)
from evoq_moo.space import QUANTIZED_BITS


class _Extremes(nn.Module):
    """Keeps the extremes of a result, zero among them, and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.lowest = self.highest = 0.0
        self._lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        low, high = (bound.item() for bound in torch.aminmax(x))
        with self._lock:
            self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        return x


@contextmanager
def result_ranges(network: GraphNetwork, names: Sequence[str]) -> Iterator[dict[str, ActivationRange]]:
    """Give a mapping that holds the ranges of some results once the network has run on the samples.

    Args:
        network: The float network.
        names: Of the results.
    """
    seen = {name: _Extremes() for name in names}
    ranges: dict[str, ActivationRange] = {}
    network.place_results(seen)
    try:
        yield ranges
    finally:
        network.place_results({})
    ranges.update({name: result_range(found.lowest, found.highest) for name, found in seen.items()})


def check_finite(heads: Sequence[Tensor], network: nn.Module, batches: Sequence[Samples], what: str) -> None:
    """Raise unless every head is finite.

    Args:
        heads: Outputs on all samples.
        network: The network in the state that gave them.
        batches: The micro-batches it ran on.
        what: What computed them, for the message.

    Raises:
        NonFiniteError: Names the first layer where NaN or infinity appears.
    """
    if all(head.isfinite().all() for head in heads):
        return
    name = next((n for n in (first_nonfinite(network, batch) for batch in batches) if n is not None), None)
    where = f"first in layer {name!r}" if name else "outside any module"
    raise NonFiniteError(f"{what} computes NaN or infinity on the samples, {where}")


def tabulate(
    network: nn.Module, batches: Sequence[Samples], names: Sequence[str], pool: ComputePool, *, progress: bool
) -> tuple[list[Tensor], dict[str, LayerRanges]]:
    """Run the float network on the samples twice and tabulate every layer's ranges.

    Args:
        network: The float network.
        batches: Micro-batches of the samples.
        names: The quantizable layers. Ranges are made for every bit-width from 2 to 8, whatever a search allows,
            so that they (and the fingerprint of an evaluation) do not depend on the search space.
        pool: Where the work runs.
        progress: Whether to show progress.

    Returns:
        The float heads, and the ranges of each layer by name.

    Raises:
        NonFiniteError: The input of a layer holds NaN or infinity.
    """
    modules = dict(network.named_modules())
    histograms = {name: ActivationHistogram() for name in names}
    with track(2 * len(batches) + len(names), "tabulating ranges", enabled=progress) as bar:

        def observe(batch: Samples) -> list[Tensor]:
            heads = heads_of(run(network, batch))
            bar.advance()
            return heads

        with observed(network, names, lambda name, x: histograms[name].observe_extremes(x)):
            parts = pool.map(observe, batches)
        heads = [torch.cat(head) for head in zip(*parts, strict=True)]
        broken = next((name for name, histogram in histograms.items() if not histogram.finite), None)
        if broken is not None:
            raise NonFiniteError(
                f"the float network computes NaN or infinity on the samples, first in the input of layer {broken!r}"
            )
        with observed(network, names, lambda name, x: histograms[name].observe_counts(x)):
            pool.map(observe, batches)

        def ranges_of(name: str) -> LayerRanges:
            rows, bias = weight_of(modules[name]).flatten(1), bias_of(modules[name])
            activation = {b: activation_range_of(histograms[name], b) for b in QUANTIZED_BITS}
            finest = min(found.scale for found in activation.values())
            found = LayerRanges(
                weight_scales={b: layer_weight_scales(rows, bias, finest, b) for b in QUANTIZED_BITS},
                activation=activation,
            )
            bar.advance()
            return found

        # The largest first, so that no thread is left with one at the end.
        order = sorted(names, key=lambda name: -weight_of(modules[name]).numel())
        ranges = dict(zip(order, pool.map(ranges_of, order), strict=True))
    return heads, {name: ranges[name] for name in names}


def ranges_fingerprint(ranges: Mapping[str, LayerRanges]) -> str:
    """Return what identifies the ranges."""
    return digest(json.dumps({name: found.to_json() for name, found in ranges.items()}, sort_keys=True).encode())
