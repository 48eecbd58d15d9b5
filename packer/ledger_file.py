"""One file, one writer, and only our own: nothing is written before all three are established.

Whatever goes wrong comes out as the `LedgerError` of its kind; no `sqlite3.Error` and no `OSError` leaves this file.

Once the ledger's file exists, SQLite alone opens it. POSIX drops all locks that a process holds on a file as soon as it
closes any descriptor of that file, so reading the first bytes by hand would unlock a ledger that is open elsewhere in
this process.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

from packer import failpoints
from packer.errors import (
    LedgerDamaged,
    LedgerError,
    LedgerForeign,
    LedgerFull,
    LedgerInUse,
    LedgerNewer,
    LedgerReadOnly,
)
from packer.ledger_lock import check_path, create_private, drop_ballast, file_size, identity, make_ballast, take_lock

APPLICATION_ID = 0x70706B72  # "ppkr"
SCHEMA_VERSION = 3
# How long another program may keep us waiting: at the start, and with an answer in hand that was paid for
OPENING_SECONDS = 5.0
WRITING_SECONDS = 60.0
PAGE_ROWS = 1000

# A row's checksum covers its other columns: SQLite finds a broken page, not a label that rotted into another one.
# No indexes: what is not looked up by its key is read once a job, when the whole file has just been checked.
SCHEMA = {
    "jobs": """CREATE TABLE jobs (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  about TEXT NOT NULL,
  started INTEGER NOT NULL,
  ended INTEGER,
  outcome TEXT,
  statistics TEXT,
  checksum INTEGER NOT NULL
) STRICT""",
    "attempts": """CREATE TABLE attempts (
  id INTEGER PRIMARY KEY,
  job INTEGER NOT NULL REFERENCES jobs (id),
  keys TEXT NOT NULL,
  number INTEGER NOT NULL,
  reserve_nano INTEGER CHECK (reserve_nano >= 0),
  opened INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('open', 'settled', 'doubt', 'freed')),
  charge_nano INTEGER CHECK (charge_nano >= 0),
  charge_source TEXT,
  input_tokens INTEGER,
  cached_input_tokens INTEGER,
  output_tokens INTEGER,
  seconds REAL,
  outcome TEXT,
  closed INTEGER,
  checksum INTEGER NOT NULL,
  CHECK ((state = 'open') = (closed IS NULL))
) STRICT""",
    "answers": """CREATE TABLE answers (
  key TEXT PRIMARY KEY NOT NULL,
  value TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  at INTEGER NOT NULL,
  checksum INTEGER NOT NULL
) STRICT, WITHOUT ROWID""",
    "confidences": """CREATE TABLE confidences (
  key TEXT PRIMARY KEY NOT NULL,
  value REAL NOT NULL CHECK (value BETWEEN 0 AND 1),
  attempt INTEGER NOT NULL,
  checksum INTEGER NOT NULL
) STRICT, WITHOUT ROWID""",
    "batches": """CREATE TABLE batches (
  id INTEGER PRIMARY KEY,
  about TEXT NOT NULL,
  token TEXT NOT NULL,
  lines TEXT NOT NULL,
  made INTEGER NOT NULL,
  file TEXT,
  remote TEXT,
  checksum INTEGER NOT NULL
) STRICT""",
}
# Tables that came after format 1: an older ledger gets them when it is opened for writing, and does without for reading
_ADDED = {"confidences": 2, "batches": 3}

# STRICT needs SQLite 3.37; Debian 12 and every python.org build have it.
_SETTINGS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",  # macOS: fsync alone leaves the drive's cache unwritten
    "PRAGMA checkpoint_fullfsync = ON",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA cache_size = -4096",
    "PRAGMA journal_size_limit = 8388608",
)

# What a disk without room looks like: ENOSPC is FULL, a quota or a file size limit is a refused write, and the shared
# memory file says so in its own way.
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}

_FULL = "its disk has no room for another row; what was paid for is kept: make room and run the same again"

Row: TypeAlias = tuple[Any, ...]
_T = TypeVar("_T")


def checksum(columns: Sequence[Any]) -> int:
    """The checksum of a row's other columns, as SQLite gives them back."""
    return zlib.crc32("\n".join(map(str, columns)).encode("utf-8", "surrogatepass"))


