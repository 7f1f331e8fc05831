"""A study on a real Dask cluster on loopback, with a worker killed while it runs."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from evoq_moo.study import Study

sys.path.insert(0, str(Path(__file__).parent))
import helpers

distributed = pytest.importorskip("distributed")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_worker_loses_nothing_and_changes_nothing(tmp_path, monkeypatch):
    here = Path(__file__).resolve()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here.parents[2]), str(here.parent)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    marks = tmp_path / "marks"
    marks.mkdir()
    options = {
        "problems": ["digits-bops"],
        "seeds": range(6),
        "budget": 60,
        "progress": False,
    }
    slow = {"random": helpers.SlowRandom(str(marks), seconds=1.0), "nsga2": helpers.small_nsga2}
    killed = []

    def kill_the_first():
        while not list(marks.iterdir()):
            time.sleep(0.05)
        killed.append(int(next(marks.iterdir()).name.split("-")[-1]))
        os.kill(killed[0], signal.SIGKILL)

    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        killer = threading.Thread(target=kill_the_first)
        killer.start()
        on_dask = Study(**options, algorithms=slow, path=tmp_path / "dask", executor=client.get_executor()).run()
        killer.join()
    begun = [mark.name.split("-")[:-2] for mark in marks.iterdir()]
    assert len(begun) > len({tuple(run) for run in begun})  # the killed run was begun again, elsewhere
    assert not any(file.name.startswith(".") for file in (tmp_path / "dask" / "runs").rglob("*"))
    fast = {"random": helpers.SlowRandom(str(tmp_path / "marks")), "nsga2": helpers.small_nsga2}
    serial = Study(**options, algorithms=fast, path=tmp_path / "serial").run()
    assert len(on_dask) == len(serial) == 12
    for a, b in zip(on_dask.runs, serial.runs, strict=True):
        assert (a.key.problem, a.key.algorithm, a.key.seed) == (b.key.problem, b.key.algorithm, b.key.seed)
        assert np.array_equal(a.X, b.X)
        assert np.array_equal(a.F, b.F)
