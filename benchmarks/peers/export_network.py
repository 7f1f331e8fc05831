"""Write a network, its samples and what our policies cover into a folder that the other tools' scripts read.

Runs in our environment; the tools' own scripts may not import evoq_moo.

    python benchmarks/peers/export_network.py cifar10_resnet20 --output /tmp/peers/cifar10_resnet20

The folder then holds

- `weights.safetensors`: the pre-trained network's state dict (BatchNorm not folded: every tool folds by itself);
- `samples.safetensors`: `samples`, float32 `(50, C, H, W)`, preprocessed, the very tensor our own search uses, and
  `labels`, int64 `(50,)`, for the tools that can't do without;
- `labelled.safetensors`, with `--labelled`: `images` and `labels`, preprocessed, to measure accuracy on;
- `description.json`: how to build the architecture, the layers that a policy covers (by module name, in order), the
  pinned ones, and the recipe that makes our own network of the same files;
- `architecture.py`: the architecture's source, where torchvision lacks it.
"""

import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import save_file

import evoq_moo as evoq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
recipe_for = importlib.import_module("accuracy").recipe_for
labelled_images = importlib.import_module("accuracy").labelled_images

PINNED_BITS = 8


def architecture(network: torch.nn.Module, name: str, folder: Path) -> str:
    """Return ``module:function`` that builds a network with random weights, copying its source where need be."""
    source = inspect.getmodule(type(network))
    if source is None or source.__name__.startswith("torchvision."):
        return f"torchvision.models:{name}"
    text = inspect.getsource(source)
    if "evoq_moo" in text:
        raise SystemExit(f"{name}: its architecture's source imports evoq_moo, so the other tools can't build it")
    (folder / "architecture.py").write_text(text)
    return f"architecture:{type(network).__name__}"


def labels_of(recipe: evoq.Recipe, samples: torch.Tensor) -> torch.Tensor:
    """Return the labels of a recipe's samples, int64 `(samples,)`, checking that they belong to those images."""
    preprocess = recipe.load_model()[1]
    batches = [*evoq.LabelledImages(str(recipe.samples), preprocess=preprocess)]
    images, labels = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    found = [int((images == sample).flatten(1).all(dim=1).nonzero()[0]) for sample in samples]
    return labels[found]


def describe(network: evoq.QuantizedNetwork, recipe: evoq.Recipe, factory: str) -> dict[str, Any]:
    """Return what the other tools' scripts need to know of a network."""
    gene_layers = {gene.layer for gene in network.space.genes}
    layers = [{"name": x.name, "kind": x.kind, "params": x.params, "macs": x.macs} for x in network.space.layers]
    pinned = [x.name for i, x in enumerate(network.space.layers) if i not in gene_layers]
    return {
        "network": recipe.model,
        "factory": factory,
        "layers": layers,
        "pinned": dict.fromkeys(pinned, PINNED_BITS),
        "metric": network.metric,
        "fingerprint": network.fingerprint,
        "recipe": recipe.to_json(),
    }


def main(
    network: str,
    *,
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    labelled: Annotated[bool, typer.Option(help="Also the labelled images that accuracy is measured on.")] = False,
) -> None:
    """Export a network of the zoo with 50 samples of ../shared/data."""
    output.mkdir(parents=True, exist_ok=True)
    recipe = recipe_for(network)
    model = recipe.load_model()[0]
    quantized = recipe(progress=False)
    factory = architecture(model, network, output)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, output / "weights.safetensors")
    labels = labels_of(recipe, quantized.samples)
    save_file({"samples": quantized.samples.contiguous(), "labels": labels}, output / "samples.safetensors")
    if labelled:
        images, classes = labelled_images(network, recipe, None)
        save_file({"images": images.contiguous(), "labels": classes}, output / "labelled.safetensors")
    description = describe(quantized, recipe, factory)
    (output / "description.json").write_text(json.dumps(description, indent=1) + "\n")
    print(f"{output}: {network}, {len(quantized.space.layers)} layers, pinned {', '.join(description['pinned'])}")


if __name__ == "__main__":
    typer.run(main)
