"""A Parquet file is read batch by batch and written row group by row group: every column keeps its exact type.

A file in and a file out: neither comes through a pipe, since what tells where the columns are stands at a file's end.
Memory is a batch of what is read and a row group of what is written, whatever the size of the file's own row groups.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, BinaryIO, NamedTuple, overload

import pyarrow as pa
import pyarrow.parquet as pq

from packer.arrow import arrow_array, arrow_type
from packer.columns import Column, clean_text
from packer.errors import InputError
from packer.items import Result
from packer.tables import Row

_BATCH_ROWS = 1_024
_BATCH_BYTES = 4 * 1024 * 1024
_GROUP_ROWS = 32 * 1_024
_GROUP_BYTES = 16 * 1024 * 1024
_BUFFER = 64 * 1024


class Batch:
    """Rows that were read together."""

    def __init__(self, columns: pa.RecordBatch) -> None:
        self.columns = columns

    @cached_property
    def plain(self) -> list[list[Any]]:
        """The columns as JSON values, for CSV and JSONL."""
        return [plain_values(column) for column in self.columns.columns]


class Cells(Sequence[Any]):
    """One row of a batch: its cells as JSON values, made when they are first asked for."""

    __slots__ = ("batch", "place")

    def __init__(self, batch: Batch, place: int) -> None:
        self.batch = batch
        self.place = place

    def __len__(self) -> int:
        return len(self.batch.plain)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        columns = self.batch.plain
        return (
            [column[self.place] for column in columns[index]]
            if isinstance(index, slice)
            else columns[index][self.place]
        )

    def follows(self, other: Any) -> bool:
        """Whether it is the row behind `other` in the same batch."""
        return isinstance(other, Cells) and other.batch is self.batch and other.place + 1 == self.place


class Record(NamedTuple):
    """One row: its text (None for a null), its id as JSON value, and its cells."""

    text: str | None
    id: Any
    cells: Cells


class ParquetSource:
    """The rows of one Parquet file, in order. Raises `InputError` on opening and while iterating."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._name = name
        try:
            # pre_buffer would hold a whole row group, of which a file may have only one
            self._file = pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True)
            self.schema = self._file.schema_arrow
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{name}: expected a Parquet file: {_first_line(error)}") from error
        self.columns: tuple[str, ...] = tuple(self.schema.names)

    def check_text(self, column: str) -> None:
        """Raise `InputError` where `column` does not hold texts."""
        found = self.schema.field(column).type
        if not _holds_texts(found):
            raise InputError(f"{self._name}: expected a column of texts (string), {column!r} holds {found}")

    def rows(self, *, text: str | None, id_column: str | None) -> Iterator[Record]:
        """Every row once. Raises `InputError` where the file is damaged."""
        meta = self._file.metadata
        size = sum(meta.row_group(place).total_byte_size for place in range(meta.num_row_groups))
        fitting = _BATCH_BYTES // max(1, size // max(1, meta.num_rows))
        count = 0
        try:
            for columns in self._file.iter_batches(max(1, min(_BATCH_ROWS, fitting)), use_threads=False):
                batch = Batch(columns)
                nothing = [None] * columns.num_rows
                texts = nothing if text is None else columns.column(text).to_pylist()
                ids = nothing if id_column is None else plain_values(columns.column(id_column))
                for place, (asked, key) in enumerate(zip(texts, ids, strict=True)):
                    yield Record(asked, key, Cells(batch, place))
                count += columns.num_rows
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{self._name}: damaged behind row {count}: {_first_line(error)}") from error


