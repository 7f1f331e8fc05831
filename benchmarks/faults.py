"""Commands killed at random moments, and after simulated power cuts: what is lost, and whether resumed results differ.

    python benchmarks/faults.py --moments 1000 --folder faults
    python benchmarks/faults.py --moments 50 --folder faults_alone --alone

Each scenario first runs undisturbed; that is its reference. Then it runs in new folders and is ended by SIGKILL at a
moment drawn uniformly from its duration (of commands with worker processes the command, a worker or all of them), is
killed again or resumed, and in the end compared with the reference, bit for bit: fronts, tables, tensors, archives and
the store's evaluations; times and dates are left out. At every kill, each file that is there under its own name must be
whole and equal to the reference's, and every known evaluation the reference's; in the end no temporary file and no
process may be left.

Power cuts are simulated: `_power_cut.c`, preloaded (LD_PRELOAD; Linux, gcc), notes every change of files below the
folder in order; at a random point of that record, what was not synced is dropped: all of it, or each unsynced write by
the toss of a coin and each folder's unsynced changes from a random one on. The command then goes on from what is left.

Commands run in forks of this process, which has imported what they import, so that moments fall into their work; with
`--alone` each is a new process of the interpreter, `python -m evoq_moo`.

Moments are kept in FOLDER/moments.jsonl: the same command goes on where it was.
"""

import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import evoq_moo
from evoq_moo import cli
from evoq_moo.evaluation import EvaluationStore

console = Console(markup=False, highlight=False)
SEARCH = "search digits --engine reference --count 6 --evaluations 40 --pop-size 10 --threads 1"
STUDY = """problems = ["digits-bops"]
algorithms = ["nsga2", "random", "guided"]
seeds = 4
budget = 120
path = "unused"
"""
MARK = "EVOQ_FAULT"
"""Environment variable by which the processes of a command are found."""
GONE_IN = 10.0
"""Seconds in which the workers of a command must be gone when it has ended."""
HANGS = 600.0
"""Seconds after which a command counts as hanging."""
AGAIN = 0.85
"""Probability that a killed command is killed once more before it may end."""
UNDISTURBED = "undisturbed"
ROOT = Path(__file__).resolve().parent
SOURCE = Path(evoq_moo.__file__).parents[1]


@dataclass(frozen=True)
class Scenario:
    """A command, what it makes, and how its end is compared.

    Attributes:
        words: The command; `{out}` stands for the folder of this trial, `{ref}` for that of the references.
        parts: Gives, by name, a digest of each file that is there under its own name.
        share: Of all moments.
        workers: How processes that may be killed instead are found; none for commands without.
        cut: Whether it is ended by a power cut instead.
    """

    words: str
    parts: Callable[[Path], dict[str, str]]
    share: float
    workers: str = ""
    cut: bool = False


def digest(data: object) -> str:
    """Return a digest of bytes, or of data as JSON."""
    raw = data if isinstance(data, bytes) else json.dumps(data, sort_keys=True).encode()
    return hashlib.sha256(raw).hexdigest()[:16]


def without(data: Any, *names: str) -> Any:
    """Return JSON data without some keys, at any depth."""
    if isinstance(data, dict):
        return {key: without(value, *names) for key, value in data.items() if key not in names}
    return [without(value, *names) for value in data] if isinstance(data, list) else data


def files_of(out: Path, *patterns: str) -> dict[str, str]:
    """Return the digests of files; of JSON without seconds, of `.npz` without times, of HTML without the date."""
    found = {}
    for path in sorted(path for pattern in patterns for path in out.glob(pattern)):
        if path.name.startswith("."):  # what a killed write left
            continue
        data = path.read_bytes()
        if path.suffix == ".json":
            found[str(path.relative_to(out))] = digest(without(json.loads(data), "seconds"))
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[str(path.relative_to(out))] = digest(b"".join(arrays[key].tobytes() for key in "XFG"))
        elif path.suffix == ".html":
            found[path.name] = digest(re.sub(rb"\d{4}-\d\d-\d\d \d\d:\d\d[^<]*", b"", data))
        else:
            found[str(path.relative_to(out))] = digest(data)
    return found


