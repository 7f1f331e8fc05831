"""Calibration as a whole: deterministic, honest, and its input untouched."""

import copy
import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import evoq_moo as evoq
from evoq_moo.calibration import CalibratedNetwork, calibrate
from evoq_moo.errors import ArgumentError, FormatError, MissingFileError, NetworkError, UnknownNameError
from evoq_moo.graph import digest
from evoq_moo.quantizer import weight_range

ALL = ("equalize", "features", "rounding", "outputs")


def same(a, b):
    for p, q in zip(a.layers, b.layers, strict=True):
        for name in ("weight", "weight_levels", "weight_scales", "bias"):
            x, y = getattr(p, name), getattr(q, name)
            assert (x is None) == (y is None), name
            assert x is None or torch.equal(x, y), name
        assert (p.name, p.activation_scale, p.activation_zero_point) == (
            q.name,
            q.activation_scale,
            q.activation_zero_point,
        )
    for m, n in zip(a.outputs, b.outputs, strict=True):
        assert torch.equal(m.scale, n.scale)
        assert torch.equal(m.shift, n.shift)


@pytest.fixture(scope="module")
def result(tiny_network, policy_of):
    return calibrate(tiny_network, policy_of(tiny_network, 4, 4), ALL, progress=False)


def test_an_uncalibrated_network_is_the_reference_engines(tiny_network, policy_of, monkeypatch):
    # With every step rolled back, what is left is the plain network, bit for bit.
    monkeypatch.setattr("evoq_moo.calibration._calibrate.p_of_gain", lambda *_: 0.51)
    mixed = np.array([[4, 4], [3, 8], [32, 4], [8, 32], [2, 2]])[: len(tiny_network.space.layer_names)]
    for bits in (mixed,):
        policy = evoq.Policy.from_array(tiny_network.space.layer_names, bits)
        found = calibrate(tiny_network, policy, ("features",), progress=False)
        assert found.report.steps[0].outcome == "rolled back"
        expected = tiny_network.apply(policy)(tiny_network.samples)
        assert torch.equal(found(tiny_network.samples), expected)


def test_levels_scales_and_zero_points_are_within_their_bits(result):
    for p in result.layers:
        lowest, highest = weight_range(p.weight_bits)
        assert p.weight_levels.dtype == torch.int8
        assert lowest <= int(p.weight_levels.min())
        assert int(p.weight_levels.max()) <= highest
        assert (p.weight_scales > 0).all()
        assert 0 <= p.activation_zero_point <= 15


@pytest.mark.parametrize("bits", [2, 8])
def test_any_bits(tiny_network, policy_of, bits):
    found = calibrate(tiny_network, policy_of(tiny_network, bits, bits), ALL, progress=False)
    assert found(tiny_network.samples).isfinite().all()


def test_float_sides_stay_float(tiny_network, policy_of):
    found = calibrate(tiny_network, policy_of(tiny_network, 32, 16), ALL, progress=False)
    torch.testing.assert_close(found(tiny_network.samples), tiny_network.float_heads[0], rtol=1e-3, atol=1e-3)


def test_the_same_seed_gives_the_same_with_any_number_of_threads(tiny_network, policy_of, result):
    alone = copy.copy(tiny_network)
    alone.set_threads(1)
    again = calibrate(alone, policy_of(alone, 4, 4), ALL, progress=False)
    same(result, again)


def test_the_input_network_is_untouched(tiny_network, policy_of):
    policy = policy_of(tiny_network, 4, 4)
    before = copy.deepcopy(tiny_network.network.state_dict())
    difference = tiny_network.difference_of(policy.to_array())
    threads = torch.get_num_threads()
    calibrate(tiny_network, policy, ALL, progress=False)
    for name, tensor in tiny_network.network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert tiny_network.difference_of(policy.to_array()) == difference
    assert torch.get_num_threads() == threads


def test_the_reported_difference_is_that_of_the_network(tiny_network, result):
    kept = [s for s in result.report.steps if s.outcome == "kept"]
    assert kept
    found = tiny_network.difference_between([result(tiny_network.samples)])
    assert found == pytest.approx(kept[-1].after, rel=1e-2)


