"""What identifies tensors and networks: hashes of all that their results depend on."""

import hashlib

from torch import Tensor, nn


def digest(*parts: bytes) -> str:
    """Return the SHA-256 of byte strings, in hexadecimal; lengths count, so that parts can't run together."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)
    return sha.hexdigest()


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the dtype, shape and values of a tensor as bytes."""
    head = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    return head + tensor.detach().cpu().contiguous().numpy().tobytes()


def network_fingerprint(network: nn.Module) -> str:
    """Return what identifies a network: its structure and every parameter and buffer."""
    parts = [str(network).encode()]
    for name, tensor in sorted(network.state_dict().items()):
        parts += [name.encode(), tensor_bytes(tensor)]
    return digest(*parts)
