"""Fixtures for every test."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from evoq_moo.front import FrontPoint, ParetoFront
from evoq_moo.space import Policy
from evoq_moo.zoo._cifar import CifarBlock

NOBODY = 65534
"""A user who owns nothing here."""
SHARED_DATA = Path(os.environ.get("EVOQ_DATA") or Path(__file__).resolve().parents[1].parent / "shared" / "data")


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Paths below the folder of real weights and images; skips the test where one is absent."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"needs {path} (set EVOQ_DATA to where such files are)")
        return path

    return find


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the digits network's weights out of the user's cache, unless EVOQ_CACHE says where they may be."""
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("EVOQ_CACHE"):
            patch.setenv("EVOQ_CACHE", str(tmp_path_factory.mktemp("evoq-cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_table_of_onnx_operators() -> Iterator[None]:
    """Let torch's ONNX exporter build its table of operators once: that takes half of a small network's export."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # another release of torch has it elsewhere
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def with_random_weights() -> Callable[[nn.Module, torch.Generator], nn.Module]:
    """Fills a network with random weights that keep signals alive."""

    def fill(model: nn.Module, generator: torch.Generator) -> nn.Module:
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.5, generator=generator)
        return model

    return fill


@pytest.fixture(scope="session")
def front_of() -> Callable[..., ParetoFront]:
    """Fronts of given (difference, size, bops), with different policies of two layers."""

    def make(values: Sequence[tuple[float, float, float]], objectives=("difference", "bops")) -> ParetoFront:
        points = [
            FrontPoint(
                policy=Policy(("a", "b"), (2 + i % 7, 8), (2 + i // 7, 8)), difference=d, costs={"size": s, "bops": b}
            )
            for i, (d, s, b) in enumerate(values)
        ]
        return ParetoFront(points=tuple(points), objectives=objectives)

    return make


@pytest.fixture
def tiny_model(with_random_weights) -> nn.Module:
    """A residual network of five layers on 3x8x8 images, small enough for thousands of evaluations."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        CifarBlock(4, 8, 2),
        nn.Conv2d(8, 8, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 6),
    )
    return with_random_weights(model, torch.Generator().manual_seed(11))


@pytest.fixture
def tiny_samples() -> torch.Tensor:
    """Twelve float32 samples for `tiny_model`."""
    return torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(12))


@pytest.fixture
def locked_folder() -> Iterator[Callable[[Path], AbstractContextManager[None]]]:
    """A context in which a folder and all below can't be written to, not even by root."""

    @contextmanager
    def locked(folder: Path) -> Iterator[None]:
        found = [folder, *folder.rglob("*")]
        modes = {path: path.stat().st_mode for path in found}
        above = {path: path.stat().st_mode for path in folder.parents if path.stat().st_uid == os.getuid()}
        user = os.geteuid()
        for path, mode in above.items():
            path.chmod(mode | 0o055)
        for path in found:
            path.chmod(0o555 if path.is_dir() else 0o444)
        if user == 0:
            os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(user)
            for path, mode in {**modes, **above}.items():
                path.chmod(mode)

    return locked
