"""Measuring the accuracy curve of a run, and the front of all that its store holds."""

import pytest
import torch

import evoq_moo as evoq
from evoq_moo.accuracy import AccuracyCurve, Judge
from evoq_moo.errors import ArgumentError, InfeasibleBudgetError
from evoq_moo.runs import RunSettings, execute, load_front, measure_curve, measure_run

SETTINGS = RunSettings(recipe=evoq.Recipe(model="digits", count=5), pop_size=10, seed=1)


@pytest.fixture(scope="module")
def network():
    return SETTINGS.recipe(threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("curve") / "run"
    execute(SETTINGS, path, evaluations=30, threads=1, progress=False)
    return path


@pytest.fixture
def judge():
    """A judge of nothing but how many networks it has seen."""
    seen = []

    def accuracy_of(module):
        with torch.no_grad():
            assert module(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
        seen.append(module)
        return 1 / len(seen)

    made = Judge(measure="top-1", images="none", count=7, digest="d", accuracy_of=accuracy_of)
    return made, seen


def test_float_uniform_and_points_are_measured_once(network, folder, judge):
    made, seen = judge
    curve = measure_run(network, folder, made, points=3, progress=False)
    kinds = [row.kind for row in curve.rows]
    assert kinds == ["float"] + ["uniform"] * 6 + ["front"] * 3
    assert [row.name for row in curve.rows[1:7]] == ["W8A8", "W7A7", "W6A6", "W5A5", "W4A4", "W3A3"]
    assert curve.rows[0].costs["size"] > 3.9 * curve.rows[1].costs["size"]
    # A point of the front may be one of the uniform policies.
    different = len({row.policy for row in curve.rows})
    assert len(curve.rows) == 10
    assert len(seen) == different
    assert (folder / "accuracy.png").stat().st_size > 5000
    again = measure_run(network, folder, made, points=3, calibration="outputs", progress=False)
    assert len(seen) == different + 3
    assert [row.calibration for row in again.rows[-3:]] == ["outputs"] * 3
    assert load_front(folder).curve == again
    with pytest.raises(ArgumentError, match="other images"):
        measure_run(network, folder, Judge(**{**made.__dict__, "digest": "e"}), progress=False)
    fresh = measure_run(network, folder, Judge(**{**made.__dict__, "digest": "e"}), points=1, again=True)
    assert fresh.judged_by == "e"


def test_an_interrupted_measurement_goes_on(network, folder, judge, tmp_path):
    made, seen = judge
    front, path = load_front(folder), tmp_path / "accuracy.json"

    def interrupted(module):
        if len(seen) == 4:
            raise KeyboardInterrupt
        return made.accuracy_of(module)

    with pytest.raises(KeyboardInterrupt):
        measure_curve(network, front, Judge(**{**made.__dict__, "accuracy_of": interrupted}), path=path, points=2)
    assert len(AccuracyCurve.load(path).rows) == 4
    whole = measure_curve(network, front, made, path=path, points=2, progress=False)
    assert len(whole.rows) == len(seen) == 9


def test_the_front_shows_and_picks_by_accuracy(network, folder, judge):
    made, _ = judge
    curve = measure_curve(network, load_front(folder), made, progress=False)
    front = evoq.ParetoFront(points=load_front(folder).points, objectives=("difference", "bops"), curve=curve)
    measured = {row.policy: row.accuracy for row in curve.rows if row.kind == "front"}
    best = front.choose("accuracy")
    assert measured[best.policy] == max(measured.values())
    assert "highest top-1" in best.reason
    least = 100 * sorted(measured.values())[-2]
    assert (
        front.pick(f"accuracy>={least}")
        == min((p for p in front if measured[p.policy] >= least / 100), key=lambda p: p.gbops).policy
    )
    assert front.pick("drop<=100") == front[0].policy
    assert len(front.table().columns) == len(load_front(folder).table().columns)
    with pytest.raises(InfeasibleBudgetError, match=r"accuracy>=99.*highest top-1"):
        front.pick("accuracy>=99")
    with pytest.raises(ArgumentError, match="one number"):
        front.pick("drop<=1,2")
    with pytest.raises(ArgumentError, match="no accuracy of these points is known.*evoq evaluate"):
        evoq.ParetoFront(points=front.points, objectives=front.objectives).pick("accuracy")
    assert front.under(bops=front[2].gbops).curve is curve


@pytest.mark.parametrize(
    ("options", "message"), [({"points": 0}, "points: given 0"), ({"calibration": "lihgt"}, "steps: unknown name")]
)
def test_bad_arguments(network, folder, judge, options, message):
    with pytest.raises(ArgumentError, match=message):
        measure_curve(network, load_front(folder), judge[0], **options)


def test_a_finished_front_never_shrinks(tmp_path):
    """150 evaluations, then 20 of the same search, gave 45 points and then 29."""
    path = tmp_path / "run"
    long = execute(SETTINGS, path, evaluations=60, threads=1, progress=False).front
    again = execute(SETTINGS, path, evaluations=12, threads=1, progress=False).front
    assert again.points == long.points == load_front(path).points
    assert again.provenance["policies_known"] == long.provenance["policies_known"] >= 40
