"""Reading checkpoints: never unpickled, never downloaded, and either the whole network's weights or an error."""

import io
import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from evoq_moo.errors import WeightsError
from evoq_moo.files import check_tensors, read_bytes, read_tensors, reading
from evoq_moo.images import Preprocess

SUFFIXES = (".safetensors", ".pth", ".pt")
_SHOWN = 3


def read_weights(path: str | os.PathLike[str]) -> tuple[str, bytes]:
    """Return name and content of a checkpoint file.

    Raises:
        MissingFileError: No such file.
        WeightsError: Not a readable file with one of the known suffixes.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise WeightsError(f"weights: given the file {path}; allowed: names ending in {', '.join(SUFFIXES)}")
    return str(path), read_bytes(path, argument="weights", error=WeightsError)


def parse_weights(name: str, data: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint, `{"state_dict": ...}`, `{"model": ...}` and a leading ``module.`` taken off.

    Args:
        name: Its file name, which tells the format, for messages.
        data: Its content.

    Raises:
        WeightsError: Damaged, not a checkpoint, or holding more than strided tensors of real numbers.
    """
    state: Any
    if name.lower().endswith(".safetensors"):
        with reading(f"{name}: damaged", WeightsError):
            state = read_tensors(data)
    else:
        what = f"{name}: damaged, or holds more than tensors (pickled objects are never loaded)"
        # torch.load raises nearly anything on damaged files: UnpicklingError, RuntimeError, EOFError, KeyError, ...
        with reading(what, WeightsError, catch=(Exception,)), warnings.catch_warnings():
            # Checkpoints in torch's older formats load well, but make torch warn of its own typed storages.
            warnings.simplefilter("ignore")
            _check_packing(data)
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WeightsError(
            f"{name}: given no table of tensors; allowed: a state_dict, or one under the key 'state_dict' or 'model'"
        )
    if all(str(key).startswith("module.") for key in state):
        state = {str(key).removeprefix("module."): value for key, value in state.items()}
    with reading(f"{name}: these are no weights", WeightsError):
        check_tensors(state, len(data))
    return dict(state)


def _check_packing(data: bytes) -> None:
    """Raise ValueError where a checkpoint is a zip archive that expands; torch writes archives that don't."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        expanded = sum(info.file_size for info in archive.infolist())
    if expanded > len(data):
        raise ValueError(f"it expands to {expanded} bytes, from {len(data)}")


def apply_weights(network: nn.Module, state: dict[str, torch.Tensor], *, name: str, architecture: str) -> None:
    """Load a state into a network, every tensor or none.

    Args:
        network: Changed in place.
        state: Tensors by name.
        name: The checkpoint's, for messages.
        architecture: The network's, for messages.

    Raises:
        WeightsError: Names or shapes differ (the message lists the first few), or one holds NaN or infinity.
    """
    wanted = network.state_dict()
    # torch fills this counter in by itself: checkpoints from before it existed lack it.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in wanted]
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [
        f"{len(keys)} {what}: {', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    if problems:
        raise WeightsError(f"{name}: these weights are not of {architecture}; {'; '.join(problems)}")
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise WeightsError(f"{name}: {key} holds NaN or infinity; allowed: finite weights")
    network.load_state_dict(state, strict=True)


def is_name(weights: object) -> bool:
    """Tell whether `weights` reads as a name, such as ``IMAGENET1K_V1``, rather than as a path."""
    return isinstance(weights, str) and re.fullmatch(r"[A-Za-z0-9_]+", weights) is not None


def torchvision_preprocess(architecture: str, digest: str) -> Preprocess | None:
    """Return torchvision's preprocessing for a checkpoint it published, None for others.

    Args:
        architecture: A torchvision network.
        digest: SHA-256 of the file, in hex.
    """
    from torchvision.models import get_model_weights

    for weights in get_model_weights(architecture):
        if digest.startswith(hash_in_name(Path(urlparse(weights.url).path).name)):
            preset = weights.transforms()
            if not hasattr(preset, "crop_size"):  # a detector's: the entry says it
                return None
            return Preprocess(
                crop=preset.crop_size[0], resize=preset.resize_size[0], mean=tuple(preset.mean), std=tuple(preset.std)
            )
    return None


def hash_in_name(file: str) -> str:
    """Return the start of the SHA-256 that torch hub's file names end in, e.g. of ``resnet18-f37072fd.pth``."""
    return Path(file).stem.rpartition("-")[2]
