"""The report: what it reads, what it holds, and that a browser runs it without an error."""

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from markupsafe import Markup

import evoq_moo as evoq
from evoq_moo.accuracy import AccuracyCurve, MeasuredPolicy, float_policy
from evoq_moo.calibration import CALIBRATED_FORMAT, CALIBRATED_VERSION, CalibrationReport, StepReport
from evoq_moo.costs import LatencyTable
from evoq_moo.errors import ArgumentError, FormatError, MissingFileError
from evoq_moo.evaluation import policy_key
from evoq_moo.report import read_run, render_report, write_comparison, write_report
from evoq_moo.runs import KnownPolicies
from evoq_moo.sensitivity import SensitivityTable, scan_policies

MARKUP = "<script>document.title='broken'</script>&\"'$x$"
LAYERS = [evoq.LayerInfo(name=n, kind="Conv2d", params=1000, macs=10**6) for n in ("first", MARKUP, "last")]
SPACE = evoq.SearchSpace.build(LAYERS, weight_bits=range(2, 9), activation_bits=range(2, 9), pinned={"first": 8})


def settings(**changes):
    recipe = {"model": MARKUP, "samples": "photos/", "count": 50, "samples_seed": 3, "pinned": "ends"}
    recipe |= {"weight_bits": [2, 4], "activation_bits": [2, 4]}
    return {"recipe": recipe, "objectives": ["difference", "bops"], "budgets": {}, "pop_size": 40, "seed": 7} | changes


def difference(bits):
    return float(np.exp(-bits.sum() / 4))


@pytest.fixture
def make_run(tmp_path):
    """Makes the folder of a run as it is at some moment."""

    def make(*, scanned=True, policies=20, finished=False, **changes):
        folder = tmp_path / "run"
        folder.mkdir()
        data = {"format": "evoq-moo/run", "version": 1, "settings": settings(**changes)}
        (folder / "run.json").write_text(json.dumps(data))
        with evoq.EvaluationStore(folder / "evaluations.sqlite") as store:
            _entries, scan = scan_policies(SPACE)
            X = np.concatenate([SPACE.sample(policies, np.random.default_rng(0)), SPACE.uniform(4)[None]])
            store.put("f" * 64, {policy_key(bits): difference(bits) for bits in (*scan, *SPACE.decode(X))})
        if scanned:
            values = np.full((SPACE.n_var, 7), 0.1) / np.arange(1, 8)
            table = SensitivityTable(space=SPACE, bits=tuple(range(2, 9)), values=values, metric="kl")
            table.save(folder / "sensitivity.json")
        if finished:
            known = KnownPolicies.read(folder / "evaluations.sqlite", SPACE, ("difference", "bops"))
            front = known.front()
            provenance = {
                "fingerprint": "f" * 64,
                "metric": "kl",
                "seconds": 12.5,
                "settings": settings(),
                "versions": {"torch": "2"},
            }
            replace(front, provenance=provenance).save(folder / "front.json")
        return folder

    return make


