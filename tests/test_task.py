"""Tasks: every way to say one, and one clear line for every wrong one."""

import enum
import json
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest

from packer.errors import TaskError
from packer.task import AnswerShape, Example, Task, read_task
from packer.usage import Price


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


class Place(pydantic.BaseModel):
    city: str
    zip: int

    @pydantic.field_validator("zip")
    @classmethod
    def has_five_digits(cls, value: int) -> int:
        if not 10_000 <= value <= 99_999:
            raise ValueError("expected five digits")
        return value


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["a", "b"], ["a", "b"]),
        (("a", "b"), ["a", "b"]),
        ({"a": "first", "b": ""}, ["a", "b"]),
        (Colour, ["red", "blue"]),
        (Level, ["LOW", "HIGH"]),
        (Literal["x", "y"], ["x", "y"]),
        (iter(["a", "b"]), ["a", "b"]),
    ],
)
def test_labels_come_in_every_usual_form(labels: Any, names: list[str]) -> None:
    assert list(Task(labels).labels) == names


def test_descriptions_take_one_line() -> None:
    assert Task({"a": " unwanted\n ads ", "b": ""}).labels == {"a": "unwanted ads", "b": ""}


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (["a"], "labels: expected at least two labels, got 1"),
        ([], "labels: expected at least two labels, got 0"),
        (["a", "a"], "labels: 'a' is given twice"),
        (["Spam", "spam"], "labels: 'Spam' and 'spam' differ only by case"),
        (["Straße", "STRASSE"], "differ only by case"),
        (["\u00e9", "e\u0301"], "differ only by case"),
        (["a", ""], "labels: expected names without white space round them, got ''"),
        (["a", " b"], "labels: expected names without white space round them, got ' b'"),
        (["a", "b\nc"], "labels: expected names without control characters"),
        (["a", "b\ud800"], "labels: expected names without control characters"),
        (["a", 1], "labels: expected texts, got 1"),
        ({"a": 1, "b": ""}, "labels: expected texts, got 'a': 1"),
        ("ab", "labels: expected a list, a mapping, an Enum or a Literal, got 'ab'"),
        (7, "labels: expected a list, a mapping, an Enum or a Literal, got 7"),
    ],
)
def test_wrong_labels_are_refused_in_one_line(labels: Any, wanted: str) -> None:
    with pytest.raises(TaskError) as caught:
        Task(labels)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("spam", "spam"),
        (" SPAM ", "spam"),
        ("Spam", "spam"),
        ("spa", None),
        ("spam.", None),
        ("", None),
        ("gru\u0308n", "Grün"),
    ],
)
def test_a_label_matches_after_nfc_trimming_and_case_folding_and_exactly_otherwise(
    written: str, label: str | None
) -> None:
    assert Task(["spam", "ham", "Grün"]).match_label(written) == label


def test_a_task_asks_for_labels_or_for_a_record() -> None:
    with pytest.raises(TaskError, match="got neither"):
        Task()
    with pytest.raises(TaskError, match="got both"):
        Task(["a", "b"], record=Place)


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        (int, "record: expected a pydantic model or a JSON Schema, got int"),
        (7, "record: expected a pydantic model or a JSON Schema, got 7"),
        ({"type": "string"}, 'record: expected a schema with "type": "object" and "properties"'),
        ({"type": "object"}, 'record: expected a schema with "type": "object" and "properties"'),
        ({"type": "object", "properties": {"n": {}}}, "record.properties.n: the name n is taken"),
        ({"type": "object", "properties": {"a": {"type": "text"}}}, "record.properties.a.type: expected a JSON Schema"),
        ({"type": "object", "properties": {"a": {"$ref": "http://evil.example/x"}}}, "references to the schema's own"),
        (
            {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#/properties/b"}]}}},
            "references to the schema's own",
        ),
    ],
)
def test_wrong_records_are_refused_in_one_line(record: Any, wanted: str) -> None:
    with pytest.raises(TaskError) as caught:
        Task(record=record)
    assert wanted in str(caught.value)


