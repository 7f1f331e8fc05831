"""Ranks, calibration, and difference against accuracy."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from evoq_moo.analysis import friedman_nemenyi
from evoq_moo.calibration import CalibrationReport, StepReport
from evoq_moo.errors import ArgumentError
from evoq_moo.plots import (
    plot_calibration,
    plot_critical_difference,
    plot_difference_accuracy,
    plot_layer_errors,
    save_axes,
)


def test_critical_difference_diagram(tmp_path):
    scores = np.array([[0.9, 0.85, 0.1], [0.8, 0.81, 0.2], [0.9, 0.7, 0.3], [0.6, 0.5, 0.1], [0.9, 0.8, 0.2]])
    result = friedman_nemenyi(scores, ["ours", "a$b$", "random"])
    ax = plot_critical_difference(result)
    dots = [found.get_xdata()[0] for found in ax.get_lines() if found.get_marker() == "o"]
    assert dots == sorted(result.average_ranks)
    bars = [sorted(found.get_xdata()) for found in ax.get_lines() if found.get_linewidth() == 3]
    ranks = dict(zip(result.names, result.average_ranks, strict=True))
    assert bars == [sorted([ranks[c[0]], ranks[c[-1]]]) for c in result.cliques]
    ruler = next(found for found in ax.get_lines() if found.get_marker() == "|")
    assert np.ptp(ruler.get_xdata()) == pytest.approx(result.critical_difference)
    assert any(text.get_text().startswith(r"a\$b\$") for text in ax.texts)
    save_axes(ax, tmp_path / "x.png")


def step(name, after, held_out_after, outcome="kept"):
    return StepReport(
        step=name,
        outcome=outcome,
        before=1.0,
        after=after,
        held_out_before=1.2,
        held_out_after=held_out_after,
        seconds=1,
    )


def test_calibration_steps():
    steps = (step("features", 0.5, 0.6), step("outputs", 0.4, 0.7, "rolled back"))
    report = CalibrationReport(metric="kl", samples=50, folds=2, seed=0, steps=steps, seconds=3)
    ax = plot_calibration(report)
    assert [list(found.get_ydata()) for found in ax.get_lines()] == [[1.0, 0.5, 0.4], [1.2, 0.6, 0.7]]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["plain", "features", "outputs\n(rolled back)"]
    empty = CalibrationReport(metric="kl", samples=50, folds=2, seed=0, steps=(), seconds=3)
    with pytest.raises(ArgumentError, match="no step"):
        plot_calibration(empty)


def test_layer_errors():
    ax = plot_layer_errors(["a", "b"], {"plain": [0.1, 0.2], "calibrated": [0.01, 0.02]})
    assert [list(found.get_xdata()) for found in ax.get_lines()] == [[0.1, 0.2], [0.01, 0.02]]
    assert ax.get_xscale() == "log"
    assert plot_layer_errors(["a"], {"plain": [0.0]}).get_xscale() == "linear"
    for layers, errors in ((["a"], {"plain": [0.1, 0.2]}), ([], {}), (["a"], {})):
        with pytest.raises(ArgumentError, match="errors"):
            plot_layer_errors(layers, errors)


def test_difference_against_accuracy_states_tau():
    differences, accuracies = [0.1, 0.2, 0.4, 0.8], [0.9, 0.7, 0.8, 0.1]
    ax = plot_difference_accuracy(differences, accuracies)
    tau = kendalltau([-d for d in differences], accuracies).statistic
    assert ax.get_title() == f"Kendall's tau {tau:.2f}, 4 policies"
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), [90, 70, 80, 10])
    assert "not defined" in plot_difference_accuracy([0.1, 0.2], [0.5, 0.5]).get_title()
    assert "not defined" in plot_difference_accuracy([0.1], [0.5]).get_title()
    for given in ([], [0.5, 0.5]):
        with pytest.raises(ArgumentError, match="accuracies"):
            plot_difference_accuracy([0.1], given)
