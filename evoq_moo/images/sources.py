"""Where images come from: a folder, an ``.npz`` file or an array, decoded one at a time."""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from evoq_moo.errors import ArgumentError, ImageError, MissingFileError
from evoq_moo.files import Layout, read_bytes, read_npz, reading
from evoq_moo.images.preprocess import image_from_array

Transform = Callable[[Image.Image], torch.Tensor]
"""From a PIL image to a float32 tensor `(C, H, W)`; a `Preprocess` is one."""

Images = (
    str
    | os.PathLike[str]
    | npt.NDArray[np.uint8]
    | torch.Tensor
    | Sequence[str | os.PathLike[str]]
    | Sequence[Image.Image]
)
"""A folder or an ``.npz`` file, uint8 images `(N, H, W, C)`, or a list of files or of PIL images."""

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""File names taken for images, in any case."""


_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What files of these names may hold; Pillow knows more, and asks other programs for some."""
_ARRAYS = {"images": Layout(kinds="u", ndim=4), "labels": Layout(kinds="iuf", optional=True)}


class ImageSource:
    """A row of images.

    Attributes:
        origin: What the images are, for messages.
        folder: Where the files are; None where the images come from an array.
        files: Paths of the images, sorted, or in the given order; empty where they come from memory.
        stored_labels: The labels of an ``.npz`` file, if it has any, not checked.
    """

    def __init__(self, images: Images) -> None:
        """Look at the images without decoding any.

        Args:
            images: A folder (searched recursively; hidden files are left out), an ``.npz`` file with uint8
                `(N, H, W, C)` under ``images``, such an array or tensor (C is 1 or 3), or a list of files or of PIL
                images.

        Raises:
            MissingFileError: No such folder or file.
            ImageError: The array has another shape or dtype, or the file is damaged.
            ArgumentError: `images` is none of these.
        """
        self.origin = "images"
        self.folder: Path | None = None
        self.files: list[Path] = []
        self.stored_labels: npt.NDArray[Any] | None = None
        self._array: npt.NDArray[np.uint8] = np.empty((0, 1, 1, 1), np.uint8)
        self._images: list[Image.Image] = []
        if isinstance(images, str | os.PathLike):
            path = Path(images)
            self.origin = str(path)
            if path.is_dir():
                self.folder = path
                self.files = image_files(path)
            elif not path.exists():
                raise MissingFileError(f"images: no such file or folder: {path}")
            elif path.suffix.lower() == ".npz":
                self._array, self.stored_labels = _read_npz(path)
            else:
                raise ArgumentError(f"images: given the file {path}; allowed: a folder, .npz file, array or tensor")
        elif isinstance(images, list | tuple) and images and all(isinstance(i, Image.Image) for i in images):
            self._images = list(images)
        elif isinstance(images, list | tuple) and images and all(isinstance(i, str | os.PathLike) for i in images):
            self.files = [Path(file) for file in images]
            missing = next((file for file in self.files if not file.is_file()), None)
            if missing is not None:
                raise MissingFileError(f"images: no such file: {missing}")
        elif isinstance(images, np.ndarray | torch.Tensor):
            self._array = images.numpy(force=True) if isinstance(images, torch.Tensor) else images
        else:
            raise ArgumentError(
                f"images: given a {type(images).__name__}; allowed: a folder, .npz file, array, tensor or list of files"
            )
        dtype, shape = self._array.dtype, self._array.shape
        if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3):
            raise ImageError(
                f"{self.origin}: given {dtype} of shape {shape}; allowed: uint8 (N, H, W, C) with C 1 or 3"
            )

    def __len__(self) -> int:
        return len(self.files) or len(self._images) or len(self._array)

    def batch(self, indices: Sequence[int], preprocess: Transform) -> torch.Tensor:
        """Return preprocessed images, float32 `(len(indices), C, H, W)`.

        Raises:
            ImageError: An image can't be read or is too small, or the preprocessed sizes differ.
            ArgumentError: `preprocess` gives anything but float32 `(C, H, W)`.
        """
        tensors = [self._tensor(i, preprocess) for i in indices]
        shapes = {tuple(t.shape) for t in tensors}
        if len(shapes) > 1:
            raise ImageError(
                f"{self.origin}: preprocess gave tensors of different shapes {sorted(shapes)}; allowed: one"
            )
        return torch.stack(tensors)

    def digest(self, count: int) -> str:
        """Return a digest of the first `count` images: of the files as they are, of the pixels in memory.

        Raises:
            ImageError: A file can't be read.
        """
        found = hashlib.sha256()
        for i in range(count):
            found.update(self._content(i))
        return found.hexdigest()

    def _content(self, index: int) -> bytes:
        if self.files:
            data = read_bytes(self.files[index], error=ImageError)
        elif self._images:
            data = self._images[index].tobytes()
        else:
            data = self._array[index].tobytes()
        return hashlib.sha256(data).digest()

    def _tensor(self, index: int, preprocess: Transform) -> torch.Tensor:
        if self.files:
            name = str(self.files[index])
            tensor = preprocess(_read_image(self.files[index]))
        else:
            name = f"{self.origin}[{index}]"
            tensor = preprocess(self._images[index] if self._images else image_from_array(self._array[index]))
        if not isinstance(tensor, torch.Tensor):
            raise ArgumentError(f"preprocess: gave a {type(tensor).__name__} for {name}; allowed: float32 (C, H, W)")
        if tensor.dtype != torch.float32 or tensor.ndim != 3:
            found = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            raise ArgumentError(f"preprocess: gave {found} for {name}; allowed: float32 (C, H, W)")
        return tensor


def image_files(folder: Path) -> list[Path]:
    """Return the images of a folder and those below it, sorted; hidden files are left out."""
    files = [
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def _read_image(path: Path) -> Image.Image:
    with _opened(path) as image:
        image.load()
        return image


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    # In memory, since a file makes room for all that a damaged chunk claims to hold before it reads.
    data = io.BytesIO(read_bytes(path, error=ImageError))
    # Pillow's decoders raise nearly anything on damaged files: OSError, SyntaxError, struct.error, IndexError, ...
    with reading(f"{path}: can't be read as an image", ImageError, catch=(Exception,)), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(data, formats=_FORMATS) as image:
            image.filename = str(path)  # for messages
            yield image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of an image (pixels) after EXIF rotation, as :class:`Preprocess` sees it."""
    width, height = image.size
    turned = image.getexif().get(0x0112) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height of an image file (pixels) after EXIF rotation, without decoding it.

    Raises:
        MissingFileError: No such file.
        ImageError: It can't be read.
    """
    with _opened(path) as image:
        return upright_size(image)


def _read_npz(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    # So do numpy and zipfile, by what of the archive is damaged: BadZipFile, zlib.error, ValueError, TypeError, ...
    with reading(f"{path}: not a readable .npz file of images", ImageError, catch=(Exception,)):
        data = read_bytes(path)
        arrays = read_npz(io.BytesIO(data), len(data), _ARRAYS)
    return arrays["images"], arrays.get("labels")
