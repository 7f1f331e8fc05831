import copy
import itertools
import logging

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import evoq_moo as evoq
from evoq_moo import graph
from evoq_moo._compute import ComputePool
from evoq_moo.difference import heads_of
from evoq_moo.engines import _kernels as kernels
from evoq_moo.engines import integer as integer_module
from evoq_moo.engines import integer_supported
from evoq_moo.engines._captured import samples_per_batch
from evoq_moo.engines._layers import BoundNetwork, WeightCache
from evoq_moo.engines._lower import Add, Layer
from evoq_moo.engines._steps import FLOAT
from evoq_moo.engines.integer import IntegerEngine
from evoq_moo.engines.reference import ReferenceEngine
from evoq_moo.errors import ArgumentError, NetworkError, NonFiniteError
from evoq_moo.graph import NO_CLIP, Clip, Geometry, own_copy, per_channel, product
from evoq_moo.network import QuantizedNetwork
from evoq_moo.network._setup import result_ranges, tabulate
from evoq_moo.quantizer import FLOAT_RESULTS, ResultRanges, activation_range, weight_levels, weight_range
from evoq_moo.quantizer.arithmetic import quantize

pytestmark = pytest.mark.skipif(not integer_supported()[0], reason=f"integer engine: {integer_supported()[1]}")

POOL = ComputePool(threads=2)
BITS = st.integers(2, 8)
PAIRS = st.tuples(BITS, BITS).filter(lambda pair: kernels.products_fit(*pair))


class Ranges(dict):
    """Ranges of layers by name, and those of results."""

    results = FLOAT_RESULTS


def prepare(network, samples):
    with torch.no_grad():
        prepared = graph.prepare(own_copy(network)[0], samples)
        names = [layer.name for layer in prepared.layers]
        places = graph.ResultPlaces(prepared.graph)
        with result_ranges(prepared.network, places.names) as results:
            _, found = tabulate(prepared.network, samples.split(4), names, POOL, progress=False)
    ranges = Ranges(found)
    ranges.results = ResultRanges(places, results, "")
    return prepared, ranges


def engine_of(prepared, samples, ranges, batch_size=None, pool=POOL):
    return IntegerEngine(
        network=prepared.network,
        samples=samples,
        layers=prepared.layers,
        ranges=ranges,
        results=ranges.results,
        batch_size=batch_size,
        pool=pool,
    )


def moved_bias(bias, scales, step, bits):
    """Return a bias moved to multiples of input step x weight step x 2^-k, float64."""
    steps = scales.double() * step / 2 ** max(0, 7 - bits)
    return (bias.double() / steps).round() * steps


class Levels(nn.Module):
    """Moves values to levels in float64."""

    def __init__(self, grid):
        super().__init__()
        self.grid = grid

    def forward(self, x):
        scale, zero, bits = self.grid
        scale = torch.tensor(scale, dtype=torch.float64)
        return (quantize(x, scale, zero, *activation_range(bits)) - zero) * scale


class Exact:
    """The captured network in float64, fake-quantized: what float32 can only be near to."""

    def __init__(self, prepared, samples, ranges):
        self.samples = samples.double()
        self._network = prepared.network
        self._ranges = [ranges[layer.name] for layer in prepared.layers]
        self._results = ranges.results

    def network(self, bits):
        """Return the network under bit-widths `(layers, 2)`."""
        network = copy.deepcopy(self._network).double()
        network.place_results(self._quantizers(bits))
        for layer, ranges, (weight_bits, activation_bits) in zip(
            network.products, self._ranges, bits.tolist(), strict=True
        ):
            if weight_bits in ranges.weight_scales:
                scale = per_channel(ranges.weight_scales[weight_bits].double(), layer.weight)
                layer.weight.copy_(quantize(layer.weight, scale, 0, *weight_range(weight_bits)) * scale)
            if activation_bits in ranges.activation:
                found = ranges.activation[activation_bits]
                if layer.bias is not None and weight_bits in ranges.weight_scales:
                    scales = ranges.weight_scales[weight_bits]
                    layer.bias.copy_(moved_bias(layer.bias, scales, found.scale, weight_bits))
                scale, bounds = torch.tensor(found.scale, dtype=torch.float64), activation_range(activation_bits)

                def hook(_module, args, scale=scale, zero=found.zero_point, bounds=bounds):
                    return ((quantize(args[0], scale, zero, *bounds) - zero) * scale,)

                layer.register_forward_pre_hook(hook)
        return network

    def _quantizers(self, bits):
        """Return what moves results to their levels."""
        ranges = list(zip(self._ranges, bits.tolist(), strict=True))
        integer = [w in r.weight_scales and a in r.activation for r, (w, a) in ranges]
        inputs = [r.activation.get(a) and graph.Grid(*vars(r.activation[a]).values(), a) for r, (_, a) in ranges]
        return {name: Levels(grid) for name, grid in self._results.grids(inputs, integer).items()}

    def heads(self, bits):
        """Return the heads under bit-widths `(layers, 2)`, float64."""
        with torch.no_grad():
            return heads_of(self.network(bits)(self.samples))


