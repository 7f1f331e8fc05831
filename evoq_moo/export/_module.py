"""`OnnxNetwork`: an exported classifier as a torch module, so that whatever judges modules judges files too."""

from pathlib import Path

import torch
from torch import Tensor, nn

from evoq_moo.errors import FormatError
from evoq_moo.export._session import open_session, run_session


class OnnxNetwork(nn.Module):
    """A classifier's ONNX file, computed by onnxruntime with its default fusions on one thread.

    Args:
        path: The file.

    Raises:
        MissingPackageError: onnxruntime is missing.
        FormatError: onnxruntime refuses the file, or it gives more than one output.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self._session = open_session(path, integer=True)
        outputs = [found.name for found in self._session.get_outputs()]
        if len(outputs) != 1:
            raise FormatError(f"{path}: gives {len(outputs)} outputs; allowed: one, the logits of a classifier")

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images `(n, C, H, W)`."""
        return torch.from_numpy(run_session(self._session, x)[0])
