"""Output rows are the input's rows, in the input's order, as they were, with what was found behind them.

What is added is the label (or the record's fields), the confidence and by what it was decided where these are wanted,
`status` and `error`. A column
of the input is never replaced: a file that is labelled often carries a `label` already, the gold one, and that is what
nobody can buy again. So where a name is taken, ours gets the next free one: `label_2`.

One exception to "as they were": a CSV cell that a spreadsheet would run as a formula gets a leading apostrophe, unless
`raw` is asked for. It holds for the input's cells too, since texts of strangers are the danger, but not for plain
numbers (`-5`, `+4930123`). JSONL and Parquet are never changed.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import os
import re
import select
import stat
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Protocol

from packer import failpoints
from packer.columns import Column, fitted, found_values
from packer.errors import CallError
from packer.items import Result
from packer.tables import NEEDS_PYARROW, Format, Row, format_of, is_streamed

if TYPE_CHECKING:
    from packer.parquet import ParquetSource

# = + - @ and their full-width forms, tab and line ends: OWASP's list (CSV injection)
_FORMULA_STARTS = frozenset("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_PART_NAME = 100  # characters of an output's name that stand in its part's: names have a limit
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class RowWriter(Protocol):
    """Rows as bytes. `guarded` counts the cells that got a leading apostrophe."""

    guarded: int

    def header(self) -> bytes:
        """What stands before the first row; may be empty."""

    def row(self, row: Row, result: Result) -> bytes:
        """One row with its result; empty where it is kept back to be written with others."""

    def footer(self) -> bytes:
        """What stands behind the last row; may be empty."""


def make_writer(
    form: Format,
    *,
    columns: Sequence[str],
    fields: Sequence[str],
    names: Sequence[str],
    raw: bool,
    confidence: bool = False,
    decision: bool = False,
) -> RowWriter:
    """A writer of rows in `form`, CSV or JSONL.

    `columns` are the input's; `fields` are the record's, or empty for a label; `names` are those of all that is added
    (from `choose_names`), the confidence (where `confidence`), the decision (where `decision`), status and error last;
    `raw` leaves CSV cells as they are. Raises `CallError` for columns that cannot be keys.
    """
    find = partial(found_values, fields=fields, confidence=confidence, decision=decision)
    if form is Format.CSV:
        return _CsvWriter(columns, names, find, raw=raw)
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise CallError(f"two columns are named {twice!r}; the keys of a JSON object are unique, CSV output takes both")
    return _JsonWriter(columns, names, find)


def choose_writer(
    form: Format,
    *,
    columns: Sequence[str],
    fields: Sequence[str],
    added: Sequence[Column],
    raw: bool = False,
    source: ParquetSource | None = None,
    confidence: bool = False,
    decision: bool = False,
) -> RowWriter:
    """A writer of rows in any `form`, with the arguments of `make_writer`.

    `added` are the columns that are added, with their types; `source` is what a Parquet input is read from. Raises
    `CallError` for columns that cannot be keys, and for Parquet where pyarrow is missing.
    """
    if form is not Format.PARQUET:
        names = [column.name for column in added]
        wanted = {"confidence": confidence, "decision": decision}
        return make_writer(form, columns=columns, fields=fields, names=names, raw=raw, **wanted)
    try:
        from packer.parquet import ParquetWriter  # noqa: PLC0415  slow, and an extra
    except ModuleNotFoundError as error:
        raise CallError(NEEDS_PYARROW) from error
    schema = None if source is None else source.schema
    find = partial(fitted, fields=fields, columns=added, confidence=confidence, decision=decision)
    return ParquetWriter(find, columns=columns, added=added, source=schema)


def unguard(cell: str) -> str:
    """A CSV cell of an output without the apostrophe that keeps a formula from running."""
    return cell[1:] if cell[:1] == "'" and cell[1:2] in _FORMULA_STARTS else cell


def encode_line(line: str) -> bytes:
    r"""A line as UTF-8; a lone surrogate, which only JSON and odd encodings can hold, as \uXXXX."""
    return line.encode("utf-8", "backslashreplace")


class _CsvWriter:
    def __init__(
        self, columns: Sequence[str], names: Sequence[str], find: Callable[[Result], list[Any]], *, raw: bool
    ) -> None:
        self.guarded = 0
        self._columns = columns
        self._find = find
        self._names = names
        self._raw = raw
        # The terminator is CRLF inside and LF outside: Python before 3.13 quotes a cell for its CR only where the
        # terminator holds one, and a bare CR makes a row that no reader takes.
        writer = csv.writer(_Echo(), lineterminator="\r\n")
        self._write: Callable[[Iterable[str]], Any] = writer.writerow

    def header(self) -> bytes:
        return self._line([*self._columns, *self._names])

    def row(self, row: Row, result: Result) -> bytes:
        values = row.values
        if isinstance(values, dict):
            values = [values.get(name) for name in self._columns]
        cells = list(map(_cell, values))
        cells.extend(map(_cell, self._find(result)))
        return self._line(cells)

    @staticmethod
    def footer() -> bytes:
        return b""

    def _line(self, cells: list[str]) -> bytes:
        if not self._raw:
            for place, cell in enumerate(cells):
                if cell and cell[0] in _FORMULA_STARTS and not _NUMBER.fullmatch(cell):
                    cells[place] = f"'{cell}"
                    self.guarded += 1
        line: str = self._write(cells)
        return encode_line(line[:-2] + "\n")


class _Echo:
    """A file whose write hands the line back: `writerow` returns what `write` returned."""

    @staticmethod
    def write(line: str) -> str:
        return line


class _JsonWriter:
    def __init__(self, columns: Sequence[str], names: Sequence[str], find: Callable[[Result], list[Any]]) -> None:
        self.guarded = 0
        self._columns = columns
        self._find = find
        self._names = names
        self._dump = json.JSONEncoder(ensure_ascii=False).encode

    @staticmethod
    def header() -> bytes:
        return b""

    @staticmethod
    def footer() -> bytes:
        return b""

    def row(self, row: Row, result: Result) -> bytes:
        found = self._find(result)
        added = dict(zip(self._names, found, strict=True))
        if not row.raw:
            return encode_line(self._dump(dict(zip(self._columns, row.values, strict=True)) | added) + "\n")
        # The object is not written anew but opened at its last brace: numbers, spaces and keys stay exactly what they
        # were, and it takes half the time.
        head = row.raw[:-1].rstrip()
        return encode_line(f"{head}{', ' if row.values else ''}{self._dump(added)[1:]}\n")


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


class Output(Protocol):
    """Where lines go."""

    def ready(self, size: int) -> bool:
        """Whether a write of `size` bytes would return at once, and not wait for whoever reads."""

    def write(self, data: bytes) -> None:
        """Write all of `data`. Raises `OSError`."""

    def finish(self) -> None:
        """All is written; what was written is the output from now on. Raises `OSError`."""

    def abandon(self) -> None:
        """Leave no trace of what was written, where that is possible."""


class OutputFile:
    """A file that stays the old one until `finish`, and is the new one, whole and on the disk, from then on.

    Until then it is a hidden file beside it, which its process holds a lock on. One that nobody holds was left by a
    process that died: the next one to write the same output removes it.

    `private`: only its owner may read it, whatever it was before. Raises `CallError` where it cannot be written.
    """

    def __init__(self, path: Path, *, private: bool = False) -> None:
        self._path = Path(os.path.realpath(path))  # a symbolic link stays one: its target is replaced
        if self._path.is_dir():
            raise CallError(f"{path}: expected a file to write, this is a folder")
        if not self._path.parent.is_dir():
            raise CallError(f"{path}: there is no folder {path.parent}")
        if self._path.exists() and not os.access(self._path, os.W_OK):
            raise CallError(f"{path}: cannot be written: the file is read-only")  # a rename would not ask
        mode = 0o600 if private else 0o666
        try:
            self._part, descriptor = _make_part(self._path, mode)
        except OSError as error:
            raise CallError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            if self._path.exists() and not private:
                os.fchmod(descriptor, stat.S_IMODE(self._path.stat().st_mode))
        except OSError as error:
            self._part.unlink(missing_ok=True)
            os.close(descriptor)
            raise CallError(f"{path}: cannot be written: {error.strerror}") from error
        _remove_leftovers(self._path)
        self._file = os.fdopen(descriptor, "wb", buffering=64 * 1024)

    def ready(self, size: int) -> bool:  # noqa: ARG002  a disk waits for no reader
        """Whether a write of `size` bytes would return at once: always."""
        return True

    def write(self, data: bytes) -> None:
        """Write all of `data`. Raises `OSError`."""
        self._file.write(data)

    def finish(self) -> None:
        """Put the file in its place. Raises `OSError`."""
        self._file.flush()
        os.fsync(self._file.fileno())
        failpoints.reach("output: complete, not in its place")
        self._part.replace(self._path)
        failpoints.reach("output: in its place")
        self._file.close()  # not before: the lock goes with it, and an unlocked part belongs to nobody
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def abandon(self) -> None:
        """Remove what was written; the old file stays."""
        with contextlib.suppress(OSError):  # a full disk: what is still in the buffer is not wanted any more
            self._part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._file.close()


def _make_part(path: Path, mode: int) -> tuple[Path, int]:
    """A new file beside `path`, locked for as long as its descriptor is open. Raises `OSError`."""
    while True:
        part = path.with_name(f".{path.name[:_PART_NAME]}.{token_hex(4)}.part")
        # not tempfile: its 0600 is not what the user's umask says an output is
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        # another process may have taken it for a leftover before it was locked
        if _hold(descriptor) and part.exists():
            return part, descriptor
        part.unlink(missing_ok=True)
        os.close(descriptor)


def _hold(descriptor: int) -> bool:
    """Lock a new file until it is closed; False where another process has done so."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nobody can take a part there, and leftovers stay
        return True
    return True


