"""Energy: a cost of one file, known to objectives, budgets, fronts, tables, axes and the command line."""

import numpy as np
import pytest
from typer.testing import CliRunner

import evoq_moo as evoq
from evoq_moo.cli._app import app
from evoq_moo.costs.energy import EnergyTable
from evoq_moo.errors import FormatError, MissingFileError
from evoq_moo.plots import plot_front
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.space import LayerInfo

LAYERS = [
    LayerInfo(name="a", kind="Conv2d", params=1, macs=10**9),
    LayerInfo(name="b", kind="Linear", params=1, macs=5),
]
TABLE = EnergyTable(picojoules={(8, 8): 0.2, (4, 8): 0.12, (4, 4): 0.05, (32, 32): 4.6})


def test_by_hand():
    bits = np.array([[[8, 8], [8, 8]], [[4, 4], [32, 32]], [[2, 8], [16, 4]]])
    np.testing.assert_array_equal(TABLE.count(LAYERS, bits), [200_000_001, 50_000_023, 120_000_023])  # pJ
    assert TABLE.of(LAYERS, bits[0]) == 0.200000001


def test_files_round_trip(tmp_path):
    TABLE.save(tmp_path / "e.csv")
    assert EnergyTable.load(tmp_path / "e.csv") == TABLE
    assert (tmp_path / "e.csv").read_text().startswith("weight_bits,activation_bits,picojoules_per_mac\n4,4,0.05\n")
    with pytest.raises(MissingFileError):
        EnergyTable.load(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "given no pairs"),
        ("8,8,nan\n", "given 'nan'"),
        ("8,8,-1\n", "given '-1'"),
        ("9,8,1\n", "W9 A8"),
        ("8,8\n", "line 2"),
        ("8,8,1\n8,8,1\n", "line 3.*given twice"),
        ("8,x,1\n", "line 2"),
    ],
)
def test_bad_tables_are_refused(tmp_path, rows, message):
    (tmp_path / "e.csv").write_text("weight_bits,activation_bits,picojoules_per_mac\n" + rows)
    with pytest.raises(FormatError, match=message):
        EnergyTable.load(tmp_path / "e.csv")


def test_a_search_on_energy(tiny_model, tiny_samples, tmp_path):
    network = evoq.QuantizedNetwork(
        tiny_model, tiny_samples, weight_bits=[4, 8], activation_bits=[4, 8], engine="reference", progress=False
    )
    limit = 0.9 * TABLE.bounds(network.space)[1]
    run = evoq.search(
        network,
        objectives=("difference", "energy"),
        budgets={"energy": limit},
        costs=[TABLE],
        evaluations=30,
        pop_size=8,
        progress=False,
    )
    energies = run.front.values("energy")
    assert (np.diff(energies) > 0).all()
    assert energies[-1] <= limit
    run.front.save(tmp_path / "front.json")
    assert evoq.ParetoFront.load(tmp_path / "front.json") == run.front
    assert len(run.front.under(energy=float(energies[0]))) == 1
    assert run.front.pick("energy") == run.front[0].policy
    assert "energy (mJ)" in [column.header for column in run.front.table().columns]
    assert plot_front(run.front).get_xlabel() == "energy of the MACs (mJ)"
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "front.json"), "--energy-mj", str(energies[0])])
    assert shown.exit_code == 0, shown.output
    with pytest.raises(evoq.EvoqError, match="energy: given no table"):
        MixedPrecisionProblem(network, objectives=("difference", "energy"))
