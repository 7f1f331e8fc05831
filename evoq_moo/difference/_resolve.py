"""`Difference`: a metric with its name and what identifies the numbers it gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from evoq_moo.difference._identity import identity_of
from evoq_moo.difference._metrics import CLASS_METRICS, METRICS, VERSION, Metric
from evoq_moo.errors import ArgumentError, check_name

AUTO = "auto"
DEFAULT = "nmse"
"""What `AUTO` means. The paper's abstract says "output difference"; the normalized MSE is our choice for every task: it
spreads over all samples where the KL divergence of a classifier sits in the few that it is unsure of, which a search
overfits (held out, CIFAR-10 fronts are 6 to 13 % larger, ImageNet fronts the same: `docs/measurements.md`). It needs to
know nothing of what the outputs mean."""


@dataclass(frozen=True)
class Difference:
    """A difference of outputs.

    Attributes:
        function: A callable of (float heads, quantized heads) that returns a number, smaller for nearer outputs.
        name: A name of your own for what the function computes. Results are kept under it, so give another name
            whenever the function computes something else. Without one, the function is identified by its content:
            source, constants, what it refers to, arguments bound to it and the attributes of objects.
        class_dim: The dimension of classes that the function was told, None if none.
        identity: What identifies the numbers it gives, for fingerprints; computed where it is not given.

    Raises:
        ArgumentError: `function` is not callable, or it has no name and its content can't be identified.
    """

    function: Metric
    name: str = ""
    class_dim: int | None = None
    identity: str = ""

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ArgumentError(
                f"difference: given {self.function!r}; allowed: one of {list(METRICS)}, a callable or a Difference"
            )
        if not isinstance(self.name, str):
            raise ArgumentError(f"name: given {self.name!r}; allowed: a string")
        if not self.identity:
            identity = f"named {self.name!r}" if self.name else f"content {identity_of(self.function)}"
            object.__setattr__(self, "identity", identity)
        if not self.name:
            kind = type(self.function)
            module = getattr(self.function, "__module__", kind.__module__)
            object.__setattr__(self, "name", f"{module}.{getattr(self.function, '__qualname__', kind.__qualname__)}")

    def __call__(self, reference: Sequence[Tensor], quantized: Sequence[Tensor]) -> float:
        """Return the difference of two networks' heads."""
        return float(self.function(reference, quantized))


def resolve(difference: str | Metric | Difference, *, class_dim: int | None = None) -> Difference:
    """Return a difference with its name and identity.

    Args:
        difference: A name in :data:`METRICS`, `AUTO` for `DEFAULT`, a callable of (float heads, quantized heads), or a
            `Difference`.
        class_dim: For `"kl"` and `"top1_flips"`: the dimension of heads that runs over classes, 0 being that of
            samples; may be negative. None: by the rule of :func:`class_axis`.

    Raises:
        UnknownNameError: No difference of that name.
        ArgumentError: Neither a name nor a callable, a callable that can't be identified, or a `class_dim` that is not
            allowed or has no use.
    """
    if class_dim is not None and (isinstance(class_dim, bool) or not isinstance(class_dim, int) or class_dim == 0):
        raise ArgumentError(f"class_dim: given {class_dim!r}; allowed: an integer but 0, the dimension of samples")
    if not isinstance(difference, str):
        if class_dim is not None:
            raise ArgumentError(f"class_dim: given {class_dim} with a callable; allowed: with {list(CLASS_METRICS)}")
        return difference if isinstance(difference, Difference) else Difference(difference)
    if difference == AUTO:
        difference = DEFAULT
    check_name("difference", difference, METRICS)
    if class_dim is None:
        return Difference(METRICS[difference], difference, identity=f"{difference} {VERSION}")
    if difference not in CLASS_METRICS:
        raise ArgumentError(f"class_dim: given {class_dim} with {difference!r}; allowed: with {list(CLASS_METRICS)}")
    function = partial(CLASS_METRICS[difference], class_dim=class_dim)
    return Difference(function, difference, class_dim, f"{difference} {VERSION}, class_dim {class_dim}")
