"""The commands where the system refuses, ends them, or what they print looks like markup."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import evoq_moo as evoq
from evoq_moo.cli import _show, main
from evoq_moo.cli._console import PlainConsole
from evoq_moo.errors import MissingFileError
from evoq_moo.files import write
from evoq_moo.front import FrontPoint, ParetoFront
from evoq_moo.runs import Record, folder, load_front
from evoq_moo.space import Policy

SEARCH = ("search", "digits", "--count", 8, "--evaluations", 20, "--pop-size", 10, "--threads", 1)


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `main` with words; returns exit code, output and what it says on stderr."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["evoq", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err.strip()

    return run


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["evoq", *map(str, SEARCH), "-o", str(folder)])
        with pytest.raises(SystemExit, match="0"):
            main()
    return folder


class TestSystem:
    def test_targets_are_checked_before_anything_is_read(self, command, tmp_path):
        file = tmp_path / "file"
        file.touch()
        for words in (
            ["report", "nothing", "-o", file / "r.html"],
            ["calibrate", "nothing", "-o", file],
            ["export", "nothing", "-o", file / "m.onnx"],
            ["profile", "digits", "-o", file / "l.csv"],
            [*SEARCH, "-o", file],
        ):
            code, _, err = command(*words)
            assert (code, err.count("\n")) == (1, 0), words
            assert err.startswith("error: output: given "), err

    def test_a_result_that_cannot_be_written_there_is_written_elsewhere(
        self, command, run_folder, tmp_path, monkeypatch
    ):
        """Hours of calibration were lost to a full disk."""
        real = write.make_folder

        def full(folder):
            if folder == tmp_path / "full":
                raise OSError(errno.ENOSPC, "No space left on device")
            real(folder)

        monkeypatch.setattr(write, "make_folder", full)
        monkeypatch.chdir(tmp_path)
        code, out, err = command("calibrate", run_folder, "--steps", "outputs", "--threads", 1, "-o", tmp_path / "full")
        assert code == 1
        assert "outputs" in out
        message, kept = err.split("; the result is at ")
        assert "No space left on device" in message
        assert sorted(p.name for p in Path(kept).iterdir()) == [
            "calibrated.json",
            "calibrated.safetensors",
            "recipe.json",
        ]
        assert evoq.load(kept).policy == load_front(run_folder).knee()
        assert not (tmp_path / "full").exists()

    def test_output_that_cannot_be_written(self, run_folder):
        command = [sys.executable, "-m", "evoq_moo", "show", str(run_folder)]
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr.strip()) == (1, "error: No space left on device")

    @pytest.mark.parametrize(
        "wrong",
        [
            ["--pinned", "[/x]"],
            ["--objectives", "diference"],
            ["--weights", "no.pth"],
            ["--evaluations", "0"],
            ["--pop-size", "1"],
            ["--seed", "-1"],
            ["--workers", "0"],
            ["--threads", "0"],
            ["--points", "0"],
            ["--images", "nowhere/"],
            ["--budget", "difference<=1e-300"],
            ["--budget", "bops<=1e-9"],
        ],
    )
    def test_what_is_refused_leaves_no_run(self, command, tmp_path, wrong, monkeypatch):
        """A name that isn't known took the folder, and the right command was then told it holds another run."""
        monkeypatch.setattr(folder, "measure_sensitivity", lambda *_, **__: pytest.fail("the scan had begun"))
        assert command(*SEARCH, *wrong, "-o", tmp_path / "run")[0] == 1
        assert not (tmp_path / "run").exists() or [*(tmp_path / "run").iterdir()] == []

    @pytest.mark.parametrize(
        ("raised", "said"),
        [
            (OSError(errno.EIO, "Input/output error", "front.json"), "error: Input/output error (front.json)"),
            (PermissionError(errno.EACCES, "Permission denied", "x"), "error: Permission denied (x)"),
            (MemoryError(), "error: not enough memory"),
            (RuntimeError("std::bad_alloc"), "error: not enough memory (std::bad_alloc)"),
            (ImportError("x.so: failed to map"), "error: a package can't be loaded: x.so: failed to map"),
            (MissingFileError("no such file: x"), "error: no such file: x"),
        ],
    )
    def test_anything_the_system_says_is_one_sentence(self, command, monkeypatch, raised, said):
        def fail(_):
            raise raised

        monkeypatch.setattr(_show, "load_front", fail)
        assert command("show", "x")[::2] == (1, said)