@pytest.fixture
def calibrated(tmp_path):
    """Makes the folder of a calibrated policy."""

    def make(policy):
        folder = tmp_path / "calibrated"
        folder.mkdir()
        step = StepReport(
            step=MARKUP, outcome="kept", before=0.5, after=0.1, held_out_before=0.6, held_out_after=0.2, seconds=1
        )
        report = CalibrationReport(metric="kl", samples=50, folds=2, seed=0, steps=(step,), seconds=1)
        layers = [
            {"name": n, "weight_bits": w, "activation_bits": a}
            for n, w, a in zip(policy.layers, policy.weight_bits, policy.activation_bits, strict=True)
        ]
        data = {
            "format": CALIBRATED_FORMAT,
            "version": CALIBRATED_VERSION,
            "layers": layers,
            "report": report.to_json(),
        }
        (folder / "calibrated.json").write_text(json.dumps(data))
        return folder

    return make


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes seconds; tests of the text do without."""
    monkeypatch.setattr("evoq_moo.report._render.svg", lambda _ax, _prefix: Markup("<svg></svg>"))


def test_a_finished_run(make_run, calibrated):
    folder = make_run(finished=True)
    data = read_run(folder)
    html = render_report(read_run(folder, calibrated=calibrated(data.front.knee())), pick="knee")
    assert data.notes == ()
    assert data.evaluations == 28 + 21
    for section in ("searched", "front", "chosen", "maps", "calibration", "provenance"):
        assert f'<section id="{section}">' in html
    assert "farthest below" in html
    assert "12.5" in html
    assert "f" * 64 in html
    assert "torch of the run" in html
    assert html.count("<tr data-row=") == len(data.front)
    embedded = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])
    assert [p["gbops"] for p in embedded["points"]] == list(data.front.values("bops"))
    assert embedded["layers"] == list(SPACE.layer_names)
    for i in range(len(data.front)):
        assert f'id="front0-point-{i}"' in html


def test_nothing_is_fetched_and_names_are_escaped(make_run, calibrated):
    folder = make_run(finished=True)
    html = render_report(read_run(folder, calibrated=calibrated(read_run(folder).front.knee())))
    assert MARKUP not in html
    assert "document.title='broken'</script>" not in html
    assert html.count("<script") == 2
    outside = re.findall(r'(?:src|href|action)="(?!data:|#)([^"]*)"', html) + re.findall(r"url\((?!#)[^)]*\)", html)
    assert outside == []
    assert set(re.findall(r"https?://[^\"'\s<]*", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    identifiers = re.findall(r'\sid="([^"]*)"', html)
    assert len(identifiers) == len(set(identifiers))


def test_accuracies_come_first(make_run, tmp_path):
    folder = make_run(finished=True)
    front = read_run(folder).front
    curve = AccuracyCurve(measure="top-1", images=MARKUP, count=7, judged_by="j", network="n")
    exact = MeasuredPolicy(kind="float", policy=float_policy(SPACE.layer_names), accuracy=0.9, costs={})
    curve = curve.added(exact)
    for i, kind in ((0, "front"), (1, "uniform"), (2, "front")):
        row = MeasuredPolicy(kind=kind, policy=front[i].policy, accuracy=0.5 + i / 10, costs=front[i].costs)
        curve = curve.added(row)
    curve.save(folder / "accuracy.json")
    html = render_report(read_run(folder))
    assert html.index('<section id="accuracy">') < html.index('<section id="searched">')
    assert "90.00 %" in html
    assert "<td>70.00</td>" in html
    assert MARKUP not in html
    assert "1 of 3 are below 60 %" in html


@pytest.mark.usefixtures("no_pictures")
def test_the_title_names_the_network(make_run):
    assert "<title>my_net: run: evoq-moo report</title>" in render_report(
        read_run(make_run(finished=True, recipe=settings()["recipe"] | {"model": "my_net"}))
    )


def test_runs_are_compared(make_run, tmp_path):
    folder = make_run(finished=True)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    front = evoq.ParetoFront.load(folder / "front.json")
    fewer = replace(front, points=front.points[::2])
    fewer.save(other / "front.json")
    labels = evoq.compare_runs([folder, other]).get_legend_handles_labels()[1]
    assert [text.endswith(name) for text, name in zip(labels, ("run", "other"), strict=True)] == [True, True]
    write_comparison([folder, other], tmp_path / "both.html")
    html = (tmp_path / "both.html").read_text()
    assert MARKUP not in html
    assert f"<td>{len(front)}</td><td>{len(fewer)}</td>" in html
    assert "<script" not in html
    with pytest.raises(ArgumentError, match="runs: given 1; allowed: two or more"):
        evoq.compare_runs([folder])
    replace(front, points=()).save(other / "front.json")
    with pytest.raises(ArgumentError, match="without a point on the front"):
        evoq.compare_runs([folder, other])
    size = front.from_vectors(
        KnownPolicies.read(folder / "evaluations.sqlite", SPACE, ("difference", "size")), [SPACE.uniform(4)]
    )
    size.save(other / "front.json")
    with pytest.raises(ArgumentError, match="runs: given objectives"):
        evoq.compare_runs([folder, other])


@pytest.mark.usefixtures("no_pictures")
def test_a_run_in_progress_shows_the_front_so_far(make_run):
    data = read_run(make_run())
    assert "in progress" in data.notes[0]
    assert "21 policies evaluated so far" in data.notes[0]
    for point in data.front:
        assert point.difference == pytest.approx(difference(point.policy.to_array()))
    assert [set(p.policy.weight_bits[1:]) for p in data.uniform] == [{4}]
    assert "in progress" in render_report(data)


@pytest.mark.usefixtures("no_pictures")
def test_a_run_whose_scan_is_not_complete(make_run):
    data = read_run(make_run(scanned=False))
    assert data.front is None
    html = render_report(data)
    assert "sensitivity scan is not complete" in html
    assert "no point on the front yet" in html


@pytest.mark.usefixtures("no_pictures")
def test_a_run_without_a_feasible_policy(make_run):
    data = read_run(make_run(budgets={"bops": 1e-6}))
    assert len(data.front) == 0
    assert "none of 21 policies evaluated so far is within the budgets (bops &lt;= 1e-06)" in render_report(data)


@pytest.mark.usefixtures("no_pictures")
def test_a_difference_alone_has_no_picture_of_a_front(make_run):
    html = render_report(read_run(make_run(objectives=["difference"], budgets={"bops": 0.2})))
    assert "One objective: no picture." in html


@pytest.mark.usefixtures("no_pictures")
def test_three_objectives_have_two_pictures(make_run):
    html = render_report(read_run(make_run(objectives=["difference", "size", "bops"])))
    assert html.count('<figure class="front">') == 2


@pytest.mark.usefixtures("no_pictures")
def test_a_latency_is_an_objective_like_others(make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    times = {(w, a): 0.1 * w + 0.01 * a for w in range(2, 9) for a in range(2, 9)}
    table = LatencyTable(milliseconds={layer.name: times for layer in LAYERS}, rest=1.0)
    table.save(tmp_path / "times.csv")
    latency = str(tmp_path / "times.csv")
    data = read_run(make_run(objectives=["difference", "latency"], budgets={"latency_ms": 3.0}, latency=latency))
    for point in data.front:
        bits = point.policy.to_array()
        assert point.value("latency") == pytest.approx(1.0 + (0.1 * bits[:, 0] + 0.01 * bits[:, 1]).sum())
        assert point.value("latency") <= 3.0
    html = render_report(data)
    assert 'data-key="latency_ms"' in html
    assert html.count('<figure class="front">') == 1


@pytest.mark.usefixtures("no_pictures")
def test_an_interrupted_run_and_a_front_file_alone(make_run, tmp_path):
    folder = make_run(finished=True)
    front = evoq.ParetoFront.load(folder / "front.json")
    one = replace(front, points=front.points[:1], provenance={**front.provenance, "interrupted": True})
    one.save(folder / "front.json")
    assert "was interrupted" in read_run(folder).notes[0]
    data = write_report(folder / "front.json", tmp_path / "out.html", pick="0")
    assert len(data.front) == 1
    assert "was not given" not in (tmp_path / "out.html").read_text()
    replace(one, points=(one.points[0],) * 3).save(folder / "front.json")
    assert render_report(read_run(folder)).count("<tr data-row=") == 3


@pytest.mark.usefixtures("no_pictures")
def test_a_calibrated_policy_in_the_run_is_found(make_run, calibrated):
    folder = make_run(finished=True)
    shutil.move(calibrated(read_run(folder).front[0].policy), folder / "calibrated")
    assert "It is of point 0, not of the chosen one" in render_report(read_run(folder))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (shutil.rmtree, MissingFileError, "no such file or folder"),
        (lambda folder: (folder / "run.json").unlink(), MissingFileError, "not the folder of a run"),
        (lambda folder: (folder / "run.json").write_text("{"), FormatError, "not JSON"),
        (lambda folder: (folder / "front.json").write_text("[]"), FormatError, "front"),
    ],
)
def test_bad_runs(make_run, spoil, error, message):
    folder = make_run(finished=True)
    spoil(folder)
    with pytest.raises(error, match=message):
        read_run(folder)


def test_bad_arguments_write_nothing(make_run, tmp_path):
    folder = make_run(finished=True)
    with pytest.raises(ArgumentError, match="pick"):
        write_report(folder, tmp_path / "out.html", pick="best")
    with pytest.raises(MissingFileError, match=r"calibrated\.json"):
        write_report(folder, tmp_path / "out.html", calibrated=tmp_path)
    assert not (tmp_path / "out.html").exists()


PROBE = """
<script>
window.onerror = (message) => { document.documentElement.dataset.failed = message; };
window.addEventListener("load", () => {
  const all = () => [...document.querySelectorAll("#points tbody tr")];
  const rows = () => all().filter((row) => !row.hidden).map((row) => row.dataset.row);
  const found = { first: rows(), title: document.title, chosen: document.getElementById("policy-title").textContent };
  document.querySelector('button[data-key="difference"]').click();
  found.sorted = rows();
  const limit = document.querySelector('[data-limit="gbops"]');
  limit.value = LIMIT;
  limit.dispatchEvent(new Event("input"));
  found.limited = rows();
  found.count = document.getElementById("count").textContent;
  const target = document.getElementById("front0-point-1");
  target.dispatchEvent(new MouseEvent("mouseenter"));
  found.hovered = document.getElementById("policy-title").textContent;
  target.dispatchEvent(new MouseEvent("mouseleave"));
  found.left = document.getElementById("policy-title").textContent;
  target.dispatchEvent(new MouseEvent("click"));
  found.clicked = document.getElementById("policy-title").textContent;
  found.names = [...document.querySelectorAll("#policy-bits span:not(.bar)")].map((e) => e.textContent);
  found.failed = document.documentElement.dataset.failed ?? "";
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(found))));
  document.body.append(result);
});
</script>
"""


def test_a_browser_sorts_filters_and_shows_policies(make_run, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs a browser to run the report's script: chromium or google-chrome on the PATH")
    folder = make_run(finished=True, policies=60)
    front = read_run(folder).front
    limit = float(np.median(front.values("bops")))
    html = render_report(read_run(folder)).replace("<head>", "<head>" + PROBE.replace("LIMIT", f'"{limit!r}"'), 1)
    page = tmp_path / "page.html"
    page.write_text(html)
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += ["--virtual-time-budget=2000", f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = json.loads(base64.b64decode(re.search(r'<pre id="result">(.*?)</pre>', done.stdout)[1]))
    n = len(front)
    assert found["failed"] == ""
    assert found["title"] == "run: evoq-moo report"
    assert found["first"] == [str(i) for i in range(n)]
    knee = front.points.index(front.point_of(front.knee()))
    assert found["chosen"].startswith(f"Point {knee}: difference ")
    order = np.argsort(front.values("difference"), kind="stable")
    assert found["sorted"] == [str(i) for i in order]
    kept = [i for i in order if front[int(i)].gbops <= limit]
    assert found["limited"] == [str(i) for i in kept]
    assert found["count"] == f"{len(kept)} of {n} shown"
    assert found["hovered"].startswith("Point 1: ")
    assert found["left"] == found["chosen"]
    assert found["clicked"].startswith("Point 1: ")
    assert found["clicked"].endswith("(kept)")
    assert found["names"] == list(SPACE.layer_names)
