"""Images: sources, preprocessing, labels and the names of classes."""

from evoq_moo.images import class_names
from evoq_moo.images.class_names import coco80, names_of, voc
from evoq_moo.images.labelled import LabelledImages, Labels, check_batches, check_labels, check_transform, have_labels
from evoq_moo.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, image_from_array
from evoq_moo.images.sources import Images, ImageSource, Transform, image_files, image_size, upright_size

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ImageSource",
    "Images",
    "LabelledImages",
    "Labels",
    "Preprocess",
    "Transform",
    "check_batches",
    "check_labels",
    "check_transform",
    "class_names",
    "coco80",
    "have_labels",
    "image_files",
    "image_from_array",
    "image_size",
    "names_of",
    "upright_size",
    "voc",
]
