"""How well exported ONNX files agree with the network they were made from, in both forms.

    python benchmarks/export_agreement.py real mobilenet_v2 --images 650 --policies 2 -o agreement.json
    python benchmarks/export_agreement.py zoo --policies 20 -o zoo.json

`real` takes the weights and images of ../shared/data, draws policies whose genes are uniform in `lowest`..8 bits and
compares torch and onnxruntime on the labelled images. `zoo` exports every network of the zoo (random weights where
there are none here) under random policies, checks each file and runs it. Results are kept in the JSON file as they
come; a row that is in it is not computed again.
"""

import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from accuracy import labelled_images, recipe_for

import evoq_moo as evoq
from evoq_moo.calibration import LIGHT
from evoq_moo.export import export_onnx, make_template, open_session, read_onnx, verify_onnx
from evoq_moo.files import write_atomically

app = typer.Typer()
Output = Annotated[Path, typer.Option("--output", "-o", help="JSON file of the rows.")]


def _rows(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _keep(path: Path, rows: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(rows, indent=1) + "\n").encode())


@app.command()
def real(
    name: Annotated[str, typer.Argument(help="Name of a zoo entry with weights in ../shared/data.")],
    *,
    images: Annotated[int, typer.Option(help="Labelled images.")] = 650,
    policies: Annotated[int, typer.Option(help="Random policies.")] = 2,
    lowest: Annotated[int, typer.Option(help="Smallest bit-width drawn.")] = 4,
    calibrated: Annotated[bool, typer.Option(help="Calibrate each policy (light) first.")] = False,
    forms: Annotated[str, typer.Option(help="Forms of the file, with commas.")] = "exact,qdq",
    output: Output = Path("agreement.json"),
) -> None:
    """Compare torch and onnxruntime on real images."""
    torch.set_num_threads(1)
    rows = _rows(output)
    recipe = recipe_for(name)
    network = recipe(threads=1)
    labelled, _ = labelled_images(name, recipe, images)
    vectors = np.maximum(network.space.sample(policies, np.random.default_rng(0)), lowest)
    template = None
    for i, form in itertools.product(range(policies), forms.split(",")):
        key = f"{name} {lowest}..8 #{i} {images} {form}{' calibrated' if calibrated else ''}"
        if key in rows:
            continue
        policy = network.space.policy(vectors[i])
        applied = evoq.calibrate(network, policy, LIGHT) if calibrated else network.apply(policy)
        if template is None or calibrated:  # output maps are in the template
            template = make_template(applied, labelled[:1])
        with tempfile.TemporaryDirectory() as folder:
            sizes = {}
            for packed in (False, True):
                written = export_onnx(applied, Path(folder) / "m.onnx", template=template, packed=packed, form=form)
                sizes["packed" if packed else "plain"] = [written.size, written.predicted, written.stored]
            found = verify_onnx(written.path, applied, labelled, level_images=5, repeats=5)
        rows[key] = {
            "difference": network.evaluate(policy).difference,
            "sizes": sizes,
            "top1_agreement": found.top1_agreement,
            "logit_levels": found.logit_levels,
            "levels_equal": found.levels.equal,
            "levels_largest": found.levels.largest,
            "latency_ms": vars(found.latency) if found.latency else None,
            "disagreements": [str(d) for d in found.disagreements],
            "problems": list(found.problems),
        }
        _keep(output, rows)
        print(key, json.dumps(rows[key], indent=1), flush=True)


@app.command()
def zoo(
    *,
    policies: Annotated[int, typer.Option(help="Random policies of each network.")] = 20,
    side: Annotated[int, typer.Option(help="Largest side of a classifier's images (pixels).")] = 64,
    output: Output = Path("zoo.json"),
) -> None:
    """Export, check and run every network of the zoo."""
    torch.set_num_threads(1)
    rows = _rows(output)
    for name in evoq.zoo.names():
        if len(rows.get(name, {})) >= policies:
            continue
        loaded = evoq.zoo.load(name)
        channels, height, _ = loaded.entry.input_size
        size = min(side, height) if loaded.entry.task == "classification" else height
        x = torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))
        network = evoq.QuantizedNetwork(loaded.network, x, pinned="none", engine="reference", threads=1)
        template = None
        for i, vector in enumerate(network.space.sample(policies, np.random.default_rng(1))):
            if str(i) in rows.get(name, {}):
                continue
            applied = network.apply(network.space.policy(vector))
            template = template or make_template(applied, x)
            begun = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                written = export_onnx(applied, Path(folder) / "m.onnx", template=template, form="exact")
                read_onnx(written.path)
                heads = open_session(written.path, integer=True).run(None, {"input": x.numpy()})
            finite = all(bool(np.isfinite(head).all()) for head in heads)
            row = {"size": written.size, "predicted": written.predicted, "finite": finite}
            rows.setdefault(name, {})[str(i)] = {**row, "cpu_seconds": round(time.process_time() - begun, 2)}
            _keep(output, rows)
        worst = max(r["size"] / (r["predicted"] * 1.03 + 65536) for r in rows[name].values())
        print(name, len(rows[name]), "policies; size over 3 % + 64 KiB of predicted:", round(worst, 3), flush=True)


if __name__ == "__main__":
    app()