def test_held_out_differences_chain_and_p_values_decide(result):
    steps = result.report.steps
    held = steps[0].held_out_before
    for step in steps:
        assert step.held_out_before == held
        assert (step.p_value <= 0.5) == (step.outcome != "rolled back")
        held = step.held_out_after if step.outcome != "rolled back" else held


def test_a_fold_never_sees_what_is_held_out_of_it(tiny_network, policy_of, monkeypatch):
    """What a fold learns does not depend on the samples held out of it."""
    from evoq_moo.calibration import _calibrate

    last = []
    monkeypatch.setattr(_calibrate, "p_of_gain", lambda *_: 0.0)
    monkeypatch.setattr(
        _calibrate._Calibration, "_differences", lambda self, states: last.append((self, states)) or (0, 0)
    )
    policy = policy_of(tiny_network, 4, 4)
    calibrate(tiny_network, policy, ALL, progress=False)
    calibration, first = last[-1]
    changed = copy.copy(tiny_network)
    changed.samples = tiny_network.samples.clone()
    changed.samples[calibration.cut.order[calibration.cut.held_out == 0]] *= -1.5
    changed.float_heads = [changed.network(changed.samples)]
    calibrate(changed, policy, ALL, progress=False)
    second = last[-1][1]
    for p, q in zip(first[0].parameters, second[0].parameters, strict=True):
        assert torch.equal(p.weight_levels, q.weight_levels)
        assert torch.equal(p.bias, q.bias)
        assert p.activation_scale == q.activation_scale
    assert torch.equal(first[0].outputs[0].shift, second[0].outputs[0].shift)
    assert any(not torch.equal(p.bias, q.bias) for p, q in zip(first[1].parameters, second[1].parameters, strict=True))


@pytest.mark.parametrize(("steps", "usual"), [("light", False), ("full", True), (("features", "rounding"), True)])
def test_levels_alone_are_fitted_to_mirror_images_too(tiny_network, policy_of, monkeypatch, steps, usual):
    monkeypatch.setattr("evoq_moo.calibration._calibrate.p_of_gain", lambda *_: 0.0)  # what is fitted, not kept
    found = {
        mirror: calibrate(tiny_network, policy_of(tiny_network, 4, 4), steps, mirror=mirror, progress=False)
        for mirror in (None, True, False)
    }
    same(found[None], found[usual])
    assert [found[mirror].report.mirror for mirror in (None, True, False)] == [usual, True, False]
    assert not torch.equal(found[True].layers[0].bias, found[False].layers[0].bias)
    # The samples alone are compared, and those are the same before.
    assert found[True].report.steps[0].before == pytest.approx(found[False].report.steps[0].before, rel=1e-4)


def test_samples_that_are_their_own_mirror_images_change_nothing(tiny_network, policy_of):
    even = copy.copy(tiny_network)
    even.samples = tiny_network.samples + tiny_network.samples.flip(-1)
    even.float_heads = [even.network(even.samples)]
    policy = policy_of(even, 4, 4)
    twice, once = (calibrate(even, policy, "light", mirror=mirror, progress=False) for mirror in (True, False))
    torch.testing.assert_close(twice(even.samples), once(even.samples), rtol=1e-3, atol=1e-3)


def test_samples_without_two_axes_have_no_mirror_images(policy_of):
    generator = torch.Generator().manual_seed(3)
    samples = torch.randn(8, 5, generator=generator)
    network = evoq.QuantizedNetwork(nn.Sequential(nn.Linear(5, 4)), samples, pinned="none", progress=False)
    policy = policy_of(network, 4, 4)
    same(*(calibrate(network, policy, "full", mirror=mirror, progress=False) for mirror in (None, False)))
    with pytest.raises(ArgumentError, match=r"mirror: given True with samples \(8, 5\)"):
        calibrate(network, policy, "full", mirror=True, progress=False)


