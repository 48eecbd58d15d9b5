"""A table that `label` wrote, its given labels against a gold column. Nothing is sent, and no item is left out unsaid.

The table is read once, as a stream. What label added stands behind the input's columns, so of several columns with one
name (`label`, `label_2`) the last one counts, but never the gold one. Where an item stood in its pack, the ledger
knows: it is opened for reading only, and asked by the keys that the texts have with the task and the model.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from packer.errors import CallError, InputError
from packer.evaluation import Evaluation, RecordEvaluation, Tally, check_libraries
from packer.evaluation_view import write_evaluation
from packer.items import Status, normalise_text
from packer.ledger import Ledger, Place
from packer.outputs import OutputFile, unguard
from packer.overwriting import refuse_same
from packer.report import check_report_path
from packer.requests import make_keys
from packer.summary import Line
from packer.tables import Format, Reader, Row
from packer.task import Task, fold_label

_ROWS = 500  # looked up in the ledger together
_MOST_LABELS = 1_000  # of a task with labels: more are no labels, and the matrix would not end
_MOST_VALUES = 100  # of a record's field: more are a text or a measure
_WHOLE = re.compile(r"(-?\d+)\.0+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Question:
    """What is evaluated.

    `gold` has a column, or FIELD=COLUMN, each. `text` None: the column `text`, if there is one. `by` has some of
    position, pack-size and length; the first two need `task` and `model`. `output` is for the figures as JSON.
    """

    table: str
    gold: Sequence[str]
    text: str | None = None
    by: Sequence[str] = ()
    encoding: str = "utf-8"
    output: str | None = None
    task: Task | None = None
    task_file: str | None = None
    model: str | None = None
    ledger: str = "prompt-packer.db"


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where things stand: `answers` is a pair of columns, gold and given, by its field; "" for a task with labels."""

    status: str
    text: str | None
    answers: Mapping[str, tuple[str, str]]


def show_evaluation(asked: Question, *, width: int) -> list[Line]:
    """The figures as lines of at most `width`, and in their file. Raises `CallError` and `LedgerError`."""
    check_libraries()
    with contextlib.ExitStack() as undo:
        reader = undo.enter_context(Reader(asked.table, text=None, encoding=asked.encoding))
        columns = _find_columns(reader, asked)
        ledger = None
        if set(asked.by) - {"length"}:
            _check_by(asked)
            ledger = undo.enter_context(Ledger(asked.ledger, read_only=True))
        output = None
        if asked.output is not None:
            output = _open_output(asked.output, asked)
            undo.callback(output.abandon)
        table = _Table(reader, asked, columns, ledger)
        table.read()
        figures = table.figures()
        if output is not None:
            _write(output, asked.output, figures)
    return write_evaluation(figures, table.unlabelled, width=width)


class _Table:
    def __init__(self, reader: Reader, asked: Question, columns: _Columns, ledger: Ledger | None) -> None:
        self.unlabelled: Counter[Status] = Counter()
        self._reader = reader
        self._asked = asked
        self._columns = columns
        self._ledger = ledger
        self._place = {name: place for place, name in enumerate(reader.columns)}
        most = {field: _MOST_VALUES if field else _MOST_LABELS for field in columns.answers}
        self._tallies = {field: Tally(most[field]) for field in columns.answers}

    def read(self) -> None:
        rows = iter(self._reader)
        while slice_ := list(islice(rows, _ROWS)):
            texts = [self._text(row) for row in slice_]
            places = self._find_places(texts)
            for row, text in zip(slice_, texts, strict=True):
                self._count(row, text, places)
        if all(tally.items == tally.without_gold for tally in self._tallies.values()):
            names = ", ".join(repr(gold) for gold, _ in self._columns.answers.values())
            raise InputError(f"{self._reader.name}: no row has anything in the gold column {names}")

    def figures(self) -> Evaluation | RecordEvaluation:
        fields = {field: tally.figures() for field, tally in self._tallies.items()}
        return fields[""] if "" in fields else RecordEvaluation(fields)

    def _count(self, row: Row, text: str, places: Mapping[str, Place]) -> None:
        status = self._status(row)
        given: dict[str, str | None] = dict.fromkeys(self._tallies)
        if status is Status.LABELLED:
            given = {field: self._given(row, field, name) for field, (_, name) in self._columns.answers.items()}
        else:
            self.unlabelled[status] += 1
        where = self._where(text, given, places) if self._asked.by else {}
        for field, (name, _) in self._columns.answers.items():
            tally = self._tallies[field]
            gold = _spell(self._cell(row, name), field).strip() or None
            tally.add(gold, given[field], text=text, places=where)
            if tally.is_too_many and not field:
                message = f"more than {_MOST_LABELS:,} different labels so far; is {name!r} the gold column?"
                raise InputError(f"{self._reader.name}: line {row.line}: {message}", line=row.line)

    def _status(self, row: Row) -> Status:
        cell = self._cell(row, self._columns.status)
        try:
            return Status(cell)
        except ValueError:
            wanted = f"expected one of {', '.join(Status)} in {self._columns.status!r}, got {str(cell)[:40]!r}"
            raise InputError(f"{self._reader.name}: line {row.line}: {wanted}", line=row.line) from None

    def _given(self, row: Row, field: str, name: str) -> str | None:
        # a field of a labelled record may be null, a label may not
        return _spell(self._cell(row, name), field).strip() or ("null" if field else None)

    def _cell(self, row: Row, name: str) -> Any:
        return row.cell(name, self._place[name])

    def _text(self, row: Row) -> str:
        return "" if self._columns.text is None else _spell(self._cell(row, self._columns.text), "")

    def _find_places(self, texts: Sequence[str]) -> dict[str, Place]:
        """Places by text, of those whose answers the ledger has."""
        if self._ledger is None:
            return {}
        assert self._asked.task is not None, "checked"
        assert self._asked.model is not None, "checked"
        make = make_keys(self._asked.task, self._asked.model)
        # as it stands, and as it was before a formula got its apostrophe
        was = unguard if self._reader.format is Format.CSV else str
        keys = {text: (make(normalise_text(text)), make(normalise_text(was(text)))) for text in set(texts)}
        found = self._ledger.find_places([key for pair in keys.values() for key in pair])
        return {text: found[key] for text, pair in keys.items() for key in pair if key in found}

    def _where(self, text: str, given: Mapping[str, str | None], places: Mapping[str, Place]) -> dict[str, int | None]:
        place = places.get(text)
        if place is not None and not _agrees(place.value, given):
            place = None  # the table is of another ledger, or of another run than this one remembers
        number, items = (None, None) if place is None else (place.number, place.items)
        measures = {"position": number, "pack-size": items, "length": len(normalise_text(text))}
        return {name: measures[name] for name in self._asked.by}