def random_bits(layers, seed=0):
    return np.random.default_rng(seed).integers(2, 9, (layers, 2)).astype(np.int64)


def error(found, expected):
    return max(
        ((f.double() - e.double()).norm() / e.double().norm().clamp_min(1e-30)).item()
        for f, e in zip(found, expected, strict=True)
    )


def assert_agrees(network, samples, seeds=(0, 1), tolerance=1e-5):
    network, ranges = prepare(network, samples)
    engine = engine_of(network, samples, ranges)
    exact = Exact(network, samples, ranges)
    for seed in seeds:
        bits = random_bits(len(ranges), seed)
        assert error(engine.heads(bits), exact.heads(bits)) < tolerance
    return engine, network, ranges


# --- one layer, and its levels, against float64 -----------------------------------------------------------------


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    channels, out = groups * draw(st.integers(1, 5)), groups * draw(st.integers(1, 5))
    if draw(st.booleans()):
        groups = out = channels  # depthwise
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    return nn.Conv2d(
        channels,
        out,
        kernel,
        stride=draw(st.tuples(st.integers(1, 5), st.integers(1, 3))),
        padding=draw(st.tuples(st.integers(0, 3), st.integers(0, 3))),
        dilation=draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        groups=groups,
        bias=draw(st.booleans()),
    )


CLIPS = [nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 0.75)]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    conv=convolutions(), clip=st.sampled_from(CLIPS), shift=st.floats(-2, 2), seed=st.integers(0, 999), data=st.data()
)
def test_levels_behind_a_convolution_are_those_of_float64(conv, clip, shift, seed, data):
    torch.manual_seed(seed)
    nn.init.normal_(conv.weight)
    network = nn.Sequential(conv, clip, nn.Conv2d(conv.out_channels, 3, 1))
    samples = torch.randn(3, conv.in_channels, 9, 10) + shift
    network, ranges = prepare(network, samples)
    bits = np.array([data.draw(PAIRS), data.draw(PAIRS)], dtype=np.int64)
    engine = engine_of(network, samples, ranges, batch_size=3)
    runner = engine._runner
    bound = [layer.bind(*pair) for layer, pair in zip(engine._layers, bits.tolist(), strict=True)]
    plan = runner._sized.plan((True, True), keep=True)
    frame = plan.run_keeping(runner._sized.batches[0], BoundNetwork(bound))
    levels = [value for (_, want), value in frame.results.items() if want == 1]
    assert len(levels) == 1
    assert levels[0].dtype == torch.uint8

    first, second = bound[0].quantizer, bound[1].quantizer
    recorded = {}
    exact = Exact(network, samples, ranges)
    wide = exact.network(bits)
    # The first hook on the layer: what reaches it before it is quantized.
    wide.products[1].register_forward_pre_hook(lambda _m, args: recorded.update(x=args[0]), prepend=True)
    heads = heads_of(wide(exact.samples))
    step = recorded["x"] / second.scale
    certain = (step - step.floor() - 0.5).abs() > 1e-4
    expected = (step.round() + second.zero_point).clamp(0, second.highest)
    assert torch.equal(levels[0].double()[certain], expected[certain])
    assert first.bits == bits[0, 1]
    if certain.all():
        assert error(engine.heads(bits), heads) < 1e-6


@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    pad=st.tuples(*[st.integers(0, 3)] * 4),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    groups=st.sampled_from([1, 3]),
    same=st.booleans(),
    shift=st.sampled_from([-1.0, 0.5]),
    seed=st.integers(0, 99),
    data=st.data(),
)
# Torch warns that it copies inputs of such paddings; so it does.
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_uneven_padding_adds_the_level_of_zero(pad, kernel, groups, same, shift, seed, data):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 6, kernel, padding="same", groups=groups)]
    if not same:
        layers = [nn.ZeroPad2d(pad), nn.Conv2d(3, 6, kernel, stride=(1, 2), groups=groups)]
    samples = torch.randn(3, 3, 7, 8) + shift
    network, ranges = prepare(nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(6, 2, 1)), samples)
    bits = np.array([data.draw(PAIRS), data.draw(PAIRS)], dtype=np.int64)
    assert next(iter(ranges.values())).activation[8].zero_point != 0
    engine = engine_of(network, samples, ranges, batch_size=3)
    assert assert_levels_are_those_of_float64(engine, bits) == 2


@settings(max_examples=50, deadline=None, derandomize=True)
@given(fan_in=st.integers(1, 10**6), zero_point=st.integers(0, 255))
def test_accumulators_that_fit_hold_the_largest_sum(fan_in, zero_point):
    worst = fan_in * max((255 - zero_point) * 128, zero_point * 128, 255 * 128)
    assert kernels.accumulator_fits(fan_in) == (worst < 2**31)


