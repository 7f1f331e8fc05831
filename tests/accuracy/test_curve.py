"""The accuracy curve: its file, what it says of a policy, and what it is judged by."""

import json

import numpy as np
import pytest
from PIL import Image

from evoq_moo.accuracy import (
    AccuracyCurve,
    MeasuredPolicy,
    check_same_images,
    float_policy,
    read_curve,
    top1_judge,
)
from evoq_moo.errors import ArgumentError, FormatError
from evoq_moo.images import ImageSource, Preprocess
from evoq_moo.space import Policy

POLICY = Policy(("a", "b", "c"), (8, 4, 4), (8, 5, 5))


def row(accuracy, *, kind="front", policy=POLICY, calibration=""):
    return MeasuredPolicy(
        kind=kind, policy=policy, accuracy=accuracy, costs={"size": 1.5, "bops": 2.0}, calibration=calibration
    )


@pytest.fixture
def curve():
    empty = AccuracyCurve(measure="top-1", images="val/", count=650, judged_by="j", network="n")
    exact = row(0.75, kind="float", policy=float_policy(POLICY.layers))
    return empty.added(exact).added(row(0.5)).added(row(0.7, calibration="light"))


def test_names_and_figures(curve):
    assert curve.rows[0].name == "float"
    assert curve.rows[1].name == "W4A5"
    assert curve.exact == 0.75
    assert curve.of(POLICY).accuracy == 0.7  # a point is shipped calibrated, so that figure counts
    assert curve.of(POLICY, calibration="").accuracy == 0.5
    assert curve.of(POLICY, calibration="full") is None
    assert curve.of(Policy(POLICY.layers, (2, 2, 2), (2, 2, 2))) is None


def test_files_round_trip(curve, tmp_path):
    assert read_curve(tmp_path) is None
    curve.save(tmp_path / "accuracy.json")
    assert read_curve(tmp_path) == curve


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "evoq-moo/front"}, "given format"),
        ({"version": 2}, "given version 2"),
        ({"measure": "top-5"}, "measure"),
        ({"count": 0}, "count"),
        ({"layers": ["a"]}, "1 layers need as many"),
        ({"rows": [{"kind": "front"}]}, "is needed"),
    ],
)
def test_damaged_files(curve, tmp_path, change, message):
    curve.save(tmp_path / "accuracy.json")
    data = json.loads((tmp_path / "accuracy.json").read_text()) | change
    (tmp_path / "accuracy.json").write_text(json.dumps(data))
    with pytest.raises(FormatError, match=message):
        read_curve(tmp_path)


@pytest.mark.parametrize("accuracy", [-0.1, 1.5, "high"])
def test_an_accuracy_is_a_fraction(curve, tmp_path, accuracy):
    curve.save(tmp_path / "accuracy.json")
    data = json.loads((tmp_path / "accuracy.json").read_text())
    data["rows"][1]["accuracy"] = accuracy
    (tmp_path / "accuracy.json").write_text(json.dumps(data))
    with pytest.raises(FormatError, match="accuracy"):
        read_curve(tmp_path)


def test_other_images_are_refused(curve):
    check_same_images(curve, curve, "accuracy.json")
    for name in ("judged_by", "network"):
        other = AccuracyCurve(**{**curve.__dict__, name: "x"})
        with pytest.raises(ArgumentError, match=r"accuracy.json holds accuracies of other .* --again"):
            check_same_images(curve, other, "accuracy.json")


class TestJudge:
    @pytest.fixture
    def photos(self, tmp_path):
        rng = np.random.default_rng(0)
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        return tmp_path

    def digest(self, photos, labels=(0, 1, 2), crop=8, **options):
        return top1_judge(str(photos), labels, Preprocess(crop=crop), **options).digest

    def test_its_digest_is_of_all_that_decides(self, photos):
        first = self.digest(photos)
        assert first == self.digest(photos)
        others = [self.digest(photos, labels=(0, 1, 1)), self.digest(photos, crop=7), self.digest(photos, limit=2)]
        Image.new("RGB", (9, 9)).save(photos / "1.png")
        assert len({first, *others, self.digest(photos)}) == 5

    def test_images_in_memory_have_one_too(self):
        array = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
        pictures = [Image.fromarray(one) for one in array]
        assert ImageSource(array).digest(2) == ImageSource(pictures).digest(2) != ImageSource(array).digest(1)
