"""What is found in a network, and that the captured network computes the same, on every oddity we know."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from evoq_moo.errors import NetworkError
from evoq_moo.graph import capture_network, own_copy, prepare, untouched


def randomize(network):
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


def found_in(network, x):
    with untouched():
        return prepare(own_copy(network)[0], x)


def assert_same_function(network, other, x):
    with torch.no_grad():
        expected, found = network.eval()(x), other(x)
    assert (expected - found).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize(
    ("name", "norms", "layers", "macs"),
    [
        ("resnet18", 20, 21, 1_814_073_344),
        ("mobilenet_v2", 52, 53, 300_774_272),
        ("shufflenet_v2_x1_0", 56, 57, 144_907_992),
        ("squeezenet1_1", 0, 26, 349_151_936),
    ],
)
def test_torchvision_networks(name, norms, layers, macs):
    network = randomize(torchvision.models.get_model(name, weights=None))
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    found = found_in(network, x)
    assert len(found.graph.folded) == norms
    assert found.graph.unfolded == ()
    assert len(found.layers) == layers
    assert sum(layer.macs for layer in found.layers) == macs
    assert {layer.name for layer in found.layers} <= dict(network.named_modules()).keys()
    assert (found.notes, found.reason, found.float_macs) == ((), "", {})
    assert found.macs_quantized == 1
    assert (len(found.first), len(found.last)) == (1, 1)
    assert_same_function(network, found.network, x)
    assert_same_function(network, found.network, x[:1])


def test_macs_count_one_sample_whatever_the_batch():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten())
    one, three = (found_in(network, torch.randn(n, 3, 8, 8)) for n in (1, 3))
    assert [layer.macs for layer in one.layers] == [6 * 6 * 8 * 27, 4 * 4 * 8 * 9]
    assert one.layers == three.layers


def test_macs_of_transposed_1d_and_linear_layers():
    network = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2), nn.Flatten(2), nn.Conv1d(6, 5, 3), nn.Linear(34, 7))
    found = found_in(network, torch.randn(1, 4, 3, 3))
    assert [layer.macs for layer in found.layers] == [9 * 4 * 6 * 4, 34 * 5 * 18, 5 * 34 * 7]
    assert [layer.output_channels for layer in found.layers] == [6, 5, 7]


class Residual(nn.Module):
    """BatchNorms that may and may not be folded."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)
        self.pre = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 5)
        self.bn3 = nn.BatchNorm1d(5)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        y = self.conv2(x)
        y = self.bn2(y) + y  # conv2's result has a second reader
        return self.bn3(self.linear(self.pre(y).mean((2, 3))))


def test_a_norm_is_folded_only_where_it_alone_reads_a_layer():
    network = randomize(Residual())
    x = torch.randn(6, 3, 8, 8)
    found = found_in(network, x)
    assert found.graph.folded == ("bn1", "bn3")
    assert found.graph.unfolded == ("bn2", "pre")
    assert_same_function(network, found.network, x)
    assert found.notes == ("bn2, pre: BatchNorm with no layer of its own before it, stays in float",)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(4)), (2, 3, 8, 8)),
        (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Flatten()), (4, 5, 6)),
    ],
    ids=["a ReLU in place between", "over the positions of a Linear"],
)
def test_other_norms_are_not_folded(network, shape):
    network = randomize(network)
    x = torch.randn(shape)
    found = found_in(network, x)
    assert found.graph.folded == ()
    assert len(found.graph.unfolded) == 1
    assert_same_function(network, found.network, x)


def test_transposed_convolutions_are_folded():
    network = randomize(nn.Sequential(nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2), nn.BatchNorm2d(4)))
    x = torch.randn(2, 6, 5, 5)
    found = found_in(network, x)
    assert found.graph.folded == ("1",)
    assert_same_function(network, found.network, x)


