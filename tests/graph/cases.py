"""Small networks of every kind that a user may bring, and what is expected of each.

`CASES` holds them by name. A tuple of samples is given to a network as positional arguments, a mapping as keyword
arguments.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations, prune

Samples = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
COUNT = 12
CLASSES = 5
RANDOM = r"(?i)random|alike|repeat|deterministic"
BATCH = r"(?i)batch|other samples"
STATE = r"(?i)state|buffer|alike|repeat"


def enliven(model: nn.Module) -> None:
    """Draw BatchNorm's statistics, and widen torch's first weights, which are so small that signals fade."""
    for name, tensor in model.state_dict().items():
        if tensor.is_meta or isinstance(tensor, nn.UninitializedParameter):
            continue
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.3)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith("weight") and tensor.dim() > 1:
            tensor.mul_(2.5)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network, its samples, and what is expected of it.

    Attributes:
        name: Of the case.
        build: Makes the network.
        samples: Makes the samples.
        enliven: Gives a new network weights and statistics that keep signals alive.
        refused: A regular expression that the error's message matches; None where the network is accepted.
        optional: It may be accepted as well, and must then pass.
        share: Smallest allowed share of the MACs of products with constant weights that layers count; None: a note may
            say what stays in float.
        twin: Makes, from the case's network, one that computes the same in plain layers: under the same uniform
            policy both have the same difference.
        alike: Differs from another case in its set-up alone; tests do without its calibration and export.
    """

    name: str
    build: Callable[[], nn.Module]
    samples: Callable[[], Samples]
    enliven: Callable[[nn.Module], None] = enliven
    refused: str | None = None
    optional: bool = False
    share: float | None = 0.99
    twin: Callable[[Any], nn.Module] | None = None
    alike: bool = False

    def make(self) -> nn.Module:
        """Return the network, the same one each time."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's old functions, which users still call
            torch.manual_seed(3)
            model = self.build()
            with torch.no_grad():
                self.enliven(model)
            return model


CASES: dict[str, Case] = {}


def case(samples: Callable[[], Samples], **expected: Any) -> Callable[[Any], Any]:
    """Register a class of networks, or a function that makes one, under its name."""

    def register(build: Any) -> Any:
        CASES[build.__name__] = Case(name=build.__name__, build=build, samples=samples, **expected)
        return build

    return register


def drawn(*shape: int, seed: int = 0, count: int = COUNT) -> Tensor:
    """Return random samples `(count, *shape)`."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def images() -> Tensor:
    """Return `(12, 3, 8, 8)`."""
    return drawn(3, 8, 8)


def vectors() -> Tensor:
    """Return `(12, 16)`."""
    return drawn(16)


def sequences() -> Tensor:
    """Return `(12, 6, 16)`."""
    return drawn(6, 16)


def signals() -> Tensor:
    """Return `(12, 4, 10)`."""
    return drawn(4, 10)


def volumes() -> Tensor:
    """Return `(12, 2, 4, 6, 6)`."""
    return drawn(2, 4, 6, 6)


def tokens() -> Tensor:
    """Return int64 `(12, 6)` below 20."""
    return torch.randint(20, (COUNT, 6), generator=torch.Generator().manual_seed(0))


def pair() -> tuple[Tensor, Tensor]:
    """Return images and vectors."""
    return images(), vectors()


def named() -> dict[str, Tensor]:
    """Return token ids and a mask, as tokenizers do."""
    mask = torch.ones(COUNT, 6, dtype=torch.int64)
    mask[::2, 4:] = 0
    return {"input_ids": tokens(), "attention_mask": mask}


def head(channels: int) -> nn.Sequential:
    """Return a classifier of feature maps."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, CLASSES))


def conv(inputs: int = 3, outputs: int = 8, **options: Any) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


# --- Normalization ---


class NormAct(nn.BatchNorm2d):
    """BatchNorm with its activation inside, as in timm."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


