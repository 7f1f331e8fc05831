"""Damaged and hostile files: each kind by name, and a small run of the fuzzer."""

import io
import json
import os
import sqlite3
import subprocess
import sys
import tracemalloc
import zipfile
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import evoq_moo as evoq
from evoq_moo.detection import read_corners, read_voc, read_yolo
from evoq_moo.errors import EvoqError, FormatError, ImageError, OutOfMemoryError, StoreError, WeightsError
from evoq_moo.evaluation import EvaluationStore, policy_key
from evoq_moo.front import ParetoFront
from evoq_moo.runs import KnownPolicies
from evoq_moo.space import LayerInfo, SearchSpace
from evoq_moo.study._runs import Run, RunKey
from evoq_moo.study._toml import read_study
from evoq_moo.zoo._weights import apply_weights, parse_weights, read_weights

ROOT = Path(__file__).parents[2]


def test_a_file_larger_than_the_memory(tmp_path, monkeypatch):
    """Bug: a bare MemoryError for weights of 640 MB within 512 MiB (fuzz case weights .pth-0-981)."""

    def fail(_):
        raise MemoryError

    (tmp_path / "w.pth").touch()
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(OutOfMemoryError, match=r"weights: can't read .*w\.pth: not enough memory"):
        read_weights(tmp_path / "w.pth")


def test_a_small_run_of_the_fuzzer(tmp_path):
    seed = int.from_bytes(os.urandom(3), "little")
    print(f"seed {seed}")
    command = [
        sys.executable,
        "benchmarks/fuzz_readers.py",
        "run",
        "-o",
        str(tmp_path),
        "--cases",
        "10",
        "--seed",
        str(seed),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results) > 15
    assert all(row["cases"] == 10 and row["failures"] == {} for row in results.values())


FRONT = {
    "format": "evoq-moo/front",
    "version": 1,
    "objectives": ["difference", "bops"],
    "layers": ["a"],
    "points": [{"difference": 0.1, "size_mib": 1.0, "gbops": 1.0, "weight_bits": [8], "activation_bits": [8]}],
    "provenance": {},
}


class TestFront:
    def read(self, tmp_path, **changes):
        text = json.dumps({**FRONT, **changes})
        (tmp_path / "front.json").write_text(text)
        return ParetoFront.load(tmp_path / "front.json")

    def point(self, **changes):
        return [{**FRONT["points"][0], **changes}]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"objectives": 5}, r"objectives: given 5; allowed: a list"),
            ({"objectives": []}, "given none"),
            ({"objectives": ["latency"]}, "latency is an objective, and a point has none"),
            ({"layers": ["a\ud800"]}, "not JSON"),
            ({"layers": ["a\0"]}, "text without zero bytes"),
            ({"provenance": {"fingerprint": 7}}, "fingerprint: given 7"),
            ({"provenance": {"settings": "x"}}, "settings: given 'x'"),
        ],
    )
    def test_fields(self, tmp_path, changes, message):
        assert len(self.read(tmp_path)) == 1
        with pytest.raises(FormatError, match=message):
            self.read(tmp_path, **changes)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"gbops": -1.0}, r"points\[0\].gbops: given -1.0; allowed: float >= 0"),
            ({"gbops": float("nan")}, "not JSON"),
            ({"size_mib": "1"}, "size_mib: given '1'"),
            ({"size_mib": 10**400}, "size_mib: number out of range"),
            ({"weight_bits": [8, 8]}, "1 layers need as many"),
            ({"weight_bits": [9]}, r"weight_bits holds \[9\]"),
            ({"weight_bits": [True]}, "given True"),
        ],
    )
    def test_points(self, tmp_path, changes, message):
        with pytest.raises(FormatError, match=message):
            self.read(tmp_path, points=self.point(**changes))

    def test_a_text_nested_without_end(self, tmp_path):
        (tmp_path / "front.json").write_text('{"format": ' + "[" * 10**6)
        with pytest.raises(FormatError, match="nests too deeply"):
            ParetoFront.load(tmp_path / "front.json")

    def test_a_message_holds_no_more_than_a_quote_of_the_file(self, tmp_path):
        with pytest.raises(FormatError) as caught:
            self.read(tmp_path, points=self.point(gbops="9" * 10**6))
        assert len(str(caught.value)) < 600


