"""Differences against plain numpy and scipy in float64."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax

from evoq_moo.difference import METRICS, heads_of, kl_divergence, resolve
from evoq_moo.errors import ArgumentError, NetworkError, UnknownNameError


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(3)
    reference = torch.randn(7, 5, generator=generator)
    return reference, reference + 0.3 * torch.randn(7, 5, generator=generator)


def test_kl_equals_scipy(pair):
    r, q = (t.double().numpy() for t in pair)
    expected = rel_entr(softmax(r, axis=1), softmax(q, axis=1)).sum(1).mean()
    assert kl_divergence([pair[0]], [pair[1]]) == pytest.approx(expected, rel=1e-12)


def test_kl_of_extreme_logits_is_finite():
    r, q = torch.tensor([[1000.0, 0.0, -1000.0]]), torch.tensor([[-1000.0, 0.0, 1000.0]])
    expected = (softmax(r.numpy(), 1) * (log_softmax(r.numpy(), 1) - log_softmax(q.numpy(), 1))).sum()
    assert kl_divergence([r], [q]) == pytest.approx(expected)


def test_other_metrics_equal_numpy(pair):
    r, q = (t.double().numpy() for t in pair)
    nmse = ((r - q) ** 2).sum() / (r**2).sum()
    cosine = np.mean([1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(r, q, strict=True)])
    expected = {
        "nmse": nmse,
        "cosine": cosine,
        "sqnr": 10 * np.log10(nmse),
        "top1_flips": (r.argmax(1) != q.argmax(1)).mean(),
    }
    for name, value in expected.items():
        assert METRICS[name]([pair[0]], [pair[1]]) == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("name", list(METRICS))
def test_equal_outputs_have_the_smallest_difference(name, pair):
    value = METRICS[name]([pair[0]], [pair[0]])
    assert np.isfinite(value)
    assert value <= METRICS[name]([pair[0]], [pair[1]])
    if name != "sqnr":
        assert value == pytest.approx(0, abs=1e-12)


def test_each_head_counts_equally(pair):
    r, q = pair
    one = METRICS["nmse"]([r], [q])
    assert METRICS["nmse"]([r, r * 100], [q, r * 100]) == pytest.approx(one / 2)


def test_heads_of_nested_outputs():
    a, b, c = torch.rand(2), torch.rand(3), torch.arange(4)
    assert [h.shape for h in heads_of({"x": (a, [b]), "n": None, "labels": c})] == [a.shape, b.shape]
    with pytest.raises(NetworkError, match="no floating-point tensor"):
        heads_of({"labels": c})


def test_unknown_metric_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'cosine'"):
        resolve("cosin")
    with pytest.raises(ArgumentError, match="a callable"):
        resolve(3)


def test_kl_needs_classes():
    with pytest.raises(ArgumentError, match="nmse"):
        kl_divergence([torch.rand(4)], [torch.rand(4)])


def test_mismatched_heads_are_refused(pair):
    with pytest.raises(ArgumentError, match="shapes"):
        METRICS["nmse"]([pair[0]], [pair[1][:3]])
