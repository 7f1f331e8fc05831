"""From an image to a network's input tensor, with the arithmetic of torchvision's ImageNet presets."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

from evoq_moo.errors import ArgumentError, ImageError, check_name
from evoq_moo.files import Number, Pixels, convert, reading

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of torchvision's presets, on the 0..1 scale."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Turns a PIL image into a network's input: resize, centre crop, scale to 0..1, normalize.

    Bit for bit what torchvision's classification presets compute from a PIL image (resize the shorter side with
    antialiased bilinear interpolation, centre crop, ``/ 255``, ``(x - mean) / std``, all in float32).

    EXIF rotation is applied, palettes and CMYK are converted, alpha is dropped, 16-bit greyscale is scaled to 8 bits.

    Detectors take the whole image instead: `stretch` resizes both sides to `crop`, whatever the image's shape.

    Attributes:
        crop: Side of the square output (pixels).
        resize: Shorter side before the crop (pixels); None for no resize.
        mean: Per-channel mean on the 0..1 scale; one value is for greyscale.
        std: Per-channel standard deviation on the 0..1 scale.
        channels: 3 for RGB, 1 for greyscale.
        rotate180: Flip height and width at the end. Checkpoints converted from TensorFlow need it: its 'SAME' padding
            puts the odd pixel after the input, PyTorch's before it, so they store rotated kernels for rotated images.
        stretch: Resize both sides to `crop` instead of the shorter one to `resize`, and cut nothing off.
        antialias: False, with `stretch` alone: bilinear interpolation between the four nearest pixels however small the
            output is, as torchvision's detectors were trained.
    """

    crop: Pixels
    resize: Pixels | None = None
    mean: tuple[Number, ...] = IMAGENET_MEAN
    std: tuple[Number, ...] = IMAGENET_STD
    channels: int = 3
    rotate180: bool = False
    stretch: bool = False
    antialias: bool = True

    def __post_init__(self) -> None:
        for name in ("crop", "resize"):
            value = getattr(self, name)
            if value is None and name == "resize":
                continue
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
                raise ArgumentError(f"{name}: given {value!r}; allowed: a whole number of pixels, 1 or more")
        if self.resize is not None and self.resize < self.crop:
            raise ArgumentError(f"resize: given {self.resize}; allowed: None, or the crop ({self.crop}) or more")
        if isinstance(self.channels, bool) or self.channels not in (1, 3):
            raise ArgumentError(f"channels: given {self.channels!r}; allowed: 1 (greyscale) or 3 (RGB)")
        for name in ("mean", "std"):
            object.__setattr__(self, name, self._per_channel(name))
        if any(s <= 0 for s in self.std):
            raise ArgumentError(f"std: given {self.std}; allowed: values above 0")
        for name in ("rotate180", "stretch", "antialias"):
            if not isinstance(getattr(self, name), bool):
                raise ArgumentError(f"{name}: given {getattr(self, name)!r}; allowed: True or False")
        if self.stretch and self.resize is not None:
            raise ArgumentError(f"resize: given {self.resize} with stretch; allowed: None (both sides become the crop)")
        if not self.antialias and not self.stretch:
            raise ArgumentError("antialias: given False without stretch; allowed: True")

    def _per_channel(self, name: str) -> tuple[float, ...]:
        given = getattr(self, name)
        try:
            values = tuple(float(v) for v in given)
        except (TypeError, ValueError, OverflowError):
            raise ArgumentError(f"{name}: given {given!r}; allowed: {self.channels} numbers") from None
        if len(values) != self.channels or not all(math.isfinite(v) for v in values):
            raise ArgumentError(
                f"{name}: given {given!r}; allowed: {self.channels} finite numbers, one for each channel"
            )
        return values

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return the input tensor of one image.

        Args:
            image: Of any size and mode.

        Returns:
            Float32 `(channels, crop, crop)`.

        Raises:
            ArgumentError: `image` is not a PIL image.
            ImageError: The image is smaller than the crop after the resize, or has no 8- or 16-bit scale.
        """
        if not isinstance(image, Image.Image):
            raise ArgumentError(f"image: given a {type(image).__name__}; allowed: a PIL image (see also from_array)")
        name = getattr(image, "filename", "") or "image"
        given = image.size
        upright = _convert(_upright(image, name), "RGB" if self.channels == 3 else "L", name)
        if self.stretch and self.antialias:
            upright = upright.resize((self.crop, self.crop), Image.Resampling.BILINEAR)
        elif self.stretch:
            return self._finish(_interpolate(self._scaled(upright), self.crop))
        elif self.resize is not None:
            upright = _resize_shorter_side(upright, self.resize)
        width, height = upright.size
        if min(width, height) < self.crop:
            resized = f", {width}x{height} after the resize" if upright.size != given else ""
            raise ImageError(
                f"{name}: given {given[0]}x{given[1]} pixels{resized}; the crop needs {self.crop}x{self.crop}"
            )
        # torchvision's centre crop: Python's rounding of halves to even decides for odd margins.
        top, left = round((height - self.crop) / 2.0), round((width - self.crop) / 2.0)
        cropped = upright.crop((left, top, left + self.crop, top + self.crop))
        return self._finish(self._scaled(cropped))

    def _scaled(self, image: Image.Image) -> torch.Tensor:
        """Return the pixels, float32 `(channels, H, W)` on the 0..1 scale."""
        pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).view(image.height, image.width, self.channels)
        return pixels.permute(2, 0, 1).contiguous().to(torch.float32) / 255

    def _finish(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return scaled pixels normalized, in place, and rotated if asked for."""
        mean, std = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (self.mean, self.std))
        tensor = tensor.sub_(mean).div_(std)
        return tensor.flip(1, 2) if self.rotate180 else tensor

    def from_array(self, array: npt.ArrayLike) -> torch.Tensor:
        """Return the input tensor of one image given as an array.

        Args:
            array: Uint8 `(H, W, 3)`, `(H, W, 1)` or `(H, W)`.

        Returns:
            Float32 `(channels, crop, crop)`.

        Raises:
            ImageError: Wrong dtype or shape, or smaller than the crop after the resize.
        """
        return self(image_from_array(array))

    def replace(self, **changes: Any) -> "Preprocess":
        """Return a copy with some attributes changed.

        Raises:
            ArgumentError: No such attribute, or a value that is not allowed.
        """
        return self.from_json(dataclasses.asdict(self) | changes)

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as JSON-ready plain data."""
        return dataclasses.asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Preprocess":
        """Rebuild from what :meth:`to_json` gave.

        Raises:
            ArgumentError: An attribute is missing, unknown or not allowed.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        with reading("preprocess", ArgumentError):
            for key in data:
                check_name("given an attribute", key, known)
            return convert(data, cls)


