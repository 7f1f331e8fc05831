"""Torch's exporters print and log much of what goes on inside them; users read our one line instead."""

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

_alone = threading.RLock()
"""Torch captures one network at a time in a process, and what it prints and logs is of the process too."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch's exporters say of themselves; their errors still come out as exceptions."""
    names = ("torch.onnx", "torch.export", "torch.fx", "torch._dynamo", "onnxscript", "onnx_ir")
    with _alone, warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        levels = {name: logging.getLogger(name).level for name in names}
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
