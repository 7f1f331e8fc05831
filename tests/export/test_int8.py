"""The int8 form: what onnxruntime's integer kernels compute of it, which layers they run, and how it is stored."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import evoq_moo as evoq
from evoq_moo.errors import ArgumentError
from evoq_moo.export import (
    TARGETS,
    OnnxNetwork,
    export_onnx,
    make_template,
    open_session,
    read_onnx,
    saturates,
    verify_onnx,
)
from evoq_moo.export._integer import INTEGER_KERNELS, in_integers, kernels_of
from evoq_moo.export._shipment import shipment_of
from evoq_moo.graph import torch_layout
from tests.export.conftest import every_width


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
    return every_width(model, torch.rand(6, 3, 12, 12, generator=generator))


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


class Loud(nn.Module):
    """Inputs and weights as large as they get: pairs of 8 by 8-bit products beyond 16 bits."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 1, bias=False)
        self.last = nn.Linear(16, 4, bias=False)
        with torch.no_grad():
            self.conv.weight.fill_(1.0)
            self.last.weight.fill_(1.0)

    def forward(self, x):
        return self.last(torch.relu(self.conv(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def loud():
    samples = torch.linspace(0.9, 1, 4).reshape(4, 1, 1, 1).expand(4, 16, 6, 6).contiguous()
    options = {"pinned": "none", "difference": "nmse", "engine": "reference", "progress": False}
    return evoq.QuantizedNetwork(Loud(), samples, **options)


@pytest.mark.parametrize(("bits", "target"), [(8, "avx2"), (8, "portable"), (7, "onnxruntime"), (4, "onnxruntime")])
def test_guarded_products_and_those_of_7_bits_never_saturate(loud, tmp_path, bits, target):
    quantized = loud.apply(loud.uniform(bits))
    export_onnx(quantized, tmp_path / "m.onnx", sample=loud.samples, target=target)
    expected = heads_of_network(quantized, loud.samples)[0]
    found = heads_of_file((tmp_path / "m.onnx").read_bytes(), loud.samples, integer=True)[0]
    np.testing.assert_allclose(found, expected, rtol=0.01)


def test_8_by_8_bits_saturate_where_the_processor_says_so(loud, tmp_path):
    quantized = loud.apply(loud.uniform(8))
    written = export_onnx(quantized, tmp_path / "m.onnx", sample=loud.samples)
    assert "saturate on x86 processors without VNNI" in written.reason
    expected = heads_of_network(quantized, loud.samples)[0]
    found = heads_of_file((tmp_path / "m.onnx").read_bytes(), loud.samples, integer=True)[0]
    assert np.allclose(found, expected, rtol=0.01) != saturates()


def test_a_fixed_batch(loud, tmp_path):
    quantized = loud.apply(loud.uniform(4))
    export_onnx(quantized, tmp_path / "m.onnx", sample=loud.samples, batch=2)
    session = open_session(tmp_path / "m.onnx", integer=True)
    assert session.get_inputs()[0].shape[0] == session.get_outputs()[0].shape[0] == 2
    found = session.run(None, {"input": loud.samples[:2].numpy()})[0]
    np.testing.assert_allclose(found, heads_of_network(quantized, loud.samples[:2])[0], rtol=0.02)


def test_containers_follow_the_target(loud, tmp_path):
    for bits, target, wanted in (
        (4, "onnxruntime", "int4"),
        (3, "onnxruntime", "bits3"),
        (3, "openvino", "int8"),
        (8, "onnxruntime", "int8"),
        (8, "avx2", "uint8"),
        (7, "portable", "int8"),
    ):
        written = export_onnx(loud.apply(loud.uniform(bits)), tmp_path / "m.onnx", sample=loud.samples, target=target)
        assert set(written.containers) == {wanted}
        assert TARGETS[target].why in written.reason
        types = {t.data_type for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
        assert (onnx.TensorProto.INT4 in types) == (wanted == "int4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tpu"}, "target: unknown name 'tpu'"),
        ({"form": "int4"}, "form: unknown name 'int4'"),
        ({"form": "exact", "target": "avx2"}, "target: given 'avx2' with form 'exact'"),
        ({"batch": 0}, "batch: given 0"),
        ({"opset": 13}, "opset: given 13; allowed: 21"),
        ({"packed": "yes"}, "packed: given 'yes'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(loud, tmp_path, options, message):
    with pytest.raises(ArgumentError, match=message):
        export_onnx(loud.apply(loud.uniform(4)), tmp_path / "m.onnx", sample=loud.samples, **options)
    assert not (tmp_path / "m.onnx").exists()


def test_a_layer_that_misses_its_kernel_is_named(loud, tmp_path):
    """A float Clip between product and quantization stops onnxruntime's fusion."""
    quantized = loud.apply(loud.uniform(4))
    export_onnx(quantized, tmp_path / "m.onnx", sample=loud.samples)
    model = onnx.load(tmp_path / "m.onnx")
    at = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Conv")
    conv = model.graph.node[at]
    added = onnx.helper.make_node("Max", ["raw", "lowest"], [conv.output[0]])
    conv.output[0] = "raw"
    model.graph.node.insert(at + 1, added)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(-1e30), "lowest"))
    onnx.save(model, tmp_path / "m.onnx")
    found = verify_onnx(tmp_path / "m.onnx", quantized, loud.samples, repeats=0, progress=False)
    assert any(p.startswith("layer 'conv' should run in an integer kernel") for p in found.problems)
    kernels = kernels_of((tmp_path / "m.onnx").read_bytes(), ("conv", "last"))
    assert not in_integers(kernels, "conv")
    assert INTEGER_KERNELS.issuperset(kernels["last"])


def test_a_good_file_passes(loud, tmp_path):
    quantized = loud.apply(loud.uniform(6))
    export_onnx(quantized, tmp_path / "m.onnx", sample=loud.samples)
    found = verify_onnx(tmp_path / "m.onnx", quantized, loud.samples, repeats=0, progress=False)
    assert found.passed, found.problems
    assert found.latency is None
    assert found.table().row_count >= 6


def test_a_slow_file_does_not_pass(loud, tmp_path, monkeypatch):
    quantized = loud.apply(loud.uniform(6))
    export_onnx(quantized, tmp_path / "m.onnx", sample=loud.samples)
    times = {"onnx": [2.0], "float_onnx": [1.0], "quantized": [3.0], "floating": [3.0]}
    monkeypatch.setattr("evoq_moo.export._verify.in_turns", lambda computations, repeats: times)
    found = verify_onnx(tmp_path / "m.onnx", quantized, loud.samples, repeats=1, progress=False)
    assert any("the file is slower than what it was made from" in p for p in found.problems)


def test_a_file_as_a_network(loud, tmp_path):
    quantized = loud.apply(loud.uniform(4))
    export_onnx(quantized, tmp_path / "m.onnx", sample=loud.samples)
    file = OnnxNetwork(tmp_path / "m.onnx")
    np.testing.assert_allclose(file(loud.samples).numpy(), heads_of_network(quantized, loud.samples)[0], rtol=0.02)
    assert not file.detects
    with pytest.raises(ArgumentError, match="does not say which network it was made from"):
        file.recipe()
