"""Moments of channels against float64."""

import pytest
import torch

from evoq_moo.calibration._moments import moments_of, together


@pytest.mark.parametrize(("shape", "axis"), [((7, 3, 40, 30), 1), ((7, 3), 1), ((7, 5, 3), 2), ((7, 3, 9), 1)])
def test_moments_are_those_of_float64(shape, axis):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) * 2 + 30
    y = x * 0.5 + torch.randn(shape, generator=generator) - 4
    parts = [moments_of(a, axis, b) for a, b in zip(x.split(2), y.split(2), strict=True)]
    found = together(parts, [moments_of(b, axis) for b in y.split(2)])
    rows, others = (t.double().movedim(axis, 0).flatten(1) for t in (x, y))
    torch.testing.assert_close(found.mean, rows.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.variance, rows.var(1, correction=0), rtol=1e-5, atol=0)
    cross = ((rows - rows.mean(1, keepdim=True)) * (others - others.mean(1, keepdim=True))).mean(1)
    torch.testing.assert_close(found.cross / found.count, cross, rtol=1e-4, atol=1e-5)
    assert found.count == rows.shape[1]


def test_without_another_tensor_there_is_no_cross():
    found = together([moments_of(torch.ones(2, 3), 1)])
    assert found.cross is None
    assert torch.equal(found.variance, torch.zeros(3, dtype=torch.float64))
