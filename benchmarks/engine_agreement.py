"""Which engine is right: integer and reference against float64, on real weights and images of ../shared/data.

    python benchmarks/engine_agreement.py run cifar10_resnet20 -o agreement.jsonl
    python benchmarks/engine_agreement.py run mobilenet_v2 --samples 10 -o agreement.jsonl
    python benchmarks/engine_agreement.py top1 mobilenet_v2 --lowest 6 --policies 3 -o agreement.jsonl
    python benchmarks/engine_agreement.py show agreement.jsonl
    python benchmarks/engine_agreement.py flips mobilenet_v2

Every policy draws each gene uniformly from `lowest`..8 bits (first and last layer at 8). The float64 network has the
same weight levels and ranges, and computes everything else in float64. Compared with it are the two engines and two
controls, which are the same float64 network changed as little as float32 allows: "rounded" rounds each layer's result
once, correctly, to float32 and quantizes it in float32 (the arithmetic is so defined, so no implementation of it rounds
less); "perturbed" moves each layer's result by one float32 epsilon, up or down at random.

`run` compares differences on the calibration samples, `top1` the top-1 choices on labelled images. Both append a line
to the output when a policy is done, and go on where they were ended. `flips` prints the share of levels, layer by
layer, that are not float64's.
"""

import copy
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from accuracy import labelled_images, recipe_for
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import evoq_moo as evoq
from evoq_moo._compute import ComputePool
from evoq_moo.difference import heads_of, kl_divergence
from evoq_moo.engines import IntegerEngine, ReferenceEngine
from evoq_moo.engines._layers import BoundNetwork
from evoq_moo.engines._lower import Layer
from evoq_moo.graph import GraphNetwork, Product, per_channel, product
from evoq_moo.quantizer import LayerParameters, activation_range, quantize_results
from evoq_moo.quantizer.arithmetic import quantize

