"""Integer least squares against exhaustive search."""

import itertools

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evoq_moo.calibration._solver import improve_levels, objective, ridged, solve_levels, target_weights
from evoq_moo.quantizer import weight_scales


def problem(seed, groups=2, channels=3, k=4):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, 40, k, generator=generator)
    x = x @ torch.randn(groups, k, k, generator=generator)
    h = x.transpose(1, 2) @ x / 40 + 0.01 * torch.eye(k)
    return h, torch.randn(groups, channels, k, generator=generator)


def nearest(target, bits):
    groups, channels, k = target.shape
    scales = weight_scales(target.reshape(-1, k), bits).reshape(groups, channels)
    levels = (target / scales[:, :, None]).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return levels, scales


def solution(gram, cross, prior, ridge):
    strength = torch.full((len(gram),), ridge, dtype=torch.float64)
    return target_weights(torch.linalg.cholesky(ridged(gram, strength)), cross, prior, strength)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8))
@example(174283, 7)  # Spreading the errors ends worse than the nearest levels here.
def test_levels_are_within_their_bits_and_beat_the_nearest(seed, bits):
    h, target = problem(seed)
    levels, scales = solve_levels(h, target, bits)
    assert torch.equal(levels, levels.round())
    assert levels.min() >= -(2 ** (bits - 1))
    assert levels.max() <= 2 ** (bits - 1) - 1
    assert (scales > 0).all()
    q, s = nearest(target, bits)
    found = objective(h, target, levels * scales[:, :, None]).sum()
    assert found <= objective(h, target, q * s[:, :, None]).sum() * (1 + 1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_close_to_the_best_levels_of_its_scale(seed):
    h, target = problem(seed, groups=1, channels=1)
    levels, scales = solve_levels(h, target, 3)
    best = min(
        objective(h, target, torch.tensor([[q]], dtype=torch.float32) * scales[:, :, None]).item()
        for q in itertools.product(range(-4, 4), repeat=4)
    )
    # Coordinate descent ends where no single level can move: near the best of all, not always there.
    assert objective(h, target, levels * scales[:, :, None]).item() <= 2.0 * best + 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_no_single_level_can_move_to_improve(seed):
    h, target = problem(seed, groups=1, channels=2, k=6)
    levels, scales = solve_levels(h, target, 4, sweeps=30)
    found = objective(h, target, levels * scales[:, :, None])
    for j, step in itertools.product(range(6), (-1, 1)):
        moved = levels.clone()
        moved[:, :, j] = (moved[:, :, j] + step).clamp(-8, 7)
        assert (objective(h, target, moved * scales[:, :, None]) >= found - 1e-5).all()


def test_target_without_ridge_is_least_squares():
    generator = torch.Generator().manual_seed(3)
    x, w = torch.randn(200, 5, generator=generator), torch.randn(3, 5, generator=generator)
    y = x @ w.T + 0.1 * torch.randn(200, 3, generator=generator)
    gram, cross = (x.T @ x / 200)[None], (x.T @ y / 200)[None]
    target = solution(gram, cross, torch.zeros(1, 3, 5), 1e-9)
    expected = torch.linalg.lstsq(x.double(), y.double()).solution.T
    torch.testing.assert_close(target[0].double(), expected, rtol=1e-4, atol=1e-5)


def test_infinite_ridge_is_the_prior():
    h, prior = problem(1)
    target = solution(h, torch.zeros(2, 4, 3), prior, 1e9)
    torch.testing.assert_close(target, prior, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_improved_levels_are_no_worse(seed):
    h, target = problem(seed, k=12)
    levels, scales = nearest(target, 3)
    before = objective(h, target, levels * scales[:, :, None])
    found, new_scales = improve_levels(h, target, levels, scales, 3, sweeps=2)
    assert torch.equal(found, found.round().clamp(-4, 3))
    after = objective(h, target, found * new_scales[:, :, None])
    assert (after <= before * (1 + 1e-5)).all()
    assert after.sum() < before.sum()
