"""Looking at the inputs of layers while a network runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn


class _Observe(Protocol):
    def __call__(self, name: str, x: Tensor) -> None: ...


@contextmanager
def observed(network: nn.Module, names: Sequence[str], observe: _Observe) -> Iterator[None]:
    """Call a function with the name and the input of each named layer whenever it runs, while the context lasts.

    Args:
        network: The network; any of its threads may run it.
        names: The layers.
        observe: May be called by several threads at once.
    """
    modules = dict(network.named_modules())
    handles = []
    for name in names:

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
            x = args[0] if args else kwargs["input"]
            observe(name, x)

        handles.append(modules[name].register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
