"""Weight levels in as many bits as they have: the containers of ONNX, and bit planes where ONNX has no such type.

A container is a name: ``int8``, ``int4`` and ``int2`` are ONNX types (4- and 2-bit levels packed two and four to a
byte by ONNX itself); ``uint8`` holds 8-bit levels plus 128; ``bits2``..``bits7`` hold bit `k` of every level in plane
`k`, eight levels to a byte, the first in the lowest bit; ``float32`` holds weights that are not quantized.
"""

import numpy as np
import numpy.typing as npt

from evoq_moo.errors import FormatError
from evoq_moo.quantizer import weight_range

Bytes = npt.NDArray[np.uint8]
Levels = npt.NDArray[np.int8]
FLOAT = "float32"
_TYPES = {"int8": 8, "uint8": 8, "int4": 4, "int2": 2}


def container_of(bits: int, *, packed: bool, two_bit_types: bool, unsigned: bool = False) -> str:
    """Return the container of weights.

    Args:
        bits: Weight bit-width (bits); 16 and 32 are not quantized.
        packed: Whether bit-widths without a type of their own are packed as bit planes, or take the next wider type.
        two_bit_types: Whether ONNX's 2-bit type may be used.
        unsigned: Store 8-bit levels unsigned.
    """
    if bits > 8:
        return FLOAT
    if bits == 8 and unsigned:
        return "uint8"
    exact = {8: "int8", 4: "int4", **({2: "int2"} if two_bit_types else {})}
    if bits in exact:
        return exact[bits]
    if packed:
        return f"bits{bits}"
    return "int4" if bits < 4 else "int8"


def bits_of(container: str) -> int:
    """Return the bits that a level takes in a container.

    Raises:
        FormatError: No such container.
    """
    if container in _TYPES:
        return _TYPES[container]
    digits = container.removeprefix("bits")
    if container == FLOAT:
        return 32
    if container == f"bits{digits}" and digits in {"2", "3", "5", "6", "7"}:
        return int(digits)
    raise FormatError(f"container: given {container!r}; allowed: {', '.join(_TYPES)}, bits2..bits7 or {FLOAT}")


def to_planes(levels: Levels, bits: int) -> Bytes:
    """Return the bit planes of signed levels: uint8 `(bits, ceil(levels / 8))`."""
    flat = levels.reshape(-1).view(np.uint8)
    planes = (flat[None, :] >> np.arange(bits, dtype=np.uint8)[:, None]) & np.uint8(1)
    return np.packbits(planes, axis=1, bitorder="little")


def from_planes(planes: Bytes, count: int) -> Levels:
    """Return the first `count` signed levels of bit planes."""
    bits = np.unpackbits(planes, axis=1, bitorder="little")[:, :count].astype(np.int16)
    return np.asarray((plane_weights(len(planes)) @ bits).astype(np.int8))


def plane_weights(bits: int) -> npt.NDArray[np.int16]:
    """Return what a set bit of each plane adds to a level: two's complement, so the last plane's is negative."""
    lowest, _ = weight_range(bits)
    return np.array([*(2**k for k in range(bits - 1)), lowest], dtype=np.int16)
