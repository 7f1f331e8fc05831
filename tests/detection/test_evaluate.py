import json
import sys

import pytest
import torch
from torch import nn

import evoq_moo as evoq
from evoq_moo.detection import Detector, evaluate_detection, read_coco, read_yolo
from evoq_moo.errors import ArgumentError, ImageError, MissingPackageError, NetworkError

pytest.importorskip("pycocotools", reason='needs pip install "evoq-moo[detection]"')


def test_classes_are_matched_by_name(pictures, coco_file, one_box):
    # The detector finds class 1, 2, 3 in images 0, 1, 2; objects are cat, dog and, elsewhere, cat.
    network = one_box(names=("cat", "dog", "cow"))
    result = evaluate_detection(network, pictures, annotations=coco_file)
    assert result.classes == pytest.approx({"cat": 0.504950495, "dog": 1})
    assert result.count == 3
    other = one_box(names=("dog", "cat", "cow"))
    assert evaluate_detection(other, read_coco(pictures, coco_file)).map == 0
    more = one_box(classes=5, names=("cat", "dog", "horse", "cow"))
    assert evaluate_detection(Detector(more), pictures, annotations=coco_file).classes == result.classes
    assert evaluate_detection(network, pictures, annotations=coco_file, limit=1).classes == pytest.approx({"cat": 1})


def test_class_counts_that_do_not_match(pictures, coco_file, one_box):
    with pytest.raises(ArgumentError, match="has the classes dog, which the detector does not know"):
        evaluate_detection(one_box(names=("cat", "bird", "cow")), pictures, annotations=coco_file)
    with pytest.raises(ArgumentError, match="class_names: given 2 names; the network has 3"):
        evaluate_detection(one_box(names=("cat", "dog")), pictures, annotations=coco_file)
    with pytest.raises(ArgumentError, match="has 3 classes, the detector 4 beside background"):
        evaluate_detection(one_box(classes=5), pictures, annotations=coco_file)


def test_sets_without_names_are_matched_by_number(pictures, one_box):
    for i in range(3):
        (pictures / f"{i:03}.txt").write_text(f"{i} 0.25 0.5 0.5 1")
    result = evaluate_detection(one_box(names=("cat", "dog", "cow")), read_yolo(pictures))
    assert result.classes == pytest.approx({"0": 1, "1": 1, "2": 1})


def test_arguments_beside_a_detector_or_a_set(pictures, coco_file, one_box):
    detector = Detector(one_box(names=("cat", "dog", "cow")))
    with pytest.raises(ArgumentError, match="class_names: given beside a Detector"):
        evaluate_detection(detector, pictures, annotations=coco_file, class_names=["a"])
    with pytest.raises(ArgumentError, match="annotations: given beside a DetectionSet"):
        evaluate_detection(detector, read_coco(pictures, coco_file), annotations=coco_file)
    with pytest.raises(ArgumentError, match="limit: given 0"):
        evaluate_detection(detector, pictures, annotations=coco_file, limit=0)


def test_a_detector_asked_for_top1(pictures, one_box):
    labels = [0, 1, 2]
    with pytest.raises(ArgumentError, match="is a detector, which has no top-1"):
        evoq.evaluate_accuracy(one_box(), pictures, labels=labels)
    bare = one_box()
    preprocess = bare.preprocess
    del bare.decoder
    with pytest.raises(NetworkError, match="evaluate_detection measures detectors"):
        evoq.evaluate_accuracy(bare, pictures, labels=labels, preprocess=preprocess)


def test_a_classifier_asked_for_map(pictures, coco_file, one_box):
    with pytest.raises(ArgumentError, match="decoder: none given"):
        evaluate_detection(nn.Flatten(), pictures, annotations=coco_file)
    classifier = nn.Flatten()
    options = {"decoder": one_box().decoder, "preprocess": one_box().preprocess, "annotations": coco_file}
    with pytest.raises(NetworkError, match="the network gave a Tensor"):
        evaluate_detection(classifier, pictures, **options)


def test_corrupt_picture_is_named(pictures, coco_file, one_box):
    (pictures / "001.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"001\.png: can't be read"):
        evaluate_detection(one_box(names=("cat", "dog", "cow")), pictures, annotations=coco_file)


def test_missing_package_says_how_to_install(pictures, coco_file, one_box, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingPackageError, match=r'pip install "evoq-moo\[detection\]"'):
        evaluate_detection(one_box(), pictures, annotations=coco_file)


@pytest.mark.real
def test_float_map_of_ssd_mobilenet_equals_plain_pycocotools(shared_data, tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    model = evoq.zoo.load(
        "ssd_mobilenet_v1_075_coco", weights=shared_data("weights/ssd_mobilenet_v1_075_coco.safetensors")
    )
    result = evaluate_detection(model.network, shared_data("coco_val_64"), limit=12)
    data = json.loads((shared_data("coco_val_64") / "annotations.json").read_text())
    keys = sorted(data)[:12]
    ids = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    truth = {"images": [{"id": int(k)} for k in keys], "categories": [{"id": i} for i in ids], "annotations": []}
    for key in keys:
        for c, x1, y1, x2, y2 in data[key]["boxes_cls_x1y1x2y2"]:
            row = {"id": len(truth["annotations"]) + 1, "image_id": int(key), "category_id": ids[c], "iscrowd": 0}
            row |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            truth["annotations"].append(row)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    files = [shared_data("coco_val_64") / "images" / f"{key}.jpg" for key in keys]
    rows = []
    for key, one in zip(keys, Detector(model.network).detect(files), strict=True):
        for (x1, y1, x2, y2), s, c in zip(one.boxes.tolist(), one.scores.tolist(), one.labels.tolist(), strict=True):
            rows.append({"image_id": int(key), "category_id": c, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": s})
    coco = COCO(tmp_path / "truth.json")
    evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert [result.map, result.map50, result.map75] == pytest.approx(evaluation.stats[:3].tolist(), abs=1e-6)
    assert torch.isfinite(torch.tensor(result.voc))
