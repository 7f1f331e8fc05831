"""Progress on stderr: one bar on a terminal, a line now and then off it, and never two at once."""

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

# Two live displays on one terminal overwrite each other: whoever holds this lock draws, the others are silent.
_DISPLAY = threading.Lock()
LINE_EVERY = 30.0
"""Seconds between lines where stderr is not a terminal; our choice."""
_TRUSTED = 0.2
"""Our choice: from this share of a phase on, its remaining time follows from its own speed alone."""


class Tracker:
    """What :func:`track` yields: counts steps, shown or not; threads may share it.

    Attributes:
        total: Number of steps; None where it isn't known.
        description: What is done.
        done: Steps so far.
        begun: When it began, by the monotonic clock (s).
    """

    def __init__(self, total: int | None, description: str, view: "_View | None" = None) -> None:
        self.total = total
        self.description = description
        self.done = 0
        self.begun = time.monotonic()
        self._view = view
        self._lock = threading.Lock()

    def advance(self, n: int = 1) -> None:
        """Count `n` more steps as done."""
        with self._lock:
            self.done += n
        self._changed()

    def update(self, *, description: str) -> None:
        """Show another description."""
        self.description = description
        self._changed()

    def _changed(self) -> None:
        if self._view is not None:
            self._view.show(self)

    @property
    def share(self) -> float | None:
        """Share of the steps that are done, 0..1; None where the total isn't known."""
        return None if self.total is None else min(self.done / self.total, 1.0) if self.total else 1.0

    @property
    def remaining(self) -> float | None:
        """Seconds that the rest takes at the speed so far; None where it isn't known."""
        share = self.share
        return (time.monotonic() - self.begun) * (1 - share) / share if share else None

    def __str__(self) -> str:
        return f"{self.description} {self.done}/{'?' if self.total is None else self.total}"


class _View(Protocol):
    """Where progress is shown."""

    def show(self, tracker: Tracker) -> None:
        """Show the state of a tracker."""


class _RemainingColumn(ProgressColumn):
    """The remaining time that the task's fields hold."""

    def render(self, task: Task) -> Text:
        """Return it as text."""
        return Text(_clock(task.fields["remaining"]), style="progress.remaining")


class _Bar:
    """A bar on a terminal."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            TimeElapsedColumn(),
            _RemainingColumn(),
        )
        self.progress = Progress(*columns, console=Console(file=sys.stderr), redirect_stdout=False)
        self._task = self.progress.add_task("", total=None, remaining=None)

    def show(self, tracker: Tracker) -> None:
        """Draw a tracker's state."""
        self.draw(str(tracker), tracker.share, tracker.remaining)

    def draw(self, text: str, share: float | None, remaining: float | None) -> None:
        """Draw a text, a share (0..1) and a remaining time (s)."""
        total = None if share is None else 1.0
        self.progress.update(self._task, description=text, total=total, completed=share or 0.0, remaining=remaining)

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Draw while the context lasts."""
        with self.progress:
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to others while the context lasts."""
        self.progress.stop()
        try:
            yield
        finally:
            self.progress.start()


