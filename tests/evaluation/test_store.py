"""The evaluation store: what it keeps, and every way its file can be wrong."""

import pickle
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from evoq_moo.errors import ArgumentError, StoreError
from evoq_moo.evaluation import EvaluationStore, policy_key


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.sqlite"


def key(*bits):
    return policy_key(np.array(bits).reshape(-1, 2))


def test_keeps_differences_exactly(path):
    values = {key(2, 3): 0.1 + 0.2, key(8, 32): 1e-300, key(4, 4): 0.0}
    with EvaluationStore(path) as store:
        store.put("f", values)
    with EvaluationStore(path) as store:
        assert store.get("f", list(values)) == values
        assert store.get("g", list(values)) == {}
        assert store.get("f", [key(5, 5)]) == {}
        assert (store.count(), store.count("f"), store.count("g")) == (3, 3, 0)


def test_a_known_difference_stays(path):
    with EvaluationStore(path) as store:
        store.put("f", {key(2, 2): 1.0})
        store.put("f", {key(2, 2): 2.0})
        assert store.get("f", [key(2, 2)]) == {key(2, 2): 1.0}


def test_archive_in_order(path):
    with EvaluationStore(path) as store:
        for w in (4, 2, 8):
            store.put("f", {key(w, 32, 8, w): float(w)})
        bits, differences = store.archive("f", 2)
        assert bits[:, 0, 0].tolist() == [4, 2, 8]
        assert bits.dtype == np.int64
        assert differences.tolist() == [4.0, 2.0, 8.0]
        assert store.archive("none", 2)[0].shape == (0, 2, 2)


def test_many_keys_at_once(path):
    keys = {key(w, a, b, c): float(w) for w in range(2, 9) for a in range(2, 9) for b in range(2, 9) for c in (2, 3, 4)}
    with EvaluationStore(path) as store:
        store.put("f", keys)
        assert store.get("f", list(keys)) == keys


def test_two_stores_on_one_file(path):
    with EvaluationStore(path) as one, EvaluationStore(path) as two:
        one.put("f", {key(2, 2): 1.0})
        two.put("f", {key(3, 3): 2.0})
        assert one.count() == two.count() == 2


def test_pickles_as_a_path(path):
    with EvaluationStore(path) as store:
        store.put("f", {key(2, 2): 1.0})
        with pickle.loads(pickle.dumps(store)) as copied:
            assert copied.get("f", [key(2, 2)]) == {key(2, 2): 1.0}


def test_another_network_is_refused_unless_shared(path):
    with EvaluationStore(path) as store:
        store.bind("a" * 64)
        store.bind("a" * 64)
        with pytest.raises(StoreError, match="belongs to another network"):
            store.bind("b" * 64)
    with EvaluationStore(path, shared=True) as store:
        store.bind("b" * 64)


def test_a_locked_store(path):
    with EvaluationStore(path) as store:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        try:
            store._connection.execute("PRAGMA busy_timeout = 50")
            with pytest.raises(StoreError, match="locked; another process held it"):
                store.put("f", {key(2, 2): 1.0})
        finally:
            holder.close()
        store.put("f", {key(2, 2): 1.0})
        assert store.count() == 1


def test_a_file_that_is_not_a_store(path):
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match="not a store, or damaged"):
        EvaluationStore(path)
    assert path.read_bytes().startswith(b"not a database")


def test_a_truncated_store(path):
    with EvaluationStore(path) as store:
        store.put("f", {key(w, a): 1.0 for w in range(2, 9) for a in range(2, 9)})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])

    def read():
        with EvaluationStore(path) as store:
            store.archive("f", 1)

    with pytest.raises(StoreError, match="damaged"):
        read()


def test_another_programs_database(path):
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE users (name TEXT)")
    other.commit()
    other.close()
    with pytest.raises(StoreError, match="another program's"):
        EvaluationStore(path)


def test_a_newer_version(path):
    EvaluationStore(path).close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(StoreError, match="given version 99; allowed: 1"):
        EvaluationStore(path)


