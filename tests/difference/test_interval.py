"""Intervals of a difference for new images: coverage on made-up populations, and what has none."""

import numpy as np
import pytest
import torch

from evoq_moo.difference import FEWEST, METRICS, difference_interval, kl_divergence, negative_sqnr, normalized_mse


def heads(n, generator, spread=0.3):
    reference = torch.randn(n, 10, generator=generator) * 3
    return [reference], [
        reference + spread * torch.randn(n, 10, generator=generator) * torch.rand(n, 1, generator=generator)
    ]


@pytest.mark.parametrize("metric", [normalized_mse, kl_divergence, negative_sqnr])
def test_it_covers_the_difference_of_the_population_nine_times_in_ten(metric):
    print("seed 3")
    generator = torch.Generator().manual_seed(3)
    truth = metric(*heads(20_000, generator))
    found = [difference_interval(metric, *heads(50, generator)) for _ in range(200)]
    covered = np.mean([low <= truth <= high for low, high in found])
    assert 0.82 < covered < 0.97


def test_fewer_than_eight_samples_have_none():
    generator = torch.Generator().manual_seed(0)
    assert difference_interval(normalized_mse, *heads(FEWEST - 1, generator)) is None
    low, high = difference_interval(normalized_mse, *heads(FEWEST, generator))
    assert 0 < low < high


def test_equal_outputs_and_flips_of_none():
    reference, _ = heads(20, torch.Generator().manual_seed(1))
    for name in ("kl", "nmse", "cosine", "top1_flips"):
        assert difference_interval(METRICS[name], reference, reference) == pytest.approx((0, 0), abs=1e-12)


def test_a_metric_without_a_value_for_some_parts_has_none():
    reference, quantized = heads(20, torch.Generator().manual_seed(1))
    assert difference_interval(lambda r, q: float("nan") if len(r[0]) < 20 else 1.0, reference, quantized) is None
