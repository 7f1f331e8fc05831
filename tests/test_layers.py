"""Discovery of layers and BatchNorm folding on networks with every oddity we know."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from evoq_moo.errors import NetworkError
from evoq_moo.layers import discover, fold_batch_norm, weight_rows


def randomize(network):
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


def folded(network, x):
    copied = copy.deepcopy(network)
    return copied, fold_batch_norm(copied, x[:1])


def assert_same_function(network, other, x):
    with torch.no_grad():
        expected, found = network(x), other(x)
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
    copied, names = folded(network, x)
    assert len(names) == norms
    found = discover(copied, x[:1])
    assert len(found.layers) == layers
    assert sum(layer.macs for layer in found.layers) == macs
    assert found.notes == ()
    assert (len(found.first), len(found.last)) == (1, 1)
    assert_same_function(network, copied, x)


def test_macs_count_one_sample_whatever_the_batch():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten())
    one, three = (discover(network, torch.randn(n, 3, 8, 8)) for n in (1, 3))
    assert [layer.macs for layer in one.layers] == [6 * 6 * 8 * 27, 4 * 4 * 8 * 9]
    assert one.layers == three.layers


def test_macs_of_transposed_1d_and_linear_layers():
    network = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2), nn.Flatten(2), nn.Conv1d(6, 5, 3), nn.Linear(34, 7))
    found = discover(network, torch.randn(1, 4, 3, 3))
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
    copied, names = folded(network, x)
    assert names == ("bn1", "bn3")
    assert_same_function(network, copied, x)
    notes = discover(copied, x[:1]).notes
    assert [n.split()[0] for n in notes] == ["bn2", "pre"]


def test_in_place_relu_between_conv_and_norm_is_not_folded():
    network = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(4)))
    x = torch.randn(2, 3, 8, 8)
    copied, names = folded(network, x)
    assert names == ()
    assert_same_function(network, copied, x)


def test_norm_over_positions_of_a_linear_layer_is_not_folded():
    network = randomize(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Flatten()))
    x = torch.randn(4, 5, 6)
    copied, names = folded(network, x)
    assert names == ()
    assert_same_function(network, copied, x)


def test_transposed_convolutions_are_folded():
    network = randomize(nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)))
    x = torch.randn(2, 3, 5, 5)
    copied, names = folded(network, x)
    assert names == ("1",)
    assert_same_function(network, copied, x)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.unused = nn.Linear(3, 3)
        self.weight = nn.Parameter(torch.randn(2, 4, 1, 1))
        self.tied1, self.tied2 = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        self.tied2.weight = self.tied1.weight

    def forward(self, x):
        x = self.twice(self.twice(self.stem(x)))
        x = functional.conv2d(x, self.weight)
        return self.tied2(self.tied1(x))


def test_oddities_get_a_word_each():
    found = discover(Shared(), torch.randn(1, 3, 6, 6))
    assert [layer.name for layer in found.layers] == ["stem", "twice", "tied1", "tied2"]
    assert found.layers[1].macs == 2 * 36 * 4 * 36
    words = "\n".join(found.notes)
    assert "twice (Conv2d) is called 2 times" in words
    assert "the network calls convolution 1 time outside a layer module" in words
    assert "unused (Linear) did not run" in words
    assert "tied2 shares its weight with tied1" in words
    assert found.first == ("stem",)
    assert found.last == ("tied2",)


class Standardized(nn.Conv2d):
    def forward(self, x):
        return functional.conv2d(x, self.weight - self.weight.mean(), self.bias)


class Padded(nn.Conv2d):
    def forward(self, x):
        return functional.conv2d(functional.pad(x, (0, 1, 0, 1)), self.weight, self.bias)


def test_subclasses_count_if_they_multiply_by_their_own_weight():
    found = discover(nn.Sequential(Padded(3, 4, 2), Standardized(4, 4, 1)), torch.randn(1, 3, 5, 5))
    assert [layer.name for layer in found.layers] == ["0"]
    assert "1 (Standardized) transforms its weight before use" in found.notes[0]


def test_several_heads_are_all_last():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 3, 1)

        def forward(self, x):
            x = self.stem(x).relu_()
            return {"a": self.a(x), "b": [self.b(x)]}

    found = discover(Heads(), torch.randn(1, 3, 4, 4))
    assert (found.first, found.last) == (("stem",), ("a", "b"))


def test_a_network_without_layers_is_refused():
    with pytest.raises(NetworkError, match="no quantizable layer"):
        discover(nn.ReLU(), torch.randn(1, 3))


def test_a_network_that_cannot_run_is_refused():
    with pytest.raises(NetworkError, match=r"can't run on samples of shape \(1, 5, 4, 4\)"):
        discover(nn.Conv2d(3, 4, 1), torch.randn(1, 5, 4, 4))


def test_tracing_leaves_no_hooks():
    network = nn.Sequential(nn.Conv2d(3, 4, 1))
    discover(network, torch.randn(1, 3, 4, 4))
    assert not network[0]._forward_hooks
    assert not network[0]._forward_pre_hooks


def test_weight_rows_run_over_output_channels():
    conv, transposed = nn.Conv2d(3, 4, 2), nn.ConvTranspose2d(3, 4, 2)
    assert weight_rows(conv.weight, conv).shape == (4, 12)
    assert weight_rows(transposed.weight, transposed).shape == (4, 12)
    assert torch.equal(weight_rows(transposed.weight, transposed)[1], transposed.weight[:, 1].flatten())