class LedgerFile:
    """An open ledger: its connection, its lock and its ballast.

    `path` None is a database in memory, with neither lock nor ballast. `version` is the format of its tables: that of
    this code, or an older one where it is only read. Raises the `LedgerError` of what is wrong.
    """

    def __init__(self, path: Path | str | None, *, read_only: bool) -> None:
        # absolute: the process may change its folder while the ledger is open
        self._path = None if path is None else Path(path).absolute()
        self.name = "in memory" if path is None else str(self._path)
        self.read_only = read_only
        self.version = SCHEMA_VERSION
        self._fatal: str | None = None
        self._full: str | None = None
        with contextlib.ExitStack() as undo:
            if self._path is not None:
                check_path(self._path, read_only=read_only)
                if not read_only:
                    undo.callback(take_lock(self._path).release)
                    # asked again: another process may have made it, and gone, before the lock was ours
                    if not check_path(self._path, read_only=False):
                        create_private(self._path)
            self._db = self._connect()
            undo.callback(self._db.close)
            self._establish()
            if self._path is not None and not read_only:
                self._identity = identity(self._path)
                make_ballast(self._path)
            self._undo: contextlib.ExitStack | None = undo.pop_all()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows that `sql` selects."""
        with self._explained():
            return self._db.execute(sql, parameters).fetchall()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read inside is of one moment. A running job's log cannot be emptied meanwhile: keep it short."""
        self.read("BEGIN")
        try:
            yield
        finally:
            # a failing disk has often ended it already
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def sound(self, row: Row | None, what: str) -> Row:
        """The row, once it is known to be what was written: rot is neither read nor given a new checksum."""
        if row is None:
            raise LedgerDamaged(self.name, f"damaged: {what} does not exist")
        if checksum(row[:-1]) != row[-1]:
            raise LedgerDamaged(self.name, f"damaged: {what} does not match its checksum")
        return row

    def pages(self, sql: str, start: str | int) -> Iterator[Row]:
        """The rows of `sql` in the order of their first column, a bounded number in memory.

        `sql` takes the last row's first column and a number of rows. Every page is a short transaction of its own, so
        that a slow reader neither holds back the checkpoints of a running job nor sees a commit half.
        """
        last: Any = start
        while rows := self.read(sql, (last, PAGE_ROWS)):
            yield from rows
            # a broken tree could otherwise give the same page for ever
            if type(rows[-1][0]) is not type(last) or rows[-1][0] <= last:
                raise LedgerDamaged(self.name, f"damaged: rows out of order after {last!r}")
            last = rows[-1][0]

    def write(self, work: Callable[[sqlite3.Connection], _T], *, starts: bool) -> _T:
        """`work`'s result, once all that it wrote is durable; nothing of it is there when this raises.

        `starts` tells that the work leads to new spending. Such work is refused from the first sign of a full disk on,
        and the ballast's room goes to what was already under way.
        """
        if self.read_only:
            raise LedgerReadOnly(self.name, "was opened for reading only")
        if starts and self._full is not None:
            raise LedgerFull(self.name, self._full)
        if self._path is not None and identity(self._path) != self._identity:
            raise LedgerError(self.name, "was moved, replaced or deleted while it was in use")
        if self._full is None:
            try:
                return self._transaction(work)
            except LedgerFull as full:
                self._full = self._words(full)
                if starts:
                    raise
        self._drop_ballast()
        # What the log holds moves into the file before every commit from here on, so that the log is written over and
        # does not take the room that the answers need.
        with contextlib.suppress(LedgerError):
            self.read("PRAGMA wal_checkpoint(PASSIVE)")
        return self._transaction(work)

    def size(self) -> int:
        """Bytes on disk, the write-ahead log included; of the pages for a database in memory."""
        if self._path is None:
            return int(self.read("PRAGMA page_count")[0][0]) * int(self.read("PRAGMA page_size")[0][0])
        return file_size(self._path) + file_size(Path(f"{self._path}-wal"))

    def close(self) -> None:
        """Move the log into the file, and leave neither lock nor ballast. Safe to call twice."""
        if self._undo is None:
            return
        undo, self._undo = self._undo, None
        with undo:
            self._drop_ballast()
            if not self.read_only and self._fatal is None:
                # what is committed is safe in the log: a reader or a full disk only leaves it there for the next time
                with contextlib.suppress(LedgerInUse, LedgerFull):
                    self.read("PRAGMA wal_checkpoint(TRUNCATE)")

    def _connect(self) -> sqlite3.Connection:
        mode = "mode=ro" if self.read_only else "mode=rw"
        target = ":memory:" if self._path is None else f"file://{quote(os.fsencode(self._path))}?{mode}"
        with self._explained():
            # the caller promises one call at a time, not that the thread which opens is the one which writes
            db = sqlite3.connect(
                target, uri=True, isolation_level=None, timeout=OPENING_SECONDS, check_same_thread=False
            )
        try:
            with self._explained():
                db.execute("PRAGMA application_id").fetchone()
        except LedgerError as error:
            db.close()
            refused = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
            if not self.read_only or refused not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
                raise
            return self._connect_immutable(target, error)
        return db

    def _connect_immutable(self, target: str, refusal: LedgerError) -> sqlite3.Connection:
        # Reading a file with a log needs a -shm beside it. Where none can be made, nobody can write either, and with
        # no log left over the file is complete as it stands.
        assert self._path is not None
        if os.access(self._path.parent, os.W_OK) or file_size(Path(f"{self._path}-wal")):
            raise refusal
        return sqlite3.connect(f"{target}&immutable=1", uri=True, isolation_level=None, check_same_thread=False)

    def _establish(self) -> None:
        """Make sure that the file is ours, whole, and of a version that this code knows; set up a new one."""
        ((pages,),) = self.read("PRAGMA page_count")
        # SQLite takes a file of one byte for an empty one
        if pages == 0 and (self._path is None or file_size(self._path) == 0):
            self._set_up()
        ((application,),) = self.read("PRAGMA application_id")
        ((version,),) = self.read("PRAGMA user_version")
        if application != APPLICATION_ID:
            raise LedgerForeign(self.name, "not a ledger of prompt-packer; name another file (this one is unchanged)")
        if version > SCHEMA_VERSION:
            raise LedgerNewer(
                self.name,
                f"written by a later version of prompt-packer (format {version}, this one knows {SCHEMA_VERSION});"
                " upgrade it, or name another file",
            )
        tables: dict[str, str] = dict(self.read("SELECT name, sql FROM sqlite_schema WHERE type = 'table'"))
        expected = {name: sql for name, sql in SCHEMA.items() if _ADDED.get(name, 1) <= version}
        if version < 1 or any(tables.get(name) != expected.get(name) for name in SCHEMA):
            raise LedgerDamaged(self.name, f"damaged: its tables are not those of format {version}")
        if self.read_only:
            self.version = version
            return
        for setting in _SETTINGS:
            self.read(setting)
        ((finding,),) = self.read("PRAGMA quick_check(1)")
        if finding != "ok":
            raise LedgerDamaged(self.name, _damaged(finding))
        ((mode,),) = self.read("PRAGMA journal_mode = WAL")
        if self._path is not None and mode != "wal":
            raise LedgerError(self.name, "its file system cannot hold a write-ahead log; use a local disk")
        # SQLite opens a file that it may not write for reading, and says so at the first row only: better now than then
        self._transaction(lambda db: _bring_up(db, [sql for name, sql in SCHEMA.items() if name not in expected]))
        self.read(f"PRAGMA busy_timeout = {int(1000 * WRITING_SECONDS)}")

    def _set_up(self) -> None:
        if self.read_only:
            raise LedgerForeign(self.name, "is empty: no job has written to it yet")
        if sqlite3.sqlite_version_info < (3, 37):
            raise LedgerError(self.name, f"SQLite 3.37 or later is needed, this is {sqlite3.sqlite_version}")

        def work(db: sqlite3.Connection) -> None:
            # in one transaction: a file with our number has our tables, and one that was cut short is empty
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            _bring_up(db, SCHEMA.values())

        self.read("PRAGMA synchronous = FULL")
        self._transaction(work)

    def _transaction(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = work(self._db)
                failpoints.reach("commit: written, not durable")
                self._db.execute("COMMIT")
            except BaseException:
                # a full disk or a failing one has often rolled back already
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            failpoints.reach("commit: durable")
            return result

    def _drop_ballast(self) -> None:
        if self._path is not None and not self.read_only:
            drop_ballast(self._path)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        if self._fatal is not None:
            raise LedgerError(self.name, self._fatal)
        try:
            yield
        except sqlite3.Error as error:
            explained = self._explain(error)
            code = getattr(error, "sqlite_errorcode", 0)
            if code & 0xFF == sqlite3.SQLITE_IOERR and code not in _NO_ROOM:
                # After a failed fsync nobody knows what is on the disk, and the next one may well report success.
                self._fatal = self._words(explained)
            raise explained from error
        except UnicodeDecodeError as error:
            # from SQLite's own message, which quotes what it found
            raise LedgerDamaged(self.name, _damaged("a name that is no UTF-8")) from error

    def _words(self, error: LedgerError) -> str:
        return str(error).removeprefix(f"ledger {self.name}: ")

    def _explain(self, error: sqlite3.Error) -> LedgerError:
        if isinstance(error, sqlite3.ProgrammingError):
            return LedgerError(self.name, str(error))
        # no code: Python could not decode a text
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        if code in _NO_ROOM:
            detail = "" if code == sqlite3.SQLITE_FULL else " (or a quota, a file size limit or the disk refuses it)"
            return LedgerFull(self.name, _FULL + detail)
        match code & 0xFF:
            case sqlite3.SQLITE_NOTADB:
                return LedgerForeign(self.name, "not a ledger of prompt-packer, and no SQLite file; name another file")
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_ERROR:
                return LedgerDamaged(self.name, _damaged(str(error)))
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_PROTOCOL:
                return LedgerInUse(self.name, "another program is writing to it; close that one and run the same again")
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
                return LedgerReadOnly(self.name, "cannot be written; check the permissions of it and of its folder")
            case sqlite3.SQLITE_CANTOPEN:
                return LedgerError(self.name, "cannot be opened; check the permissions of it and of its folder")
            case sqlite3.SQLITE_IOERR:
                return LedgerError(self.name, f"its disk fails ({error.sqlite_errorname}); the job must not go on")
            case sqlite3.SQLITE_CONSTRAINT:
                return LedgerError(self.name, f"a row contradicts those that are there: {error}")
            case _:
                return LedgerError(self.name, f"SQLite refuses: {error} ({error.sqlite_errorname})")


def _bring_up(db: sqlite3.Connection, missing: Iterable[str]) -> None:
    for statement in missing:
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _damaged(finding: str) -> str:
    return (
        f"damaged: {' '.join(finding.split())}; use a copy or a new file (`prompt-packer ledger` reads what is sound)"
    )
