"""A table is read as it stands, row by row, or refused with the line that is at fault; nothing of it is guessed.

A file is read once before anything is sent (`check_table`), so that a broken one costs nothing. A pipe cannot be: there
the rows before the fault are given out, and the fault ends the input. Memory does not grow with the table.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import itertools
import json
import os
import re
import select
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from packer.errors import CallError, InputError
from packer.seen import Seen

if TYPE_CHECKING:
    from packer.parquet import ParquetSource

# No line and no cell is longer. It bounds memory where a quote is never closed; a text that is too long to be asked is
# far shorter, and is failed with its reason instead of being refused here.
MAX_LINE = 16 * 1024 * 1024
_TOO_LONG = f"more than {MAX_LINE // 1024 // 1024} million characters"

NEEDS_PYARROW = "Parquet needs pyarrow, which is not installed: pip install 'prompt-packer[parquet]'"

_CHUNK = 64 * 1024
_PATIENCE = 0.2  # seconds
_CSV_FAULTS = {
    "unexpected end of data": "a quote is opened and never closed",
    "',' expected after '\"'": "a closing quote is followed by more than a comma",
}
_FIELD_LIMIT = re.compile("field larger than field limit")


class Format(StrEnum):
    """How a table is written in a file."""

    CSV = "CSV"
    JSONL = "JSONL"
    PARQUET = "Parquet"


_ENDINGS = {
    ".csv": Format.CSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".parquet": Format.PARQUET,
}
_PARQUET_START = b"PAR1\x15"  # no table of texts begins so: the fifth byte opens a page or the footer


class Row(NamedTuple):
    """One row of the input.

    `line` is where it begins, from 1; of Parquet, which has no lines, its number. `text` is what is asked; an absent or
    null text of JSONL or Parquet is an empty one, and so is each where no text column was named. `id` is None where no
    id column was named. `values` are the cells in the columns' order, or the JSON object; `raw` is the object as it
    stands in the file, else empty.
    """

    line: int
    text: str
    id: str | None
    values: Sequence[Any] | Mapping[str, Any]
    raw: str

    def cell(self, name: str, place: int) -> Any:
        """The cell of the column `name`, which is at `place`; None where an object has none."""
        return self.values.get(name) if isinstance(self.values, Mapping) else self.values[place]


class Checked(NamedTuple):
    """What one reading of a table found: how many rows, and all its columns in the order in which they appear."""

    rows: int
    columns: tuple[str, ...]


def format_of(path: str) -> Format:
    """The format that a file's ending names. Raises `CallError`."""
    found = _ENDINGS.get(Path(path).suffix.lower())
    if found is None:
        raise CallError(f"{path}: expected a name that ends in .csv, .jsonl, .ndjson or .parquet")
    return found


def is_streamed(path: str) -> bool:
    """Whether a table can be read only once: standard input, a pipe, a device."""
    if path == "-":
        return True
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


