import json
import logging

import numpy as np
import pytest
from PIL import Image

from evoq_moo.detection import read_coco, read_corners, read_detection, read_voc, read_yolo
from evoq_moo.errors import ArgumentError, ImageError, MissingFileError

pytest.importorskip("pycocotools", reason='needs pip install "evoq-moo[detection]"')


def rows(found):
    return [[(found.class_names[c], *b) for c, b in zip(t.labels, t.boxes.tolist(), strict=True)] for t in found.truths]


def voc_xml(folder, stem, *objects, size=(40, 20), filename=None):
    parts = [f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"]
    parts += [f"<filename>{filename}</filename>"] if filename else []
    for name, corners, difficult in objects:
        box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
        parts.append(f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>")
    (folder / "Annotations").mkdir(exist_ok=True)
    (folder / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{''.join(parts)}</annotation>")


class TestVoc:
    def test_boxes_names_and_difficult_flags(self, pictures):
        root = pictures.parent
        voc_xml(root, "000", ("cat", (1, 2, 20, 18), 0), ("dog", (5, 5, 9, 9), 1), filename="000.png")
        voc_xml(root, "001", filename="001.png")
        found = read_voc(root)
        assert [f.name for f in found.files] == ["000.png", "001.png"]
        assert rows(found) == [[("cat", 1, 2, 20, 18), ("dog", 5, 5, 9, 9)], []]
        assert found.truths[0].difficult.tolist() == [False, True]
        assert len(found.class_names) == 20
        assert rows(read_detection(root)) == rows(found)

    def test_image_set(self, pictures):
        root = pictures.parent
        for stem in ("000", "001"):
            voc_xml(root, stem, ("cat", (1, 2, 20, 18), 0), filename=f"{stem}.png")
        (root / "ImageSets" / "Main").mkdir(parents=True)
        (root / "ImageSets" / "Main" / "test.txt").write_text("001\n\n")
        assert [f.stem for f in read_voc(root, image_set="test").files] == ["001"]
        with pytest.raises(MissingFileError, match="image_set: no such list"):
            read_voc(root, image_set="train")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("<annotation><object>", r"000\.xml: not XML"),
            ("<other/>", r"000\.xml: not an annotation"),
            ("<annotation><object><name>cat</name></object></annotation>", "not an annotation"),
        ],
    )
    def test_damaged(self, pictures, text, message):
        (pictures.parent / "Annotations").mkdir()
        (pictures.parent / "Annotations" / "000.xml").write_text(text)
        with pytest.raises(ImageError, match=message):
            read_voc(pictures.parent)

    def test_unknown_class(self, pictures):
        voc_xml(pictures.parent, "000", ("unicorn", (1, 2, 20, 18), 0), filename="000.png")
        with pytest.raises(ImageError, match="given class 'unicorn'"):
            read_voc(pictures.parent)
        assert read_voc(pictures.parent, class_names=["unicorn"]).class_names == ("unicorn",)


class TestCoco:
    def test_categories_with_gaps_and_corners(self, pictures, coco_file, capsys):
        found = read_coco(pictures, coco_file)
        assert found.class_names == ("cat", "dog", "cow")
        assert rows(found) == [[("cat", 0, 0, 20, 20)], [("dog", 0, 0, 20, 20)], [("cat", 20, 0, 40, 20)]]
        assert rows(read_detection(pictures, coco_file)) == rows(found)
        assert capsys.readouterr().out == ""

    def test_empty_annotations(self, pictures, coco_file):
        data = json.loads(coco_file.read_text())
        coco_file.write_text(json.dumps({**data, "annotations": []}))
        with pytest.raises(ImageError, match="no objects in 3 images"):
            read_coco(pictures, coco_file)
        coco_file.write_text(json.dumps({**data, "images": [], "annotations": []}))
        with pytest.raises(ImageError, match="no annotated images"):
            read_coco(pictures, coco_file)

    @pytest.mark.parametrize("text", ["", "[1, 2]", '{"annotations": 3}', '{"annotations": [{"id": 1}], "images": []}'])
    def test_damaged(self, pictures, coco_file, text):
        coco_file.write_text(text)
        with pytest.raises(ImageError, match=r"instances\.json"):
            read_coco(pictures, coco_file)

    def test_missing_image_and_files(self, pictures, coco_file):
        (pictures / "001.png").unlink()
        with pytest.raises(MissingFileError, match=r"image 6: no such image: .*001\.png"):
            read_coco(pictures, coco_file)
        with pytest.raises(MissingFileError, match="no such file"):
            read_coco(pictures, pictures / "gone.json")
        with pytest.raises(MissingFileError, match="images: no such folder"):
            read_coco(pictures / "gone", coco_file)


class TestYolo:
    @pytest.fixture
    def root(self, pictures):
        root = pictures.parent
        pictures.rename(root / "images")
        (root / "labels").mkdir()
        (root / "labels" / "000.txt").write_text("1 0.25 0.5 0.5 1\n\n0 0.5 0.5 0.1 0.2\n")
        (root / "labels" / "001.txt").write_text("")
        return root

    def test_text_files_and_names(self, root):
        found = read_yolo(root)
        assert rows(found) == [[("1", 0, 0, 20, 20), ("0", 18, 8, 22, 12)], [], []]
        assert not found.named
        (root / "classes.txt").write_text("cat\ndog\n")
        assert rows(read_detection(root))[0][0][0] == "dog"
        assert rows(read_yolo(root / "images", root / "labels", class_names=["x", "y"]))[0][0][0] == "y"
        assert rows(read_yolo(root / "images")) == rows(read_yolo(root))

    @pytest.mark.parametrize("line", ["1 0.5 0.5 0.5", "cat 0.5 0.5 0.5 0.5", "1 a b c d"])
    def test_damaged(self, root, line):
        (root / "labels" / "002.txt").write_text(f"0 0.5 0.5 1 1\n{line}")
        with pytest.raises(ImageError, match=r"002\.txt, line 2: given"):
            read_yolo(root)

    def test_class_beyond_the_names(self, root):
        (root / "classes.txt").write_text("cat\n")
        with pytest.raises(ImageError, match=r"given class 1; allowed: 0\.\.0"):
            read_yolo(root)

    def test_corrupt_picture_is_named(self, root):
        (root / "images" / "003.jpg").write_bytes(b"no picture")
        with pytest.raises(ImageError, match=r"003\.jpg: can't be read"):
            read_yolo(root)

    def test_sizes_are_those_after_exif_rotation(self, root):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (40, 20)).save(root / "images" / "009.jpg", exif=exif)
        (root / "labels" / "009.txt").write_text("0 0.5 0.5 1 1")
        assert rows(read_yolo(root))[-1] == [("0", 0, 0, 20, 40)]


