"""Readers of annotated images: VOC folders, COCO JSON, YOLO text, and corners in JSON."""

import contextlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from evoq_moo._class_names import coco80, voc
from evoq_moo._images import image_files, image_size
from evoq_moo.detection._truth import Annotated, Box, DetectionSet, make_set
from evoq_moo.errors import ArgumentError, ImageError, MissingFileError, MissingPackageError

StrPath = str | os.PathLike[str]


def read_detection(images: StrPath, annotations: StrPath | None = None) -> DetectionSet:
    """Read annotated images in whichever of the known forms they are.

    A ``.json`` file of annotations is COCO's, or ours of corners, by its content; a folder with ``Annotations`` in it
    is VOC's; another folder of annotations is YOLO's.

    Args:
        images: Folder of the images; for VOC the folder that holds ``Annotations`` and ``JPEGImages``.
        annotations: A JSON file or a folder of text files; default: ``annotations.json`` in `images`, else by the form.

    Raises:
        MissingFileError: No such file or folder.
        ImageError: The annotations are damaged or don't fit the images.
        ArgumentError: No annotations are found.
    """
    folder = _folder("images", images)
    if annotations is None and (folder / "Annotations").is_dir():
        return read_voc(folder)
    if annotations is None and (folder / "annotations.json").is_file():
        annotations = folder / "annotations.json"
    if annotations is None and not any((folder / name).is_dir() for name in ("labels", "images")):
        raise ArgumentError(
            f"annotations: none given and none found in {folder}; allowed: a JSON file (COCO's, or of corners), a "
            "folder of YOLO text files, or a VOC folder with Annotations in it as images"
        )
    if annotations is not None and Path(annotations).suffix.lower() == ".json":
        data = _json(Path(annotations))
        return read_coco(folder, annotations) if "annotations" in data else read_corners(annotations, images=folder)
    return read_yolo(folder, annotations)


