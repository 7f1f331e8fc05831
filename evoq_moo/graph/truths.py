"""What must be true of a network before anything is searched: it repeats itself, and each sample stands alone."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from evoq_moo._compute import ComputePool
from evoq_moo.difference import heads_of
from evoq_moo.errors import NetworkError, NonFiniteError, check_memory
from evoq_moo.graph.inputs import Samples, count, leaves, map_samples, rows, run, split
from evoq_moo.graph.network import GraphNetwork

LARGEST_ERROR = 1e-3
"""Relative error that float32 sums of another order may make (our choice; networks measured: up to 1e-5)."""


def relative_error(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return the largest distance of outputs over the largest value, of the head where that is largest."""
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.numel() == 0:
            continue
        scale = a.abs().max().double().item()
        distance = (a.double() - b.double()).abs().max().item()
        worst = max(worst, 0.0 if distance == 0 else distance / scale if scale > 0 else float("inf"))
    return worst


def float_outputs(network: nn.Module, samples: Samples, size: int, pool: ComputePool) -> list[Tensor]:
    """Return a network's heads on all samples, in micro-batches that it can't change.

    Raises:
        NetworkError: It can't run on them, or does not give one row for each sample.
        NonFiniteError: It computes NaN or infinity; the message names the first module.
    """
    batches = split(samples, size)
    try:
        parts = pool.map(lambda batch: heads_of(run(network, _copied(batch))), batches)
    except NetworkError:
        raise
    except Exception as error:  # a network may fail in any way
        check_memory(error)
        shapes = [tuple(x.shape) for x in leaves(batches[0])]
        shown = shapes[0] if len(shapes) == 1 else shapes
        reason = f"{type(error).__name__}: {error}"
        raise NetworkError(f"the network can't run on a batch of shape {shown}: {reason[:500]}") from error
    return _joined(network, batches, parts)