def assert_levels_are_those_of_float64(engine, bits):
    """Check every layer that computes in integers on the levels it was given; return how many there were.

    Levels of the next layer's input must be float64's wherever its value is further than 1e-4 of a level from a
    boundary; float32 results must be float64's up to a few roundings.
    """
    runner = engine._runner
    layers = engine._layers
    bound = [layer.bind(*pair) for layer, pair in zip(layers, bits.tolist(), strict=True)]
    results = runner._grids(bits)
    plan = runner._sized.plan(runner._integer(bits), results, keep=True)
    network = BoundNetwork(bound, tuple(results.values()))
    frame = POOL.run(lambda: plan.run_keeping(runner._sized.batches[0], network))
    checked = 0
    for op in plan.program.ops:
        if not isinstance(op, Layer) or bound[op.index].packed is None:
            continue
        layer, source = layers[op.index], bound[op.index].quantizer
        b = int(bits[op.index, 0])
        scales = layer._ranges.weight_scales[b]
        weight, scale = weight_levels(layer.weight, scales, b), per_channel(scales, layer.weight)
        bias = None if layer.bias is None else moved_bias(layer.bias, scales, source.scale, b)
        x = (frame.results[op.inputs[0], op.index].double() - source.zero_point) * source.scale
        exact = POOL.run(
            lambda x=x, op=op, w=weight, s=scale, b=bias: product(x, w.double() * s.double(), b, op.geometry)
        )
        if op.clip != NO_CLIP:
            exact = exact.clamp(op.clip.low, op.clip.high)
        for name, want in [key for key in frame.results if key[0] == op.name]:
            found = frame.results[name, want]
            if want == FLOAT:
                assert (found - exact).abs().max() <= 1e-5 * exact.abs().max()
                continue
            q = frame.quantizer(want)
            step = frame.results[name, FLOAT].double() if (name, FLOAT) in frame.results else exact
            step = step / q.scale
            certain = (step - step.floor() - 0.5).abs() > 1e-4
            expected = (step.round() + q.zero_point).clamp(0, q.highest)
            assert torch.equal(found.double()[certain], expected[certain]), (op.name, bits[op.index])
        checked += 1
    return checked


def test_levels_in_a_network_of_blocks_are_those_of_float64():
    torch.manual_seed(18)
    samples = torch.randn(4, 3, 32, 32)
    network, ranges = prepare(Block(), samples)
    engine = engine_of(network, samples, ranges, batch_size=4)
    assert assert_levels_are_those_of_float64(engine, np.minimum(random_bits(len(ranges), 1), 7)) == len(ranges)


@pytest.mark.real
@pytest.mark.parametrize("name", ["cifar10_resnet20", "squeezenet1_1", "mobilenet_v2"])
def test_levels_in_real_networks_are_those_of_float64(shared_data, name):
    model = evoq.zoo.load(name, weights=shared_data(f"weights/{name}.safetensors"))
    images = "cifar10_calibration.npz" if name.startswith("cifar10") else "imagenet_calibration_500"
    samples = evoq.load_samples(shared_data(images), count=2, preprocess=model.preprocess)
    network, ranges = prepare(model.network, samples)
    engine = engine_of(network, samples, ranges, batch_size=2)
    assert assert_levels_are_those_of_float64(engine, np.minimum(random_bits(len(ranges)), 7)) == len(ranges)


# Torch warns that it copies inputs of such paddings; so it does.
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 4, 4, padding="same"), nn.ReLU(), nn.Conv2d(4, 5, (2, 3), padding="same")],
        [nn.Conv2d(3, 4, 3, padding="valid"), nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect")],
        [nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.Conv2d(4, 2, 1)],
        [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2), nn.ZeroPad2d((1, 0, 2, 1)), nn.Conv2d(4, 4, 3)],
        [nn.Conv2d(3, 4, 1, stride=3), nn.Conv2d(4, 5, 1, padding=1)],
        [nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(168, 6), nn.ReLU(), nn.Linear(6, 3, bias=False)],
        [nn.Flatten(2), nn.Conv1d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv1d(6, 4, 1), nn.Conv1d(4, 4, 2, padding="same")],
        [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 2, 3)],
        [nn.Conv2d(3, 8, 3), nn.MaxPool2d(2, ceil_mode=True), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.Sigmoid()],
        [nn.Linear(9, 7), nn.GELU(), nn.Linear(7, 5)],
    ],
    ids=["same", "valid, reflect", "circular", "explicit", "strided", "flat", "1d", "pooled", "ceil", "linear"],
)
def test_networks_of_layers_agree_with_float64(layers):
    torch.manual_seed(0)
    network = nn.Sequential(*layers)
    for layer in layers:  # they were made with the weights of an unseeded generator: some put a sum on a level's border
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            layer.reset_parameters()
    assert_agrees(network, torch.randn(5, 3, 8, 9))