class Reader:
    """The rows of one table, each once, in order, read as they are asked for.

    `path` is a file, or `-` for standard input; a pipe without an ending is JSONL when it begins with `{`, else CSV.
    `text` and `id` name columns, None none. `columns` are the CSV header, the columns of a Parquet file, or the keys of
    the first JSON object; `text` must be one of them, though a later object may lack it. A blank line is no row.
    `parquet` is the source of a Parquet file's rows, else None.

    Raises `CallError` on opening, and `InputError` with the line on opening and while iterating. Iterate once.
    """

    def __init__(self, path: str, *, text: str | None, id_column: str | None = None, encoding: str = "utf-8") -> None:
        self.name = "standard input" if path == "-" else path
        self._text = text
        self._id = id_column
        self._encoding = encoding
        self._decoder = _find_decoder(encoding)
        self._streamed = is_streamed(path)
        self._ended = False
        ending = None if path == "-" else _ENDINGS.get(Path(path).suffix.lower())
        self._file = _open(path)
        self._ids: Seen | None = None
        self._unit = "line"
        self.parquet: ParquetSource | None = None
        self.format: Format
        self.columns: tuple[str, ...]
        try:
            if ending is None and not self._streamed:
                format_of(path)
            if ending is Format.PARQUET:
                self.format, self._unit, self._line = ending, "row", 0
                self.parquet = self._open_parquet()
                self.columns = self.parquet.columns
                self._rows = self._parquet_rows(self.parquet)
            else:
                lines = self._read_lines()
                first, self._line = self._find_first(lines)
                self._lines = itertools.chain((first,), lines)
                self.format = ending or (Format.JSONL if first.lstrip().startswith("{") else Format.CSV)
                if self.format is Format.CSV:
                    # a limit of the whole process: the module has no other one
                    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
                    self._cells = csv.reader(self._lines, strict=True)
                    self.columns = tuple(self._next_cells()[1] or ())
                    self._rows = self._csv_rows()
                else:
                    self.columns = tuple(self._parse(first.strip(), self._line))
                    self._rows = self._json_rows()
            for column in (text, id_column):
                if column is not None:
                    self.check_column(column)
            if self.parquet is not None and text is not None:
                self.parquet.check_text(text)
            self._ids = None if id_column is None else Seen()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Row]:
        return self._rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def end(self) -> None:
        """Read no more: the rows that are whole so far are all. May be called from another thread or a signal."""
        self._ended = True

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._ids is not None:
            self._ids.close()

    def _fault(self, line: int, message: str) -> InputError:
        return InputError(f"{self.name}: {self._unit} {line}: {message}", line=line)

    def _find_first(self, lines: Iterator[str]) -> tuple[str, int]:
        for number, given in enumerate(lines, 1):
            line = given.removeprefix("\ufeff") if number == 1 else given
            if line.strip():
                return line, number
        raise InputError(f"{self.name}: expected a table, there is nothing in it")

    def _read_lines(self) -> Iterator[str]:
        """Lines with their ends, split as an editor splits them."""
        tail, count, offset = "", 0, 0
        while True:
            # as much again as is left of a line: a long one takes linear time
            chunk = self._read_chunk(max(_CHUNK, len(tail)))
            if self._ended:
                return
            if offset == 0 and chunk.startswith(_PARQUET_START):
                raise InputError(f"{self.name}: this is Parquet; expected a file whose name ends in .parquet, no pipe")
            offset += len(chunk)
            wrong: UnicodeDecodeError | None = None
            state = self._decoder.getstate()
            try:
                text = self._decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                # what stands before the byte is whole: its rows are given out first
                wrong = error
                self._decoder.setstate(state)
                text = self._decoder.decode(chunk[: max(0, len(chunk) - len(error.object) + error.start)])
            # StringIO splits at \n, \r\n and \r, in C, and keeps them, which splitlines does not
            lines = io.StringIO(tail + text, newline="").readlines()
            unfinished = bool(lines) and (chunk != b"" or wrong is not None) and not lines[-1].endswith("\n")
            tail = lines.pop() if unfinished else ""
            for line in lines:
                count += 1
                yield line
            if wrong is not None:
                raise self._wrong_byte(wrong, offset, count + 1)
            if len(tail) > MAX_LINE:
                raise self._fault(count + 1, f"a line of {_TOO_LONG}")
            if not chunk:
                return

    def _read_chunk(self, size: int) -> bytes:
        try:
            # a silent pipe is not waited for in a read, which `end` could not end
            while self._streamed and not self._ended and not select.select((self._file,), (), (), _PATIENCE)[0]:
                pass
            return b"" if self._ended else self._file.read(size) or b""
        except OSError as error:
            raise InputError(f"{self.name}: cannot be read: {error.strerror}") from error

    def _wrong_byte(self, error: UnicodeDecodeError, offset: int, line: int) -> InputError:
        byte, place = error.object[error.start], offset - len(error.object) + error.start
        return self._fault(
            line,
            f"byte 0x{byte:02X} at offset {place} is not {codecs.lookup(self._encoding).name.upper()}; "
            "name the file's encoding with --encoding (cp1252, utf-16, ...)",
        )

    def check_column(self, column: str) -> None:
        """Raise `InputError` where the table does not have `column`, or has it twice."""
        found = self.columns.count(column)
        if found == 1:
            return
        if found:
            message = f"two columns are named {column!r}; expected one"
            raise self._fault(self._line, message) if self._line else InputError(f"{self.name}: {message}")
        columns = self.columns
        near = difflib.get_close_matches(column, columns, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        other = next((mark for mark in ";\t|" if mark in columns[0]), "") if len(columns) == 1 else ""
        if other and self.format is Format.CSV:
            hint = f"; expected commas between the cells, these look like {other!r}"
        shown = ", ".join(map(repr, columns[:10])) + (f" and {len(columns) - 10} more" if len(columns) > 10 else "")
        raise InputError(f"{self.name}: no column {column!r}{hint} (it has {shown})", line=self._line or None)

    def _next_cells(self) -> tuple[int, list[str] | None]:
        line = self._line + self._cells.line_num
        try:
            return line, next(self._cells, None)
        except csv.Error as error:
            if self._ended:  # in the middle of a row
                return line, None
            fault = _CSV_FAULTS.get(str(error), str(error))
            if _FIELD_LIMIT.match(fault):
                fault = f"a cell of {_TOO_LONG}; is a quote never closed?"
            raise self._fault(line, fault) from None

    def _csv_rows(self) -> Iterator[Row]:
        width = len(self.columns)
        text = None if self._text is None else self.columns.index(self._text)
        id_place = None if self._id is None else self.columns.index(self._id)
        while True:
            line, cells = self._next_cells()
            if cells is None:
                return
            if len(cells) == width:
                key = None if id_place is None else cells[id_place]
                if key is not None:
                    self._add_id(key, line)
                yield Row(line, "" if text is None else cells[text], key, cells, "")
            elif cells:
                raise self._fault(line, f"expected {width} cells as in the header, got {len(cells)}")

    def _parse(self, raw: str, line: int) -> dict[str, Any]:
        try:
            values = json.loads(raw)
        except json.JSONDecodeError as error:
            raise self._fault(line, f"expected a JSON object: {error.msg} at character {error.colno}") from None
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits; 100,000 brackets
            raise self._fault(line, f"expected a JSON object: {error}") from None
        if isinstance(values, dict):
            return values
        raise self._fault(line, f"expected a JSON object, got {_kind(values)}")

    def _json_rows(self) -> Iterator[Row]:
        for line, given in enumerate(self._lines, self._line):
            raw = given.strip()
            if not raw:
                continue
            values = self._parse(raw, line)
            text = None if self._text is None else values.get(self._text)
            if text is None:
                text = ""
            elif not isinstance(text, str):
                raise self._fault(line, f"expected a text in {self._text!r}, got {_kind(text)}")
            key: str | None = None
            if self._id is not None:
                key = self._read_id(values.get(self._id), line)
            yield Row(line, text, key, values, raw)

    def _open_parquet(self) -> ParquetSource:
        if self._streamed:
            raise InputError(f"{self.name}: Parquet cannot be read from a pipe: its end comes first; expected a file")
        try:
            from packer.parquet import ParquetSource  # noqa: PLC0415  slow, and an extra
        except ModuleNotFoundError as error:
            raise CallError(NEEDS_PYARROW) from error
        return ParquetSource(self._file, self.name)

    def _parquet_rows(self, source: ParquetSource) -> Iterator[Row]:
        for number, record in enumerate(source.rows(text=self._text, id_column=self._id), 1):
            if self._ended:
                return
            key = None if self._id is None else self._read_id(record.id, number)
            yield Row(number, record.text or "", key, record.cells, "")

    def _read_id(self, value: Any, line: int) -> str:
        key = value if isinstance(value, str) else "" if value is None else json.dumps(value)
        self._add_id(key, line)
        return key

    def _add_id(self, key: str, line: int) -> None:
        assert self._ids is not None, "an id column is read only where one was named"
        if not key:
            raise self._fault(line, f"no id in column {self._id!r}")
        before = self._ids.add(key, line)
        if before is not None:
            raise self._fault(line, f"the id {key!r} stands on {self._unit} {before} already")


def name_source(path: str, *, text: str) -> str:
    """What a budget belongs to: the same column of the same file, run after run."""
    return f"{path if path == '-' else os.path.realpath(path)}#{text}"


def check_table(reader: Reader) -> Checked:
    """Read a table to its end and keep nothing.

    Raises `InputError` for the first thing that is wrong with it: the encoding, a broken row, an id given twice.
    """
    known = dict.fromkeys(reader.columns)  # of JSONL, to which later rows may add; CSV may have one name twice
    rows = 0
    for row in reader:
        rows += 1
        if isinstance(row.values, dict) and not row.values.keys() <= known.keys():
            known.update(dict.fromkeys(row.values))
    return Checked(rows, tuple(known) if reader.format is Format.JSONL else reader.columns)


def refuse_new_keys(reader: Reader, *, names: Collection[str], fixed: bool) -> Iterator[Row]:
    """The rows of a JSONL table that could not be checked, as long as the output's columns still hold.

    Raises `InputError` for a row with one of `names` (the columns that are added), or, where the output's columns are
    `fixed` by the first row, with any key that the first row lacks.
    """
    known = frozenset(reader.columns)
    for row in reader:
        if isinstance(row.values, dict) and not row.values.keys() <= known:
            for key in row.values:
                if key not in known and (fixed or key in names):
                    message = f"the key {key!r} is not in the first row, which fixes the output's columns"
                    raise InputError(f"{reader.name}: line {row.line}: {message}", line=row.line)
        yield row


def _open(path: str) -> io.FileIO:
    if path == "-":
        # unbuffered: a thread that waits in a read holds no lock that the end of the process would wait for
        return io.FileIO(0, closefd=False)
    try:
        return io.FileIO(path)
    except IsADirectoryError:
        raise InputError(f"{path}: expected a file, this is a folder") from None
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file{_nearest_file(path)}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _nearest_file(path: str) -> str:
    folder = Path(path).parent
    try:
        names = [name for name in os.listdir(folder) if Path(name).suffix.lower() in _ENDINGS]  # noqa: PTH208  names are wanted
    except (OSError, ValueError):
        return ""
    near = difflib.get_close_matches(Path(path).name, names, 1)
    return f"; did you mean {folder / near[0]}?" if near else ""


def _find_decoder(encoding: str) -> codecs.IncrementalDecoder:
    try:
        found = codecs.lookup(encoding)
        make: Callable[[], codecs.IncrementalDecoder] | None = found.incrementaldecoder
        # the one way to tell rot13 from an encoding
        if make is not None and found._is_text_encoding:  # noqa: SLF001
            return make()
    except (LookupError, ValueError):
        pass
    raise CallError(f"--encoding: expected a name like utf-8, cp1252 or utf-16, got {encoding!r}")


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"
