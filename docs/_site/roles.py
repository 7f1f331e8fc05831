"""A griffe extension: the docstrings' roles (:class:`X`, :func:`f`) become links to where X is documented."""

import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))
from modules import public_names

ROLE = re.compile(r":(?:class|func|meth|attr|data|mod|exc):`(~?)([^`]+)`")


class Roles(griffe.Extension):
    """Turns roles into links; what is not in the reference stays plain code."""

    def __init__(self) -> None:
        super().__init__()
        self._names = public_names()

    def on_object(self, *, obj: griffe.Object, **_kwargs: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring is None:
            return
        owner = obj if obj.is_class else obj.parent
        class_name = owner.name if owner is not None and owner.is_class else ""

        def link(match: re.Match[str]) -> str:
            target = match[2].strip()
            short = target.rsplit(".", 1)[-1] if match[1] else target
            resolved = self._resolve(target, class_name)
            return f"`{short}`" if resolved is None else f"[`{short}`][{resolved}]"

        obj.docstring.value = ROLE.sub(link, obj.docstring.value)

    def _resolve(self, target: str, class_name: str) -> str | None:
        if target in self._names:
            return self._names[target]
        *owner, name = target.split(".")
        if not owner and class_name in self._names:
            return f"{self._names[class_name]}.{name}"
        if owner and owner[-1] in self._names:
            return f"{self._names[owner[-1]]}.{name}"
        return self._names.get(name)
