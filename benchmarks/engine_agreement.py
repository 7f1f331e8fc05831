"""Which engine is right: integer and reference against float64, on real weights and images of ../shared/data.

    python benchmarks/engine_agreement.py cifar10_resnet20 --policies 100
    python benchmarks/engine_agreement.py mobilenet_v2 --policies 20 --lowest 5 --images 650

Every policy draws each gene uniformly from `lowest`..8 bits (first and last layer at 8). The float64 reference has the
same weight levels and ranges, and computes everything else in float64. Printed: the median distance of each engine's
difference to float64's, and on the labelled images how often each engine's top-1 choice is float64's.
"""

import copy
from typing import Annotated

import numpy as np
import torch
import typer
from accuracy import labelled_images, recipe_for
from torch import Tensor, nn

import evoq_moo as evoq
from evoq_moo._compute import ComputePool
from evoq_moo.arithmetic import activation_range, per_channel, quantize, weight_range
from evoq_moo.difference import heads_of, kl_divergence
from evoq_moo.engines import IntegerEngine, ReferenceEngine
from evoq_moo.engines.reference import QuantizedLayer
from evoq_moo.layers import channel_dim, weight_of


class Float64Layer(nn.Module):
    """A layer on exact weight levels and the levels of its input, in float64.

    The arithmetic multiplies by the float32 reciprocal of the scale; that rounding is part of its definition.
    """

    def __init__(self, layer: QuantizedLayer, float_weight: Tensor) -> None:
        super().__init__()
        self.layer = layer.layer.double()
        self.range = layer.ranges.activation.get(layer.activation_bits)
        self.highest = activation_range(layer.activation_bits)[1]
        if layer.weight_bits in layer.ranges.weight_scales:
            scales = layer.ranges.weight_scales[layer.weight_bits]
            scale = per_channel(scales, float_weight, channel_dim(self.layer))
            levels = quantize(float_weight, scale, 0, *weight_range(layer.weight_bits))
            self.layer.weight = nn.Parameter(levels.double() * scale.double(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's float64 result."""
        if self.range is not None:
            reciprocal = torch.tensor(self.range.scale).reciprocal().double()
            levels = (x * reciprocal).round().add(self.range.zero_point).clamp(0, self.highest)
            x = (levels - self.range.zero_point) * self.range.scale
        result: Tensor = self.layer(x)
        return result


def float64_network(network: evoq.QuantizedNetwork, policy: evoq.Policy) -> nn.Module:
    """Return the network under a policy, computed in float64."""
    applied = network.apply(policy).network.double()
    for name in policy.layers:
        layer = applied.get_submodule(name)
        if isinstance(layer, QuantizedLayer):
            exact = Float64Layer(layer, weight_of(network.network.get_submodule(name)))
            parent, _, attribute = name.rpartition(".")
            setattr(applied.get_submodule(parent), attribute, exact)
    return applied


def heads64(network: nn.Module, samples: Tensor, pool: ComputePool) -> list[Tensor]:
    """Return float64 heads."""
    parts = pool.map(lambda x: heads_of(network(x.double())), torch.split(samples, 5))
    return [torch.cat(head) for head in zip(*parts, strict=True)]


def main(
    name: Annotated[str, typer.Argument(help="Name of a zoo entry.")],
    *,
    policies: Annotated[int, typer.Option(help="Number of random policies.")] = 100,
    lowest: Annotated[int, typer.Option(help="Smallest bit-width drawn.")] = 2,
    images: Annotated[int, typer.Option(help="Labelled images for the top-1 choices; 0 for none.")] = 0,
    image_policies: Annotated[int, typer.Option(help="Policies for the top-1 choices.")] = 5,
) -> None:
    """Compare the engines."""
    recipe = recipe_for(name)
    network = recipe()
    pool = ComputePool()
    options = {"ranges": network.ranges, "pool": pool}
    integer = IntegerEngine(network=copy.deepcopy(network.network), samples=network.samples, **options)
    reference = ReferenceEngine(
        network=copy.deepcopy(network.network), samples=network.samples, batch_size=5, **options
    )
    vectors = np.maximum(network.space.sample(policies, np.random.default_rng(0)), lowest)
    chosen = [network.space.policy(x) for x in vectors]
    exact_float = heads64(copy.deepcopy(network.network).double(), network.samples, pool)
    errors = []
    for policy in chosen:
        truth = kl_divergence(exact_float, heads64(float64_network(network, policy), network.samples, pool))
        found = [kl_divergence(exact_float, engine.heads(policy.to_array())) for engine in (integer, reference)]
        errors.append([abs(f - truth) for f in found] + [truth])
    median = np.median(np.array(errors), axis=0)
    closer = np.mean([row[0] <= row[1] for row in errors])
    print(
        f"{name}, {policies} policies of {lowest}..8 bits: median |difference - float64's|: "
        f"integer {median[0]:.3g}, reference {median[1]:.3g} (median difference {median[2]:.3g}); "
        f"integer at least as close for {100 * closer:.0f} %"
    )
    if images:
        labelled, _ = labelled_images(name, recipe, images)
        network_of = [copy.deepcopy(network.network) for _ in range(2)]
        engines = (
            IntegerEngine(network=network_of[0], samples=labelled, **options),
            ReferenceEngine(network=network_of[1], samples=labelled, batch_size=5, **options),
        )
        for policy in chosen[:image_policies]:
            truth = heads64(float64_network(network, policy), labelled, pool)[0].argmax(1)
            choices = [engine.heads(policy.to_array())[0].argmax(1) for engine in engines]
            shares = [100 * (choice == truth).double().mean().item() for choice in choices]
            value = network.evaluate(policy).difference
            print(
                f"difference {value:.3g}: top-1 as float64's on {len(labelled)} images: integer {shares[0]:.2f} %, "
                f"reference {shares[1]:.2f} %"
            )


if __name__ == "__main__":
    typer.run(main)
