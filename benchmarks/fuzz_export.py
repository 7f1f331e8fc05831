"""An hour of damaged and hostile files: every reader must refuse them by an error of ours, or read a well-formed file.

    python benchmarks/fuzz_export.py run --minutes 60 -o fuzz
    python benchmarks/fuzz_export.py repeat 1-2345 -o fuzz

Each case is made from its seed and number alone: one of the files that the export writes (all forms of ONNX, a table
of bit-widths, a calibrated folder), changed at random: bytes cut, set, inserted, copied; fields of the protobuf message
or of the JSON text removed, doubled or replaced. A worker process reads it, and verifies it where it can be read. What
escapes as another exception, kills the worker or takes longer than a limit is printed and kept in `findings.json`.
"""

import json
import multiprocessing
import random
import time
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import torch
import typer
from _mutate import INTERESTING, change_bytes, change_json
from torch import nn

import evoq_moo as evoq
from evoq_moo.calibration import CalibratedNetwork
from evoq_moo.errors import EvoqError
from evoq_moo.export import export_onnx, read_bits, read_onnx, verify_onnx, write_bits
from evoq_moo.files import write_atomically

app = typer.Typer(add_completion=False, help=__doc__)
LIMIT = 20.0
"""Of one case (seconds)."""


class Net(nn.Module):
    """Small, so that a file is mostly structure."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run it."""
        result: torch.Tensor = self.head(torch.relu(self.conv(x)).mean((2, 3)))
        return result


class Targets:
    """Good files and what reads them."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.images = torch.rand(8, 3, 6, 6)
        self.quantized = evoq.QuantizedNetwork(Net().eval(), self.images, engine="reference", progress=False)
        policy = self.quantized.space.policy(self.quantized.space.sample(1, np.random.default_rng(0))[0])
        self.network = evoq.calibrate(self.quantized, policy, ["features"], progress=False)
        folder.mkdir(parents=True, exist_ok=True)
        for form in ("int8", "exact", "qdq"):
            export_onnx(self.network, folder / f"{form}.onnx", sample=self.images, form=form)
        for kind in ("csv", "json"):
            write_bits(policy, folder / f"bits.{kind}")
        self.network.save(folder / "calibrated")
        names = ("int8.onnx", "exact.onnx", "qdq.onnx", "bits.csv", "bits.json")
        self.files = {name: (folder / name).read_bytes() for name in names}
        pair = ("calibrated.json", "calibrated.safetensors")
        self.pair = {name: (folder / "calibrated" / name).read_bytes() for name in pair}
        self.files |= self.pair

    def read(self, folder: Path, name: str, content: bytes) -> None:
        """Read a changed file as a user's program would."""
        if name in self.pair:
            for other, good in self.pair.items():
                (folder / other).write_bytes(content if other == name else good)
            CalibratedNetwork.load(folder, self.quantized)(self.images)
            return
        path = folder / name
        path.write_bytes(content)
        if name.startswith("bits"):
            read_bits(path)
        else:
            read_onnx(path)
            verify_onnx(path, self.network, self.images, repeats=0, level_images=2, progress=False)


def changed(name: str, content: bytes, rng: random.Random) -> bytes:
    """Return a file changed at random."""
    if name.endswith(".onnx") and rng.random() < 0.6:
        model = onnx.ModelProto.FromString(content)
        for _ in range(rng.randint(1, 3)):
            with suppress(TypeError, ValueError):  # a value that the field can't hold
                _change_message(model, rng)
        return bytes(model.SerializeToString())
    if name.endswith(".json") and rng.random() < 0.7:
        data = json.loads(content)
        for _ in range(rng.randint(1, 3)):
            data = change_json(data, rng)
        return json.dumps(data).encode()
    return change_bytes(bytearray(content), rng)


def _change_message(message: Any, rng: random.Random) -> None:
    """Walk to a random field of a protobuf message and change it."""
    while True:
        fields = message.ListFields()
        if not fields:
            return
        field, value = rng.choice(fields)
        repeated = hasattr(value, "__len__") and not isinstance(value, str | bytes)
        inner = rng.choice(list(value)) if repeated and len(value) else value
        if hasattr(inner, "ListFields") and rng.random() < 0.85:
            message = inner
            continue
        break
    kind = rng.randrange(4)
    if kind == 0:
        message.ClearField(field.name)
    elif repeated and hasattr(inner, "ListFields"):
        if kind == 1:
            value.add().CopyFrom(inner)
        elif kind == 2:
            del value[rng.randrange(len(value))]
        else:
            kept = list(value)
            rng.shuffle(kept)
            message.ClearField(field.name)
            getattr(message, field.name).extend(kept)
    elif repeated:
        value.append(_other(inner, rng))
    elif not hasattr(inner, "ListFields"):
        setattr(message, field.name, _other(inner, rng))


