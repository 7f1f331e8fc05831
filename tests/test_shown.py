"""What notebooks and prompts show of the things users hold: one line, and HTML with everything in it escaped."""

import pytest

import evoq_moo as evoq
from evoq_moo.calibration import CalibrationReport, StepReport

NAME = "<b>layer</b>"


@pytest.fixture
def policy():
    return evoq.Policy((NAME, "b"), (4, 8), (8, 8))


@pytest.fixture
def front(policy):
    points = [evoq.FrontPoint(policy=policy, difference=0.25, costs={"size": 1.0, "bops": 2.0})]
    return evoq.ParetoFront(points=tuple(points), objectives=("difference", "bops"), provenance={"metric": "<i>"})


def test_policy(policy):
    assert repr(policy) == "Policy(2 layers, mean weight bits 6.00, mean activation bits 8.00)"
    assert "&lt;b&gt;layer&lt;/b&gt;</td><td>4</td><td>8</td>" in policy._repr_html_()


def test_front(front):
    assert repr(front) == "ParetoFront(1 points, difference 0.25..0.25, bops 2..2)"
    assert "<th>difference (&lt;i&gt;)</th>" in front._repr_html_()
    assert repr(evoq.ParetoFront(points=(), objectives=("bops",))) == "ParetoFront(0 points)"


def test_run(front):
    run = evoq.SearchRun(front=front, vectors=[[1]], trace=(), interrupted=True)
    assert repr(run) == f"SearchRun({front!r} of 1 policies, interrupted)"
    html = run._repr_html_()
    assert html.startswith('<img alt="the front" src="data:image/svg+xml;base64,')
    assert "<table>" in html


def test_network(tiny_model, tiny_samples):
    network = evoq.QuantizedNetwork(tiny_model, tiny_samples, progress=False)
    layers, genes = len(network.space.layers), network.space.n_var
    start = (
        f"QuantizedNetwork({layers} layers, {genes} genes, 12 samples, difference 'nmse', {network.engine_name} engine)"
    )
    assert repr(network) == start
    assert "of the MACs" in network._repr_html_()


def test_calibration_report():
    step = StepReport(
        step="outputs", outcome="kept", before=0.5, after=0.1, held_out_before=0.6, held_out_after=0.2, seconds=1
    )
    report = CalibrationReport(metric="kl", samples=50, folds=2, seed=0, steps=(step,), seconds=1)
    assert repr(report) == "CalibrationReport(kl on 50 samples, held out: outputs 0.6 -> 0.2 (kept))"
    assert "<td>outputs</td>" in report._repr_html_()
