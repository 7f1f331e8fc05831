"""Where files lie that can be made again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return where trained weights and distilled images lie: `$EVOQ_CACHE`, else `evoq-moo` in the user's cache."""
    if own := os.environ.get("EVOQ_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "evoq-moo"
