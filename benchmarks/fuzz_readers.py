"""Damaged and hostile files for every reader: each is refused by one sentence of ours, or read.

    python benchmarks/fuzz_readers.py run -o fuzz                      # 10,000 cases a reader; goes on where it was
    python benchmarks/fuzz_readers.py run -o fuzz --only store --cases 500
    python benchmarks/fuzz_readers.py repeat store-0-123 -o fuzz       # one case in this process

A case is made from its seed and number alone: a good file of one of our formats (or of a format we read) with values,
structure or bytes changed. What was read is used as our commands use it. A case may take 2 s of processor time and
512 MiB beyond what the process has; cases run in forked processes, many in each. Another exception than ours, a
sentence of more than one line, or one that blames memory, a case beyond its limits and a dead process are failures:
printed, and kept in `results.json`.
"""

import csv
import io
import json
import mmap
import os
import pickle
import random
import resource
import shutil
import signal
import sqlite3
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import safetensors.torch
import torch
import typer
from _mutate import INTERESTING, change_bytes, change_json
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn

import evoq_moo as evoq
from evoq_moo.accuracy import AccuracyCurve, MeasuredPolicy
from evoq_moo.calibration import CalibratedNetwork
from evoq_moo.detection import read_coco, read_corners, read_detection, read_voc, read_yolo
from evoq_moo.errors import EvoqError
from evoq_moo.evaluation import EvaluationStore, policy_key
from evoq_moo.export import read_bits, write_bits
from evoq_moo.files import write_atomically
from evoq_moo.front import ParetoFront
from evoq_moo.plots import plot_accuracy_curve
from evoq_moo.report._run_data import read_run
from evoq_moo.runs import KnownPolicies, Recipe, RunSettings, read_recipe, read_settings, recipe_of, write_recipe
from evoq_moo.runs.folder import FORMAT as RUN_FORMAT
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.study._runs import Run, RunKey, load_key
from evoq_moo.study._toml import read_study
from evoq_moo.zoo._weights import apply_weights, parse_weights, read_weights

