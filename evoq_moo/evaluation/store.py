"""The evaluation store: every difference ever computed, on disk as soon as it is known.

One SQLite file in WAL mode holds `(fingerprint, policy) -> difference`. Evaluations are deterministic, so no policy is
ever paid for twice, and a search is resumed by running it again with the same seed: it replays from the store, bit for
bit, after any kill, with no pickles.
"""

import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from evoq_moo.errors import StoreError, check_number
from evoq_moo.files import Difference, Text, Whole, convert, is_writable, reading, sync_folder
from evoq_moo.space import ALLOWED_BITS, FloatArray, IntArray

_APPLICATION_ID = 0x45764F51  # "EvOQ"
_VERSION = 1
_SCHEMA = (
    "CREATE TABLE networks (identity TEXT PRIMARY KEY)",
    """CREATE TABLE evaluations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    fingerprint TEXT NOT NULL,
    policy BLOB NOT NULL,
    difference REAL NOT NULL,
    UNIQUE (fingerprint, policy)
)""",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)
_LONGEST = 2e6
"""SQLite counts the milliseconds of a timeout in 31 bits."""
_RETRY = 0.01
"""Seconds between attempts at what SQLite does not wait for by itself."""


def _entries(connection: sqlite3.Connection) -> set[tuple[Any, ...]]:
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_stat%' ESCAPE '\\'"
    return set(connection.execute(query))


def policy_key(bits: IntArray) -> bytes:
    """Return the bytes that stand for bit-widths `(layers, 2)` in the store."""
    return bits.astype(np.uint8).tobytes()


