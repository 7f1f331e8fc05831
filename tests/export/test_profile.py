import pytest
import torch
from torch import nn

import evoq_moo as evoq
from evoq_moo.errors import ArgumentError
from evoq_moo.export import profile_latency
from evoq_moo.problems import MixedPrecisionProblem


def test_every_layer_has_a_time_at_every_pair(branches, tmp_path):
    found = profile_latency(branches, pairs=[(8, 8), (4, 4), (32, 32)], repeats=3, mixed=1, progress=False)
    table = found.latency
    assert set(table.milliseconds) == set(branches.space.layer_names)
    assert all(set(times) == {(8, 8), (4, 4), (32, 32)} for times in table.milliseconds.values())
    # Whole microseconds: a tiny layer may take none.
    assert sum(value for times in table.milliseconds.values() for value in times.values()) > 0
    assert [check.policy for check in found.checks] == ["W8 A8", "W4 A4", "W32 A32", "mixed 0"]
    assert all(check.measured > 0 and check.summed >= 0 for check in found.checks)
    assert found.table().row_count == 6  # four policies, the float network and quantize_static
    assert found.floating > 0
    assert found.static > 0
    table.save(tmp_path / "latency.csv")
    loaded = evoq.LatencyTable.load(tmp_path / "latency.csv")
    problem = MixedPrecisionProblem(branches, objectives=("difference", "latency"), costs=[loaded])
    assert problem.n_obj == 2


def test_float_layers_that_are_fused_have_times(with_random_weights):
    """Bug: onnxruntime calls them by their result, so that their times were lost to the rest."""
    model = with_random_weights(
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU6(), nn.Flatten()),
        torch.Generator().manual_seed(0),
    )
    network = evoq.QuantizedNetwork(model, torch.rand(2, 3, 40, 40), engine="reference", progress=False)
    found = profile_latency(network, pairs=[(32, 32), (8, 8)], repeats=3, mixed=0, progress=False)
    for times in found.latency.milliseconds.values():
        assert times[32, 32] > found.latency.rest / 2


def test_bad_arguments(branches):
    for wrong in ([], [(8, 9)], [(8,)]):
        with pytest.raises(ArgumentError, match="pairs"):
            profile_latency(branches, pairs=wrong)
    with pytest.raises(ArgumentError, match="repeats: given 0"):
        profile_latency(branches, repeats=0)