def _joined(network: nn.Module, batches: Sequence[Samples], parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the heads of micro-batches as one.

    Raises:
        NetworkError: They don't have one row for each sample.
        NonFiniteError: They hold NaN or infinity; the message names the first module.
    """
    check_rows(parts, [count(batch) for batch in batches])
    heads = [torch.cat(head) for head in zip(*parts, strict=True)]
    if not all(head.isfinite().all() for head in heads):
        name = next((n for n in (first_nonfinite(network, batch) for batch in batches) if n is not None), None)
        where = f"first in {name!r}" if name else "in its own forward"
        raise NonFiniteError(f"the float network computes NaN or infinity on the samples, {where}")
    return heads


def check_rows(parts: Sequence[Sequence[Tensor]], counts: Sequence[int]) -> None:
    """Raise unless every head of every micro-batch has one row for each of its samples.

    Raises:
        NetworkError: One has not.
    """
    for part, number in zip(parts, counts, strict=True):
        if any(head.dim() == 0 or len(head) != number for head in part):
            shapes = [tuple(head.shape) for head in part]
            raise NetworkError(f"heads must have one row for each sample; a batch of {number} gave {shapes}")
    if len({len(part) for part in parts}) > 1:
        raise NetworkError("the network gives another number of heads for some samples than for others")


def lone_outputs(network: nn.Module, samples: Samples, size: int, pool: ComputePool) -> tuple[list[Tensor], bool]:
    """Return a network's heads on each sample alone, and whether its forward changes what it is given.

    It runs on the first micro-batch before and after that, and must give the same both times. That other micro-batches
    also give what their samples give alone is known once the captured network, which runs on all of them, has given
    these heads; where it doesn't, :func:`check_micro_batches` tells whose fault it is.

    Args:
        network: The network as given.
        samples: All samples.
        size: Samples in a micro-batch.
        pool: Where it runs.

    Raises:
        NetworkError: It can't run on the samples or does not give one row for each. Or the output is random, depends on
            earlier calls, or on the other samples of the first micro-batch; the message names the first module.
        NonFiniteError: It computes NaN or infinity; the message names the first module.
    """
    first = rows(samples, slice(0, size))
    before = float_outputs(network, first, size, pool)
    single = split(samples, 1)
    try:
        parts = pool.map(lambda one: heads_of(run(network, _copied(one))), single)
    except NetworkError:
        raise
    except Exception as error:  # as above
        check_memory(error)
        raise NetworkError(
            f"the network runs on a batch but not on one sample alone: {type(error).__name__}: {str(error)[:300]}; "
            "its output must not depend on the batch"
        ) from error
    given = _copied(first)
    after = pool.run(lambda: heads_of(run(network, given)))
    if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        where = _where(_apart(network, first, first, torch.equal, pool))
        raise NetworkError(
            f"the network gives another output each time{where}: it is random or changes its own state in forward; in "
            "evaluation a network must repeat itself (F.dropout needs training=self.training)"
        )
    alone = _joined(network, single, parts)
    _check_batch(network, first, before, [head[: count(first)] for head in alone], pool)
    return alone, any(not torch.equal(a, b) for a, b in zip(leaves(first), leaves(given), strict=True))


def check_micro_batches(
    network: nn.Module, samples: Samples, alone: Sequence[Tensor], size: int, pool: ComputePool
) -> None:
    """Raise unless micro-batches of samples give what each sample gives alone.

    Args:
        network: The network as given.
        samples: All samples.
        alone: Its heads on each alone.
        size: Samples in a micro-batch.
        pool: Where it runs.

    Raises:
        NetworkError: One does not; the message names the first module.
    """
    for start, batch in zip(range(0, count(samples), size), split(samples, size), strict=True):
        expected = [head[start : start + size] for head in alone]
        _check_batch(network, batch, float_outputs(network, batch, size, pool), expected, pool)


def _check_batch(
    network: nn.Module, batch: Samples, heads: Sequence[Tensor], alone: Sequence[Tensor], pool: ComputePool
) -> None:
    if relative_error(alone, heads) <= LARGEST_ERROR:
        return

    def row(a: Tensor, b: Tensor) -> bool:
        if a.shape[1:] != b.shape[1:] or not a.dim() or len(a) != count(batch) * max(1, len(b)):
            return True  # not a result by samples
        return relative_error([b], [a[: len(b)]]) <= LARGEST_ERROR

    where = _where(_apart(network, batch, rows(batch, slice(0, 1)), row, pool))
    raise NetworkError(
        f"a sample's output depends on the other samples of its batch{where}; allowed: networks that treat each "
        "sample alone (BatchNorm needs running statistics)"
    )


def _where(name: str | None) -> str:
    return "" if name is None else f", first in {name!r}" if name else ", in its own forward"


def _apart(
    network: nn.Module, first: Samples, second: Samples, same: Callable[[Tensor, Tensor], bool], pool: ComputePool
) -> str | None:
    """Return the path of the first module whose results on two inputs are not the same."""
    a, b = (pool.run(lambda samples=samples: module_outputs(network, samples)) for samples in (first, second))  # type: ignore[misc]
    for (name, x), (_, y) in zip(a, b, strict=False):
        if not same(x, y):
            return name
    return None


def module_outputs(network: nn.Module, samples: Samples) -> list[tuple[str, Tensor]]:
    """Return the first tensor that each call of each module gives, in the order in which they end, with its path."""
    found: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            tensor = next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
            if tensor is not None and tensor.is_floating_point():
                found.append((name, tensor.detach().clone()))

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in network.named_modules()]
    try:
        with torch.no_grad():
            run(network, _copied(samples))
    finally:
        for handle in handles:
            handle.remove()
    return found


def first_apart(given: nn.Module, captured: nn.Module, samples: Samples) -> str:
    """Return the path of the first module whose result is not in the captured network.

    Args:
        given: The network as given.
        captured: The captured one.
        samples: Some samples.
    """
    results: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for source, tensor in captured.sources(_copied(samples)) if isinstance(captured, GraphNetwork) else []:
            results.setdefault(source, []).append(tensor)
    for name, x in module_outputs(given, samples):
        alike = [y for y in results.get(name, []) if y.shape == x.shape]
        if alike and all(relative_error([x], [y]) > LARGEST_ERROR for y in alike):
            return name
    return ""


def first_nonfinite(network: nn.Module, samples: Samples) -> str | None:
    """Return the path of the first module whose result on samples holds NaN or infinity, if any.

    In a captured network that is the module that called the operation, whether or not it is a layer.
    """
    with torch.no_grad():
        if isinstance(network, GraphNetwork):
            found = network.sources(_copied(samples))
        else:
            found = module_outputs(network, samples)
    return next((name for name, x in found if not x.isfinite().all()), None)


def _copied(samples: Samples) -> Samples:
    return map_samples(lambda tensor: tensor.clone(), samples)