def _other(value: Any, rng: random.Random) -> Any:
    """Return another value of the same kind, mostly."""
    if isinstance(value, bytes):
        return change_bytes(bytearray(value), rng)
    if isinstance(value, str):
        text = change_json(json.loads(value), rng) if value[:1] in "[{" and value else None
        return json.dumps(text) if text is not None else rng.choice([value + "x", "", value[:-1], "../../etc/passwd"])
    if isinstance(value, int):
        return rng.choice([0, 1, -1, value + 1, 2**31 - 1, rng.randrange(1 << 16)])
    return rng.choice(INTERESTING)


def _case(targets: Targets, case: str) -> tuple[str, bytes]:
    rng = random.Random(case)
    name = rng.choices(list(targets.files), weights=[4, 4, 1, 1, 2, 2])[0]
    return name, changed(name, targets.files[name], rng)


def work(folder: Path, pipe: Connection) -> None:
    """Answer cases, in a process of its own: an error's text, or "" for all well."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    targets = Targets(folder / "good")
    pipe.send("ready")
    while True:
        try:
            case = pipe.recv()
        except EOFError:  # the parent is done
            return
        try:
            name, content = _case(targets, case)
        except Exception as error:  # ours, not the product's
            pipe.send(("the fuzzer", repr(error)))
            continue
        try:
            targets.read(folder, name, content)
            pipe.send((name, ""))
        except EvoqError:
            pipe.send((name, ""))
        except BaseException as error:  # what the fuzzer is for
            pipe.send((name, f"{type(error).__name__}: {error}"[:500]))


class Worker:
    """A process that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.start()

    def start(self) -> None:
        """Start, or start again."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(self.folder, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def ask(self, case: str) -> tuple[str, str]:
        """Return the file's name and what is wrong."""
        self.pipe.send(case)
        try:
            if self.pipe.poll(LIMIT):
                name, wrong = self.pipe.recv()
                return str(name), str(wrong)
            wrong = f"took more than {LIMIT:g} s"
        except EOFError:
            self.process.join()
            wrong = f"the process died with exit code {self.process.exitcode}"
        self.process.kill()
        self.process.join()
        self.start()
        return "?", wrong


Output = Annotated[Path, typer.Option("--output", "-o", help="Folder.")]


@app.command()
def run(
    *,
    output: Output,
    minutes: Annotated[float, typer.Option(help="How long.")] = 60,
    seed: Annotated[int, typer.Option(help="Of the cases.")] = 0,
) -> None:
    """Try cases until the time is over; goes on behind those that were tried."""
    worker = Worker(output / f"worker{seed}")
    path = output / f"findings-{seed}.json"
    state = json.loads(path.read_text()) if path.exists() else {"cases": 0, "seconds": 0.0, "findings": {}}
    begun, before = time.monotonic(), state["seconds"]

    while time.monotonic() - begun < 60 * minutes:
        case = f"{seed}-{state['cases']}"
        name, wrong = worker.ask(case)
        state["cases"] += 1
        state["seconds"] = round(before + time.monotonic() - begun, 1)
        if wrong:
            state["findings"][case] = f"{name}: {wrong}"
            print(case, name, wrong, flush=True)
        if wrong or state["cases"] % 500 == 0:
            write_atomically(path, (json.dumps(state, indent=1) + "\n").encode())
    write_atomically(path, (json.dumps(state, indent=1) + "\n").encode())
    print(f"{state['cases']} cases in {state['seconds'] / 60:.1f} min, {len(state['findings'])} findings", flush=True)


@app.command()
def repeat(case: Annotated[str, typer.Argument(help="SEED-NUMBER.")], *, output: Output) -> None:
    """Read one case in this process; keep its file."""
    targets = Targets(output / "good")
    name, content = _case(targets, case)
    (output / f"{case}-{name}").write_bytes(content)
    targets.read(output, name, content)


if __name__ == "__main__":
    app()
