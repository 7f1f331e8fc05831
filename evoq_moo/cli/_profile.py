"""The command `evoq profile`."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from evoq_moo.export import profile_latency
from evoq_moo.network import QuantizedNetwork
from evoq_moo.recipe import Recipe


def profile_command(
    model: Annotated[str, typer.Argument(help="A zoo name, or package.module:factory.")],
    *,
    repeats: Annotated[int, typer.Option(help="Passes of each pair of bit-widths.")] = 30,
    threads: Annotated[int, typer.Option(help="Threads of onnxruntime.")] = 1,
    output: Annotated[Path, typer.Option("--output", "-o", help="The table (CSV).")] = Path("latency.csv"),
) -> None:
    """Measure each layer's time here, at the bit-widths that ONNX has types for; weights and images do not matter."""
    loaded, preprocess = Recipe(model=model).load_model()
    shape = (2, preprocess.channels, preprocess.crop, preprocess.crop)
    samples = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    network = QuantizedNetwork(loaded, samples, difference="nmse", engine="reference")
    found = profile_latency(network, repeats=repeats, threads=threads)
    found.latency.save(output)
    console = Console()
    console.print(found.table())
    console.print(f"file: {output}; give it to `evoq search --objectives difference,latency --latency {output}`")
