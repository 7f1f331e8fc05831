import csv
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from evoq_moo.errors import ArgumentError, ImageError, MissingFileError
from evoq_moo.images import LabelledImages, Preprocess
from evoq_moo.samples import load_samples

SMALL = Preprocess(crop=8, mean=(0.5,) * 3, std=(0.5,) * 3)
GREY = Preprocess(crop=8, mean=(0.0,), std=(1.0,), channels=1)


def pixels(height=8, width=8, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Six 10x10 images in nested folders: file i is all pixels 10 * i, its label i."""
    root = tmp_path / "images"
    (root / "nested").mkdir(parents=True)
    names = ["a.png", "b.PNG", "c.bmp", "d.Ppm", "nested/e.tif", "nested/f.png"]
    for i, name in enumerate(names):
        Image.fromarray(np.full((10, 10, 3), 10 * i, np.uint8)).save(root / name)
    (root / "notes.txt").write_text("not an image")
    (root / "._a.png").write_text("left behind by another system")
    return root


def write_labels(path, rows, columns=("file", "label")):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


NAMES = ["a.png", "b.PNG", "c.bmp", "d.Ppm", "nested/e.tif", "nested/f.png"]


class TestPreprocess:
    @pytest.mark.parametrize(
        "size", [(300, 400), (400, 300), (256, 256), (257, 301), (231, 500), (255, 640), (224, 224)]
    )
    @pytest.mark.parametrize("preset", ["ResNet18_Weights.IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V2"])
    def test_equals_torchvision_bit_for_bit(self, size, preset):
        from torchvision.models import get_weight

        transforms = get_weight(preset).transforms()
        ours = Preprocess(crop=transforms.crop_size[0], resize=transforms.resize_size[0])
        image = Image.fromarray(pixels(*size))
        assert torch.equal(ours(image), transforms(image))

    @pytest.mark.parametrize("size", [(227, 227), (230, 225)])
    def test_crop_alone_equals_torchvisions(self, size):
        from torchvision.transforms import functional

        image = Image.fromarray(pixels(*size))
        expected = functional.to_tensor(functional.center_crop(image, [224, 224]))
        assert torch.equal(Preprocess(crop=224, mean=(0.0,) * 3, std=(1.0,) * 3)(image), expected)

    def test_equals_torchvision_on_real_photographs(self, shared_data):
        from torchvision.models import ResNet18_Weights

        transforms = ResNet18_Weights.IMAGENET1K_V1.transforms()
        files = sorted(shared_data("coco_val_64").rglob("*.jpg"))[:5]
        assert files
        for file in files:
            with Image.open(file) as image:
                rgb = image.convert("RGB")
            assert torch.equal(Preprocess(crop=224, resize=256)(rgb), transforms(rgb))

    def test_result_is_contiguous_float32_of_the_stated_scale(self):
        tensor = SMALL.from_array(np.full((8, 8, 3), 255, np.uint8))
        assert tensor.dtype == torch.float32
        assert tensor.shape == (3, 8, 8)
        assert tensor.is_contiguous()
        assert torch.equal(tensor, torch.ones(3, 8, 8))

    def test_rotate180_flips_height_and_width(self):
        array = pixels()
        assert torch.equal(SMALL.replace(rotate180=True).from_array(array), SMALL.from_array(array).flip(1, 2))

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"])
    def test_any_mode_is_converted(self, mode):
        image = Image.fromarray(pixels())
        image = image.convert("L").convert(mode) if mode == "LA" else image.convert(mode)
        assert SMALL(image).shape == (3, 8, 8)
        assert GREY(image).shape == (1, 8, 8)

    def test_mode_without_a_conversion_is_refused(self):
        with pytest.raises(ImageError, match="mode LAB, which has no conversion to L"):
            GREY(Image.new("LAB", (8, 8)))

    def test_greyscale_gives_three_equal_channels(self):
        tensor = SMALL(Image.fromarray(pixels()[..., 0]))
        assert torch.equal(tensor[0], tensor[1])
        assert torch.equal(tensor[0], tensor[2])

    def test_palette_with_transparency_does_not_warn(self, tmp_path):
        image = Image.fromarray(pixels()).quantize(16)
        image.info["transparency"] = bytes(range(16))
        assert SMALL(image).shape == (3, 8, 8)

    def test_16_bit_greyscale_keeps_the_upper_bits(self, tmp_path):
        deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
        Image.fromarray(deep).save(tmp_path / "deep.png")
        with Image.open(tmp_path / "deep.png") as image:
            tensor = GREY(image)
        assert torch.equal(tensor[0], torch.from_numpy((deep >> 8).astype(np.float32)) / 255)

    def test_floating_point_pixels_are_refused(self):
        with pytest.raises(ImageError, match="floating-point pixels"):
            SMALL(Image.fromarray(np.zeros((8, 8), np.float32)))

    @pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
    def test_exif_rotation_is_applied(self, tmp_path, suffix):
        image = Image.fromarray(np.kron(pixels(2, 3), np.ones((8, 8, 1), np.uint8)))
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown rotated by 90 degrees clockwise
        folder = tmp_path / suffix
        folder.mkdir()
        image.save(folder / f"rotated.{suffix}", exif=exif, **({"quality": 100} if suffix in ("jpg", "webp") else {}))
        preprocess = Preprocess(crop=16, mean=(0.0,) * 3, std=(1.0,) * 3)
        tensor = load_samples(folder, count=1, preprocess=preprocess)[0]
        expected = preprocess(image.transpose(Image.Transpose.ROTATE_270))
        assert (tensor - expected).abs().mean() < 0.06
        assert (tensor - preprocess(image)).abs().mean() > 0.1

    def test_too_small_image_names_file_and_both_sizes(self, tmp_path):
        Image.fromarray(pixels(7, 9)).save(tmp_path / "tiny.png")
        with pytest.raises(ImageError, match=r"tiny\.png.*9x7 pixels.*8x8"):
            load_samples(tmp_path, count=1, preprocess=SMALL)

    def test_small_image_is_enlarged_by_the_resize(self):
        assert SMALL.replace(resize=10).from_array(pixels(4, 5)).shape == (3, 8, 8)

    @pytest.mark.parametrize("antialias", [True, False])
    def test_stretch_takes_the_whole_image(self, antialias):
        from torchvision.transforms.v2 import functional

        preprocess = Preprocess(crop=8, mean=(0.0,) * 3, std=(1.0,) * 3, stretch=True, antialias=antialias)
        image = Image.fromarray(pixels(30, 17))
        if antialias:
            expected = functional.to_image(functional.resize(image, [8, 8], antialias=True)) / 255
        else:
            expected = functional.resize(functional.to_image(image) / 255, [8, 8], antialias=False)
        torch.testing.assert_close(preprocess(image), torch.as_tensor(expected), atol=1e-6, rtol=0)
        assert preprocess(Image.new("L", (1, 1))).shape == (3, 8, 8)

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((8, 8, 3), np.float32),
            np.zeros((8, 8, 4), np.uint8),
            np.zeros(8, np.uint8),
            np.zeros((1, 8, 8, 3), np.uint8),
        ],
    )
    def test_from_array_refuses_other_arrays(self, array):
        with pytest.raises(ImageError, match="allowed: uint8"):
            SMALL.from_array(array)

    def test_call_refuses_other_than_images(self):
        with pytest.raises(ArgumentError, match="image: given a ndarray"):
            SMALL(pixels())

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"crop": 0}, "crop: given 0"),
            ({"crop": 8.0}, "crop: given 8.0"),
            ({"crop": True}, "crop: given True"),
            ({"crop": None}, "crop: given None"),
            ({"resize": "256"}, "resize: given '256'"),
            ({"resize": 7}, "resize: given 7"),
            ({"channels": 4}, "channels: given 4"),
            ({"channels": 1}, "mean: given"),
            ({"mean": 0.5}, "mean: given 0.5"),
            ({"mean": (0.5, 0.5)}, "mean: given"),
            ({"mean": (0.5, 0.5, float("nan"))}, r"mean\[2\]: given nan"),
            ({"std": (0.5, 0.5, 0.0)}, "std: given"),
            ({"std": ("a", "b", "c")}, r"std\[0\]: given 'a'"),
            ({"rotate180": 1}, "rotate180: given 1"),
            ({"stretch": "yes"}, "stretch: given 'yes'"),
            ({"stretch": True, "resize": 9}, "resize: given 9 with stretch"),
            ({"antialias": False}, "antialias: given False without stretch"),
            ({"size": 3}, "preprocess: given"),
        ],
    )
    def test_bad_fields_are_refused(self, changes, message):
        with pytest.raises(ArgumentError, match=message):
            SMALL.replace(**changes)

    def test_crop_is_needed(self):
        with pytest.raises(ArgumentError, match="crop is needed"):
            Preprocess.from_json({"resize": 8})

    def test_survives_json_and_pickle(self):
        import json

        given = Preprocess(crop=224, resize=256, mean=(0.1, 0.2, 0.3), std=[1, 2, 3], rotate180=True)
        assert Preprocess.from_json(json.loads(json.dumps(given.to_json()))) == given
        assert pickle.loads(pickle.dumps(given)) == given
        assert hash(given) == hash(given.replace())


class TestLoadSamples:
    def test_folder_is_searched_recursively_in_sorted_order(self, folder):
        tensor = load_samples(folder, count=6, preprocess=GREY, seed=3)
        assert tensor.dtype == torch.float32
        assert tensor.shape == (6, 1, 8, 8)
        drawn = np.random.default_rng(3).permutation(6)
        assert (tensor[:, 0, 0, 0] * 25.5).round().int().tolist() == drawn.tolist()

    def test_folder_npz_array_and_tensor_agree(self, folder, tmp_path):
        array = np.stack([np.full((10, 10, 3), 10 * i, np.uint8) for i in range(6)])
        np.savez(tmp_path / "images.npz", images=array)
        expected = load_samples(folder, count=4, preprocess=SMALL)
        for images in (str(folder), tmp_path / "images.npz", array, torch.from_numpy(array)):
            assert torch.equal(load_samples(images, count=4, preprocess=SMALL), expected)

    def test_draws_without_replacement_depend_on_the_seed_and_are_nested(self, folder):
        first = load_samples(folder, count=4, preprocess=GREY)
        assert len(first[:, 0, 0, 0].unique()) == 4
        assert torch.equal(load_samples(folder, count=2, preprocess=GREY), first[:2])
        assert not torch.equal(load_samples(folder, count=4, preprocess=GREY, seed=1), first)

    def test_any_transform_will_do(self, folder):
        assert load_samples(folder, count=2, preprocess=lambda image: torch.zeros(2, 3, 4)).shape == (2, 2, 3, 4)

    @pytest.mark.parametrize(
        ("transform", "error", "message"),
        [
            (lambda image: np.zeros((3, 8, 8)), ArgumentError, "gave a ndarray"),
            (lambda image: torch.zeros(3, 8, 8, dtype=torch.float64), ArgumentError, "torch.float64"),
            (lambda image: torch.zeros(8, 8), ArgumentError, r"shape \(8, 8\)"),
            (lambda image: torch.zeros(3, 8, image.getpixel((0, 0))[0] + 1), ImageError, "different shapes"),
            (None, ArgumentError, "preprocess: given a NoneType"),
        ],
    )
    def test_bad_transforms_are_refused(self, folder, transform, error, message):
        with pytest.raises(error, match=message):
            load_samples(folder, count=2, preprocess=transform)

    def test_errors_of_a_transform_are_its_own(self, folder):
        with pytest.raises(ZeroDivisionError):
            load_samples(folder, count=2, preprocess=lambda image: 1 / 0)

    @pytest.mark.parametrize("count", [0, -1, 2.0, True, "2", None])
    def test_bad_counts_are_refused(self, folder, count):
        with pytest.raises(ArgumentError, match="count: given"):
            load_samples(folder, count=count, preprocess=SMALL)

    @pytest.mark.parametrize("seed", [-1, 0.5, None])
    def test_bad_seeds_are_refused(self, folder, seed):
        with pytest.raises(ArgumentError, match="seed: given"):
            load_samples(folder, count=1, preprocess=SMALL, seed=seed)

    def test_missing_folder(self, tmp_path):
        with pytest.raises(MissingFileError, match="nowhere"):
            load_samples(tmp_path / "nowhere", preprocess=SMALL)

    def test_too_few_images(self, folder, tmp_path):
        with pytest.raises(ImageError, match="given 6 images; count=50 needs at least 50"):
            load_samples(folder, preprocess=SMALL)
        (tmp_path / "empty").mkdir()
        with pytest.raises(ImageError, match="given 0 images"):
            load_samples(tmp_path / "empty", count=1, preprocess=SMALL)

    @pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
    def test_unreadable_image_is_named(self, tmp_path, content):
        (tmp_path / "bad.png").write_bytes(content)
        with pytest.raises(ImageError, match=r"bad\.png: can't be read"):
            load_samples(tmp_path, count=1, preprocess=SMALL)

    @pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
    def test_truncated_image_is_named(self, tmp_path, suffix):
        folder = tmp_path / suffix
        folder.mkdir()
        file = folder / f"cut.{suffix}"
        Image.fromarray(pixels(64, 64)).save(file)
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(ImageError, match=r"cut\."):
            load_samples(folder, count=1, preprocess=SMALL)

    @pytest.mark.parametrize("side", [11, 16])
    def test_decompression_bombs_are_refused(self, folder, monkeypatch, side):
        # Pillow warns above its limit and raises above twice the limit.
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000 // side)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ImageError, match="decompression bomb"):
                load_samples(folder, count=1, preprocess=SMALL)

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((2, 8, 8, 3), np.float32),
            np.zeros((2, 3, 8, 8), np.uint8),
            np.zeros((8, 8, 3), np.uint8),
            torch.zeros(2, 8, 8, 3),
        ],
    )
    def test_other_arrays_are_refused(self, array):
        with pytest.raises(ImageError, match=r"allowed: uint8 \(N, H, W, C\)"):
            load_samples(array, count=1, preprocess=SMALL)

    @pytest.mark.parametrize("images", [None, 3, [np.zeros((8, 8, 3), np.uint8)]])
    def test_other_kinds_are_refused(self, images):
        with pytest.raises(ArgumentError, match="images: given a"):
            load_samples(images, count=1, preprocess=SMALL)

    def test_other_files_are_refused(self, folder):
        with pytest.raises(ArgumentError, match=r"given the file .*a\.png"):
            load_samples(folder / "a.png", count=1, preprocess=SMALL)

    @pytest.mark.parametrize("damage", ["text", "truncated", "empty", "npy", "pickled", "flipped"])
    def test_damaged_npz(self, tmp_path, damage):
        file = tmp_path / "images.npz"
        if damage == "pickled":
            np.savez(file, images=np.array([{}], dtype=object))
        else:
            np.savez_compressed(file, images=np.stack([pixels(seed=i) for i in range(20)]))
        content = file.read_bytes()
        if damage == "npy":
            with file.open("wb") as stream:
                np.save(stream, np.zeros((2, 8, 8, 3), np.uint8))
        elif damage != "pickled":
            middle = len(content) // 2
            flipped = content[:middle] + bytes(b ^ 255 for b in content[middle : middle + 20]) + content[middle + 20 :]
            file.write_bytes({"text": b"hello", "truncated": content[:-30], "empty": b"", "flipped": flipped}[damage])
        with pytest.raises(ImageError, match=r"images\.npz: not a readable"):
            load_samples(file, count=1, preprocess=SMALL)

    def test_npz_without_images(self, tmp_path):
        np.savez(tmp_path / "x.npz", pictures=np.zeros((2, 8, 8, 3), np.uint8))
        with pytest.raises(ImageError, match="pictures"):
            load_samples(tmp_path / "x.npz", count=1, preprocess=SMALL)


class TestLabelledImages:
    def collect(self, labelled):
        batches = list(labelled)
        return [len(x) for x, _ in batches], torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])

    def test_batches_in_file_order(self, folder, tmp_path):
        labels = write_labels(tmp_path / "l.csv", [(name, i) for i, name in reversed(list(enumerate(NAMES)))])
        labelled = LabelledImages(folder, labels=labels, preprocess=GREY, batch_size=4)
        sizes, x, y = self.collect(labelled)
        assert len(labelled) == 6
        assert sizes == [4, 2]
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert y.tolist() == (x[:, 0, 0, 0] * 25.5).round().int().tolist() == list(range(6))
        assert torch.equal(self.collect(labelled)[1], x)

    def test_labels_csv_in_the_folder_is_the_default(self, folder):
        write_labels(
            folder / "labels.csv", [(name, i, "x") for i, name in enumerate(NAMES)], ("file", "label", "synset")
        )
        assert LabelledImages(folder, preprocess=SMALL).labels.tolist() == list(range(6))

    def test_paths_may_be_absolute_or_relative_to_the_working_directory(self, folder, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        rows = [(folder / n if i % 2 else f"images/{n}", i) for i, n in enumerate(NAMES)]
        labels = write_labels(tmp_path / "l.csv", rows)
        assert LabelledImages(folder, labels=labels, preprocess=SMALL).labels.tolist() == list(range(6))

    def test_byte_order_mark_is_read_over(self, folder):
        labels = write_labels(folder / "labels.csv", [(name, i) for i, name in enumerate(NAMES)])
        labels.write_bytes(b"\xef\xbb\xbf" + labels.read_bytes())
        assert len(LabelledImages(folder, preprocess=SMALL)) == 6

    def test_limit_takes_the_first(self, folder):
        labelled = LabelledImages(folder, labels=range(6), preprocess=GREY, limit=3, batch_size=2)
        assert len(labelled) == 3
        assert self.collect(labelled)[2].tolist() == [0, 1, 2]
        assert len(LabelledImages(folder, labels=range(6), preprocess=GREY, limit=100)) == 6

    def test_npz_with_labels(self, tmp_path):
        np.savez(tmp_path / "x.npz", images=np.zeros((3, 8, 8, 1), np.uint8), labels=np.array([3, 1, 2], np.uint8))
        assert LabelledImages(tmp_path / "x.npz", preprocess=GREY).labels.tolist() == [3, 1, 2]
        assert LabelledImages(tmp_path / "x.npz", preprocess=GREY, labels=[0, 0, 1]).labels.tolist() == [0, 0, 1]

    @pytest.mark.parametrize("labels", [[0, 1, 2], (0, 1, 2), np.array([0, 1, 2], np.int32), torch.tensor([0, 1, 2])])
    def test_array_with_a_row_of_labels(self, labels):
        labelled = LabelledImages(np.zeros((3, 8, 8, 1), np.uint8), labels=labels, preprocess=GREY)
        assert labelled.labels.tolist() == [0, 1, 2]

    def test_images_are_decoded_as_asked_for(self, folder):
        (folder / "nested/f.png").write_text("broken")
        batches = iter(LabelledImages(folder, labels=range(6), preprocess=GREY, batch_size=5))
        assert len(next(batches)[0]) == 5
        with pytest.raises(ImageError, match=r"f\.png"):
            next(batches)

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([(n, 0) for n in NAMES[:-1]], r"no label for 1 of 6 images; the first is .*f\.png"),
            ([(n, 0) for n in [*NAMES, "gone.png"]], r"line 8: file 'gone\.png' is not among the images"),
            ([(n, 0) for n in [*NAMES, "a.png"]], r"line 8: file 'a\.png' is listed twice"),
            ([(n, "cat") for n in NAMES], "line 2: label: given 'cat'; allowed: an integer"),
            ([(n, "1.0") for n in NAMES], "label: given '1.0'"),
            ([(n, -1) for n in NAMES], "label: given '-1'"),
            ([(n, 10**30) for n in NAMES], "label: given '1000"),
            ([(n, "") for n in NAMES], "label: given ''"),
            ([(n,) for n in NAMES], r"line 2: given \['a.png'\]"),
            ([("", 1)], "file '' is not among"),
        ],
    )
    def test_bad_rows_are_named(self, folder, rows, message):
        with pytest.raises(ImageError, match=message):
            LabelledImages(folder, labels=write_labels(folder / "labels.csv", rows), preprocess=SMALL)

    @pytest.mark.parametrize("content", ["", "file,class\na.png,1\n", "a.png,1\n"])
    def test_missing_columns(self, folder, content):
        (folder / "labels.csv").write_text(content)
        with pytest.raises(ImageError, match="allowed: file,label"):
            LabelledImages(folder, preprocess=SMALL)

    def test_csv_that_is_none(self, folder):
        (folder / "labels.csv").write_bytes(b"file,label\n\xff\xfe\x00,1\n")
        with pytest.raises(ImageError, match="not text in UTF-8"):
            LabelledImages(folder, preprocess=SMALL)

    def test_missing_csv(self, folder, tmp_path):
        with pytest.raises(MissingFileError, match=r"nowhere\.csv"):
            LabelledImages(folder, labels=tmp_path / "nowhere.csv", preprocess=SMALL)

    def test_no_labels_at_all(self, folder):
        for images in (folder, np.zeros((3, 8, 8, 1), np.uint8)):
            with pytest.raises(ArgumentError, match="labels: none given"):
                LabelledImages(images, preprocess=SMALL)

    def test_csv_does_not_go_with_an_array(self, tmp_path):
        with pytest.raises(ArgumentError, match="goes with a folder"):
            LabelledImages(np.zeros((3, 8, 8, 1), np.uint8), labels=tmp_path / "l.csv", preprocess=GREY)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([0, 1], "given 2 labels for 3 images"),
            ([0, 1, -1], "label 2 is -1"),
            ([0.0, 1.0, 2.0], "float64 labels"),
            ([True, False, True], "bool labels"),
            ([[0], [1], [2]], r"shape \(3, 1\)"),
            ([[0], [1, 2], []], "not one row"),
            (["a", "b", "c"], "whole numbers"),
            ([], "float64"),
        ],
    )
    def test_bad_rows_of_labels(self, labels, message):
        with pytest.raises(ImageError, match=message):
            LabelledImages(np.zeros((3, 8, 8, 1), np.uint8), labels=labels, preprocess=GREY)

    def test_no_images(self):
        with pytest.raises(ImageError, match="given no images"):
            LabelledImages(np.zeros((0, 8, 8, 1), np.uint8), labels=[], preprocess=GREY)

    @pytest.mark.parametrize("options", [{"limit": 0}, {"limit": 1.5}, {"batch_size": 0}, {"batch_size": None}])
    def test_bad_options(self, options):
        with pytest.raises(ArgumentError, match=f"{next(iter(options))}: given"):
            LabelledImages(np.zeros((3, 8, 8, 1), np.uint8), labels=[0, 1, 2], preprocess=GREY, **options)
