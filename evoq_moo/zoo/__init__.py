"""Networks to try: built without downloads, with weights from files, torch hub's folder, or their own.

`digits` and `efficientnet_lite0` come with weights; `digits` comes with images as well.
"""

from evoq_moo.zoo import _digits as digits
from evoq_moo.zoo._entries import Checkpoint, ZooEntry
from evoq_moo.zoo._factory import call_function, import_function, known_preprocess, load_factory
from evoq_moo.zoo._figures import Figures, figures_of
from evoq_moo.zoo._load import ZooModel, entry, load, names
from evoq_moo.zoo._published import PublishedWeights, published_weights
from evoq_moo.zoo._weights import is_name

__all__ = [
    "Checkpoint",
    "Figures",
    "PublishedWeights",
    "ZooEntry",
    "ZooModel",
    "call_function",
    "digits",
    "entry",
    "figures_of",
    "import_function",
    "is_name",
    "known_preprocess",
    "load",
    "load_factory",
    "names",
    "published_weights",
]
