"""The one door to the terminal: everything is printed as it is, whatever it looks like."""

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class PlainConsole(Console):
    """A console for words of users and files: no markup, no emoji codes, no control characters, also in tables."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, highlight=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return text to be printed; what a terminal would act on, or can't show, is written as an escape."""
        shown = text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode()
        return super().render_str(shown, **options)

    def follow_terminal(self) -> None:
        """Take the width of the terminal, or what COLUMNS says now, from here on."""
        columns = os.environ.get("COLUMNS", "")
        self._width = int(columns) if columns.isdigit() else None

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line that the terminal may wrap but that stays whole for programs."""
        self.print(text, style=style, soft_wrap=True)


console = PlainConsole()
errors = PlainConsole(stderr=True)


def files(folder: Path, *names: str) -> None:
    """Say which files were written into a folder."""
    console.say(f"files: {', '.join(str(folder / name) for name in names)}")
