"""The map of outputs: leave-one-out by hand, and when it must not change anything."""

import torch

from evoq_moo.calibration._outputs import _SHRINKAGES, OutputMap, _coefficients, _left_out, _rows, _sums, fit_output


def heads(n=20, channels=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, generator=generator), generator


def test_recovers_an_affine_map():
    wanted, generator = heads()
    quantized = (wanted - 0.5) / 1.5 + 0.001 * torch.randn(wanted.shape, generator=generator)
    found = fit_output(quantized, wanted, OutputMap.identity(wanted))
    torch.testing.assert_close(found(quantized), wanted, rtol=0, atol=0.05)


def test_noise_alone_changes_nothing():
    wanted, generator = heads(n=10, channels=50, seed=4)
    quantized = wanted + 0.1 * torch.randn(wanted.shape, generator=generator)
    found = fit_output(quantized, wanted, OutputMap.identity(wanted))
    assert (found.scale - 1).abs().max() < 0.1
    assert found.shift.abs().max() < 0.1


def test_left_out_error_is_that_of_refitting_without_each_sample():
    wanted, generator = heads(n=6)
    quantized = wanted * 0.7 + 0.1 * torch.randn(wanted.shape, generator=generator)
    q, w = _rows(quantized, -1), _rows(wanted, -1)
    slopes, shifts = _sums(q, w)
    for a in _SHRINKAGES[::3]:
        expected = 0.0
        for i in range(6):
            rest = [j for j in range(6) if j != i]
            s, t = _sums(q[rest], w[rest])
            slope, shift = _coefficients(s.sum(0), t.sum(0), a, 0.1)
            expected += (q[i, :, 0] * (1 + slope) + shift - w[i, :, 0]).square().sum().item()
        assert abs(_left_out(q, w, slopes, shifts, a, 0.1) - expected) < 1e-9 * max(1, expected)


def test_a_detection_head_is_mapped_by_channel():
    wanted, _ = heads(n=8, channels=3 * 5 * 5)
    wanted = wanted.reshape(8, 3, 5, 5)
    found = fit_output(wanted * 0.5, wanted, OutputMap.identity(wanted))
    assert found.scale.shape == (3,)
    torch.testing.assert_close(found(wanted * 0.5), wanted, rtol=0, atol=0.05)
