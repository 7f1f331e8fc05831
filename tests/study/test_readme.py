"""The README's example of a researcher's own operator runs as it stands, and is as short as it says."""

import importlib
import re
from pathlib import Path

import pandas as pd


def test_the_readme_example_runs(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class OneStep" in block)
    assert len([line for line in code.splitlines() if line.strip() and "import" not in line]) < 30
    (tmp_path / "readme_example.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("readme_example")
    summary = module.study.results().summary()
    assert isinstance(summary, pd.DataFrame)
    assert set(summary["algorithm"]) == {"mine", "nsga2", "guided"}
    assert "p_holm" in capsys.readouterr().out
