"""What a policy changes on images that its search did not see."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evoq_moo._compute import MICRO_BATCH
from evoq_moo.calibration import CalibratingNetwork
from evoq_moo.difference import METRICS, difference_interval
from evoq_moo.errors import ArgumentError
from evoq_moo.files import Number
from evoq_moo.graph import Samples, are_images, check_samples, count, float_outputs, leaves, rows
from evoq_moo.network import QuantizedNetwork
from evoq_moo.space import IntArray, Policy

SHOWN = ("kl", "nmse", "top1_flips")
"""Differences that are told beside a network's own, of class scores."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a policy changes on some images.

    Attributes:
        difference: Of all images, in the metric's unit.
        low: Lower end of the interval of 90 % for new images of this kind; None of fewer than 8 images.
        high: Upper end.
        others: Other differences by their names, where the outputs are class scores.
    """

    difference: Number
    low: Number | None = None
    high: Number | None = None
    others: Mapping[str, Number] = field(default_factory=dict)

    def short(self) -> str:
        """Return the interval, or the difference where there is none, for tables."""
        if self.low is None or self.high is None:
            return f"{self.difference:.3g}"
        return f"{self.low:.2g}..{self.high:.2g}"

    def __str__(self) -> str:
        interval = "" if self.low is None else f" ({self.short()} in 90 %)"
        return ", ".join([f"{self.difference:.4g}{interval}", *(f"{k} {v:.4g}" for k, v in self.others.items())])


class NewImages:
    """Measures policies of a network on other images than its samples; ranges and weights stay those of the samples.

    Args:
        network: The network; one that calibrates in the loop calibrates with its samples.
        images: Like its samples.

    Attributes:
        images: Those that are measured on: without the network's own samples.
        left_out: How many of the given ones are the network's samples.
        float_heads: The float network's outputs on the images.

    Raises:
        ArgumentError: The images are not of a form that networks take, or all are samples of the network.
        EvoqError: The network can't run on them.
    """

    def __init__(self, network: QuantizedNetwork | CalibratingNetwork, images: Samples) -> None:
        self._network = network if isinstance(network, QuantizedNetwork) else network.network
        given = check_samples(images)
        seen = set(_keys(self._network.samples))
        new = [i for i, key in enumerate(_keys(given)) if key not in seen]
        self.left_out = count(given) - len(new)
        if not new:
            raise ArgumentError(
                f"images: all {count(given)} are among the samples that the policies were searched with; allowed: "
                "others"
            )
        self.images = rows(given, new)
        pool = self._network.pool
        self.float_heads = float_outputs(self._network.network, self.images, MICRO_BATCH, pool)
        self._heads: Callable[[IntArray], list[Tensor]]
        if isinstance(network, QuantizedNetwork):
            self._heads = network.engine_on(self.images).heads
        else:
            layers = network.space.layer_names
            self._heads = lambda bits: float_outputs(
                network.apply(Policy.from_array(layers, bits)), self.images, MICRO_BATCH, pool
            )

    def measure(self, policy: Policy) -> Measured:
        """Return what a policy changes on the images.

        Raises:
            ArgumentError: The policy is of another network's layers.
            NonFiniteError: It has no difference there.
        """
        heads = self._heads(self._network.bits_of(policy))
        interval = difference_interval(self._network.difference, self.float_heads, heads)
        scores = all(head.dim() == 2 and head.shape[1] > 1 for head in heads)
        return Measured(
            difference=self._network.difference_between(heads, self.float_heads),
            low=None if interval is None else interval[0],
            high=None if interval is None else interval[1],
            others={
                name: METRICS[name](self.float_heads, heads)
                for name in SHOWN
                if scores and name != self._network.metric
            },
        )


def _keys(samples: Samples) -> list[bytes]:
    """Return what tells samples apart."""
    arrays = [leaf.cpu().numpy() for leaf in leaves(samples)]
    return [b"".join(array[i].tobytes() for array in arrays) for i in range(count(samples))]


def mirror_images(network: QuantizedNetwork | CalibratingNetwork) -> NewImages | None:
    """Return what measures on the mirror images (left to right) of a network's samples; None where there are none.

    The nearest to new images that the samples alone can give: what is lucky in the rounding of an image is not in that
    of its mirror image.

    Args:
        network: The network.
    """
    samples = network.samples
    if not isinstance(samples, Tensor) or not are_images(samples) or torch.equal(samples.flip(-1), samples):
        return None
    return NewImages(network, samples.flip(-1))