app = typer.Typer(add_completion=False, help=__doc__)
console = Console()
CONTROLS = ("rounded", "perturbed")
WAYS = ("integer", "reference", *CONTROLS)
EPSILON = torch.finfo(torch.float32).eps
Name = Annotated[str, typer.Argument(help="Name of a zoo entry.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="JSON-lines file that results are appended to.")]
Lowest = Annotated[int, typer.Option(help="Smallest bit-width drawn.")]
Samples = Annotated[int, typer.Option(help="Calibration samples compared (ranges come from all 50).")]
Threads = Annotated[int | None, typer.Option(help="Micro-batches at once; none for one a core.")]


class Float64Layer(nn.Module):
    """A layer on exact weight levels and the levels of its input, in float64.

    The arithmetic multiplies by the float32 reciprocal of the scale; that rounding is part of its definition.

    Args:
        layer: The float layer.
        p: What it computes with under a policy.
        control: What is done to the result; empty for nothing.
    """

    def __init__(self, layer: Product, p: LayerParameters, *, control: str) -> None:
        super().__init__()
        self.geometry = layer.geometry
        self.p = p
        self.control = control
        weight = p.value().double()
        if p.weight_levels is not None and p.weight_scales is not None:
            levels = p.weight_levels.double()
            weight = levels * per_channel(p.weight_scales.double(), levels)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if p.bias is None else p.bias.double())

    def levels(self, x: Tensor) -> Tensor:
        """Return the levels of the input."""
        scale, zero_point = torch.tensor(self.p.activation_scale), self.p.activation_zero_point
        highest = activation_range(self.p.activation_bits)[1]
        if self.control == "rounded":
            return quantize(x.float(), scale, zero_point, 0, highest).double()
        return (x * scale.reciprocal().double()).round_().add_(zero_point).clamp_(0, highest)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's float64 result."""
        if self.p.quantized_activation:
            x = self.levels(x).sub_(self.p.activation_zero_point).mul_(self.p.activation_scale)
        result = product(x, self.weight, self.bias, self.geometry)
        if self.control == "rounded":
            return result.float().double()
        if self.control == "perturbed":
            random = torch.Generator().manual_seed(0)
            up = torch.empty(result.shape, dtype=torch.bool).bernoulli_(generator=random)
            return result * torch.where(up, 1 + EPSILON, 1 - EPSILON)
        return result


class Bench:
    """A network, the images it is compared on, and the ways to compute it.

    Args:
        name: Name of a zoo entry.
        images: Images instead of the first `samples` calibration samples.
        samples: Number of calibration samples.
        threads: Micro-batches at once.
    """

    def __init__(
        self, name: str, *, images: Tensor | None = None, samples: int = 50, threads: int | None = None
    ) -> None:
        self.network = recipe_for(name)(threads=threads)
        self.images = self.network.samples[:samples] if images is None else images
        self.pool = ComputePool(threads=threads)
        options = {
            "samples": self.images,
            "layers": self.network.space.layers,
            "ranges": self.network.ranges,
            "results": self.network.results,
            "pool": self.pool,
        }
        self.integer = IntegerEngine(network=self.network.network, **options)
        self.reference = ReferenceEngine(network=copy.deepcopy(self.network.network), batch_size=5, **options)

    def policies(self, count: int, lowest: int) -> list[evoq.Policy]:
        """Return random policies of at least `lowest` bits; the first ones do not depend on how many."""
        vectors = np.maximum(self.network.space.sample(count, np.random.default_rng(0)), lowest)
        return [self.network.space.policy(x) for x in vectors]

    def float64(self, policy: evoq.Policy | None, *, control: str = "") -> GraphNetwork:
        """Return the float network, or the network under a policy, computed in float64."""
        network: GraphNetwork = copy.deepcopy(self.network.network).double()
        if policy is not None:
            parameters = self.network.parameters_of(policy.to_array())
            for p, layer in zip(parameters, network.products, strict=True):
                network.replace(p.name, Float64Layer(layer, p, control=control))
            quantize_results(network, self.network.results.of(parameters))
        return network

    def heads64(self, policy: evoq.Policy | None, *, control: str = "") -> list[Tensor]:
        """Return float64 heads."""
        network = self.float64(policy, control=control).to(memory_format=torch.channels_last)
        parts = self.pool.map(lambda x: heads_of(network(x.double())), torch.split(self.images, 5))
        return [torch.cat(head) for head in zip(*parts, strict=True)]

    def all_heads(self, policy: evoq.Policy) -> dict[str, list[Tensor]]:
        """Return the heads computed in every way."""
        bits = policy.to_array()
        return {
            "float64": self.heads64(policy),
            "integer": self.integer.heads(bits),
            "reference": self.reference.heads(bits),
            **{control: self.heads64(policy, control=control) for control in CONTROLS},
        }


def missing(output: Path, key: dict[str, Any], policies: list[evoq.Policy]) -> Iterator[tuple[int, evoq.Policy]]:
    """Give number and policy where the output has no line yet."""
    known = {row["policy"] for row in rows_of(output) if all(row.get(k) == v for k, v in key.items())}
    return ((i, policy) for i, policy in enumerate(policies) if i not in known)


def rows_of(output: Path) -> list[dict[str, Any]]:
    """Return the lines of an output; none if there is no such file."""
    return [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []


def append(output: Path, row: dict[str, Any]) -> None:
    """Add a line to an output."""
    with output.open("a") as file:
        file.write(json.dumps(row) + "\n")


@app.command()
def run(
    name: Name,
    *,
    output: Output,
    policies: Annotated[int, typer.Option(help="Number of random policies.")] = 100,
    lowest: Lowest = 2,
    samples: Samples = 50,
    threads: Threads = None,
) -> None:
    """Compare the differences of random policies."""
    bench = Bench(name, samples=samples, threads=threads)
    key = {"kind": "difference", "network": name, "lowest": lowest, "count": len(bench.images)}
    exact = bench.heads64(None)
    for i, policy in missing(output, key, bench.policies(policies, lowest)):
        found = {way: float(kl_divergence(exact, heads)) for way, heads in bench.all_heads(policy).items()}
        append(output, key | {"policy": i} | found)


@app.command()
def top1(
    name: Name,
    *,
    output: Output,
    policies: Annotated[int, typer.Option(help="Number of random policies.")] = 5,
    lowest: Lowest = 6,
    images: Annotated[int, typer.Option(help="Labelled images.")] = 650,
    threads: Threads = None,
) -> None:
    """Compare the top-1 choices of random policies on labelled images."""
    bench = Bench(name, images=labelled_images(name, recipe_for(name), images)[0], threads=threads)
    key = {"kind": "top1", "network": name, "lowest": lowest, "count": len(bench.images)}
    exact = bench.heads64(None)
    for i, policy in missing(output, key, bench.policies(policies, lowest)):
        heads = bench.all_heads(policy)
        choices = {way: found[0].argmax(1) for way, found in heads.items()}
        shares = {way: 100 * float((choices[way] == choices["float64"]).double().mean()) for way in WAYS}
        append(output, key | {"policy": i, "float64": float(kl_divergence(exact, heads["float64"]))} | shares)


@app.command()
def show(output: Annotated[Path, typer.Argument(help="JSON-lines file.")]) -> None:
    """Print medians of differences, and top-1 agreement."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows_of(output):
        groups[row["kind"], row["network"], row["lowest"], row["count"]].append(row)
    columns = ["network", "bits", "images", "policies", "difference", *WAYS, "integer closer %", "rounded closer %"]
    table = Table(*columns, title="median |difference - float64's|; closer: than the reference, of all policies")
    choices = Table(*columns[:-2], title="top-1 choice as float64's (%): mean (lowest)")
    for (kind, name, lowest, count), rows in sorted(groups.items()):
        truth = np.array([row["float64"] for row in rows])
        values = {way: np.array([row[way] for row in rows]) for way in WAYS}
        head = [name, f"{lowest}..8", str(count), str(len(rows)), f"{np.median(truth):.3g}"]
        if kind == "top1":
            choices.add_row(*head, *(f"{found.mean():.2f} ({found.min():.2f})" for found in values.values()))
            continue
        errors = {way: np.abs(found - truth) for way, found in values.items()}
        closer = [f"{100 * np.mean(errors[way] <= errors['reference']):.0f}" for way in ("integer", "rounded")]
        table.add_row(*head, *(f"{np.median(error):.3g}" for error in errors.values()), *closer)
    for shown in (table, choices):
        if shown.row_count:
            console.print(shown)


@app.command()
def flips(
    name: Name,
    *,
    lowest: Lowest = 2,
    policy: Annotated[int, typer.Option(help="Which of the random policies.")] = 0,
    samples: Samples = 5,
    threads: Threads = None,
) -> None:
    """Print which share of the levels of each layer's input are not float64's."""
    bench = Bench(name, samples=samples, threads=threads)
    chosen = bench.policies(policy + 1, lowest)[policy]
    found = {
        "float64": levels64(bench, chosen),
        "integer": integer_levels(bench, chosen),
        "reference": reference_levels(bench, chosen),
        **{control: levels64(bench, chosen, control=control) for control in CONTROLS},
    }
    table = Table("layer", "bits", "levels an image", *WAYS, title="levels that are not float64's, an image")
    for i, layer in enumerate(chosen.layers):
        truth = found["float64"][i]
        shares = [f"{float((found[w][i] != truth).sum()) / samples:.1f}" if i in found[w] else "" for w in WAYS]
        w, a = chosen.to_array()[i].tolist()
        table.add_row(layer, f"W{w} A{a}", str(truth.numel() // samples), *shares)
    console.print(table)


def levels64(bench: Bench, policy: evoq.Policy, *, control: str = "") -> dict[int, Tensor]:
    """Return the levels of each layer's input in float64, by the layer's number."""
    network = bench.float64(policy, control=control)
    found: dict[int, Tensor] = {}
    for i, layer in enumerate(network.products):
        layer.register_forward_pre_hook(lambda layer, args, i=i: found.update({i: layer.levels(args[0])}))
    bench.pool.run(lambda: network(bench.images.double()))
    return found


def reference_levels(bench: Bench, policy: evoq.Policy) -> dict[int, Tensor]:
    """Return the levels of each layer's input in the reference engine, by the layer's number."""
    found: dict[int, Tensor] = {}
    parameters = bench.network.parameters_of(policy.to_array())

    def record(i: int, x: Tensor) -> None:
        p = parameters[i]
        scale = torch.tensor(p.activation_scale, dtype=torch.float32)
        found[i] = quantize(x, scale, p.activation_zero_point, *activation_range(p.activation_bits)).double()

    with bench.reference.bits(policy.to_array()) as network:
        hooks = [
            # Before the layer's own, which quantizes.
            layer.register_forward_pre_hook(lambda _layer, args, i=i: record(i, args[0]), prepend=True)
            for i, layer in enumerate(network.products)
        ]
        bench.pool.run(lambda: network(bench.images))
        for hook in hooks:
            hook.remove()
    return found


def integer_levels(bench: Bench, policy: evoq.Policy) -> dict[int, Tensor]:
    """Return the levels of each layer's input in the integer engine, by the layer's number, where it has them."""
    runner, bits = bench.integer._runner, policy.to_array()
    bound = [layer.bind(w, a) for layer, (w, a) in zip(bench.integer._layers, bits.tolist(), strict=True)]
    results = runner._grids(bits)
    plan = runner._sized.plan(runner._integer(bits), results, keep=True)
    network = BoundNetwork(bound, tuple(results.values()))
    frames = bench.pool.map(lambda batch: plan.run_keeping(batch, network), runner._sized.batches)
    keys = {op.index: (op.inputs[0], op.index) for op in plan.program.ops if isinstance(op, Layer)}
    return {
        i: torch.cat([frame.results[key] for frame in frames])[: len(bench.images)].double()
        for i, key in keys.items()
        if key in frames[0].results
    }


if __name__ == "__main__":
    app()
