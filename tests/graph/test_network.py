"""The captured network as a module: named like the given one, copied, pickled, its layers replaced."""

import copy
import pickle

import pytest
import torch
from torch import nn

from evoq_moo.graph import Product, capture_network, own_copy, untouched
from evoq_moo.graph.ops import aten, target_name, target_of
from evoq_moo.images import Preprocess


class Nested(nn.Module):
    """A module that is a layer and holds another, an output of several kinds, a constant that is read."""

    def __init__(self):
        super().__init__()
        self.outer = Outer(3, 4)
        self.head = nn.Linear(4, 2)
        self.shift = nn.Parameter(torch.randn(6, 1))
        self.preprocess = Preprocess(crop=8)

    def forward(self, x):
        y = self.outer(x)
        return {"y": y, "rest": (self.head(y).softmax(-1), None, 3, y + self.shift)}


class Outer(nn.Linear):
    def __init__(self, a, b):
        super().__init__(a, b)
        self.inner = nn.Linear(b, b)

    def forward(self, x):
        return self.inner(torch.relu(super().forward(x)))


X = torch.randn(3, 6, 3)


@pytest.fixture(scope="module")
def pair():
    with untouched():
        model = Nested()
        return model.eval(), capture_network(own_copy(model)[0], X)


def same(a, b):
    assert list(a) == list(b)
    assert a["rest"][1:3] == b["rest"][1:3] == (None, 3)
    for x, y in zip((a["y"], *a["rest"][::3]), (b["y"], *b["rest"][::3]), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


def test_layers_and_output_are_those_of_the_given_network(pair):
    model, captured = pair
    assert captured.graph.layers == ("outer", "outer.inner", "head")
    assert all(isinstance(captured.get_submodule(name), Product) for name in captured.graph.layers)
    assert [set(before) for before in captured.graph.predecessors] == [set(), {0}, {1}]
    assert captured.preprocess == model.preprocess
    assert not captured.training
    for number in (3, 1):
        same(captured(X[:number]), model(X[:number]))


def test_copies_and_pickles_compute_the_same(pair):
    model, captured = pair
    copied = copy.deepcopy(captured)
    assert copied.graph is captured.graph
    assert copied.products[0] is not captured.products[0]
    loaded = pickle.loads(pickle.dumps(captured))
    for network in (copied, loaded):
        same(network(X), model(X))
    assert loaded.preprocess == model.preprocess
    assert loaded.graph.at(2).ops[0].shape == captured.graph.at(2).ops[0].shape


def test_a_layer_can_be_replaced_with_what_lies_below_it(pair):
    model, captured = pair
    changed = copy.deepcopy(captured)
    old = changed.products[0]
    changed.replace("outer", Product(old.weight * 0, old.bias * 0, old.geometry))
    assert isinstance(changed.get_submodule("outer.inner"), Product)
    expected = model.outer.inner.bias.expand(3, 6, 4)
    torch.testing.assert_close(changed(X)["y"], expected)
    same(captured(X), model(X))


def test_each_operation_says_where_it_ran(pair):
    _, captured = pair
    found = captured.sources(X)
    assert [source for source, _ in found][:3] == ["outer", "outer", "outer.inner"]
    assert all(value.shape[0] == 3 for _, value in found)


def test_a_graph_of_one_size_takes_that_size_alone():
    with untouched():
        captured = capture_network(own_copy(nn.Linear(3, 2))[0], torch.randn(4, 3))
    assert captured.graph.at(9).samples == 9

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return torch.stack([self.layer(row) for row in x.unbind(0)])

    with untouched():
        captured = capture_network(own_copy(Fixed())[0], torch.randn(4, 3))
    assert not captured.graph.any_size
    with pytest.raises(ValueError, match="takes 4 samples, given 5"):
        captured.graph.at(5)


@pytest.mark.parametrize("target", [aten.relu.default, aten.add.Tensor, __import__("operator").mul, torch.sym_max])
def test_operators_have_names_to_be_found_by(target):
    assert target_of(target_name(target)) is target


def test_an_operator_that_is_gone_is_named():
    with pytest.raises(LookupError, match="torch has no operator 'aten.nowhere.default'"):
        target_of("aten.nowhere.default")


def test_an_export_of_the_captured_network_takes_any_number_of_samples(pair):
    """Bug: `len` of its input fixed the number of samples in every exported file."""
    model, captured = pair
    shapes = {"args": ({0: torch.export.Dim("batch")},)}
    program = torch.export.export(captured, (X[:2],), dynamic_shapes=shapes, strict=False).module()
    for number in (1, 3):
        same(program(X[:number]), model(X[:number]))