class EvaluationStore:
    """Differences by fingerprint and policy, in one SQLite file.

    Several processes, and several threads by one object, may use a store at once. A store belongs to the first network
    evaluated with it, so that a mistaken path is noticed, unless it is opened as shared. One that can't be written to
    (a file or folder without permission, a read-only disk) is opened for reading: what is known is found, and adding to
    it is an error.

    Args:
        path: The file; it is made if it isn't there. ``":memory:"`` keeps everything in memory.
        shared: Allow evaluations of several networks in one store.
        timeout: How long to wait for another process that writes (seconds).

    Attributes:
        read_only: Whether it can't be written to.

    Raises:
        StoreError: The file is not a store, is damaged, locked or of a newer version.
        ArgumentError: `timeout` is not a number of seconds, or too large.
    """

    def __init__(self, path: str | Path, *, shared: bool = False, timeout: float = 30.0) -> None:
        self.path = str(path)
        self.shared = shared
        self.timeout = check_number("timeout", timeout, 0, _LONGEST)
        self.read_only = False
        self._connection: sqlite3.Connection | None = None
        # A connection does one thing at a time, and a transaction is several.
        self._lock = threading.RLock()
        self._open()

    def _open(self) -> None:
        if self.path != ":memory:":
            parent = Path(self.path).parent
            if not parent.is_dir():
                raise StoreError(f"store: the folder {parent} isn't there")
        with self._reported():
            if self.path != ":memory:" and _is_read_only(Path(self.path)):
                self.read_only = True
                self._connection = _open_read_only(Path(self.path), self.timeout)
                self._check(self._connection)
                return
            # Autocommit: each evaluation is with the system once its statement returns.
            self._connection = sqlite3.connect(
                self.path, timeout=self.timeout, isolation_level=None, check_same_thread=False
            )
            if not self._check(self._connection):
                self._create(self._connection)
            self._use_log(self._connection)
            # With a log, NORMAL survives a killed process whole; a power cut can lose the newest rows, no others.
            self._connection.execute("PRAGMA synchronous = NORMAL")

    def _check(self, connection: sqlite3.Connection) -> bool:
        """Tell whether a file is a store, else empty.

        Raises:
            StoreError: It is something else, or of another version.
        """
        # In one transaction, so that all three answers are of one moment.
        connection.execute("BEGIN")
        try:
            empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
            found = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        finally:
            connection.execute("ROLLBACK")
        if not empty and found != _APPLICATION_ID:
            self.close()
            raise StoreError(f"store {self.path}: is another program's SQLite file; give a path of its own")
        if not empty and version != _VERSION:
            self.close()
            raise StoreError(f"store {self.path}: given version {version}; allowed: {_VERSION}")
        if not empty:
            self._check_schema(connection)
        return not empty

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        """Raise unless the file holds our tables and nothing else: views and triggers of others would run as code."""
        found = _entries(connection)
        with closing(sqlite3.connect(":memory:")) as ours:
            ours.executescript(";".join(_SCHEMA))
            expected = _entries(ours)
        if found != expected:
            self.close()
            names = sorted(str(name) for _, name, *_ in found ^ expected)
            raise StoreError(f"store {self.path}: its tables are not those of a store; other: {names}")

    def _create(self, connection: sqlite3.Connection) -> None:
        """Make the tables, unless another process did meanwhile."""
        with self._transaction():
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                for statement in _SCHEMA:
                    connection.execute(statement)
        if self.path != ":memory:":
            sync_folder(Path(self.path).parent)
        self._check(connection)

    def _use_log(self, connection: sqlite3.Connection) -> None:
        """Switch to write-ahead logging, which stays with the file; SQLite does not wait for others here."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Hold the connection, and turn its errors into ours."""
        try:
            with self._lock:
                yield
        except MemoryError as error:
            raise StoreError(f"store {self.path}: needs more memory than there is") from error
        except sqlite3.OperationalError as error:
            locked = "locked" in str(error) or "busy" in str(error)
            hint = f"; another process held it for {self.timeout:g} s" if locked else ""
            raise StoreError(f"store {self.path}: {' '.join(str(error).split())}{hint}") from error
        except UnicodeDecodeError as error:  # sqlite3 quotes a damaged table's definition, or fails to
            raise StoreError(f"store {self.path}: can't be used (holds text that is not UTF-8)") from error
        except sqlite3.DatabaseError as error:
            # The file's own fault, and no other: a store is hours of work.
            damaged = getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
            hint = "not a store, or damaged" if damaged else "can't be used"
            advice = "; move it away to begin a new one" if damaged else ""
            raise StoreError(f"store {self.path}: {hint} ({error}){advice}") from error

    @property
    def _database(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"store {self.path}: is closed")
        return self._connection

    def bind(self, identity: str) -> None:
        """Note that a network's evaluations go here.

        Args:
            identity: Fingerprint of the pre-trained network.

        Raises:
            StoreError: The store belongs to another network.
        """
        with self._reported():
            known = [str(row[0]) for row in self._database.execute("SELECT identity FROM networks")]
            if identity in known:
                return
            if known and not self.shared:
                raise StoreError(
                    f"store {self.path}: belongs to another network ({known[0][:12]}..., given {identity[:12]}...); "
                    "give another path, or EvaluationStore(path, shared=True) to keep several networks in one file"
                )
            self._check_writable()
            self._database.execute("INSERT OR IGNORE INTO networks VALUES (?)", (identity,))

    def get(self, fingerprint: str, keys: Sequence[bytes]) -> dict[bytes, float]:
        """Return the known differences among some policies.

        Args:
            fingerprint: Fingerprint of weights, samples, arithmetic and metric.
            keys: Policies as :func:`policy_key` gives them.
        """
        self._check_text("fingerprint", fingerprint)
        found: dict[bytes, float] = {}
        with self._reported():
            for i in range(0, len(keys), 500):
                part = keys[i : i + 500]
                marks = ",".join("?" * len(part))
                rows = self._database.execute(
                    f"SELECT policy, difference FROM evaluations WHERE fingerprint = ? AND policy IN ({marks})",  # noqa: S608 - only question marks
                    (fingerprint, *part),
                ).fetchall()
                found.update(self._rows(rows))
        return found

    def _rows(self, rows: Sequence[tuple[Any, ...]]) -> Sequence[tuple[bytes, float]]:
        with reading(f"store {self.path}: holds an evaluation that none of ours is", StoreError):
            return convert(rows, list[tuple[bytes, Difference]])

    def _check_text(self, what: str, given: object) -> None:
        """Raise unless a fingerprint is one: it may come from a damaged file."""
        if not isinstance(given, str) or not given.isprintable():
            raise StoreError(
                f"store {self.path}: asked for the {what} {given!r}; allowed: a text as the store gives it"
            )

    def put(self, fingerprint: str, differences: Mapping[bytes, float]) -> None:
        """Add differences; no kill can lose them once this returns. What is already there stays as it is.

        Raises:
            StoreError: The store can't be written to.
        """
        self._check_text("fingerprint", fingerprint)
        rows = [(fingerprint, key, value) for key, value in differences.items()]
        with self._reported():
            self._check_writable()
        with self._reported(), self._transaction():
            self._database.executemany(
                "INSERT OR IGNORE INTO evaluations (fingerprint, policy, difference) VALUES (?, ?, ?)", rows
            )

    def _check_writable(self) -> None:
        if self.read_only:
            raise StoreError(
                f"store {self.path}: can't be written to (read-only, or no permission), so nothing new can be evaluated"
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def count(self, fingerprint: str | None = None) -> int:
        """Return the number of evaluations, all or those of one fingerprint."""
        where, arguments = ("", ()) if fingerprint is None else (" WHERE fingerprint = ?", (fingerprint,))
        with self._reported():
            query = f"SELECT count(*) FROM evaluations{where}"  # noqa: S608 - `where` is one of two constants
            return int(self._database.execute(query, arguments).fetchone()[0])

    def fingerprints(self) -> dict[str, int]:
        """Return the number of evaluations of each fingerprint."""
        with self._reported():
            query = "SELECT fingerprint, count(*) FROM evaluations GROUP BY fingerprint ORDER BY min(id)"
            rows = self._database.execute(query).fetchall()
        with reading(f"store {self.path}: holds an evaluation of no fingerprint", StoreError):
            return dict(convert(rows, list[tuple[Text, Whole]]))

    def archive(self, fingerprint: str, layers: int) -> tuple[IntArray, FloatArray]:
        """Return every evaluation of a fingerprint in the order they were added.

        Args:
            fingerprint: Fingerprint of weights, samples, arithmetic and metric.
            layers: Number of layers of the network.

        Returns:
            Bit-widths int64 `(n, layers, 2)` and differences float64 `(n,)`.

        Raises:
            StoreError: A row is damaged, or of a network of another number of layers.
        """
        self._check_text("fingerprint", fingerprint)
        with self._reported():
            rows = self._database.execute(
                "SELECT policy, difference FROM evaluations WHERE fingerprint = ? ORDER BY id", (fingerprint,)
            ).fetchall()
        found = self._rows(rows)
        other = next((key for key, _ in found if len(key) != 2 * layers), None)
        if other is not None:
            raise StoreError(
                f"store {self.path}: holds a policy of {len(other) // 2} layers under the fingerprint "
                f"{fingerprint[:12]}...; the network has {layers}"
            )
        bits = np.frombuffer(b"".join(key for key, _ in found), dtype=np.uint8).astype(np.int64)
        if not np.isin(bits, ALLOWED_BITS).all():
            raise StoreError(f"store {self.path}: holds a policy with bit-widths other than {list(ALLOWED_BITS)}")
        return bits.reshape(len(rows), layers, 2), np.array([value for _, value in found], dtype=np.float64)

    def close(self) -> None:
        """Close the file; the store can't be used after."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def __enter__(self) -> "EvaluationStore":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        # An unclosed sqlite3 connection warns when it is collected.
        connection = self.__dict__.get("_connection")
        if connection is not None:
            connection.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connection": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()
        self._open()


def _is_read_only(path: Path) -> bool:
    """Tell whether a file that is there, or its folder, where SQLite keeps a log beside it, can't be written to."""
    return path.is_file() and not (is_writable(path) and is_writable(path.parent))


def _open_read_only(path: Path, timeout: float) -> sqlite3.Connection:
    """Open a store for reading, its log included, whether or not SQLite may make files beside it."""
    log = path.with_name(f"{path.name}-wal")
    unwritten = log.is_file() and log.stat().st_size > 0

    def connect(file: Path, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{file.resolve().as_uri()}?{mode}",
            uri=True,
            timeout=timeout,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    try:
        return connect(path, "mode=ro")
    except sqlite3.OperationalError:
        if not unwritten:
            return connect(path, "immutable=1")
    # The log can only be read by writing an index of it: beside a copy.
    with tempfile.TemporaryDirectory(prefix="evoq-store-") as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        copy.with_name(log.name).write_bytes(log.read_bytes())
        source = connect(copy, "mode=rw")
        try:
            kept = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            source.backup(kept)
        finally:
            source.close()
    return kept
