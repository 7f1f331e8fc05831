"""What a command says at its end: the next one to type, and after an interruption what became of its work."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from evoq_moo.cli._console import console
from evoq_moo.errors import EvoqError, TrustError

INTERRUPTED = 130
"""Exit code of a command that was interrupted."""
NOTHING_KEPT = "interrupted: nothing was written"
GOES_ON = "interrupted: the same command goes on where it was"
FRONT_SO_FAR = "interrupted: the front so far is written; the same command goes on"
_said = [NOTHING_KEPT]


def say_if_interrupted(sentence: str) -> None:
    """Note what is true of the command from here on, should it be interrupted."""
    _said[0] = sentence


def interruption() -> str:
    """Return what is true of the command that was interrupted."""
    return _said[0]


def program() -> list[str]:
    """Return the words by which this program was started, so that they start it again."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return [sys.executable, "-m", "evoq_moo"]
    found = shutil.which(started.name)
    if found is not None and (not started.exists() or os.path.samefile(found, started)):
        return [started.name]
    return [str(started)]


def say_next(*words: object) -> None:
    """Print the command to type next, as a shell takes it."""
    console.say(f"next: {shlex.join([*program(), *map(str, words)])}")


def consent_words(source: Path) -> list[str]:
    """Return the options without which the next command would refuse what a run's files name."""
    from evoq_moo.runs import load_front, recipe_of  # brings torch

    try:
        recipe = recipe_of(load_front(source), source=source)
    except EvoqError:
        return []
    words = []
    if ":" in recipe.model:
        recipe, words = recipe.vouch(recipe.model), ["--model", recipe.model]
    try:
        recipe.check_trust()
    except TrustError:
        return ["--trust"]
    return words
