"""A task: what every item is asked. All that can change an answer is in it, and in its fingerprint.

A task is checked when it is made, once: what is wrong is a `TaskError` that names the key and what was wanted.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import Enum, StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args, get_origin

import pydantic
from pydantic_core import PydanticCustomError

from packer.errors import TaskError, read_first_error
from packer.items import MAX_ITEMS_CEILING, canonical_json, normalise_text
from packer.shown import html_table
from packer.usage import Price

if TYPE_CHECKING:
    from packer.records import Record

# Part of the fingerprint: a change to what prompts.py writes is a change to what the model answers.
PROMPT_FORMAT = 3
_MOST_USD = 1_000_000
_ROWS_SHOWN = 50  # of the labels, in a notebook

LabelsLike: TypeAlias = Mapping[str, str] | Iterable[str] | type[Enum] | Any  # Any: a Literal[...] form
RecordLike: TypeAlias = type[pydantic.BaseModel] | Mapping[str, Any]


class AnswerShape(StrEnum):
    """How one row of the answer is written; every shape begins with the item's number."""

    OBJECT = "object"  # {"n": 1, "label": "spam"}; the only shape of a record task
    PAIR = "pair"  # [1, "spam"]
    LINE = "line"  # "1 spam"


@dataclass(frozen=True, slots=True)
class Example:
    """A text with its right answer: a label, or a record's fields."""

    text: str
    answer: str | Mapping[str, Any]


def _read_usd(given: Any) -> Decimal:
    usd = Decimal(given) if type(given) is int else given
    if not isinstance(usd, Decimal) or not usd.is_finite() or not 0 <= usd <= _MOST_USD:
        wanted = "expected US dollars per million tokens, like 0.15, got {given}"
        raise PydanticCustomError("usd", wanted, {"given": repr(given)})
    return usd


Usd: TypeAlias = Annotated[
    Decimal,
    pydantic.BeforeValidator(_read_usd),
    pydantic.WithJsonSchema({"type": "number", "minimum": 0, "maximum": _MOST_USD}),
]


class TaskFile(pydantic.BaseModel):
    """The content of a `task.toml` or `task.json`; `schemas/task.schema.json` is the same in JSON Schema."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    class FileExample(pydantic.BaseModel):
        """One example: a text, and its label or its record."""

        model_config = pydantic.ConfigDict(extra="forbid", strict=True)

        text: str
        label: str | None = None
        record: dict[str, Any] | None = None

    class FilePrice(pydantic.BaseModel):
        """The model's price in USD per million tokens; `cached_input` is for input that the provider has cached."""

        model_config = pydantic.ConfigDict(extra="forbid", strict=True)

        input: Usd
        output: Usd
        cached_input: Usd | None = None

    class FileCanary(pydantic.BaseModel):
        """One canary: a text, and the label that is right for it."""

        model_config = pydantic.ConfigDict(extra="forbid", strict=True)

        text: str
        label: str

    class FileCalibration(pydantic.BaseModel):
        """What `calibrate` chose by: `advice` is its sentence, `settings` the table. Only people read it."""

        model_config = pydantic.ConfigDict(extra="forbid", strict=True)

        class FileSetting(pydantic.BaseModel):
            """A setting: of `items`, `differing` got another answer than alone; at most `at_most` do, 95 % sure."""

            model_config = pydantic.ConfigDict(extra="forbid", strict=True)

            model: str
            shape: Literal["object", "pair", "line"]
            max_items: int
            items: int
            differing: int
            at_most: float | None = None
            usd_per_million: float | None = None
            outcome: Literal["singles", "keeps", "breaks", "unclear", "not asked"]

        advice: str
        sample: int
        seed: int
        max_disagreement: float
        settings: list[FileSetting]

    instructions: str = ""
    labels: dict[str, str] | list[str] | None = None
    record: dict[str, Any] | None = None
    examples: list[FileExample] = []
    canaries: list[FileCanary] = []
    shape: Literal["object", "pair", "line"] | None = None
    max_items: Annotated[int, pydantic.Field(ge=1, le=MAX_ITEMS_CEILING)] | None = None
    model: Annotated[str, pydantic.Field(min_length=1)] | None = None
    price: FilePrice | None = None
    calibration: FileCalibration | None = None


