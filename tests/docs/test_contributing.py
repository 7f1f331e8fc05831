"""The questions of a newcomer: each answer names a file, and what to look for stands in it."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ANSWER = re.compile(r"^\| .* \| `(evoq_moo/[\w/.]+)` \| `(\w+)` \|$", re.MULTILINE)


def test_where_is_the_thing():
    answers = ANSWER.findall((ROOT / "docs" / "contributing.md").read_text())
    assert len(answers) >= 15
    for file, name in answers:
        assert re.search(rf"^(def|class) {name}\b|^{name}\b.* =", (ROOT / file).read_text(), re.MULTILINE), (file, name)
