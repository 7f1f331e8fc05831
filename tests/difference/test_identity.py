"""What identifies a metric: another identity for another result, the same one in every process."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from evoq_moo.difference import identity_of
from evoq_moo.errors import ArgumentError

EXAMPLES = Path(__file__).with_name("metric_examples.py")


def load(path, name="metric_examples"):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def module():
    yield load(EXAMPLES)
    del sys.modules["metric_examples"]


def test_each_metric_has_an_identity_of_its_own(module):
    found = module.identities()
    groups = {}
    for name, identity in found.items():
        groups.setdefault(identity, []).append(name)
    assert [names for names in groups.values() if len(names) > 1] == []
    assert module.identities() == found


def test_identities_are_the_same_in_another_process(module):
    found = f"runpy.run_path({str(EXAMPLES)!r}, run_name='__mp_main__')['identities']()"
    run = f"import json, runpy; print(json.dumps({found}))"
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", run],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert json.loads(done.stdout) == module.identities()


def test_a_metric_that_reads_another_global_is_another(module, monkeypatch):
    before = identity_of(module.scaled)
    monkeypatch.setattr(module, "SCALE", 3.0)
    assert identity_of(module.scaled) != before


def test_an_edited_helper_changes_the_identity(tmp_path, monkeypatch):
    helper, metric = tmp_path / "metric_helper.py", tmp_path / "metric_main.py"
    monkeypatch.syspath_prepend(tmp_path)
    metric.write_text(
        "import metric_helper\n\n\ndef used(r, q):\n    return metric_helper.score(r, q)\n\n\n"
        "def imported(r, q):\n    from metric_helper import score\n\n    return score(r, q)\n"
    )
    found = []
    for power in (1, 1, 2):
        helper.write_text(
            f"def score(r, q):\n    return float((r[0] - q[0]).abs().pow({power}).sum())\n\n\nUNUSED = {len(found)}\n"
        )
        monkeypatch.setitem(sys.modules, "metric_helper", load(helper, "metric_helper"))
        main = load(metric, "metric_main")
        found.append((identity_of(main.used), identity_of(main.imported)))
    assert found[0] == found[1]
    assert not set(found[1]) & set(found[2])


class Holds:
    def __init__(self, what):
        self.what = what

    def __call__(self, reference, quantized):
        return 0.0


def test_cycles_are_no_trouble():
    one, other = Holds(None), Holds(None)
    one.what, other.what = [one, 1], [other, 2]
    assert identity_of(one) != identity_of(other)
    again = Holds(None)
    again.what = [again, 1]
    assert identity_of(again) == identity_of(one)


@pytest.mark.parametrize("what", ["no source", "open file", "lock", "generator", "ufunc"])
def test_what_can_not_be_told_apart_is_refused(what, tmp_path):
    with (tmp_path / "open.txt").open("w") as file:
        unknown = {
            "no source": eval("lambda r, q: 0.0"),
            "open file": Holds(file),
            "lock": Holds([threading.Lock()]),
            "generator": Holds(i for i in range(3)),
            "ufunc": np.frompyfunc(math.dist, 2, 1),
        }
        with pytest.raises(ArgumentError, match=r"Difference\(function, name='...'\)"):
            identity_of(unknown[what])
