import io
import os
import pty
import subprocess
import sys
import threading

import pytest

from evoq_moo import progress
from evoq_moo.progress import job, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def open_terminal(monkeypatch):
    """To be called in the test itself: pytest sets sys.stderr once more between a fixture and its test."""

    def open_now():
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        return stream

    return open_now


def test_draws_description_and_counts_on_a_terminal(open_terminal):
    terminal = open_terminal()
    with track(4, "scan [of layers]") as bar:
        for _ in range(2):
            bar.advance()
        bar.advance(2)
    drawn = terminal.getvalue()
    assert "scan [of layers]" in drawn
    assert "4/4" in drawn
    assert "100 %" in drawn


def test_description_can_change(open_terminal):
    terminal = open_terminal()
    with track(None, "before") as bar:
        bar.update(description="after")
        bar.advance()
    assert "after" in terminal.getvalue()
    assert "1/?" in terminal.getvalue()


def test_lines_off_a_terminal(monkeypatch):
    stream, now = io.StringIO(), [0.0]
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with track(100, "scan") as bar:
        for _ in range(100):
            now[0] += 1
            bar.advance()
    assert stream.getvalue().splitlines() == [
        "scan 30/100, 30 %, 0:01:10 left",
        "scan 60/100, 60 %, 0:00:40 left",
        "scan 90/100, 90 %, 0:00:10 left",
    ]


class TestJob:
    """One bar for all phases, whose remaining time is that of the whole job."""

    @pytest.fixture
    def clock(self, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
        return now

    def test_remaining_time_is_within_30_percent_after_a_tenth(self, clock):
        """Phases that take 1.3 times what was expected, or 0.8 times; the scan said 0:00:01 at 32 of 204."""
        for factor in (0.8, 1.0, 1.3):
            clock[0] = 0.0
            true = {"set-up": 10.0, "scan": 30 * factor, "search": 160 * factor}
            whole, errors = sum(true.values()), []
            with job({"set-up": 10.0, "scan": 30.0, "search": 160.0}) as made:
                for name, steps in (("set-up", 5), ("scan", 200), ("search", 1000)):
                    with made.phase(name), track(steps, name) as bar:
                        for _ in range(steps):
                            clock[0] += true[name] / steps
                            bar.advance()
                            if 0.1 * whole <= clock[0] <= 0.95 * whole:
                                errors.append((clock[0] + made.remaining) / whole - 1)
                assert made.remaining == 0
            assert max(map(abs, errors)) < 0.3, (factor, errors)

    def test_is_one_bar(self, open_terminal):
        terminal = open_terminal()
        with job({"one": 1.0, "two": 1.0}) as made:
            for name in ("one", "two"):
                with made.phase(name), track(3, f"phase {name}") as bar, track(2, "inner") as inner:
                    inner.advance()
                    bar.advance(3)
                with made.paused():  # what was drawn last stays above
                    pass
        drawn = terminal.getvalue()
        assert "phase one 3/3" in drawn
        assert "phase two 3/3" in drawn
        assert "inner" not in drawn

    def test_expectations_may_change(self, clock):
        with job({"one": 5.0, "two": 0.0}) as made:
            made.expect("two", 20.0)
            assert made.remaining == 25
            with made.phase("one"):
                clock[0] = 2.0
                assert made.remaining == 23


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_silent_off_a_terminal(monkeypatch, capfd, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    with track(2, "quiet") as bar:
        bar.advance()
        bar.update(description="still quiet")
    assert stream is None or stream.getvalue() == ""
    assert capfd.readouterr() == ("", "")


def test_silent_where_disabled(open_terminal):
    terminal = open_terminal()
    with track(2, "quiet", enabled=False) as bar:
        bar.advance()
    assert terminal.getvalue() == ""


def test_inner_track_is_silent_and_outer_goes_on(open_terminal):
    terminal = open_terminal()
    with track(2, "outer") as outer:
        with track(2, "inner") as inner:
            inner.advance()
        outer.advance(2)
    assert "inner" not in terminal.getvalue()
    assert "2/2" in terminal.getvalue()


def test_track_in_another_thread_is_silent(open_terminal):
    terminal = open_terminal()

    def other():
        with track(1, "elsewhere") as bar:
            bar.advance()

    with track(1, "here"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "elsewhere" not in terminal.getvalue()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_closes_on_errors(open_terminal, error):
    terminal = open_terminal()
    with pytest.raises(error), track(3, "fails"):
        raise error
    assert terminal.getvalue().count("\x1b[?25h") == 1  # the cursor is shown again
    with track(1, "next") as bar:
        bar.advance()
    assert "next" in terminal.getvalue()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
def test_draws_on_a_real_terminal_and_leaves_stdout_alone():
    master, slave = pty.openpty()
    code = "from evoq_moo.progress import track\nwith track(1, 'real') as bar:\n    bar.advance()\nprint('result')"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=slave, check=True, text=True)
    os.close(slave)
    drawn = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        drawn += chunk
    os.close(master)
    assert done.stdout == "result\n"
    assert b"real" in drawn
    assert b"1/1" in drawn
