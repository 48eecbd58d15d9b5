"""What is added to a table: columns with a free name, one type each, and for every result one value that fits it.

A label is one of the task's labels and a status one of the four states, so that both are categories. A record's field
has the type that its schema gives it where a column can hold that: texts, whole numbers, numbers, truth values,
choices, and lists of these. Anything else (an object, several types) is its JSON as a text, as it is in CSV. A value
that does not fit its column (a whole number beyond 64 bits) is left empty, and the row's `error` says so: nothing is
cut to size.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from packer.items import Decision, Result, Status, plain_record

if TYPE_CHECKING:
    from packer.task import Task

_MOST_STEPS = 20  # into a schema: a definition that names itself has no end
_INT64 = range(-(2**63), 2**63)


class Kind(StrEnum):
    """What a column holds; any of its values may be None."""

    TEXT = "text"
    WHOLE = "whole number"  # 64 bits, signed
    NUMBER = "number"  # a double
    TRUTH = "true or false"
    CHOICE = "choice"  # one of the column's choices
    LIST = "list"  # of the column's `of`
    JSON = "JSON"  # any value, as the text of its JSON


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a column: `choices` for a CHOICE, `of` for a LIST."""

    kind: Kind
    choices: tuple[str, ...] = ()
    of: Type | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """One column that is added."""

    name: str
    type: Type


_SIMPLE = {
    "string": Type(Kind.TEXT),
    "integer": Type(Kind.WHOLE),
    "number": Type(Kind.NUMBER),
    "boolean": Type(Kind.TRUTH),
}
_DECISION = Type(Kind.CHOICE, tuple(decision.value for decision in Decision))
_STATUS = Type(Kind.CHOICE, tuple(status.value for status in Status))


def choose_names(taken: Collection[Hashable], wanted: Iterable[str]) -> tuple[str, ...]:
    """A free column name for each of `wanted`: the name itself, else with `_2`, `_3`, ... behind it."""
    used = set(taken)
    chosen = []
    for name in wanted:
        free, number = name, 2
        while free in used:
            free, number = f"{name}_{number}", number + 1
        used.add(free)
        chosen.append(free)
    return tuple(chosen)


def fields_of(task: Task) -> tuple[str, ...]:
    """The record's fields; empty for a task with labels."""
    return () if task.record_schema is None else tuple(task.record_schema["properties"])


def added_columns(
    task: Task, *, taken: Collection[Hashable], confidence: bool = False, decision: bool = False
) -> tuple[Column, ...]:
    """The columns that `task` adds to a table with the columns `taken`.

    The label or the record's fields, the confidence and the decision where they are wanted, the status, the error.
    """
    if task.record_schema is None:
        types = {"label": Type(Kind.CHOICE, tuple(task.labels))}
    else:
        types = {name: _type_of(field, task.record_schema) for name, field in task.record_schema["properties"].items()}
    sure = [("confidence", Type(Kind.NUMBER))] if confidence else []
    sure += [("decision", _DECISION)] if decision else []
    found = [*types.items(), *sure, ("status", _STATUS), ("error", Type(Kind.TEXT))]
    names = choose_names(taken, (name for name, _ in found))
    return tuple(Column(name, type_) for name, (_, type_) in zip(names, found, strict=True))


def answers(result: Result, fields: Sequence[str]) -> list[Any]:
    """What was found, as JSON values: the label, or the record's `fields`; None for what is not there."""
    if not fields:
        return [result.label]
    if result.record is None:
        return [None] * len(fields)
    record = plain_record(result.record)
    return [record.get(name) for name in fields]


def found_values(result: Result, fields: Sequence[str], *, confidence: bool, decision: bool) -> list[Any]:
    """The values of all columns that are added, as JSON values."""
    found = answers(result, fields)
    if confidence:
        found.append(None if result.confidence is None else round(result.confidence, 6))
    if decision:
        found.append(result.decision.value if result.status is Status.LABELLED else None)
    return [*found, result.status.value, result.error]


def fitted(
    result: Result,
    fields: Sequence[str],
    columns: Sequence[Column],
    *,
    confidence: bool = False,
    decision: bool = False,
) -> list[Any]:
    """A value for each of `columns` (from `added_columns`) that its type allows."""
    values, unfit = [], []
    *found, error = found_values(result, fields, confidence=confidence, decision=decision)
    for column, value in zip(columns[:-1], found, strict=True):
        try:
            values.append(_fit(column.type, value))
        except (ValueError, OverflowError):
            values.append(None)
            unfit.append(f"{column.name}: a value that its column ({column.type.kind}) cannot hold: {str(value)[:80]}")
    return [*values, clean_text("; ".join(filter(None, [error, *unfit])))]


def _fit(type_: Type, value: Any) -> Any:
    """`value` as `type_` has it. Raises `ValueError` and `OverflowError`."""
    if value is None:
        return None
    match type_.kind:
        case Kind.JSON:
            return clean_text(json.dumps(value, ensure_ascii=False))
        case Kind.TEXT if isinstance(value, str):
            return clean_text(value)
        case Kind.CHOICE if value in type_.choices:
            return value
        case Kind.TRUTH if isinstance(value, bool):
            return value
        # 2.0 is a whole number to JSON Schema
        case Kind.WHOLE if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
            if int(value) in _INT64:
                return int(value)
        case Kind.NUMBER if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        case Kind.LIST if isinstance(value, list) and type_.of is not None:
            return [_fit(type_.of, one) for one in value]
    raise ValueError(f"{value!r} is no {type_.kind}")


def clean_text(text: str) -> str:
    r"""A lone surrogate, which no column of texts can hold, as \uXXXX."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _type_of(field: Any, root: Mapping[str, Any]) -> Type:
    found = _read_type(field, root, _MOST_STEPS)
    return Type(Kind.JSON) if found is None else found


def _read_type(field: Any, root: Mapping[str, Any], steps: int) -> Type | None:
    """The type of the values that the schema `field` allows besides null; None where there is no single one."""
    if not isinstance(field, Mapping) or not steps:
        return None
    if "$ref" in field:
        return _read_type(_follow(field["$ref"], root), root, steps - 1)
    for either in ("anyOf", "oneOf"):
        if either in field:
            ways = [way for way in field[either] if not (isinstance(way, Mapping) and way.get("type") == "null")]
            return _read_type(ways[0], root, steps - 1) if len(ways) == 1 else None
    allowed = [field["const"]] if "const" in field else field.get("enum")
    if isinstance(allowed, list):
        choices = [value for value in allowed if value is not None]
        is_text = bool(choices) and all(isinstance(value, str) and value == clean_text(value) for value in choices)
        return Type(Kind.CHOICE, tuple(dict.fromkeys(choices))) if is_text else None
    given = field.get("type")
    names = [given] if isinstance(given, str) else [name for name in given or () if name != "null"]
    if names == ["array"]:
        of = None if "prefixItems" in field else _read_type(field.get("items"), root, steps - 1)
        if of is not None and of.kind is Kind.CHOICE:
            of = Type(Kind.TEXT)  # categories belong to a column
        return None if of is None else Type(Kind.LIST, of=of)
    return _SIMPLE.get(names[0]) if len(names) == 1 else None


def _follow(reference: str, root: Mapping[str, Any]) -> Any:
    place: Any = root
    for part in reference.removeprefix("#/").split("/"):
        place = place.get(part) if isinstance(place, Mapping) else None
    return place
