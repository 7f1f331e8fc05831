"""Verifying a file, and refusing damaged or hostile ones."""

import json
import pickle
from contextlib import suppress

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evoq_moo.errors import ArgumentError, EvoqError, FormatError, MissingFileError
from evoq_moo.export import export_onnx, read_onnx, verify_onnx
from evoq_moo.export._levels import Parted, explain
from evoq_moo.export._shipment import shipment_of
from evoq_moo.export._verify import _Heads


@pytest.fixture(scope="module")
def exported(branches, branches_template, policies_of, tmp_path_factory):
    network = branches.apply(policies_of(branches, 1, seed=7)[0])
    path = tmp_path_factory.mktemp("exported") / "m.onnx"
    export_onnx(network, path, template=branches_template, form="exact", packed=False)
    return network, path


def changed(path, target, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, target)
    return target


def initializer(model, ending):
    return next(t for t in model.graph.initializer if t.name.endswith(ending))


def set_array(tensor, array):
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def test_a_good_file_passes(branches, exported):
    network, path = exported
    found = verify_onnx(path, network, branches.samples, repeats=2, level_images=3)
    assert found.passed, found.problems
    assert found.images == len(branches.samples)
    assert found.levels.equal > 0.99
    assert max(found.logit_levels) < 2
    assert found.top1_agreement is None  # two heads: no classifier
    assert found.latency.onnx > 0
    assert found.size == path.stat().st_size
    assert found.table().row_count == 8


def test_disagreements_are_looked_at_within_their_batch(branches, exported, tmp_path):
    """Bug: the image was run alone, where sums round differently, so that levels seemed to be equal."""
    network, path = exported
    first = branches.space.layer_names[0]

    def widen(model):
        tensor = initializer(model, f"{first}.input_scale")
        set_array(tensor, onnx.numpy_helper.to_array(tensor) * np.float32(1.01))

    found = read_onnx(changed(path, tmp_path / "a.onnx", widen))
    batch = branches.samples[:3]

    def row(i, images, at):
        return Parted(image=i, batch=images, row=at, expected=0, found=1, margin=0.5)

    together = explain(found, network, shipment_of(network).layers, [row(i, batch, i) for i in range(3)])
    alone = explain(found, network, shipment_of(network).layers, [row(i, batch[i : i + 1], 0) for i in range(3)])
    assert [d.image for d in together] == [0, 1, 2]
    assert all(d.first_layer == first and d.different > 0 for d in together)
    assert together == alone  # the first layer's input is the image itself, whatever the batch


def test_other_weights_are_found(branches, exported, tmp_path):
    network, path = exported

    def add_one(model):
        tensor = initializer(model, "head.weight_scales")
        set_array(tensor, onnx.numpy_helper.to_array(tensor) * np.float32(3))

    found = verify_onnx(changed(path, tmp_path / "a.onnx", add_one), network, branches.samples, repeats=0)
    assert not found.passed
    assert any("layer 'head': other parameters than expected: weight scales" in p for p in found.problems)
    assert any("output levels away" in p for p in found.problems)
    other = branches.apply(branches.uniform(8))
    assert any("another policy" in p for p in verify_onnx(path, other, branches.samples, repeats=0).problems)


def test_a_file_that_is_too_large_is_found(branches, exported, tmp_path):
    network, path = exported

    def grow(model):
        model.doc_string = "x" * 200_000

    found = verify_onnx(changed(path, tmp_path / "a.onnx", grow), network, branches.samples, repeats=0)
    assert any(p.startswith("the file takes") for p in found.problems)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["network", "file", "both"])
def test_outputs_that_are_not_finite_are_a_difference(value, where):
    """Bug: the distance of two NaN outputs, and of NaN to a number, was 0, and their choices agreed."""
    good = np.arange(12, dtype=np.float32).reshape(4, 3)
    broken = good.copy()
    broken[1, 2] = value
    heads = _Heads()
    expected, found = (broken if where in {side, "both"} else good for side in ("network", "file"))
    heads.add([expected], [found], torch.zeros(4, 1))
    heads.add([good], [good], torch.zeros(4, 1))
    distance, in_levels = heads.distances()
    assert distance == in_levels == (np.inf,)
    assert heads.agreement() == 7 / 8
    assert [one.image for one in heads.parted] == [1]


