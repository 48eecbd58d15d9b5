"""A simulated disk: what is committed stays, what is not is gone, and it may be full or break at any commit.

SQLite itself is real. Its database is in memory, and an image of it is what a process finds and leaves behind.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest import mock

from packer.ledger import Attempt, Ledger
from packer.ledger_rows import ATTEMPT_COLUMNS, read_attempt
from simulation.history import Image

_connect = sqlite3.connect


@dataclass
class Disk:
    """`image` is None before anything was written.

    `breaks` says what happens at the commit number `at` of a run: `full` (from there on there is room for what closes
    attempts only) or `fails` (an fsync error: whether that commit is there is up to `keeps`).
    """

    image: bytes | None = None
    breaks: Literal["", "full", "fails"] = ""
    at: int = 0
    keeps: bool = False
    commits: int = 0
    _open: list["_Connection"] = field(default_factory=list)

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """Every ledger in memory is on this disk until the end of the block."""
        self.commits = 0
        try:
            with mock.patch.object(sqlite3, "connect", self._connect):
                yield
        finally:
            self.settle()

    def settle(self) -> None:
        """Whoever has a connection is gone: keep what was committed."""
        for connection in self._open:
            if connection.in_transaction:
                connection.rollback()
            if connection.execute("PRAGMA page_count").fetchone()[0]:
                self.image = connection.serialize()
            sqlite3.Connection.close(connection)
        self._open.clear()

    def read(self) -> Image | None:
        """What is on the disk; None before anything was written."""
        if self.image is None:
            return None
        with mock.patch.object(sqlite3, "connect", self._connect_reader), Ledger(None, read_only=True) as ledger:
            attempts = self._attempts()
            answers = {row["key"]: row["value"] for row in ledger.export()}
            return Image(attempts, answers, ledger.statistics().spending, tuple(ledger.verify()))

    def _attempts(self) -> tuple[Attempt, ...]:
        with contextlib.closing(self._load(sqlite3.Connection)) as db:
            names = dict(db.execute("SELECT id, name FROM jobs"))
            rows = db.execute(f"SELECT {ATTEMPT_COLUMNS} FROM attempts ORDER BY id")
            return tuple(read_attempt(row, names[row[1]]) for row in rows)

    def _connect(self, *_: Any, **__: Any) -> sqlite3.Connection:
        connection = self._load(_Connection)
        assert isinstance(connection, _Connection)
        connection.disk = self
        self._open.append(connection)
        return connection

    def _connect_reader(self, *_: Any, **__: Any) -> sqlite3.Connection:
        return self._load(sqlite3.Connection)

    def _load(self, kind: type[sqlite3.Connection]) -> sqlite3.Connection:
        connection = _connect(":memory:", isolation_level=None, check_same_thread=False, factory=kind)
        if self.image is not None:
            connection.deserialize(self.image)
        return connection


class _Connection(sqlite3.Connection):
    disk: Disk
    _starts = False

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        if sql.startswith("INSERT INTO attempts"):
            self._starts = True
        elif sql == "COMMIT":
            self._commit()
        elif sql.startswith("BEGIN"):
            self._starts = False
        return super().execute(sql, parameters)

    def _commit(self) -> None:
        disk = self.disk
        disk.commits += 1
        if disk.breaks == "full" and (disk.commits == disk.at or (disk.commits > disk.at and self._starts)):
            raise _error(sqlite3.SQLITE_FULL, "database or disk is full")
        if disk.breaks == "fails" and disk.commits >= disk.at:
            if disk.keeps and disk.commits == disk.at:
                super().execute("COMMIT")
            raise _error(sqlite3.SQLITE_IOERR_FSYNC, "disk I/O error")

    def close(self) -> None:
        if self in self.disk._open:
            self.disk.settle()
        else:
            super().close()


def _error(code: int, words: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(words)
    error.sqlite_errorcode = code
    error.sqlite_errorname = "simulated"
    return error