app = typer.Typer(add_completion=False, help=__doc__)
SECONDS = 2.0
"""Processor time of one case."""
MEMORY = 512 * 2**20
"""Address space of a process beyond what it begins with (bytes)."""
BATCH = 500
"""Cases of one process."""
Rng = random.Random


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
    """Good files, how they are changed, and what reads them.

    Args:
        folder: For the good files.
    """

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        self.images = torch.rand(4, 3, 6, 6)
        self.network = evoq.QuantizedNetwork(
            Net().eval(), self.images, pinned="none", engine="reference", progress=False
        )
        self.space = self.network.space
        self.policy = self.space.policy(self.space.sample(1, rng)[0])
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._write_ours(rng)
        self._write_images(rng)
        self.good = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.readers: dict[str, tuple[str, Callable[[bytes, Rng], bytes], Callable[[Path], None]]] = {
            "front": ("front.json", self._json, self._front),
            "sensitivity": ("sensitivity.json", self._json, self._sensitivity),
            "accuracy": ("accuracy.json", self._json, self._accuracy),
            "recipe": ("recipe.json", self._json, lambda path: _use(read_recipe(path))),
            "run": ("run.json", self._json, self._run),
            "study.toml": ("study.toml", _change_toml, lambda path: _use(read_study(path))),
            "study run": ("seed_0.npz", _change_npz, self._study_run),
            "calibrated": ("calibrated.json", self._json, self._calibrated),
            "calibrated tensors": ("calibrated.safetensors", _change_safetensors, self._calibrated),
            "images": ("images.npz", _change_npz, self._images),
            "picture": ("000.png", _change_picture, self._picture),
            "coco": ("coco.json", self._json, lambda path: _use(read_coco(path.parent, path))),
            "corners": ("annotations.json", self._json, self._corners),
            "voc": ("000.xml", _change_xml, self._voc),
            "yolo": ("000.txt", _change_yolo, self._yolo),
            "labels": ("labels.csv", _change_csv, self._labels),
            "latency": ("latency.csv", _change_csv, self._latency),
            "bits": ("bits.csv", _change_csv, lambda path: _use(str(read_bits(path)))),
            "bits.json": ("bits.json", self._json, lambda path: _use(str(read_bits(path)))),
            "store": ("evaluations.sqlite", self._store_change, self._store),
            "weights .pth": ("weights.pth", _change_pth, self._weights),
            "weights .safetensors": ("weights.safetensors", _change_safetensors, self._weights),
        }

    def _write_ours(self, rng: np.random.Generator) -> None:
        folder, space = self.folder, self.space
        recipe = Recipe(model="digits", samples=str(folder), pinned=("conv",), preprocess={"crop": 8})
        settings = RunSettings(recipe=recipe, budgets={"bops": 5.0})
        with EvaluationStore(folder / "evaluations.sqlite") as store:
            store.bind("a" * 64)
            X = space.sample(20, rng)
            keys = [policy_key(bits) for bits in space.decode(X)]
            store.put("f" * 64, {key: float(rng.random()) for key in keys})
        with closing(sqlite3.connect(folder / "evaluations.sqlite")) as database:
            database.execute("PRAGMA journal_mode = DELETE")
        known = KnownPolicies.read(folder / "evaluations.sqlite", space, ("difference", "bops"))
        found = known.front()
        provenance = {"fingerprint": "f" * 64, "metric": "kl", "settings": settings.to_json(), "seconds": 1.5}
        ParetoFront(points=found.points, objectives=found.objectives, provenance=provenance).save(folder / "front.json")
        curve = AccuracyCurve(measure="top-1", images="val/", count=650, judged_by="j", network="f" * 64)
        for kind, point in zip(("float", "uniform", "front"), found, strict=False):
            curve = curve.added(MeasuredPolicy(kind=kind, policy=point.policy, accuracy=0.5, costs=point.costs))
        curve.save(folder / "accuracy.json")
        bits = tuple(sorted({b for gene in space.genes for b in gene.choices}))
        values = rng.random((space.n_var, len(bits)))
        SensitivityTable(space=space, bits=bits, values=values, metric="kl").save(folder / "sensitivity.json")
        write_recipe(folder / "recipe.json", recipe)
        run = {"format": RUN_FORMAT, "version": 1, "settings": settings.to_json()}
        (folder / "run.json").write_text(json.dumps(run))
        evoq.calibrate(self.network, self.policy, ["outputs"], progress=False).save(folder)
        key = RunKey(problem="p", algorithm="a", description="d", seed=0, budget=30, charge_scan=True)
        n = 20
        Run(
            key=key,
            paid=5,
            X=space.sample(n, rng),
            F=rng.random((n, 2)),
            G=rng.random((n, 1)) - 0.5,
            counts=np.arange(6, 6 + n),
            seconds=1.0,
            problem_seconds=0.5,
        ).save(folder / "seed_0.npz")
        times = {name: {(8, 8): 1.0, (4, 8): 0.5} for name in space.layer_names}
        evoq.LatencyTable(milliseconds=times, rest=0.25).save(folder / "latency.csv")
        write_bits(self.policy, folder / "bits.csv")
        write_bits(self.policy, folder / "bits.json")
        state = self.network.network.state_dict()
        torch.save(state, folder / "weights.pth")
        safetensors.torch.save_file(state, folder / "weights.safetensors")
        (folder / "study.toml").write_text(_toml(STUDY))

    def _write_images(self, rng: np.random.Generator) -> None:
        folder = self.folder
        pixels = rng.integers(0, 256, (3, 20, 40, 3), dtype=np.uint8)
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(folder / f"{i:03}.png")
        np.savez_compressed(folder / "images.npz", images=pixels, labels=np.arange(3))
        with (folder / "labels.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("file", "label"), *((f"{i:03}.png", i) for i in range(3))])
        boxes = [[15, 1.0, 2.0, 30.0, 18.0], [0, 3.5, 2.0, 9.0, 12.0]]
        corners = {f"{i:03}": {"width": 40, "height": 20, "boxes_cls_x1y1x2y2": boxes} for i in range(3)}
        (folder / "annotations.json").write_text(json.dumps(corners))
        coco = {
            "images": [{"id": 5 + i, "file_name": f"{i:03}.png", "width": 40, "height": 20} for i in range(3)],
            "categories": [{"id": i, "name": name} for i, name in ((2, "cat"), (7, "dog"))],
            "annotations": [
                {"id": i, "image_id": 5 + i, "category_id": 2, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0}
                for i in range(3)
            ],
        }
        (folder / "coco.json").write_text(json.dumps(coco))
        thing = (
            "<object><name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>20</xmax>"
            "<ymax>18</ymax></bndbox></object>"
        )
        size = "<size><width>40</width><height>20</height><depth>3</depth></size>"
        (folder / "000.xml").write_text(f"<annotation><filename>000.png</filename>{size}{thing}{thing}</annotation>")
        (folder / "000.txt").write_text("1 0.25 0.5 0.5 1\n0 0.5 0.5 0.1 0.2\n")

    def case(self, reader: str, number: int, seed: int, folder: Path) -> Callable[[], None]:
        """Write one changed file into an empty folder, and return what reads it as a user's program would."""
        name, change, read = self.readers[reader]
        content = change(self.good[name], random.Random(f"{reader}-{seed}-{number}"))
        (folder / name).write_bytes(content)
        return partial(read, folder / name)

    def _json(self, content: bytes, rng: Rng) -> bytes:
        kind = rng.random()
        if kind < 0.65:
            data = json.loads(content)
            for _ in range(rng.randint(1, 3)):
                data = change_json(data, rng)
            return json.dumps(data).encode()
        if kind < 0.75:
            return _hostile_json(content, rng)
        return change_bytes(bytearray(content), rng)

    def _front(self, path: Path) -> None:
        front = ParetoFront.load(path)
        front.table()
        if len(front):
            front.choose("knee")
        if "settings" in front.provenance:
            recipe_of(front)
        self._folder(path, "sensitivity.json", "run.json", "evaluations.sqlite")
        read_run(path.parent)

    def _accuracy(self, path: Path) -> None:
        curve = AccuracyCurve.load(path)
        curve.table()
        if any("size" in row.costs and row.kind != "float" for row in curve.rows):
            plot_accuracy_curve(curve)
        self._folder(path, "front.json", "sensitivity.json", "run.json", "evaluations.sqlite")
        read_run(path.parent)

    def _sensitivity(self, path: Path) -> None:
        table = SensitivityTable.load(path)
        if table.space.n_var:
            table.predict(table.space.sample(3, np.random.default_rng(0)))
        self._folder(path, "front.json", "run.json", "evaluations.sqlite")
        read_run(path.parent)

    def _run(self, path: Path) -> None:
        read_settings(path)
        self._folder(path, "sensitivity.json", "evaluations.sqlite")
        read_run(path.parent)

    def _folder(self, path: Path, *names: str) -> None:
        for name in names:
            (path.parent / name).write_bytes(self.good[name])

    def _study_run(self, path: Path) -> None:
        load_key(path)
        _use(Run.load(path).archive)

    def _calibrated(self, path: Path) -> None:
        self._folder(path, next(n for n in ("calibrated.json", "calibrated.safetensors") if n != path.name))
        if path.name == "calibrated.safetensors":  # an attacker writes the digest too
            from evoq_moo.graph import digest

            text = json.loads(self.good["calibrated.json"])
            (path.parent / "calibrated.json").write_text(json.dumps({**text, "tensors": digest(path.read_bytes())}))
        CalibratedNetwork.load(path.parent, self.network)(self.images)
        read_run_calibration(path.parent)

    def _images(self, path: Path) -> None:
        preprocess = evoq.Preprocess(crop=8)
        evoq.load_samples(path, count=1, preprocess=preprocess)
        for _ in evoq.LabelledImages(path, preprocess=preprocess):
            pass

    def _picture(self, path: Path) -> None:
        evoq.load_samples(path.parent, count=1, preprocess=evoq.Preprocess(crop=8))

    def _corners(self, path: Path) -> None:
        self._folder(path, "000.png", "001.png", "002.png")
        _use(read_corners(path))
        _use(read_detection(path.parent))

    def _voc(self, path: Path) -> None:
        for name in ("Annotations", "JPEGImages"):
            (path.parent / name).mkdir()
        path.rename(path.parent / "Annotations" / path.name)
        (path.parent / "JPEGImages" / "000.png").write_bytes(self.good["000.png"])
        _use(read_voc(path.parent))

    def _yolo(self, path: Path) -> None:
        self._folder(path, "000.png", "001.png")
        _use(read_yolo(path.parent))

    def _labels(self, path: Path) -> None:
        self._folder(path, "000.png", "001.png", "002.png")
        evoq.LabelledImages(path.parent, preprocess=evoq.Preprocess(crop=8))

    def _latency(self, path: Path) -> None:
        table = evoq.LatencyTable.load(path)
        table.of(self.space.layers, self.policy.to_array()[None])

    def _store_change(self, content: bytes, rng: Rng) -> bytes:
        return _change_store(content, rng)

    def _store(self, path: Path) -> None:
        known = KnownPolicies.read(path, self.space, ("difference", "bops"), budgets={"bops": 5.0})
        known.front()
        with EvaluationStore(path) as store:
            store.bind("a" * 64)
            store.get("f" * 64, [policy_key(self.policy.to_array())])
            store.put("f" * 64, {policy_key(self.policy.to_array()): 0.5})

    def _weights(self, path: Path) -> None:
        state = parse_weights(*read_weights(path))
        network = Net()
        apply_weights(network, state, name="weights", architecture="net")
        network(self.images)


def _use(read: Any) -> None:
    if len(str(read)) < 0:
        raise AssertionError


def read_run_calibration(folder: Path) -> None:
    """Read a calibrated folder as a report does."""
    from evoq_moo.report._run_data import _calibration

    _calibration(folder)


STUDY: dict[str, Any] = {
    "problems": ["digits-bops", "mine"],
    "algorithms": ["random", "a"],
    "seeds": [1, 2],
    "budget": 100,
    "path": "out",
    "charge_scan": True,
    "problem": {
        "mine": {
            "model": "digits",
            "count": 8,
            "weight_bits": [2, 4, 8],
            "pinned": ["conv"],
            "objectives": ["difference", "size"],
            "budgets": {"size_mib": 1.0},
            "reference": "digits-size",
            "preprocess": {"crop": 8, "mean": [0.5], "std": [0.5], "channels": 1},
        }
    },
    "algorithm": {"a": {"name": "nsga2", "pop_size": 8}},
}


def _toml(value: Any, *, top: bool = True) -> str:
    """Return plain data, dates among them, as TOML with inline tables."""
    if isinstance(value, dict):
        pairs = [f"{_key(key)} = {_toml(item, top=False)}" for key, item in value.items() if item is not None]
        return "\n".join(pairs) if top else "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item, top=False) for item in value if item is not None) + "]"
    if isinstance(value, str):
        return _key(value)
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, date) else str(value)