class Task:
    """Instructions, and the labels or the record that an item is to get.

    `labels` is a list of names, a mapping from name to description, an Enum (its string values, else its names) or a
    `Literal[...]`; `record` is a pydantic model or a JSON Schema of an object. Exactly one of the two is given.
    `examples` are `Example`s or (text, answer) pairs. `shape` None means the most compact that the task allows.
    `max_items` is the size of packs where a call says nothing else, and `model` who the command asks likewise. `price`
    is that of the model, None where the price table is to know it. None of the three is part of the fingerprint.
    `canaries` are texts with their right labels, in the same form, that only an untrusted job asks: they stand among
    the items as neighbours do, and are no more part of the fingerprint than those.

    Raises `TaskError`.
    """

    def __init__(
        self,
        labels: LabelsLike | None = None,
        *,
        record: RecordLike | None = None,
        instructions: str = "",
        examples: Iterable[Example | tuple[str, str | Mapping[str, Any]]] = (),
        shape: AnswerShape | str | None = None,
        price: Price | None = None,
        canaries: Iterable[Example | tuple[str, str]] = (),
        max_items: int | None = None,
        model: str | None = None,
    ) -> None:
        if (labels is None) == (record is None):
            raise TaskError("", "expected either labels or a record, got " + ("neither" if labels is None else "both"))
        if not isinstance(instructions, str):
            raise TaskError("instructions", f"expected text, got {type(instructions).__name__}")
        self.instructions = instructions.strip()
        self.labels: Mapping[str, str] = {} if labels is None else _read_labels(labels)
        self._by_folded = {fold_label(name): name for name in self.labels}
        self._record = None if record is None else _read_record(record)
        self.record_schema = None if self._record is None else self._record.schema
        self.record_model = None if self._record is None else self._record.model
        self.shape = _read_shape(shape, is_record=record is not None)
        self.examples = tuple(self._read_examples(examples, "examples"))
        self.canaries = tuple(self._read_canaries(canaries))
        self.price = price
        self.max_items = max_items
        self.model = model

    def shaped(self, shape: AnswerShape) -> Task:
        """The same task, whose answers are written in `shape`. Raises `TaskError` where that cannot be."""
        task = copy.copy(self)
        task.shape = _read_shape(shape, is_record=self.record_schema is not None)
        task.__dict__.pop("fingerprint", None)  # it is remembered, and it covers the shape
        return task

    def price_of(self, model: str) -> Price | None:
        """The price, where it is that of `model`: a task that names no model is for whoever is asked."""
        return self.price if self.model in {None, model} else None

    def match_label(self, answer: str) -> str | None:
        """The task's spelling of a label that a model wrote; None where it is not one of the labels.

        Equal after NFC, trimming and case folding, exactly otherwise.
        """
        return answer if answer in self.labels else self._by_folded.get(fold_label(answer))

    def check_record(self, fields: Mapping[str, Any]) -> tuple[str, str] | None:
        """None for a record that the task allows, else its first defect: the path in the record, what was wanted."""
        assert self._record is not None, "a task with labels has no record to check"
        return self._record.check(fields)

    def with_examples(self, examples: Iterable[Example]) -> Task:
        """The same task with more examples, behind its own. Raises `TaskError`."""
        asked: Any = self.record_model or self.record_schema
        return Task(
            None if asked else self.labels,
            record=asked,
            instructions=self.instructions,
            examples=[*self.examples, *examples],
            shape=self.shape,
            price=self.price,
            canaries=self.canaries,
            max_items=self.max_items,
            model=self.model,
        )

    def load(self, value: Any) -> tuple[str | None, Any]:
        """A stored answer as (label, record), one of the two None; a record as an instance of the task's model."""
        return (value, None) if self._record is None else (None, self._record.load(value))

    @cached_property
    def open_labels(self) -> frozenset[str]:
        """The labels with which another one begins: only what follows them tells that they are whole."""
        pairs = itertools.pairwise(sorted(self._by_folded))
        return frozenset(self._by_folded[one] for one, other in pairs if other.startswith(one))

    @cached_property
    def fingerprint(self) -> str:
        """A digest over all of the task that can change an answer, 32 hex digits."""
        content = {
            "format": PROMPT_FORMAT,
            "instructions": self.instructions,
            # pairs, not an object: the order of the labels is part of the prompt
            "labels": [[name, description] for name, description in self.labels.items()],
            "record": self.record_schema,
            "examples": [[example.text, example.answer] for example in self.examples],
            "shape": self.shape.value,
        }
        return hashlib.blake2b(canonical_json(content).encode(), digest_size=16).hexdigest()

    def __repr__(self) -> str:
        asked = f"labels={list(self.labels)}" if self.record_schema is None else f"record={self._record_name}"
        return f"Task({asked}, examples={len(self.examples)}, shape={self.shape.value!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        named = self.labels.items() if self.record_schema is None else self.record_schema.get("properties", {}).items()
        head = ("label", "description") if self.record_schema is None else ("field", "schema")
        rows = [(name, told if isinstance(told, str) else canonical_json(told)) for name, told in named]
        counts = f"examples: {len(self.examples)}, canaries: {len(self.canaries)}, shape: {self.shape.value}"
        rest = f"and {len(rows) - _ROWS_SHOWN} more" if len(rows) > _ROWS_SHOWN else ""
        return html_table([self.instructions or "no instructions", counts], head, rows[:_ROWS_SHOWN], rest)

    @property
    def _record_name(self) -> str:
        assert self.record_schema is not None
        return str(self.record_schema.get("title", "object"))

    def _read_canaries(self, canaries: Iterable[Example | tuple[str, str]]) -> Iterator[Example]:
        shown = {normalise_text(example.text) for example in self.examples}
        for index, canary in enumerate(self._read_examples(canaries, "canaries")):
            if self.record_schema is not None:
                raise TaskError("canaries", "expected none for a record task: a record has no one right answer")
            if normalise_text(canary.text) in shown:
                # the model could copy its label, whatever an attack makes it say of the items
                raise TaskError(f"canaries[{index}].text", "expected a text that is not one of the examples")
            yield canary

    def _read_examples(
        self, examples: Iterable[Example | tuple[str, str | Mapping[str, Any]]], name: str
    ) -> Iterator[Example]:
        for index, given in enumerate(examples):
            where = f"{name}[{index}]"
            if not isinstance(given, Example):
                if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
                    raise TaskError(where, "expected a (text, answer) pair")
                given = Example(*given)  # noqa: PLW2901  the pair is not needed any more
            if not isinstance(given.text, str) or not given.text.strip():
                raise TaskError(f"{where}.text", "expected a text that is not empty")
            yield Example(given.text, self._read_answer(given.answer, where))

    def _read_answer(self, answer: str | Mapping[str, Any], where: str) -> str | Mapping[str, Any]:
        if self.record_schema is None:
            label = self.match_label(answer) if isinstance(answer, str) else None
            if label is None:
                raise TaskError(
                    f"{where}.label", f"expected one of the labels ({_listed(self.labels)}), got {answer!r}"
                )
            return label
        if not isinstance(answer, Mapping):
            raise TaskError(f"{where}.record", f"expected the record's fields, got {answer!r}")
        defect = self.check_record(answer)
        if defect is not None:
            raise TaskError(f"{where}.record{defect[0]}", defect[1])
        return dict(answer)


