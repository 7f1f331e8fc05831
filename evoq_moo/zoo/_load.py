"""Loading a network of the zoo with weights from a file, from torch hub's folder, or its own."""

import hashlib
import os
from dataclasses import dataclass

import torch
from torch import nn

from evoq_moo.detection import BoxDecoder
from evoq_moo.errors import ArgumentError, WeightsError, check_count, check_name
from evoq_moo.images import Preprocess, names_of
from evoq_moo.zoo._entries import ENTRIES, ZooEntry
from evoq_moo.zoo._published import published_weights, read_published
from evoq_moo.zoo._weights import apply_weights, is_name, parse_weights, read_weights, torchvision_preprocess


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """A network ready to be quantized.

    Attributes:
        name: The zoo's name of it.
        network: In evaluation mode, without gradients. Its attributes `preprocess`, `decoder` (detectors alone) and
            `class_names` are this object's, so that evaluations and :class:`evoq_moo.detection.Detector` need no more.
        preprocess: What its weights were trained with, or what was given.
        entry: What the zoo knows of it.
        pretrained: False for random weights: costs are then right, accuracies and differences mean nothing.
        source: Where the weights come from, in words.
        weights_sha256: Of the weights' file, in hex; None for random weights.
        class_names: Names of the classes, a detector's without background; None where they aren't known.
        decoder: Makes boxes of a detector's heads; None for classifiers.
    """

    name: str
    network: nn.Module
    preprocess: Preprocess
    entry: ZooEntry
    pretrained: bool
    source: str
    weights_sha256: str | None
    class_names: tuple[str, ...] | None = None
    decoder: BoxDecoder | None = None


def names() -> tuple[str, ...]:
    """Return the names of the zoo's networks."""
    return tuple(ENTRIES)


def entry(name: str) -> ZooEntry:
    """Return what the zoo knows of a network.

    Raises:
        UnknownNameError: No such network; the message suggests the nearest.
    """
    check_name("name", name, ENTRIES)
    return ENTRIES[name]


def load(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    preprocess: Preprocess | None = None,
    classes: int | None = None,
    download: bool = False,
) -> ZooModel:
    """Return a network of the zoo with its weights. Nothing is downloaded unasked, nothing is unpickled.

    Args:
        name: One of :func:`names`.
        weights: Path of a ``.safetensors``, ``.pth`` or ``.pt`` file; or a published name, e.g. torchvision's
            ``"IMAGENET1K_V1"`` or ``"DEFAULT"``, whose file must be in torch hub's folder; or None for the weights the
            network comes with, else random ones, always the same (`pretrained` is then False).
        preprocess: Instead of the one known for the weights. A detector's default boxes follow its `crop`.
        classes: Of a detector, background among them, where it has another number than the entry says.
        download: Get the file of published weights if it isn't in torch hub's folder.

    Raises:
        UnknownNameError: No such network, or no such weights are published.
        ArgumentError: An argument is of a wrong type, or a published name is given for a network that has none.
        MissingFileError: No such file.
        MissingPackageError: The network needs an extra of evoq-moo.
        WeightsError: The weights are damaged, not here, or of another network.
    """
    if preprocess is not None and not isinstance(preprocess, Preprocess):
        raise ArgumentError(f"preprocess: given a {type(preprocess).__name__}; allowed: a Preprocess or None")
    found = entry(name)
    options = {} if classes is None else {"classes": _checked_classes(found, classes)}
    # Read before building: a wrong path should fail at once.
    content = _read(found, weights, download=download)
    # Building draws initial weights: from a stream of its own, so that the caller's is left alone.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = found.build(**options)

    digest, source = None, "random weights"
    if content is not None:
        file, data = content
        digest, source = hashlib.sha256(data).hexdigest(), file
        _check_owner(found, file, digest)
        state = parse_weights(file, data)
        if found.adapt_weights is not None:
            state = found.adapt_weights(state)
        _check_classes(found, file, state, classes)
        apply_weights(network, state, name=file, architecture=name)
        known = next((c for c in found.checkpoints if c.sha256 == digest), None)
        if known is not None:
            source = f"{known.source} ({known.licence})"
    preprocess = preprocess or _known_preprocess(found, digest)
    network.eval().requires_grad_(False)
    # What evaluate_accuracy looks for when it is given the network alone.
    network.preprocess = preprocess  # type: ignore[assignment]
    if classes is not None:
        class_names = names_of(classes)
    else:
        class_names = found.class_names() if found.class_names is not None else None
    decoder = found.make_decoder(preprocess.crop) if found.make_decoder is not None else None
    network.class_names = class_names  # type: ignore[assignment]
    network.decoder = decoder  # type: ignore[assignment]
    return ZooModel(
        name=name,
        network=network,
        preprocess=preprocess,
        entry=found,
        pretrained=digest is not None,
        source=source,
        weights_sha256=digest,
        class_names=class_names,
        decoder=decoder,
    )


def _checked_classes(found: ZooEntry, classes: int) -> int:
    if found.make_decoder is None:
        raise ArgumentError(f"classes: given {classes!r}; {found.name} is no detector: allowed: None")
    return check_count("classes", classes, lowest=2)


def _check_classes(found: ZooEntry, file: str, state: dict[str, torch.Tensor], classes: int | None) -> None:
    held = found.count_classes(state) if found.count_classes is not None else None
    wanted = classes or found.classes
    if held is not None and held != wanted:
        raise WeightsError(
            f"{file}: its detector has {held} classes, background counted, not {wanted}: give classes={held}"
        )


def _read(found: ZooEntry, weights: str | os.PathLike[str] | None, *, download: bool) -> tuple[str, bytes] | None:
    if weights is None:
        if download:
            raise ArgumentError(
                f"weights: none given to download; published: {', '.join(published_weights(found)) or '-'}"
            )
        return found.own_weights() if found.own_weights is not None else None
    if not isinstance(weights, str | os.PathLike):
        raise ArgumentError(f"weights: given a {type(weights).__name__}; allowed: a path, a published name, or None")
    if isinstance(weights, str) and is_name(weights):
        return read_published(found, weights, download=download)
    return read_weights(weights)


def _check_owner(found: ZooEntry, file: str, digest: str) -> None:
    for other in ENTRIES.values():
        if other is not found and any(c.sha256 == digest for c in other.checkpoints):
            raise WeightsError(f"{file}: these weights are of {other.name}, not of {found.name}")


def _known_preprocess(found: ZooEntry, digest: str | None) -> Preprocess:
    known = next((c.preprocess for c in found.checkpoints if c.sha256 == digest), None)
    if known is None and found.torchvision and digest is not None:
        known = torchvision_preprocess(found.name, digest)
    return known or found.preprocess
