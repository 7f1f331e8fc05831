"""What files may make us do without consent: nothing. Payloads here only write a file."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

import evoq_moo as evoq
from evoq_moo.cli import app, main
from evoq_moo.errors import ArgumentError, EvoqError, FormatError, TrustError
from evoq_moo.report import write_report
from evoq_moo.runs import load_front, read_recipe, recipe_of
from evoq_moo.study._toml import read_study

PAYLOAD = """
from pathlib import Path
Path(__file__).with_name("it_ran").touch()

def make():
    import torch
    from evoq_moo import Preprocess
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Conv2d(2, 2, 3), torch.nn.Flatten(), torch.nn.Linear(32, 3)
    )
    for p in net.parameters():
        p.data.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    net.preprocess = Preprocess(crop=8, channels=1, mean=(0.5,), std=(0.5,))
    return net

def leave():
    raise SystemExit(0)

def interrupt():
    raise KeyboardInterrupt

def number():
    return 5

def search(problem):
    raise SystemExit(0)
"""


def evoq_command(*words):
    result = CliRunner().invoke(app, [str(w) for w in words])
    if isinstance(result.exception, EvoqError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def _payload(tmp_path_factory):
    """A working directory with a module that tells when it is imported, and a run and a calibrated folder of it."""
    here = tmp_path_factory.mktemp("here")
    (here / "payload_of_tests.py").write_text(PAYLOAD)
    images, _ = evoq.zoo.digits.load_images("train")
    np.savez(here / "digits.npz", images=images[:12])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        words = ["search", "--model", "payload_of_tests:make", "--samples", "digits.npz", "--count", 8]
        evoq_command(*words, "--evaluations", 12, "--pop-size", 6, "-o", "run")
        evoq_command("calibrate", "run", "--steps", "light", "-o", "calibrated", "--model", "payload_of_tests:make")
    return here


@pytest.fixture
def here(_payload, monkeypatch):
    import sys

    monkeypatch.chdir(_payload)
    monkeypatch.delitem(sys.modules, "payload_of_tests", raising=False)
    (_payload / "it_ran").unlink(missing_ok=True)
    return _payload


NEEDS_CONSENT = [
    ("calibrate", "run", "-o", "c2"),
    ("evaluate", "run"),
    ("evaluate", "calibrated"),
    ("evaluate", "run", "--points", "2"),
    ("ship", "run", "-o", "m2.onnx"),
    ("export", "calibrated", "-o", "m.onnx"),
    ("verify", "m.onnx", "--against", "calibrated", "--images", "digits.npz"),
]


class TestCode:
    @pytest.mark.parametrize("words", NEEDS_CONSENT, ids=lambda words: words[0])
    def test_no_command_runs_it(self, here, words):
        with pytest.raises(TrustError, match=r"names code, 'payload_of_tests:make'.*--trust") as caught:
            evoq_command(*words)
        assert re.search(r"(front|recipe)\.json: names", str(caught.value))
        assert not (here / "it_ran").exists()
        assert isinstance(caught.value, PermissionError)

    @pytest.mark.parametrize("consent", [["--trust"], ["--model", "payload_of_tests:make"]])
    def test_with_consent_it_runs(self, here, consent):
        evoq_command("export", "calibrated", "-o", "bits.csv", *consent)
        assert (here / "it_ran").exists()

    def test_another_model_is_no_consent(self, here):
        with pytest.raises(ArgumentError, match=r"given 'os:abort'.*names 'payload_of_tests:make'"):
            evoq_command("calibrate", "run", "--model", "os:abort", "-o", "c3")
        assert not (here / "it_ran").exists()

    def test_python_functions_ask_too(self, here):
        for load in (
            lambda **trust: evoq.load("calibrated", **trust),
            lambda **trust: read_recipe("calibrated/recipe.json", **trust).load_model(),
            lambda **trust: recipe_of(load_front("run"), **trust)(),
        ):
            with pytest.raises(TrustError):
                load()
            assert not (here / "it_ran").exists()
        assert evoq.load("calibrated", trust=True).policy.layers == ("0", "2", "4")

    def test_an_exported_file_runs_no_code_either(self, here):
        evoq_command("export", "calibrated", "-o", "shipped.onnx", "--trust")
        (here / "it_ran").unlink()
        with pytest.raises(TrustError, match=r"shipped\.onnx: names code, 'payload_of_tests:make'"):
            evoq_command("evaluate", "shipped.onnx", "--images", "digits.npz")
        assert not (here / "it_ran").exists()

    def test_show_and_report_need_no_consent_and_run_nothing(self, here):
        evoq_command("show", "run")
        evoq_command("report", "run", "-o", "r.html")
        assert not (here / "it_ran").exists()

    def test_consent_is_not_written_and_not_read(self, here):
        data = json.loads((here / "calibrated" / "recipe.json").read_text())
        assert not {"read_from", "runs_code"} & set(data["recipe"])
        data["recipe"] |= {"read_from": None, "runs_code": True}
        with pytest.raises(FormatError):
            evoq.Recipe.from_json(data["recipe"])

    @pytest.mark.parametrize(
        "table",
        [
            'problems = ["p"]\nalgorithms = ["random"]\n[problem.p]\nmodel = "payload_of_tests:make"',
            'problems = ["digits-bops"]\nalgorithms = ["a"]\n[algorithm.a]\nfunction = "payload_of_tests:search"',
        ],
    )
    def test_a_study(self, here, table):
        (here / "study.toml").write_text(table)
        with pytest.raises(TrustError, match=r"study\.toml: names code, 'payload_of_tests:"):
            evoq_command("compare", "study.toml")
        assert not (here / "it_ran").exists()
        assert not (here / "study").exists()
        read_study("study.toml", trust=True)

    @pytest.mark.parametrize(
        ("factory", "message"),
        [("leave", "failed: SystemExit"), ("interrupt", "failed: KeyboardInterrupt"), ("number", "made a int")],
    )
    def test_a_factory_cannot_end_the_process(self, here, factory, message):
        with pytest.raises(ArgumentError, match=f"payload_of_tests:{factory}.*{message}"):
            evoq_command("profile", f"payload_of_tests:{factory}")

    def test_an_algorithm_cannot_end_the_process(self, here, tmp_path):
        study = 'problems = ["digits-bops"]\nalgorithms = ["a"]\nseeds = 1\nbudget = 5\n[algorithm.a]\nfunction = '
        (here / "ends.toml").write_text(study + '"payload_of_tests:search"\n')
        with pytest.raises(ArgumentError, match="failed: SystemExit"):
            evoq_command("compare", "ends.toml", "--trust", "-o", tmp_path / "ends")

    def test_a_module_cannot_end_the_process(self, here):
        (here / "leaves_of_tests.py").write_text("raise SystemExit(0)")
        with pytest.raises(ArgumentError, match="importing leaves_of_tests failed: SystemExit"):
            evoq_command("profile", "leaves_of_tests:make")


class TestPaths:
    @pytest.fixture
    def elsewhere(self, tmp_path):
        """A folder that is neither the run's nor the working directory."""
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        (folder / "secret.csv").write_text("a secret,that nobody prints\n")
        np.savez(folder / "secret.npz", images=np.zeros((3, 8, 8), np.uint8))
        return folder

    @pytest.mark.parametrize(("key", "name"), [("samples", "secret.npz"), ("weights", "secret.csv")])
    @pytest.mark.parametrize("link", [False, True])
    def test_of_a_recipe(self, here, elsewhere, key, name, link):
        path = elsewhere / name
        if link:
            path = here / f"link-{key}"
            path.unlink(missing_ok=True)
            path.symlink_to(elsewhere / name)
        recipe = evoq.Recipe.from_json({"model": "digits", key: str(path)}, source=here / "r.json")
        with pytest.raises(TrustError, match=rf"r\.json: names {key} .* outside its folder"):
            recipe()
        with pytest.raises(EvoqError) as caught:
            evoq.Recipe.from_json({"model": "digits", key: str(path)}, source=here / "r.json", trust=True)()
        assert not isinstance(caught.value, TrustError)

    def test_of_a_run(self, here, elsewhere, tmp_path):
        run = tmp_path / "run"
        run.mkdir()
        for file in ("sensitivity.json", "front.json", "evaluations.sqlite"):
            (run / file).write_bytes((here / "run" / file).read_bytes())
        data = json.loads((here / "run" / "run.json").read_text())
        data["settings"]["latency"] = str(elsewhere / "secret.csv")
        (run / "run.json").write_text(json.dumps(data))
        with pytest.raises(TrustError, match=r"run\.json: names latency .*secret\.csv") as caught:
            evoq_command("report", run, "-o", tmp_path / "r.html")
        assert "that nobody prints" not in str(caught.value)
        with pytest.raises(FormatError, match="columns"):
            write_report(run, tmp_path / "r.html", trust=True)

    def test_where_a_study_writes(self, here, elsewhere):
        text = f'problems = ["digits-bops"]\nalgorithms = ["random"]\nseeds = 1\nbudget = 5\npath = "{elsewhere}/out"\n'
        (here / "writes.toml").write_text(text)
        with pytest.raises(TrustError, match=r"writes\.toml: names path"):
            evoq_command("compare", "writes.toml")
        assert not (elsewhere / "out").exists()
        assert read_study("writes.toml", trust=True)["path"] == elsewhere / "out"
        assert read_study("writes.toml", output="mine")["path"].name == "mine"

    @pytest.mark.parametrize(
        ("path", "message"),
        [("a\0b", r"samples: given 'a\\x00b'"), ("x" * 5000, r"r\.json: samples can't be a path")],
    )
    def test_what_cannot_be_one(self, here, path, message):
        with pytest.raises(FormatError, match=message):
            evoq.Recipe.from_json({"model": "digits", "samples": path}, source="r.json")()


def test_the_command_says_it_in_one_sentence(here, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["evoq", "calibrate", "run"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: run/front.json: names code, 'payload_of_tests:make'")
    assert said.count("\n") == 0