def search_parts(out: Path) -> dict[str, str]:
    """Return the parts of a search: its files, and every evaluation in its store."""
    found = files_of(out, "run/*.json", "run/*.png")
    if not (out / "run" / "evaluations.sqlite").exists():
        return found
    # Of a copy, so that what the kill left is not mended here.
    with tempfile.TemporaryDirectory() as copied:
        for path in (out / "run").glob("evaluations.sqlite*"):
            shutil.copy(path, copied)
        with EvaluationStore(Path(copied) / "evaluations.sqlite", shared=True) as store:
            for name in store.fingerprints():
                rows = store._database.execute(
                    "SELECT hex(policy), difference FROM evaluations WHERE fingerprint = ?", (name,)
                )
                found |= {f"{name[:8]} {policy}": digest(value.hex()) for policy, value in rows}
    return found


def study_parts(out: Path) -> dict[str, str]:
    """Return the parts of a study: each run's archive."""
    return files_of(out, "study/runs/**/*.npz", "study/study.json")


VERIFY = "verify {ref}/export/model.onnx --against {ref}/calibrate/calibrated --images {ref}/images.npz"
CALIBRATE = Scenario(
    "calibrate {ref}/search/run --steps light --threads 1 -o {out}/calibrated",
    lambda out: files_of(out, "calibrated/*"),
    0.16,
)
EXPORT = Scenario("export {ref}/calibrate/calibrated -o {out}/model.onnx", lambda out: files_of(out, "*.onnx"), 0.06)
REPORT = Scenario("report {ref}/search/run -o {out}/report.html", lambda out: files_of(out, "*.html"), 0.04)
COMPARE = "compare {ref}/study.toml --no-plots -o {out}/study"
SCENARIOS = {
    "search": Scenario(f"{SEARCH} -o {{out}}/run", search_parts, 0.12),
    "calibrate": CALIBRATE,
    "export": EXPORT,
    "verify": Scenario(VERIFY, lambda out: files_of(out, "*.*"), 0.03),
    "report": REPORT,
    "compare": Scenario(COMPARE, study_parts, 0.15),
    "search, 2 processes": Scenario(f"{SEARCH} --workers 2 -o {{out}}/run", search_parts, 0.02, "spawn_main"),
    "compare, 2 processes": Scenario(f"{COMPARE} --workers 2", study_parts, 0.03, "spawn_main"),
    "compare, Dask": Scenario(f"{COMPARE} --scheduler {{dask}}", study_parts, 0.25, "dask"),
    "search, power cut": Scenario(f"{SEARCH} -o {{out}}/run", search_parts, 0.04, cut=True),
    "calibrate, power cut": Scenario(CALIBRATE.words, CALIBRATE.parts, 0.04, cut=True),
    "export, power cut": Scenario(EXPORT.words, EXPORT.parts, 0.01, cut=True),
    "report, power cut": Scenario(REPORT.words, REPORT.parts, 0.01, cut=True),
    "compare, power cut": Scenario(COMPARE, study_parts, 0.04, cut=True),
}
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


