"""ONNX files: their graph, what onnxruntime computes from them, and their size."""

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import evoq_moo as evoq
from evoq_moo.calibration import CalibratedNetwork
from evoq_moo.calibration._outputs import OutputMap
from evoq_moo.errors import ArgumentError, NetworkError
from evoq_moo.export import export_onnx, make_template, open_session, read_onnx
from evoq_moo.export._onnx import runs_two_bit_types
from evoq_moo.export._shipment import shipment_of
from evoq_moo.graph import ResultPlaces, own_copy, prepare, torch_layout, untouched
from evoq_moo.quantizer import ActivationRange, LayerRanges, ResultRanges, parameters_of


def outputs_of(path, x, **options):
    session = open_session(path, **options)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, {"input": x.numpy()}), strict=True))


def assert_close(found, expected, tolerance=1e-4):
    expected = expected.detach().numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.ptp(expected)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("opset", [21, 25])
def test_random_policies_compute_the_same(branches, branches_template, policies_of, tmp_path, packed, opset):
    for i, policy in enumerate(policies_of(branches, 6, seed=opset)):
        network = branches.apply(policy)
        path = tmp_path / f"{i}.onnx"
        export_onnx(network, path, form="exact", packed=packed, opset=opset, template=branches_template)
        for count in (1, 3):
            x = branches.samples[:count]
            for integer in (False, True):
                found = outputs_of(path, x, integer=integer)
                for name, expected in network(x).items():
                    # A value on the border of a level may fall on its other side: seed by seed the same.
                    assert_close(found[name], expected)


def test_the_graph_is_standard_onnx_at_each_layers_bits(branches, branches_template, policies_of, tmp_path):
    policy = policies_of(branches, 1, seed=3)[0]
    network = branches.apply(policy)
    export_onnx(network, tmp_path / "m.onnx", template=branches_template, provenance={"run": "here"})
    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    assert inferred.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {n.domain for n in model.graph.node} == {""}
    found = read_onnx(tmp_path / "m.onnx")
    assert found.policy == policy
    assert found.provenance["run"] == "here"
    shipment = shipment_of(network)
    assert found.fingerprints == {
        "network": shipment.network_fingerprint(),
        "parameters": shipment.fingerprint(),
    }
    for layer, p, own in zip(found.layers, shipment.layers, shipment.products, strict=True):
        if p.weight_levels is None:
            np.testing.assert_array_equal(layer.weight, torch_layout(p.weight, own.geometry).numpy())
            continue
        levels = layer.levels.reshape(-1)[: p.weight_levels.numel()]
        # ONNX has transposed convolutions' weights as torch has them.
        np.testing.assert_array_equal(levels, torch_layout(p.weight_levels, own.geometry).numpy().reshape(-1))
        np.testing.assert_array_equal(layer.scales, p.weight_scales.numpy())