class _Lines:
    """A line every :data:`LINE_EVERY` seconds, for logs."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def show(self, tracker: Tracker) -> None:
        """Write a tracker's state, if it is time."""
        self.draw(str(tracker), tracker.share, tracker.remaining)

    def draw(self, text: str, share: float | None, remaining: float | None) -> None:
        """Write a text, a share (0..1) and a remaining time (s), if it is time."""
        now = time.monotonic()
        if now - self._last < LINE_EVERY or sys.stderr is None:
            return
        self._last = now
        percent = "" if share is None else f", {100 * share:.0f} %"
        left = "" if remaining is None else f", {_clock(remaining)} left"
        print(f"{text}{percent}{left}", file=sys.stderr, flush=True)

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Write while the context lasts."""
        yield

    paused = drawn


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


@dataclass
class _Phase:
    """A part of a job: how long it is expected to take (s), and when it began and ended."""

    expected: float
    begun: float | None = None
    ended: float | None = None


class Job:
    """What :func:`job` yields: phases one after the other, shown as one bar whose remaining time is that of all.

    The first :func:`track` in a phase tells how far the phase is; those within it are silent.
    """

    def __init__(self, phases: Mapping[str, float], view: _Bar | _Lines | None = None) -> None:
        self._phases = {name: _Phase(seconds) for name, seconds in phases.items()}
        self._current: _Phase | None = None
        self._view = view
        self._begun = time.monotonic()
        self.tracker: Tracker | None = None

    def expect(self, name: str, seconds: float) -> None:
        """Say how long a phase will take (s), as soon as that is known."""
        self._phases[name].expected = seconds

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Do a phase while the context lasts."""
        self._current = self._phases[name]
        self._current.begun = time.monotonic()
        self._draw(name)
        try:
            yield
        finally:
            self._current.ended = time.monotonic()
            self._current = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to others while the context lasts."""
        if self._view is None:
            yield
            return
        with self._view.paused():
            yield

    @property
    def follows(self) -> bool:
        """Whether the next tracker tells how far the phase is."""
        return self._current is not None and self.tracker is None

    @property
    def remaining(self) -> float:
        """Seconds that the job will still take.

        Phases to come take what is expected of them. The phase at hand takes what is expected of it at first, and more
        and more what its own speed says (our choice).
        """
        left = sum(phase.expected for phase in self._phases.values() if phase.begun is None)
        if self._current is None or self._current.begun is None:
            return left
        spent = time.monotonic() - self._current.begun
        share = self.tracker.share if self.tracker is not None else None
        if not share:
            return left + max(self._current.expected - spent, 0.0)
        trust = min(share / _TRUSTED, 1.0)
        whole = trust * spent / share + (1 - trust) * max(self._current.expected, spent)
        return left + (1 - share) * whole

    def show(self, tracker: Tracker) -> None:
        """Show the job while a tracker tells how far the phase is."""
        self._draw(str(tracker))

    def _draw(self, text: str) -> None:
        if self._view is not None:
            remaining = self.remaining
            spent = time.monotonic() - self._begun
            self._view.draw(text, spent / (spent + remaining) if spent + remaining else 0.0, remaining)


_JOB: ContextVar[Job | None] = ContextVar("job", default=None)


@contextmanager
def _display(*, enabled: bool) -> Iterator[_Bar | _Lines | None]:
    """Give where to show progress, None where another is shown or nothing shall be."""
    if not (enabled and sys.stderr is not None and _DISPLAY.acquire(blocking=False)):
        yield None
        return
    try:
        view: _Bar | _Lines = _Bar() if sys.stderr.isatty() else _Lines()
        with view.drawn():
            yield view
    finally:
        _DISPLAY.release()


@contextmanager
def track(total: int | None, description: str, *, enabled: bool = True) -> Iterator[Tracker]:
    """Show a bar with M of N steps, elapsed and remaining time on stderr while the context lasts.

    Where stderr is not a terminal, a line is written every 30 seconds. Nothing is shown where another :func:`track` is,
    in this or another thread; within a :func:`job`, its bar shows the steps.

    Args:
        total: Number of steps; None where it isn't known.
        description: Text before the bar, shown as it is (no markup).
        enabled: False shows nothing.

    Yields:
        A tracker; call its `advance` after each step.
    """
    whole = _JOB.get()
    if enabled and whole is not None and whole.follows:
        whole.tracker = Tracker(total, description, whole)
        try:
            yield whole.tracker
        finally:
            whole.tracker = None
        return
    with _display(enabled=enabled) as view:
        tracker = Tracker(total, description, view)
        if view is not None:
            view.show(tracker)
        yield tracker


@contextmanager
def job(phases: Mapping[str, float], *, enabled: bool = True) -> Iterator[Job]:
    """Show one bar for a whole job on stderr while the context lasts; see :class:`Job`.

    Args:
        phases: The job's phases in order, each with the seconds that are expected of it.
        enabled: False shows nothing.
    """
    with _display(enabled=enabled) as view:
        made = Job(phases, view)
        token = _JOB.set(made)
        try:
            yield made
        finally:
            _JOB.reset(token)