def plain_norm_act(model: nn.Module) -> nn.Module:
    norm = nn.BatchNorm2d(8)
    norm.load_state_dict(model[1].state_dict())
    return nn.Sequential(model[0], norm, nn.ReLU(), model[2])


@case(images, twin=plain_norm_act)
def norm_with_activation() -> nn.Module:
    return nn.Sequential(conv(bias=False), NormAct(8), head(8))


class ConvAct(nn.Conv2d):
    """A convolution with its activation inside."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


def plain_conv_act(model: nn.Module) -> nn.Module:
    layer = conv()
    layer.load_state_dict(model[0].state_dict())
    return nn.Sequential(layer, nn.ReLU(), model[1], model[2])


@case(images, twin=plain_conv_act)
def conv_with_activation_before_norm() -> nn.Module:
    return nn.Sequential(ConvAct(3, 8, 3, padding=1), nn.BatchNorm2d(8), head(8))


class Scale(nn.Module):
    """Multiply by a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def doubled(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
    return output * 2


def times_ten(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0] * 10,)


def hooked(layer: int, *, before: bool) -> nn.Module:
    model = nn.Sequential(conv(bias=False), nn.BatchNorm2d(8), nn.ReLU(), head(8))
    if before:
        model[layer].register_forward_pre_hook(times_ten)
    else:
        model[layer].register_forward_hook(doubled)
    return model


def unhooked(layer: int, *, before: bool) -> Callable[[nn.Module], nn.Module]:
    """Return what replaces the hook by a module of its own."""

    def plain(model: nn.Module) -> nn.Module:
        model[layer]._forward_hooks.clear()
        model[layer]._forward_pre_hooks.clear()
        modules = list(model)
        modules.insert(layer if before else layer + 1, Scale(10 if before else 2))
        return nn.Sequential(*modules)

    return plain


@case(images, twin=unhooked(0, before=False), alike=True)
def conv_hook() -> nn.Module:
    return hooked(0, before=False)


@case(images, twin=unhooked(1, before=False), alike=True)
def norm_hook() -> nn.Module:
    return hooked(1, before=False)


@case(images, twin=unhooked(0, before=True))
def conv_pre_hook() -> nn.Module:
    return hooked(0, before=True)


@case(images, twin=unhooked(1, before=True), alike=True)
def norm_pre_hook() -> nn.Module:
    return hooked(1, before=True)


@case(images)
class ConvTwiceTwoNorms(nn.Module):
    """One convolution, called twice, with a BatchNorm behind each call."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.a, self.b, self.head = conv(3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3), head(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.c(F.relu(self.a(self.c(x))))))


@case(images)
class NormalizedAndReturned(nn.Module):
    """A convolution whose result is normalized, and also an output."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.norm, self.head = conv(), nn.BatchNorm2d(8), head(8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.c(x)
        return self.head(self.norm(y)), y


@case(images)
def frozen_batch_norm() -> nn.Module:
    return nn.Sequential(conv(bias=False), torchvision.ops.FrozenBatchNorm2d(8), nn.ReLU(), head(8))


@case(sequences)
def batch_norm_over_positions() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.Linear(72, CLASSES))


@case(images, refused=BATCH)
def batch_norm_without_statistics() -> nn.Module:
    return nn.Sequential(conv(), nn.BatchNorm2d(8, track_running_stats=False), head(8))


@case(images)
def instance_and_group_norm() -> nn.Module:
    return nn.Sequential(conv(), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), conv(8, 8), nn.GroupNorm(2, 8), head(8))


# --- In place, functional, by type ---


class Normalize(nn.Module):
    """What :class:`InPlaceOnInput` does first, out of place."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


def plain_in_place(model: Any) -> nn.Module:
    return nn.Sequential(Normalize(), model.c, model.head)


@case(images, twin=plain_in_place)
class InPlaceOnInput(nn.Module):
    """A network that normalizes the caller's images where they are."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.head = conv(), head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x.sub_(0.5).div_(0.25)))