class TestStudyFile:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("seeds = 99999999999999999999", "seeds: given 99999999999999999999"),
            ("seeds = 2020-01-01", "given 2020|seeds: given date"),
            ("seeds = [2020-01-01]", "seeds"),
            ("seeds = -1", "seeds: given -1"),
            ("budget = 1e3", "budget: given 1000.0"),
            ("budget = inf", "budget: given inf"),
            ("path = 3", "path: given 3"),
            ("charge_scan = 1", "charge_scan: given 1"),
            ("problem = 3", "problem: given 3"),
            ('[problem.digits-bops]\nmodel = "digits"\nbudgets = {bops = nan}', "budgets"),
            ('[problem.digits-bops]\nmodel = "digits"\nweights = 3', "weights: given 3"),
            ('[problem.digits-bops]\nmodel = "digits"\npreprocess = {crop = 10000000}', "crop: given 10000000"),
            ('[algorithm.random]\nname = "nsga2"\npop_size = 10000000000', "pop_size: given"),
        ],
    )
    def test_values(self, tmp_path, line, message):
        file = tmp_path / "study.toml"
        file.write_text(f'problems = ["digits-bops"]\nalgorithms = ["random"]\n{line}\n')
        with pytest.raises(EvoqError, match=message):
            read_study(file)


def npz(path, method=zipfile.ZIP_DEFLATED, **arrays):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, array in arrays.items():
            file = io.BytesIO()
            np.lib.format.write_array(file, np.asarray(array), allow_pickle=True)
            archive.writestr(f"{name}.npy", file.getvalue())
    return path


class TestArrays:
    def test_a_bomb_is_refused_before_it_is_expanded(self, tmp_path):
        path = npz(tmp_path / "i.npz", images=np.zeros((1, 2**13, 2**13, 3), np.uint8))
        assert path.stat().st_size < 10**6
        tracemalloc.start()
        try:
            with pytest.raises(ImageError, match="expands to 201326720 bytes"):
                evoq.load_samples(path, count=1, preprocess=evoq.Preprocess(crop=8))
            assert tracemalloc.get_traced_memory()[1] < 5e6
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((3, 8, 8), np.uint8), "in 4 dimensions"),
            (np.zeros((3, 8, 8, 3), np.float32), "float32"),
            (np.array([{}], dtype=object), "object"),
            (np.zeros((3, 8, 8, 2), np.uint8), "with C 1 or 3"),
        ],
    )
    def test_kinds_and_shapes(self, tmp_path, array, message):
        with pytest.raises(ImageError, match=message):
            evoq.load_samples(npz(tmp_path / "i.npz", images=array), count=1, preprocess=evoq.Preprocess(crop=8))

    def test_other_packings_are_refused(self, tmp_path):
        path = npz(tmp_path / "i.npz", zipfile.ZIP_LZMA, images=np.zeros((3, 8, 8, 3), np.uint8))
        with pytest.raises(ImageError, match="packed by method 14"):
            evoq.load_samples(path, count=1, preprocess=evoq.Preprocess(crop=8))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"F": np.ones((3, 2))}, "rows are of no one run"),
            ({"F": np.full((4, 2), np.nan)}, "holds NaN"),
            ({"X": np.ones((4, 3))}, "'X' is float64"),
            ({"between": np.array([0, 0, 0, 2**62])}, "more evaluations than its budget"),
            ({"between": np.array([0, 0, 0, -5])}, "fewer than none"),
        ],
    )
    def test_runs_of_studies(self, tmp_path, changes, message):
        key = RunKey(problem="p", algorithm="a", description="d", seed=0, budget=9, charge_scan=True)
        counts = np.arange(1, 5)
        arrays = {"X": np.full((4, 3), 4), "F": np.ones((4, 2)), "G": np.zeros((4, 0))}
        Run(key=key, paid=0, **arrays, counts=counts, seconds=1.0, problem_seconds=1.0).save(tmp_path / "good.npz")
        with np.load(tmp_path / "good.npz") as file:
            found = dict(file)
        assert Run.load(npz(tmp_path / "same.npz", **found)).key == key
        with pytest.raises(FormatError, match=message):
            Run.load(npz(tmp_path / "bad.npz", **{**found, **changes}))


