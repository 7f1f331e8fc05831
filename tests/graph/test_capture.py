"""Capturing a forward pass: nothing happens in place, what is constant is known, what can't be followed is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from evoq_moo.graph import capture_network, own_copy, untouched
from evoq_moo.graph.capture import CaptureError, at_size, capture
from evoq_moo.graph.ops import aten


class Layer(nn.Module):
    """A convolution, and what a test does with its result."""

    def __init__(self, then):
        super().__init__()
        self.conv, self.then = nn.Conv2d(3, 4, 1), then
        self.register_buffer("seen", torch.zeros(4, 1, 1))

    def forward(self, x):
        return self.then(self, x)


def in_a_row(model, x):
    return model.conv(x).relu_().add_(1).mul_(2)


def through_a_view(model, x):
    y = model.conv(x)
    y[:, :2].add_(1)
    return y


def into_a_slice(model, x):
    y = x.clone()
    y[:, 0] = 7
    y[:, 1:, ::2] = model.conv(x)[:, 2:, ::2]
    return y


def two_views_of_one(model, x):
    y = model.conv(x)
    left, right = y[:, :2], y[:, 1:]
    left.mul_(3)
    return right + left.sum()


def a_view_behind_the_change(model, x):
    y = model.conv(x)
    y.relu_()
    return y.flatten(1)


def the_old_and_the_new(model, x):
    y = model.conv(x)
    z = y
    y += 1
    return z * y


def through_a_reshape(model, x):
    y = model.conv(x)
    y.view(len(x), -1)[:, 0] = 0
    return y


def through_an_expanded_read(model, x):
    y = model.conv(x)
    z = y.mean((2, 3), keepdim=True).expand_as(y)
    y.sub_(z)
    return y


def its_input(model, x):
    x.mul_(2).sub_(1)
    return model.conv(x)


def a_view_of_its_input(model, x):
    x[:, 1] = 0
    return model.conv(x)


def a_buffer(model, x):
    model.seen += 1
    return model.conv(x) + model.seen


def a_new_constant(model, x):
    table = torch.zeros(4, 1, 1)
    table[1] = 3
    table += 1
    return model.conv(x) * table


def a_new_tensor_of_the_inputs_size(model, x):
    y = x.new_zeros(len(x), 4, *x.shape[2:])
    y[:, ::2] = model.conv(x)[:, ::2]
    return y


IN_PLACE = [
    in_a_row,
    through_a_view,
    into_a_slice,
    two_views_of_one,
    a_view_behind_the_change,
    the_old_and_the_new,
    through_a_reshape,
    through_an_expanded_read,
    its_input,
    a_view_of_its_input,
    a_buffer,
    a_new_constant,
    a_new_tensor_of_the_inputs_size,
]


@pytest.mark.parametrize("then", IN_PLACE, ids=lambda then: then.__name__)
def test_operations_in_place_become_functional(then):
    torch.manual_seed(0)
    model = Layer(then).eval()
    x = torch.randn(5, 3, 4, 4)
    with untouched():
        captured = capture_network(own_copy(model)[0], x)
        assert all(not op.target._schema.is_mutable for op in captured.graph.ops if hasattr(op.target, "_schema"))
        for number in (5, 1, 2):
            given, same = x[:number].clone(), x[:number].clone()
            for _ in range(2):  # nothing is kept from one call to the next
                found = captured(same)
            model.seen.zero_()
            torch.testing.assert_close(found, model(given), rtol=1e-6, atol=1e-6)
            assert torch.equal(same, x[:number])


@pytest.mark.parametrize(
    ("then", "mutated"), [(a_buffer, ("seen",)), (its_input, ("x",)), (in_a_row, ()), (a_new_constant, ())]
)
def test_what_the_network_changes_in_place_is_said(then, mutated):
    with untouched():
        captured = capture(own_copy(Layer(then))[0], torch.randn(2, 3, 4, 4))
    assert tuple("x" if name in captured.inputs else name for name in captured.mutated) == mutated


def test_what_follows_from_constants_is_computed_once():
    class Constants(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, 1, 1))

        def forward(self, x):
            w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            w = w / (w.std((1, 2, 3), keepdim=True) + torch.full((1,), 1e-5))
            grid = torch.arange(4).float()[:, None] + torch.linspace(0, 1, 4)
            return functional.conv2d(x, w) + grid + x.new_ones(4) + torch.zeros_like(x[:1, :1, :1])

    model, x = Constants(), torch.randn(3, 3, 4, 4)
    with untouched():
        captured = capture_network(own_copy(model)[0], x)
        torch.testing.assert_close(captured(x), model(x), rtol=1e-6, atol=1e-6)
    targets = [op.target for op in captured.graph.ops if op.layer is None]
    assert targets == [aten.add.Tensor] * 3
    assert sum(op.layer is not None for op in captured.graph.ops) == 1


def test_random_constants_are_not_drawn_once():
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.rand(4)

    with untouched():
        captured = capture(Noise(), torch.zeros(2, 4))
    assert aten.rand.default in [op.target for op in captured.ops]


def test_a_graph_of_any_number_of_samples():
    class Sizes(nn.Module):
        def forward(self, x):
            n, c = x.shape[:2]
            return x.reshape(n * c, -1).mean(1).reshape(n, c) / n

    with untouched():
        captured = capture(Sizes(), torch.randn(2, 3, 4))
        assert captured.symbol is not None
        assert [tuple(map(str, captured.shapes[name])) for name in captured.inputs] == [
            (str(captured.symbol), "3", "4")
        ]
        for number in (1, 2, 7):
            ops = at_size(captured.ops, captured.shapes, captured.numbers, captured.symbol, number)
            x = torch.randn(number, 3, 4)
            values = {captured.inputs[0]: x}
            for op in ops:
                values[op.name] = op.compute(values, captured.constants)
                assert op.shape == tuple(values[op.name].shape)
            assert torch.equal(values[captured.outputs[0].name], Sizes()(x))


def test_a_graph_of_one_number_of_samples():
    with untouched():
        captured = capture(nn.Linear(3, 4), torch.randn(6, 3), dynamic=False)
    assert (captured.symbol, captured.batch) == (None, 6)
    assert captured.shapes[captured.inputs[0]] == (6, 3)


class ByValue(nn.Module):
    def forward(self, x):
        return x.relu() if x.sum() > 0 else x


class OfUnknownLength(nn.Module):
    def forward(self, x):
        return x[x > 0].sum() + x


class OfItsOwnSamples(nn.Module):
    def forward(self, x):
        return torch.stack([row * i for i, row in enumerate(x.unbind(0))])


class ANumber(nn.Module):
    def forward(self, x):
        return [x, x.mean().item()]


@pytest.mark.parametrize("network", [ByValue(), OfUnknownLength(), OfItsOwnSamples()], ids=lambda n: type(n).__name__)
def test_what_cannot_be_followed_is_refused(network):
    with untouched(), pytest.raises(CaptureError, match=r"\w{4}"):
        capture(network, torch.randn(3, 4))


def test_shapes_that_depend_on_values_are_refused_by_name():
    with untouched(), pytest.raises(CaptureError, match="depends on values, not on the number of samples alone"):
        capture(OfUnknownLength(), torch.randn(3, 4))


def test_parameters_under_several_names_are_known():
    a, b = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
    b.weight = a.weight
    with untouched():
        captured = capture(nn.Sequential(a, b).eval(), torch.randn(2, 3))
    assert captured.shared == dict.fromkeys(("0.weight", "1.weight"), frozenset({"0.weight", "1.weight"}))


def test_attention_is_captured_as_its_products():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(3, 5, 8)
    fast = torch.backends.mha.get_fastpath_enabled()
    with untouched():
        captured = capture_network(own_copy(layer)[0], x)
        torch.testing.assert_close(captured(x), layer(x), rtol=1e-5, atol=1e-5)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert captured.graph.layers == ("self_attn.in_proj_weight", "self_attn.out_proj", "linear1", "linear2")
