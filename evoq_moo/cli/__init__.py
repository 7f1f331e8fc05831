"""The command line: `evoq`, or `python -m evoq_moo`."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from evoq_moo.cli._console import errors
from evoq_moo.cli._group import app
from evoq_moo.cli._next import INTERRUPTED, interruption
from evoq_moo.errors import EvoqError, OutOfMemoryError, check_memory

__all__ = ["app", "main"]

FAILED = 1


def main() -> None:
    """Run the command line.

    Errors of ours and of the system become one sentence and exit code 1; Ctrl-C and SIGTERM end a command alike, with
    exit code 130 and a sentence that says what became of its work.
    """
    try:
        with _sigterm_interrupts():
            try:
                app()
            finally:
                sys.stdout.flush()
    except EvoqError as error:
        _fail(str(error))
    except (KeyboardInterrupt, SystemExit) as ended:
        # Typer makes an exit of an interruption within a command.
        if isinstance(ended, SystemExit) and ended.code != INTERRUPTED:
            raise
        errors.say(interruption(), style="yellow")
        sys.exit(INTERRUPTED)
    except OSError as error:
        from evoq_moo.files import reason_of  # brings torch

        _fail(reason_of(error))
    except Exception as error:
        try:
            check_memory(error)
        except OutOfMemoryError as found:
            _fail(str(found))
        if isinstance(error, ImportError):  # installed, but broken, or not for this machine
            _fail(f"a package can't be loaded: {error}")
        raise


def _fail(sentence: str) -> None:
    _drop_unwritable_output()
    errors.say(f"error: {sentence}", style="red")
    sys.exit(FAILED)


def _drop_unwritable_output() -> None:
    """Forget output that can't be written (a full disk), which the interpreter would try, and report, once more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
