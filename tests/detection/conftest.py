import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evoq_moo.detection import BoxDecoder
from evoq_moo.images import Preprocess


class OneBox(nn.Module):
    """Finds class 1 + brightness / 100 in the left half of every image, with certainty."""

    def __init__(self, classes=4, names=None):
        super().__init__()
        self.classes = classes
        self.decoder = BoxDecoder(default_boxes=torch.tensor([[0.25, 0.5, 0.5, 1.0]]))
        self.preprocess = Preprocess(crop=2, stretch=True, mean=(0.0,) * 3, std=(1.0,) * 3)
        self.class_names = names

    def forward(self, x):
        label = 1 + (x.mean((1, 2, 3)) * 2.55).round().long()
        logits = 20 * torch.nn.functional.one_hot(label, self.classes).float()
        return {"cls_logits": logits[:, None], "bbox_regression": torch.zeros(len(x), 1, 4)}


@pytest.fixture
def one_box():
    return OneBox


@pytest.fixture
def pictures(tmp_path):
    """Three images of 40x20 pixels whose brightness says class 0, 1 and 2."""
    folder = tmp_path / "JPEGImages"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.full((20, 40, 3), 100 * i, np.uint8)).save(folder / f"{i:03}.png")
    return folder


@pytest.fixture
def coco_file(pictures):
    """COCO's JSON of those images: category ids with gaps, the left half of each image annotated."""
    data = {
        "images": [{"id": 5 + i, "file_name": f"{i:03}.png", "width": 40, "height": 20} for i in range(3)],
        "categories": [{"id": i, "name": n} for i, n in ((2, "cat"), (7, "dog"), (9, "cow"))],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 2, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0},
            {"id": 2, "image_id": 6, "category_id": 7, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0},
            {"id": 3, "image_id": 7, "category_id": 2, "bbox": [20, 0, 20, 20], "area": 400, "iscrowd": 0},
        ],
    }
    path = pictures.parent / "instances.json"
    path.write_text(json.dumps(data))
    return path
