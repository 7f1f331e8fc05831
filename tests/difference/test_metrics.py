"""Differences against plain numpy and scipy in float64."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax

from evoq_moo.difference import METRICS, cosine_distance, kl_divergence, top1_flips
from evoq_moo.errors import ArgumentError, NonFiniteError


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


def test_kl_needs_classes():
    with pytest.raises(ArgumentError, match="nmse"):
        kl_divergence([torch.rand(4)], [torch.rand(4)])


def test_mismatched_heads_are_refused(pair):
    with pytest.raises(ArgumentError, match="shapes"):
        METRICS["nmse"]([pair[0]], [pair[1][:3]])


@pytest.mark.parametrize(
    ("shape", "axis", "class_dim"),
    [
        ((20, 5), 1, None),
        ((4, 21, 3, 2), 1, None),
        ((4, 5, 3, 2, 2), 1, None),
        ((4, 7, 5), 2, None),
        ((4, 5, 7), 1, 1),
        ((4, 3, 2, 5), 3, -1),
    ],
)
def test_class_metrics_act_on_the_class_dimension(shape, axis, class_dim):
    """Bug: adding 100 to one class of a segmentation head gave KL 4.6e-13 and no flips."""
    reference = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    quantized = reference.clone()
    quantized.select(axis, 1).add_(100)
    r, q = reference.double().numpy(), quantized.double().numpy()
    kl = rel_entr(softmax(r, axis=axis), softmax(q, axis=axis)).sum(axis).mean()
    assert kl > 50
    assert kl_divergence([reference], [quantized], class_dim=class_dim) == pytest.approx(kl)
    flips = (r.argmax(axis) != 1).mean()
    assert top1_flips([reference], [quantized], class_dim=class_dim) == pytest.approx(flips)
    quantized = reference + torch.randn(shape).mean(axis, keepdim=True)  # the same for each class
    assert kl_divergence([reference], [quantized], class_dim=class_dim) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("shape", "class_dim"), [((4,), None), ((4, 1), None), ((4, 3), 0), ((4, 3), 2), ((4, 3), -2), ((4, 1, 3), 1)]
)
@pytest.mark.parametrize("metric", [kl_divergence, top1_flips])
def test_heads_without_classes_are_refused(metric, shape, class_dim):
    head = torch.rand(shape)
    with pytest.raises(ArgumentError, match="at least two class scores"):
        metric([head], [head], class_dim=class_dim)


@pytest.mark.parametrize("name", list(METRICS))
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_outputs_that_are_not_finite_are_never_equal(name, value, pair):
    """Bug: NaN in both outputs was no flip, and argmax takes NaN for the largest."""
    broken = pair[0].clone()
    broken[2, 3] = value
    for reference, quantized in ((broken, broken), (broken, pair[1]), (pair[0], broken)):
        with pytest.raises(NonFiniteError, match="head 1 of the (float|quantized) network"):
            METRICS[name]([pair[0], reference], [pair[1], quantized])


def test_cosine_of_zeros():
    """Bug: two outputs of zeros were as far apart as can be."""
    zeros, ones = torch.zeros(3, 2, 2), torch.ones(3, 2, 2)
    assert cosine_distance([zeros], [zeros]) == 0
    assert cosine_distance([zeros], [ones]) == cosine_distance([ones], [zeros]) == 1
    mixed = torch.cat([zeros[:1], ones[:2]])
    assert cosine_distance([mixed], [zeros]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_relative_metrics_do_not_depend_on_the_scale(scale, pair):
    for name in ("nmse", "cosine", "sqnr"):
        scaled = METRICS[name]([scale * pair[0].double()], [scale * pair[1].double()])
        assert scaled == pytest.approx(METRICS[name]([pair[0]], [pair[1]]), rel=1e-9), name
