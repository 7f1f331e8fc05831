"""What is loaded with the package and its command line: nothing that is not needed yet."""

import json
import subprocess
import sys

import pytest
import typer

import evoq_moo
from evoq_moo.cli._app import app
from evoq_moo.cli._group import COMMANDS

HEAVY = ("torch", "torchvision", "pandas", "sklearn", "matplotlib", "scipy", "pymoo", "onnxruntime")


def loaded_by(code):
    """Run a program in another interpreter; return its exit code, its time (s) and the modules it leaves loaded."""
    shown = (
        "import sys, time, json\nend = 0\n"
        f"try:\n    {code}\nexcept SystemExit as ended:\n    end = ended.code\n"
        "print(json.dumps([end, time.process_time(), sorted(sys.modules)]))"
    )
    output = subprocess.run([sys.executable, "-c", shown], check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def called(*arguments):
    return f"sys.argv = {['evoq', *arguments]}; from evoq_moo.cli import main; main()"


@pytest.mark.parametrize(
    ("code", "end"),
    [("import evoq_moo", 0), (called("--help"), 0), (called("serach"), 2), (called("--verbos", "search"), 2)],
)
def test_neither_torch_nor_anything_heavy_is_loaded(code, end):
    found, seconds, modules = loaded_by(code)
    assert found == end
    assert [name for name in HEAVY if name in modules] == []
    assert [name for name in modules if name.startswith(("evoq_moo.study", "evoq_moo.plots"))] == []
    assert seconds < 2  # 0.3 on an idle machine


def test_a_quantized_network_needs_no_tables_pictures_or_statistics():
    modules = loaded_by("import evoq_moo; evoq_moo.QuantizedNetwork")[2]
    unwanted = ("pandas", "sklearn", "matplotlib", "scipy.stats", "pymoo", "evoq_moo.study", "evoq_moo.plots")
    assert [name for name in unwanted if name in modules] == []


def test_every_public_name_is_there_once():
    assert [name for name in evoq_moo.__all__ if getattr(evoq_moo, name) is None] == []
    given = [name for names in evoq_moo._ROOMS.values() for name in names]
    assert sorted([*given, "zoo"]) == sorted(evoq_moo.__all__)
    assert set(evoq_moo.__all__) <= set(dir(evoq_moo))
    with pytest.raises(AttributeError, match="has no attribute 'QuantisedNetwork'"):
        evoq_moo.QuantisedNetwork  # noqa: B018


def test_the_list_of_commands_is_that_of_the_commands():
    commands = typer.main.get_command(app).commands
    assert set(COMMANDS) == set(commands)
    for name, text in COMMANDS.items():
        assert " ".join(commands[name].help.split()).startswith(text.removesuffix("."))


def test_rooms_are_attributes_of_the_package():
    """`evoq.problems.MixedPrecisionProblem` worked where something else had imported the room only."""
    end, _, modules = loaded_by("import evoq_moo; evoq_moo.indicators.hypervolume")
    assert end == 0
    assert "evoq_moo.indicators" in modules
