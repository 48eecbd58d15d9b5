"""A reply's text to checked rows. A row is what the reply itself closed and numbered; nothing is repaired or guessed.

What is wrong with one row drops that row. What throws doubt on which row is whose rejects the reply whole:

- another nonce, round the rows or in one: a reply to another request;
- a number outside 1 to `count`: the model counts otherwise than the prompt (from 0, shifted, one text taken for two);
- numbers that begin above 1: shifted, and cut before that showed at the end;
- one number twice, unless both rows say the same and no number is missing (a model that repeats itself);
- two answers that disagree (a draft, then the real one), or that do not give every number together;
- a key twice in an object that holds the rows.

Numbers may come in any order: a row is matched by its number, never by its position. The rows may have any of the
three shapes, whichever the task asked for, since each names its number, but all have the same; a mapping
({"1": "spam"}) has no rows, since nothing of their own closes its entries.

Where no answer gives a nonce, a bare array or JSON lines are read, if they begin a line and no error stands before
them: a model that quotes an item's text does so within a line, or beside an answer that has the nonce. A reasoning
block that was never closed is read only for an answer with the nonce and every number, at the very end of the reply.

No proper prefix of an answer gives a row that the whole answer does not, in whatever it is wrapped; the one exception
is a draft of the whole answer in a reasoning block, cut right behind that draft.

One edit of an answer that has every number once gives no row for the wrong item, where it is a cut, lies within one
row, or drops, repeats, moves or renumbers rows. What no reader can see is a whole label in the place of another: a
model that confuses two items, that leaves one out and counts on without a gap, or text lost from the middle of one
row to the middle of another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from packer.items import canonical_json
from packer.json_scan import BadObject, Found, OpenArray, Places, Span, find_flaw, find_values, is_margin, show
from packer.task import Task

_MAX_DEFECTS = 100
_MAX_SHOWN = 200
_MAX_WRAPPERS = 4
_ABSENT = object()  # no such key
_MAX_DIGITS = 18  # of a row's number: int() takes quadratic time
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class Defect:
    """What is wrong in a reply, and where: `path` is a JSON path (`$.answers[3].label`)."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.message} @ {self.path}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply once read and checked.

    `rows` holds, by number, the task's spelling of the label, or the record's fields without the number. `defects`
    is what was wrong, the first hundred. `rejected` tells that the alignment is in doubt; `rows` is then empty.
    `spans` says where in the text a row's answer stands, if that was asked for: its label without the quotes, or each
    of its fields' values. What else could have been a longer answer (`spam` where `spammer` is a label too, a number)
    has the character that ends it in its span. A number whose digits are written as escapes has none.
    """

    rows: Mapping[int, Any]
    defects: tuple[Defect, ...] = ()
    rejected: bool = False
    spans: Mapping[int, tuple[Span, ...]] = field(default_factory=dict)


def parse_answer(text: str, *, task: Task, nonce: str, count: int, locate: bool = False) -> Answer:
    """The rows that `text` gives for the `count` items of the pack `nonce`, and their `spans` where `locate`.

    Raises nothing, whatever the text. Takes linear time, but for what a record's own checks take, and those run at
    most once a number.
    """
    reader = _Reader(task, nonce, count)
    reader.places = {} if locate else None
    try:
        reader.read(find_values(text, reader.places), text)
    except _DefectError as doubt:
        reader.report(doubt.path, doubt.message)
        return Answer({}, tuple(reader.defects), rejected=True)
    if len(reader.rows) != count:
        reader.report("$", f"expected {count} answers, got {len(reader.rows) or 'none'}")
    return Answer(reader.rows, tuple(reader.defects), spans=reader.spans)


class _DefectError(Exception):
    """What is wrong, and where (from the row, while the row is read); `is_doubt` tells that the reply is rejected."""

    def __init__(self, path: str, message: str, *, is_doubt: bool = False) -> None:
        super().__init__(message)
        self.path = path
        self.message = message
        self.is_doubt = is_doubt


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows that stand together in an array, or one `alone`; `named` where the nonce stands over them."""

    path: str
    rows: Sequence[Any]
    named: bool
    alone: bool = False

    def path_of(self, index: int) -> str:
        return self.path if self.alone else f"{self.path}[{index}]"


