"""Hutchinson's traces against exact Hessians in float64, and the table made of them."""

import itertools
import pickle
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

import evoq_moo as evoq
from evoq_moo._compute import ComputePool
from evoq_moo.baselines import hessian_sensitivity
from evoq_moo.baselines._roots import kl_root, nmse_root, rademacher
from evoq_moo.baselines._traces import hessian_traces
from evoq_moo.errors import ArgumentError, NetworkError, UnknownNameError
from evoq_moo.quantizer import fake_quantize_activation, fake_quantize_weight

CLASSES = 3


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tiny tensors: threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_network():
    """Return a network of three layers, one of them called twice, and four samples in two micro-batches."""
    torch.manual_seed(3)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(1, 2, 2)
            self.twice = nn.Conv2d(2, 2, 1)
            self.last = nn.Linear(8, CLASSES)

        def forward(self, x):
            x = torch.tanh(self.first(x))
            x = torch.tanh(self.twice(torch.relu(self.twice(x))))
            return self.last(x.flatten(1))

    return Net().eval(), torch.randn(4, 1, 3, 3)


@cache
def plain_network():
    return make_network()


def make_network(**options):
    model, samples = small_network()
    return evoq.QuantizedNetwork(
        model, samples, pinned="none", engine="reference", batch_size=2, progress=False, **options
    )


def every_sign(k, batch, heads):
    """Give the k-th of all vectors of plus and minus one: the mean over all of them is the exact trace."""
    (head,) = heads
    signs = list(itertools.product([-1.0, 1.0], repeat=head.numel()))
    return [torch.tensor(signs[k]).reshape(head.shape)]


def differences(loss, model, samples):
    """Return, in float64, the difference as a function of the outputs."""
    exact = model.double()(samples.double()).detach()
    if loss == "kl":
        p = exact.softmax(-1)
        return lambda out: (p * (p.log() - out.log_softmax(-1))).sum(-1).mean()
    return lambda out: (out - exact).square().sum() / exact.square().sum()


def exact_weight_trace(loss, name):
    model, samples = small_network()
    difference = differences(loss, model, samples)
    key = f"{name}.weight"
    weight = dict(model.named_parameters())[key].detach()

    def of(flat):
        return difference(functional_call(model, {key: flat.reshape(weight.shape)}, (samples.double(),)))

    return torch.autograd.functional.hessian(of, weight.flatten(), vectorize=True).trace().item()


def exact_input_traces(loss, name):
    """Return the exact trace over one layer's input (all calls, each by itself) for each sample."""
    model, samples = small_network()
    difference = differences(loss, model, samples)
    layer = dict(model.named_modules())[name]
    calls = []
    handle = layer.register_forward_pre_hook(lambda _m, args: calls.append(args[0].detach()))
    model(samples.double())
    handle.remove()
    traces = torch.zeros(len(samples), dtype=torch.float64)
    for call, x in enumerate(calls):

        def of(flat, call=call, x=x):
            count = iter(range(len(calls)))
            hook = layer.register_forward_pre_hook(
                lambda _m, args: (flat.reshape(x.shape),) if next(count) == call else None
            )
            out = model(samples.double())
            hook.remove()
            return difference(out)

        hessian = torch.autograd.functional.hessian(of, x.flatten(), vectorize=True)
        traces += hessian.diagonal().reshape(len(samples), -1).sum(1)
    return traces


def root_of(loss, network):
    if loss == "kl":
        return kl_root(len(network.samples), 1)
    return nmse_root(network.float_heads[0].double().square().sum().item(), 1)


@pytest.mark.parametrize("loss", ["kl", "nmse"])
def test_traces_are_those_of_the_exact_hessian(loss):
    network = plain_network()
    probes = 2 ** (2 * CLASSES)
    traces = hessian_traces(
        network.network,
        network._batches,
        network.ranges,
        roots=[root_of(loss, network)],
        probe=every_sign,
        probes=probes,
        pool=ComputePool(threads=1),
        on_batch=lambda: None,
    )
    assert list(traces.weights) == ["first", "twice", "last"]
    for name in traces.weights:
        assert traces.weights[name].shape == (probes,)
        assert traces.weights[name].mean().item() == pytest.approx(exact_weight_trace(loss, name), rel=1e-5)
        exact = exact_input_traces(loss, name)
        assert torch.allclose(traces.inputs[name].mean(0), exact, rtol=1e-5, atol=1e-9)
    assert traces.elements == {"first": 9, "twice": 16, "last": 8}


def test_random_vectors_estimate_the_trace():
    """400 seeded vectors: within four standard errors of the exact trace."""
    network = plain_network()
    traces = hessian_traces(
        network.network,
        network._batches,
        network.ranges,
        roots=[root_of("kl", network)],
        probe=rademacher(0),
        probes=400,
        pool=ComputePool(threads=1),
        on_batch=lambda: None,
    )
    for name, estimates in traces.weights.items():
        error = estimates.std().item() / len(estimates) ** 0.5
        assert abs(estimates.mean().item() - exact_weight_trace("kl", name)) < 4 * error