def image_from_array(array: npt.ArrayLike) -> Image.Image:
    """Return a uint8 `(H, W, 3)`, `(H, W, 1)` or `(H, W)` array as a PIL image.

    Raises:
        ImageError: Wrong dtype or shape.
    """
    pixels = np.asarray(array)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3)):
        raise ImageError(
            f"image: given {pixels.dtype} of shape {pixels.shape}; allowed: uint8 (H, W, 3), (H, W, 1) or (H, W)"
        )
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def _upright(image: Image.Image, name: str) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    # Pillow raises nearly anything on damaged EXIF data.
    except Exception as error:
        raise ImageError(f"{name}: its EXIF data can't be read: {error}") from error


def _convert(image: Image.Image, mode: str, name: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode == "F":
        raise ImageError(f"{name}: given floating-point pixels, whose scale is unknown; allowed: 8- or 16-bit images")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow clips 16-bit pixels at 255 when it converts them; keep the upper 8 bits instead.
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    try:
        return image.convert(mode)
    except ValueError as error:
        raise ImageError(f"{name}: given an image of mode {image.mode}, which has no conversion to {mode}") from error


def _interpolate(tensor: torch.Tensor, size: int) -> torch.Tensor:
    return torch.nn.functional.interpolate(tensor[None], size=(size, size), mode="bilinear", align_corners=False)[0]


def _resize_shorter_side(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    short, long = sorted(image.size)
    if short == size:
        return image
    # torchvision truncates the longer side; Pillow's bilinear filter antialiases by itself.
    longer = int(size * long / short)
    return image.resize((size, longer) if width <= height else (longer, size), Image.Resampling.BILINEAR)