class Bench:
    """Runs commands, in forks of this process, which computes nothing with torch itself.

    Args:
        folder: Where everything goes.
        alone: Each command is a process of its own.
    """

    def __init__(self, folder: Path, *, alone: bool = False) -> None:
        self.folder = folder.resolve()
        self.alone = alone
        self.rng = random.Random()
        self.ref = self.folder / "ref"
        self.dask = ""

    def words(self, scenario: Scenario, out: Path) -> list[str]:
        """Return a command's words."""
        return [word.format(out=out, ref=self.ref, dask=self.dask) for word in scenario.words.split()]

    def start(self, words: list[str], mark: str) -> int:
        """Start a command, with a process group of its own, and return its process."""
        log = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        if self.alone:
            environment = os.environ | {MARK: mark, "PYTHONPATH": str(SOURCE)}
            outputs = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2), (os.POSIX_SPAWN_CLOSE, log)]
            command = [sys.executable, "-m", "evoq_moo", *words]
            child = os.posix_spawn(sys.executable, command, environment, file_actions=outputs, setpgroup=0)
            os.close(log)
            return child
        child = os.fork()
        with suppress(OSError):  # both try, since either may be first
            os.setpgid(child, child)
        if child:
            os.close(log)
            return child
        os.environ[MARK] = mark
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["evoq", *words]
        code = 1
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        finally:
            if mark == UNDISTURBED:
                (self.folder / "modules.json").write_text(json.dumps(list(sys.modules)))
            os._exit(code)

    def finish(self, words: list[str], mark: str) -> str:
        """Run a command to its end; returns what is wrong, if anything."""
        status = exit_code(self.start(words, mark))
        return "" if status == 0 else f"exit code {status}"

    def undisturbed(self, base: str) -> None:
        """Run a command, and those whose results it needs, undisturbed, into the folder of the references."""
        out = self.ref / base
        if not (out / "done").exists():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            for needed in re.findall(r"{ref}/(\w+)/", SCENARIOS[base].words):
                self.undisturbed(needed)
            if problem := self.finish(self.words(SCENARIOS[base], out), UNDISTURBED):
                sys.exit(f"{base}: undisturbed, it ended with {problem}; see {self.folder}/log.txt")
            (out / "done").touch()

    def import_all(self) -> None:
        """Import what an undisturbed command imported."""
        for name in json.loads((self.folder / "modules.json").read_text()):
            with suppress(ImportError):  # made by other modules, not found as files
                importlib.import_module(name)

    def reference(self, name: str, scenario: Scenario) -> tuple[dict[str, str], float]:
        """Return the parts of an undisturbed run, and its duration (seconds)."""
        base = name.split(",", maxsplit=1)[0]
        self.undisturbed(base)
        out = self.ref / base
        parts = scenario.parts(out)
        if not self.alone:
            imports = self.folder / "imports"
            shutil.rmtree(imports, ignore_errors=True)
            imports.mkdir()
            self.finish(self.words(scenario, imports), UNDISTURBED)
            self.import_all()
        timed = self.folder / "timed"
        shutil.rmtree(timed, ignore_errors=True)
        timed.mkdir()
        start = time.monotonic()
        problem = self.finish(self.words(scenario, timed), "timed")
        seconds = time.monotonic() - start
        if problem or scenario.parts(timed) != parts:
            sys.exit(f"{name}: two undisturbed runs differ {problem}")
        return parts, seconds

    def killed(self, name: str, scenario: Scenario) -> Iterator[dict[str, Any]]:
        """Give one row for each moment, without end."""
        parts, seconds = self.reference(name, scenario)
        trial = 0
        while True:
            trial += 1
            out = self.folder / "trial"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            words, mark = self.words(scenario, out), f"{os.getpid()} {name} {trial}"
            rows: list[dict[str, Any]] = []
            while not rows or self.rng.random() < AGAIN:
                row = self._kill(scenario, words, mark, seconds)
                if row is None:
                    break
                row["wrong"] += wrong_parts(scenario.parts(out), parts)
                rows.append(row)
            wrong = [self.finish(words, mark)]
            found = scenario.parts(out)
            wrong += wrong_parts(found, parts)
            wrong += [f"{part} is lost" for part in parts if part not in found][:3]
            wrong += [f"{path.name} is left" for path in out.rglob(".evoq-*")]
            wrong += [f"process {pid} is left" for pid in orphans(mark)]
            for row in rows:
                yield {"scenario": name, **row, "wrong": [*row["wrong"], *filter(None, wrong)]}

    def _kill(self, scenario: Scenario, words: list[str], mark: str, seconds: float) -> dict[str, Any] | None:
        """Kill a command once; None where it ended before."""
        child = self.start(words, mark)
        moment = self.rng.uniform(0, seconds)
        deadline = time.monotonic() + moment
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))
            if os.waitpid(child, os.WNOHANG)[0]:
                return None
        victims, victim = [], self.rng.choice(("command", "worker", "all")) if scenario.workers else "command"
        if victim == "worker":
            victims = marked("dask" if scenario.workers == "dask" else mark, "spawn_main")
        if victims:
            os.kill(self.rng.choice(victims), signal.SIGKILL)
            status = exit_code(child)
            return {"moment": moment, "victim": "worker", "wrong": [f"exit code {status}"] if status else []}
        victim = "all" if victim == "all" and scenario.workers != "dask" else "command"
        os.kill(-child if victim == "all" else child, signal.SIGKILL)
        os.waitpid(child, 0)
        return {"moment": moment, "victim": victim, "wrong": [f"process {pid} outlives it" for pid in orphans(mark)]}

    def cut(self, name: str, scenario: Scenario) -> Iterator[dict[str, Any]]:
        """Give one row for each power cut, without end."""
        parts, _ = self.reference(name, scenario)
        shim = self.folder / "power_cut.so"
        compiler = sysconfig.get_config_var("CC").split()[0]
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, ROOT / "_power_cut.c", "-ldl"], check=True)
        out, log = self.folder / "cut", self.folder / "cut.log"
        shutil.rmtree(out, ignore_errors=True)
        log.unlink(missing_ok=True)
        out.mkdir()
        environment = os.environ | {
            "LD_PRELOAD": str(shim),
            "EVOQ_WATCH": str(out),
            "EVOQ_LOG": str(log),
            "PYTHONPATH": str(SOURCE),
        }
        command = [sys.executable, "-m", "evoq_moo", *self.words(scenario, out)]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        records = list(read_log(log))
        shutil.rmtree(out)
        while True:
            at, everything = self.rng.randrange(len(records) + 1), self.rng.random() < 0.5
            disk = Disk(str(out))
            for record in records[:at]:
                disk.take(record)
            out = self.folder / "cut"
            shutil.rmtree(out, ignore_errors=True)
            disk.after_cut(out, None if everything else self.rng)
            wrong = wrong_parts(scenario.parts(out), parts)
            wrong.append(self.finish(self.words(scenario, out), name))
            found = scenario.parts(out)
            wrong += wrong_parts(found, parts)
            wrong += [f"{part} is lost" for part in parts if part not in found][:3]
            yield {
                "scenario": name,
                "moment": at / len(records),
                "victim": "unsynced: all" if everything else "unsynced: some",
                "wrong": list(filter(None, wrong)),
            }

    @contextmanager
    def cluster(self) -> Iterator[None]:
        """Start two Dask workers on loopback."""
        script = (
            "import distributed, time\n"
            "if __name__ == '__main__':\n"
            "    c = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)\n"
            "    c.adapt(minimum=2, maximum=2)\n"  # Dask gives a worker up that is killed while it starts
            "    print(c.scheduler_address, flush=True)\n"
            "    time.sleep(10**6)\n"
        )
        file = self.folder / "cluster.py"
        file.write_text(script)
        environment = os.environ | {MARK: "dask", "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, file], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            self.dask = process.stdout.readline().strip() if process.stdout else ""
            yield
        finally:
            process.terminate()
            process.wait()
            for pid in marked("dask"):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def wrong_parts(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Return what is there and is not as in the reference."""
    return [f"{part} differs" for part, value in found.items() if expected.get(part) != value][:3]


def marked(mark: str, command: str = "") -> list[int]:
    """Return the living processes of a command other than this one, those with some words in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with suppress(OSError):
            same = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if same and command.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def exit_code(child: int) -> int:
    """Wait for the end of a command; one that hangs is killed."""
    deadline = time.monotonic() + HANGS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def orphans(mark: str) -> list[int]:
    """Return the processes of a command that are still there a while after its end."""
    deadline = time.monotonic() + GONE_IN
    while (found := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


Record = tuple[str, int, int, str, bytes]


def read_log(path: Path) -> Iterator[Record]:
    """Give the records of `_power_cut.c`: kind, id, offset, name and data."""
    with path.open("rb") as file:
        while line := file.readline():
            kind, number, offset, length, named = line.split()
            name = file.read(int(named)).decode()
            yield kind.decode(), int(number), int(offset), name, file.read(int(length))


@dataclass
class Inode:
    """A file's bytes as programs see them, as they are on disk, and the writes in between."""

    now: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def write(self, offset: int, data: bytes | None) -> None:
        """Write at an offset; no data: cut or extend to it."""
        apply(self.now, offset, data)
        self.pending.append((offset, data))


def apply(content: bytearray, offset: int, data: bytes | None) -> None:
    """Write into bytes at an offset; no data: cut or extend to it."""
    end = offset if data is None else offset + len(data)
    content.extend(bytes(max(0, (offset if data is None else end) - len(content))))
    if data is None:
        del content[offset:]
    else:
        content[offset:end] = data


class Disk:
    """Files below a folder, with what of them would outlast a power cut.

    Args:
        root: The folder; it is on disk itself.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.now: dict[str, Inode | None] = {root: None}
        """Files, and None for folders, as programs see them."""
        self.synced: dict[str, Inode | None] = {root: None}
        self.pending: dict[str, list[tuple[str, Inode | None, bool]]] = defaultdict(list)
        """By folder, changes of its list: a name, what it is from now on, and whether it is there at all."""
        self.open: dict[int, str | Inode] = {}

    def _link(self, path: str, node: Inode | None, there: bool = True) -> None:
        if there:
            self.now[path] = node
        else:
            self.now.pop(path, None)
        self.pending[os.path.dirname(path)].append((path, node, there))

    def take(self, record: Record) -> None:
        """Take one record in."""
        kind, number, offset, name, data = record
        node = self.open.get(number)
        if kind == "O":
            known = self.now.get(name)
            if name in self.now and known is None:
                self.open[number] = name
                return
            if known is None:
                if not offset:
                    return
                known = Inode()
                self._link(name, known)
            if offset == 2:
                known.write(0, None)
            self.open[number] = known
        elif kind in "WT" and isinstance(node, Inode):
            node.write(offset, data if kind == "W" else None)
        elif kind == "S" and isinstance(node, Inode):
            node.synced, node.pending = bytes(node.now), []
        elif kind == "S" and isinstance(node, str):
            for path, what, there in self.pending.pop(node, []):
                self._settle(self.synced, path, what, there)
        elif kind == "R":
            moved = self.now.get(name)
            self._link(name, None, there=False)
            self._link(data.decode(), moved)
        elif kind == "U":
            self._link(name, None, there=False)
        elif kind == "M":
            self._link(name, None)

    @staticmethod
    def _settle(names: dict[str, Inode | None], path: str, node: Inode | None, there: bool) -> None:
        if there:
            names[path] = node
        else:
            names.pop(path, None)

    def after_cut(self, folder: Path, rng: random.Random | None) -> None:
        """Write what is left after a power cut.

        Args:
            folder: Where to.
            rng: Chooses what of the unsynced is left; None: nothing.
        """
        names = dict(self.synced)
        if rng is not None:
            for changes in self.pending.values():
                for path, node, there in changes[: rng.randint(0, len(changes))]:
                    self._settle(names, path, node, there)
        folder.mkdir(parents=True)
        for path, node in sorted(names.items()):
            target = folder / os.path.relpath(path, self.root)
            if path == self.root or not target.parent.is_dir():
                continue
            if node is None:
                target.mkdir()
                continue
            content = bytearray(node.synced)
            for offset, data in node.pending if rng is not None else []:
                if rng is not None and rng.random() < 0.5:
                    apply(content, offset, data)
            if not path.endswith("-shm"):
                target.write_bytes(content)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a row for each scenario."""
    table = Table("scenario", "moments", "of these a worker", "wrong")
    for name in SCENARIOS:
        own = [row for row in rows if row["scenario"] == name]
        workers = sum(row["victim"] in {"worker", "all"} for row in own)
        table.add_row(name, str(len(own)), str(workers), str(sum(bool(row["wrong"]) for row in own)))
    table.add_row("all", str(len(rows)), "", str(sum(bool(row["wrong"]) for row in rows)))
    console.print(table)
    for row in [row for row in rows if row["wrong"]][:20]:
        console.print(f"{row['scenario']} at {row['moment']:.3f}, {row['victim']}: {'; '.join(row['wrong'])}")


def main(
    *,
    moments: Annotated[int, typer.Option(help="Moments of all scenarios together.")] = 1000,
    folder: Annotated[Path, typer.Option(help="Where everything goes; the same one goes on.")] = Path("faults"),
    only: Annotated[list[str] | None, typer.Option(help="Scenarios; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    alone: Annotated[bool, typer.Option(help="Each command is a process of its own; no power cuts.")] = False,
) -> None:
    """Measure; exit code 1 where anything was wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder, alone=alone)
    bench.ref.mkdir(exist_ok=True)
    (bench.ref / "study.toml").write_text(STUDY)
    np.savez(bench.ref / "images.npz", images=IMAGES)
    file = bench.folder / "moments.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for name, scenario in SCENARIOS.items():
        done = sum(row["scenario"] == name for row in rows)
        wanted = round(scenario.share * moments)
        if done >= wanted or (only and name not in only) or (alone and scenario.cut):
            continue
        bench.rng.seed(f"{seed} {name} {done}")
        with bench.cluster() if scenario.workers == "dask" else nullcontext():
            for row in bench.cut(name, scenario) if scenario.cut else bench.killed(name, scenario):
                rows.append(row)
                with file.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
                done += 1
                console.print(f"{name}: {done} of {wanted}{', WRONG: ' + str(row['wrong']) if row['wrong'] else ''}")
                if done >= wanted:
                    break
    print_table(rows)
    if any(row["wrong"] for row in rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
