"""`load`: a network from its folder, without its maker's code where possible."""

from pathlib import Path

import torch
from torch import nn

from evoq_moo.calibration import CalibratedNetwork
from evoq_moo.errors import ArgumentError, MissingFileError
from evoq_moo.graph import own_copy, prepare, untouched
from evoq_moo.runs import RECIPE_FILE, Recipe, read_recipe


def folded_network(recipe: Recipe) -> nn.Module:
    """Return a recipe's float network with BatchNorm folded, as calibration had it; needs no samples.

    Raises:
        EvoqError: As :meth:`Recipe.load_model`.
    """
    network, preprocess = recipe.load_model()
    with untouched():
        own, _ = own_copy(network)
        folded = prepare(own, torch.zeros(2, preprocess.channels, preprocess.crop, preprocess.crop)).network
    folded.preprocess = preprocess  # type: ignore[assignment]
    return folded


def load_calibrated(
    folder: str | Path, *, recipe: Recipe | None = None, trust: bool = False
) -> tuple[CalibratedNetwork, Recipe]:
    """Read a folder of `evoq calibrate`, and make the network that its recipe names.

    Args:
        folder: The folder.
        recipe: Instead of the one in the folder, whose paths may be of another machine.
        trust: Allow the folder's recipe to run the code and to read the files that it names, wherever they are.

    Raises:
        TrustError: The folder's recipe names code, or weights elsewhere.
        MissingFileError: A file isn't there.
        FormatError: A file is damaged.
        ArgumentError: The recipe makes another network than was calibrated, or the folder has none and none is given.
    """
    folder = Path(folder)
    if not (folder / "calibrated.json").is_file():
        raise MissingFileError(f"no such file: {folder / 'calibrated.json'} (made by `evoq calibrate`)")
    path = folder / RECIPE_FILE
    if recipe is None:
        if not path.is_file():
            raise ArgumentError(
                f"{folder}: holds no {RECIPE_FILE}, so the network it is of is not known; give it: "
                "CalibratedNetwork.load(folder, network), or --model on the command line"
            )
        recipe = read_recipe(path, trust=trust)
    return CalibratedNetwork.load(folder, folded_network(recipe)), recipe


def load(folder: str | Path, *, trust: bool = False) -> CalibratedNetwork:
    """Return the network of a folder of `evoq calibrate`: safetensors and JSON, nothing is unpickled.

    The network around the parameters comes from the recipe in the folder: a name of the zoo, or
    ``package.module:factory``, whose code is imported and run only with `trust`. No samples are needed.

    Args:
        folder: The folder.
        trust: Allow its recipe to run the code and to read the files that it names, wherever they are.

    Raises:
        TrustError: The recipe names code, or weights elsewhere.
        MissingFileError: A file isn't there.
        FormatError: A file is damaged.
        ArgumentError: The folder does not say which network it is of, or its recipe makes another one.
    """
    return load_calibrated(folder, trust=trust)[0]
