"""A report that is read again is a stranger's file: it is what its document says, or it is refused in one line.

The schema is drawn from the models, as the one in `schemas/` is. What a schema cannot say is checked besides: numbers
that fit, money that is money, and matrices that are square.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from packer.errors import CallError, InputError
from packer.evaluation import Evaluation, RecordEvaluation
from packer.report import Report

_MOST_BYTES = 16 * 1024 * 1024
_MOST = 10**15  # exact as a float
_MOST_LABELS = 1_000


def read_report(path: str) -> Report:
    """The report in the file. Raises `CallError`."""
    found: Report = _read(path, Report)
    return found


def read_evaluation(path: str) -> Evaluation | RecordEvaluation:
    """The evaluation in the file, as `evaluate --json` wrote it. Raises `CallError`."""
    found: Evaluation | RecordEvaluation = _read(path, Evaluation | RecordEvaluation)
    return found


def _read(path: str, model: Any) -> Any:
    import jsonschema  # noqa: PLC0415  a bad call does not wait for it
    import pydantic  # noqa: PLC0415  as above
    from jsonschema.exceptions import best_match  # noqa: PLC0415  as above

    document = _read_json(path)
    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(model)
    schema = adapter.json_schema(mode="serialization")
    error = best_match(jsonschema.Draft202012Validator(schema).iter_errors(document))
    if error is not None:
        raise _refuse(path, f"{_cut(error.message)} @ {_cut(error.json_path)}")
    try:
        found = adapter.validate_python(document)
    except pydantic.ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False)[0]
        raise _refuse(path, f"{_cut(first['msg'])} @ {_cut('.'.join(map(str, first['loc'])))}") from invalid
    for wrong in _find_wrong(found):
        raise _refuse(path, wrong)
    return found


def _read_json(path: str) -> Any:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "expected a file name"
        raise CallError(f"{path}: cannot be read: {reason}") from error
    if len(data) > _MOST_BYTES:
        raise _refuse(path, f"more than {_MOST_BYTES // 1024 // 1024} MB")
    try:
        return json.loads(data, parse_int=_read_number, parse_float=_read_number, parse_constant=_read_number)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else _cut(str(error))
        raise _refuse(path, f"it is no JSON: {reason}") from error


def _read_number(word: str) -> float | int:
    number = int(word) if word.lstrip("-").isdigit() and len(word) < 20 else float(word)
    if abs(number) < _MOST:  # not a number is less than nothing
        return number
    raise ValueError(f"a number that is out of all bounds: {_cut(word)}")


def _find_wrong(found: Any) -> Iterator[str]:
    for value in _walk(found):
        if isinstance(value, Decimal) and not _is_money(value):
            yield "an amount that is no money"
        elif isinstance(value, datetime) and value.tzinfo is None:
            yield "a time without its zone"
        elif isinstance(value, Evaluation):
            size = len(value.labels)
            if size > _MOST_LABELS:
                yield f"{size} labels; a page shows {_MOST_LABELS} at most"
            elif [len(row) for row in value.confusion] != [size] * size:
                yield f"the confusion matrix is not one of {size} rows and columns, as there are labels"


def _is_money(value: Decimal) -> bool:
    # a huge exponent would be written out, zero by zero
    return value.is_finite() and -40 <= value.adjusted() < 15


def _walk(value: Any) -> Iterator[Any]:
    yield value
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _walk(getattr(value, field.name))
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _walk(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _walk(inner)


def _refuse(path: str, reason: str) -> InputError:
    return InputError(f"{path}: this is no report that can be shown: {reason}")


def _cut(text: str) -> str:
    # a value, however long, stands before what is wrong with it
    return text if len(text) <= 120 else f"{text[:50]}…{text[-69:]}"
