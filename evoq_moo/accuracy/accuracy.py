"""Top-1 and top-5 accuracy of a classification network, and how often it agrees with the float network."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evoq_moo._compute import MICRO_BATCH, ComputePool, evaluation_mode
from evoq_moo.detection import HEADS, BoxDecoder, attribute_of
from evoq_moo.errors import ArgumentError, ImageError, NetworkError, NonFiniteError
from evoq_moo.images import Images, LabelledImages, Labels, Transform, check_batches, check_labels
from evoq_moo.progress import track


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What was measured, as fractions in 0..1.

    Attributes:
        count: Number of images.
        top1: How often the largest logit is the label's.
        top5: How often the label is among the five largest; None for networks of five classes or fewer.
        agreement: How often the largest logit is the reference network's; None without a reference.
    """

    count: int
    top1: float
    top5: float | None = None
    agreement: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON-ready plain data."""
        return asdict(self)

    def __str__(self) -> str:
        figures = (("top-1", self.top1), ("top-5", self.top5), ("agreement with the reference", self.agreement))
        parts = [f"{name} {100 * value:.2f} %" for name, value in figures if value is not None]
        return f"{', '.join(parts)} ({self.count} images)"


def evaluate_accuracy(
    network: nn.Module,
    images: Images | LabelledImages | tuple[Tensor, Labels],
    *,
    labels: Labels | None = None,
    preprocess: Transform | None = None,
    reference: nn.Module | None = None,
    batch_size: int = 50,
    limit: int | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> Accuracy:
    """Measure a network on labelled images.

    Args:
        network: Maps float32 `(N, C, H, W)` to logits `(N, classes)`. Run in evaluation mode and then put back.
        images: A folder, ``.npz`` file or uint8 NHWC array, see :class:`LabelledImages`; or a `LabelledImages`, whose
            labels, preprocessing, limit and batches are then used; or a pair of preprocessed float32 images
            `(N, C, H, W)` and their labels.
        labels: A CSV file or whole numbers, see :class:`LabelledImages`.
        preprocess: Default: the network's attribute of that name.
        reference: Usually the float network. Default: the network's attribute of that name, if it has one.
        batch_size: Images read at once.
        limit: Take the first `limit` images only.
        threads: Micro-batches computed at once; None for one a core. Results do not depend on it.
        progress: Show a progress bar where stderr is a terminal.

    Returns:
        The figures.

    Raises:
        ArgumentError: An argument is not allowed, none is given for `preprocess` and the network has none, a label is
            beyond the network's classes, or the network is a detector.
        MissingFileError: No such folder or file.
        ImageError: Images or labels are missing, unreadable or don't match.
        NetworkError: A network's result isn't `(N, classes)`.
        NonFiniteError: A network's logits are NaN.
    """
    reference = getattr(network, "reference", None) if reference is None else reference
    for argument, value in (("network", network), ("reference", reference)):
        if not isinstance(value, nn.Module) and (argument == "network" or value is not None):
            raise ArgumentError(f"{argument}: given a {type(value).__name__}; allowed: a torch.nn.Module")
    if attribute_of(network, "decoder", BoxDecoder) is not None:
        raise ArgumentError("network: is a detector, which has no top-1; allowed: a classifier, or evaluate_detection")
    batches, count = _batches(network, images, labels, preprocess, batch_size, limit)

    pool = ComputePool(threads=threads)

    def run(argument: str, module: nn.Module, x: Tensor) -> Tensor:
        parts = torch.split(x, MICRO_BATCH)
        return torch.cat(pool.map(lambda part: _logits(argument, module, part), parts))

    classes = agreed = top1 = top5 = 0
    with evaluation_mode(network, reference), track(count, "accuracy", enabled=progress) as bar:
        for x, y in batches:
            logits = run("network", network, x)
            classes = logits.shape[1]
            if int(y.max()) >= classes:
                raise ArgumentError(f"labels: given {int(y.max())}; allowed: 0..{classes - 1}, the network's classes")
            ranked = logits.topk(min(5, classes), dim=1).indices
            hits = ranked == y[:, None]
            top1 += int(hits[:, 0].sum())
            top5 += int(hits.any(dim=1).sum())
            if reference is not None:
                agreed += int((run("reference", reference, x).argmax(dim=1) == logits.argmax(dim=1)).sum())
            bar.advance(len(x))
    return Accuracy(
        count=count,
        top1=top1 / count,
        top5=top5 / count if classes > 5 else None,
        agreement=agreed / count if reference is not None else None,
    )


def _batches(
    network: nn.Module,
    images: Images | LabelledImages | tuple[Tensor, Labels],
    labels: Labels | None,
    preprocess: Transform | None,
    batch_size: int,
    limit: int | None,
) -> tuple[Iterable[tuple[Tensor, Tensor]], int]:
    if isinstance(images, LabelledImages | tuple):
        given = [name for name, value in (("labels", labels), ("preprocess", preprocess)) if value is not None]
        if given:
            raise ArgumentError(
                f"{given[0]}: given beside images that are labelled and preprocessed already; allowed: None"
            )
    if isinstance(images, LabelledImages):
        if limit is not None:
            raise ArgumentError(f"limit: given {limit} beside a LabelledImages, which has its own; allowed: None")
        return images, len(images)
    if isinstance(images, tuple):
        check_batches(limit, batch_size)
        x, y = (part[:limit] for part in _check_pair(images))
        starts = range(0, len(y), batch_size)
        return ((x[i : i + batch_size], y[i : i + batch_size]) for i in starts), len(y)
    if preprocess is None:
        preprocess = getattr(network, "preprocess", None)
    if preprocess is None:
        raise ArgumentError(
            "preprocess: none given and the network has no attribute of that name; allowed: a Preprocess"
        )
    source = LabelledImages(images, labels=labels, preprocess=preprocess, limit=limit, batch_size=batch_size)
    return source, len(source)


def _check_pair(pair: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    if len(pair) != 2 or not isinstance(pair[0], Tensor):
        raise ArgumentError("images: given a tuple; allowed: a pair of a float32 tensor (N, C, H, W) and labels (N,)")
    x, labels = pair
    if x.dtype != torch.float32 or x.ndim != 4 or len(x) == 0:
        raise ImageError(
            f"images: given {x.dtype} of shape {tuple(x.shape)}; allowed: float32 (N, C, H, W), N 1 or more"
        )
    return x, check_labels(labels, len(x), "labels")


def _logits(argument: str, network: nn.Module, x: Tensor) -> Tensor:
    logits = network(x)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x) or not logits.is_floating_point():
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        hint = "; evaluate_detection measures detectors" if isinstance(logits, Mapping) and HEADS[0] in logits else ""
        raise NetworkError(f"{argument}: gave {found} for {len(x)} images; allowed: logits ({len(x)}, classes){hint}")
    if logits.isnan().any():
        raise NonFiniteError(
            f"{argument}: its logits are NaN for {int(logits.isnan().any(dim=1).sum())} of {len(x)} images"
        )
    return logits