def read_task(path: Path | str) -> Task:
    """The task in a `.toml` or `.json` file.

    Raises `TaskError` with the file's name, the key and what was wanted.
    """
    path = Path(path)
    readers: dict[str, Callable[..., Any]] = {".toml": tomllib.loads, ".json": json.loads}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise TaskError(str(path), "expected a task file that ends in .toml or .json")
    try:
        text = path.read_text(encoding="utf-8")
        content = reader(text)
        if isinstance(content, dict) and "price" in content:
            # money is read exactly, and nothing else is: a Decimal in a record's schema would be no JSON
            content["price"] = reader(text, parse_float=_read_decimal)["price"]
    except OSError as error:
        raise TaskError(str(path), f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TaskError(str(path), f"expected UTF-8, byte {error.start} is not") from error
    except ValueError as error:  # tomllib's and json's errors both
        raise TaskError(str(path), f"expected {path.suffix[1:].upper()}: {error}") from error
    except RecursionError as error:
        raise TaskError(str(path), "nested too deeply") from error
    try:
        return _task_from(TaskFile.model_validate(content))
    except pydantic.ValidationError as invalid:
        where, wanted = read_first_error(invalid)
        raise TaskError(f"{path}: {where.lstrip('.')}" if where else str(path), wanted) from invalid
    except TaskError as error:
        raise TaskError(f"{path}: {error.where}" if error.where else str(path), error.wanted) from error


def _read_decimal(given: str) -> Decimal:
    try:
        return Decimal(given)
    except InvalidOperation:  # an exponent of twenty digits
        return Decimal("NaN")


def fold_label(label: str) -> str:
    """The form in which two spellings of a label are compared."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", label).strip().casefold())


def _task_from(content: TaskFile) -> Task:
    for index, example in enumerate(content.examples):
        if (example.label is None) == (example.record is None):
            raise TaskError(f"examples[{index}]", "expected either a label or a record")
    price = content.price
    if price is not None and price.cached_input is not None and price.cached_input > price.input:
        # a reserve is made at the price of input
        raise TaskError("price.cached_input", f"expected at most price.input, {price.input}")
    return Task(
        content.labels,
        record=content.record,
        instructions=content.instructions,
        examples=[
            Example(example.text, example.label if example.label is not None else example.record or {})
            for example in content.examples
        ],
        shape=content.shape,
        price=None if price is None else Price(price.input, price.output, price.cached_input),
        canaries=[Example(canary.text, canary.label) for canary in content.canaries],
        max_items=content.max_items,
        model=content.model,
    )


def _read_labels(labels: LabelsLike) -> dict[str, str]:
    pairs = list(_label_pairs(labels))
    seen: dict[str, str] = {}
    for name, description in pairs:
        if not isinstance(name, str) or not isinstance(description, str):
            raise TaskError("labels", f"expected texts, got {name!r}: {description!r}")
        if not name or name != name.strip():
            raise TaskError("labels", f"expected names without white space round them, got {name!r}")
        if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in name):
            raise TaskError("labels", f"expected names without control characters, got {name!r}")
        twin = seen.get(fold_label(name))
        if twin == name:
            raise TaskError("labels", f"{name!r} is given twice")
        if twin is not None:
            raise TaskError("labels", f"{twin!r} and {name!r} differ only by case; a reply could not tell them apart")
        seen[fold_label(name)] = name
    if len(pairs) < 2:
        raise TaskError("labels", f"expected at least two labels, got {len(pairs)}")
    return {name: " ".join(description.split()) for name, description in pairs}


def _label_pairs(labels: LabelsLike) -> Iterator[tuple[Any, Any]]:
    if isinstance(labels, type) and issubclass(labels, Enum):
        values = [member.value for member in labels]
        by_value = all(isinstance(value, str) for value in values)
        return ((member.value if by_value else member.name, "") for member in labels)
    if get_origin(labels) is Literal:
        return ((value, "") for value in get_args(labels))
    if isinstance(labels, Mapping):
        return iter(labels.items())
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise TaskError("labels", f"expected a list, a mapping, an Enum or a Literal, got {labels!r}")
    return ((name, "") for name in labels)


def _read_record(given: RecordLike) -> Record:
    from packer.records import Record  # noqa: PLC0415  jsonschema, which a task with labels need not wait for

    return Record(given)


def _read_shape(shape: AnswerShape | str | None, *, is_record: bool) -> AnswerShape:
    if shape is None:
        return AnswerShape.OBJECT if is_record else AnswerShape.LINE
    try:
        read = AnswerShape(shape)
    except ValueError as error:
        raise TaskError("shape", f"expected one of {_listed(AnswerShape)}, got {shape!r}") from error
    if is_record and read is not AnswerShape.OBJECT:
        raise TaskError("shape", f"expected object for a record task, got {read.value}")
    return read


def _listed(names: Iterable[str]) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
