"""Networks to try: built without downloads, with weights from files, torch hub's folder, or their own.

`digits` and `efficientnet_lite0` come with weights; `digits` comes with images as well.
"""

from evoq_moo.zoo import _digits as digits
from evoq_moo.zoo._entries import Checkpoint, ZooEntry
from evoq_moo.zoo._factory import load_factory
from evoq_moo.zoo._load import ZooModel, entry, load, names

__all__ = ["Checkpoint", "ZooEntry", "ZooModel", "digits", "entry", "load", "load_factory", "names"]
