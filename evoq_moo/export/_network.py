"""`OnnxNetwork`: an exported file as a module, so that what measures networks measures what ships."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evoq_moo.detection import HEADS, BoxDecoder
from evoq_moo.errors import ArgumentError
from evoq_moo.export._read import OnnxFile, read_onnx
from evoq_moo.export._session import open_session, run_session
from evoq_moo.images import Preprocess
from evoq_moo.runs import Recipe


class OnnxNetwork(nn.Module):
    """An exported file, run by onnxruntime with its default options, as its users run it.

    Args:
        path: The file.
        decoder: Of a detector.
        class_names: Of a detector.
        threads: Threads of one operator; None for onnxruntime's choice.

    Attributes:
        file: What the file holds.
        preprocess: What makes its input of an image; None where the file does not say.
        decoder: Makes boxes of its heads.
        class_names: Names of a detector's classes.

    Raises:
        MissingFileError: No such file.
        FormatError: The file is damaged or not of ours.
        MissingPackageError: onnx or onnxruntime is missing.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        decoder: BoxDecoder | None = None,
        class_names: tuple[str, ...] | None = None,
        threads: int | None = 1,
    ) -> None:
        super().__init__()
        self.file: OnnxFile = read_onnx(path)
        self._session = open_session(self.file.content, threads=threads, integer=True)
        self._outputs = [value.name for value in self._session.get_outputs()]
        self.preprocess: Preprocess | None = self.file.preprocess
        self.decoder = decoder
        self.class_names = class_names
        self.eval()

    def forward(self, x: Tensor) -> Any:
        """Run the file on samples: the tensor that it gives, or several by name."""
        heads = [torch.from_numpy(found) for found in run_session(self._session, x)]
        return heads[0] if len(heads) == 1 else dict(zip(self._outputs, heads, strict=True))

    @property
    def detects(self) -> bool:
        """Whether the file is a detector's: it gives class logits and box regressions."""
        return set(HEADS) <= set(self._outputs)

    def recipe(self, *, trust: bool = False) -> Recipe:
        """Return the recipe of the network that the file was made from.

        Args:
            trust: Allow it to run the code and to read the files that it names, wherever they are.

        Raises:
            ArgumentError: The file names none.
            FormatError: What it names is not a recipe.
        """
        data = self.file.provenance.get("recipe")
        if not isinstance(data, dict):
            raise ArgumentError(
                f"{self.file.path}: does not say which network it was made from; allowed: files of `evoq export`"
            )
        return Recipe.from_json(data, source=self.file.path, trust=trust)
