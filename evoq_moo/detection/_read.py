"""Readers of annotated images: VOC folders, COCO JSON, YOLO text, and corners in JSON."""

import os
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from msgspec import Meta, Raw, Struct

from evoq_moo.detection._truth import Annotated, Box, DetectionSet, make_set
from evoq_moo.errors import ArgumentError, ImageError, MissingFileError, MissingPackageError
from evoq_moo.files import Number, Text, Whole, convert, inside, parse_json, read_bytes, read_text, read_xml, reading
from evoq_moo.images import coco80, image_files, image_size, voc

StrPath = str | os.PathLike[str]
MOST_CLASSES = 2**16
"""Our choice: of names in place of which the data has numbers."""

_Class = typing.Annotated[int, Meta(ge=0, lt=MOST_CLASSES)]
_Side = typing.Annotated[int, Meta(ge=1, le=2**31 - 1)]


class _CocoImage(Struct):
    id: Whole
    file_name: Text
    width: _Side | None = None
    height: _Side | None = None


class _CocoObject(Struct):
    image_id: Whole
    category_id: Whole
    bbox: tuple[Number, Number, Number, Number]
    iscrowd: bool | Whole | None = None


class _CocoCategory(Struct):
    id: Whole
    name: Text


class _Coco(Struct):
    images: list[_CocoImage]
    annotations: list[_CocoObject]
    categories: list[_CocoCategory]


class _Cornered(Struct):
    width: _Side
    height: _Side
    boxes_cls_x1y1x2y2: list[tuple[_Class, Number, Number, Number, Number]]


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
        with reading(f"{annotations}: not annotations", ImageError):
            entries = parse_json(_content(annotations), dict[str, Raw])
        return read_coco(folder, annotations) if "annotations" in entries else read_corners(annotations, images=folder)
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
    folder = _folder("folder", folder)
    names = tuple(class_names) if class_names is not None else voc()
    known = {name: i for i, name in enumerate(names)}
    if image_set is None:
        stems = sorted(path.stem for path in (folder / "Annotations").glob("*.xml"))
    else:
        lists = folder / "ImageSets" / "Main" / f"{image_set}.txt"
        if not lists.is_file():
            raise MissingFileError(f"image_set: no such list: {lists}")
        stems = [line.split()[0] for line in read_text(lists, error=ImageError).splitlines() if line.strip()]
    images = []
    pictures = folder / "JPEGImages"
    for stem in stems:
        path = folder / "Annotations" / f"{stem}.xml"
        tree = read_xml(path, ImageError)
        with reading(f"{path}: not an annotation of VOC's form", ImageError):
            if tree.tag != "annotation":
                raise ValueError(f"given the element {tree.tag!r}; allowed: 'annotation'")
            found = tree.find("size")
            size = None
            if found is not None:
                size = convert(_texts(found, ("width", "height")), tuple[_Side, _Side], text=True)
            boxes = [_voc_box(item, known) for item in tree.iterfind("object")]
            file = inside(pictures, (tree.findtext("filename") or "").strip() or f"{stem}.jpg")
            file = file if file.is_file() else inside(pictures, f"{stem}.jpg")
        images.append(Annotated(file=file, size=size, boxes=boxes, where=str(path)))
    return make_set(images, names, str(folder))


def _voc_box(item: ElementTree.Element, known: Mapping[str, int]) -> Box:
    name = (item.findtext("name") or "").strip()
    if name not in known:
        raise ValueError(f"given class {name!r}; allowed: {', '.join(known)}")
    box = item.find("bndbox")
    if box is None:
        raise ValueError(f"an object of class {name!r} has no bndbox")
    corners = convert(_texts(box, ("xmin", "ymin", "xmax", "ymax")), tuple[Number, Number, Number, Number], text=True)
    return Box(label=known[name], corners=corners, difficult=(item.findtext("difficult") or "").strip() == "1")


def _texts(element: ElementTree.Element, names: Sequence[str]) -> list[str]:
    return [(element.findtext(name) or "").strip() for name in names]


