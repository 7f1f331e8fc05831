"""The int8 form: what onnxruntime's integer kernels compute of it, which layers they run, and how it is stored."""

import numpy as np
import pytest
import torch
from torch import nn

import evoq_moo as evoq
from evoq_moo.export import TARGETS, export_onnx, make_template, open_session, read_onnx
from evoq_moo.export._integer import in_integers, kernels_of
from evoq_moo.export._shipment import shipment_of
from evoq_moo.graph import torch_layout


class Residual(nn.Module):
    """Convolutions, depthwise ones too, with ReLU6, a sum, a mean and a matrix product."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6())
        self.wide = nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU6())
        self.deep = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6())
        self.narrow = nn.Conv2d(16, 8, 1)
        self.last = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.narrow(self.deep(self.wide(x)))
        return self.last(x.mean((2, 3)))


class Fire(nn.Module):
    """Joined convolutions behind a max pool with padding, and a convolution as the output."""

    def __init__(self):
        super().__init__()
        self.squeeze = nn.Conv2d(3, 6, 1)
        self.left = nn.Conv2d(6, 4, 1)
        self.right = nn.Conv2d(6, 8, 3, padding=1)
        self.out = nn.Conv2d(12, 5, 1)

    def forward(self, x):
        x = torch.relu(self.squeeze(x))
        x = torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1)
        return self.out(nn.functional.max_pool2d(x, 3, 2, padding=1))


class Shuffled(nn.Module):
    """Halves of channels that are convolved, joined and shuffled; a grouped convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.branch = nn.Conv2d(4, 4, 1)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.last = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for branch in (self.branch, self.again):
            kept, changed = x.chunk(2, dim=1)
            x = torch.cat([kept, torch.relu(branch(changed))], 1)
            n, c, h, w = x.shape
            x = x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.last(nn.functional.adaptive_avg_pool2d(self.grouped(x), 1).flatten(1))


class Gated(nn.Module):
    """SiLU, HardSwish and a sigmoid gate between convolutions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU())
        self.mid = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Hardswish())
        self.gate = nn.Conv2d(8, 8, 1)
        self.out = nn.Conv2d(8, 4, 3, stride=2)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        x = self.mid(self.stem(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.last(self.out(x).mean((2, 3)))


class Decoder(nn.Module):
    """A transposed convolution, a grouped one, a padded one-dimensional one, and two outputs."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.up_groups = nn.ConvTranspose2d(6, 4, 3, padding=1, groups=2)
        self.line = nn.Conv1d(8, 4, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.down(x))
        return self.up_groups(torch.relu(self.up(x))), self.line(nn.functional.pad(x, (1, 1)).flatten(2))


class Tokens(nn.Module):
    """Matrix products of three dimensions, with a residual between them; attention in between."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 4, stride=4)
        self.norm = nn.LayerNorm(12)
        self.qkv = nn.Linear(12, 36)
        self.proj = nn.Linear(12, 12, bias=False)
        self.mlp = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        x = x + self.proj(torch.softmax(q @ k.transpose(1, 2), -1) @ v)
        return self.head((x + self.mlp(x)).mean(1))


class Twice(nn.Module):
    """One layer called twice, one result read by two layers, an output read by a layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.same = nn.Conv2d(6, 6, 3, padding=1)
        self.other = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        y = self.same(x)
        return {"deep": self.same(torch.relu(y)), "wide": self.other(y), "middle": y}


NETWORKS = {cls.__name__: cls for cls in (Residual, Fire, Shuffled, Gated, Decoder, Tokens, Twice)}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, with_random_weights):
    generator = torch.Generator().manual_seed(3)
    model = with_random_weights(NETWORKS[request.param](), generator)
    samples = torch.rand(6, 3, 12, 12, generator=generator)
    return evoq.QuantizedNetwork(
        model,
        samples,
        weight_bits=(*range(2, 9), 32),
        activation_bits=(*range(2, 9), 16),
        pinned="none",
        difference="nmse",
        engine="reference",
        progress=False,
    )


@pytest.fixture(scope="module")
def template(network):
    return make_template(network.apply(network.uniform(8)), network.samples)


def heads_of_file(content, x, **options):
    session = open_session(content, **options)
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})


def heads_of_network(module, x):
    with torch.no_grad():
        found = module(x)
    found = found.values() if isinstance(found, dict) else found if isinstance(found, tuple) else (found,)
    return [head.numpy() for head in found]


def distances(left, right):
    """Root of the mean squared distance of each head, in output levels."""
    return [
        float(np.sqrt(np.mean((a - b) ** 2)) / max(np.ptp(b) / 255, 1e-30)) for a, b in zip(left, right, strict=True)
    ]


def should_be_integer(shipment):
    """All layers of integers, where onnxruntime has a kernel and the result need not stay float."""
    return [p.name for p in shipment.layers if p.is_integer and not p.kind.startswith("ConvT")]


@pytest.mark.parametrize("bits", [8, 7, 5, 4, 3, 2])
def test_uniform_policies_run_in_integers(network, template, tmp_path, bits):
    quantized = network.apply(network.uniform(bits))
    export_onnx(quantized, tmp_path / "m.onnx", template=template, target="avx2")
    content = (tmp_path / "m.onnx").read_bytes()
    shipment = shipment_of(quantized)
    kernels = kernels_of(content, shipment.policy.layers)
    wanted = should_be_integer(shipment)
    if not shipment.results and "embed" in wanted:  # between layers of transformers results stay float
        wanted.remove("embed")
    assert [name for name in wanted if not in_integers(kernels, name)] == []
    for count in (1, 6):
        x = network.samples[:count]
        expected = heads_of_network(quantized, x)
        assert max(distances(heads_of_file(content, x), expected)) < 1
        assert max(distances(heads_of_file(content, x, integer=True), expected)) < 1.5


@pytest.mark.parametrize("target", TARGETS)
def test_mixed_policies_compute_the_same_in_every_container(network, template, policies_of, tmp_path, target):
    for i, policy in enumerate(policies_of(network, 3, seed=7)):
        quantized = network.apply(policy)
        path = tmp_path / f"{i}.onnx"
        export_onnx(quantized, path, template=template, target=target)
        found = read_onnx(path)
        assert found.policy == policy
        for layer, p, own in zip(found.layers, quantized.layers, shipment_of(quantized).products, strict=True):
            if p.weight_levels is not None:
                levels = torch_layout(p.weight_levels, own.geometry).numpy()
                np.testing.assert_array_equal(layer.levels.reshape(-1)[: levels.size], levels.reshape(-1))
                np.testing.assert_array_equal(layer.scales, p.weight_scales.numpy())
            if p.bias is not None:
                np.testing.assert_array_equal(layer.bias, p.bias.numpy())
        expected = heads_of_network(quantized, network.samples)
        assert max(distances(heads_of_file(found.content, network.samples), expected)) < 1