def test_table_is_trace_times_perturbation():
    network = make_network(weight_bits=[2, 4, 8, 32], activation_bits=[3, 8], difference="kl")
    table = hessian_sensitivity(network, probes=3, seed=5, progress=False)
    traces = hessian_traces(
        network.network,
        network._batches,
        network.ranges,
        roots=[root_of("kl", network)],
        probe=rademacher(5),
        probes=3,
        pool=ComputePool(threads=1),
        on_batch=lambda: None,
    )
    assert table.metric == "hessian-kl"
    for name in traces.weights:
        layer = dict(network.network.named_modules())[name]
        ranges = network.ranges[name]
        for bits in (2, 4, 8):
            error = fake_quantize_weight(layer.weight, ranges.weight_scales[bits], bits) - layer.weight
            expected = traces.weights[name].mean() / layer.weight.numel() * error.double().square().sum() / 2
            assert table.lookup(name, "weight", bits) == pytest.approx(expected.item(), rel=1e-5)
        assert table.lookup(name, "weight", 32) == 0
    first = network.ranges["first"].activation[3]
    x = network.samples
    quantized = fake_quantize_activation(x, first.scale, first.zero_point, 3)
    error = (quantized - x).double().square().flatten(1).sum(1)
    expected = (traces.inputs["first"].mean(0) / 9 * error).sum() / 2
    assert table.lookup("first", "activation", 3) == pytest.approx(expected.item(), rel=1e-5)


def test_tied_genes_have_both():
    free = hessian_sensitivity(plain_network(), probes=2, progress=False)
    tied = hessian_sensitivity(make_network(tied=True), probes=2, progress=False)
    for name in ("first", "twice", "last"):
        both = free.lookup(name, "weight", 4) + free.lookup(name, "activation", 4)
        assert tied.lookup(name, "both", 4) == pytest.approx(both, rel=1e-12)


def test_loss_follows_the_difference():
    assert hessian_sensitivity(make_network(difference="nmse"), probes=1, progress=False).metric == "hessian-nmse"
    assert hessian_sensitivity(make_network(difference="cosine"), probes=1, progress=False).metric == "hessian-nmse"
    network = make_network(difference="cosine")
    assert hessian_sensitivity(network, loss="kl", probes=1, progress=False).metric == "hessian-kl"


def test_seed_alone_decides(tiny_model, tiny_samples):
    network = evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False, pinned="none")
    before = {k: v.clone() for k, v in network.network.state_dict().items()}
    one = hessian_sensitivity(network, probes=4, seed=1, progress=False)
    network.set_threads(3)
    assert np.array_equal(hessian_sensitivity(network, probes=4, seed=1, progress=False).values, one.values)
    assert not np.array_equal(hessian_sensitivity(network, probes=4, seed=2, progress=False).values, one.values)
    assert all(torch.equal(v, before[k]) for k, v in network.network.state_dict().items())
    assert not any(p.requires_grad for p in network.network.parameters())
    assert (one.values[one.allowed] >= 0).all()
    assert (one.values[:, 0] > one.values[:, -1]).all()
    assert np.array_equal(pickle.loads(pickle.dumps(one)).values, one.values)


def test_ranks_like_the_measured_table(tiny_model, tiny_samples):
    """Where errors are small the second order is what there is: both tables agree within a small factor."""
    from scipy.stats import kendalltau

    network = evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False, pinned="none")
    hessian = hessian_sensitivity(network, probes=50, progress=False)
    measured = evoq.measure_sensitivity(network, progress=False)
    columns = [hessian.bits.index(b) for b in (6, 7, 8)]
    assert kendalltau(hessian.values[:, columns], measured.values[:, columns]).statistic > 0.6


def test_a_layer_that_reaches_no_gradient_has_no_sensitivity():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Linear(4, 3)
            self.chosen = nn.Linear(4, 3)

        def forward(self, x):
            # The second head is constant, and the second layer's choice is no head.
            return self.used(x), torch.ones(x.shape[0], 3), self.chosen(x).argmax(1)

    torch.manual_seed(0)
    network = evoq.QuantizedNetwork(Net(), torch.randn(4, 4), pinned="none", engine="reference", progress=False)
    table = hessian_sensitivity(network, probes=2, progress=False)
    assert table.lookup("chosen", "weight", 2) == 0
    assert table.lookup("used", "weight", 2) > 0


def test_errors():
    network = plain_network()
    with pytest.raises(UnknownNameError, match="loss: unknown name 'ce'"):
        hessian_sensitivity(network, loss="ce")
    with pytest.raises(ArgumentError, match="probes: given 0"):
        hessian_sensitivity(network, probes=0)
    with pytest.raises(ArgumentError, match="network: given Linear"):
        hessian_sensitivity(nn.Linear(2, 2))

    class Opaque(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return (self.layer(x) > 0).float()

    opaque = evoq.QuantizedNetwork(Opaque(), torch.randn(4, 4), pinned="none", engine="reference", progress=False)
    with pytest.raises(NetworkError, match="have no gradient"):
        hessian_sensitivity(opaque, progress=False)
    single = evoq.QuantizedNetwork(
        nn.Linear(4, 1), torch.randn(4, 4), pinned="none", engine="reference", difference="nmse", progress=False
    )
    with pytest.raises(ArgumentError, match="use 'nmse'"):
        hessian_sensitivity(single, loss="kl")