@case(images)
def in_place_relus() -> nn.Module:
    relu = nn.ReLU(inplace=True)
    layers = (nn.Conv2d(3, 6, 3), relu, nn.Conv2d(6, 6, 3), relu, nn.Flatten(), nn.Linear(96, 12), relu)
    return nn.Sequential(*layers, nn.Linear(12, CLASSES))


def plain_functional(model: Any) -> nn.Module:
    layer, last = conv(), nn.Linear(32, CLASSES)
    layer.weight, layer.bias = model.kernel, model.bias
    last.weight, last.bias = model.matrix, None
    return nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), last)


@case(images, twin=plain_functional)
class FunctionalProducts(nn.Module):
    """`F.conv2d` and `F.linear` on parameters of the network's own."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 3, 3, 3) / 4)
        self.bias = nn.Parameter(torch.randn(8) / 4)
        self.matrix = nn.Parameter(torch.randn(CLASSES, 32) / 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.kernel, self.bias, padding=1))
        return F.linear(F.adaptive_avg_pool2d(x, 2).flatten(1), self.matrix)


def plain_tied(model: Any) -> nn.Module:
    decoder = nn.Linear(8, 16, bias=False)
    decoder.weight = nn.Parameter(model.encoder.weight.detach().t().contiguous())
    return nn.Sequential(model.encoder, nn.ReLU(), decoder)


@case(vectors, twin=plain_tied)
class TiedTransposed(nn.Module):
    """An autoencoder whose decoder has the encoder's weights, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(self.encoder(x)), self.encoder.weight.t())


def plain_by_type(model: Any) -> nn.Module:
    return nn.Sequential(model.layers[0], nn.ReLU(), model.layers[1], model.layers[2], nn.ReLU())


@case(vectors, twin=plain_by_type)
class ByType(nn.Module):
    """A network that asks for the types of its layers as it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(16, 12), nn.LayerNorm(12), nn.Linear(12, CLASSES)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.Linear):
                x = F.relu(x)
        return x


@case(images, alike=True)
class CountsCalls(nn.Module):
    """A network that counts its calls and does nothing with the count."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.head, self.count = conv(), head(8), 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.head(F.relu(self.c(x)))


def plain_matmul(model: Any) -> nn.Module:
    first, last = nn.Linear(16, 12, bias=False), nn.Linear(12, CLASSES)
    first.weight = nn.Parameter(model.a.detach().t().contiguous())
    last.weight = nn.Parameter(model.b.detach().t().contiguous())
    last.bias = model.bias
    return nn.Sequential(first, nn.GELU(), last)


@case(sequences, twin=plain_matmul)
class MatmulConstant(nn.Module):
    """Products written with `@`, a bias added behind one."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(16, 12) / 4)
        self.register_buffer("b", torch.randn(12, CLASSES) / 4)
        self.bias = nn.Parameter(torch.randn(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x @ self.a) @ self.b + self.bias


@case(sequences)
class EinsumConstant(nn.Module):
    """A projection to heads, and one matrix for each head, by `einsum`."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(2, 16, 8) / 4)
        self.b = nn.Parameter(torch.randn(2, 8, CLASSES) / 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("btc,hcd->bhtd", x, self.a).tanh()
        return torch.einsum("bhtd,hdk->btk", x, self.b)


# --- Weights that are made ---


def baked(model: nn.Module) -> nn.Module:
    """Return plain layers with the weights that the model's layers compute."""
    layer = nn.Linear(16, 12)
    with torch.no_grad():
        model.eval()(vectors())
        layer.weight.copy_(model[0].weight)
        layer.bias.copy_(model[0].bias)
    return nn.Sequential(layer, nn.ReLU(), model[2])


def perceptron() -> nn.Sequential:
    """Return two linear layers."""
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, CLASSES))


