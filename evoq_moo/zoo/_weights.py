"""Reading checkpoints: never unpickled, never downloaded, and either the whole network's weights or an error."""

import io
import os
import re
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import safetensors
import safetensors.torch
import torch
from torch import nn

from evoq_moo.errors import MissingFileError, WeightsError
from evoq_moo.preprocess import Preprocess

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
    if not path.exists():
        raise MissingFileError(f"weights: no such file: {path}")
    try:
        return str(path), path.read_bytes()
    except OSError as error:
        raise WeightsError(f"weights: can't read {path}: {error}") from error


def parse_weights(name: str, data: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint, `{"state_dict": ...}`, `{"model": ...}` and a leading ``module.`` taken off.

    Args:
        name: Its file name, which tells the format, for messages.
        data: Its content.

    Raises:
        WeightsError: Damaged, not a checkpoint, or holding more than tensors.
    """
    state: Any
    if name.lower().endswith(".safetensors"):
        try:
            state = safetensors.torch.load(data)
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise WeightsError(f"{name}: damaged, or not a safetensors file: {error}") from error
    else:
        try:
            with warnings.catch_warnings():
                # Checkpoints in torch's older formats load well, but make torch warn of its own typed storages.
                warnings.simplefilter("ignore")
                state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        # torch.load raises nearly anything on damaged files: UnpicklingError, RuntimeError, EOFError, KeyError, ...
        except Exception as error:
            first_line = str(error).strip().split("\n", maxsplit=1)[0]
            raise WeightsError(
                f"{name}: damaged, or holds more than tensors (pickled objects are never loaded): {first_line}"
            ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WeightsError(
            f"{name}: given no table of tensors; allowed: a state_dict, or one under the key 'state_dict' or 'model'"
        )
    if all(str(key).startswith("module.") for key in state):
        state = {str(key).removeprefix("module."): value for key, value in state.items()}
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise WeightsError(f"{name}: {key} holds NaN or infinity; allowed: finite weights")
    return dict(state)


def apply_weights(network: nn.Module, state: dict[str, torch.Tensor], *, name: str, architecture: str) -> None:
    """Load a state into a network, every tensor or none.

    Args:
        network: Changed in place.
        state: Tensors by name.
        name: The checkpoint's, for messages.
        architecture: The network's, for messages.

    Raises:
        WeightsError: Names or shapes differ; the message lists the first few.
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
