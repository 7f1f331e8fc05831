"""A layer's regression against torch's covariance and least squares, and what a clip behind the layer frees."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from evoq_moo.calibration import _regression
from evoq_moo.calibration._regression import RIDGES, Regression, relaxed
from evoq_moo.graph import Clip

RELU, RELU6 = Clip(0.0, None), Clip(0.0, 6.0)


@pytest.fixture
def no_ridge(monkeypatch):
    monkeypatch.setattr(_regression, "LEAST_RIDGE", 1e-7)
    monkeypatch.setattr(_regression, "RIDGES", (0.0,) * len(_regression.RIDGES))


def test_it_is_least_squares_on_the_patches(view_of, no_ridge):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 4, 8, 8, generator=generator)
    view = view_of(nn.Conv2d(4, 6, 3, stride=2, padding=1), x)
    view.targets = [torch.randn(3, 6, 4, 4, generator=generator)]
    columns = functional.unfold(x, 3, stride=2, padding=1).transpose(1, 2).flatten(0, 1).double()
    wanted = view.targets[0].movedim(1, -1).reshape(-1, 6).double()
    found = Regression(view, rows=10**6, seed=0)
    torch.testing.assert_close(found.h[0].double(), torch.cov(columns.T, correction=0), rtol=1e-4, atol=1e-5)
    with_ones = torch.cat([columns, torch.ones(len(columns), 1, dtype=torch.float64)], dim=1)
    expected = torch.linalg.lstsq(with_ones, wanted).solution.T
    torch.testing.assert_close(found.target[0].double(), expected[:, :-1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.bias(found.target)[0].double(), expected[:, -1], rtol=1e-3, atol=1e-4)


def test_outputs_that_both_clip_are_free():
    exact = torch.tensor([-2.0, -2.0, 1.0, 7.0, 7.0, 3.0])
    present = torch.tensor([-1.0, 0.5, -1.0, 9.0, 5.0, 4.0])
    assert relaxed(exact, present, RELU6).tolist() == [-1, -2, 1, 9, 7, 3]
    assert relaxed(exact, present, RELU).tolist() == [-1, -2, 1, 7, 7, 3]


@pytest.mark.parametrize("clip", [RELU, RELU6])
def test_rounds_leave_less_error_behind_the_clip(clip, view_of, no_ridge):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(500, 12, generator=generator)
    view = view_of(nn.Linear(12, 7), x)
    view.clip = clip
    # Not a linear function of the input, so that there is something to choose between.
    view.targets = [x.abs() @ torch.randn(12, 7, generator=generator) + 3 * x[:, :7]]
    problem = Regression(view, rows=10**6, seed=0)

    def error():
        y = functional.linear(x, problem.target[0], problem.bias(problem.target)[0])
        behind, wanted = (t.clamp(clip.low, clip.high) for t in (y, view.targets[0]))
        return float((behind - wanted).square().sum())

    errors = [error()]
    for _ in range(4):
        problem.relax(problem.target)
        errors.append(error())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.97 * errors[0]


def split(view, parts):
    """Give a view its one micro-batch in several."""
    view.inputs, view.targets = ([*torch.chunk(t[0], parts)] for t in (view.inputs, view.targets))
    view.seen = (True,) * parts
    return view


def held_out_error(x, y, prior, ridge, parts):
    """Return the error on held-out rows of ridge regression in float64 by rows, without any sums."""
    error = 0.0
    for held in range(5):
        out = torch.cat([torch.chunk(torch.arange(len(x)), parts)[i] for i in range(held, parts, 5)])
        kept = torch.ones(len(x), dtype=torch.bool)
        kept[out] = False
        mx, my = x[kept].mean(0), y[kept].mean(0)
        a, b = x[kept] - mx, y[kept] - my
        strength = max(0.01, ridge * x.shape[1] / int(kept.sum())) * (x - x.mean(0)).square().mean()
        gram = a.T @ a / len(a) + strength * torch.eye(x.shape[1])
        w = torch.linalg.solve(gram, a.T @ b / len(a) + strength * prior.T)
        error += float(((x[out] - mx) @ w + my - y[out]).square().sum())
    return error


@pytest.mark.parametrize("noise", [0.02, 3.0, 60.0])
def test_the_ridge_is_that_of_least_error_on_samples_held_out(noise, view_of):
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(120, 10, generator=generator)
    layer, wanted = (nn.Linear(10, 6).requires_grad_(False) for _ in range(2))
    for linear in (layer, wanted):
        nn.init.normal_(linear.weight, generator=generator)
    view = view_of(layer, x)
    view.targets = [wanted(x) + noise * torch.randn(120, 6, generator=generator)]
    y = view.targets[0]
    problem = Regression(split(view, 7), rows=10**6, seed=0)
    problem.choose_ridge()
    errors = [held_out_error(x.double(), y.double(), layer.weight.double(), ridge, 7) for ridge in RIDGES]
    assert problem.ridge == RIDGES[errors.index(min(errors))]