@case(vectors, twin=baked)
def weight_norm() -> nn.Module:
    model = perceptron()
    parametrizations.weight_norm(model[0])
    model[0].parametrizations.weight.original0.data.uniform_(0.5, 2)
    return model


@case(vectors, twin=baked, refused="weight_norm", optional=True, alike=True)
def old_weight_norm() -> nn.Module:
    model = perceptron()
    torch.nn.utils.weight_norm(model[0])
    model[0].weight_g.data.uniform_(0.5, 2)
    return model


@case(vectors, twin=baked, alike=True)
def spectral_norm() -> nn.Module:
    model = perceptron()
    parametrizations.spectral_norm(model[0])
    return model


@case(vectors, twin=baked, refused="spectral_norm", optional=True, alike=True)
def old_spectral_norm() -> nn.Module:
    model = perceptron()
    torch.nn.utils.spectral_norm(model[0])
    return model


@case(vectors, twin=baked)
def prune_masks() -> nn.Module:
    model = perceptron()
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    return model


class StandardizedConv(nn.Conv2d):
    """Weight standardization, as in Big Transfer."""

    def effective(self) -> Tensor:
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return (self.weight - mean) / (std + 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.effective(), self.bias, padding=self.padding)


def plain_standardized(model: nn.Module) -> nn.Module:
    layer = conv()
    layer.weight, layer.bias = nn.Parameter(model[0].effective().detach()), model[0].bias
    return nn.Sequential(layer, *model[1:])


@case(images, twin=plain_standardized)
def weight_standardization() -> nn.Module:
    return nn.Sequential(StandardizedConv(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), head(8))


class LowRank(nn.Linear):
    """A linear layer with a low-rank update beside its weight."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.up, self.down = nn.Parameter(torch.randn(outputs, 2)), nn.Parameter(torch.randn(2, inputs) / 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + self.up @ self.down, self.bias)


def plain_low_rank(model: nn.Module) -> nn.Module:
    layer = nn.Linear(16, 12)
    layer.weight = nn.Parameter((model[0].weight + model[0].up @ model[0].down).detach())
    layer.bias = model[0].bias
    return nn.Sequential(layer, *model[1:])


@case(vectors, twin=plain_low_rank, alike=True)
def low_rank_update() -> nn.Module:
    return nn.Sequential(LowRank(16, 12), nn.ReLU(), nn.Linear(12, CLASSES))


class Rescaled(nn.Module):
    """A ReLU network whose first weights are multiplied by a power of two and whose last are divided by it."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 12, bias=False), nn.Linear(12, CLASSES)
        self.a.weight.data.mul_(factor)
        self.b.weight.data.div_(factor)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)))


def plain_rescaled(model: Any) -> nn.Module:
    model.a.weight.data.div_(model.factor)
    model.b.weight.data.mul_(model.factor)
    return model


@case(vectors, twin=plain_rescaled, alike=True)
def large_then_small_weights() -> nn.Module:
    return Rescaled(2.0**33)


@case(vectors, twin=plain_rescaled)
def very_large_then_small_weights() -> nn.Module:
    return Rescaled(2.0**50)


def plain_small_inputs(model: Any) -> nn.Module:
    return nn.Sequential(model.a, nn.ReLU(), model.b)


