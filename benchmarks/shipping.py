"""What shipped int8 files cost and give beside the float ONNX file and onnxruntime's own static quantization.

    python benchmarks/shipping.py run mobilenet_v2 squeezenet1_1 resnet18 --images 650 -o shipping.json
    python benchmarks/shipping.py table shipping.json

`run` exports every network at 8 by 8 bits, at 7 by 8, and under a random policy of 4 to 8 bits, measures all files in
turns in one process (one thread, one image), and compares their classes with torch's and with the labels where the
weights and images of ../shared/data are there. Networks without weights there have random ones. Rows are kept in the
JSON file as they come; one that is in it is not computed again. Times hold for the machine they are measured on: `vnni`
says whether its processor adds 8 by 8 bits without saturating.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from accuracy import DATA, labelled_images, recipe_for
from rich.console import Console
from rich.table import Table

import evoq_moo as evoq
from evoq_moo.difference import heads_of
from evoq_moo.export import export_onnx, float_model, make_template, open_session, saturates, static_model
from evoq_moo.export._integer import in_integers, kernels_of
from evoq_moo.export._session import run_session
from evoq_moo.export._shipment import shipment_of
from evoq_moo.export._timing import in_turns
from evoq_moo.files import write_atomically
from evoq_moo.graph import rows as rows_of
from evoq_moo.graph import run as compute
from evoq_moo.graph import split

app = typer.Typer(add_completion=False, help=__doc__)
Output = Annotated[Path, typer.Option("--output", "-o", help="JSON file of the rows.")]


def _policies(network: evoq.QuantizedNetwork) -> dict[str, tuple[evoq.Policy, tuple[str, ...]]]:
    """Return the policies that are shipped, and for which targets."""
    layers = len(network.space.layers)
    rng = np.random.default_rng(0)
    mixed = np.stack([rng.integers(4, 9, layers), rng.integers(4, 9, layers)], axis=1)
    names = network.space.layer_names

    def policy(pairs: np.ndarray) -> evoq.Policy:
        return evoq.Policy.from_array(names, pairs)

    return {
        "w8a8": (policy(np.tile([8, 8], (layers, 1))), ("onnxruntime", "avx2")),
        "w7a8": (policy(np.tile([7, 8], (layers, 1))), ("onnxruntime",)),
        "mixed": (policy(mixed), ("onnxruntime", "avx2")),
    }


def _logits(run: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([run(batch) for batch in split(images, 10)])


def _kl(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Return the mean KL divergence from expected to found class probabilities."""
    p, q = (torch.log_softmax(x.double(), dim=1) for x in (expected, found))
    return float((p.exp() * (p - q)).sum(dim=1).mean())


def _row(name: str, *, images: int, repeats: int, samples: int) -> dict[str, Any]:
    recipe = recipe_for(name)
    model, preprocess = recipe.load_model()
    source = DATA / ("cifar10_calibration.npz" if name.startswith("cifar10") else "imagenet_calibration_500")
    given = evoq.load_samples(source, count=samples, preprocess=preprocess)
    network = evoq.QuantizedNetwork(model, given, weight_bits=range(4, 9), activation_bits=range(4, 9), pinned="none")
    torch.set_num_threads(1)
    first = rows_of(network.samples, slice(0, 1))
    base = network.apply(network.uniform(8))
    template = make_template(base, given)
    floating = float_model(shipment_of(base), given, template)
    contents = {"float": floating, "static": static_model(floating, given)}
    row: dict[str, Any] = {"network": name, "weights": recipe.weights is not None, "vnni": not saturates(), "files": {}}
    quantized: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for key, (policy, targets) in _policies(network).items():
            quantized[key] = network.apply(policy)
            for target in targets:
                file = Path(folder) / "m.onnx"
                written = export_onnx(quantized[key], file, template=template, target=target)
                contents[f"{key} {target}"] = file.read_bytes()
                kernels = kernels_of(contents[f"{key} {target}"], policy.layers)
                row["files"][f"{key} {target}"] = {
                    "bytes": written.size,
                    "predicted": written.predicted,
                    "integer": sum(in_integers(kernels, layer) for layer in policy.layers),
                    "layers": len(policy.layers),
                }
    for key in ("float", "static"):
        row["files"][key] = {"bytes": len(contents[key])}
    sessions = {key: open_session(content, integer=True) for key, content in contents.items()}
    times = in_turns({k: (lambda s=s: run_session(s, first)) for k, s in sessions.items()}, repeats)  # type: ignore[misc]
    for key, spent in times.items():
        row["files"][key] |= {"ms": median(spent), "fastest_ms": min(spent)}
    if recipe.weights is not None and images and not name.startswith("ssd"):
        x, labels = labelled_images(name, recipe, images)
        shipped = {
            key: _logits(lambda b, s=s: torch.from_numpy(run_session(s, b)[0]), x) for key, s in sessions.items()
        }  # type: ignore[misc]
        for key, logits in shipped.items():
            row["files"][key]["top1"] = 100 * (logits.argmax(1) == labels).double().mean().item()
        for policy, module in quantized.items():
            expected = _logits(lambda b, m=module: heads_of(compute(m, b))[0], x)  # type: ignore[misc]
            own = _kl(shipped["float"], expected)
            for key in (key for key in shipped if key.startswith(f"{policy} ")):
                row["files"][key] |= {
                    "agreement": 100 * (shipped[key].argmax(1) == expected.argmax(1)).double().mean().item(),
                    "kl": _kl(shipped["float"], shipped[key]),
                    "kl_torch": own,
                    "top1_torch": 100 * (expected.argmax(1) == labels).double().mean().item(),
                }
        row["images"] = len(labels)
    return row


@app.command()
def run(
    names: Annotated[list[str], typer.Argument(help="Names of zoo entries.")],
    *,
    images: Annotated[int, typer.Option(help="Labelled images; 0 for times and sizes alone.")] = 650,
    repeats: Annotated[int, typer.Option(help="Passes of each file.")] = 50,
    samples: Annotated[int, typer.Option(help="Samples for the ranges.")] = 50,
    output: Output = Path("shipping.json"),
) -> None:
    """Measure networks."""
    known = json.loads(output.read_text()) if output.exists() else {}
    for name in names:
        if name not in known:
            known[name] = _row(name, images=images, repeats=repeats, samples=samples)
            write_atomically(output, (json.dumps(known, indent=1) + "\n").encode())
            print(name, "done", flush=True)


@app.command()
def table(rows: Annotated[Path, typer.Argument(help="JSON file of `run`.")]) -> None:
    """Print the rows."""
    shown = Table("network", "file", "ms", "of float", "of static", "KiB", "of predicted", "top-1", "agreement", "KL")
    for name, row in json.loads(rows.read_text()).items():
        files = row["files"]
        for key, found in files.items():
            cells = [f"{found['ms']:.2f}", *(f"{found['ms'] / files[b]['ms']:.2f}" for b in ("float", "static"))]
            cells.append(f"{found['bytes'] / 1024:.0f}")
            cells.append(f"{found['bytes'] / found['predicted']:.3f}" if "predicted" in found else "")
            cells += [f"{found[k]:.2f}" if k in found else "" for k in ("top1", "agreement")]
            cells.append(f"{found['kl']:.4f} ({found['kl_torch']:.4f})" if "kl" in found else "")
            shown.add_row(name, key, *cells)
    Console(width=int(os.environ.get("COLUMNS", "140"))).print(shown)


if __name__ == "__main__":
    app()