def _key(text: str) -> str:
    return json.dumps(text)


def _change_toml(content: bytes, rng: Rng) -> bytes:
    kind = rng.random()
    if kind < 0.7:
        data: Any = STUDY
        for _ in range(rng.randint(1, 3)):
            data = change_json(data, rng, (*INTERESTING, date(2020, 1, 1), datetime(2020, 1, 1, tzinfo=UTC)))
        return (_toml(data) if isinstance(data, dict) else f"x = {_toml(data)}").encode("utf-8", "surrogatepass")
    if kind < 0.78:
        line = rng.choice(
            [
                "seeds = " + "9" * rng.choice([8, 20, 5000]),
                "x = " + "[" * 3000 + "]" * 3000,
                ".".join(["a"] * rng.choice([100, 3000])) + " = 1",
                "budget = 10_000_000_000_000",
                "seeds = [" + "1," * 20000 + "]",
                "[problem." + "x" * 100000 + "]",
            ]
        )
        return line.encode() + b"\n" + content
    return change_bytes(bytearray(content), rng)


def _hostile_json(content: bytes, rng: Rng) -> bytes:
    value = rng.choice(
        ["[" * 100000, '{"a":' * 100000, "1" * 10000, "1" + "0" * 400, '"\\ud800"', "[0" + ",0" * 100000 + "]"]
    )
    where = [i for i, letter in enumerate(content) if letter in b":[,"]
    i = rng.choice(where) + 1
    return content[:i] + value.encode() + (b"," if rng.random() < 0.5 else b"") + content[i:]