def test_files_round_trip(tmp_path, tiny_network, result):
    result.save(tmp_path / "c")
    back = CalibratedNetwork.load(tmp_path / "c", tiny_network)
    same(result, back)
    assert torch.equal(back(tiny_network.samples), result(tiny_network.samples))
    assert back.report == result.report
    assert back.policy == result.policy
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["calibrated.json", "calibrated.safetensors"]


def test_damaged_files_are_errors(tmp_path, tiny_network, tiny_samples, result):
    folder = tmp_path / "c"
    with pytest.raises(MissingFileError):
        CalibratedNetwork.load(folder, tiny_network)
    result.save(folder)
    other = evoq.QuantizedNetwork(nn.Sequential(nn.Flatten(), nn.Linear(192, 6)), tiny_samples, progress=False)
    with pytest.raises(ArgumentError, match="network"):
        CalibratedNetwork.load(folder, other)
    text = json.loads((folder / "calibrated.json").read_text())
    text["layers"][0]["weight_bits"] = 2
    (folder / "calibrated.json").write_text(json.dumps(text))
    with pytest.raises(FormatError, match="levels"):
        CalibratedNetwork.load(folder, tiny_network)
    data = (folder / "calibrated.safetensors").read_bytes()
    (folder / "calibrated.safetensors").write_bytes(data[:-1] + b"x")
    with pytest.raises(FormatError, match="damaged"):
        CalibratedNetwork.load(folder, tiny_network)


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("weight_levels", (), "has scales .4,. for weights"),
        ("weight_levels", (3,), "has scales .4,. for weights .3,."),
        ("weight_scales", (), "has scales .. for weights"),
        ("weight_scales", (5,), "has scales .5,. for weights"),
        ("bias", (1, 4), "has a bias .1, 4. for weights"),
    ],
)
def test_tensors_of_other_shapes_are_errors(tmp_path, tiny_network, result, key, shape, message):
    """Bug the fuzzer found: an IndexError, because parameters computed with them before they were checked."""
    result.save(tmp_path)
    path = tmp_path / "calibrated.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    tensors[f"0.{key}"] = torch.ones(shape, dtype=tensors[f"0.{key}"].dtype)
    data = safetensors.torch.save(tensors)
    path.write_bytes(data)
    text = json.loads((tmp_path / "calibrated.json").read_text())
    text["tensors"] = digest(data)
    (tmp_path / "calibrated.json").write_text(json.dumps(text))
    with pytest.raises(FormatError, match=message):
        CalibratedNetwork.load(tmp_path, tiny_network)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "nowhere", "is none of the network's"),
        ("name", -1, "name: given -1"),
        ("kind", "Linear", "is none of the network's"),
        ("weight_bits", 8.0, "weight_bits: given 8.0"),
        ("activation_bits", 2**31, "has bits .* and 2147483648; allowed"),  # took a minute to compute 2 to this power
        ("activation_scale", "x", "activation_scale: given 'x'"),
    ],
)
def test_layers_that_do_not_fit_the_network_are_errors(tmp_path, tiny_network, result, key, value, message):
    """Bug the fuzzer found: a KeyError, TypeError or RuntimeError, some of them only when the network ran."""
    result.save(tmp_path)
    text = json.loads((tmp_path / "calibrated.json").read_text())
    text["layers"][0][key] = value
    (tmp_path / "calibrated.json").write_text(json.dumps(text))
    with pytest.raises(FormatError, match=message):
        CalibratedNetwork.load(tmp_path, tiny_network)


def test_an_output_axis_that_is_no_axis_is_an_error(tmp_path, tiny_network, result):
    """Bug the fuzzer found: an OverflowError."""
    result.save(tmp_path)
    text = json.loads((tmp_path / "calibrated.json").read_text())
    for axis, message in (
        (float("inf"), "not JSON"),
        (10**400, "output_axes"),
        (0, "output_axes"),
        (-5, "output_axes"),
    ):
        text["output_axes"] = [axis]
        (tmp_path / "calibrated.json").write_text(json.dumps(text))
        with pytest.raises(FormatError, match=message):
            CalibratedNetwork.load(tmp_path, tiny_network)


