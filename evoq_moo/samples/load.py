"""The unlabelled samples of a search: drawn at random or chosen from images."""

import numpy as np
import torch
from torch import nn

from evoq_moo.errors import ArgumentError, ImageError, check_count, check_name
from evoq_moo.images import Images, ImageSource, Transform, check_transform
from evoq_moo.samples.choose import CHOOSERS, RANDOM, choose_samples


def load_samples(
    images: Images,
    *,
    count: int = 50,
    preprocess: Transform,
    seed: int = 0,
    choose: str = RANDOM,
    network: nn.Module | None = None,
    candidates: int = 1000,
    progress: bool = True,
) -> torch.Tensor:
    """Draw images at random, without replacement, or choose them by what a network makes of them, as one tensor.

    The draws of a seed are nested: the samples of a smaller count are the first of a larger one.

    Args:
        images: A folder (recursive), an ``.npz`` file with uint8 NHWC ``images``, or a uint8 NHWC array or tensor.
        count: Number of samples; 50 in the EvoQ abstract.
        preprocess: The network's.
        seed: Of the draw.
        choose: ``"random"``, ``"k-center"``, ``"high-entropy"`` or ``"low-entropy"``, see
            :func:`evoq_moo.samples.choose.choose_samples`; those look at `candidates` images drawn at random.
        network: The float network, for any way but ``"random"``.
        candidates: How many images to look at, at most.
        progress: Show progress on a terminal, where images are looked at.

    Returns:
        Float32 `(count, C, H, W)`.

    Raises:
        ArgumentError: `count`, `seed`, `preprocess`, `images`, `choose` or `network` is not of an allowed kind.
        MissingFileError: No such folder or file.
        ImageError: Fewer than `count` images, or one that can't be read, is too small or of a wrong type.
    """
    check_count("count", count)
    check_count("seed", seed, lowest=0)
    check_name("choose", choose, CHOOSERS)
    check_count("candidates", candidates)
    check_transform(preprocess)
    source = ImageSource(images)
    if len(source) < count:
        raise ImageError(f"{source.origin}: given {len(source)} images; count={count} needs at least {count}")
    drawn = np.random.default_rng(seed).permutation(len(source)).tolist()
    if choose == RANDOM:
        return source.batch(drawn[:count], preprocess)
    if network is None:
        raise ArgumentError(f"network: none given; choose={choose!r} looks at images with the float network")
    chosen = choose_samples(
        network,
        source,
        drawn[: max(candidates, count)],
        preprocess=preprocess,
        count=count,
        choose=choose,
        progress=progress,
    )
    return source.batch(chosen, preprocess)