@case(vectors, twin=plain_small_inputs, alike=True)
class SmallInputs(nn.Module):
    """A network that scales what it gets by 2^-33 and undoes it at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 12, bias=False), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x * 2.0**-33)) * 2.0**33)


# --- Convolutions ---


@case(volumes)
def conv3d() -> nn.Module:
    first = nn.Conv3d(2, 6, 3, padding=1, stride=(1, 2, 2), bias=False)
    last = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, CLASSES))
    return nn.Sequential(first, nn.BatchNorm3d(6), nn.ReLU(), nn.Conv3d(6, 6, 1, groups=3), *last)


@case(signals)
def conv1d() -> nn.Module:
    first = nn.Conv1d(4, 8, 3, padding="same", dilation=2)
    return nn.Sequential(first, nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3, groups=8), nn.Conv1d(8, CLASSES, 1))


@case(signals)
def conv_transpose1d() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose1d(4, 6, 4, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose1d(6, 2, 3))


@case(images)
def conv_transpose2d() -> nn.Module:
    up = nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, bias=False)
    return nn.Sequential(conv(), nn.ReLU(), up, nn.BatchNorm2d(6), nn.ReLU(), conv(6, CLASSES))


@case(images)
def grouped_conv_transpose2d() -> nn.Module:
    up = nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4)
    return nn.Sequential(conv(), nn.ReLU(), up, nn.BatchNorm2d(12), nn.ReLU(), conv(12, CLASSES))


@case(volumes, alike=True)
def conv_transpose3d() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose3d(2, 4, 2, stride=2, groups=2), nn.ReLU(), nn.Conv3d(4, 2, 3))


class GPT2Conv1D(nn.Module):
    """GPT-2's linear layer: its weight is `(inputs, outputs)`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) / 4), nn.Parameter(torch.randn(outputs) / 4)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], self.outputs)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(shape)


def plain_gpt2(model: nn.Module) -> nn.Module:
    layers = []
    for layer in (model[0], model[2]):
        plain = nn.Linear(*layer.weight.shape)
        plain.weight, plain.bias = nn.Parameter(layer.weight.detach().t().contiguous()), layer.bias
        layers.append(plain)
    return nn.Sequential(layers[0], nn.GELU(), layers[1])


@case(sequences, twin=plain_gpt2)
def gpt2_conv1d() -> nn.Module:
    return nn.Sequential(GPT2Conv1D(16, 24), nn.GELU(), GPT2Conv1D(24, CLASSES))


@case(images)
def circular_and_reflect_padding() -> nn.Module:
    layers = (conv(padding_mode="circular"), nn.ReLU(), conv(8, 8, padding_mode="reflect"))
    return nn.Sequential(*layers, nn.ReflectionPad2d(1), nn.Conv2d(8, 8, 3), head(8))


@case(images)
def channel_shuffle() -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.ChannelShuffle(2), nn.ReLU(), conv(8, 8, groups=2), head(8))


@case(images)
class SegmentationHead(nn.Module):
    """Logits `(N, classes, H, W)`, interpolated to the input's size, from a network with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.body = nn.Conv2d(3, 8, 3, stride=2, padding=1), conv(8, 8)
        self.skip, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.body(F.relu(self.down(x))))
        y = F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.out(torch.cat([y, F.relu(self.skip(x))], dim=1))


@case(images)
class SqueezeExcite(nn.Module):
    """Channel attention: a product of two activations that is no matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.reduce, self.expand, self.head = conv(), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1), head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.c(x))
        return self.head(x * F.hardsigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))))


# --- Attention, sequences ---


@case(sequences)
def transformer_between_linears() -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 2, 24, dropout=0.1, batch_first=True)
    return nn.Sequential(nn.Linear(16, 12), layer, nn.Linear(12, CLASSES))


@case(sequences)
class SelfAttention(nn.Module):
    """`in_proj` of `nn.MultiheadAttention` on one sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + self.attention(x, x, x, need_weights=False)[0])


def query_and_memory() -> tuple[Tensor, Tensor]:
    """Return `(12, 4, 16)` and `(12, 6, 10)`."""
    return drawn(4, 16), drawn(6, 10, seed=1)


@case(query_and_memory)
class CrossAttention(nn.Module):
    """`nn.MultiheadAttention` with keys and values of another width: three projections of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, kdim=10, vdim=10, batch_first=True)
        self.out = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        y, weights = self.attention(x, memory, memory)
        return self.out(y), weights