def test_images_that_give_nan_do_not_pass(branches, exported):
    network, path = exported
    images = branches.samples.clone()
    images[2, 0, 0, 0] = torch.nan
    found = verify_onnx(path, network, images, repeats=0)
    assert any("output levels away" in p for p in found.problems)
    assert found.levels.equal < 1
    assert found.levels.largest >= 4


def test_arguments(branches, exported):
    network, path = exported
    with pytest.raises(ArgumentError, match="images: given none"):
        verify_onnx(path, network, [])
    with pytest.raises(ArgumentError, match="level_images: given 0"):
        verify_onnx(path, network, branches.samples, level_images=0)
    with pytest.raises(MissingFileError, match="nowhere"):
        verify_onnx("nowhere.onnx", network, branches.samples)


def no_scale(model, value):
    tensor = initializer(model, "input_scale")
    set_array(tensor, np.array(value, dtype=np.float32))


def external(model, location):
    tensor = initializer(model, "weight_levels")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location


def sizes(model, **changes):
    note = next(e for e in model.metadata_props if e.key == "evoq_moo.sizes")
    data = {**json.loads(note.value), **changes}
    note.value = json.dumps({key: value for key, value in data.items() if value is not None})


def own_operator(model):
    model.graph.node[0].domain = "evil"


def bits_beyond_the_level(model):
    note = next(e for e in model.metadata_props if e.key == "evoq_moo.policy")
    data = json.loads(note.value)
    data["weight_bits"] = [2 if b == 8 else b for b in data["weight_bits"]]
    data["weight_bits"] = [2] * len(data["weight_bits"])
    note.value = json.dumps(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: no_scale(m, np.nan), "not a positive number"),
        (lambda m: no_scale(m, 0), "not a positive number"),
        (lambda m: no_scale(m, -1), "not a positive number"),
        (lambda m: external(m, "../../etc/passwd"), "kept in another file"),
        (lambda m: external(m, "/etc/passwd"), "kept in another file"),
        (own_operator, "uses operators of"),
        # Bugs the fuzzer found: a KeyError when such a file was verified.
        (lambda m: sizes(m, weights=None), "metadata 'sizes'"),
        (lambda m: sizes(m, overhead="many"), "metadata 'sizes'"),
        (lambda m: sizes(m, more=1), "metadata 'sizes'"),
        (bits_beyond_the_level, "weight levels"),
        (lambda m: setattr(m.opset_import[0], "version", 99), "operator sets"),
        (lambda m: setattr(m.opset_import[0], "version", 7), "operator sets"),
        (lambda m: m.metadata_props.pop(), "has no metadata 'sizes'"),
        (lambda m: m.metadata_props.pop(0), "evoq_moo.format"),
        (lambda m: m.graph.node.pop(3), "onnx.checker refuses"),
        (lambda m: m.functions.add(), "holds functions"),
    ],
)
def test_hostile_files_are_refused(exported, tmp_path, change, message):
    _, path = exported
    model = onnx.load(path)
    change(model)
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match=message):
        read_onnx(tmp_path / "bad.onnx")


def test_a_file_that_does_not_run_is_refused(exported):
    """Bug the fuzzer found: onnxruntime's own exception, also of files that onnx.checker lets pass."""
    network, path = exported

    with pytest.raises(FormatError, match=r"onnxruntime can't run the model on samples of \(5, 3, 9, 9\)"):
        verify_onnx(path, network, torch.rand(5, 3, 9, 9), repeats=0)


def test_other_files_are_refused(tmp_path):
    for content in (b"", b"PK\x03\x04", pickle.dumps({"a": 1}), b"{}", bytes(1000)):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(FormatError):
            read_onnx(tmp_path / "bad.onnx")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_give_our_errors_or_a_model(exported, tmp_path, data):
    """Cut, changed and inserted bytes: our error, or a file that is still well formed."""
    content = bytearray(exported[1].read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "drop"]))
        if kind == "set":
            content[where] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del content[max(where, 1) :]
        elif kind == "insert":
            content[where:where] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            del content[where : where + 8]
        if not content:
            break
    target = tmp_path / "fuzzed.onnx"
    target.write_bytes(bytes(content))
    with suppress(EvoqError):
        read_onnx(target)
