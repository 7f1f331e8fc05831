import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evoq_moo.detection import BoxDecoder, Detector
from evoq_moo.errors import ArgumentError, ImageError, MissingFileError, NetworkError
from evoq_moo.images import Preprocess

PREPROCESS = Preprocess(crop=4, stretch=True, mean=(0.0,) * 3, std=(1.0,) * 3)
BOXES = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5], [0.3, 0.25, 0.5, 0.5]])


class Fixed(nn.Module):
    """Gives the same heads for every image; class 1 is the image's brightness."""

    def __init__(self, logits, regression=None, **attributes):
        super().__init__()
        self.logits = torch.tensor(logits)
        self.regression = torch.zeros(len(logits), 4) if regression is None else torch.tensor(regression)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return {
            "cls_logits": self.logits.expand(len(x), -1, -1),
            "bbox_regression": self.regression.expand(len(x), -1, -1),
        }


def detector(logits, regression=None, **options):
    decoder = BoxDecoder(default_boxes=BOXES[: len(logits)], **options)
    return Detector(Fixed(logits, regression), decoder=decoder, preprocess=PREPROCESS)


def pictures(*sizes):
    return [Image.new("RGB", size, (9, 9, 9)) for size in sizes]


class TestDecoding:
    def test_boxes_are_in_pixels_of_each_image(self):
        found = detector([[0.0, 5.0], [0.0, -9.0]]).detect(pictures((40, 20), (10, 100)))
        assert [one.boxes.tolist() for one in found] == [[[0, 0, 20, 10]], [[0, 0, 5, 50]]]
        assert found[0].labels.tolist() == [1]
        assert found[0].scores.item() == pytest.approx(1 / (1 + np.exp(-5)))

    def test_regressions_move_and_scale(self):
        code = [[10 * 0.5, 0.0, 5 * np.log(0.5), 5 * np.log(2.0)]]
        found = detector([[0.0, 5.0]], code).detect(pictures((100, 100)))
        # Center 0.25 + 0.5 * 0.5, width 0.25, height 1: clipped to the image above.
        assert found[0].boxes[0].tolist() == pytest.approx([37.5, 0, 62.5, 75])

    def test_huge_regressions_stay_finite(self):
        found = detector([[0.0, 5.0]], [[0.0, 0.0, 1e6, 1e6]]).detect(pictures((100, 100)))
        assert found[0].boxes[0].tolist() == [0, 0, 100, 100]

    def test_overlapping_boxes_of_a_class_are_suppressed_and_others_stay(self):
        logits = [[-9.0, 5.0, 4.0], [-9.0, 3.0, -9.0], [-9.0, 4.0, -9.0]]
        found = detector(logits, scores="sigmoid").detect(pictures((100, 100)))[0]
        assert found.labels.tolist() == [1, 2, 1]
        assert found.boxes[:, 0].tolist() == [0, 0, 50]
        kept = detector(logits, scores="sigmoid", nms_threshold=0.9).detect(pictures((100, 100)))[0]
        assert len(kept) == 4

    def test_counts_are_limited(self):
        logits = [[-9.0, 5.0], [-9.0, 3.0], [-9.0, 4.0]]
        options = {"scores": "sigmoid", "nms_threshold": 1.0}
        assert len(detector(logits, **options).detect(pictures((9, 9)))[0]) == 3
        assert len(detector(logits, candidates=2, **options).detect(pictures((9, 9)))[0]) == 2
        assert len(detector(logits, detections=1, **options).detect(pictures((9, 9)))[0]) == 1
        assert len(detector(logits, score_threshold=0.999, **options).detect(pictures((9, 9)))[0]) == 0

    @pytest.mark.parametrize(
        ("heads", "message"),
        [
            (torch.zeros(1, 5), "gave a Tensor"),
            ({"cls_logits": torch.zeros(1, 3, 2)}, "heads of shapes"),
            ({"cls_logits": torch.zeros(1, 5, 2), "bbox_regression": torch.zeros(1, 5, 4)}, "decoder of 3"),
            ({"cls_logits": torch.zeros(1, 3, 1), "bbox_regression": torch.zeros(1, 3, 4)}, "2 or more classes"),
        ],
    )
    def test_other_heads_are_refused(self, heads, message):
        with pytest.raises(NetworkError, match=message):
            BoxDecoder(default_boxes=BOXES)(heads)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"default_boxes": torch.zeros(0, 4)}, "default_boxes: given shape"),
            ({"scores": "tanh"}, "scores: unknown name"),
            ({"nms_threshold": 1.5}, "nms_threshold: given 1.5"),
            ({"candidates": 0}, "candidates: given 0"),
        ],
    )
    def test_bad_settings_are_refused(self, change, message):
        with pytest.raises(ArgumentError, match=message):
            BoxDecoder(**{"default_boxes": BOXES, **change})


class TestDetector:
    def test_takes_what_the_network_says_of_itself_or_what_its_float_network_says(self):
        decoder = BoxDecoder(default_boxes=BOXES[:1])
        network = Fixed([[0.0, 5.0]], decoder=decoder, preprocess=PREPROCESS, class_names=("cat",))
        assert Detector(network).class_names == ("cat",)
        quantized = Fixed([[0.0, 5.0]])
        quantized.__dict__["reference"] = network
        assert Detector(quantized).decoder is decoder

    def test_missing_parts_are_named(self):
        with pytest.raises(ArgumentError, match="decoder: none given"):
            Detector(Fixed([[0.0, 5.0]]))
        with pytest.raises(ArgumentError, match="preprocess: given one that crops"):
            Detector(Fixed([[0.0, 5.0]]), decoder=BoxDecoder(default_boxes=BOXES[:1]), preprocess=Preprocess(crop=4))
        with pytest.raises(ArgumentError, match="heads: given a str"):
            Detector("network")

    def test_one_pixel_greyscale_cmyk_and_rotated_images(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown rotated by 90 degrees clockwise
        Image.new("RGB", (40, 20)).save(tmp_path / "a_rotated.jpg", exif=exif)
        Image.new("CMYK", (30, 10)).save(tmp_path / "b_cmyk.jpg")
        Image.new("L", (20, 10)).save(tmp_path / "c_grey.png")
        Image.new("RGB", (1, 1)).save(tmp_path / "d_pixel.png")
        found = detector([[0.0, 5.0]]).detect(tmp_path)
        assert [one.boxes[0, 2:].tolist() for one in found] == [[10, 20], [15, 5], [10, 5], [0.5, 0.5]]

    def test_corrupt_image_is_named(self, tmp_path):
        Image.new("RGB", (40, 20)).save(tmp_path / "good.png")
        (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff nothing")
        with pytest.raises(ImageError, match=r"bad\.jpg: can't be read"):
            detector([[0.0, 5.0]]).detect(tmp_path)

    def test_files_in_the_given_order(self, tmp_path):
        for name, width in (("a.png", 10), ("b.png", 20)):
            Image.new("RGB", (width, 4)).save(tmp_path / name)
        found = detector([[0.0, 5.0]]).detect([tmp_path / "b.png", str(tmp_path / "a.png")])
        assert [one.boxes[0, 2].item() for one in found] == [10, 5]
        with pytest.raises(MissingFileError, match="gone"):
            detector([[0.0, 5.0]]).detect([tmp_path / "gone.png"])

    def test_results_do_not_depend_on_threads_or_batches(self):
        images = pictures(*[(9 + i, 7) for i in range(13)])
        one, two = (detector([[0.0, 5.0]]).detect(images, threads=n) for n in (1, 3))
        assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(one, two, strict=True))
