"""What `difference="auto"` means, from the float network's outputs on the samples."""

from collections.abc import Sequence

from torch import Tensor

from evoq_moo.difference._metrics import class_axis
from evoq_moo.errors import ArgumentError

CLASSIFICATION_DEFAULT = "kl"
DETECTION_DEFAULT = "nmse"
"""What ``"auto"`` means: a detector's class logits and box regressions count equally, before suppression."""

FEW_CHANNELS = 4
"""Our choice: dense outputs of so few channels count as flow, boxes or images, not as class scores."""
_TOLERANCE = 1e-3


def choose(float_heads: Sequence[Tensor], *, has_decoder: bool, class_dim: int | None) -> tuple[str, str]:
    """Return the difference that fits a network's outputs, and a sentence that says what was chosen and why.

    The rule is ours. The KL divergence for class scores: heads `(samples, classes)`, or heads of one shape with more
    dimensions and more than four channels with values of both signs. The normalized MSE for everything else, which
    it judges rightly whatever they mean: a detector's raw heads, single values, dense values that are never negative
    (pixels, depths), outputs that are probabilities or unit vectors already, dense outputs of up to four channels
    (flow, boxes, images), and several heads of unlike kinds. Logarithms of probabilities are class scores.

    Args:
        float_heads: The float network's heads on the samples, `(samples, ...)` each.
        has_decoder: Whether the network is a detector, which has an attribute `decoder`.
        class_dim: The dimension of classes if the user says so: then all heads are class scores.

    Raises:
        ArgumentError: `class_dim` is given for a detector, or a head has no such dimension of at least two classes.
    """
    if has_decoder:
        if class_dim is not None:
            raise ArgumentError(
                f"class_dim: given {class_dim} for a detector, whose heads of boxes have no classes; allowed: None"
            )
        return _values("the network is a detector: class scores and boxes count equally")
    if class_dim is None:
        reason = _not_scores(float_heads)
        if reason:
            return _values(reason)
    axes = sorted({class_axis(head, class_dim) for head in float_heads})
    why = "as class_dim says" if class_dim is not None else f"{_shapes(float_heads)} looks like class scores"
    where = " and ".join(str(axis) for axis in axes)
    return CLASSIFICATION_DEFAULT, (
        f"difference: KL divergence over dimension {where} ({CLASSIFICATION_DEFAULT!r}), {why}; "
        f"difference={DETECTION_DEFAULT!r} compares the values themselves"
    )


def _values(reason: str) -> tuple[str, str]:
    return DETECTION_DEFAULT, f"difference: normalized MSE of the outputs ({DETECTION_DEFAULT!r}), since {reason}"


def _shapes(heads: Sequence[Tensor]) -> str:
    if len(heads) == 1:
        return f"the output {tuple(heads[0].shape)}"
    return f"each of the {len(heads)} outputs {', '.join(str(tuple(head.shape)) for head in heads[:4])}"


def _not_scores(heads: Sequence[Tensor]) -> str:
    """Return why heads are not class scores; empty if they may be."""
    plain = all(head.dim() == 2 for head in heads)
    if not plain and any(head.shape != heads[0].shape for head in heads):
        return f"the {len(heads)} outputs are of unlike kinds, {', '.join(str(tuple(h.shape)) for h in heads[:4])}"
    looks = ((head, _look(head)) for head in heads)
    return next((f"the output {tuple(head.shape)} {look}" for head, look in looks if look), "")


def _look(head: Tensor) -> str:
    """Return what a head looks like if not like class scores, else nothing."""
    try:
        axis = class_axis(head)
    except ArgumentError:
        return "is a single value for each sample or position"
    if head.dim() > 2 and head.shape[axis] <= FEW_CHANNELS:
        return f"has {head.shape[axis]} channels, like flow, boxes or images"
    values = head.double()
    if values.min() >= 0:
        probabilities = ((values.sum(axis) - 1).abs() < _TOLERANCE).all()
        if probabilities:
            return "holds probabilities already"
        # Networks like SqueezeNet end in a ReLU: their class scores are never negative.
        return "is never negative, unlike class scores" if head.dim() > 2 else ""
    return "holds unit vectors" if ((values.norm(dim=axis) - 1).abs() < _TOLERANCE).all() else ""