class _Reader:
    """Reads one reply. `_heard` is every number that a row gave, with its answer, None where that was no answer."""

    def __init__(self, task: Task, nonce: str, count: int) -> None:
        self.rows: dict[int, Any] = {}
        self.defects: list[Defect] = []
        self.places: Places | None = None
        self.spans: dict[int, tuple[Span, ...]] = {}
        self._text = ""
        self._task = task
        self._nonce = nonce
        self._count = count
        self._fields = None if task.record_schema is None else frozenset(task.record_schema["properties"])
        self._heard: dict[int, Any] = {}
        self._shape: type | None = None
        self._longest = 0

    def report(self, path: str, message: str) -> None:
        if len(self.defects) < _MAX_DEFECTS:
            self.defects.append(Defect(_printable(path), _printable(message)))

    def read(self, values: Sequence[Found], text: str) -> None:
        self._text = text
        named: list[_Rows] = []
        unnamed: list[_Rows] = []
        for found in values:
            if not found.reasoning:
                for rows in self._find_rows(found.value):
                    if rows.named and not (rows.alone and found.after_error):
                        named.append(rows)
                    elif found.leads and not found.after_error:
                        unnamed.append(rows)
        if named or unnamed:
            self._read_all(_gather(named or unnamed))
            if named:
                self._compare(_gather(unnamed))
        elif values and values[-1].reasoning and is_margin(text, values[-1].end):
            self._read_all([rows for rows in self._find_rows(values[-1].value) if rows.named])
            if len(self.rows) != self._count:
                self.rows.clear()
                self.spans.clear()

    def _find_rows(
        self, value: Any, path: str = "$", *, named: bool = False, hidden: bool = False, depth: int = 0
    ) -> Iterator[_Rows]:
        """The rows in `value`, which may wrap them; a nonce holds for all that stands under it.

        What stands in an object that was cut before it gave a nonce is `hidden`: it may be the answer to another pack.
        """
        inside: Iterable[tuple[str, Any]] = ()
        rows: list[Any] | None = None
        alone = False
        if isinstance(value, dict):
            named = ("pack" in value and self._is_nonce(value, path)) or named
            alone = self._is_row(value)
            if not alone:
                if isinstance(value, BadObject):
                    if value.twice is not None:
                        message = f"expected each key once, got {show(value.twice)} twice"
                        raise _DefectError(path, message, is_doubt=True)
                    hidden = True
                inside = [(_step(key), value[key]) for key in (["answers"] if "answers" in value else value)]
        elif value and isinstance(value[0], dict) and "answers" in value[0] and not self._is_row(value[0]):
            inside = [(f"[{index}]", element) for index, element in enumerate(value)]
        else:
            alone = depth == 0 and _is_pair(value)
            rows = value
        if alone:
            rows = [value]
        if rows is not None and (named or not hidden):
            yield _Rows(path, rows, named, alone)
        for step, inner in inside:
            if isinstance(inner, (dict, list)) and depth < _MAX_WRAPPERS:
                yield from self._find_rows(inner, path + step, named=named, hidden=hidden, depth=depth + 1)

    def _is_row(self, value: dict[str, Any]) -> bool:
        return "n" in value and ("answers" not in value or self._is_field("answers"))

    def _is_field(self, key: str) -> bool:
        return self._fields is not None and key in self._fields

    def _is_nonce(self, value: dict[str, Any], path: str) -> bool:
        """Whether the `pack` of an object is this pack's nonce; False where it is something else than a nonce."""
        pack = value["pack"]
        if isinstance(pack, (dict, list)) or ("n" in value and self._is_field("pack")):
            return False
        if pack != self._nonce:
            message = f"expected the nonce {show(self._nonce)}, got {show(pack)}"
            raise _DefectError(f"{path}.pack", message, is_doubt=True)
        return True

    def _read_all(self, every: Sequence[_Rows]) -> None:
        repeated = ""
        is_headless = False
        for rows in every:
            for index, row in enumerate(rows.rows):
                try:
                    number, step, written = self._open(row)
                    if self._hear(type(row), number, step, written):
                        repeated = rows.path_of(index)
                except _DefectError as defect:
                    path = rows.path_of(index) + defect.path
                    if defect.is_doubt:
                        raise _DefectError(path, defect.message) from None
                    is_headless = is_headless or not self._heard
                    self.report(path, defect.message)
        first = next(iter(self._heard), 1)
        if first > 1 and first == min(self._heard) and not is_headless:
            raise _DefectError(every[0].path, f"expected numbers from 1, got them from {first}")
        if repeated and len(self._heard) < self._count:
            raise _DefectError(repeated, "expected each number once, got one twice and another never")
        if len(every) > 1 and 0 < len(self.rows) < self._count:
            raise _DefectError(every[-1].path, "expected one answer, got another and not every number")
        if self.places:
            self._locate(every, self.places)

    def _locate(self, every: Sequence[_Rows], places: Places) -> None:
        """Note where the row of each number stands: the first one, as it was the first that was heard."""
        for rows in every:
            for index, row in enumerate(rows.rows):
                try:
                    number, _, written = self._open(row)
                except _DefectError:
                    continue
                if number in self.rows and number not in self.spans and type(row) is self._shape:
                    self.spans[number] = tuple(self._find_spans(rows.rows, index, number, written, places))

    def _find_spans(
        self, every: Sequence[Any], index: int, number: int, written: Any, places: Places
    ) -> Iterator[Span]:
        """Where the answer in the row at `index` stands."""
        row = every[index]
        if self._fields is not None:
            for key, value in written.items():
                start, end = places[id(row), key]
                yield start, end + (type(value) in {int, float})
            return
        start, end = places[
            (id(every), index) if isinstance(row, str) else (id(row), "label" if isinstance(row, dict) else 1)
        ]
        start, end = start + 1, end - 1
        if isinstance(row, str):
            digits, _, _ = self._text[start:end].partition(" ")
            start += len(digits) + 1
            if not digits.isdecimal():
                return
        raw = self._text[start:end]
        start += len(raw) - len(raw.lstrip())
        end -= len(raw) - len(raw.rstrip())
        yield start, end + (self.rows[number] in self._task.open_labels)

    def _compare(self, drafts: Sequence[_Rows]) -> None:
        for rows in drafts:
            for index, row in enumerate(rows.rows):
                try:
                    number, step, written = self._open(row)
                    answer = written if self._fields is not None else self._judge(step, written)
                except _DefectError as defect:
                    if defect.is_doubt:
                        raise _DefectError(rows.path_of(index) + defect.path, defect.message) from None
                    continue
                if number in self.rows and not self._agree(self.rows[number], answer):
                    raise _DefectError(rows.path_of(index), f"expected one answer to number {number}, got two")

    def _hear(self, shape: type, number: int, step: str, written: Any) -> bool:
        """Take a row's answer; whether its number was heard before, with the same answer."""
        self._shape = self._shape or shape
        if shape is not self._shape:
            raise _DefectError("", f"expected rows of one shape, got another one for number {show(number)}")
        if not 0 < number <= self._count:
            raise _DefectError("", f"expected numbers from 1 to {self._count}, got {show(number)}", is_doubt=True)
        if number not in self._heard:
            self._heard[number] = None
            self._heard[number] = self.rows[number] = self._judge(step, written)
            return False
        before = self._heard[number]
        if before is None or not self._agree(before, written if self._fields is not None else self._match(written)):
            raise _DefectError("", f"expected one answer to number {number}, got two", is_doubt=True)
        return True

    def _agree(self, before: Any, answer: Any) -> bool:
        # not ==, for which a record's 1, 1.0 and true are one
        return before == answer if self._fields is None else canonical_json(before) == canonical_json(answer)

    def _open(self, row: Any) -> tuple[int, str, Any]:
        """A row's number, and where its answer stands and what it is: what was written for a label, or the fields."""
        step = number_step = ""
        if isinstance(row, dict):
            number, number_step = row.get("n", _ABSENT), ".n"
            if self._fields is None and len(row) == 2 and type(row) is dict:
                step, written = ".label", row.get("label", _ABSENT)
            else:
                step, written = self._open_object(row)
        elif self._fields is not None:
            raise _DefectError("", f"expected an object, got {show(row)}")
        elif type(row) is str:
            head, _, written = row.partition(" ")
            if not (head.isdecimal() and head.isascii() and len(head) <= _MAX_DIGITS):
                raise _DefectError("", f"expected a number, a space and a label, got {show(row)}")
            number = int(head)
        elif type(row) is list and len(row) == 2:
            number_step, step = "[0]", "[1]"
            number, written = row
        else:
            raise _DefectError("", f"expected a row, got {show(row)}")
        if type(number) is not int:
            raise _DefectError(number_step, f"expected the item's number, got {_shown(number)}")
        return number, step, written

    def _open_object(self, row: dict[str, Any]) -> tuple[str, Any]:
        flaw = find_flaw(row)
        if flaw is not None:
            raise _DefectError("", f"expected a sound row, got {flaw}")
        is_nonce = "pack" in row and self._is_nonce(row, "")
        if self._fields is None:
            return ".label", row.get("label", _ABSENT)
        return "", {key: value for key, value in row.items() if key != "n" and not (is_nonce and key == "pack")}

    def _judge(self, step: str, written: Any) -> Any:
        """The answer that was written, in the task's spelling; a record is checked."""
        if self._fields is None:
            label = self._match(written)
            if label is None:
                raise _DefectError(step, f"expected one of the labels, got {_shown(written)}")
            return label
        try:
            defect = self._task.check_record(written)
        except Exception as error:  # a model's validators are the user's code
            raise _DefectError("", f"expected a record, its check raised {type(error).__name__}: {error}") from error
        if defect is not None:
            raise _DefectError(*defect)
        return written

    def _match(self, written: Any) -> str | None:
        if type(written) is not str:
            return None
        if written in self._task.labels:
            return written
        # No spelling is that much longer than its label (a letter is at most 4 code points), and normalising takes
        # quadratic time: 20 s for 160,000 combining marks
        written = written.strip()
        self._longest = self._longest or 4 * max(map(len, self._task.labels))
        return self._task.match_label(written) if len(written) <= self._longest else None


def _is_pair(value: list[Any]) -> bool:
    """Whether an array is a row on a line of its own, perhaps a cut one, and no array of rows."""
    if not value or type(value[0]) is not int:
        return False
    return isinstance(value, OpenArray) or (len(value) == 2 and type(value[1]) is str)


def _gather(every: Sequence[_Rows]) -> Sequence[_Rows]:
    """`every`, with the rows that stand on lines of their own as one answer."""
    lines = [rows for rows in every if rows.alone and rows.path == "$"]
    if len(lines) < 2:
        return every
    others = [rows for rows in every if not (rows.alone and rows.path == "$")]
    return [*others, _Rows("$", [line.rows[0] for line in lines], lines[0].named)]


def _step(key: str) -> str:
    return f".{key}" if _PLAIN_KEY.fullmatch(key) else f"[{show(key)}]"


def _printable(text: str) -> str:
    # What a reply says is shown in logs and on terminals
    text = text[:_MAX_SHOWN]
    return text if text.isprintable() else ascii(text)


def _shown(value: Any) -> str:
    return "none" if value is _ABSENT else show(value)
