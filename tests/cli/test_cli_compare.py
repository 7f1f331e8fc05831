"""`evoq compare`: what it runs, prints and refuses."""

import pytest
from typer.testing import CliRunner

from evoq_moo.cli import app
from evoq_moo.errors import ArgumentError, FormatError, MissingFileError, UnknownNameError
from evoq_moo.study import NetworkProblem
from evoq_moo.study._toml import read_study

STUDY = """
problems = ["digits-bops", "digits-size"]
algorithms = ["random", "small", "mine"]
seeds = 3
budget = 60
path = "out"

[algorithm.small]
name = "nsga2"
pop_size = 8

[algorithm.mine]
function = "my_search:make"
"""
MINE = """
from pymoo.algorithms.moo.nsga2 import NSGA2
from evoq_moo.operators import UniformBitCrossover, UniformBitMutation
from pymoo.operators.sampling.rnd import IntegerRandomSampling

def make(problem):
    parts = {"crossover": UniformBitCrossover(), "mutation": UniformBitMutation()}
    return NSGA2(pop_size=10, sampling=IntegerRandomSampling(), **parts)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "my_search.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_study_from_a_file_runs_prints_and_goes_on(folder):
    result = CliRunner().invoke(app, ["compare", "study.toml", "--trust"], catch_exceptions=False)
    assert result.exit_code == 0
    for words in ("digits-bops: hypervolume, 3 seeds", "average ranks over 2 problems", "Friedman p", "table.csv"):
        assert words in result.output
    runs = sorted((folder / "out" / "runs").rglob("*.npz"))
    assert len(runs) == 2 * 3 * 3
    pictures = {path.name for path in (folder / "out" / "plots").iterdir()}
    kinds = ("hypervolume", "ecdf", "attainment", "attainment-difference")
    assert pictures == {f"digits-{cost}-{kind}.png" for cost in ("bops", "size") for kind in kinds} | {
        "critical-difference.png"
    }
    times = [run.stat().st_mtime_ns for run in runs]
    options = ["--indicator", "igd_plus", "--no-plots", "-o", "out"]
    again = CliRunner().invoke(app, ["compare", "study.toml", "--trust", *options], catch_exceptions=False)
    assert "pictures" not in again.output
    assert "digits-size: igd_plus" in again.output
    assert [run.stat().st_mtime_ns for run in runs] == times


def test_a_file_describes_real_networks(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text(
        'problems = ["mine"]\nalgorithms = ["random"]\nseeds = [3, 5]\n'
        '[problem.mine]\nmodel = "digits"\ncount = 8\nweight_bits = [2, 4, 8]\nobjectives = ["difference", "size"]\n'
        'reference = "digits-size"\nbudgets = {size_mib = 1.0}\n'
    )
    arguments = read_study(file)
    problem = arguments["problems"]["mine"]
    assert isinstance(problem, NetworkProblem)
    assert (problem.recipe.count, problem.recipe.weight_bits) == (8, (2, 4, 8))
    assert problem.objectives == ("difference", "size")
    assert problem.reference.objectives == ("difference", "size")
    assert problem.budgets == {"size": 1.0}
    assert arguments["seeds"] == [3, 5]
    assert arguments["path"] == tmp_path / "s"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("problems = [", FormatError, "not TOML"),
        ('problems = "digits-bops"\nalgorithms = ["random"]', ArgumentError, "problems: given"),
        ('problem = ["digits-bops"]\nalgoritms = ["random"]', UnknownNameError, "did you mean 'algorithms'"),
        ('problems = ["a"]\nalgorithms = ["random"]\n[problem.a]\nmodell = "x"', UnknownNameError, "'model'"),
        ('problems = ["a"]\nalgorithms = ["random"]\n[problem.a]\ncount = 3', ArgumentError, "model is needed"),
        ('problems = ["a"]\nalgorithms = ["b"]\n[algorithm.b]\nname = "nsga22"', UnknownNameError, "nsga2"),
        ('problems = ["a"]\nalgorithms = ["b"]\n[algorithm.b]\nfunction = "nope:x"', ArgumentError, "no module"),
    ],
)
def test_what_a_file_may_not_say_is_named(tmp_path, text, error, message):
    file = tmp_path / "s.toml"
    file.write_text(text)
    with pytest.raises(error, match=message):
        read_study(file, trust=True)


def test_a_missing_file_and_both_executors_are_refused(folder):
    with pytest.raises(MissingFileError):
        read_study("nothing.toml")
    with pytest.raises(ArgumentError, match="workers, scheduler: given both"):
        CliRunner().invoke(
            app,
            ["compare", "study.toml", "--trust", "--workers", "1", "--scheduler", "tcp://x"],
            catch_exceptions=False,
        )
