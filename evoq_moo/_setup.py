"""Set-up of a quantized network: float outputs, clipping ranges, and what identifies them."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from evoq_moo._compute import ComputePool
from evoq_moo.difference import heads_of
from evoq_moo.engines.reference import QuantizedLayer
from evoq_moo.errors import ArgumentError, NetworkError, NonFiniteError
from evoq_moo.layers import weight_of, weight_rows
from evoq_moo.progress import track
from evoq_moo.ranges import ActivationHistogram, LayerRanges, activation_range_of, weight_scales
from evoq_moo.space import QUANTIZED_BITS


class _Observe(Protocol):
    def __call__(self, name: str, x: Tensor) -> None: ...


def check_samples(samples: object) -> Tensor:
    """Return samples that a network can be measured on.

    Raises:
        ArgumentError: Not a float32 tensor `(samples, ...)` of finite values with at least one sample.
    """
    if not isinstance(samples, Tensor) or samples.dtype != torch.float32 or samples.dim() < 2 or len(samples) == 0:
        given = f"{samples.dtype} {tuple(samples.shape)}" if isinstance(samples, Tensor) else type(samples).__name__
        raise ArgumentError(
            f"samples: given {given}; allowed: a float32 tensor (samples, ...) with at least one sample"
        )
    if not torch.isfinite(samples).all():
        bad = (~torch.isfinite(samples).flatten(1).all(dim=1)).nonzero().flatten().tolist()
        raise ArgumentError(f"samples: NaN or infinity in samples {bad[:10]}; allowed: finite values")
    return samples


@contextmanager
def observed(network: nn.Module, names: Sequence[str], observe: _Observe) -> Iterator[None]:
    lock = threading.Lock()
    modules = dict(network.named_modules())
    handles = []
    for name in names:

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
            x = args[0] if args else kwargs["input"]
            with lock:
                observe(name, x)

        handles.append(modules[name].register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_nonfinite(network: nn.Module, batch: Tensor) -> str | None:
    """Return the name of the first module whose result on a batch holds NaN or infinity, if any."""
    found: list[str] = []

    def hook(_module: nn.Module, _args: Any, output: Any, name: str) -> None:
        if not found and isinstance(output, Tensor) and output.is_floating_point() and not output.isfinite().all():
            found.append(name)

    modules = dict(network.named_modules())
    wrapped = {module.layer for module in modules.values() if isinstance(module, QuantizedLayer)}
    handles = [
        module.register_forward_hook(lambda m, a, o, name=name: hook(m, a, o, name))
        for name, module in modules.items()
        if module not in wrapped
    ]
    try:
        with torch.no_grad():
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def check_finite(heads: Sequence[Tensor], network: nn.Module, batches: Sequence[Tensor], what: str) -> None:
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
    network: nn.Module, batches: Sequence[Tensor], names: Sequence[str], pool: ComputePool, *, progress: bool
) -> tuple[list[Tensor], dict[str, LayerRanges]]:
    """Run the float network on the samples twice and tabulate every layer's ranges.

    Args:
        network: The folded float network.
        batches: Micro-batches of the samples.
        names: The quantizable layers. Ranges are made for every bit-width from 2 to 8, whatever a search allows,
            so that they (and the fingerprint of an evaluation) do not depend on the search space.
        pool: Where the work runs.
        progress: Whether to show progress.

    Returns:
        The float heads, and the ranges of each layer by name.

    Raises:
        NetworkError: The network can't run on the samples.
        NonFiniteError: Its output is not finite.
    """
    modules = dict(network.named_modules())
    histograms = {name: ActivationHistogram() for name in names}
    with track(2 * len(batches) + len(names), "tabulating ranges", enabled=progress) as bar:

        def run(batch: Tensor) -> list[Tensor]:
            heads = heads_of(network(batch))
            bar.advance()
            return heads

        with observed(network, names, lambda name, x: histograms[name].observe_extremes(x)):
            try:
                parts = pool.map(run, batches)
            except (RuntimeError, ValueError, TypeError) as error:
                shape = tuple(batches[0].shape)
                raise NetworkError(f"the network can't run on a batch of shape {shape}: {error}") from error
        for part in parts:
            if any(len(head) != len(batch) for batch, p in zip(batches, parts, strict=True) for head in p):
                shapes = [tuple(head.shape) for head in part]
                raise NetworkError(
                    f"heads must have one row for each sample; a batch of {len(batches[0])} gave {shapes}"
                )
        heads = [torch.cat(head) for head in zip(*parts, strict=True)]
        check_finite(heads, network, batches, "the float network")
        with observed(network, names, lambda name, x: histograms[name].observe_counts(x)):
            pool.map(run, batches)

        def ranges_of(name: str) -> LayerRanges:
            layer = modules[name]
            rows = weight_rows(weight_of(layer), layer)
            found = LayerRanges(
                weight_scales={b: weight_scales(rows, b) for b in QUANTIZED_BITS},
                activation={b: activation_range_of(histograms[name], b) for b in QUANTIZED_BITS},
            )
            bar.advance()
            return found

        ranges = dict(zip(names, pool.map(ranges_of, names), strict=True))
    return heads, ranges


def digest(*parts: bytes) -> str:
    """Return the SHA-256 of byte strings, in hexadecimal; lengths count, so that parts can't run together."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)
    return sha.hexdigest()


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the dtype, shape and values of a tensor as bytes."""
    head = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    return head + tensor.detach().cpu().contiguous().numpy().tobytes()


def network_fingerprint(network: nn.Module) -> str:
    """Return what identifies a network: its structure and every parameter and buffer."""
    parts = [str(network).encode()]
    for name, tensor in sorted(network.state_dict().items()):
        parts += [name.encode(), tensor_bytes(tensor)]
    return digest(*parts)


def ranges_fingerprint(ranges: Mapping[str, LayerRanges]) -> str:
    """Return what identifies the ranges."""
    return digest(json.dumps({name: found.to_json() for name, found in ranges.items()}, sort_keys=True).encode())
