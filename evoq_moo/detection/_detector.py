"""`Detector`: a network of raw heads with what turns its input and output into images and boxes."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from evoq_moo._compute import MICRO_BATCH, ComputePool
from evoq_moo.detection._decode import BoxDecoder, Detections, attribute_of
from evoq_moo.errors import ArgumentError
from evoq_moo.images import Images, ImageSource, Preprocess, upright_size
from evoq_moo.progress import track

T = TypeVar("T")


class Detector:
    """Finds objects in images with a network that gives raw heads.

    The network is what a search quantizes; preprocessing, decoding and non-maximum suppression stay in float.

    Args:
        heads: Maps float32 `(N, C, H, W)` to a mapping with ``cls_logits`` `(N, boxes, classes)` and
            ``bbox_regression`` `(N, boxes, 4)`; a quantized or calibrated network too. Used in evaluation mode.
        decoder: Default: the network's attribute of that name (networks of the zoo have one), or that of the float
            network it was made from.
        preprocess: The same.
        class_names: The same; one for each class but background. None for unknown names.

    Attributes:
        heads: The network.
        decoder: Makes boxes of its heads.
        preprocess: Makes its input of an image.
        class_names: Name of class 1, 2, ...; None for unknown names.

    Raises:
        ArgumentError: An argument is not of its kind, or none is given and the network has none.
    """

    def __init__(
        self,
        heads: nn.Module,
        *,
        decoder: BoxDecoder | None = None,
        preprocess: Preprocess | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(heads, nn.Module):
            raise ArgumentError(f"heads: given a {type(heads).__name__}; allowed: a torch.nn.Module")
        self.heads = heads.eval()
        self.decoder = _resolved(heads, "decoder", decoder, BoxDecoder)
        self.preprocess = _resolved(heads, "preprocess", preprocess, Preprocess)
        if not self.preprocess.stretch:
            raise ArgumentError("preprocess: given one that crops; allowed: stretch=True, boxes are of the whole image")
        names = attribute_of(heads, "class_names", tuple) if class_names is None else tuple(class_names)
        self.class_names: tuple[str, ...] | None = names

    def detect(
        self, images: Images | Sequence[Image.Image], *, threads: int | None = None, progress: bool = True
    ) -> list[Detections]:
        """Return what is in each image, boxes in its pixels (after EXIF rotation).

        Args:
            images: A folder, ``.npz`` file or uint8 NHWC array, see :class:`evoq_moo.LabelledImages`; or PIL images.
            threads: Micro-batches computed at once; None for one a core. Results do not depend on it.
            progress: Show progress on a terminal.

        Raises:
            ArgumentError: `images` is none of these.
            MissingFileError: No such folder or file.
            ImageError: An image can't be read.
            NetworkError: The network's result is not raw heads of the decoder's default boxes.
        """
        source = ImageSource(images)
        pool = ComputePool(threads=threads)
        starts = range(0, len(source), MICRO_BATCH * pool.threads)
        results: list[Detections] = []
        with track(len(source), "detecting", enabled=progress) as bar:
            for start in starts:
                indices = range(start, min(start + MICRO_BATCH * pool.threads, len(source)))
                sizes: list[tuple[int, int]] = []

                def prepared(image: Image.Image, sizes: list[tuple[int, int]] = sizes) -> Tensor:
                    tensor = self.preprocess(image)
                    sizes.append(upright_size(image))
                    return tensor

                batch = source.batch(indices, prepared)
                parts = pool.map(self._found, torch.split(batch, MICRO_BATCH))
                found = [one for part in parts for one in part]
                results += [_in_pixels(one, size) for one, size in zip(found, sizes, strict=True)]
                bar.advance(len(indices))
        return results

    def count_classes(self, image: Any) -> int:
        """Return how many classes the network's logits have, background counted, by running it on one image file."""
        batch = ImageSource([image]).batch([0], self.preprocess)
        logits, _ = ComputePool(threads=1).run(lambda: self.decoder.check(self.heads(batch)))
        return logits.shape[2]

    def _found(self, batch: Tensor) -> list[Detections]:
        return self.decoder(self.heads(batch))


def _in_pixels(found: Detections, size: tuple[int, int]) -> Detections:
    scale = torch.tensor([*size, *size], dtype=torch.float32)
    return Detections(boxes=found.boxes * scale, scores=found.scores, labels=found.labels)


def _resolved(network: nn.Module, name: str, given: Any, kind: type[T]) -> T:
    value = attribute_of(network, name, kind) if given is None else given
    if not isinstance(value, kind):
        what = "none given and the network has no attribute of that name" if value is None else type(value).__name__
        raise ArgumentError(f"{name}: {what}; allowed: a {kind.__name__}")
    return value
