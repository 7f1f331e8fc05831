"""The command `evoq profile`."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from evoq_moo.cli._console import console
from evoq_moo.cli._images import Crop, Mean, Resize, Std, preprocess_json
from evoq_moo.cli._next import say_next
from evoq_moo.cli._results import save_result
from evoq_moo.cli._tables import Csv, Json, TableForm, emit
from evoq_moo.export import DEFAULT_TARGET, profile_latency, target_of
from evoq_moo.files import check_writable
from evoq_moo.network import QuantizedNetwork
from evoq_moo.runs import Recipe
from evoq_moo.zoo import RANDOM_WEIGHTS


def profile_command(
    model: Annotated[str, typer.Argument(help="A zoo name, or package.module:factory.")],
    *,
    repeats: Annotated[int, typer.Option(help="Passes of each pair of bit-widths.")] = 30,
    threads: Annotated[int, typer.Option(help="Threads of onnxruntime.")] = 1,
    target: Annotated[str, typer.Option(help="Of the files, as `evoq export` has it.")] = DEFAULT_TARGET,
    resize: Resize = None,
    crop: Crop = None,
    mean: Mean = None,
    std: Std = None,
    as_json: Json = False,
    as_csv: Csv = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="The table (CSV).")] = Path("latency.csv"),
) -> None:
    """Measure each layer's time here as it ships, beside the float network; weights and images do not matter."""
    form = TableForm.of(as_json, as_csv)
    target_of(target)
    check_writable("output", output)
    weights = None if ":" in model else RANDOM_WEIGHTS
    changes = preprocess_json(model, weights, resize=resize, crop=crop, mean=mean, std=std)
    loaded, preprocess = Recipe(model=model, weights=weights, preprocess=changes).load_model()
    shape = (2, preprocess.channels, preprocess.crop, preprocess.crop)
    samples = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    network = QuantizedNetwork(loaded, samples, difference="nmse", engine="reference")
    found = profile_latency(network, repeats=repeats, threads=threads, target=target)
    emit(found.table(), form)
    save_result(output, found.latency.save)
    console.say(f"file: {output}")
    named = ["--model", model] if ":" in model else [model]
    say_next("search", *named, "--samples", "photos/", "--objectives", "difference,latency", "--latency", output)
