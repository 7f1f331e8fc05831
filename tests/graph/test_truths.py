"""What must be true of a network before anything is searched."""

import math

import pytest
import torch
from torch import nn

from evoq_moo._compute import ComputePool
from evoq_moo.errors import NetworkError, NonFiniteError
from evoq_moo.graph import (
    capture_network,
    check_micro_batches,
    check_rows,
    first_apart,
    first_nonfinite,
    float_outputs,
    lone_outputs,
    module_outputs,
    own_copy,
    relative_error,
    untouched,
)
from evoq_moo.network import QuantizedNetwork

POOL = ComputePool(threads=2)
X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


class Then(nn.Module):
    """A layer named `layer` and a module named `then` behind it."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.then = nn.Linear(3, 4), Call(function)

    def forward(self, x):
        return self.then(self.layer(x))


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        return self.function(self, x)


def counted(module, x):
    module.calls += 1
    return x * module.calls


def drifting(module, x):
    """Another output once it has run on all samples, though never in two runs behind each other."""
    module.calls += 1
    return x + (module.calls > 4)


def check(network, x=X, size=4):
    with untouched():
        alone, _ = lone_outputs(network, x, size, POOL)
        check_micro_batches(network, x, alone, size, POOL)


def test_relative_errors():
    one = torch.tensor([1.0, -2.0])
    assert relative_error([one], [one]) == 0
    assert relative_error([one], [one + torch.tensor([0.1, 0.0])]) == pytest.approx(0.05)
    assert relative_error([one, one * 0], [one, one * 0]) == 0
    assert relative_error([one * 0], [one]) == math.inf
    assert relative_error([one], [one[:1]]) == math.inf
    assert relative_error([one, one], [one * 1.01, one * 1.1]) == pytest.approx(0.1)


def test_a_network_that_treats_each_sample_alone_passes():
    check(Then(lambda _m, x: x.relu()))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda _m, x: x + torch.rand(1), "another output each time, first in 'then': it is random"),
        (counted, "another output each time, first in 'then'"),
        (drifting, "another output each time"),
        (lambda _m, x: x - x.mean(0), "depends on the other samples of its batch, first in 'then'"),
        (lambda _m, x: x * len(x), "depends on the other samples of its batch, first in 'then'"),
        (lambda _m, x: x.relu() if len(x) > 1 else x[:, :2], "depends on the other samples of its batch"),
        (
            lambda _m, x: nn.functional.batch_norm(x, None, None, training=True),
            "on a batch but not on one sample alone",
        ),
    ],
)
def test_what_a_network_may_not_do(function, message):
    with pytest.raises(NetworkError, match=message):
        check(Then(function))


def test_a_later_micro_batch_that_mixes_its_samples_is_found():
    network, x = Then(lambda _m, x: x * torch.where((x > 5).any(), 2, 1)), X.clone()
    nn.init.constant_(network.layer.weight, 0.5)
    x[5] = 10
    with untouched():
        lone_outputs(network, x, 4, POOL)  # the first four don't show it
    with pytest.raises(NetworkError, match="depends on the other samples of its batch, first in 'then'"):
        check(network, x)
    with pytest.raises(NetworkError, match="depends on the other samples of its batch, first in 'then'"):
        QuantizedNetwork(network, x, batch_size=4, progress=False)


def test_a_change_of_its_input_does_not_reach_the_samples():
    class InPlace(nn.Module):
        def forward(self, x):
            return x.mul_(2)

    x = X.clone()
    with untouched():
        assert lone_outputs(InPlace(), x, 4, POOL)[1]
        assert not lone_outputs(nn.ReLU(), x, 4, POOL)[1]
        (found,) = float_outputs(InPlace(), x, 4, POOL)
    assert torch.equal(found, 2 * X)
    assert torch.equal(x, X)
    check(InPlace())
    assert module_outputs(InPlace(), x)[0][0] == ""
    assert torch.equal(x, X)


def test_outputs_that_cannot_be_had_are_errors():
    with untouched():
        with pytest.raises(NetworkError, match=r"can't run on a batch of shape \(4, 3\): RuntimeError"):
            float_outputs(nn.Linear(2, 2), X, 4, POOL)
        with pytest.raises(NetworkError, match="one row for each sample; a batch of 4 gave"):
            float_outputs(Then(lambda _m, x: x.sum()), X, 4, POOL)
        with pytest.raises(NetworkError, match="holds no floating-point tensor"):
            float_outputs(Then(lambda _m, x: x.argmax(1)), X, 4, POOL)
        with pytest.raises(NonFiniteError, match="computes NaN or infinity on the samples, first in 'then'"):
            float_outputs(Then(lambda _m, x: x / 0), X, 4, POOL)


def test_rows_of_heads():
    check_rows([[torch.zeros(2, 3)], [torch.zeros(1, 3)]], [2, 1])
    with pytest.raises(NetworkError, match="a batch of 2 gave"):
        check_rows([[torch.zeros(3, 3)]], [2])
    with pytest.raises(NetworkError, match="another number of heads"):
        check_rows([[torch.zeros(2, 3)], [torch.zeros(1, 3)] * 2], [2, 1])


def test_the_first_module_that_is_apart_is_found():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    with untouched():
        captured = capture_network(own_copy(model)[0], X)
        assert first_apart(model, captured, X) == ""
        captured.products[1].weight.mul_(1.5)
        assert first_apart(model, captured, X) == "2"


def test_the_first_module_of_nan_is_found_in_modules_and_graphs():
    model = Then(lambda _m, x: (x - 1e9).log()).eval()
    with untouched():
        captured = capture_network(own_copy(model)[0], X)
        for network in (model, captured):
            assert first_nonfinite(network, X) == "then"
        model.layer.weight[0, 0] = float("nan")
        assert first_nonfinite(model, X) == "layer"
        assert first_nonfinite(nn.Sequential(nn.Linear(3, 4)), X) is None
