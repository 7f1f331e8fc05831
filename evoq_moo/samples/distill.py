"""Samples without any image: distilled from the statistics that BatchNorm keeps of the training images.

As in ZeroQ (Cai et al., CVPR 2020): noise is changed by gradient until the means and standard deviations of what enters
each BatchNorm are those it remembers. Our choices: Adam at a rate that falls to zero along a cosine; images stay within
the range of pixels where the preprocessing is known; a large set is made in batches, each for itself.
"""

import copy
import logging
import math
from collections.abc import Sequence
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from evoq_moo._compute import ComputePool
from evoq_moo.errors import ArgumentError, FormatError, NetworkError, check_count
from evoq_moo.files import cache_folder, read_bytes, read_tensors, reading, write_atomically
from evoq_moo.graph import digest, network_fingerprint
from evoq_moo.images import Preprocess
from evoq_moo.progress import Tracker, track

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

logger = logging.getLogger("evoq_moo")

SYNTHETIC = "synthetic"
"""In place of a folder of samples: distill them."""
VERSION = 1
"""Changes whenever the result could: it is part of the cache's key."""
LEARNING_RATE = 0.25
BATCH = 25
"""Images distilled together: their statistics are matched as one."""


def distill_samples(
    network: nn.Module,
    *,
    count: int = 50,
    preprocess: Preprocess | None = None,
    shape: Sequence[int] | None = None,
    seed: int = 0,
    iterations: int = 300,
    progress: bool = True,
) -> Tensor:
    """Return images made from the statistics of a network's BatchNorm layers; no image is looked at.

    The same bits for the same seed, whatever the number of threads, on one machine and torch.

    Args:
        network: The pre-trained network, BatchNorm not folded; left as it is.
        count: Number of images.
        preprocess: Tells shape and range of its input; default: the network's attribute of that name.
        shape: `(C, H, W)` where there is no preprocessing; images are then not bounded.
        seed: Of the noise.
        iterations: Steps of the gradient for each batch.
        progress: Show progress on a terminal.

    Returns:
        Float32 `(count, C, H, W)`.

    Raises:
        ArgumentError: An argument is not allowed, or neither `preprocess` nor `shape` is known.
        NetworkError: The network has no BatchNorm layer that remembers anything.
    """
    check_count("count", count)
    check_count("seed", seed, lowest=0)
    check_count("iterations", iterations)
    low: Tensor | None = None
    high: Tensor | None = None
    if shape is None:
        preprocess = preprocess if preprocess is not None else getattr(network, "preprocess", None)
        if not isinstance(preprocess, Preprocess):
            raise ArgumentError("preprocess: none given and the network has none; allowed: a Preprocess, or shape")
        shape = (preprocess.channels, preprocess.crop, preprocess.crop)
        mean, std = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (preprocess.mean, preprocess.std))
        low, high = -mean / std, (1 - mean) / std
    elif len(shape) != 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise ArgumentError(f"shape: given {shape!r}; allowed: (C, H, W)")
    own = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    norms = _remembering(own)
    generator = torch.Generator().manual_seed(seed)
    # One thread: sums split over threads would depend on their number.
    pool = ComputePool(threads=1)
    batches = []
    with track(iterations * math.ceil(count / BATCH), "distilling images", enabled=progress) as bar:
        for start in range(0, count, BATCH):
            noise = torch.randn(min(BATCH, count - start), *shape, generator=generator)
            batches += pool.map(lambda x: _distil(own, norms, x, low, high, iterations, bar), [noise])
    return torch.cat(batches)


def cached_samples(network: nn.Module, *, count: int, preprocess: Preprocess, seed: int, progress: bool) -> Tensor:
    """Return distilled images from the cache folder, where they are kept once made.

    Args:
        network: As for :func:`distill_samples`.
        count: The same.
        preprocess: The same.
        seed: The same.
        progress: The same.

    Raises:
        NetworkError: The network has no BatchNorm layer that remembers anything.
    """
    settings = f"{VERSION} {count} {seed} {preprocess.to_json()} {torch.__version__}"
    key = digest(network_fingerprint(network).encode(), settings.encode())
    path = cache_folder() / f"synthetic-{key[:16]}.safetensors"
    if path.is_file():
        try:
            with reading(f"{path}: damaged", catch=(ValueError, KeyError)):
                return read_tensors(read_bytes(path))["samples"]
        except FormatError as error:
            logger.warning("%s; distilling the images again", error)
    samples = distill_samples(network, count=count, preprocess=preprocess, seed=seed, progress=progress)
    try:
        write_atomically(path, safetensors.torch.save({"samples": samples}))
    except OSError as error:
        logger.warning("%s: can't be written (%s); images will be distilled again next time", path, error)
    return samples


def _remembering(network: nn.Module) -> list[nn.Module]:
    norms: list[Any] = [
        module for module in network.modules() if isinstance(module, NORMS) and module.running_mean is not None
    ]
    # A fresh layer, or one that was folded into the layer before it, says mean 0 and the same variance everywhere.
    kept = [n for n in norms if bool(n.running_mean.any()) or len(n.running_var.unique()) > 1]
    if not kept:
        found = f"{len(norms)} layers as a fresh one has them (folded, or not trained)" if norms else "none"
        raise NetworkError(f"samples: synthetic images need BatchNorm statistics; the network has {found}: give images")
    return kept


def _distil(
    network: nn.Module,
    norms: Sequence[nn.Module],
    images: Tensor,
    low: Tensor | None,
    high: Tensor | None,
    iterations: int,
    bar: Tracker,
) -> Tensor:
    losses: list[Tensor] = []

    def compare(module: nn.Module, args: tuple[Any, ...]) -> None:
        rows = args[0].transpose(0, 1).flatten(1)
        norm: Any = module
        losses.append(_distance(rows, norm.running_mean, (norm.running_var + norm.eps).sqrt()))

    handles = [norm.register_forward_pre_hook(compare) for norm in norms]
    images = images.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([images], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    try:
        with torch.enable_grad():
            for _ in range(iterations):
                losses.clear()
                optimizer.zero_grad()
                network(images)
                torch.autograd.backward(torch.stack(losses).sum())
                optimizer.step()
                schedule.step()
                if low is not None and high is not None:
                    with torch.no_grad():
                        images.clamp_(low, high)
                bar.advance()
    finally:
        for handle in handles:
            handle.remove()
    return images.detach()


def _distance(rows: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    spread = (rows.var(1, unbiased=False) + 1e-10).sqrt()
    return (rows.mean(1) - mean).square().mean() + (spread - deviation).square().mean()
