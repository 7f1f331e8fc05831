"""`Difference` and `resolve`: names, dimensions of classes, and what identifies a metric."""

import pickle

import pytest
import torch

from evoq_moo.difference import METRICS, Difference, kl_divergence, resolve
from evoq_moo.errors import ArgumentError, UnknownNameError


def flat(reference, quantized):
    return sum(float((r - q).abs().sum()) for r, q in zip(reference, quantized, strict=True))


def test_unknown_metric_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'cosine'"):
        resolve("cosin")
    for given in (3, None, ["kl"]):
        with pytest.raises(ArgumentError, match="a callable"):
            resolve(given)


def test_named_differences():
    found = {name: resolve(name) for name in METRICS}
    assert len({f.identity for f in found.values()}) == len(METRICS)
    r, q = torch.randn(4, 5), torch.randn(4, 5)
    for name, difference in found.items():
        assert (difference.name, difference.class_dim) == (name, None)
        assert difference([r], [q]) == METRICS[name]([r], [q])
        assert pickle.loads(pickle.dumps(difference)) == difference


def test_class_dim():
    r, q = torch.randn(4, 5, 3), torch.randn(4, 5, 3)
    found = resolve("kl", class_dim=1)
    assert (found.name, found.class_dim) == ("kl", 1)
    assert found([r], [q]) == kl_divergence([r], [q], class_dim=1) != kl_divergence([r], [q])
    assert len({resolve("kl", class_dim=c).identity for c in (None, 1, 2)}) == 3
    for wrong in (0, True, 1.0, "1"):
        with pytest.raises(ArgumentError, match="class_dim: given"):
            resolve("kl", class_dim=wrong)
    for difference in ("nmse", flat, Difference(flat, name="flat")):
        with pytest.raises(ArgumentError, match=r"allowed: with \['kl', 'top1_flips'\]"):
            resolve(difference, class_dim=1)


def test_auto_is_the_default_whatever_the_outputs_are():
    assert resolve("auto") == resolve("nmse")
    with pytest.raises(ArgumentError, match=r"class_dim: given 1 with 'nmse'; allowed: with \['kl', 'top1_flips'\]"):
        resolve("auto", class_dim=1)


def test_a_callable():
    found = resolve(flat)
    assert found.name.endswith(".flat")
    assert found.identity == resolve(flat).identity
    assert found([torch.ones(2)], [torch.zeros(2)]) == 2.0
    assert resolve(found) is found


def test_a_name_of_ones_own_is_the_identity():
    one, other = Difference(flat, name="mine"), Difference(lambda r, q: 0, name="mine")
    assert one.identity == other.identity
    assert one.identity != Difference(flat, name="mine 2").identity
    assert one.identity not in {resolve(name).identity for name in METRICS}
    assert Difference(flat, name="kl").identity != resolve("kl").identity
    hidden = eval("lambda r, q: 0.0")
    with pytest.raises(ArgumentError, match=r"name='\.\.\.'"):
        Difference(hidden)
    assert Difference(hidden, name="mine").name == "mine"
    with pytest.raises(ArgumentError, match="name: given 3"):
        Difference(flat, name=3)