def _remove_leftovers(path: Path) -> None:
    """Remove the parts of `path` that no process holds. A name proves nothing, and what cannot be removed stays."""
    leftover = re.compile(rf"\.{re.escape(path.name[:_PART_NAME])}\.[0-9a-f]{{8}}\.part")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if leftover.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _remove_unheld(Path(entry.path))


def _remove_unheld(part: Path) -> None:
    # O_NONBLOCK: it may have become a pipe, whose opening would wait for its other end
    descriptor = os.open(part, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_uid == os.geteuid():
            part.unlink()
    finally:
        os.close(descriptor)


class OutputStream:
    """Standard output, a pipe or a device: what is written is on its way when `write` returns."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def ready(self, size: int) -> bool:
        """Whether a write of `size` bytes would return at once."""
        # a pipe that is writable has room for PIPE_BUF bytes
        return size <= select.PIPE_BUF and bool(select.select((), (self._descriptor,), (), 0)[1])

    def write(self, data: bytes) -> None:
        """Write all of `data`. Raises `OSError`."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # whoever shares the terminal made it non-blocking
                select.select((), (self._descriptor,), ())

    def finish(self) -> None:
        """Nothing: all is on its way."""

    def abandon(self) -> None:
        """Nothing: what is gone is gone."""


def open_output(path: str | None, source: Format) -> tuple[Output, Format]:
    """Where the rows of a table in the format `source` go, and in which format. Raises `CallError`."""
    if source is Format.PARQUET:
        source = Format.JSONL  # through a pipe, where Parquet is of no use
    if path is None or path == "-":
        return OutputStream(1), source
    if is_streamed(path):  # /dev/null, a named pipe
        try:
            return OutputStream(os.open(path, os.O_WRONLY)), source
        except OSError as error:
            raise CallError(f"{path}: cannot be written: {error.strerror}") from error
    if "\0" in path:
        raise CallError(f"{path!r}: expected a file name")
    form = format_of(path)
    return OutputFile(Path(path)), form
