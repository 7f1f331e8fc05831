"""Weights published under a name: where to get them, where they belong, and getting them if asked to."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import torch

from evoq_moo.errors import ArgumentError, WeightsError, check_name
from evoq_moo.zoo._entries import ZooEntry
from evoq_moo.zoo._weights import hash_in_name, read_weights


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """One published file.

    Attributes:
        name: As given to `load`.
        url: Where to get it.
        digest: Start of its SHA-256, in hex; None where the publisher doesn't say.
    """

    name: str
    url: str
    digest: str | None

    @property
    def path(self) -> Path:
        """Where it belongs: torch hub's folder."""
        return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(self.url).path).name


def published_weights(entry: ZooEntry) -> dict[str, PublishedWeights]:
    """Return what is published for a network, by name."""
    found = {}
    if entry.torchvision:
        from torchvision.models import get_model_weights

        for name, weights in get_model_weights(entry.name).__members__.items():
            digest = hash_in_name(Path(urlparse(weights.url).path).name)
            found[name] = PublishedWeights(name=name, url=weights.url, digest=digest)
    for known in entry.checkpoints:
        if known.name is not None and known.url is not None:
            found[known.name] = PublishedWeights(name=known.name, url=known.url, digest=known.sha256)
    return found


def read_published(entry: ZooEntry, name: str, *, download: bool = False) -> tuple[str, bytes]:
    """Return path and content of published weights, from torch hub's folder.

    Args:
        entry: The network.
        name: E.g. ``"IMAGENET1K_V1"`` or ``"DEFAULT"``.
        download: Get the file if it isn't there.

    Raises:
        UnknownNameError: There are no such weights for this network.
        ArgumentError: Nothing is published for it.
        WeightsError: The file isn't there (the message says where to get and to put it), can't be got or is damaged.
    """
    known = published_weights(entry)
    if not known:
        raise ArgumentError(
            f"weights: given {name!r}; {entry.name} is not of torchvision and has no published weights: "
            "allowed: a path or None"
        )
    check_name("weights", name, known)
    weights = known[name]
    path = weights.path
    if not path.is_file():
        if not download:
            raise WeightsError(
                f"weights: {name} of {entry.name} is not on this machine and evoq-moo downloads nothing by itself; "
                f"get {weights.url} and put it at {path}, give the path of the file, or allow the download "
                "(--download, download=True)"
            )
        _download(weights)
    _, data = read_weights(path)
    digest = hashlib.sha256(data).hexdigest()
    if weights.digest is not None and not digest.startswith(weights.digest):
        raise WeightsError(f"{path}: damaged: its SHA-256 starts with {digest[:8]}; get {weights.url} again")
    return str(path), data


def _download(weights: PublishedWeights) -> None:
    weights.path.parent.mkdir(parents=True, exist_ok=True)
    shown = sys.stderr is not None and sys.stderr.isatty()
    try:
        torch.hub.download_url_to_file(weights.url, str(weights.path), hash_prefix=weights.digest, progress=shown)
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"weights: {weights.url} can't be downloaded to {weights.path}: {error}") from error