class Affine(nn.Module):
    """Scales and shifts of channels behind a layer, and one of the whole."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.scale, self.shift = nn.Parameter(torch.randn(4, 1, 1)), nn.Parameter(torch.randn(1, 4, 1, 1))
        self.places = nn.Parameter(torch.randn(4, 6, 6))

    def forward(self, x):
        return (self.conv(x) * self.scale + self.shift) * self.places


def test_scales_and_shifts_of_channels_are_folded():
    network, x = Affine(), torch.randn(2, 3, 8, 8)
    found = found_in(network, x)
    assert [op.layer for op in found.graph.ops] == [0, None]
    assert found.layers[0].bias_params == 4
    assert_same_function(network, found.network, x)


def test_a_norm_class_of_another_name_keeps_what_it_does_next():
    """Bug: activations inside a subclass of BatchNorm were dropped when it was folded (BatchNormAct2d of timm)."""

    class NormAct(nn.BatchNorm2d):
        def forward(self, x):
            return functional.silu(super().forward(x))

    network = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), NormAct(4)))
    x = torch.randn(2, 3, 6, 6)
    found = found_in(network, x)
    assert found.graph.folded == ("1",)
    assert_same_function(network, found.network, x)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.unused = nn.Linear(3, 3)
        self.kernel = nn.Parameter(torch.randn(2, 4, 1, 1))
        self.tied1, self.tied2 = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        self.tied2.weight = self.tied1.weight
        self.alike1, self.alike2 = nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False)
        self.alike2.weight = self.alike1.weight

    def forward(self, x):
        x = self.twice(self.twice(self.stem(x)))
        x = functional.conv2d(x, self.kernel)
        return self.alike2(torch.relu(self.alike1(self.tied2(self.tied1(x)))))


def test_oddities_get_a_word_each():
    network, x = Shared(), torch.randn(1, 3, 6, 6)
    found = found_in(network, x)
    assert [layer.name for layer in found.layers] == ["stem", "twice", "kernel", "tied1", "tied2", "alike1"]
    assert [layer.macs for layer in found.layers] == [36 * 12, 2 * 36 * 4 * 36, 36 * 8, 36 * 4, 36 * 4, 2 * 36 * 4]
    assert found.graph.calls == (1, 2, 1, 1, 1, 2)
    words = "\n".join(found.notes)
    assert "twice (Conv2d) is called 2 times" in words
    assert "alike1 (Conv2d) is called 2 times" in words
    assert "tied2 shares its weight with tied1 but computes otherwise" in words
    assert "unused" not in words
    assert found.first == ("stem",)
    assert found.last == ("alike1",)
    assert_same_function(network, found.network, x)


class Standardized(nn.Conv2d):
    def forward(self, x):
        return functional.conv2d(x, self.weight - self.weight.mean(), self.bias)


class Padded(nn.Conv2d):
    def forward(self, x):
        return functional.conv2d(functional.pad(x, (0, 1, 0, 1)), self.weight, self.bias)


def test_a_weight_that_is_computed_is_a_layers_effective_weight():
    network, x = nn.Sequential(Padded(3, 4, 2), Standardized(4, 4, 1)), torch.randn(2, 3, 5, 5)
    found = found_in(network, x)
    assert [layer.name for layer in found.layers] == ["0", "1"]
    assert found.graph.parameters == ("0.weight", None)
    weight = network[1].weight.detach()
    assert torch.equal(found.network.products[1].weight, weight - weight.mean())
    assert found.notes == ()
    assert_same_function(network, found.network, x)


def test_products_of_parameters_and_parametrized_modules_are_layers():
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))
            self.matrix = nn.Parameter(torch.randn(5, 4))
            self.rows = nn.Parameter(torch.randn(3, 7))

        def forward(self, x):
            return torch.einsum("bnk,kj->bnj", self.rows @ self.norm(x), self.matrix)

    network, x = Products(), torch.randn(2, 7, 6)
    found = found_in(network, x)
    assert [(layer.name, layer.macs) for layer in found.layers] == [
        ("norm", 7 * 30),
        ("rows", 5 * 21),
        ("matrix", 3 * 20),
    ]
    assert_same_function(network, found.network, x)


def test_products_that_stay_float_are_counted_and_named():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(4, 12)

        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, -1)
            return (q @ k.transpose(1, 2)).softmax(-1) @ v

    network, x = Attention(), torch.randn(2, 5, 4)
    found = found_in(network, x)
    assert found.float_macs == {"a matrix product in the network": 2 * 5 * 5 * 4}
    assert found.notes == ("a matrix product in the network stays in float: no constant weight",)
    assert found.macs_quantized == pytest.approx(240 / 440)
    assert found.parameters_quantized == pytest.approx(48 / 60)


def test_several_heads_are_all_last():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 3, 1)

        def forward(self, x):
            x = self.stem(x).relu_()
            return {"a": self.a(x), "b": [self.b(x)]}

    found = found_in(Heads(), torch.randn(1, 3, 4, 4))
    assert (found.first, found.last) == (("stem",), ("a", "b"))


def test_a_network_without_layers_is_refused():
    with pytest.raises(NetworkError, match="no quantizable layer"):
        found_in(nn.ReLU(), torch.randn(1, 3))


class Branching(nn.Module):
    """Takes another way for other samples."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.left(x) if x.sum() > 0 else self.right(self.right(x))


def test_a_network_that_cannot_be_captured_has_its_modules_found():
    network = Branching()
    with torch.no_grad():
        network.stem.weight.fill_(1)
        network.stem.bias.zero_()
    x = torch.stack([torch.ones(3, 4, 4), -torch.ones(3, 4, 4)])
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
    found = found_in(network, x)
    assert found.graph is None
    assert found.reason
    # Each of two samples takes its own way; a layer's multiply-accumulates are their mean.
    macs = {layer.name: layer.macs for layer in found.layers}
    assert macs == {"stem": 16 * 12, "left": 16 * 16 // 2, "right": 2 * 16 * 144 // 2}
    assert any("unused (Linear) did not run on any sample" in note for note in found.notes)
    assert (found.first, found.last) == (("stem",), ("left", "right"))
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in found.network.modules()] == hooks
    assert_same_function(network, found.network, x[:1])
    with pytest.raises(NetworkError, match="network: can't be captured as a graph"):
        capture_network(own_copy(network)[0], x)


def test_a_network_of_one_number_of_samples_is_captured_for_that():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 4)

        def forward(self, x):
            y = self.a(x)
            return torch.stack([row * (i + 1) for i, row in enumerate(y.unbind(0))]) / len(y)

    network, x = Fixed(), torch.randn(5, 3)
    with untouched():
        found = prepare(own_copy(network)[0], x, micro_batch=5)
    assert found.graph.samples == 5
    assert not found.graph.any_size
    assert found.reason.startswith("captured for 5 samples at a time")
    assert_same_function(network, found.network, x)
    # What the graph makes of other numbers: micro-batches of five, the last filled up.
    with torch.no_grad():
        assert found.network(torch.cat([x, x[:2]])).shape == (7, 4)


def test_the_given_network_and_the_random_state_are_untouched():
    network = randomize(Residual())
    state = copy.deepcopy(network.state_dict())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found_in(network, torch.ones(2, 3, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), network.state_dict().values(), strict=True))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in network.modules())