class TestImages:
    def test_only_the_formats_of_the_suffixes_are_opened(self, tmp_path):
        """Pillow would start Ghostscript."""
        Image.new("RGB", (9, 9)).save(tmp_path / "a.eps")
        (tmp_path / "a.eps").rename(tmp_path / "a.png")
        with pytest.raises(ImageError, match=r"a\.png: can't be read as an image"):
            evoq.load_samples(tmp_path, count=1, preprocess=evoq.Preprocess(crop=8))

    def test_a_chunk_that_claims_more_than_the_file(self, tmp_path):
        """Bug: Pillow asked for the 600 MB that the last chunk of a PNG of 2 KB claimed (fuzz case picture-0-7536)."""
        path = tmp_path / "a.png"
        Image.fromarray(np.zeros((20, 40, 3), dtype=np.uint8)).save(path)
        data = path.read_bytes()
        where = data.index(b"IDAT") - 4
        path.write_bytes(data[:where] + (600 * 2**20).to_bytes(4, "big") + data[where + 4 :])
        tracemalloc.start()
        try:
            with suppress(ImageError):
                evoq.load_samples(tmp_path, count=1, preprocess=evoq.Preprocess(crop=8))
            assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
        finally:
            tracemalloc.stop()

    def test_a_jpeg_named_png_is_read(self, tmp_path):
        Image.new("RGB", (9, 9)).save(tmp_path / "a.png", "JPEG")
        assert evoq.load_samples(tmp_path, count=1, preprocess=evoq.Preprocess(crop=8)).shape == (1, 3, 8, 8)


class TestDetection:
    @pytest.fixture
    def folder(self, tmp_path):
        Image.new("RGB", (40, 20)).save(tmp_path / "000.png")
        return tmp_path

    @pytest.mark.parametrize("label", ["99999999", "-1", "1.5", "9" * 30, "nan"])
    def test_a_yolo_class_makes_no_names_without_end(self, folder, label):
        (folder / "000.txt").write_text(f"{label} 0.5 0.5 0.5 0.5")
        with pytest.raises(ImageError, match=r"000\.txt, line 1: given"):
            read_yolo(folder)

    @pytest.mark.parametrize("number", ["nan", "inf", "1e999", "", "x", "1_0"])
    def test_yolo_numbers(self, folder, number):
        (folder / "000.txt").write_text(f"0 {number} 0.5 0.5 0.5")
        with pytest.raises(ImageError, match=r"000\.txt, line 1: given"):
            read_yolo(folder)

    @pytest.mark.parametrize("depth", [20, 200_000])
    def test_deep_xml(self, folder, depth):
        (folder / "Annotations").mkdir()
        (folder / "Annotations" / "000.xml").write_text("<a>" * depth + "</a>" * depth)
        with pytest.raises(ImageError, match="nest deeper than 16"):
            read_voc(folder)

    @pytest.mark.parametrize("name", ["../000.png", "/etc/passwd", "a/../../b.png"])
    def test_annotations_lead_nowhere_else(self, folder, name):
        (folder / "Annotations").mkdir()
        text = f"<annotation><filename>{name}</filename></annotation>"
        (folder / "Annotations" / "000.xml").write_text(text)
        with pytest.raises(ImageError, match="allowed: a path within"):
            read_voc(folder)

    @pytest.mark.parametrize(
        "boxes", [[[0, 1, 1, 5, 5], [1]], [[0, 1, 1, 5, "5"]], [[0.5, 1, 1, 5, 5]], [3], None, [[10**9, 1, 1, 5, 5]]]
    )
    def test_ragged_boxes(self, folder, boxes):
        path = folder / "annotations.json"
        path.write_text(json.dumps({"000": {"width": 40, "height": 20, "boxes_cls_x1y1x2y2": boxes}}))
        with pytest.raises(ImageError, match="image 000: not width, height and boxes"):
            read_corners(path)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)