class TestBoxes:
    def corners_file(self, pictures, *boxes, size=(40, 20)):
        data = {"000": {"width": size[0], "height": size[1], "boxes_cls_x1y1x2y2": [list(b) for b in boxes]}}
        path = pictures.parent / "annotations.json"
        path.write_text(json.dumps(data))
        return path

    def test_corners_in_json(self, pictures):
        path = self.corners_file(pictures, (15, 1, 2, 30, 18))
        assert rows(read_corners(path)) == [[("cat", 1, 2, 30, 18)]]
        assert rows(read_detection(pictures.parent)) == [[("cat", 1, 2, 30, 18)]]

    def test_boxes_that_reach_beyond_the_picture_are_clipped_and_counted(self, pictures, caplog):
        path = self.corners_file(pictures, (15, -0.5, 2, 40.9, 18), (0, -9, 2, 30, 99))
        with caplog.at_level(logging.WARNING):
            found = read_corners(path)
        assert rows(found) == [[("cat", 0, 2, 40, 18), ("person", 0, 2, 30, 20)]]
        assert "1 boxes reach beyond their picture by more than a pixel" in caplog.text

    @pytest.mark.parametrize(
        ("box", "message"),
        [
            ((0, 41, 2, 60, 18), "within the picture of 40x20 pixels"),
            ((0, 1, 2, 30, -1), "y1 < y2"),
            ((0, 5, 2, 5, 18), "x1 < x2"),
            ((0, float("nan"), 2, 5, 18), "not JSON"),
            ((80, 1, 2, 30, 18), r"given class 80; allowed: 0\.\.79"),
            ((0, 1, 2, 30), "not width, height and boxes"),
        ],
    )
    def test_bad_boxes_are_named(self, pictures, box, message):
        with pytest.raises(ImageError, match=message) as caught:
            read_corners(self.corners_file(pictures, (0, 1, 1, 5, 5), box))
        assert "image 000" in str(caught.value) or "not JSON" in message

    def test_no_annotations(self, pictures):
        with pytest.raises(ArgumentError, match="annotations: none given and none found"):
            read_detection(pictures)

    @pytest.mark.real
    def test_the_coco_images(self, shared_data):
        found = read_detection(shared_data("coco_val_64"))
        assert (len(found), sum(map(len, found.truths))) == (64, 440)
        assert np.mean([len(t) for t in found.truths]) > 6
