"""ResNets for CIFAR-10 with parameter-free shortcuts (option A).

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2. Module names follow
akamaster/pytorch_resnet_cifar10, so its checkpoints load.
"""

import torch
from torch import nn
from torch.nn import functional


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut that subsamples and zero-pads channels where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.stride = stride
        self.padding = (outputs - inputs) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map float32 `(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.padding:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return self.relu2(y + x)  # type: ignore[no-any-return]


class CifarResNet(nn.Module):
    """A CIFAR ResNet of depth 6n + 2: float32 `(N, 3, 32, 32)` to logits `(N, 10)`."""

    def __init__(self, depth: int = 20) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, 1, blocks)
        self.layer2 = _stage(16, 32, 2, blocks)
        self.layer3 = _stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `(N, 10)` of images `(N, 3, H, W)`."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    first = CifarBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(CifarBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