def read_coco(images: StrPath, annotations: StrPath) -> DetectionSet:
    """Read COCO's JSON.

    Args:
        images: Folder of the images.
        annotations: The file, e.g. ``instances_val2017.json``.

    Raises:
        MissingFileError: No such file, folder or image.
        ImageError: The file is damaged or has no objects.
    """
    folder, path = _folder("images", images), Path(annotations)
    with reading(f"{path}: not of COCO's form", ImageError):
        data = parse_json(_content(path), _Coco)
        categories = sorted(data.categories, key=lambda category: category.id)
        index = {category.id: i for i, category in enumerate(categories)}
        boxes: dict[int, list[Box]] = {info.id: [] for info in data.images}
        if len(index) < len(categories) or len(boxes) < len(data.images):
            raise ValueError("two categories or two images have the same id")
        for item in data.annotations:
            if item.image_id not in boxes or item.category_id not in index:
                raise ValueError(
                    f"an object is of image {item.image_id} and category {item.category_id}: one is unknown"
                )
            x, y, width, height = item.bbox
            corners = (x, y, x + width, y + height)
            boxes[item.image_id].append(
                Box(label=index[item.category_id], corners=corners, crowd=bool(item.iscrowd or 0))
            )
        found = [
            Annotated(
                file=inside(folder, info.file_name),
                size=None if info.width is None or info.height is None else (info.width, info.height),
                boxes=boxes[info.id],
                where=f"{path}, image {info.id}",
            )
            for info in sorted(data.images, key=lambda info: info.id)
        ]
    names = [category.name for category in categories]
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
        names = [line.strip() for line in read_text(listed, error=ImageError).splitlines() if line.strip()]
    else:
        names = [str(i) for i in range(highest + 1)]
    return make_set(found, names, str(texts), named=named)


def _yolo_boxes(path: Path, size: tuple[int, int]) -> list[Box]:
    boxes = []
    for number, line in enumerate(read_text(path, error=ImageError).splitlines(), start=1):
        if not line.strip():
            continue
        what = f"{path}, line {number}: given {line!r}; allowed: class x y width height"
        with reading(what, ImageError):
            label, x, y, width, height = convert(line.split(), tuple[_Class, Number, Number, Number, Number], text=True)
        center = (x * size[0], y * size[1])
        half = (width * size[0] / 2, height * size[1] / 2)
        corners = (center[0] - half[0], center[1] - half[1], center[0] + half[0], center[1] + half[1])
        boxes.append(Box(label=label, corners=corners))
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
    with reading(f"{path}: not an object by image", ImageError):
        data = parse_json(_content(path), dict[Text, Raw])
    folder = _folder("images", path.parent if images is None else images)
    files = {file.stem: file for file in image_files(folder)}
    found = []
    for key, raw in data.items():
        where = f"{path}, image {key}"
        with reading(f"{where}: not width, height and boxes_cls_x1y1x2y2", ImageError):
            item = parse_json(raw, _Cornered)
            file = files[key] if key in files else inside(folder, f"{key}.jpg")
        boxes = [Box(label=box[0], corners=box[1:]) for box in item.boxes_cls_x1y1x2y2]
        found.append(Annotated(file=file, size=(item.width, item.height), boxes=boxes, where=where))
    return make_set(found, coco80() if class_names is None else class_names, str(path))


def require_pycocotools() -> None:
    """Raise unless pycocotools is installed.

    Raises:
        MissingPackageError: It isn't; the message says how to install it.
    """
    try:
        import pycocotools  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            'detection needs the package pycocotools; install it with: pip install "evoq-moo[detection]"'
        ) from error


def _folder(argument: str, path: StrPath) -> Path:
    found = Path(path)
    if not found.is_dir():
        raise MissingFileError(f"{argument}: no such folder: {found}")
    return found


def _content(path: StrPath) -> bytes:
    return read_bytes(path, argument="annotations", error=ImageError)