def test_metadata_is_json(branches, branches_template, tmp_path):
    export_onnx(branches.apply(branches.uniform(5)), tmp_path / "m.onnx", template=branches_template)
    notes = {e.key: e.value for e in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert json.loads(notes["evoq_moo.policy"])["weight_bits"] == [5] * len(branches.space.layers)
    assert json.loads(notes["evoq_moo.containers"]) == ["bits5"] * len(branches.space.layers)
    assert json.loads(notes["evoq_moo.provenance"])["evoq_moo"] == evoq.__version__


def test_output_maps_are_in_the_graph(branches, tmp_path):
    applied = branches.apply(branches.uniform(6))
    shipment = shipment_of(applied)
    maps = [
        OutputMap(torch.linspace(0.5, 2, 5), torch.linspace(-1, 1, 5), -3),
        OutputMap(torch.linspace(0.9, 1.2, 6), torch.linspace(-3, 1, 6), -1),
    ]
    calibrated = CalibratedNetwork(
        reference=branches.network, layers=shipment.layers, results=shipment.results, outputs=maps, report=None
    )
    export_onnx(calibrated, tmp_path / "m.onnx", sample=branches.samples, form="exact")
    found = outputs_of(tmp_path / "m.onnx", branches.samples)
    for name, expected in calibrated(branches.samples).items():
        assert_close(found[name], expected)


def worst_case(model):
    """Weights that stand at their largest level in every second place: their int8 products saturate in int16."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.where(torch.rand(p.shape, generator=generator) < 0.5, p * 0.9, p.abs().amax().expand_as(p)))
    return model.eval()


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(32, 64), nn.Linear(64, 10, bias=False)

    def forward(self, x):
        return self.second(torch.relu(self.first(x))).mean(1)


def test_eight_by_eight_bits_do_not_saturate(tmp_path):
    """onnxruntime's fused kernels of unsigned inputs and signed weights saturate on AVX2."""
    torch.manual_seed(0)
    images = torch.rand(6, 32, 6, 6, generator=torch.Generator().manual_seed(1)).sqrt()
    conv = nn.Sequential(
        nn.Conv2d(32, 16, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(16, 16, 3, bias=False), nn.Flatten()
    )
    for model, x in ((conv, images), (Tokens(), images.flatten(2).transpose(1, 2)[:, :7].contiguous())):
        network = evoq.QuantizedNetwork(worst_case(model), x, engine="reference", progress=False)
        applied = network.apply(network.uniform(8))
        export_onnx(applied, tmp_path / "m.onnx", sample=x, form="exact")
        for integer in (True, False):
            found = outputs_of(tmp_path / "m.onnx", x, integer=integer)["output"]
            assert_close(found, applied(x), tolerance=1e-3)


def quickly_quantized(model, sample, seed):
    """A network under a random policy, its scales from the largest weights: enough for a graph, at little cost."""
    with untouched():
        prepared = prepare(own_copy(model)[0], sample)
    rng = np.random.default_rng(seed)
    layers = []
    for info, layer in zip(prepared.layers, prepared.network.products, strict=True):
        weight_bits, activation_bits = (int(b) for b in rng.integers(2, 9, 2))
        largest = layer.weight.flatten(1).abs().amax(dim=1).clamp_min(1e-6)
        ranges = LayerRanges(
            weight_scales={weight_bits: largest / 2 ** (weight_bits - 1)},
            activation={
                activation_bits: ActivationRange(8 / 2**activation_bits, int(rng.integers(2**activation_bits)))
            },
        )
        layers.append(parameters_of(info, layer.weight, layer.bias, ranges, (weight_bits, activation_bits)))
    places = ResultPlaces(prepared.graph)
    results = ResultRanges(places, {name: ActivationRange(8 / 256, 100) for name in places.names}, "").of(layers)
    return CalibratedNetwork(reference=prepared.network, layers=layers, results=results, outputs=(), report=None)


# The largest are exported by tests/test_matrix.py as well.
@pytest.mark.parametrize(
    "name", [n for n in evoq.zoo.names() if n not in {"resnet101", "ssd300_vgg16", "ssd300_resnet50"}]
)
def test_every_network_of_the_zoo(name, tmp_path):
    if name == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    entry = evoq.zoo.entry(name)
    side = 64 if entry.task == "classification" else entry.input_size[1]
    x = torch.rand(1, entry.input_size[0], min(side, entry.input_size[1]), min(side, entry.input_size[1]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = quickly_quantized(entry.build(), x, seed=0)
    written = export_onnx(network, tmp_path / "m.onnx", sample=x)
    assert written.size <= written.predicted * 1.03 + 96 * 1024  # ShuffleNet has 1,000 nodes
    assert read_onnx(tmp_path / "m.onnx").policy == network.policy
    found = outputs_of(tmp_path / "m.onnx", x)
    expected = network(x)
    heads = list(expected.values()) if isinstance(expected, dict) else [expected]
    for head, got in zip(heads, found.values(), strict=True):
        assert got.shape == tuple(head.shape)
        assert np.isfinite(got).all()


class AsksByShape(nn.Module):
    """Asks for the number of samples in a way that a graph can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).reshape(x.shape[0], -1)


class AsksByLen(AsksByShape):
    """Asks for the number of samples in a way that a graph can't follow."""

    def forward(self, x):
        return self.conv(x).reshape(len(x), -1)


def test_files_take_as_many_samples_as_the_graph(tmp_path):
    """Bug: the exporter fixed the batch without an error, and the file ran on two samples only."""
    x = torch.rand(1, 3, 8, 8)
    for model, any_size in ((AsksByShape(), True), (AsksByLen(), False)):
        network = quickly_quantized(model, x, seed=0)
        assert network.reference.graph.any_size == any_size
        export_onnx(network, tmp_path / "m.onnx", sample=x, form="exact")
        batch = onnx.load(tmp_path / "m.onnx").graph.input[0].type.tensor_type.shape.dim[0]
        assert batch.dim_param == "batch" if any_size else batch.dim_value == 2
        for count in (1, 2, 3) if any_size else (2,):
            images = torch.rand(count, 3, 8, 8)
            assert_close(outputs_of(tmp_path / "m.onnx", images)["output"], network(images))


def test_narrow_inputs_behind_a_max_pooling_run(tmp_path):
    """Bug: onnxruntime moved the quantization to 4 bits before the MaxPool, which does not take them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), nn.Flatten())
    x = torch.rand(3, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    network = evoq.QuantizedNetwork(model.eval(), x, pinned="none", engine="reference", progress=False)
    template = make_template(network.apply(network.uniform(8)), x)
    for bits, form in ((2, "exact"), (2, "qdq"), (4, "exact"), (4, "qdq")):
        applied = network.apply(network.uniform(bits))
        export_onnx(applied, tmp_path / "m.onnx", template=template, form=form)
        for integer in (False, True):
            assert_close(outputs_of(tmp_path / "m.onnx", x, integer=integer)["output"], applied(x))


def test_layers_that_share_an_input_share_its_quantization(tmp_path):
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.a(x) + self.b(x)

    x = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    network = evoq.QuantizedNetwork(Fork(), x, engine="reference", progress=False)
    export_onnx(network.apply(network.uniform(4)), tmp_path / "m.onnx", sample=x)
    operators = [n.op_type for n in onnx.load(tmp_path / "m.onnx").graph.node]
    assert operators.count("QuantizeLinear") == 1


def test_two_bit_types_run_here():
    assert runs_two_bit_types() == (onnx.defs.onnx_opset_version() >= 25)


def test_bad_arguments(branches, branches_template, tmp_path):
    network = branches.apply(branches.uniform(4))
    with pytest.raises(ArgumentError, match="network: given Sequential"):
        export_onnx(nn.Sequential(), tmp_path / "m.onnx")
    with pytest.raises(ArgumentError, match="sample: given none"):
        export_onnx(network, tmp_path / "m.onnx")
    with pytest.raises(ArgumentError, match="opset: given 13"):
        export_onnx(network, tmp_path / "m.onnx", template=branches_template, opset=13)
    with pytest.raises(ArgumentError, match="packed: given 1"):
        export_onnx(network, tmp_path / "m.onnx", template=branches_template, packed=1)
    with pytest.raises(ArgumentError, match=r"sample: given \(0,\)"):
        export_onnx(network, tmp_path / "m.onnx", sample=(0,))
    with pytest.raises(NetworkError, match="sample: the network can't run on it"):
        export_onnx(network, tmp_path / "m.onnx", sample=(4, 8, 8))
    other = evoq.QuantizedNetwork(nn.Sequential(nn.Linear(3, 2)), torch.rand(4, 3), progress=False)
    with pytest.raises(ArgumentError, match="template: is of another network"):
        export_onnx(other.apply(other.uniform(4)), tmp_path / "m.onnx", template=branches_template)
    assert not list(tmp_path.iterdir())
