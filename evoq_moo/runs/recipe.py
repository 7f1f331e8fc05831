"""`Recipe`: plain data from which a quantized network is made again, by another command or another process."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from msgspec import Struct
from torch import nn

from evoq_moo import zoo
from evoq_moo.difference import AUTO, DEFAULT
from evoq_moo.engines import EngineName
from evoq_moo.errors import ArgumentError, WeightsError, check_name, check_text
from evoq_moo.files import (
    BitWidth,
    Few,
    Text,
    Whole,
    check_path,
    convert,
    read_json,
    reading,
    refuse_code,
    write_atomically,
)
from evoq_moo.images import Preprocess
from evoq_moo.network import QuantizedNetwork, ResultsName
from evoq_moo.samples import CHOOSERS, RANDOM, SYNTHETIC, cached_samples, load_samples
from evoq_moo.zoo import is_name

FORMAT = "evoq-moo/recipe"
RECIPE_FILE = "recipe.json"
"""Its name beside what was made from it."""
logger = logging.getLogger("evoq_moo")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to make a quantized network from files. Calling it makes it, so a recipe serves `recipe=` of executors.

    Attributes:
        model: Name of a zoo entry, or ``package.module:factory`` for a function that returns a module.
        weights: A weights file or a torchvision weights name; None for what the entry has (the factory's own);
            ``"random"`` for random ones.
        samples: Folder, ``.npz`` file, or ``"synthetic"`` for images distilled from BatchNorm statistics (a folder of
            that name: ``./synthetic``); None for the entry's embedded images.
        count: Number of samples.
        samples_seed: Seed of the draw.
        choose: How samples are drawn, see :func:`evoq_moo.load_samples`.
        preprocess: As :meth:`Preprocess.to_json` gives it; None for the model's own.
        weight_bits: Bit-widths the search may give to weights.
        activation_bits: And to activations.
        pinned: ``"ends"``, ``"none"``, or names of layers.
        tied: Whether one gene sets both bit-widths of a layer.
        difference: Name of the difference; ``"auto"``, resolved at once: the default.
        results: Which results between layers have 8 bits: ``"auto"``, ``"float"`` or ``"int8"``.
        engine: ``"auto"``, ``"reference"`` or ``"integer"``.
        classes: Of a zoo's detector, background among them; None for the entry's number.
        read_from: The file it was read from, where nobody has said that the file is trusted. Such a recipe runs no
            code, and reads no file outside of that file's folder and the working directory. None for one of the
            user's own. It is no part of the recipe: not compared, not written.
        runs_code: Whether the factory of such a recipe may run nevertheless.
    """

    model: Text
    weights: Text | None = None
    samples: Text | None = None
    count: Few = 50
    samples_seed: Whole = 0
    choose: str = RANDOM
    preprocess: Mapping[str, Any] | None = None
    weight_bits: tuple[BitWidth, ...] = tuple(range(2, 9))
    activation_bits: tuple[BitWidth, ...] = tuple(range(2, 9))
    pinned: str | tuple[Text, ...] = "ends"
    tied: bool = False
    difference: str = AUTO
    results: ResultsName = "auto"
    engine: EngineName = "auto"
    classes: Few | None = None
    read_from: str | None = field(default=None, compare=False, repr=False)
    runs_code: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("model", "weights", "samples"):
            check_text(name, getattr(self, name))
        if self.difference == AUTO:
            object.__setattr__(self, "difference", DEFAULT)

    def check_trust(self, *, samples: bool = True) -> None:
        """Raise where making the network needs the user's consent, which it lacks.

        Args:
            samples: Whether its samples are read, too.

        Raises:
            TrustError: The recipe was read from a file, which names code, or weights or samples elsewhere.
        """
        if self.read_from is None:
            return
        if ":" in self.model and not self.runs_code:
            raise refuse_code(self.model, self.read_from, again="--model")
        if self.weights is not None and not is_name(self.weights):
            check_path("weights", self.weights, self.read_from)
        if samples and self.samples is not None and self.samples != SYNTHETIC:
            check_path("samples", self.samples, self.read_from)

    def load_model(self) -> tuple[nn.Module, Preprocess]:
        """Load the float network and its preprocessing.

        Raises:
            TrustError: As :meth:`check_trust`.
            ArgumentError: A factory's network has no `preprocess` attribute and none is given.
            WeightsError: The entry comes without weights and none are given; ``"random"`` asks for random ones.
        EvoqError: As :func:`evoq_moo.zoo.load` and :func:`evoq_moo.zoo.load_factory`.
        """
        self.check_trust(samples=False)
        given = None if self.preprocess is None else Preprocess.from_json(self.preprocess)
        if ":" not in self.model:
            loaded = zoo.load(self.model, weights=self.weights, preprocess=given, classes=self.classes)
            if not loaded.pretrained:
                _check_random(loaded.entry, self.weights)
            return loaded.network, loaded.preprocess
        if self.weights is not None:
            raise ArgumentError(f"weights: given {self.weights!r}; a factory ({self.model}) loads its own weights")
        if self.classes is not None:
            raise ArgumentError(f"classes: given {self.classes}; a factory ({self.model}) knows its own")
        network = zoo.load_factory(self.model)
        preprocess = given if given is not None else zoo.known_preprocess(network)
        if preprocess is None:
            raise ArgumentError(
                f"preprocess: given none for {self.model}, whose network has no `preprocess` attribute; "
                "give --crop (and --resize, --mean, --std), or set the attribute to an evoq_moo.Preprocess"
            )
        return network, preprocess

    def __call__(self, *, threads: int | None = None, progress: bool = False) -> QuantizedNetwork:
        """Make the quantized network.

        Args:
            threads: Micro-batches computed at once; None for one a core.
            progress: Show progress on a terminal.

        Raises:
            TrustError: As :meth:`check_trust`.
            ArgumentError: No samples are given for a model that has none embedded.
            EvoqError: As the loaders and :class:`QuantizedNetwork`.
        """
        check_name("choose", self.choose, CHOOSERS)
        self.check_trust()
        if self.samples == SYNTHETIC and self.choose != RANDOM:
            raise ArgumentError(f"choose: given {self.choose!r} with synthetic samples; allowed: {RANDOM!r}")
        model, preprocess = self.load_model()
        images: Any = self.samples
        if images is None:
            default = zoo.entry(self.model).default_images if ":" not in self.model else None
            if default is None:
                raise ArgumentError(
                    f"samples: given none; {self.model} has no images of its own: give a folder or .npz"
                )
            images = default()
        if self.samples == SYNTHETIC:
            samples = cached_samples(
                model, count=self.count, preprocess=preprocess, seed=self.samples_seed, progress=progress
            )
        else:
            samples = load_samples(
                images,
                count=self.count,
                preprocess=preprocess,
                seed=self.samples_seed,
                choose=self.choose,
                network=model,
                progress=progress,
            )
        return QuantizedNetwork(
            model,
            samples,
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            pinned=self.pinned,
            tied=self.tied,
            difference=self.difference,
            results=self.results,
            engine=self.engine,
            threads=threads,
            progress=progress,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON-ready plain data; paths are made absolute."""
        data = {key: value for key, value in asdict(self).items() if key in _written()}
        for key in ("weights", "samples"):
            value = data[key]
            if value not in (None, SYNTHETIC, zoo.RANDOM_WEIGHTS) and Path(value).exists():
                data[key] = str(Path(value).resolve())
        return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}

    def vouch(self, model: str) -> "Recipe":
        """Return the recipe with its factory allowed to run, since the user names the same one.

        Args:
            model: What the user names.

        Raises:
            ArgumentError: It is not the recipe's.
        """
        if model != self.model:
            raise ArgumentError(f"model: given {model!r}; {self.read_from or 'the recipe'} names {self.model!r}")
        return replace(self, runs_code=True)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, source: str | Path = "recipe", trust: bool = False) -> "Recipe":
        """Rebuild a recipe from what :meth:`to_json` gave.

        Args:
            data: The data.
            source: The file it is from, for messages; paths below its folder may be read.
            trust: Allow it to run the code and to read the files that it names, wherever they are.

        Raises:
            FormatError: The data is not a recipe.
        """
        with reading(f"{source}: not a recipe"):
            recipe = convert(data, cls)
            for key in data:
                check_name("given a key", key, _written())
            if recipe.preprocess is not None:
                Preprocess.from_json(recipe.preprocess)
        return replace(recipe, read_from=None if trust else str(source))


def _written() -> set[str]:
    """Return the fields that files hold."""
    return {f.name for f in fields(Recipe) if f.compare}


class _RecipeData(Struct):
    recipe: dict[str, Any]


def _check_random(entry: zoo.ZooEntry, weights: str | None) -> None:
    """Say that random weights are used, where they are asked for.

    Raises:
        WeightsError: They are not.
    """
    if weights != zoo.RANDOM_WEIGHTS:
        raise WeightsError(
            f"weights: given none, and {entry.name} comes without; {_where_weights_are(entry)}; "
            f"{zoo.RANDOM_WEIGHTS!r} where only costs matter"
        )
    logger.warning("%s has random weights, as asked: differences and accuracies mean nothing", entry.name)


def _where_weights_are(entry: zoo.ZooEntry) -> str:
    published = zoo.published_weights(entry)
    if not published:
        return f"give a file of weights ({entry.source})"
    first = next(iter(published.values()))
    return (
        f"give weights: a file, or {', '.join(published)} (e.g. get {first.url} and put it at {first.path}; "
        "--download gets it)"
    )


def write_recipe(path: str | Path, recipe: Recipe) -> None:
    """Write a recipe as JSON, whole or not at all."""
    data = {"format": FORMAT, "version": 1, "recipe": recipe.to_json()}
    write_atomically(path, (json.dumps(data, indent=1) + "\n").encode())


def read_recipe(path: str | Path, *, trust: bool = False) -> Recipe:
    """Read what :func:`write_recipe` wrote.

    Args:
        path: The file.
        trust: As for :meth:`Recipe.from_json`.

    Raises:
        MissingFileError: No such file.
        FormatError: Not a recipe, damaged, or of an unknown version.
    """
    data = read_json(path, _RecipeData, format_name=FORMAT, version=1)
    return Recipe.from_json(data.recipe, source=path, trust=trust)
