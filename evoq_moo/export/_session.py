"""Running ONNX files by onnxruntime on the CPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evoq_moo.errors import FormatError, MissingPackageError, check_memory
from evoq_moo.graph import Samples, filled, leaves, split


def open_session(
    model: bytes | str | Path,
    *,
    threads: int | None = 1,
    integer: bool = False,
    profile: Path | None = None,
    optimized: Path | None = None,
) -> Any:
    """Return an onnxruntime session on the CPU.

    Args:
        model: A serialized model, or a file.
        threads: Threads of one operator; None for onnxruntime's choice.
        integer: Let onnxruntime fuse layers into its integer kernels, its default. They round elsewhere and, on
            processors without int8 dot products, may saturate. False computes the arithmetic as the file says it.
        profile: Beginning of the name of a file in which the session's profiler writes the time of each node.
        optimized: A file in which onnxruntime writes the model that it runs.

    Raises:
        MissingPackageError: onnxruntime is missing.
        FormatError: onnxruntime refuses the model.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingPackageError("running ONNX needs onnxruntime: pip install 'onnxruntime>=1.22'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors come as exceptions
    if threads is not None:
        options.intra_op_num_threads = threads
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    if not integer:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    content = model if isinstance(model, bytes) else Path(model).read_bytes()
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base of their own
        check_memory(error)
        raise FormatError(f"onnxruntime refuses the model: {str(error).strip().splitlines()[0]}") from error


def input_arrays(names: Sequence[str], batch: Samples) -> dict[str, npt.NDArray[Any]]:
    """Return a batch as a session takes it: by the names of its inputs."""
    return {name: x.numpy() for name, x in zip(names, leaves(batch), strict=True)}


def run_session(session: Any, batch: Samples, outputs: Sequence[str] | None = None) -> list[npt.NDArray[Any]]:
    """Return outputs of a session on a batch, all of them or those named.

    Raises:
        FormatError: onnxruntime can't run the file on it.
    """
    tensors = leaves(batch)
    size = session.get_inputs()[0].shape[0]
    if isinstance(size, int) and len(tensors[0]) != size:  # the file takes one number of samples only
        parts = [run_session(session, filled(part, size), outputs) for part in split(batch, size)]
        return [np.concatenate(values)[: len(tensors[0])] for values in zip(*parts, strict=True)]
    try:
        given = input_arrays([taken.name for taken in session.get_inputs()], batch)
        found: list[npt.NDArray[Any]] = session.run(outputs, given)
    except Exception as error:  # its exceptions share no base of their own
        check_memory(error)
        reason = " ".join(str(error).split())
        raise FormatError(
            f"onnxruntime can't run the model on samples of {', '.join(str(tuple(x.shape)) for x in tensors)}: {reason}"
        ) from error
    return found
