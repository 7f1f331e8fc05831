import contextlib
import io
import json

import numpy as np
import pytest
import torch

from evoq_moo.detection import Detections, Truth, mean_average_precision
from evoq_moo.errors import ImageError

pytest.importorskip("pycocotools", reason='needs pip install "evoq-moo[detection]"')
NAMES = ("a", "b", "c")


def truth(rows, difficult=(), crowd=()):
    boxes = torch.tensor([row[1:] for row in rows], dtype=torch.float32).reshape(-1, 4)
    flags = [torch.tensor([i in chosen for i in range(len(rows))], dtype=torch.bool) for chosen in (difficult, crowd)]
    labels = torch.tensor([row[0] for row in rows], dtype=torch.int64)
    return Truth(boxes=boxes, labels=labels, difficult=flags[0], crowd=flags[1])


def found(rows):
    rows = sorted(rows, key=lambda row: -row[1])
    return Detections(
        boxes=torch.tensor([row[2:] for row in rows], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor([row[1] for row in rows], dtype=torch.float32),
        labels=torch.tensor([row[0] for row in rows], dtype=torch.int64),
    )


def random_case(seed, images=12):
    """Objects on a grid, so that a detection overlaps one at most; detections near them, off, or of other classes."""
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for _ in range(images):
        places = rng.permutation(16)[: rng.integers(0, 7)]
        objects = [(int(rng.integers(3)), *_corners(place)) for place in places]
        rows = []
        for label, *corners in objects:
            for _ in range(rng.integers(0, 3)):
                moved = np.array(corners) + rng.normal(0, 3, 4)
                rows.append((label if rng.random() < 0.8 else int(rng.integers(3)), rng.random(), *moved))
        for _ in range(rng.integers(0, 3)):
            rows.append((int(rng.integers(3)), rng.random(), *_corners(rng.integers(16))))
        truths.append(truth(objects))
        detections.append(found(rows))
    return detections, truths


def _corners(place):
    x, y = 50 * (place % 4), 50 * (place // 4)
    return x + 5.0, y + 5.0, x + 40.0, y + 35.0


def overlap(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return width * height / (sum(areas) - width * height)


def voc_by_hand(detections, truths, label):
    """Average precision of one class as VOC's program computes it: (11 recalls, all recalls)."""
    rows = []
    for i, d in enumerate(detections):
        mine = (d.labels == label).tolist()
        rows += [(s, i, b) for b, s, m in zip(d.boxes.tolist(), d.scores.tolist(), mine, strict=True) if m]
    rows.sort(key=lambda row: -row[0])
    objects = [[b for b, c in zip(t.boxes.tolist(), t.labels.tolist(), strict=True) if c == label] for t in truths]
    count = sum(map(len, objects))
    taken = set()
    hits = []
    for _, image, box in rows:
        overlaps = [overlap(box, other) for other in objects[image]]
        best = int(np.argmax(overlaps)) if overlaps else -1
        hit = best >= 0 and overlaps[best] >= 0.5 and (image, best) not in taken
        taken |= {(image, best)} if hit else set()
        hits.append(hit)
    true = np.cumsum(hits)
    recall, precision = true / count, true / np.arange(1, len(true) + 1)
    eleven = np.mean([max(precision[recall >= r - 1e-12], default=0) for r in np.linspace(0, 1, 11)])
    recall, precision = np.r_[0, recall, 1], np.r_[0, precision, 0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return eleven, float(((recall[1:] - recall[:-1]) * precision[1:]).sum())


@pytest.mark.parametrize("seed", range(4))
def test_voc_measures_equal_vocs_own_program(seed):
    detections, truths = random_case(seed)
    result = mean_average_precision(detections, truths, NAMES)
    by_hand = np.array([voc_by_hand(detections, truths, label) for label in range(3)])
    assert result.voc07 == pytest.approx(by_hand[:, 0].mean(), abs=1e-9)
    assert result.voc == pytest.approx(by_hand[:, 1].mean(), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_coco_measures_equal_plain_pycocotools_from_files(seed, tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    detections, truths = random_case(seed)
    annotations, results = [], []
    for i, (d, t) in enumerate(zip(detections, truths, strict=True)):
        for (x1, y1, x2, y2), c in zip(t.boxes.tolist(), t.labels.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            row = {"id": len(annotations) + 1, "image_id": i, "category_id": c, "bbox": box, "iscrowd": 0}
            annotations.append({**row, "area": box[2] * box[3]})
        for (x1, y1, x2, y2), c, s in zip(d.boxes.tolist(), d.labels.tolist(), d.scores.tolist(), strict=True):
            results.append({"image_id": i, "category_id": c, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": s})
    data = {"images": [{"id": i} for i in range(len(truths))], "annotations": annotations}
    data["categories"] = [{"id": i, "name": n} for i, n in enumerate(NAMES)]
    (tmp_path / "truth.json").write_text(json.dumps(data))
    (tmp_path / "found.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "truth.json")
        evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "found.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    result = mean_average_precision(detections, truths, NAMES)
    assert [result.map, result.map50, result.map75] == pytest.approx(evaluation.stats[:3].tolist(), abs=1e-12)


def test_difficult_objects_and_crowds_count_neither_way():
    here, there = (0, 0, 10, 10), (50, 50, 90, 90)
    plain = mean_average_precision([found([(0, 0.9, *here)])], [truth([(0, *here)])], NAMES)
    assert (plain.map, plain.voc07, plain.voc, plain.objects) == pytest.approx((1, 1, 1, 1))
    for flags in ({"difficult": [1]}, {"crowd": [1]}):
        detections = [found([(0, 0.9, *there), (0, 0.8, *here)])]
        result = mean_average_precision(detections, [truth([(0, *here), (0, *there)], **flags)], NAMES)
        assert (result.map, result.voc, result.objects) == pytest.approx((1, 1, 1))
    with pytest.raises(ImageError, match="without an object that counts"):
        mean_average_precision([found([])], [truth([(0, *here)], difficult=[0])], NAMES)


def test_nothing_found_is_zero_and_classes_without_objects_do_not_count():
    result = mean_average_precision([found([(1, 0.9, 0, 0, 5, 5)])], [truth([(0, 0, 0, 5, 5)])], NAMES)
    assert (result.map, result.voc) == (0, 0)
    assert result.classes == {"a": 0}
    assert "mAP 0.00 %" in str(result)
    assert json.loads(json.dumps(result.to_json()))["classes"] == {"a": 0}
