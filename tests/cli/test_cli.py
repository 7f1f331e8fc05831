"""The command line, in process and as an installed command."""

import csv
import json
import logging
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import evoq_moo as evoq
from evoq_moo._text import parse_budgets
from evoq_moo.accuracy import AccuracyCurve
from evoq_moo.cli import app, main
from evoq_moo.cli._console import PlainConsole
from evoq_moo.cli._parse import parse_bits
from evoq_moo.errors import ArgumentError, EvoqError, FormatError, MissingFileError, TrustError, WeightsError
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.runs import RunSettings, execute, load_front, recipe_of


@pytest.fixture(autouse=True)
def _restore_logging():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def evoq_command(*words):
    result = CliRunner().invoke(app, [str(w) for w in words])
    if isinstance(result.exception, EvoqError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


SEARCH = ("search", "digits", "--count", 10, "--evaluations", 60, "--pop-size", 10)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "digits"
    evoq_command(*SEARCH, "-o", folder)
    return folder


def test_search_writes_its_files(run_folder):
    names = sorted(p.name for p in run_folder.iterdir() if not p.name.endswith(("-wal", "-shm")))
    assert names == ["evaluations.sqlite", "front.json", "front.png", "run.json", "sensitivity.json"]
    with Image.open(run_folder / "front.png") as image:
        assert image.size == (750, 510)
    front = load_front(run_folder)
    assert len(front) > 3
    assert recipe_of(front) == evoq.Recipe(model="digits", count=10)


def test_evaluate_on_images_without_labels(run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    recipe = recipe_of(load_front(run_folder))
    pixels, _ = evoq.zoo.entry("digits").default_labelled()
    np.savez(tmp_path / "other.npz", images=pixels[:40])
    output = evoq_command("evaluate", run_folder, "--images", tmp_path / "other.npz", "--limit", 30)
    assert "30 others" in output
    assert "expected of new ones" in output
    assert "on other images / on the samples: " in output
    images = evoq.zoo.entry("digits").default_images()
    own = images[np.random.default_rng(0).permutation(len(images))[: recipe.count]]
    np.savez(tmp_path / "own.npz", images=own)
    with pytest.raises(ArgumentError, match="images: all 10 are among the samples"):
        evoq_command("evaluate", run_folder, "--images", tmp_path / "own.npz")
    np.savez(tmp_path / "mixed.npz", images=np.concatenate([own[:4], pixels[:20]]))
    output = evoq_command("evaluate", run_folder, "--images", tmp_path / "mixed.npz")
    assert "4 of 24 images are samples of the search: left out" in output
    assert "20 others" in output
    assert "no interval" not in output
    assert "no interval: that needs 8 images" in evoq_command(
        "evaluate", run_folder, "--images", tmp_path / "other.npz", "--limit", 7
    )


def test_a_run_of_version_0_1_keeps_the_difference_that_it_chose(run_folder):
    """It wrote "auto" for factories, and chose by the outputs."""
    front = load_front(run_folder)
    settings = front.provenance["settings"]
    recipe = {**settings["recipe"], "difference": "auto"}
    old = {**front.provenance, "metric": "kl", "settings": {**settings, "recipe": recipe}}
    assert recipe_of(replace(front, provenance=old)).difference == "kl"


def test_the_same_command_resumes(run_folder):
    before = (run_folder / "front.json").read_text()
    output = evoq_command(*SEARCH, "-o", run_folder)
    assert "Pareto" in output or "front of" in output
    points = [json.loads(text)["points"] for text in (before, (run_folder / "front.json").read_text())]
    assert points[0] == points[1]


def test_other_settings_in_the_same_folder_are_refused(run_folder):
    with pytest.raises(ArgumentError, match=r"holds a run of other settings \(recipe.count: has 10, asked for 11"):
        evoq_command("search", "digits", "--count", 11, "--pop-size", 10, "-o", run_folder)


def test_show(run_folder):
    front = load_front(run_folder)
    assert "GBOPs" in evoq_command("show", run_folder)
    assert "knee" in evoq_command("show", run_folder / "front.json")
    limit = float(np.median(front.values("bops")))
    limited = evoq_command("show", run_folder, "--bops", limit)
    assert limited.count("│") < evoq_command("show", run_folder).count("│")
    assert "block1.conv1" in evoq_command("show", run_folder, "--pick", "knee")


def test_tables_for_programs(run_folder):
    front = load_front(run_folder)
    rows = json.loads(evoq_command("show", run_folder, "--json").partition("next:")[0])
    assert [row["#"] for row in rows] == [*range(len(front))]
    assert rows[-1]["size (MiB)"] == pytest.approx(front[-1].size_mib, rel=1e-3)
    assert sum(row[""] == "knee" for row in rows) == 1
    text = evoq_command("show", run_folder, "--pick", "knee", "--csv").partition("next:")[0]
    layers = list(csv.DictReader(text.splitlines()))
    assert [int(row["weight bits"]) for row in layers] == list(
        front[front.points.index(front.point_of(front.knee()))].policy.weight_bits
    )
    with pytest.raises(ArgumentError, match="json, csv: given both"):
        evoq_command("show", run_folder, "--json", "--csv")


def test_programs_read_stdout_and_people_stderr(run_folder):
    command = [sys.executable, "-m", "evoq_moo", "show", str(run_folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)) == len(load_front(run_folder))
    assert done.stderr.startswith("next: ")


def test_help_is_in_groups_and_in_the_order_of_the_work(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    names = [line.split()[1] for line in evoq_command("-h").splitlines() if re.match("│ [a-z]", line)]
    assert names == [
        "demo",
        "models",
        "profile",
        "search",
        "show",
        "evaluate",
        "ship",
        "calibrate",
        "export",
        "verify",
        "report",
        "compare",
    ]
    output = evoq_command("search", "-h")
    for group in ("Network", "Samples", "Search space", "Search", "Images that judge", "Preprocessing"):
        assert f"─ {group} ─" in output


def test_no_color(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert PlainConsole().no_color


def test_the_next_command_works_as_printed(run_folder, tmp_path, monkeypatch):
    """From search to report, each command typed as the one before it printed it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_folder, "my run")
    monkeypatch.setattr(sys, "argv", [str(Path(evoq.__file__).parent / "__main__.py")])
    output = evoq_command("show", "my run", "--pick", "difference")
    words = next_words(output)
    assert words[:2] == ["ship", "my run"]
    output = evoq_command(*words, "--steps", "outputs", "--limit", "100")
    for name in ("│ float ", "chosen, before", "│ shipped "):
        assert name in output
    assert Path("model.onnx").is_file()
    assert evoq.load("my run/calibrated").policy == load_front("my run").pick("difference")
    words = next_words(output)
    assert words[0] == "report"
    evoq_command(*words)
    assert Path("report.html").stat().st_size > 10_000


def next_words(output):
    line = next(line for line in output.splitlines() if line.startswith("next: "))
    words = shlex.split(line.removeprefix("next: "))
    assert words[:3] == [sys.executable, "-m", "evoq_moo"]
    return words[3:]


def test_evaluate_measures_the_curve_of_a_run(run_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copytree(run_folder, "run")
    words = ("evaluate", "run", "--points", 2, "--limit", 100)
    output = evoq_command(*words, "--calibrated", "--steps", "outputs")
    assert "W4A4" in output
    curve = AccuracyCurve.load("run/accuracy.json")
    assert [row.calibration for row in curve.rows if row.kind == "front"] == ["", "", "outputs", "outputs"]
    assert curve.count == 100
    assert "top-1 (%)" in evoq_command("show", "run")
    assert "top-1" in evoq_command("show", "run", "--pick", "accuracy")
    assert "accuracy.png" in output
    evoq_command("report", "run", "-o", "report.html")
    page = Path("report.html").read_text()
    assert page.index('id="accuracy"') < page.index('id="front"')
    with pytest.raises(ArgumentError, match="holds accuracies of other images.*--again"):
        evoq_command("evaluate", "run", "--points", 2, "--limit", 90)
    rows = json.loads(evoq_command(*words, "--json").partition("files:")[0])
    assert len(rows) == len(curve.rows)
    for wrong, message in (
        (["--all", "--points", 3], "points: given 3 with --all"),
        (["--calibrated"], "calibrated: given without a curve"),
        (["--points", 2, "--steps", "x"], "steps: unknown name"),
    ):
        with pytest.raises(ArgumentError, match=message):
            evoq_command("evaluate", "run", *wrong)


def test_search_ends_with_the_curve_where_images_are_given(tmp_path, monkeypatch):
    images, labels = evoq.zoo.digits.load_images("test")
    np.savez(tmp_path / "val.npz", images=images[:40], labels=labels[:40])
    monkeypatch.chdir(tmp_path)
    words = ("search", "digits", "--count", 5, "--evaluations", 12, "--pop-size", 6, "-o", "run")
    output = evoq_command(*words, "--images", "val.npz", "--points", 3)
    assert "float" in output
    assert len(AccuracyCurve.load("run/accuracy.json").rows) == 1 + 6 + 3
    assert next(line for line in output.splitlines() if line.startswith("next: ")).endswith(
        "ship run --pick 'drop<=1' -o model.onnx --images val.npz"
    )


def test_the_demo_ends_with_a_shipped_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = evoq_command("demo", "--evaluations", 12)
    assert "│ shipped " in output
    assert len(AccuracyCurve.load("demo/accuracy.json").rows) == 1 + 6 + 2 * 8
    assert evoq.load("demo/calibrated").policy.layers == load_front("demo")[0].policy.layers
    assert Path("demo/model.onnx").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_evaluate_takes_a_calibrated_folder(run_folder, tmp_path):
    evoq_command("calibrate", run_folder, "--steps", "outputs", "-o", tmp_path / "c")
    output = evoq_command("evaluate", tmp_path / "c", "--limit", 50, "--json")
    rows = json.loads(output)
    assert [row["network"] for row in rows] == ["float", "calibrated"]
    assert all(row["images"] == 50 for row in rows)
    with pytest.raises(ArgumentError, match="which holds one policy"):
        evoq_command("evaluate", tmp_path / "c", "--all")


def test_evaluate_on_the_held_out_digits(run_folder):
    output = evoq_command("evaluate", run_folder, "--pick", "difference", "--limit", 100)
    assert "float" in output
    assert "quantized" in output
    assert "100" in output


def test_models(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows = {line.split("│")[1].strip(): line for line in evoq_command("models").splitlines() if "│" in line}
    assert {*evoq.zoo.names()} <= {*rows}
    columns = [cell.strip() for cell in rows["resnet50"].split("│")]
    assert columns[2:6] == ["classification", "ImageNet", "3x224x224", "1000"]
    assert columns[6:9] == ["4.09", "25.6", "104"]
    assert "detection" in rows["ssd300_vgg16"]
    assert "COCO_V1" in rows["ssd300_vgg16"]
    listed = {row["name"]: row for row in json.loads(evoq_command("models", "--json"))}
    assert (listed["resnet50"]["GMACs"], listed["resnet50"]["genes"]) == (4.09, 104)
    assert evoq_command("models", "--csv").startswith("name,task,dataset,input,classes,GMACs,")
    monkeypatch.setenv("COLUMNS", "80")
    narrow = evoq_command("models").splitlines()
    assert max(map(len, narrow)) <= 80
    for name in evoq.zoo.names():
        assert any(line.startswith(f"│ {name} ") for line in narrow), name


def test_models_shows_one_network(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    output = evoq_command("models", "ssd300_resnet50")
    assert "nvidia_ssdpyt_amp_200703.pt" in output
    assert "not there" in output
    assert "SHA-256 c951b60a92eb" in evoq_command("models", "cifar10_resnet20")
    with pytest.raises(ArgumentError, match="did you mean 'resnet18'"):
        evoq_command("models", "resnet_18")


def test_random_weights_only_when_asked_for(caplog, tmp_path):
    with pytest.raises(WeightsError, match=r"squeezenet1_0-b66bff10.pth and put it at .*'random' where only costs"):
        evoq.Recipe(model="squeezenet1_0").load_model()
    with caplog.at_level(logging.WARNING):
        evoq.Recipe(model="squeezenet1_0", weights="random").load_model()
    assert "has random weights, as asked" in caplog.text
    with pytest.raises(ArgumentError, match="loads its own weights"):
        evoq_command("search", "--model", "a:b", "--download", "-o", tmp_path / "run")


def test_images_in_a_folder_and_options(tmp_path):
    images, labels = evoq.zoo.digits.load_images("test")
    folder = tmp_path / "images"
    folder.mkdir()
    rows = ["file,label"]
    for i in range(20):
        Image.fromarray(images[i].squeeze()).save(folder / f"{i:03}.png")
        rows.append(f"{i:03}.png,{labels[i]}")
    (folder / "labels.csv").write_text("\n".join(rows))
    run = tmp_path / "run"
    words = ["search", "digits", "--samples", folder, "--count", 8, "--evaluations", 20, "--pop-size", 10, "-o", run]
    words += ["--weight-bits", "2,4,8", "--activation-bits", "8", "--pinned", "linear", "--difference", "nmse"]
    words += ["--objectives", "difference,size", "--budget", "size_mib<=0.03", "--seed", 3, "--engine", "reference"]
    evoq_command(*words)
    front = load_front(run)
    assert all(set(p.policy.weight_bits) <= {2, 4, 8} and set(p.policy.activation_bits) == {8} for p in front)
    assert all(p.size_mib <= 0.03 for p in front)
    with pytest.raises(TrustError, match="names samples"):
        evoq_command("evaluate", run, "--images", folder, "--labels", "labels.csv")
    output = evoq_command("evaluate", run, "--images", folder, "--labels", "labels.csv", "--trust")
    assert "20" in output


def test_a_network_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(
        "import torch\nfrom evoq_moo import Preprocess\n\n\ndef small():\n"
        "    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3),\n"
        "                              torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
        "    for p in net.parameters():\n        p.data.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))\n"
        "    net.preprocess = Preprocess(crop=8, channels=1, mean=(0.5,), std=(0.5,))\n    return net\n"
    )
    images, _ = evoq.zoo.digits.load_images("train")
    np.savez(tmp_path / "digits.npz", images=images[:30])
    monkeypatch.chdir(tmp_path)
    words = ["search", "--model", "my_networks:small", "--samples", "digits.npz", "--count", 8]
    evoq_command(*words, "--evaluations", 20, "--pop-size", 10, "-o", "run")
    assert len(load_front("run")) > 1
    with pytest.raises(ArgumentError, match="samples: given none"):
        evoq_command("search", "--model", "my_networks:small", "-o", "other")
    with pytest.raises(ArgumentError, match="loads its own weights"):
        evoq_command(
            "search", "--model", "my_networks:small", "--weights", "a.pth", "--samples", "digits.npz", "-o", "x"
        )


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["search"], ArgumentError, "model: give a name"),
        (["search", "digits", "--model", "a:b"], ArgumentError, "model: give a name"),
        (["search", "digit"], ArgumentError, "did you mean 'digits'"),
        (["search", "digits", "--weight-bits", "2-9"], ArgumentError, r"weight-bits: given \[9\]"),
        (["search", "digits", "--weight-bits", "a"], ArgumentError, "weight-bits: given 'a'"),
        (["search", "digits", "--budget", "bops<5"], ArgumentError, "budget: given 'bops<5'"),
        (["search", "digits", "--budget", "bops<=1e-9"], ArgumentError, "the smallest reachable"),
        (["search", "digits", "--objectives", "diff"], ArgumentError, "did you mean 'difference'"),
        (["search", "digits", "--count", "5000"], EvoqError, "5000"),
        (["search", "digits", "--engine", "fast"], ArgumentError, "engine: unknown name 'fast'"),
        (["search", "digits", "--results", "int4"], ArgumentError, "results: unknown name 'int4'"),
        (["search", "digits", "--samples", "nowhere/"], MissingFileError, "nowhere"),
        (["search", "resnet18"], WeightsError, "weights: given none, and resnet18 comes without"),
        (["search", "resnet18", "--weights", "random"], ArgumentError, "samples: given none"),
        (["search", "digits", "--evaluations", "0"], ArgumentError, "evaluations: given 0"),
        (["show", "nowhere"], MissingFileError, "no such file"),
        (["evaluate", "nowhere"], MissingFileError, "no such file"),
    ],
)
def test_bad_input_is_one_clear_error(words, error, message, tmp_path):
    output = ["-o", tmp_path / "run"] if words[0] == "search" else []
    with pytest.raises(error, match=message):
        evoq_command(*words, *output)


def test_a_front_without_a_recipe(tmp_path, run_folder):
    data = json.loads((run_folder / "front.json").read_text())
    data["provenance"] = {}
    (tmp_path / "front.json").write_text(json.dumps(data))
    with pytest.raises(FormatError, match="holds no recipe"):
        evoq_command("evaluate", tmp_path / "front.json")
    data["provenance"] = {"settings": {"recipe": {"model": "digits", "colour": "red"}}}
    (tmp_path / "front.json").write_text(json.dumps(data))
    with pytest.raises(FormatError, match="front.json: not a recipe: given"):
        evoq_command("evaluate", tmp_path / "front.json")


def test_errors_are_one_line_and_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evoq", "show", "nowhere"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err.strip() == "error: no such file: nowhere"


def test_installed_command_and_module_agree():
    one = subprocess.run([sys.executable, "-m", "evoq_moo", "--help"], capture_output=True, text=True, check=True)
    assert "search" in one.stdout


def test_parsers():
    assert parse_bits("b", "2-4, 8") == (2, 3, 4, 8)
    assert parse_budgets(["bops <= 5", "size_mib<=1e-1"]) == {"bops": 5.0, "size_mib": 0.1}
    for wrong in ("8-2", "", "2--4", "x", "2;3"):
        with pytest.raises(ArgumentError):
            parse_bits("b", wrong)
    with pytest.raises(ArgumentError, match="twice"):
        parse_budgets(["bops<=5", "bops<=6"])


def test_recipes_round_trip_through_json():
    recipe = evoq.Recipe(model="digits", weight_bits=(2, 4), pinned=("conv", "linear"), tied=True)
    assert evoq.Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_interrupted_in_the_scan_goes_on(tmp_path, monkeypatch):
    settings = RunSettings(recipe=evoq.Recipe(model="digits", count=5, weight_bits=(4, 8), activation_bits=(8,)))
    put = evoq.EvaluationStore.put
    calls = []

    def interrupt(self, fingerprint, differences):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        put(self, fingerprint, differences)

    monkeypatch.setattr(evoq.EvaluationStore, "put", interrupt)
    with pytest.raises(KeyboardInterrupt):
        execute(settings, tmp_path / "run", evaluations=20, progress=False)
    with evoq.EvaluationStore(tmp_path / "run" / "evaluations.sqlite") as store:
        assert store.count() == 3
    run = execute(settings, tmp_path / "run", evaluations=20, progress=False)
    assert len(run.front) >= 2


def test_search_of_calibrated_networks(tmp_path):
    words = ("search", "digits", "--count", 5, "--evaluations", 12, "--pop-size", 6, "-o", tmp_path / "run")
    evoq_command(*words, "--calibrated")
    front = load_front(tmp_path / "run")
    network = recipe_of(front)()
    problem = MixedPrecisionProblem(network, calibrate="light")
    again = problem.evaluator.differences(np.stack([point.policy.to_array() for point in front.points]))
    assert again.tolist() == front.values("difference").tolist()
    with pytest.raises(ArgumentError, match="calibrate: has 'light', asked for None"):
        evoq_command(*words)
    with pytest.raises(EvoqError, match="calibrate"):
        RunSettings(recipe=evoq.Recipe(model="digits"), calibrate="full")


def test_calibrate_writes_the_picked_policy(run_folder, tmp_path):
    output = evoq_command(
        "calibrate", run_folder, "--pick", "knee", "--steps", "features,outputs", "--time-limit", "600", "-o", tmp_path
    )
    assert "features" in output
    assert "held out" in output
    front = load_front(run_folder)
    found = evoq.CalibratedNetwork.load(tmp_path, recipe_of(front)())
    assert found.policy == front.pick("knee")
    assert [s.step for s in found.report.steps] == ["features", "outputs"]
    with pytest.raises(EvoqError, match="steps"):
        evoq_command("calibrate", run_folder, "--steps", "magic", "-o", tmp_path)


def test_a_detector_from_search_to_map(tmp_path, monkeypatch):
    pytest.importorskip("pycocotools", reason='needs pip install "evoq-moo[detection]"')
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    boxes = {"width": 40, "height": 30, "boxes_cls_x1y1x2y2": [[0, 5, 5, 30, 25]]}
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
    (tmp_path / "annotations.json").write_text(json.dumps({str(i): boxes for i in range(3)}))
    run = tmp_path / "run"
    words = [
        "search",
        "ssd_mobilenet_v1_075_coco",
        "--weights",
        "random",
        "--samples",
        folder,
        "--count",
        2,
        "--crop",
        33,
        "-o",
        run,
    ]
    words += ["--weight-bits", "4,8", "--activation-bits", "8", "--evaluations", 12, "--pop-size", 6, "--threads", 1]
    evoq_command(*words)
    assert recipe_of(load_front(run)).difference == "nmse"
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.chdir(tmp_path)
    output = evoq_command("evaluate", run, "--images", folder, "--annotations", tmp_path / "annotations.json")
    assert "mAP50" in output
    assert "VOC07" in output
    for words, message in (
        ([], "images: given none for a detector"),
        (["--images", folder, "--labels", "labels.csv"], "mAP, not top-1"),
        (["--images", folder, "--crop", 20], "takes whole images"),
        (["--images", folder], "annotations: none given"),
    ):
        with pytest.raises(EvoqError, match=message):
            evoq_command("evaluate", run, *words)


def test_annotations_are_of_detectors(run_folder):
    with pytest.raises(ArgumentError, match="digits is no detector"):
        evoq_command("evaluate", run_folder, "--annotations", "x.json")


def test_export_and_verify(run_folder, tmp_path):
    calibrated, file = tmp_path / "calibrated", tmp_path / "model.onnx"
    evoq_command("calibrate", run_folder, "--pick", "knee", "--steps", "outputs", "-o", calibrated)
    assert "for avx2" in evoq_command("export", calibrated, "-o", file, "--target", "avx2")
    assert evoq.load(calibrated).policy == load_front(run_folder).pick("knee")
    evoq_command("export", calibrated, "-o", tmp_path / "bits.csv")
    assert "block1.conv1," in (tmp_path / "bits.csv").read_text()
    images, _ = evoq.zoo.digits.load_images("test")
    np.savez(tmp_path / "digits.npz", images=images[:30])
    # So small a network is as fast in float: no times.
    words = ["verify", file, "--against", calibrated, "--images", tmp_path / "digits.npz", "--repeats", 0]
    output = evoq_command(*words)
    assert "top-1" in output
    assert "layers in integer" in output
    assert "file" in evoq_command("evaluate", file, "--limit", 50)
    other = tmp_path / "other"
    evoq_command("calibrate", run_folder, "--pick", "difference", "--steps", "outputs", "-o", other)
    words = ["verify", file, "--against", other, "--images", tmp_path / "digits.npz", "--limit", 5]
    found = CliRunner().invoke(app, [str(w) for w in words])
    assert found.exit_code == 1
    assert "mismatch" in found.output
    (calibrated / "recipe.json").unlink()
    with pytest.raises(ArgumentError, match=r"holds no recipe\.json"):
        evoq_command("export", calibrated, "-o", file)
    assert "predicted" in evoq_command("export", calibrated, "-o", file, "--model", "digits", "--plain")
    with pytest.raises(ArgumentError, match="output: given"):
        evoq_command("export", calibrated, "-o", tmp_path / "model.bin")
    with pytest.raises(ArgumentError, match="target: unknown name 'tpu'"):
        evoq_command("export", calibrated, "-o", file, "--target", "tpu")
    with pytest.raises(ArgumentError, match="form: unknown name 'int4'"):
        evoq_command("export", calibrated, "-o", file, "--form", "int4")