def _npy(array: Any, **header: Any) -> bytes:
    file = io.BytesIO()
    if not header:
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=True)
        return file.getvalue()
    array = np.ascontiguousarray(array)
    given = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape} | header
    np.lib.format.write_array_header_1_0(file, given)
    return file.getvalue() + array.tobytes()


def _change_npz(content: bytes, rng: Rng) -> bytes:
    kind = rng.random()
    if kind > 0.75:
        return change_bytes(bytearray(content), rng)
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file)
    members = {name: _npy(array) for name, array in arrays.items()}
    for _ in range(rng.randint(1, 2)):
        name = rng.choice(list(arrays))
        members.update(_changed_array(name, arrays[name], rng))
        if rng.random() < 0.1:
            members.pop(name)
            members["other"] = _npy(np.arange(3))
    packed = io.BytesIO()
    method = rng.choice(
        [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    )
    with zipfile.ZipFile(packed, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
            if rng.random() < 0.05:
                archive.writestr(f"{name}.npy", data[: len(data) // 2])
    return packed.getvalue()


def _changed_array(name: str, array: Any, rng: Rng) -> dict[str, bytes]:
    if name == "meta" and rng.random() < 0.7:
        data = json.loads(array.tobytes())
        for _ in range(rng.randint(1, 2)):
            data = change_json(data, rng)
        return {name: _npy(np.frombuffer(json.dumps(data).encode(), dtype=np.uint8))}
    shape = array.shape
    choices: list[Callable[[], bytes]] = [
        lambda: _npy(array.astype(rng.choice(["f2", "f4", "c8", "i1", "u8", "?", "S3", "U2", "M8[s]"]))),
        lambda: _npy(array.reshape(-1)),
        lambda: _npy(array[None]),
        lambda: _npy(array[:0]),
        lambda: _npy(array[: rng.randint(0, len(array))]),
        lambda: _npy(array.T),
        lambda: _npy(np.asarray([None, {"a": 1}], dtype=object)),
        lambda: _npy(np.zeros(3, dtype=[("a", "f4"), ("b", "O")])),
        lambda: _npy(array, shape=tuple(rng.choice([0, -1, 1, 10**6, 2**62]) for _ in shape)),
        lambda: _npy(array, shape=(*shape, 2**40)),
        lambda: _npy(array, descr=rng.choice(["<f8", "<i1", "|O", "<U100000", "V0", "S0"])),
        lambda: _npy(np.zeros((rng.choice([1, 1, 1, 1, 32]) * 2**20,), dtype=np.uint8)),
        lambda: _npy(np.zeros((2**10, 2**6, 2**6, 3), dtype=np.uint8)),
        lambda: _npy(_filled(array, rng)),
    ]
    return {name: rng.choice(choices)()}


def _filled(array: Any, rng: Rng) -> Any:
    changed = array.copy().reshape(-1)
    values = [-1, 0, 127, 2**40, -(2**62), np.nan, np.inf, -np.inf, 1e300]
    if changed.size:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            changed[rng.randrange(changed.size)] = np.asarray(rng.choice(values)).astype(changed.dtype)
    return changed.reshape(array.shape)


def _change_picture(content: bytes, rng: Rng) -> bytes:
    kind = rng.random()
    if kind < 0.5:
        return change_bytes(bytearray(content), rng)
    if kind < 0.6:
        return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n" + rng.randbytes(100)
    if kind < 0.7:  # a header that claims another size
        data = bytearray(content)
        data[16:24] = struct.pack(">II", *(rng.choice([0, 1, 2**14, 2**31 - 1]) for _ in range(2)))
        return bytes(data)
    image, file = Image.open(io.BytesIO(content)), io.BytesIO()
    name = rng.choice(["JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF", "ICO", "PDF", "EPS", "TGA"])
    image.save(file, name)
    return change_bytes(bytearray(file.getvalue()), rng) if rng.random() < 0.8 else file.getvalue()


def _change_xml(content: bytes, rng: Rng) -> bytes:
    kind, text = rng.random(), content.decode()
    if kind < 0.5:
        parts = text.replace(">", ">\0").replace("<", "\0<").split("\0")
        for _ in range(rng.randint(1, 4)):
            i = rng.randrange(len(parts))
            parts[i] = rng.choice(["", parts[i] * 2, str(rng.choice(INTERESTING)), parts[rng.randrange(len(parts))]])
        return "".join(parts).encode("utf-8", "surrogatepass")
    if kind < 0.6:
        depth = rng.choice([20, 1000, 200_000])
        return b"<annotation>" + b"<a>" * depth + b"</a>" * depth + b"</annotation>"
    if kind < 0.7:
        laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
        other = '<!DOCTYPE annotation [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + text.replace("cat", "&x;")
        return rng.choice(
            [f'<!DOCTYPE annotation [<!ENTITY l0 "ha">{laughs}]>' + text.replace("cat", "&l9;"), other]
        ).encode()
    return change_bytes(bytearray(content), rng)


def _change_rows(rows: list[list[str]], rng: Rng) -> list[list[str]]:
    for _ in range(rng.randint(1, 3)):
        row = rng.choice(rows) if rows else []
        kind = rng.randrange(4)
        if kind == 0 and row:
            row[rng.randrange(len(row))] = str(rng.choice((*INTERESTING, 99999999, 2**64, "1e999", "-0", " 4 ")))
        elif kind == 1 and row:
            del row[rng.randrange(len(row))]
        elif kind == 2:
            rows.append([str(rng.choice(INTERESTING)) for _ in range(rng.randint(0, 6))])
        elif rows:
            rows.insert(rng.randrange(len(rows)), list(row))
    return rows


def _change_csv(content: bytes, rng: Rng) -> bytes:
    if rng.random() < 0.3:
        return change_bytes(bytearray(content), rng)
    file = io.StringIO()
    csv.writer(file).writerows(_change_rows(list(csv.reader(io.StringIO(content.decode()))), rng))
    return file.getvalue().encode("utf-8", "surrogatepass")


def _change_yolo(content: bytes, rng: Rng) -> bytes:
    if rng.random() < 0.3:
        return change_bytes(bytearray(content), rng)
    rows = _change_rows([line.split() for line in content.decode().splitlines()], rng)
    return "\n".join(" ".join(row) for row in rows).encode("utf-8", "surrogatepass")


_STATEMENTS = (
    "UPDATE evaluations SET difference = ?",
    "UPDATE evaluations SET difference = ? WHERE id = 3",
    "UPDATE evaluations SET policy = ? WHERE id = 3",
    "UPDATE evaluations SET fingerprint = ? WHERE id > 9",
    "INSERT INTO networks VALUES (?)",
    "UPDATE networks SET identity = ?",
    "UPDATE evaluations SET policy = CAST(? AS TEXT) WHERE id = 4",
)
_SCRIPTS = (
    "PRAGMA user_version = 7",
    "PRAGMA application_id = 5",
    "PRAGMA encoding = 'UTF-16'",
    "DROP TABLE evaluations",
    "DROP TABLE networks",
    "DELETE FROM evaluations",
    "CREATE TABLE users (name)",
    "CREATE TRIGGER t AFTER INSERT ON evaluations BEGIN DELETE FROM evaluations; END",
    "DROP TABLE evaluations; CREATE VIEW evaluations AS WITH RECURSIVE c(id) AS (SELECT 1 UNION ALL SELECT id + 1 "
    "FROM c) SELECT id, 'f' AS fingerprint, x'0202' AS policy, 1.0 AS difference FROM c",
    "ALTER TABLE evaluations RENAME COLUMN difference TO d",
    "ALTER TABLE evaluations ADD COLUMN more GENERATED ALWAYS AS (hex(zeroblob(1000000000)))",
    "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = 'CREATE TABLE evaluations (x)' WHERE rowid = 2",
    "PRAGMA writable_schema = ON; UPDATE sqlite_master SET rootpage = 77",
    "UPDATE evaluations SET policy = zeroblob(1000000) WHERE id = 2",
    "UPDATE evaluations SET difference = 9e999",
    "PRAGMA journal_mode = WAL",
)


def _change_store(content: bytes, rng: Rng) -> bytes:
    if rng.random() < 0.4:
        return change_bytes(bytearray(content), rng)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "x"
        path.write_bytes(content)
        with closing(sqlite3.connect(path)) as database:
            for _ in range(rng.randint(1, 2)):
                with suppress(sqlite3.Error, OverflowError, UnicodeError):
                    if rng.random() < 0.6:
                        value = rng.choice((*INTERESTING, b"", b"\xff", b"\x02" * 5))
                        database.execute(
                            rng.choice(_STATEMENTS), (json.dumps(value) if isinstance(value, list | dict) else value,)
                        )
                    else:
                        database.executescript(rng.choice(_SCRIPTS))
                database.commit()
        data = path.read_bytes()
    return change_bytes(bytearray(data), rng) if rng.random() < 0.2 else data


def _change_safetensors(content: bytes, rng: Rng) -> bytes:
    kind = rng.random()
    if kind < 0.35:
        return change_bytes(bytearray(content), rng)
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    if kind < 0.75:
        for _ in range(rng.randint(1, 2)):
            name = rng.choice(list(header))
            if rng.random() < 0.5 and isinstance(header[name], dict) and "dtype" in header[name]:
                header[name] = {
                    **header[name],
                    "dtype": rng.choice(["F16", "C64", "F8_E4M3", "F4", "BOOL", "I64", "U64", "X"]),
                }
            else:
                header = change_json(header, rng)
            if not isinstance(header, dict) or not header:
                break
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data
    state = safetensors.torch.load(content)
    name = rng.choice(list(state))
    state[name] = rng.choice(_TENSORS[:8])(state[name])
    return safetensors.torch.save(state)


_TENSORS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    lambda t: t * float("nan"),
    lambda t: t.to(torch.complex64),
    lambda t: t[None].contiguous(),
    lambda t: t.double(),
    lambda t: t.to(torch.float8_e4m3fn),
    lambda t: t.reshape(-1)[:0],
    lambda t: (t * 1e30).half(),
    lambda t: torch.zeros(2**22),
    lambda t: t.to_sparse(),
    lambda t: t.to("meta"),
    lambda t: torch.zeros(1).expand(2**36),
    lambda t: torch.zeros(1).expand(t.shape),
    lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    lambda t: torch.zeros(()).expand(2**20, 2**20),
    lambda t: nn.Parameter(t) if t.is_floating_point() else t,
    lambda t: torch.rand(8, 8).to_sparse_csr(),
)


def _change_pth(content: bytes, rng: Rng) -> bytes:
    kind = rng.random()
    if kind < 0.3:
        return change_bytes(bytearray(content), rng)
    state: dict[Any, Any] = torch.load(io.BytesIO(content), weights_only=True)
    name = rng.choice(list(state))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(RuntimeError, NotImplementedError, AttributeError, TypeError):
            state[name] = rng.choice(_TENSORS)(state[name])
        whole: Any = state
        extra = rng.random()
        if extra < 0.1:
            state[rng.choice([5, None, "x", "\ud800", "y" * 5000])] = rng.choice([torch.zeros(3), 3, "x", [1]])
        elif extra < 0.15:
            state.update({f"x{i}": torch.zeros(()).expand(2**24) for i in range(50)})
        elif extra < 0.3:
            whole = rng.choice(
                [{"state_dict": state}, {"model": {"state_dict": state}}, [state], {"model": 3}, state[name]]
            )
        file = io.BytesIO()
        if rng.random() < 0.05:
            return pickle.dumps(rng.choice([whole, print, {"a": os.system}]))
        torch.save(whole, file, _use_new_zipfile_serialization=rng.random() < 0.8)
    data = file.getvalue()
    if rng.random() < 0.3 and zipfile.is_zipfile(io.BytesIO(data)):
        return _repacked(data, rng)
    return data


def _repacked(data: bytes, rng: Rng) -> bytes:
    """Return a checkpoint packed, its tensors changed into a lot of zeros, or its pickle changed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            inner = old.read(info)
            if "/data/" in info.filename and rng.random() < 0.3:
                inner = bytes(rng.choice([0, 2**10, 2**27]))
            if info.filename.endswith("data.pkl") and rng.random() < 0.5:
                inner = change_bytes(bytearray(inner), rng)
            new.writestr(info.filename, inner, rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    return file.getvalue()


def _wrong(error: BaseException) -> str:
    """Return what is wrong with an error, "" for nothing."""
    text = str(error)
    if not isinstance(error, EvoqError):
        return f"{type(error).__name__}: {text}"[:400]
    if "more memory than there is" in text:
        return f"memory: {text}"[:400]
    if not text.strip() or "\n" in text.strip() or (not text.isascii() and not text.isprintable()):
        return f"not a sentence: {text!r}"[:400]
    return ""


@contextmanager
def _limited() -> Iterator[None]:
    """Limit the memory and the processor time of this process; the signal of the time ends it."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _attempt(targets: Targets, reader: str, number: int, seed: int, scratch: Path) -> str:
    scratch.mkdir(parents=True)
    try:
        read = targets.case(reader, number, seed, scratch)
    except Exception as error:  # the fuzzer's own
        return f"the fuzzer: {error!r}"[:400]
    try:
        with _limited():
            read()
    except BaseException as error:  # what the fuzzer is for
        return _wrong(error)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return ""


def _batch(targets: Targets, reader: str, cases: range, seed: int, scratch: Path) -> tuple[int, dict[int, str]]:
    """Run cases in a forked process; return how many were done and what was wrong."""
    current = mmap.mmap(-1, 8)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        number = cases.start
        with os.fdopen(write_end, "w") as pipe, (scratch.parent / "stderr").open("w") as silence:
            os.dup2(silence.fileno(), 2)
            try:
                for number in cases:
                    current[:8] = number.to_bytes(8, "little")
                    wrong = _attempt(targets, reader, number, seed, scratch / str(number))
                    if wrong:
                        pipe.write(json.dumps([number, wrong]) + "\n")
                        pipe.flush()
            except BaseException as error:  # nothing of this process may go on in the parent's code
                pipe.write(json.dumps([number, f"the process ended: {error!r}"[:400]]) + "\n")
                pipe.flush()
                os._exit(1)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        found = dict(map(json.loads, pipe))
    _, status = os.waitpid(child, 0)
    shutil.rmtree(scratch, ignore_errors=True)
    if status == 0:
        return len(cases), found
    number = int.from_bytes(current[:8], "little")
    signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    hang = signalled == signal.SIGPROF
    found.setdefault(number, f"took more than {SECONDS:g} s" if hang else f"the process died (signal {signalled})")
    return number - cases.start + 1, found


Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the results; kept, and gone on with.")]


@app.command()
def run(
    *,
    output: Output,
    cases: Annotated[int, typer.Option(help="Of each reader.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the cases.")] = 0,
    only: Annotated[list[str] | None, typer.Option(help="Readers; default: all.")] = None,
    minutes: Annotated[float, typer.Option(help="Stop after so long; the next call goes on.")] = 1e9,
) -> None:
    """Try cases of every reader, and print a table."""
    print(f"seed {seed}", flush=True)
    results = fuzz(output, cases=cases, seed=seed, only=only, minutes=minutes)
    table = Table("reader", "cases", "failures", "seconds", "the first")
    for name, row in results.items():
        first = next((f"{key}: {value}" for key, value in row["failures"].items()), "")
        table.add_row(
            name, f"{row['cases']:,}", str(len(row["failures"])), f"{row['seconds']:.0f}", first[:100], style=None
        )
    Console(markup=False).print(table)
    if any(row["failures"] for row in results.values()):
        sys.exit(1)


def fuzz(
    output: Path, *, cases: int, seed: int, only: list[str] | None = None, minutes: float = 1e9
) -> dict[str, dict[str, Any]]:
    """Try cases of readers behind those that were tried, and return what `results.json` then holds.

    Args:
        output: Folder of `results.json`.
        cases: Of each reader.
        seed: Of the cases.
        only: Readers; None for all.
        minutes: Stop after so long.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    results_file = output / "results.json"
    results: dict[str, dict[str, Any]] = json.loads(results_file.read_text()) if results_file.exists() else {}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        targets = Targets(Path(place) / "good")
        for reader in only or targets.readers:
            row = results.setdefault(reader, {"seed": seed, "cases": 0, "seconds": 0.0, "failures": {}})
            if row["seed"] != seed:
                raise typer.BadParameter(f"{results_file} is of seed {row['seed']}")
            while row["cases"] < cases and time.monotonic() < end:
                begun = time.monotonic()
                part = range(row["cases"], min(cases, row["cases"] + BATCH))
                done, found = _batch(targets, reader, part, seed, Path(place) / "scratch")
                row["cases"] += done
                row["seconds"] = round(row["seconds"] + time.monotonic() - begun, 1)
                for number, wrong in found.items():
                    row["failures"][str(number)] = wrong
                    print(f"{reader}-{seed}-{number}", wrong, flush=True)
                write_atomically(results_file, (json.dumps(results, indent=1) + "\n").encode())
    return results


@app.command()
def repeat(case: Annotated[str, typer.Argument(help="READER-SEED-NUMBER.")], *, output: Output) -> None:
    """Read one case in this process, without limits; its file is kept."""
    reader, seed, number = case.rsplit("-", 2)
    targets = Targets(output / "good")
    folder = output / case
    folder.mkdir(parents=True)
    targets.case(reader, int(number), int(seed), folder)()


if __name__ == "__main__":
    app()