def test_pickles(tiny_network, result):
    back = pickle.loads(pickle.dumps(result))
    assert torch.equal(back(tiny_network.samples), result(tiny_network.samples))


def test_a_time_limit_ends_it(tiny_network, policy_of):
    found = calibrate(tiny_network, policy_of(tiny_network, 4, 4), ALL, time_limit=1e-6, progress=False)
    assert {s.outcome for s in found.report.steps} == {"no time"}


def test_the_table_names_every_step(result):
    assert result.report.table().row_count == len(ALL)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"steps": ()}, ArgumentError),
        ({"steps": "heavy"}, UnknownNameError),
        ({"steps": ("fetures",)}, UnknownNameError),
        ({"folds": 1}, ArgumentError),
        ({"folds": 13}, ArgumentError),
        ({"seed": -1}, ArgumentError),
        ({"mirror": "left"}, ArgumentError),
        ({"time_limit": 0}, ArgumentError),
    ],
)
def test_bad_arguments(tiny_network, policy_of, arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        calibrate(tiny_network, policy_of(tiny_network, 4, 4), **{"progress": False, **arguments})


def test_a_policy_of_another_network(tiny_network):
    with pytest.raises(ArgumentError, match="policy"):
        calibrate(tiny_network, evoq.Policy(("x",), (4,), (4,)), progress=False)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else self.a(-x)


def test_a_network_without_a_graph(policy_of):
    samples = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    network = evoq.QuantizedNetwork(Branching(), samples, engine="reference", pinned="none", progress=False)
    with pytest.raises(NetworkError, match="graph"):
        calibrate(network, policy_of(network, 4, 4), progress=False)


class Nested(nn.Module):
    """Detection-like: two heads in a dict, one layer called twice, an odd number of samples."""

    def __init__(self):
        super().__init__()
        self.body, self.twice = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.boxes, self.scores = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 6, 1)

    def forward(self, x):
        y = torch.relu(self.twice(torch.relu(self.twice(torch.relu(self.body(x))))))
        return {"boxes": self.boxes(y), "scores": [self.scores(y)]}


def test_nested_outputs_and_shared_layers(policy_of):
    torch.manual_seed(5)
    samples = torch.randn(11, 3, 6, 6)
    network = evoq.QuantizedNetwork(
        Nested(), samples, engine="reference", pinned="none", difference="nmse", progress=False
    )
    found = calibrate(network, policy_of(network, 4, 4), ALL, progress=False)
    output = found(samples)
    assert output["boxes"].shape == (11, 8, 6, 6)
    assert output["scores"][0].shape == (11, 6, 6, 6)
    twice = next(p for p in found.layers if p.name == "twice")
    plain = next(layer for name, layer in network.apply(found.policy).network.named_modules() if name == "twice")
    assert torch.equal(twice.value(), plain.weight)


class TwoHeads(nn.Module):
    """A detector's raw heads: `(N, anchors, classes)` and `(N, anchors, 4)`, joined over two feature maps."""

    def __init__(self):
        super().__init__()
        self.body, self.deeper = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, stride=2, padding=1)
        self.classes = nn.ModuleList(nn.Conv2d(6, 2 * 5, 1) for _ in range(2))
        self.boxes = nn.ModuleList(nn.Conv2d(6, 2 * 4, 1) for _ in range(2))

    def forward(self, x):
        maps = [torch.relu(self.body(x))]
        maps.append(torch.relu(self.deeper(maps[0])))

        def joined(heads, width):
            found = [head(y).permute(0, 2, 3, 1).flatten(1, 2) for head, y in zip(heads, maps, strict=True)]
            return torch.cat([f.reshape(len(x), -1, width) for f in found], 1)

        return {"cls_logits": joined(self.classes, 5), "bbox_regression": joined(self.boxes, 4)}


