"""Labelled images to measure accuracy on."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from msgspec import Struct

from evoq_moo.errors import ArgumentError, ImageError, check_count
from evoq_moo.files import Digits, Text, convert, read_csv, reading
from evoq_moo.images.sources import Images, ImageSource, Transform

Labels = str | os.PathLike[str] | Sequence[int] | npt.NDArray[np.integer[Any]] | torch.Tensor
"""A CSV file, or whole numbers."""


class LabelledImages:
    """Labelled images in batches, decoded as they are asked for.

    Iterating yields `(float32 (b, C, H, W), int64 (b,))` batches in a fixed order; `len()` is the number of images.

    Attributes:
        labels: Int64 `(n,)`.
    """

    def __init__(
        self,
        images: Images,
        *,
        labels: Labels | None = None,
        preprocess: Transform,
        limit: int | None = None,
        batch_size: int = 50,
    ) -> None:
        """Match images and labels without decoding any image.

        Args:
            images: A folder (recursive), an ``.npz`` file, or a uint8 NHWC array or tensor.
            labels: For a folder a CSV file with the columns ``file,label``, its paths absolute or relative to the
                folder or the working directory (itself too); default ``labels.csv`` in the folder. For an ``.npz``
                file default its ``labels``. Otherwise whole numbers in the images' order (for a folder: sorted by
                path).
            preprocess: The network's.
            limit: Take the first `limit` images only.
            batch_size: Images of one batch; the last may be smaller.

        Raises:
            ArgumentError: An argument is not of an allowed kind, or there are no labels.
            MissingFileError: No such folder or file.
            ImageError: An image without a label, a label without an image, or a label that isn't a whole number.
        """
        check_batches(limit, batch_size)
        check_transform(preprocess)
        self._source = ImageSource(images)
        self._preprocess = preprocess
        self._batch_size = batch_size
        if len(self._source) == 0:
            raise ImageError(f"{self._source.origin}: given no images; needs at least 1")
        self.labels = _find_labels(self._source, labels)[:limit]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def origin(self) -> str:
        """Where the images are from, for messages."""
        return self._source.origin

    def digest(self) -> str:
        """Return a digest of the images and their labels.

        Raises:
            ImageError: An image can't be read.
        """
        return hashlib.sha256(self._source.digest(len(self)).encode() + self.labels.numpy().tobytes()).hexdigest()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, len(self), self._batch_size):
            stop = min(start + self._batch_size, len(self))
            yield self._source.batch(range(start, stop), self._preprocess), self.labels[start:stop]


def check_batches(limit: Any, batch_size: Any) -> None:
    """Raise unless these are whole numbers above 0; `limit` may be None.

    Raises:
        ArgumentError: One isn't.
    """
    if limit is not None:
        check_count("limit", limit)
    check_count("batch_size", batch_size)


def check_labels(labels: Any, count: int, origin: str) -> torch.Tensor:
    """Return labels as an int64 tensor `(count,)`.

    Args:
        labels: A sequence, array or tensor.
        count: How many there must be.
        origin: What they are, for messages.

    Raises:
        ImageError: Not that many, or not whole numbers of at least 0.
    """
    try:
        values = labels.numpy(force=True) if isinstance(labels, torch.Tensor) else np.asarray(labels)
    except ValueError as error:
        raise ImageError(f"{origin}: not one row of labels: {error}") from error
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise ImageError(
            f"{origin}: given {values.dtype} labels of shape {values.shape}; allowed: whole numbers ({count},)"
        )
    if len(values) != count:
        raise ImageError(f"{origin}: given {len(values)} labels for {count} images; allowed: one for each image")
    if (values < 0).any():
        i = int(np.flatnonzero(values < 0)[0])
        raise ImageError(f"{origin}: label {i} is {values[i]}; allowed: 0 or more")
    return torch.from_numpy(values.astype(np.int64))


def _find_labels(source: ImageSource, labels: Any) -> torch.Tensor:
    if labels is None:
        labels = _own_labels(source)
    if labels is None:
        raise ArgumentError(
            f"labels: none given for {source.origin}; allowed: a CSV file with the columns file,label, an .npz file "
            "with labels, or a sequence of whole numbers"
        )
    if not isinstance(labels, str | os.PathLike):
        return check_labels(labels, len(source), f"labels of {source.origin}")
    if source.folder is None:
        raise ArgumentError(
            f"labels: given the file {labels} for {source.origin}; a CSV file goes with a folder of images"
        )
    path = Path(labels)
    if not path.is_file() and (source.folder / path).is_file():
        path = source.folder / path
    return torch.tensor(_read_labels(path, source.files, source.folder), dtype=torch.int64)


def _own_labels(source: ImageSource) -> Any:
    """Return the labels that images bring along, or their file; None for none."""
    if source.folder is not None and (source.folder / "labels.csv").is_file():
        return source.folder / "labels.csv"
    return source.stored_labels


def have_labels(images: Images) -> bool:
    """Return whether images bring labels along: ``labels.csv`` in their folder, or `labels` in their file.

    Raises:
        MissingFileError: No such folder or file.
        ImageError: They can't be read.
    """
    return _own_labels(ImageSource(images)) is not None


class _Row(Struct):
    file: Text
    label: Digits


def _read_labels(path: Path, files: Sequence[Path], folder: Path) -> list[int]:
    index = {os.path.realpath(file): i for i, file in enumerate(files)}
    found: dict[int, int] = {}
    for where, row in read_csv(path, ("file", "label"), error=ImageError, others=True):
        with reading(where, ImageError):
            given = convert(row, _Row)
            name = given.file
            # A relative path is looked up in the folder first, then from the working directory.
            candidates = [os.path.realpath(base / name) for base in (folder, Path.cwd())]
            i = next((index[c] for c in candidates if c in index), None)
            if i is None:
                raise ValueError(f"file {name!r} is not among the images of {folder}")
            if i in found:
                raise ValueError(f"file {name!r} is listed twice; allowed: once")
            found[i] = int(given.label)
    missing = [str(file) for i, file in enumerate(files) if i not in found]
    if missing:
        raise ImageError(f"{path}: no label for {len(missing)} of {len(files)} images; the first is {missing[0]}")
    return [found[i] for i in range(len(files))]


def check_transform(preprocess: Any) -> None:
    """Raise unless this can be called.

    Raises:
        ArgumentError: It can't.
    """
    if not callable(preprocess):
        raise ArgumentError(
            f"preprocess: given a {type(preprocess).__name__}; allowed: a Preprocess or such a function"
        )