class TestReadOnly:
    def test_show_report_and_resuming_a_finished_run(self, command, run_folder, tmp_path, locked_folder, caplog):
        report = tmp_path / "r.html"
        assert command("report", run_folder, "-o", report)[0] == 0
        assert command(*SEARCH, "-o", run_folder)[0] == 0
        before = {path: path.read_bytes() for path in run_folder.iterdir()}
        for path in (tmp_path, *tmp_path.parents[:2], Path(os.environ["EVOQ_CACHE"])):
            path.chmod(0o755)
        tmp_path.chmod(0o777)
        report.unlink()
        with locked_folder(run_folder):
            for words in (["show", run_folder], ["report", run_folder, "-o", report], [*SEARCH, "-o", run_folder]):
                code, out, err = command(*words)
                assert code == 0, (words, err)
                assert ("its files stay as they are" in caplog.text) == (words[0] == "search")
            assert "points on the front of" in out
            code, _, err = command("report", run_folder, "-o", run_folder / "r.html")
            assert (code, "can't be written to" in err) == (1, True)
            more = [60 if word == 20 else word for word in SEARCH]
            code, _, err = command(*more, "-o", run_folder)
            assert (code, "evaluations.sqlite: can't be written to" in err) == (1, True)
        assert report.stat().st_size > 10_000
        assert {path: path.read_bytes() for path in run_folder.iterdir()} == before


class TestSignals:
    @pytest.fixture(autouse=True)
    def _heard(self):
        """A process that a shell started in the background ignores SIGINT."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_leave_a_front_and_the_same_command_goes_on(self, command, run_folder, tmp_path, monkeypatch, number):
        add, main_thread = Record.add, threading.main_thread()

        def add_then_signal(self, *arguments):
            add(self, *arguments)
            monkeypatch.setattr(Record, "add", add)
            signal.pthread_kill(main_thread.ident, number)

        monkeypatch.setattr(Record, "add", add_then_signal)
        code, out, err = command(*SEARCH, "-o", tmp_path / "run")
        assert code == 130
        assert "points on the front of" in out
        assert err == "interrupted: the front so far is written; the same command goes on"
        assert load_front(tmp_path / "run").provenance["interrupted"]
        assert command(*SEARCH, "-o", tmp_path / "run")[0] == 0
        assert load_front(tmp_path / "run").points == load_front(run_folder).points

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_elsewhere_they_end_the_command(self, command, monkeypatch, number):
        monkeypatch.setattr(_show, "load_front", lambda _: os.kill(os.getpid(), number))
        assert command("show", "x")[::2] == (130, "interrupted: nothing was written")


class TestWords:
    @pytest.mark.parametrize("name", ["[/x]", "a[bold]b", ":smile:", "[red]", "line\x1b]0;title\x07"])
    def test_are_printed_as_they_are(self, command, front_of, tmp_path, monkeypatch, name):
        """`-o '[/x]'` ended in a MarkupError after the whole search; `a[bold]b` was printed as a path that isn't."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "200")
        shown = name.replace("\x1b", r"\x1b").replace("\x07", r"\x07")
        policy = Policy((f"layer {name}",), (4,), (8,))
        point = FrontPoint(policy=policy, difference=1.0, costs={"size": 1.0, "bops": 1.0})
        ParetoFront(points=(point,), objectives=("difference", "bops")).save(tmp_path / name)
        # Fonts have no sign for control characters, of which the report's pictures would warn.
        report = [] if shown != name else [["report", name, "-o", f"{name}.html"]]
        for words in (["show", name], ["show", name, "--pick", "0"], *report):
            code, out, err = command(*words)
            assert (code, err) == (0, ""), words
            assert shown in out
            assert "\x1b" not in out
        code, _, err = command("show", f"no {name}")
        assert (code, f"no {shown}" in err) == (1, True)

    def test_lone_surrogates_are_printed_as_escapes(self, capsys):
        PlainConsole().say("a\udcffb")
        assert capsys.readouterr().out == "a\\udcffb\n"
