"""The accuracy curve as a picture."""

import pytest

import evoq_moo as evoq
from evoq_moo.accuracy import AccuracyCurve, MeasuredPolicy, float_policy
from evoq_moo.errors import ArgumentError, UnknownNameError
from evoq_moo.plots import plot_accuracy_curve, save_axes

LAYERS = ("a", "b")


def row(bits, accuracy, *, kind="front", calibration="", **costs):
    policy = evoq.Policy(LAYERS, (bits, bits), (bits, bits))
    return MeasuredPolicy(kind=kind, policy=policy, accuracy=accuracy, calibration=calibration, costs=costs)


@pytest.fixture
def curve():
    made = AccuracyCurve(measure="top-1", images="val/", count=650, judged_by="j", network="n")
    exact = MeasuredPolicy(kind="float", policy=float_policy(LAYERS), accuracy=0.7, costs={"size": 16.0})
    for one in (
        exact,
        row(4, 0.6, kind="uniform", size=2.0),
        row(8, 0.7, kind="uniform", size=4.0),
        row(6, 0.65, size=3.0),
        row(2, 0.1, size=1.0),
        row(6, 0.69, size=3.0, calibration="light"),
    ):
        made = made.added(one)
    return made


def test_shows_float_uniform_ours_and_the_chosen_point(curve, tmp_path):
    ax = plot_accuracy_curve(curve, chosen=curve.rows[3].policy)
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.get_lines()}
    assert drawn["float network, 70.00 %"][1] == [70, 70]
    assert drawn["uniform bit-widths"] == ([2, 4], [60, 70])
    assert drawn["mixed bit-widths"][0] == [1, 3]  # by cost
    assert drawn["mixed bit-widths, calibrated"] == ([3], [69])
    assert drawn["chosen"] == ([3], [69])
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["W4A4", "W8A8", "1 of 5 are below 40 %"]
    assert ax.get_ylim()[0] == pytest.approx(40)
    assert ax.get_xlabel() == "weight size (MiB)"
    assert ax.get_ylabel() == "top-1 (%), 650 images"
    save_axes(ax, tmp_path / "accuracy.png")


def test_bad_arguments(curve):
    with pytest.raises(UnknownNameError, match="x: unknown name 'sise'"):
        plot_accuracy_curve(curve, x="sise")
    with pytest.raises(ArgumentError, match="x: given 'latency', which is known of no measured policy"):
        plot_accuracy_curve(curve, x="latency")
