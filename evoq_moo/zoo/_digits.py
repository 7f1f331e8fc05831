"""A small residual network on scikit-learn's handwritten digits: trained here in seconds, so nothing to download.

Images: 8x8 greyscale of scikit-learn's `load_digits` (UCI "Optical recognition of handwritten digits", CC BY 4.0).
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from evoq_moo.errors import FormatError, check_name
from evoq_moo.files import cache_folder, parse_json, read_bytes, read_tensors, reading, write_atomically
from evoq_moo.images import Preprocess

_log = logging.getLogger(__name__)

PREPROCESS = Preprocess(crop=8, mean=(0.306,), std=(0.376,), channels=1)
"""Mean and standard deviation are those of the training images."""
TEST_IMAGES = 500
RECIPE: dict[str, Any] = {"version": 1, "seed": 0, "epochs": 16, "batch": 64, "learning_rate": 0.01, "shift": 1}
"""What the cached weights depend on, beside the code: raise the version when that changes."""


class DigitsBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map float32 `(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))  # type: ignore[no-any-return]


class DigitsNet(nn.Module):
    """Eight convolutions and a linear layer: float32 `(N, 1, 8, 8)` to logits `(N, 10)`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.block1 = DigitsBlock(16, 16, 1)
        self.block2 = DigitsBlock(16, 32, 2)
        self.block3 = DigitsBlock(32, 32, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `(N, 10)` of images `(N, 1, 8, 8)`."""
        x = self.block3(self.block2(self.block1(self.relu(self.bn(self.conv(x))))))
        return self.linear(self.pool(x).flatten(1))  # type: ignore[no-any-return]


def load_images(split: Literal["train", "test"]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the digits of one split.

    The 500 test images are spread evenly over the 1797 (every 3.6th), so every writer and digit is in both splits.

    Args:
        split: ``"train"`` (1297 images) or ``"test"`` (500, never trained or calibrated on).

    Returns:
        Images, uint8 `(n, 8, 8, 1)` of 0..255, and labels, int64 `(n,)` of 0..9.

    Raises:
        UnknownNameError: No such split.
    """
    check_name("split", split, ("train", "test"))
    from sklearn.datasets import load_digits

    digits = load_digits()
    count = len(digits.target)
    test = np.zeros(count, dtype=bool)
    test[np.arange(TEST_IMAGES) * count // TEST_IMAGES] = True
    chosen = test if split == "test" else ~test
    images = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)[..., None]
    return images, digits.target[chosen].astype(np.int64)


def cache_file() -> Path:
    """Return the file of this recipe's weights, there or not."""
    content = json.dumps(RECIPE | {"preprocess": PREPROCESS.to_json()}, sort_keys=True)
    recipe = hashlib.sha256(content.encode()).hexdigest()[:12]
    return cache_folder() / f"digits-{recipe}.safetensors"


def own_weights() -> tuple[str, bytes]:
    """Return name and content of the trained weights; trains and caches them where they aren't cached yet.

    A damaged or unwritable cache is logged as a warning and doesn't fail.
    """
    path = cache_file()
    if path.is_file():
        try:
            with reading(f"{path}: damaged"):
                data = read_bytes(path)
                _check(data)
        except FormatError as error:
            _log.warning("%s; training the digits network again", error)
        else:
            return str(path), data
    _log.info("training the digits network, a few seconds, once; kept at %s", path)
    state = train()
    data = safetensors.torch.save(state, metadata={"sha256": _digest(state)})
    try:
        write_atomically(path, data)
    except OSError as error:
        _log.warning("%s: can't be written (%s); the digits network will be trained again next time", path, error)
    return str(path), data


def train() -> dict[str, torch.Tensor]:
    """Train the network on the train split; the same weights every time on the same machine and torch.

    Returns:
        The state of a :class:`DigitsNet`.
    """
    images, targets = load_images("train")
    x = torch.stack([PREPROCESS.from_array(image) for image in images])
    y = torch.from_numpy(targets)
    threads = torch.get_num_threads()
    # One thread: sums split over threads would depend on the machine's cores, and layers this small gain nothing.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.default_generator.manual_seed(RECIPE["seed"])
            network = DigitsNet().train()
            _fit(network, x, y)
    finally:
        torch.set_num_threads(threads)
    return {name: value.detach().contiguous() for name, value in network.state_dict().items()}


def _fit(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    batch, epochs, shift = RECIPE["batch"], RECIPE["epochs"], RECIPE["shift"]
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RECIPE["learning_rate"], weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RECIPE["learning_rate"], total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(x))[: len(x) // batch * batch]
        for rows in order.view(-1, batch):
            # Shifting whole batches by up to a pixel stands in for more data.
            down, right = (int(v) for v in torch.randint(-shift, shift + 1, (2,)))
            shifted = functional.pad(x[rows], (shift,) * 4, mode="replicate")
            top, left = shift - down, shift - right
            loss = functional.cross_entropy(network(shifted[:, :, top : top + 8, left : left + 8]), y[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()


def _digest(state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].numpy(force=True).tobytes())
    return digest.hexdigest()


def _check(data: bytes) -> None:
    state = read_tensors(data)
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")], dict[str, dict[str, Any]])
    if header.get("__metadata__", {}).get("sha256") != _digest(state):
        raise ValueError("its checksum differs")
