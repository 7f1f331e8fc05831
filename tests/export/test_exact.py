"""The exact form: sums that float32 does not round, and the same bits in torch and onnxruntime."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evoq_moo.calibration import CalibratedNetwork
from evoq_moo.errors import ArgumentError
from evoq_moo.export import (
    exact_network,
    export_onnx,
    export_program,
    make_template,
    open_session,
    read_onnx,
    verify_onnx,
)
from evoq_moo.export._exact import ExactLayer, digit_plan, digits, is_exact
from evoq_moo.graph import capture_network, kind_of, own_copy, product, weight_of
from evoq_moo.quantizer import LayerParameters


def parameters(layer, weight_bits=8, activation_bits=8, *, extreme=False, seed=0, name=""):
    """Parameters on random levels; extreme: two thirds of the largest everywhere, large digits in any base."""
    generator = torch.Generator().manual_seed(seed)
    shape = weight_of(layer).shape
    lowest = -(2 ** (weight_bits - 1))
    levels = torch.randint(lowest, -lowest, shape, generator=generator)
    if extreme:
        levels = torch.full_like(levels, -lowest * 2 // 3)
    return LayerParameters(
        name=name,
        kind=kind_of(layer),
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        weight=None,
        weight_levels=levels.to(torch.int8),
        weight_scales=0.001 + torch.rand(shape[0], generator=generator) / 100,
        bias=None if layer.bias is None else torch.randn(layer.bias.shape, generator=generator),
        activation_scale=0.0371,
        activation_zero_point=0 if extreme else 2 ** (activation_bits - 1),
    )


@given(levels=st.lists(st.integers(-128, 127), min_size=1), plan=st.sampled_from([(256, 1), (64, 2), (8, 3), (2, 8)]))
def test_digits_give_back_the_levels(levels, plan):
    base, count = plan
    found = digits(torch.tensor(levels, dtype=torch.float32), base, count)
    assert len(found) == count
    assert all(d.abs().max() <= base // 2 for d in found[:-1])
    assert sum(d * base**k for k, d in enumerate(found)).tolist() == levels


@settings(deadline=None)
@given(
    make=st.sampled_from(
        [
            lambda: nn.Linear(11, 5),
            lambda: nn.Linear(7, 3, bias=False),
            lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
            lambda: nn.Conv2d(3, 5, (1, 3), dilation=2, bias=False),
            lambda: nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2),
            lambda: nn.Linear(40_000, 2),
        ]
    ),
    bits=st.tuples(st.integers(2, 8), st.integers(2, 8)),
    extreme=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_layer_is_its_exact_sum_rounded_twice(make, bits, extreme, seed):
    """Against integers in float64: the sum is exact, then one product and one sum are rounded to float32."""
    with torch.random.fork_rng():
        layer = make()
    p = parameters(layer, *bits, extreme=extreme, seed=seed)
    shape = (2, layer.in_features) if isinstance(layer, nn.Linear) else (2, layer.in_channels, 7, 8)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3
    (own,) = capture_network(own_copy(layer)[0], x).products
    found = ExactLayer(own, p)(x)
    inverse = torch.tensor(p.activation_scale).reciprocal()
    zero = p.activation_zero_point
    levels = (x * inverse).round().clamp(-zero, 2**p.activation_bits - 1 - zero)
    sums = product(levels.double(), p.weight_levels.double(), None, own.geometry)
    if digit_plan(p)[1] == 1:
        assert sums.abs().max() <= 2**24
        scales = p.weight_scales * torch.tensor(p.activation_scale)
        trailing = (-1, *[1] * (p.weight_levels.dim() - 2))
        expected = sums.float() * scales.reshape(trailing)
        assert torch.equal(found, expected if p.bias is None else expected + p.bias.reshape(trailing))
    else:
        offset = 0 if p.bias is None else p.bias.double()
        expected = sums * (p.weight_scales * torch.tensor(p.activation_scale)).double() + offset
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    assert found.shape == sums.shape


def test_sums_that_would_pass_2_to_the_24_are_split():
    layer = nn.Linear(4608, 3)
    assert digit_plan(parameters(layer, 8, 8, extreme=True)) == (32, 2)
    assert digit_plan(parameters(layer, 4, 8, extreme=True)) == (256, 1)
    assert digit_plan(parameters(nn.Linear(60_000, 1), 8, 8, extreme=True)) == (4, 4)
    with pytest.raises(ArgumentError, match="sums more inputs than float32 adds exactly"):
        digit_plan(parameters(nn.Linear(70_000, 1), 8, 8, extreme=True))


class Standardized(nn.Conv2d):
    def forward(self, input):  # noqa: A002 - the name torch's layers use
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(input, weight / weight.std(), self.bias, self.stride, self.padding)


def test_a_layer_with_a_float_side_is_not_exact():
    p = parameters(nn.Conv2d(3, 4, 3))
    assert is_exact(p)
    assert not is_exact(replace(p, activation_scale=None, activation_zero_point=None))
    assert not is_exact(replace(p, weight=p.value(), weight_levels=None, weight_scales=None))


class Wide(nn.Module):
    """Sums beyond 2^24 in a convolution and in a product of three dimensions; everything else is exact in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(600, 8, 3, padding=1), nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2)
        self.tokens = nn.Linear(4, 9)
        self.plain, self.loose = Standardized(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.tokens(self.up(x).flatten(2).transpose(1, 2)), self.plain(x), self.loose(x)


@pytest.fixture(scope="module")
def wide():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Wide()
        x = torch.rand(3, 600, 5, 5) * 9
        captured = capture_network(own_copy(model)[0], x)
    layers = [
        parameters(captured.get_submodule(name), bits, 8, extreme=name == "conv", seed=bits, name=name)
        for name, bits in (("conv", 8), ("up", 5), ("tokens", 8), ("plain", 8), ("loose", 8))
    ]
    layers[-1] = replace(layers[-1], activation_bits=16, activation_scale=None, activation_zero_point=None)
    network = CalibratedNetwork(reference=captured, layers=layers, results=(), outputs=(), report=None)
    return network, x, make_template(network, x)


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_torch_and_onnxruntime_give_the_same_bits(wide, tmp_path, packed, integer):
    network, x, template = wide
    export_onnx(network, tmp_path / "m.onnx", template=template, form="exact", packed=packed)
    assert [layer.exact for layer in read_onnx(tmp_path / "m.onnx").layers] == [True, True, True, True, False]
    exact = exact_network(network)
    session = open_session(tmp_path / "m.onnx", integer=integer)
    for count in (1, 3):
        found = session.run(None, {"input": x[:count].numpy()})
        expected = [head.numpy() for head in exact(x[:count])]
        assert np.array_equal(found[0], expected[0])
        assert np.array_equal(found[1], expected[1])
        assert np.abs(found[2] - expected[2]).max() <= 1e-4 * np.ptp(expected[2])


def test_it_is_as_near_to_fake_quantization_as_float32_allows(wide):
    network, x, _ = wide
    for found, expected in zip(exact_network(network)(x), network(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_programs_have_the_same_bits(branches, policies_of, tmp_path):
    network = branches.apply(policies_of(branches, 1, seed=2)[0])
    export_program(network, tmp_path / "m.pt2", sample=branches.samples)
    program = torch.export.load(tmp_path / "m.pt2").module()
    found, expected = program(branches.samples), exact_network(network)(branches.samples)
    assert torch.equal(found["maps"], expected["maps"])


def test_both_forms_pass_verification_and_say_which_they_are(branches, branches_template, policies_of, tmp_path):
    network = branches.apply(policies_of(branches, 1, seed=4)[0])
    for form in ("exact", "qdq"):
        path = tmp_path / f"{form}.onnx"
        export_onnx(network, path, template=branches_template, form=form)
        assert read_onnx(path).form.name == form
        assert verify_onnx(path, network, branches.samples, repeats=0).passed
    names = [n.name for n in onnx.load(tmp_path / "exact.onnx").graph.node if n.name]
    assert len(names) == len(set(names))
    with pytest.raises(ArgumentError, match="form: unknown name 'float'"):
        export_onnx(network, path, template=branches_template, form="float")
