import io
import os
import pty
import subprocess
import sys
import threading

import pytest

from evoq_moo.progress import track


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


def test_description_can_change(open_terminal):
    terminal = open_terminal()
    with track(None, "before") as bar:
        bar.update(description="after")
        bar.advance()
    assert "after" in terminal.getvalue()
    assert "1/?" in terminal.getvalue()


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