@case(sequences)
class BmmAttention(nn.Module):
    """Attention written out, with `bmm` and a causal mask by `torch.where`."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, CLASSES)
        self.register_buffer("mask", torch.ones(6, 6, dtype=torch.bool).tril())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        scores = torch.bmm(q, k.transpose(1, 2)) / 4
        scores = torch.where(self.mask, scores, torch.full_like(scores, -1e4))
        return self.out(torch.bmm(scores.softmax(-1), v))


@case(sequences)
class RotaryEmbeddings(nn.Module):
    """Attention with rotary embeddings that are chunks of one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, CLASSES)
        angles = torch.arange(6)[:, None] * 100 ** (-torch.arange(4) / 4)
        self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], dim=-1), persistent=False)

    def rotated(self, x: Tensor) -> Tensor:
        sin, cos = self.table[: x.shape[2]].chunk(2, dim=-1)
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(len(x), -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(self.rotated(q), self.rotated(k), v)
        return self.out(y.transpose(1, 2).flatten(2))


@case(vectors, share=None)
class MixtureOfExperts(nn.Module):
    """Each sample goes through the expert that its router chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(16, 4)
        self.experts = nn.ModuleList([nn.Linear(16, CLASSES) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.router(x).argmax(-1)
        y = x.new_zeros(len(x), CLASSES)
        for i, expert in enumerate(self.experts):
            rows = (chosen == i).nonzero().flatten()
            if len(rows):
                y[rows] = expert(x[rows])
        return y


@case(sequences, share=None)
class LSTM(nn.Module):
    """An LSTM of two layers and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(16, 12, 2, batch_first=True), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][:, -1])


@case(sequences, share=None)
class GRU(nn.Module):
    """A GRU in both directions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(16, 6, batch_first=True, bidirectional=True), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0].mean(1))


@case(tokens)
def token_ids() -> nn.Module:
    return nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 12), nn.GELU(), nn.Flatten(), nn.Linear(72, CLASSES))


@case(tokens)
class TiedEmbedding(nn.Module):
    """A language model whose last layer has the embedding's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(20, 16), nn.Linear(16, 16)

    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(F.gelu(self.body(self.embedding(ids))), self.embedding.weight)


# --- Inputs, outputs, arguments ---


@case(pair)
class TupleInput(nn.Module):
    """An image and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.vector, self.out = conv(), nn.Linear(16, 8), nn.Linear(8, CLASSES)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        return self.out(F.relu(self.c(image).mean((2, 3)) + self.vector(vector)))


@case(named)
class MappingInput(nn.Module):
    """Token ids and an attention mask, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body, self.out = nn.Embedding(20, 16), nn.Linear(16, 12), nn.Linear(12, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = F.gelu(self.body(self.embedding(input_ids))) * attention_mask[..., None]
        return {"logits": self.out(x.sum(1) / attention_mask.sum(1, keepdim=True))}


class Maps(NamedTuple):
    """Named outputs."""

    logits: Tensor
    features: Tensor


@dataclass
class Detections:
    """Outputs in a dataclass, one of them absent."""

    scores: Tensor
    boxes: Tensor
    masks: Tensor | None = None


class TwoHeads(nn.Module):
    """A trunk with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.head, self.maps = conv(), head(8), nn.Conv2d(8, 4, 1)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.c(x))
        return self.head(x), self.maps(x)


@case(images, alike=True)
class NamedTupleOutput(TwoHeads):
    """Both in a named tuple."""

    def forward(self, x: Tensor) -> Maps:
        return Maps(*self.heads(x))


@case(images)
class DataclassOutput(TwoHeads):
    """Both in a dataclass."""

    def forward(self, x: Tensor) -> Detections:
        return Detections(*self.heads(x))


@case(images)
class NestedOutput(TwoHeads):
    """Both in a mapping of lists, with the chosen class beside them."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        logits, maps = self.heads(x)
        return {"out": [logits, {"maps": maps}], "aux": None, "chosen": logits.argmax(-1)}


@case(images)
class CustomArguments(nn.Module):
    """Arguments that have defaults, some by keyword only."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.head = conv(), head(8)

    def forward(self, x: Tensor, scale: float = 2.0, *, mask: Tensor | None = None, activate: bool = True) -> Tensor:
        x = self.c(x) * scale
        x = F.relu(x) if activate else x
        return self.head(x if mask is None else x * mask)


@case(sequences)
class LenOfBatch(nn.Module):
    """A class token, expanded to `len(x)` rows."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.body, self.out = nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        return self.out(F.relu(self.body(x)).mean(1))


@case(images)
class ShapeInView(nn.Module):
    """Patches by `view` with sizes of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.out = nn.Linear(48, 12), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(x.shape[0], -1, c * 16)
        return self.out(F.relu(self.patch(x)).mean(1))


# --- Random, with state, with choices ---


@case(images, refused=RANDOM)
class DropoutInEvaluation(nn.Module):
    """`F.dropout` drops in evaluation mode too unless it is told the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.head = conv(), head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(F.relu(self.c(x)), 0.1))


