"""Names of the classes of the common data sets; torchvision's lists where it has them, read when they are asked for."""

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_UNUSED = "N/A"


def digits() -> tuple[str, ...]:
    """Return the ten digits."""
    return tuple(str(digit) for digit in range(10))


def cifar10() -> tuple[str, ...]:
    """Return CIFAR-10's ten classes."""
    return _CIFAR10


def imagenet() -> tuple[str, ...]:
    """Return ImageNet's 1000 classes, as torchvision names them."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def voc() -> tuple[str, ...]:
    """Return PASCAL VOC's 20 classes."""
    return _VOC


def coco91() -> tuple[str, ...]:
    """Return COCO's category ids 1 to 90, as torchvision names them; ten of them are unused and named N/A."""
    from torchvision.models.detection import SSD300_VGG16_Weights

    return tuple(SSD300_VGG16_Weights.COCO_V1.meta["categories"][1:])


def coco80() -> tuple[str, ...]:
    """Return the 80 categories that COCO uses, by rising id."""
    return tuple(name for name in coco91() if name != _UNUSED)


def names_of(classes: int) -> tuple[str, ...] | None:
    """Return the usual names of a detector's classes without background, None where there is no usual list.

    Args:
        classes: With background: 21 is VOC, 91 and 81 are COCO by id and without gaps.
    """
    known = {21: voc, 81: coco80, 91: coco91}
    return known[classes]() if classes in known else None
