"""Writing files: whole, on disk, and one sentence where it can't be."""

import errno
import os
import subprocess
import sys

import pytest

from evoq_moo.errors import EvoqError, FileError
from evoq_moo.files import check_writable, reason_of, write, write_atomically


def test_a_file_is_synced_before_it_gets_its_name_and_its_folder_after(tmp_path, monkeypatch):
    order = []
    real = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: order.append("sync") or real[0](handle))
    monkeypatch.setattr(os, "replace", lambda *names: order.append("rename") or real[1](*names))
    write_atomically(tmp_path / "a", b"1")
    write_atomically(tmp_path / "new" / "b", b"2")
    assert order == ["sync", "rename", "sync", "sync", "sync", "rename", "sync"]
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] in (["a", "b"], ["b", "a"])


def test_the_mode_is_that_of_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    write_atomically(tmp_path / "a", b"1")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_what_killed_writes_left_is_swept_and_what_living_ones_write_is_not(tmp_path):
    """45 of them held 114 MiB."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = [tmp_path / f".evoq-{write._HOST}-{gone.pid}-{i:x}.tmp" for i in range(45)]
    others = [
        tmp_path / f".evoq-{write._HOST}-{os.getpid()}-a.tmp",  # of this process
        tmp_path / f".evoq-{write._HOST}-1-a.tmp",  # of a process of another user, or in a container our own first
        tmp_path / f".evoq-00000000-{gone.pid}-a.tmp",  # of another machine
        tmp_path / f".evoq-{write._HOST}-{10**40}-a.tmp",  # of no process that can be
        tmp_path / ".mine.tmp",
    ]
    for path in (*left, *others):
        path.touch()
    write_atomically(tmp_path / "a", b"1")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a", *others])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_a_failed_write_is_one_sentence_and_leaves_the_old_file(tmp_path, monkeypatch, code):
    path = tmp_path / "a"
    write_atomically(path, b"old")

    def fail(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FileError, match=f"can't be written: {os.strerror(code)}$"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_devices_and_folders_are_left_alone(tmp_path):
    """As root, a file would have taken the place of /dev/full."""
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path / "pipe", "a device"), (tmp_path, "a folder")):
        with pytest.raises(FileError, match=f"is {what}"):
            write_atomically(path, b"1")
        with pytest.raises(FileError, match=what):
            check_writable("output", path)
    assert (tmp_path / "pipe").is_fifo()


def test_what_cannot_be_written_is_known_before(tmp_path, locked_folder):
    (tmp_path / "file").touch()
    for path, folder, message in (
        (tmp_path / "file" / "below" / "a", False, "file is a file, not a folder"),
        (tmp_path / "file", True, "a file; allowed: a folder"),
        (tmp_path / ("x" * 300), False, "File name too long$"),
        (tmp_path / "\N{GRINNING FACE}" / ("é" * 200), True, "a name of more than 255 bytes"),
    ):
        with pytest.raises(FileError, match=message):
            check_writable("output", path, folder=folder)
    for path in (tmp_path / "new" / "a", tmp_path / "file", tmp_path / ("é" * 127)):
        check_writable("output", path)
    check_writable("output", tmp_path, folder=True)
    with locked_folder(tmp_path), pytest.raises(FileError, match="can't be written to"):
        check_writable("output", tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_reasons():
    assert reason_of(FileNotFoundError(errno.ENOENT, "No such file", "a/b")) == "No such file (a/b)"
    assert reason_of(OSError("cannot identify image file")) == "cannot identify image file"
    assert reason_of(OSError()) == "OSError"
    assert issubclass(FileError, EvoqError)