def pth(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


class TestWeights:
    def state(self, **changes):
        return {**Tiny().state_dict(), **changes}

    @pytest.mark.parametrize(
        ("tensor", "message"),
        [
            (torch.zeros(2, 3, dtype=torch.complex64), "complex64"),
            (torch.eye(3).to_sparse(), "sparse"),
            (torch.zeros(2, 3, device="meta"), "meta"),
            (torch.zeros(1).expand(2**36), "expands beyond"),
            (torch.zeros(2, 3).to(torch.float8_e4m3fn), "float8"),
        ],
    )
    def test_tensors_that_are_no_weights(self, tensor, message):
        with pytest.raises(WeightsError, match=message):
            parse_weights("w.pth", pth(self.state(**{"linear.weight": tensor})))

    @pytest.mark.filterwarnings("ignore")
    def test_quantized_tensors(self):
        tensor = torch.quantize_per_tensor(torch.zeros(2, 3), 0.1, 0, torch.qint8)
        with pytest.raises(WeightsError, match="quantized|never loaded"):
            parse_weights("w.pth", pth(self.state(**{"linear.weight": tensor})))

    def test_shapes_are_compared_before_values(self):
        state = parse_weights("w.pth", pth(self.state(**{"linear.weight": torch.full((2, 4), float("nan"))})))
        with pytest.raises(WeightsError, match="of another shape"):
            apply_weights(Tiny(), state, name="w", architecture="tiny")

    def test_a_packed_archive_that_expands(self):
        file = io.BytesIO()
        data = pth(self.state(more=torch.zeros(2**20)))
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for info in old.infolist():
                new.writestr(info.filename, old.read(info))
        with pytest.raises(WeightsError, match="it expands to"):
            parse_weights("w.pth", file.getvalue())


class TestStore:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "run.sqlite"
        with EvaluationStore(path) as store:
            store.put("f", {policy_key(np.array([[2, 2]])): 0.5, policy_key(np.array([[8, 8]])): 0.1})
        return path

    def change(self, path, *script):
        with closing(sqlite3.connect(path)) as database:
            database.execute(*script)
            database.commit()

    @pytest.mark.parametrize("fingerprint", [7, ["f"], {"a": 1}, "a\ud800", "f\0", 10**30, b"f"])
    def test_a_damaged_fingerprint_never_condemns_a_good_store(self, path, fingerprint):
        with EvaluationStore(path) as store:
            for ask in (lambda: store.get(fingerprint, [b"\x02\x02"]), lambda: store.archive(fingerprint, 1)):
                with pytest.raises(StoreError, match="fingerprint") as caught:
                    ask()
                assert "move it away" not in str(caught.value)
                str(caught.value).encode()

    def test_a_foreign_fingerprint_finds_nothing(self, path):
        with EvaluationStore(path) as store:
            assert len(store.archive("0" * 64, 1)[0]) == 0

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("difference", "x"),
            ("difference", b"x"),
            ("difference", -float("inf")),
            ("policy", "22"),
            ("policy", b"\x09\x02"),
            ("policy", b"\x02"),
        ],
    )
    def test_rows_that_none_of_ours_is(self, path, column, value):
        self.change(path, f"UPDATE evaluations SET {column} = ? WHERE id = 1", (value,))
        with EvaluationStore(path) as store, pytest.raises(StoreError, match="holds") as caught:
            store.archive("f", 1)
        assert "move it away" not in str(caught.value)

    def test_policies_of_another_network(self, path):
        layers = [LayerInfo(name=name, kind="Linear", params=1, macs=1) for name in "ab"]
        space = SearchSpace.build(layers, weight_bits=[2, 8], activation_bits=[2, 8])
        with pytest.raises(
            StoreError, match=r"holds a policy of 1 layers under the fingerprint f\.\.\.; the network has"
        ):
            KnownPolicies.read(path, space, ("difference", "bops"))

    def test_views_and_triggers_never_run(self, path):
        self.change(path, "CREATE TRIGGER t AFTER INSERT ON evaluations BEGIN DELETE FROM evaluations; END")
        with pytest.raises(StoreError, match=r"its tables are not those of a store; other: \['t'\]"):
            EvaluationStore(path)

    def test_a_view_without_end(self, path):
        self.change(path, "DROP TABLE evaluations")
        self.change(
            path,
            "CREATE VIEW evaluations AS WITH RECURSIVE c(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM c) "
            "SELECT id, 'f' AS fingerprint, x'0202' AS policy, 1.0 AS difference FROM c",
        )
        with pytest.raises(StoreError, match="store"):
            EvaluationStore(path)

    def test_no_memory_is_no_damage(self, path, monkeypatch):
        with EvaluationStore(path) as store:

            class Connection:
                def execute(self, *_):
                    raise MemoryError

                def close(self):
                    pass

            kept = store._connection
            monkeypatch.setattr(store, "_connection", Connection())
            with pytest.raises(StoreError, match="needs more memory than there is"):
                store.count()
            kept.close()
