"""JSON values in a text, read strictly and once: a character that was read is never read again.

Nothing is repaired. What was never closed, by the reply's end or by an error, is marked as such, so that no reader
takes it for whole; after an error the values that follow are marked too. A comma before a closing bracket is the one
liberty. A string or number counts only with the comma or bracket behind it: a cut `12` would else be a 1, and a quote
that was not escaped looks like the end of its string.

Linear by construction: the search goes on where the last value ended, closed or not; no pattern here can backtrack;
nesting is bounded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

Span: TypeAlias = tuple[int, int]
"""Where something stands in a text: its first character, and the one behind its last."""

Places: TypeAlias = dict[tuple[int, Hashable], Span]
"""Where the elements of a text's arrays and objects stand.

The key is an array's or object's `id`, which no other one has as long as all of them are held, and the index or key.
"""

MAX_DEPTH = 32  # of brackets; answers need 3, and a record's own nesting
MAX_VALUES = 2000  # side by side in a text, sound or not: more is no answer, and is given up
MAX_DIGITS = 300  # of a number: below the range of a double, and of what int() takes quadratic time for

# Nothing follows these patterns, so that none of them ever backtracks. No group is possessive: CPython 3.11.2, which
# Debian 12 has, takes `1e` for a whole match of such a group.
_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})[^"\\\x00-\x1f]*)*')
_SCALAR = re.compile(
    r"(?P<float>-?(?:0|[1-9][0-9]*)(?=[.eE])(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)|(?P<int>-?(?:0|[1-9][0-9]*))"
    r"|(?P<word>true|false|null)|(?P<constant>NaN|-?Infinity)"
)
_WORDS = {"true": True, "false": False, "null": None}

# What opens and what closes a model's reasoning: Qwen and DeepSeek, Mistral, gpt-oss. No pairing by name: a template
# may have written the opening one, and a model may close another.
_OPEN = r"<(?:think|thinking|thought|reasoning)>|\[THINK\]|<\|channel\|>analysis"
_CLOSE = r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]|<\|channel\|>final<\|message\|>"
_MARK = re.compile(rf"(?P<open>{_OPEN})|(?P<close>{_CLOSE})|[\[{{]", re.IGNORECASE)
_CLOSER = re.compile(_CLOSE, re.IGNORECASE)
# What may stand before a value on its line: a fence, a comma, a byte order mark
_LEAD = re.compile(r"[\s,`\ufeff]*+(?:jsonl?|ndjson)?\s*+", re.IGNORECASE)
_MARGIN = " \t\r\n\ufeff"


_Made = TypeVar("_Made")


class OpenArray(list[Any]):
    """An array that was never closed: its elements are those that were."""


class BadObject(dict[str, Any]):
    """An object that was never closed, or that names a key twice (`twice`, None where it does not)."""

    closed = False
    twice: str | None = None


@dataclass(frozen=True, slots=True)
class Flaw:
    """In the place of a number that JSON does not have, or that is too long to be one."""

    shown: str


@dataclass(frozen=True, slots=True)
class Found:
    """An array or object in a text.

    `end` is where it ended. `leads` tells that nothing but a fence, commas or other values stand before it on its
    line; `after_error` that an earlier value broke off, or was dropped as reasoning; `reasoning` that it stands in a
    reasoning block that was opened and never closed.
    """

    value: Any
    end: int
    leads: bool
    after_error: bool
    reasoning: bool


def find_values(text: str, places: Places | None = None) -> Sequence[Found]:
    """The arrays and objects in `text`, in its order; empty ones are left out, as is what a reasoning block holds.

    Objects and arrays inside are `dict` and `list` where they are sound, `BadObject` and `OpenArray` where they are
    not; a number that cannot be one is a `Flaw`. Strings may hold lone surrogates. `places` is filled where it is
    given, which takes four to eight times as long and changes nothing else: it stays empty for a value that the
    standard library reads in another way, because it is nested too deeply.
    """
    stripped = text.strip(_MARGIN)
    if stripped.startswith(("{", "[")):
        try:
            value = _DECODER.decode(stripped)
        except (ValueError, RecursionError):
            pass
        else:
            whole = [Found(value, len(text), leads=True, after_error=False, reasoning=False)] if value else []
            if places is None:
                return whole
            found = _search(text, places)
            if [one.value for one in found] == [one.value for one in whole]:
                return found
            places.clear()
            return whole
    return _search(text, places)


def is_margin(text: str, start: int) -> bool:
    """Whether nothing but white space and a fence stand in `text` from `start` on."""
    return not text[start:].strip("`" + _MARGIN)


def find_flaw(value: Any) -> str | None:
    """What is wrong inside `value`, which no row may hold; None where it is sound."""
    pending = [(value, 0)]
    while pending:
        part, depth = pending.pop()
        if depth > MAX_DEPTH:
            return "nested too deeply"
        if isinstance(part, str):
            if _is_broken(part):
                return "a lone surrogate"
        elif isinstance(part, dict):
            if isinstance(part, BadObject):
                return f"{show(part.twice)} twice" if part.closed else "a cut object"
            pending.extend((inner, depth + 1) for inner in part)
            pending.extend((inner, depth + 1) for inner in part.values())
        elif isinstance(part, list):
            pending.extend((inner, depth + 1) for inner in part)
        elif isinstance(part, Flaw):
            return part.shown
    return None


def show(value: Any) -> str:
    """`value` for a message: its JSON in ASCII, cut; the kind of value where that is shorter to say."""
    if isinstance(value, Flaw):
        return value.shown
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str) and len(value) > 60:
        return json.dumps(value[:60])[:-1] + '..."'
    return json.dumps(value)


def _is_broken(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _search(text: str, places: Places | None) -> list[Found]:
    found: list[Found] = []
    scanner = _Scanner(text, places)
    at = 0
    leads = True
    after_error = reasoning = False
    tries = 0
    while mark := _MARK.search(text, at):
        if mark["close"]:
            # All before it was reasoning, opened by the prompt's template; or it was an answer that went wrong
            after_error = after_error or bool(found)
            found.clear()
            at, leads, reasoning = mark.end(), True, False
        elif mark["open"]:
            # One search in vain is enough: an opening tag after it has no closing one either
            closer = None if reasoning else _CLOSER.search(text, mark.end())
            reasoning = closer is None
            at, leads = (mark if closer is None else closer).end(), True
        elif (tries := tries + 1) > MAX_VALUES:
            return []
        else:
            before = text[at : mark.start()]
            line = before.rfind("\n") + 1
            leads = (leads or line > 0) and _LEAD.fullmatch(before, line) is not None
            scanner.has_read = False
            value, at, closed = scanner.read(mark.start(), 0)
            if value:
                found.append(Found(value, at, leads, after_error, reasoning))
            # A bracket of prose ("[see below]") breaks at once and is no error of an answer
            after_error = after_error or (not closed and scanner.has_read)
            leads = leads and closed
    return found


class _Scanner:
    """Reads one value; `has_read` tells whether it met a whole string, number or word."""

    def __init__(self, text: str, places: Places | None) -> None:
        self._text = text
        self._places = places
        self.has_read = False

    def read(self, at: int, depth: int) -> tuple[Any, int, bool]:
        """The value at `at`, where reading ended, and whether the value was closed; None for no value."""
        first = self._text[at : at + 1]
        if first == '"':
            return self._read_string(at)
        if first in {"[", "{"}:
            if depth == MAX_DEPTH:
                return None, at, False
            return self._read_array(at, depth) if first == "[" else self._read_object(at, depth)
        scalar = _SCALAR.match(self._text, at)
        if scalar is None:
            return None, at, False
        self.has_read = True
        return _READERS[scalar.lastgroup or ""](scalar[0]), scalar.end(), True

    def _read_string(self, at: int) -> tuple[str, int, bool]:
        body = _STRING.match(self._text, at)
        assert body is not None, "the caller saw the quote"
        end = body.end()
        if self._text[end : end + 1] != '"':
            return "", end, False
        self.has_read = True
        if "\\" in body[0]:
            decoded: str = json.loads(body[0] + '"')
            return decoded, end + 1, True
        return body[0][1:], end + 1, True

    def _read_array(self, at: int, depth: int) -> tuple[list[Any], int, bool]:
        elements: list[Any] = []
        spans: list[Span] = []
        at = self._skip(at + 1)
        while self._text[at : at + 1] != "]":
            began = at
            value, at, closed = self.read(at, depth + 1)
            ended = at
            at, follows = self._follow(at, closed=closed)
            if follows in {",", "]"} or isinstance(value, (list, dict)):
                elements.append(value)
                spans.append((began, ended))
            if follows == ",":
                at = self._skip(at + 1)
            elif follows != "]":
                return self._note(OpenArray(elements), range(len(elements)), spans), at, False
        return self._note(elements, range(len(elements)), spans), at + 1, True

    def _read_object(self, at: int, depth: int) -> tuple[dict[str, Any], int, bool]:
        pairs: list[tuple[str, Any]] = []
        spans: list[Span] = []
        at = self._skip(at + 1)
        while self._text[at : at + 1] != "}":
            key, at, closed = self._read_string(at) if self._text[at : at + 1] == '"' else ("", at, False)
            at, follows = self._follow(at, closed=closed)
            if follows != ":":
                return _make_object(pairs, closed=False), at, False
            began = self._skip(at + 1)
            value, at, closed = self.read(began, depth + 1)
            ended = at
            at, follows = self._follow(at, closed=closed)
            if follows in {",", "}"} or isinstance(value, (list, dict)):
                pairs.append((key, value))
                spans.append((began, ended))
            if follows == ",":
                at = self._skip(at + 1)
            elif follows != "}":
                return _make_object(pairs, closed=False), at, False
        return self._note(_make_object(pairs), [key for key, _ in pairs], spans), at + 1, True

    def _note(self, made: _Made, names: Iterable[Hashable], spans: Sequence[Span]) -> _Made:
        if self._places is not None:
            self._places.update(((id(made), name), span) for name, span in zip(names, spans, strict=True))
        return made

    def _follow(self, at: int, *, closed: bool) -> tuple[int, str]:
        """Where the next token stands, and its first character; none behind a value that was never closed."""
        if not closed:
            return at, ""
        at = self._skip(at)
        return at, self._text[at : at + 1]

    def _skip(self, at: int) -> int:
        space = _SPACE.match(self._text, at)
        return at if space is None else space.end()


def _make_object(pairs: list[tuple[str, Any]], *, closed: bool = True) -> dict[str, Any]:
    value = dict(pairs)
    if closed and len(value) == len(pairs):
        return value
    bad = BadObject(value)
    bad.closed = closed
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            bad.twice = key
        seen.add(key)
    return bad


def _read_int(digits: str) -> int | Flaw:
    return int(digits) if len(digits) <= MAX_DIGITS else Flaw(f"a number of {len(digits)} digits")


def _read_float(digits: str) -> float | Flaw:
    value = float(digits) if len(digits) <= MAX_DIGITS else math.inf
    return value if math.isfinite(value) else Flaw("a number out of range")


_READERS = {"int": _read_int, "float": _read_float, "word": _WORDS.__getitem__, "constant": Flaw}
_DECODER = json.JSONDecoder(
    object_pairs_hook=_make_object, parse_int=_read_int, parse_float=_read_float, parse_constant=Flaw
)