class ParquetWriter:
    """Rows with what was found, as the bytes of a Parquet file.

    `columns` are the input's. `source` is the schema of a Parquet input, whose columns come through as they are; it is
    None for other tables, whose columns become texts as they would in CSV, but for null, which stays null. `added` are
    the task's columns, from `added_columns`, and `find` gives the values of a result for them, from `fitted`.
    """

    def __init__(
        self,
        find: Callable[[Result], list[Any]],
        *,
        columns: Sequence[str],
        added: Sequence[Column],
        source: pa.Schema | None,
    ) -> None:
        self.guarded = 0
        self._columns = columns
        self._added = added
        self._find = find
        schema = pa.schema([pa.field(name, pa.string()) for name in columns]) if source is None else source
        for column in added:
            schema = schema.append(pa.field(column.name, arrow_type(column.type)))
        self._schema = schema
        self._sink = _Sink()
        self._writer = pq.ParquetWriter(self._sink, schema)
        self._run: list[Any] = []  # the values of rows that follow each other; of one batch, where they are cells
        self._found: list[list[Any]] = []  # and what is added to each
        self._group: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def header(self) -> bytes:
        """What stands before the first row."""
        return self._sink.take()

    def row(self, row: Row, result: Result) -> bytes:
        """Take one row with its result; the bytes of a row group where that is full, else nothing."""
        values = row.values
        if self._run and isinstance(values, Cells) and not values.follows(self._run[-1]):
            self._end_run()
        self._run.append(values)
        self._found.append(self._find(result))
        if len(self._run) >= _BATCH_ROWS:
            self._end_run()
        return self._sink.take()

    def footer(self) -> bytes:
        """The rows that are left, and what makes it a file."""
        self._end_run()
        self._end_group()
        self._writer.close()
        return self._sink.take()

    def _end_run(self) -> None:
        if not self._run:
            return
        first = self._run[0]
        if isinstance(first, Cells):
            arrays = first.batch.columns.slice(first.place, len(self._run)).columns
        else:
            arrays = [pa.array(column, pa.string()) for column in self._text_columns()]
        found = zip(*self._found, strict=True)
        arrays += [arrow_array(values, column.type) for values, column in zip(found, self._added, strict=True)]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._group.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        self._run, self._found = [], []
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._end_group()

    def _text_columns(self) -> Iterator[list[str | None]]:
        for place, name in enumerate(self._columns):
            yield [_text(row.get(name) if isinstance(row, dict) else row[place]) for row in self._run]

    def _end_group(self) -> None:
        if self._group:
            self._writer.write_table(pa.Table.from_batches(self._group, self._schema), row_group_size=self._rows)
        self._group, self._rows, self._bytes = [], 0, 0


class _Sink:
    """A file whose bytes are taken away as they come."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._parts.append(bytes(data))

    def flush(self) -> None:
        """Nothing: what is written is there."""

    def close(self) -> None:
        """Nothing: what is written stays."""

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts = []
        return data


def plain_values(column: pa.Array) -> list[Any]:
    """A column as JSON values: times and decimals as texts, bytes in base64, NaN and infinities as null."""
    type_ = _plain_type(column.type)
    values: list[Any] = column.cast(type_).to_pylist()
    return values if _is_json(type_) else [_plain(value) for value in values]


def _plain_type(type_: pa.DataType) -> pa.DataType:
    """The type in which every value of `type_` has a spelling that loses nothing."""
    if isinstance(type_, pa.BaseExtensionType):
        return _plain_type(type_.storage_type)
    if pa.types.is_temporal(type_) or pa.types.is_decimal(type_):
        return pa.string()  # Python's times end at microseconds
    if pa.types.is_dictionary(type_):
        return _plain_type(type_.value_type)
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(_plain_type(type_.value_type), type_.list_size)
    if pa.types.is_large_list(type_):
        return pa.large_list(_plain_type(type_.value_type))
    if pa.types.is_list(type_):
        return pa.list_(_plain_type(type_.value_type))
    if pa.types.is_map(type_):
        return pa.map_(_plain_type(type_.key_type), _plain_type(type_.item_type))
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in type_])
    return type_


def _is_json(type_: pa.DataType) -> bool:
    return _is_text(type_) or pa.types.is_integer(type_) or pa.types.is_boolean(type_)


def _is_text(type_: pa.DataType) -> bool:
    return any(check(type_) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {name: _plain(inner) for name, inner in value.items()}
        case list() | tuple():  # a tuple is an entry of a map
            return [_plain(inner) for inner in value]
    return value


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return clean_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _holds_texts(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return _holds_texts(type_.value_type)
    return _is_text(type_) or type_ == pa.null()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