def test_a_record_is_checked_by_its_schema_and_by_its_model() -> None:
    task = Task(record=Place)
    assert task.check_record({"city": "Ulm", "zip": 89073}) is None
    assert task.check_record({"city": "Ulm", "zip": "89073"}) == (".zip", "'89073' is not of type 'integer'")
    assert task.check_record({"city": "Ulm", "zip": 1}) == (".zip", "Value error, expected five digits")
    assert task.load({"city": "Ulm", "zip": 89073}) == (None, Place(city="Ulm", zip=89073))


def test_a_json_schema_record_names_the_path_of_its_defect() -> None:
    schema = {"type": "object", "properties": {"tags": {"type": "array", "items": {"type": "string"}}}}
    task = Task(record=schema)
    assert task.check_record({"tags": ["a", 1]}) == (".tags[1]", "1 is not of type 'string'")
    assert task.load({"tags": []}) == (None, {"tags": []})


def test_examples_are_checked_and_take_the_tasks_spelling() -> None:
    task = Task(["spam", "ham"], examples=[("Win!", "SPAM"), Example("hi", "ham")])
    assert task.examples == (Example("Win!", "spam"), Example("hi", "ham"))


@pytest.mark.parametrize(
    ("examples", "wanted"),
    [
        ([("a", "eggs")], "examples[0].label: expected one of the labels (spam, ham), got 'eggs'"),
        ([("a", "ham"), ("", "ham")], "examples[1].text: expected a text that is not empty"),
        ([("a", {"x": 1})], "examples[0].label: expected one of the labels (spam, ham), got {'x': 1}"),
        (["ab"], "examples[0]: expected a (text, answer) pair"),
        ([("a", "b", "c")], "examples[0]: expected a (text, answer) pair"),
    ],
)
def test_wrong_examples_are_refused_in_one_line(examples: Any, wanted: str) -> None:
    with pytest.raises(TaskError) as caught:
        Task(["spam", "ham"], examples=examples)
    assert str(caught.value) == wanted


def test_examples_of_a_record_task_are_checked_as_records() -> None:
    with pytest.raises(TaskError, match=r"examples\[0\].record.zip: '1' is not of type 'integer'"):
        Task(record=Place, examples=[("a", {"city": "Ulm", "zip": "1"})])
    with pytest.raises(TaskError, match=r"examples\[0\].record: expected the record's fields, got 'x'"):
        Task(record=Place, examples=[("a", "x")])
    assert Task(record=Place, examples=[("a", {"city": "Ulm", "zip": 89073})]).examples[0].answer == {
        "city": "Ulm",
        "zip": 89073,
    }


def test_shapes() -> None:
    assert Task(["a", "b"]).shape is AnswerShape.LINE
    assert Task(record=Place).shape is AnswerShape.OBJECT
    assert Task(["a", "b"], shape="pair").shape is AnswerShape.PAIR
    with pytest.raises(TaskError, match="shape: expected one of object, pair, line, got 'round'"):
        Task(["a", "b"], shape="round")
    with pytest.raises(TaskError, match="shape: expected object for a record task, got line"):
        Task(record=Place, shape="line")


def test_the_fingerprint_covers_all_that_can_change_an_answer() -> None:
    variants = [
        Task(["a", "b"]),
        Task(["b", "a"]),
        Task({"a": "x", "b": ""}),
        Task(["a", "b"], instructions="be nice"),
        Task(["a", "b"], examples=[("t", "a")]),
        Task(["a", "b"], shape="object"),
        Task(record=Place),
    ]
    assert len({task.fingerprint for task in variants}) == len(variants)
    assert Task(["a", "b"], instructions=" be nice ").fingerprint == variants[3].fingerprint


def test_a_task_shows_what_it_asks() -> None:
    assert repr(Task(["a", "b"], examples=[("t", "a")])) == "Task(labels=['a', 'b'], examples=1, shape='line')"
    assert repr(Task(record=Place)) == "Task(record=Place, examples=0, shape='object')"