def read_voc(
    folder: StrPath, *, image_set: str | None = None, class_names: Sequence[str] | None = None
) -> DetectionSet:
    """Read a VOC folder: ``JPEGImages/NAME.jpg`` and ``Annotations/NAME.xml``.

    Corners are taken as they are: VOC's whole pixels from 1 differ from continuous ones by a pixel at most.

    Args:
        folder: E.g. ``VOCdevkit/VOC2007``.
        image_set: Name of a list in ``ImageSets/Main``, e.g. ``"test"``; None for every annotation.
        class_names: Default: VOC's 20.

    Raises:
        MissingFileError: No such folder, list or image.
        ImageError: An annotation is damaged, or names an unknown class.
    """
    from torchvision.datasets import VOCDetection

    folder = _folder("folder", folder)
    names = tuple(class_names) if class_names is not None else voc()
    known = {name: i for i, name in enumerate(names)}
    if image_set is None:
        stems = sorted(path.stem for path in (folder / "Annotations").glob("*.xml"))
    else:
        lists = folder / "ImageSets" / "Main" / f"{image_set}.txt"
        if not lists.is_file():
            raise MissingFileError(f"image_set: no such list: {lists}")
        stems = [line.split()[0] for line in lists.read_text().splitlines() if line.strip()]
    images = []
    for stem in stems:
        path = folder / "Annotations" / f"{stem}.xml"
        if not path.is_file():
            raise MissingFileError(f"no such annotation: {path}")
        try:
            tree = VOCDetection.parse_voc_xml(ElementTree.parse(path).getroot())["annotation"]  # noqa: S314
            size = (int(tree["size"]["width"]), int(tree["size"]["height"])) if "size" in tree else None
            boxes = [_voc_box(item, known, path) for item in tree.get("object", [])]
        except (ElementTree.ParseError, KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(f"{path}: not an annotation of VOC's form: {type(error).__name__}: {error}") from error
        file = folder / "JPEGImages" / (tree.get("filename") or f"{stem}.jpg")
        file = file if file.is_file() else folder / "JPEGImages" / f"{stem}.jpg"
        images.append(Annotated(file=file, size=size, boxes=boxes, where=str(path)))
    return make_set(images, names, str(folder))


def _voc_box(item: Mapping[str, Any], known: Mapping[str, int], path: Path) -> Box:
    name = item["name"]
    if name not in known:
        raise ImageError(f"{path}: given class {name!r}; allowed: {', '.join(known)}")
    corners = tuple(float(item["bndbox"][key]) for key in ("xmin", "ymin", "xmax", "ymax"))
    difficult = str(item.get("difficult", "0")).strip() == "1"
    return Box(label=known[name], corners=corners, difficult=difficult)  # type: ignore[arg-type]


def read_coco(images: StrPath, annotations: StrPath) -> DetectionSet:
    """Read COCO's JSON.

    Args:
        images: Folder of the images.
        annotations: The file, e.g. ``instances_val2017.json``.

    Raises:
        MissingFileError: No such file, folder or image.
        ImageError: The file is damaged or has no objects.
        MissingPackageError: pycocotools isn't installed.
    """
    require_pycocotools()
    from torchvision.datasets import CocoDetection

    folder, path = _folder("images", images), Path(annotations)
    _json(path)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = CocoDetection(str(folder), str(path)).coco
        categories = coco.loadCats(sorted(coco.getCatIds()))
        index = {category["id"]: i for i, category in enumerate(categories)}
        found = []
        for key in sorted(coco.imgs):
            info = coco.imgs[key]
            boxes = []
            for item in coco.loadAnns(coco.getAnnIds(key)):
                x, y, width, height = (float(v) for v in item["bbox"])
                corners = (x, y, x + width, y + height)
                boxes.append(Box(label=index[item["category_id"]], corners=corners, crowd=bool(item.get("iscrowd", 0))))
            size = (int(info["width"]), int(info["height"])) if "width" in info and "height" in info else None
            where = f"{path}, image {key}"
            found.append(Annotated(file=folder / info["file_name"], size=size, boxes=boxes, where=where))
        names = [str(category["name"]) for category in categories]
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise ImageError(f"{path}: not of COCO's form: {type(error).__name__}: {error}") from error
    return make_set(found, names, str(path))


def read_yolo(
    images: StrPath, labels: StrPath | None = None, *, class_names: Sequence[str] | None = None
) -> DetectionSet:
    """Read YOLO's text: for each image a file of lines ``class x y width height``, the last four in 0..1 of the image.

    An image without a text file, or with an empty one, has no objects.

    Args:
        images: Folder of the images, or the folder that holds ``images`` and ``labels``.
        labels: Folder of the text files; default: ``labels`` beside ``images``, else the images' own folder.
        class_names: Default: the lines of ``classes.txt`` beside the text files, else numbers.

    Raises:
        MissingFileError: No such folder.
        ImageError: A line is not of this form.
    """
    folder = _folder("images", images)
    pictures = folder / "images" if (folder / "images").is_dir() else folder
    if labels is not None:
        texts = _folder("labels", labels)
    else:
        beside = next((p for p in (folder / "labels", folder.parent / "labels") if p.is_dir()), None)
        texts = beside or pictures
    found, highest = [], -1
    for file in image_files(pictures):
        path = (texts / file.relative_to(pictures)).with_suffix(".txt")
        size = image_size(file)
        boxes = _yolo_boxes(path, size) if path.is_file() else []
        highest = max([highest, *(box.label for box in boxes)])
        found.append(Annotated(file=file, size=size, boxes=boxes, where=str(path)))
    listed = next((p for p in (texts / "classes.txt", texts.parent / "classes.txt") if p.is_file()), None)
    named = class_names is not None or listed is not None
    if class_names is not None:
        names = list(class_names)
    elif listed is not None:
        names = [line.strip() for line in listed.read_text().splitlines() if line.strip()]
    else:
        names = [str(i) for i in range(highest + 1)]
    return make_set(found, names, str(texts), named=named)


def _yolo_boxes(path: Path, size: tuple[int, int]) -> list[Box]:
    boxes = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{path}: can't be read as text: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            label, x, y, width, height = line.split()
            center = (float(x) * size[0], float(y) * size[1])
            half = (float(width) * size[0] / 2, float(height) * size[1] / 2)
            corners = (center[0] - half[0], center[1] - half[1], center[0] + half[0], center[1] + half[1])
            boxes.append(Box(label=int(label), corners=corners))
        except ValueError:
            raise ImageError(f"{path}, line {number}: given {line!r}; allowed: class x y width height") from None
    return boxes


def read_corners(
    annotations: StrPath, *, images: StrPath | None = None, class_names: Sequence[str] | None = None
) -> DetectionSet:
    """Read corners in JSON: ``{id: {"width", "height", "boxes_cls_x1y1x2y2": [[class, x1, y1, x2, y2], ...]}}``.

    Args:
        annotations: The file.
        images: Folder of the images, searched recursively; an image's name without suffix is its id. Default: the
            file's.
        class_names: Default: COCO's 80.

    Raises:
        MissingFileError: No such file or folder, or an id without an image.
        ImageError: The file is damaged.
    """
    path = Path(annotations)
    data = _json(path)
    folder = _folder("images", path.parent if images is None else images)
    files = {file.stem: file for file in image_files(folder)}
    found = []
    for key, item in data.items():
        try:
            size = (int(item["width"]), int(item["height"]))
            boxes = [Box(label=int(c), corners=(x1, y1, x2, y2)) for c, x1, y1, x2, y2 in item["boxes_cls_x1y1x2y2"]]
        except (KeyError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise ImageError(f"{path}, image {key}: not width, height and boxes_cls_x1y1x2y2: {what}") from error
        file = files.get(key, folder / f"{key}.jpg")
        found.append(Annotated(file=file, size=size, boxes=boxes, where=f"{path}, image {key}"))
    return make_set(found, coco80() if class_names is None else class_names, str(path))


def require_pycocotools() -> None:
    """Raise unless pycocotools is installed.

    Raises:
        MissingPackageError: It isn't; the message says how to install it.
    """
    try:
        import pycocotools  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            'detection needs the package pycocotools; install it with: pip install "evoq-moo[detection]"'
        ) from error


def _folder(argument: str, path: StrPath) -> Path:
    found = Path(path)
    if not found.is_dir():
        raise MissingFileError(f"{argument}: no such folder: {found}")
    return found


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFileError(f"annotations: no such file: {path}")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{path}: not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ImageError(f"{path}: given a {type(data).__name__}; allowed: an object of COCO's form, or one by image")
    return data