class Block(nn.Module):
    """Residuals, shared inputs, concatenation, channel shuffle, split: what lies between layers of real networks."""

    def __init__(self, act=None):
        super().__init__()
        act = act or nn.ReLU(inplace=True)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), act)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.a = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), act, nn.Conv2d(8, 8, 3, 1, 1))
        self.b = nn.Sequential(nn.Conv2d(8, 8, 1), act)
        self.c = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), act)
        self.act = act
        self.mixed = nn.Conv2d(16, 16, 1)
        self.narrow = nn.Conv2d(8, 8, 1)
        self.down = nn.Conv2d(16, 12, 1, 2)
        self.main = nn.Conv2d(16, 12, 3, 2, 1)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = self.pool(self.stem(x))
        x = self.act(x + self.a(x))
        x = torch.cat([self.b(x), self.c(x)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        kept, worked = x.chunk(2, 1)
        x = torch.cat([kept, self.narrow(worked)], 1)
        x = x + self.mixed(x)
        x = self.act(self.down(x) + self.main(x))
        features = x.mean((2, 3))
        return {"logits": self.head(features), "features": [features, 3]}


@pytest.mark.parametrize("act", [nn.ReLU(inplace=True), nn.ReLU6(), nn.SiLU()])
def test_a_network_of_blocks_agrees_with_float64(act):
    torch.manual_seed(1)
    engine, _, _ = assert_agrees(Block(act), torch.randn(6, 3, 32, 32), seeds=(0, 1, 2))
    assert not engine.fallbacks


def test_uniform_bits_quantize_a_shared_input_once():
    torch.manual_seed(2)
    samples = torch.randn(4, 3, 32, 32)
    network, ranges = prepare(Block(), samples)
    engine = engine_of(network, samples, ranges)
    bits = np.full((len(ranges), 2), 6, dtype=np.int64)
    assert error(engine.heads(bits), Exact(network, samples, ranges).heads(bits)) < 1e-5


def test_a_layer_called_twice_and_layers_that_share_a_weight():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 3, 3, 1, 1)
            self.second = nn.Conv2d(3, 3, 3, 1, 1)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(torch.relu(self.first(torch.relu(self.first(x)))[:, :, ::2]))

    torch.manual_seed(3)
    assert_agrees(Twice(), torch.randn(4, 3, 8, 8))


def test_samples_may_reach_layers_moved_and_be_part_of_the_output():
    class Moved(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 4, 3)
            self.b = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            x = x.flip(2, 3) * 2
            return self.a(x) + self.b(x), x, None

    torch.manual_seed(4)
    assert_agrees(Moved(), torch.randn(4, 3, 8, 8))


# --- determinism ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["integers", "mixed with float"])
def test_results_do_not_depend_on_threads_or_micro_batches(mode):
    torch.manual_seed(5)
    samples = torch.randn(7, 3, 40, 40)
    network, ranges = prepare(Block(), samples)
    bits = random_bits(len(ranges), 5)
    if mode != "integers":
        bits[::2, 0] = 32
        bits[1, :] = 16
    expected = engine_of(network, samples, ranges, 7, ComputePool(threads=1)).heads(bits)
    for threads, batch_size in [(1, 1), (2, 2), (3, 3), (2, 7), (2, 100), (2, None)]:
        engine = engine_of(network, samples, ranges, batch_size, ComputePool(threads=threads))
        for _ in range(2):
            assert all(torch.equal(a, b) for a, b in zip(engine.heads(bits), expected, strict=True))


# --- float parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [(32, 32), (16, 4), (4, 32)])
def test_layers_with_a_float_side_compute_as_the_reference(bits):
    torch.manual_seed(6)
    samples = torch.randn(4, 3, 16, 16)
    network, ranges = prepare(Block(), samples)
    array = random_bits(len(ranges), 6)
    array[::3] = bits
    found = engine_of(network, samples, ranges).heads(array)
    assert error(found, Exact(network, samples, ranges).heads(array)) < 1e-4


@pytest.mark.parametrize(
    ("layer", "last", "shape"),
    [
        (nn.ConvTranspose2d(6, 4, 3, 2, groups=2), nn.Conv2d(4, 2, 1), (4, 6, 8, 8)),
        (nn.ConvTranspose1d(6, 4, 3, 2), nn.Conv1d(4, 2, 1), (4, 6, 8)),
        (nn.Conv3d(6, 4, (1, 2, 3)), nn.Linear(6, 2), (4, 6, 3, 4, 8)),
    ],
    ids=["transposed", "transposed 1d", "3d"],
)
def test_layers_without_an_integer_kernel_compute_as_the_reference_and_say_so(layer, last, shape, caplog):
    torch.manual_seed(7)
    layer.reset_parameters()
    last.reset_parameters()
    network = nn.Sequential(layer, nn.ReLU(), last)
    with caplog.at_level(logging.INFO, logger="evoq_moo"):
        engine, _, _ = assert_agrees(network, torch.randn(shape))
    reason = f"there is no integer kernel for {type(layer).__name__}"
    assert engine.fallbacks == {"0": reason}
    assert sum(reason in record.message for record in caplog.records) == 1


def test_a_sum_that_could_overflow_int32_is_refused_and_computed_as_the_reference():
    torch.manual_seed(8)
    fan_in = 2**31 // (255 * 128) + 1
    assert not kernels.accumulator_fits(fan_in)
    assert kernels.accumulator_fits(fan_in - 1)
    engine, _, _ = assert_agrees(nn.Sequential(nn.Linear(fan_in, 2)), torch.randn(2, fan_in), tolerance=1e-4)
    assert "overflow" in engine.fallbacks["0"]


# --- what can't be captured -------------------------------------------------------------------------------------


class Branching(nn.Module):
    """Control flow that depends on data: no graph shows it."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, (2, 3), padding="same")
        self.c = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(4, 4, 2)
        self.d = nn.Conv1d(4, 3, 3)
        self.e = nn.Linear(3, 2)

    def forward(self, x):
        x = self.a(x)
        if x.mean() > -100:
            x = torch.relu(self.b(x))
        x = self.d(self.up(self.c(x)).flatten(2))
        y = torch.stack([self.d(part.new_ones(4, 5) * part.mean()) for part in x])
        return self.e(x.mean(2) + y.mean(2))


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch says it once a process, in whichever test is first
def test_a_network_that_cannot_be_captured_runs_on_the_reference_engine_and_says_so(caplog):
    torch.manual_seed(9)
    samples = torch.randn(5, 3, 6, 6)
    with caplog.at_level(logging.INFO, logger="evoq_moo"):
        network = QuantizedNetwork(Branching(), samples, pinned="none", progress=False)
    assert network.graph is None
    assert network.engine_name == "reference"
    assert "module by module" in network.engine_reason
    assert sum("the reference engine is used" in record.message for record in caplog.records) == 1
    assert any("the reference engine is used" in note for note in network.notes)
    with pytest.raises(
        ArgumentError, match="engine: 'integer' can't be used: the network is quantized module by module"
    ):
        QuantizedNetwork(Branching(), samples, engine="integer", progress=False)
    assert [layer.kind for layer in network.space.layers] == [
        *("Conv2d", "Conv2d", "Conv2d", "ConvTranspose2d", "Conv1d", "Linear")
    ]
    assert isinstance(network.engine, ReferenceEngine)
    bits = random_bits(len(network.space.layers), 3)
    bits[0] = 32
    bits[2, 0] = 16
    heads = network.engine.heads(bits)
    with torch.no_grad():
        applied = network.apply(evoq.Policy.from_array(network.space.layer_names, bits))(samples)
    assert error(heads, [applied]) < 1e-5
    assert error(next(network.engine.scan(bits[None])), heads) == 0
    plain = network.engine.heads(np.full_like(bits, 32))
    assert error(plain, network.float_heads) < 1e-5
    assert error(heads, plain) > 1e-3


class Stateful(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen += 1
        return self.a(x)


class Scaled(nn.Conv2d):
    def forward(self, x):
        return super().forward(x * 0.5)


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.a(x) + torch.rand_like(x[:, :1, 2:, 2:])


@pytest.mark.parametrize("network", [Stateful(), nn.Sequential(Scaled(3, 4, 3))], ids=["state", "a changed input"])
def test_state_and_work_inside_a_layers_module_are_in_the_graph(network):
    torch.manual_seed(10)
    assert_agrees(network, torch.randn(3, 3, 6, 6))


def test_random_outputs_and_wrong_engines_are_refused():
    torch.manual_seed(10)
    samples = torch.randn(3, 3, 6, 6)
    with pytest.raises(NetworkError, match="it is random"):
        QuantizedNetwork(Random(), samples, engine="integer", progress=False)
    network, ranges = prepare(nn.Sequential(nn.Conv2d(3, 4, 3)), samples)
    engine = engine_of(network, samples, ranges)
    engine.check([network.network(samples)], 1e-5)
    with pytest.raises(NetworkError, match="with all layers in float it is off by a relative error"):
        engine.check([network.network(samples) * 1.1], 1e-3)


class Root(nn.Module):
    """A root between two layers, of values that quantization may make negative."""

    def __init__(self, samples):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Conv2d(4, 2, 3)
        self.floor = (self.a(samples).min() - 1e-3).item()

    def forward(self, x):
        return torch.relu(self.b((self.a(x) - self.floor).sqrt()))


@pytest.mark.parametrize("last", [(7, 8), (32, 32)], ids=["levels", "a clip in the kernel"])
def test_nan_between_layers_is_not_hidden(last):
    torch.manual_seed(11)
    samples = torch.randn(4, 3, 6, 6)
    network, ranges = prepare(Root(samples), samples)
    engine = engine_of(network, samples, ranges)
    reference = Exact(network, samples, ranges)
    policies = [np.array([pair, last], dtype=np.int64) for pair in itertools.product(range(2, 9), repeat=2)]
    broken = [bits for bits in policies if any(head.isnan().any() for head in reference.heads(bits))]
    assert broken
    for bits in broken[:3]:
        if last == (32, 32):  # nothing becomes levels: NaN reaches the output, where it is refused
            assert any(head.isnan().any() for head in engine.heads(bits))
            continue
        with pytest.raises(NonFiniteError, match="NaN"):
            engine.heads(bits)


# --- the sensitivity scan -----------------------------------------------------------------------------------------


def scan_policies(layers):
    policies = []
    for layer in range(layers):
        for pair in [(4, 32), (32, 4), (5, 3)]:
            bits = np.full((layers, 2), 32, dtype=np.int64)
            bits[layer] = pair
            policies.append(bits)
    return np.stack(policies)


def test_a_scan_gives_what_single_evaluations_give(monkeypatch):
    torch.manual_seed(12)
    samples = torch.randn(5, 3, 16, 16)
    network, ranges = prepare(Block(), samples)
    engine = engine_of(network, samples, ranges, batch_size=2)
    policies = scan_policies(len(ranges))
    expected = [engine.heads(bits) for bits in policies]
    for bound in (2**28, 1000):
        monkeypatch.setattr("evoq_moo.engines._captured._SCAN_BYTES", bound)
        monkeypatch.setattr("evoq_moo.engines._captured._SCAN_KEPT", bound)
        found = list(engine.scan(policies))
        assert len(found) == len(policies)
        for a, b in zip(found, expected, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_scan_computes_only_behind_the_changed_layer():
    torch.manual_seed(13)
    network, ranges = prepare(Block(), torch.randn(2, 3, 16, 16))
    engine = engine_of(network, torch.randn(2, 3, 16, 16), ranges)
    runner, layers = engine._runner, len(ranges)
    plan = runner._sized.plan((False,) * layers, keep=True)
    known = {key for step in plan.steps for key in step.writes}
    last = [step.layer for step in plan.changed_steps({layers - 1}, known)]
    assert last == [layers - 1]
    assert len(plan.changed_steps({0}, known)) == len(plan.steps)


def test_scans_of_larger_micro_batches_give_the_same_bits(monkeypatch):
    torch.manual_seed(19)
    samples = torch.randn(13, 3, 16, 16)
    network, ranges = prepare(Block(nn.ReLU6()), samples)
    policies = scan_policies(len(ranges))[::7]
    smaller = engine_of(network, samples, ranges, batch_size=3)
    expected = [smaller.heads(bits) for bits in policies]
    engine = engine_of(network, samples, ranges, batch_size=13)
    captured = engine._runner._sized
    for bound in (2**28, 1000):  # the float network's results fit in memory, or don't
        monkeypatch.setattr("evoq_moo.engines._captured._SCAN_KEPT", bound)
        for a, b in zip(engine.scan(policies), expected, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert engine._runner._for_scans().size == 5
    assert engine._runner._sized is captured


@pytest.mark.parametrize("clip", [Clip(None, None), Clip(0.0, None), Clip(-0.5, 0.75)])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(conv=convolutions(), seed=st.integers(0, 99))
def test_packed_float_convolutions_have_the_bits_of_torch(clip, conv, seed):
    torch.manual_seed(seed)
    conv.reset_parameters()
    geometry = Geometry(2, conv.stride, conv.padding, conv.dilation, conv.groups)
    weight = conv.weight.detach()
    if not kernels.float_packable(weight, geometry):
        return
    x = torch.randn(5, conv.in_channels, 9, 10).contiguous(memory_format=torch.channels_last)
    bias = None if conv.bias is None else conv.bias.detach()

    def both():
        packed = kernels.pack_float_conv(weight, geometry, (3, *x.shape[1:]))
        return kernels.float_conv(x, packed, bias, geometry, clip), conv(x)

    found, expected = POOL.run(both)
    if clip != NO_CLIP:
        expected = expected.clamp(clip.low, clip.high)
    assert torch.equal(found, expected)


def test_grouped_convolutions_of_one_place_are_left_to_torch():
    """Bug: they were packed though torch computes them otherwise, so that float layers differed in their last bits."""
    weight, place = torch.randn(2, 2, 1, 1), ((0, 0), (1, 1), 2)
    assert not kernels.float_packable(weight, Geometry(2, (1, 1), *place))
    assert kernels.float_packable(weight, Geometry(2, (2, 1), *place))
    assert kernels.float_packable(torch.randn(2, 2, 3, 1), Geometry(2, (1, 1), *place))


# --- bad input ----------------------------------------------------------------------------------------------------


def test_bad_input_is_named(monkeypatch):
    torch.manual_seed(14)
    samples = torch.randn(2, 3, 8, 8)
    network, ranges = prepare(nn.Sequential(nn.Conv2d(3, 2, 3)), samples)
    engine = engine_of(network, samples, ranges)
    with pytest.raises(ArgumentError, match="bits"):
        engine.heads(np.zeros((3, 2), dtype=np.int64))
    with pytest.raises(ArgumentError, match="bits"):
        engine.scan(np.zeros((1, 2), dtype=np.int64))
    with pytest.raises(ArgumentError, match="samples"):
        engine_of(network, samples[:0], ranges)
    with pytest.raises(ArgumentError, match="layers: given layers of another network"):
        IntegerEngine(network=network.network, samples=samples, layers=(), ranges=ranges, pool=POOL)
    with pytest.raises(ArgumentError, match="batch_size"):
        engine_of(network, samples, ranges, batch_size=0)
    with pytest.raises(ArgumentError, match="meta"):
        engine_of(network, samples.to("meta"), ranges)
    monkeypatch.setattr(integer_module, "integer_supported", lambda: (False, "no such instructions"))
    with pytest.raises(ArgumentError, match="no such instructions"):
        engine_of(network, samples, ranges)


# --- kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_are_those_of_the_arithmetic(bits):
    torch.manual_seed(bits)
    quantizer = kernels.Quantizer(0.037, 2**bits // 3, bits)
    x = torch.cat([torch.randn(2**18 + 100_003), torch.tensor([1e30, -1e30, 0.0, 3.4e38, 1e-30])])
    found = kernels.levels_of(x, quantizer)
    expected = quantize(x, torch.tensor(quantizer.scale), quantizer.zero_point, 0, quantizer.highest)
    step = x.double() / quantizer.scale
    certain = (step - step.floor() - 0.5).abs() > 1e-4
    assert torch.equal(found.float()[certain], expected[certain])
    assert quantizer.level_of(0.0) == quantizer.zero_point
    images = torch.randn(2, 5, 4, 3).to(memory_format=torch.channels_last)[:, 1:4]
    assert torch.equal(kernels.levels_of(images, quantizer), kernels.levels_of(images.contiguous(), quantizer))


@pytest.mark.parametrize(
    ("samples", "threads", "largest", "expected"),
    [(50, 2, 64, 25), (50, 2, 16, 13), (50, 2, 5, 5), (1, 4, 16, 1), (3, 4, 2, 2), (650, 2, 64, 55), (7, 3, 1, 1)],
)
def test_micro_batches_keep_all_threads_busy(samples, threads, largest, expected):
    assert samples_per_batch(samples, threads, largest) == expected


def test_micro_batches_are_smaller_where_results_are_large(monkeypatch):
    torch.manual_seed(15)
    samples = torch.randn(8, 3, 16, 16)
    network, ranges = prepare(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3)), samples)
    assert engine_of(network, samples, ranges)._runner._sized.size == 4
    monkeypatch.setattr("evoq_moo.engines._captured._CACHED_BYTES", 2 * 8 * 16 * 16)
    assert engine_of(network, samples, ranges)._runner._sized.size == 2


def test_the_self_test_sees_saturation(monkeypatch):
    assert kernels._self_test() == (True, "")
    honest = kernels.conv
    monkeypatch.setattr(kernels, "conv", lambda *args: honest(*args).clamp(-(2**15), 2**15 - 1))
    assert "saturate" in kernels._self_test()[1]
    monkeypatch.setattr(kernels, "has_dot_products", lambda: False)
    assert "saturate" in kernels._self_test()[1]
    monkeypatch.setattr(kernels, "_has", lambda _name: False)
    assert "instructions" in kernels.integer_supported.__wrapped__()[1]


def test_pairs_of_products_fit_int16_where_they_are_said_to(monkeypatch):
    monkeypatch.setattr(kernels, "has_dot_products", lambda: False)
    for w, a in itertools.product(range(2, 9), repeat=2):
        levels = [(2**a - 1) * weight for weight in (-(2 ** (w - 1)), 2 ** (w - 1) - 1)]
        assert kernels.products_fit(w, a) == all(-(2**15) <= 2 * level < 2**15 for level in levels)
    monkeypatch.setattr(kernels, "has_dot_products", lambda: True)
    assert kernels.products_fit(8, 8)


def test_without_dot_products_layers_of_8_by_8_bits_compute_as_the_reference(monkeypatch):
    monkeypatch.setattr(kernels, "has_dot_products", lambda: False)
    torch.manual_seed(16)
    samples = torch.randn(6, 3, 9, 9)
    network, ranges = prepare(
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(200, 5)), samples
    )
    engine = engine_of(network, samples, ranges)
    exact = Exact(network, samples, ranges)
    for bits in ([[8, 8]] * 3, [[8, 7], [8, 8], [7, 8]], [[8, 8], [4, 6], [8, 8]]):
        assert error(engine.heads(np.array(bits)), exact.heads(np.array(bits))) < 1e-5


def test_the_fingerprint_tells_processors_apart_that_compute_differently(monkeypatch):
    torch.manual_seed(17)
    network, samples = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3)), torch.randn(4, 3, 8, 8)
    found = set()
    for products in (True, False):
        monkeypatch.setattr("evoq_moo.engines.has_dot_products", lambda products=products: products)
        found.add(QuantizedNetwork(network, samples, engine="integer", progress=False).fingerprint)
        found.add(QuantizedNetwork(network, samples, engine="reference", progress=False).fingerprint)
    assert len(found) == 3


def test_weights_are_kept_within_their_bound():
    cache = WeightCache(bound=100)
    made = []

    def weight(key):
        made.append(key)
        return torch.zeros(10)  # 40 bytes

    for key in [0, 1, 0, 2, 0, 1]:
        cache.get((key, 8, False), lambda key=key: weight(key))
    assert made == [0, 1, 2, 1]


# --- results on levels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [NO_CLIP, Clip(0.0, None), Clip(0.0, 1.5), Clip(-0.3, 0.6)])
@pytest.mark.parametrize("end", [kernels.Quantizer(0.0271, 13, 8), kernels.Quantizer(0.31, 3, 4)])
def test_sums_of_levels_are_those_of_their_values(clip, end):
    generator = torch.Generator().manual_seed(9)
    a, b = (torch.randint(256, (3, 70, 40, 40), generator=generator, dtype=torch.uint8) for _ in range(2))
    left, right = kernels.Quantizer(0.0213, 117, 8), kernels.Quantizer(0.0131, 0, 8)
    values = (a.double() - 117) * left.scale + (b.double() - 0) * right.scale
    step = (values if clip == NO_CLIP else values.clamp(clip.low, clip.high)) / end.scale
    certain = (step - step.floor() - 0.5).abs() > 1e-4
    expected = (step.round() + end.zero_point).clamp(0, end.highest)
    found = kernels.add_levels(a, left, b, right, clip, end)
    assert torch.equal(found.double()[certain], expected[certain])
    gaps = [torch.zeros(3, 70, 40, 80, dtype=torch.uint8)[..., ::2] for _ in range(2)]
    for gap, x in zip(gaps, (a, b), strict=True):
        gap.copy_(x)
    assert torch.equal(kernels.add_levels(gaps[0], left, gaps[1], right, clip, end), found)
    assert torch.equal(kernels.values_of(gaps[0], left), kernels.values_of(a, left))


class Streams(nn.Module):
    """A residual network whose sums others read, a join of two results, and a pool between."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))
        self.join = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for conv in self.convs[:3]:
            x = torch.relu(x + conv(x))
        y = torch.max_pool2d(torch.cat([x, torch.sigmoid(self.convs[3](x))], 1), 2)
        return self.head((self.join(y) + torch.max_pool2d(x, 2)).mean((2, 3)))


def test_networks_of_quantized_results_agree_with_float64_and_the_reference():
    torch.manual_seed(4)
    samples = torch.randn(6, 3, 12, 12)
    engine, network, ranges = assert_agrees(Streams().eval(), samples, seeds=range(6), tolerance=2e-2)
    reference = ReferenceEngine(
        network=copy.deepcopy(network.network),
        samples=samples,
        layers=network.layers,
        ranges=ranges,
        results=ranges.results,
        batch_size=3,
        pool=POOL,
    )
    for seed in range(6):
        bits = np.random.default_rng(seed).choice([3, 4, 8, 8, 8, 32], (len(ranges), 2))
        assert error(engine.heads(bits), reference.heads(bits)) < 2e-2, f"seed {seed}"
        assert all(
            torch.equal(a, b) for a, b in zip(next(iter(engine.scan(bits[None]))), engine.heads(bits), strict=True)
        )
    widest = np.full((len(ranges), 2), 8)
    assert assert_levels_are_those_of_float64(engine, widest if kernels.has_dot_products() else widest - 1) == 7


def test_sums_of_quantized_results_go_from_levels_to_levels():
    network, ranges = prepare(Streams().eval(), torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1)))
    engine = engine_of(network, torch.randn(4, 3, 12, 12), ranges)
    bits = np.full((len(ranges), 2), 7)
    sized = engine._runner._sized
    plan = sized.plan(engine._runner._integer(bits), engine._runner._grids(bits))
    sums = [op.name for op in plan.program.ops if isinstance(op, Add)]
    floats = {name for step in plan.steps for name, want in step.writes if want == FLOAT}
    assert len(sums) == 4
    assert floats.isdisjoint(sums)