def test_a_task_is_read_from_toml_and_from_json(tmp_path: Path) -> None:
    toml, as_json = tmp_path / "task.toml", tmp_path / "task.json"
    toml.write_text(
        'instructions = "Texts."\nshape = "pair"\n[labels]\nspam = "ads"\nham = ""\n'
        '[[examples]]\ntext = "Win!"\nlabel = "spam"\n',
        encoding="utf-8",
    )
    content = {
        "instructions": "Texts.",
        "shape": "pair",
        "labels": {"spam": "ads", "ham": ""},
        "examples": [{"text": "Win!", "label": "spam"}],
    }
    as_json.write_text(json.dumps(content), encoding="utf-8")
    assert read_task(toml).fingerprint == read_task(as_json).fingerprint
    schema = {"record": Place.model_json_schema(), "examples": [{"text": "x", "record": {"city": "Ulm", "zip": 89073}}]}
    as_json.write_text(json.dumps(schema), encoding="utf-8")
    assert read_task(as_json).examples[0].answer == {"city": "Ulm", "zip": 89073}


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("task.yaml", b"", "expected a task file that ends in .toml or .json"),
        ("task.toml", None, "cannot be read: No such file or directory"),
        ("task.toml", b"labels = [", "expected TOML:"),
        ("task.json", b"{", "expected JSON:"),
        ("task.json", b"[" * 100_000, "nested too deeply"),
        ("task.toml", b"a = '\xff'", "expected UTF-8, byte 5 is not"),
        ("task.toml", b"label = ['a', 'b']", "task.toml: label: Extra inputs are not permitted"),
        ("task.toml", b"labels = 7", "task.toml: labels"),
        (
            "task.toml",
            b"instructions = 7\nlabels = ['a', 'b']",
            "task.toml: instructions: Input should be a valid string",
        ),
        ("task.toml", b"labels = ['a']", "task.toml: labels: expected at least two labels, got 1"),
        (
            "task.toml",
            b"labels = ['a', 'b']\n[[examples]]\ntext = 'x'",
            "task.toml: examples[0]: expected either a label or a record",
        ),
        ("task.toml", b"labels = ['a', 'b']\n[[examples]]\nlabel = 'a'", "task.toml: examples[0].text: Field required"),
        ("task.toml", b"", "task.toml: expected either labels or a record, got neither"),
        ("task.json", b"7", "task.json: Input should be"),
    ],
)
def test_a_wrong_task_file_names_the_key_and_what_was_wanted(
    tmp_path: Path, name: str, content: bytes | None, wanted: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TaskError) as caught:
        read_task(path)
    assert str(path) in str(caught.value)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_instructions_are_text() -> None:
    with pytest.raises(TaskError, match="instructions: expected text, got int"):
        Task(["a", "b"], instructions=7)  # type: ignore[arg-type]  # wrong on purpose


def test_the_size_of_packs_and_the_model_are_read_and_change_no_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    path.write_text(
        'labels = ["a", "b"]\nmax_items = 8\nmodel = "m"\n[price]\ninput = 1\noutput = 2\n', encoding="utf-8"
    )
    task = read_task(path)
    assert (task.max_items, task.model) == (8, "m")
    assert task.fingerprint == Task(["a", "b"]).fingerprint
    more = task.with_examples([Example("t", "a")])
    assert (more.max_items, more.model, more.price) == (8, "m", task.price)
    # a price is that of the model that the task names
    assert task.price_of("m") == task.price == Price(Decimal(1), Decimal(2))
    assert task.price_of("other") is None
    assert Task(["a", "b"], price=task.price).price_of("other") == task.price


@pytest.mark.parametrize("line", ["max_items = 0", "max_items = 101", 'max_items = "8"', 'model = ""'])
def test_a_size_or_a_model_that_cannot_be_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "task.toml"
    path.write_text(f'labels = ["a", "b"]\n{line}\n', encoding="utf-8")
    with pytest.raises(TaskError, match=line.split(maxsplit=1)[0]):
        read_task(path)


def test_a_task_of_another_shape_is_the_same_but_for_its_fingerprint() -> None:
    task = Task(["a", "b"], instructions="i")
    line = task.fingerprint  # which is remembered
    other = task.shaped(AnswerShape.PAIR)
    assert (other.shape, other.labels, other.instructions) == (AnswerShape.PAIR, task.labels, "i")
    assert other.fingerprint == Task(["a", "b"], instructions="i", shape="pair").fingerprint != line
    assert task.shaped(task.shape).fingerprint == task.fingerprint == line
    with pytest.raises(TaskError, match="expected object for a record task"):
        Task(record={"type": "object", "properties": {"k": {}}}).shaped(AnswerShape.LINE)