def _agrees(value: Any, given: Mapping[str, str | None]) -> bool:
    """Whether an answer of the ledger is the one that the table gives."""
    for field, label in given.items():
        known = value.get(field) if field and isinstance(value, Mapping) else value
        if label is None or fold_label(_spell(known, field) or "null") != fold_label(label):
            return False
    return True


def _spell(value: Any, field: str) -> str:
    """A cell as text; a field's whole number is the same with and without .0, since CSV and JSON write it so and so."""
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value) if field else None
        return value if whole is None else whole[1]
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _find_columns(reader: Reader, asked: Question) -> _Columns:
    status = _last_of(reader, "status", ())
    if status is None:
        raise InputError(f"{reader.name}: no column 'status'; expected a table that prompt-packer label wrote")
    place = reader.columns.index(status) - 1
    for added in ("decision", "confidence"):
        place -= _is_named(reader.columns[place], added)
    before = reader.columns[place]
    has_labels = _is_named(before, "label")
    answers: dict[str, tuple[str, str]] = {}
    for given in asked.gold:
        field, equals, gold = given.partition("=")
        if given in reader.columns or not equals:
            field, gold = "" if has_labels else given, given
        reader.check_column(gold)
        if gold == before and has_labels:
            wanted = "expected a column with the right ones"
            raise InputError(f"{reader.name}: {gold!r} is the column of the labels that were given; {wanted}")
        name = _last_of(reader, field or "label", {gold, status})
        if name is None:
            what = f"answers to {field!r}" if field else "given labels"
            hint = "" if equals else "; of a record, name the field: --gold FIELD=COLUMN"
            raise InputError(f"{reader.name}: no column with {what} besides the gold one, {gold!r}{hint}")
        if field in answers:
            raise CallError(f"--gold: expected one column for {field or 'the label'}, got two")
        answers[field] = gold, name
        reader.check_column(name)
    text = asked.text
    if text is not None:
        reader.check_column(text)
    elif "text" in reader.columns:
        text = "text"
    if asked.by and text is None:
        raise CallError(f"--by {asked.by[0]}: expected --text COLUMN, the column that holds the texts")
    return _Columns(status, text, answers)


def _is_named(column: str, name: str) -> bool:
    """Whether label may have given `column` the name `name`: see `choose_names`."""
    return re.fullmatch(rf"{re.escape(name)}(_\d+)?", column) is not None


def _last_of(reader: Reader, name: str, others: Sequence[str] | set[str]) -> str | None:
    found = [column for column in reader.columns if _is_named(column, name) and column not in others]
    return found[-1] if found else None


def _check_by(asked: Question) -> None:
    by = next(name for name in asked.by if name != "length")
    if asked.task is None or asked.model is None:
        missing = "--labels or --task" if asked.task is None else "--model"
        raise CallError(f"--by {by}: missing: {missing}, as label had it: the ledger's keys are made of it")


def _open_output(path: str, asked: Question) -> OutputFile:
    checked = check_report_path(path, option="--json")
    refuse_same(path, ((asked.table, "table"), (asked.task_file, "task file"), (asked.ledger, "ledger")), "--json")
    return OutputFile(checked, private=True)


def _write(output: OutputFile, path: str | None, figures: Evaluation | RecordEvaluation) -> None:
    try:
        output.write(f"{json.dumps(asdict(figures))}\n".encode())
        output.finish()
    except OSError as error:
        raise CallError(f"--json {path}: cannot be written: {error.strerror}") from error
