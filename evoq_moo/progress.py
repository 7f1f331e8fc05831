"""A progress bar on stderr that stays out of the way: silent off a terminal, and never two at once."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Two live displays on one terminal overwrite each other: whoever holds this lock draws, the others are silent.
_DISPLAY = threading.Lock()


class Tracker:
    """What :func:`track` yields: counts steps, drawn or not."""

    def __init__(self, progress: Progress | None = None, task: TaskID | None = None) -> None:
        self._progress = progress
        self._task = task

    def advance(self, n: int = 1) -> None:
        """Count `n` more steps as done."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, n)

    def update(self, *, description: str) -> None:
        """Show another description."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=description)


@contextmanager
def track(total: int | None, description: str, *, enabled: bool = True) -> Iterator[Tracker]:
    """Show a bar with M of N steps, elapsed and remaining time on stderr while the context lasts.

    Nothing is drawn where stderr is not a terminal or another :func:`track` is drawing, in this or another thread.

    Args:
        total: Number of steps; None where it isn't known.
        description: Text before the bar, shown as it is (no markup).
        enabled: False draws nothing.

    Yields:
        A tracker; call its `advance` after each step.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if not (enabled and terminal and _DISPLAY.acquire(blocking=False)):
        yield Tracker()
        return
    try:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(file=sys.stderr)) as progress:
            yield Tracker(progress, progress.add_task(description, total=total))
    finally:
        _DISPLAY.release()
