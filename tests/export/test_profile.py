import pytest

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
    assert found.table().row_count == 4
    table.save(tmp_path / "latency.csv")
    loaded = evoq.LatencyTable.load(tmp_path / "latency.csv")
    problem = MixedPrecisionProblem(branches, objectives=("difference", "latency"), latency=loaded)
    assert problem.n_obj == 2


def test_bad_arguments(branches):
    for wrong in ([], [(8, 9)], [(8,)]):
        with pytest.raises(ArgumentError, match="pairs"):
            profile_latency(branches, pairs=wrong)
    with pytest.raises(ArgumentError, match="repeats: given 0"):
        profile_latency(branches, repeats=0)