def test_a_network_of_two_heads(tmp_path, policy_of):
    torch.manual_seed(8)
    samples = torch.randn(16, 3, 8, 8)
    network = evoq.QuantizedNetwork(
        TwoHeads(), samples, engine="reference", pinned="none", difference="nmse", progress=False
    )
    policy = policy_of(network, 3, 3)
    found = calibrate(network, policy, ALL, progress=False)
    output, exact = found(samples), network.network(samples)
    assert list(output) == list(exact)
    assert [o.shape for o in output.values()] == [o.shape for o in exact.values()] == [(16, 160, 5), (16, 160, 4)]
    assert [len(m.scale) for m in found.outputs] == [5, 4]
    after = network.difference_between(list(output.values()))
    assert after < network.difference_of(policy.to_array())
    kept = [s for s in found.report.steps if s.outcome == "kept"]
    assert after == pytest.approx(kept[-1].after, rel=1e-3)
    found.save(tmp_path / "c")
    back = CalibratedNetwork.load(tmp_path / "c", network)(samples)
    assert all(torch.equal(back[name], output[name]) for name in output)


class TwoFromTheStart(nn.Module):
    """Two tensors reach the first layers."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        a, b = x.sin(), x.cos()
        return self.last(torch.relu(self.left(a) + self.right(b)))


def test_more_than_one_tensor_may_be_alive_between_stages(policy_of):
    torch.manual_seed(6)
    network = evoq.QuantizedNetwork(
        TwoFromTheStart(), torch.randn(9, 4), engine="reference", pinned="none", progress=False
    )
    found = calibrate(network, policy_of(network, 3, 3), ("rounding",), progress=False)
    step = found.report.steps[0]
    assert step.before == pytest.approx(network.difference_of(found.policy.to_array()), rel=1e-5)
    if step.outcome == "kept":
        assert step.after == pytest.approx(network.difference_between([found(network.samples)]), rel=1e-3)


@pytest.mark.real
def test_it_recovers_a_real_network(shared_data):
    recipe = evoq.Recipe(
        model="cifar10_resnet20",
        weights=str(shared_data("weights/cifar10_resnet20.safetensors")),
        samples=str(shared_data("cifar10_calibration.npz")),
    )
    network = recipe()
    policy = network.uniform(4)
    data = np.load(shared_data("cifar10_test_5000.npz"))
    pair = (data["images"][:200], data["labels"][:200])
    images, _ = zip(*evoq.LabelledImages(pair[0], labels=pair[1], preprocess=recipe.load_model()[1]), strict=True)
    held = torch.cat(images)
    found = calibrate(network, policy, "light", progress=False)
    exact = network.network(held).log_softmax(1)

    def kl(module):
        return float((exact.exp() * (exact - module(held).log_softmax(1))).sum(1).mean())

    assert kl(found) < 0.7 * kl(network.apply(policy))


def test_files_keep_how_results_are_quantized(tmp_path, tiny_network, result):
    assert result.results == tiny_network.results.of(result.layers)
    assert result.results
    assert [p.name for p in result.results] == list(result.network.results)
    result.save(tmp_path / "c")
    assert CalibratedNetwork.load(tmp_path / "c", tiny_network).results == result.results


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "nowhere", "result 'nowhere' is none of the network's"),
        ("scale", 0.0, "a scale or zero point that 8 bits forbid"),
        ("zero_point", 256, "a scale or zero point that 8 bits forbid"),
        ("zero_point", "x", "zero_point"),
    ],
)
def test_damaged_results_are_errors(tmp_path, tiny_network, result, key, value, message):
    folder = tmp_path / "c"
    result.save(folder)
    text = json.loads((folder / "calibrated.json").read_text())
    text["results"][0][key] = value
    (folder / "calibrated.json").write_text(json.dumps(text))
    with pytest.raises(FormatError, match=message):
        CalibratedNetwork.load(folder, tiny_network)


def test_a_result_named_twice_is_an_error(tmp_path, tiny_network, result):
    folder = tmp_path / "c"
    result.save(folder)
    text = json.loads((folder / "calibrated.json").read_text())
    text["results"] += text["results"][:1]
    (folder / "calibrated.json").write_text(json.dumps(text))
    with pytest.raises(FormatError, match="names a result twice"):
        CalibratedNetwork.load(folder, tiny_network)