def test_a_missing_folder(tmp_path):
    with pytest.raises(StoreError, match="isn't there"):
        EvaluationStore(tmp_path / "no" / "run.sqlite")


def test_a_folder_instead_of_a_file(tmp_path):
    with pytest.raises(StoreError, match="unable to open"):
        EvaluationStore(tmp_path)


def test_closed(path):
    store = EvaluationStore(path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.count()


def test_threads_share_one_connection(path):
    """Four threads on one store: "cannot start a transaction within a transaction", rows lost."""
    with EvaluationStore(path) as store, ThreadPoolExecutor(4) as pool:

        def work(thread):
            for i in range(100):
                mine = key(thread + 2, i)
                store.put("f", {mine: float(i)})
                assert store.get("f", [mine]) == {mine: float(i)}
                store.bind(f"network {thread % 1}")

        list(pool.map(work, range(4)))
        assert store.count("f") == 400


@pytest.mark.parametrize("attempt", range(10))
def test_eight_that_create_one_store_do_not_race(path, attempt):
    """1 in 120 said: another program's SQLite file."""
    together = threading.Barrier(8)

    def create(i):
        together.wait()
        with EvaluationStore(path) as store:
            store.put("f", {key(2, i): float(i)})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, range(8)))
    with EvaluationStore(path) as store:
        assert store.count() == 8


class TestReadOnly:
    def test_a_closed_store_is_read_and_not_written(self, path, locked_folder):
        with EvaluationStore(path) as store:
            store.bind("a" * 64)
            store.put("f", {key(2, 2): 1.0})
        with locked_folder(path.parent), EvaluationStore(path) as store:
            assert store.read_only
            store.bind("a" * 64)
            assert store.get("f", [key(2, 2)]) == {key(2, 2): 1.0}
            with pytest.raises(StoreError, match="can't be written to"):
                store.put("f", {key(3, 3): 1.0})
        assert [p.name for p in path.parent.iterdir()] == [path.name]

    def test_a_killed_writers_log_is_read_too(self, path, tmp_path, locked_folder):
        copied = tmp_path / "copied" / "run.sqlite"
        copied.parent.mkdir()
        with EvaluationStore(path) as store:
            store.put("f", {key(2, 2): 1.0})
            for suffix in ("", "-wal"):
                shutil.copy(f"{path}{suffix}", f"{copied}{suffix}")
        with locked_folder(copied.parent), EvaluationStore(copied) as store:
            assert store.get("f", [key(2, 2)]) == {key(2, 2): 1.0}
            with pytest.raises(StoreError, match="can't be written to"):
                store.put("f", {key(3, 3): 1.0})

    def test_another_programs_database_stays_one(self, path, locked_folder):
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE users (name TEXT)")
        other.commit()
        other.close()
        with locked_folder(path.parent), pytest.raises(StoreError, match="another program's"):
            EvaluationStore(path)


@pytest.mark.parametrize("timeout", [-1, "5", None, float("nan"), 10**400])
def test_a_timeout_is_a_number_of_seconds(path, timeout):
    with pytest.raises(ArgumentError, match="timeout: given"):
        EvaluationStore(path, timeout=timeout)
    assert not path.exists()


@pytest.mark.parametrize("place", [b"REAL NOT NULL", b"CREATE TABLE evaluations", b"policy BLOB", b"UNIQUE"])
@pytest.mark.parametrize("byte", [0xA7, 0xFF, 0x00])
def test_a_definition_of_tables_that_is_no_text(path, place, byte):
    """Bug: a UnicodeDecodeError, or a message of several lines (fuzz case store-0-974)."""
    EvaluationStore(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = DELETE")
    data = bytearray(path.read_bytes())
    data[data.index(place) + 2] = byte
    path.write_bytes(data)
    with pytest.raises(StoreError) as found:
        EvaluationStore(path)
    assert "\n" not in str(found.value)