@case(images, refused=RANDOM)
class AddedNoise(nn.Module):
    """Noise on the features."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.head = conv(), head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.c(x))
        return self.head(x + 0.1 * torch.randn_like(x))


@case(images, refused=f"{STATE}|{BATCH}")
class MovingAverage(nn.Module):
    """A buffer that follows the samples, in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.head = conv(), head(8)
        self.register_buffer("mean", torch.zeros(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(x.mean((0, 2, 3))[:, None, None], alpha=0.1)
        return self.head(self.c(x - self.mean))


@case(images, refused=BATCH)
class BatchMean(nn.Module):
    """What a sample gives depends on the others of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.head = conv(), head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x - x.mean(0, keepdim=True)))


@case(images)
class ControlFlow(nn.Module):
    """Python's `if` on values of the input: large images are scaled, a sample at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.head = conv(), head(8)

    def forward(self, x: Tensor) -> Tensor:
        rows = [row / 2 if row.abs().max() > 3 else row for row in x]
        return self.head(F.relu(self.c(torch.stack(rows))))


# --- Other types of numbers ---


def typed(dtype: torch.dtype) -> nn.Module:
    return nn.Sequential(conv(bias=False), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8), nn.ReLU(), head(8)).to(dtype)


@case(images)
def bfloat16() -> nn.Module:
    return typed(torch.bfloat16)


@case(images, alike=True)
def float16() -> nn.Module:
    return typed(torch.float16)


@case(images, alike=True)
def float64() -> nn.Module:
    return typed(torch.float64)


# --- Refused ---


@case(vectors, refused=r"(?i)script")
def scripted() -> nn.Module:
    return torch.jit.script(perceptron())


@case(vectors, refused=r"(?i)lazy|uninitialized|initialised|initialized")
def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(12), nn.ReLU(), nn.Linear(12, CLASSES))


@case(vectors, refused=r"(?i)\bmeta\b")
def meta() -> nn.Module:
    return perceptron().to("meta")


@case(vectors, refused=r"(?i)device|\bmeta\b")
def several_devices() -> nn.Module:
    model = perceptron()
    model[2].to("meta")
    return model


@case(vectors, refused=r"(?i)sample|row")
class NotPerSample(nn.Module):
    """One output for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = perceptron()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean(0)


@case(images, refused=r"(?i)no (quantizable )?(layer|product)")
class NoProduct(nn.Module):
    """Products of activations only."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return (x @ x.transpose(-1, -2)).flatten(1) / math.sqrt(8)


@case(vectors, refused=r"(?i)nan.*\b(second|linear_1|addmm_1)\b")
class NaNWeights(nn.Module):
    """One weight is not a number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(16, 12), nn.Linear(12, 12), nn.Linear(12, CLASSES)
        self.second.weight.data[0, 0] = math.nan

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x)))
