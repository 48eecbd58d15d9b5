"""Reading a reply: total, linear, and an answer reaches only the item it names."""

import json
import time
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    FRAGMENTS,
    NESTED,
    WORDS,
    Finding,
    Written,
    answers,
    junk,
    mutated,
    tasks,
    telling_answers,
    texts,
    write,
)

from packer.answers import Answer, parse_answer
from packer.items import canonical_json
from packer.json_scan import MAX_DEPTH, MAX_VALUES
from packer.prompts import write_answer
from packer.task import AnswerShape, Task

SPAM = Task(["spam", "ham"])
HEAD = '{"pack":"k7f2","answers":['


def read(text: str, *, task: Task = SPAM, nonce: str = "k7f2", count: int = 3) -> Answer:
    return parse_answer(text, task=task, nonce=nonce, count=count)


def read_for(written: Written, text: str) -> Answer:
    return parse_answer(text, task=written.task, nonce=written.nonce, count=written.count)


def assert_sound(answer: Answer, task: Task, count: int) -> None:
    """What holds for every reply."""
    assert set(answer.rows) <= set(range(1, count + 1))
    assert not (answer.rejected and answer.rows)
    assert bool(answer.defects) or len(answer.rows) == count
    for row in answer.rows.values():
        json.dumps(row, allow_nan=False, ensure_ascii=False).encode()
        if task.record_schema is None:
            assert row in task.labels
        else:
            assert task.check_record(row) is None
    for defect in answer.defects:
        assert defect.path.startswith("$")
        assert str(defect).isprintable()
        assert len(str(defect)) < 2_500


# "Never raises anything for any text"

ANY_TEXT = (
    texts(400)
    | st.binary(max_size=200).map(lambda data: data.decode(errors="surrogateescape"))
    | st.lists(junk("k7f2"), max_size=12).map("".join)
    | st.lists(st.sampled_from([HEAD, '{"n":1,"label":"spam"}', '[1,"ham"]', '"1 spam"', *FRAGMENTS]), max_size=12).map(
        "".join
    )
)


@pytest.mark.no_cover
@settings(max_examples=150)
@given(ANY_TEXT, tasks(), st.integers(1, 8))
def test_no_text_raises_anything(text: str, task: Task, count: int) -> None:
    assert_sound(read(text, task=task, count=count), task, count)


@given(answers(), st.data())
def test_no_answer_gone_wrong_raises_anything(written: Written, data: st.DataObject) -> None:
    text = data.draw(mutated(written).flatmap(lambda text: junk(written.nonce).map(lambda more: text + more)))
    assert_sound(read_for(written, text), written.task, written.count)


@pytest.mark.parametrize("opener", ["[", '{"a":', '{"pack":"k7f2","answers":[', '{"n":1,"label":', "[[1,"])
def test_nesting_without_end_is_neither_followed_nor_raised(opener: str) -> None:
    for text in (opener * 20_000, opener * 20_000 + "1" + "]}" * 20_000):
        assert not read(text).rows


def test_a_record_that_is_nested_too_deeply_is_dropped_and_its_neighbours_kept() -> None:
    def nest(depth: int) -> str:
        return '{"answers":[' + '{"of":' * depth + "{}" + "}" * depth + "]"

    task = Task(record=NESTED)
    rows = ",".join(
        f'{{"n":{number},{nest(depth)[1:]}}}' for number, depth in [(1, 3), (2, MAX_DEPTH), (3, 300), (4, 0)]
    )
    answer = read(HEAD + rows + "]}", task=task, count=4)
    assert set(answer.rows) == {1, 4}
    assert "nested too deeply" in answer.defects[0].message
    # a fence makes it the hand-written reader's business, which goes no deeper and does not find its way back
    assert set(read(f"```\n{HEAD}{rows}]}}\n```", task=task, count=4).rows) == {1}


def test_a_number_with_digits_without_end_is_no_number() -> None:
    for digits in ("9" * 400, "9" * 10_000, "0." + "1" * 10_000, "1e999", "-1e999", "9" * 400 + "e5"):
        for text in (f"{HEAD}[1,{digits}],[{digits},2],[3,4]]}}", f"{HEAD}[{digits},"):
            assert not read(text).rows
            assert not read(text, task=Task(record=Finding)).rows
    assert not read(f'{HEAD}"{"9" * 10_000} spam"]}}').rows


def test_what_a_models_validator_raises_is_that_rows_defect() -> None:
    class Odd(pydantic.BaseModel):
        name: str

        @pydantic.field_validator("name")
        @classmethod
        def look_up(cls, name: str) -> str:
            return {"a": "b"}[name]

    answer = read(f'{HEAD}{{"n":1,"name":"a"}},{{"n":2,"name":"c"}}]}}', task=Task(record=Odd), count=2)
    assert answer.rows == {1: {"name": "a"}}
    assert "KeyError" in answer.defects[0].message


def test_what_a_reply_says_is_shown_short_and_harmless() -> None:
    class Loud(pydantic.BaseModel):
        name: str

        @pydantic.field_validator("name")
        @classmethod
        def refuse(cls, name: str) -> str:
            raise ValueError(name)

    name = json.dumps("\x1b[31m\u202e" + "a" * 1_000)
    (defect, _) = read(f'{HEAD}{{"n":1,"name":{name}}}]}}', task=Task(record=Loud), count=1).defects
    assert str(defect).isprintable()
    assert len(str(defect)) < 300


def test_of_defects_without_end_the_first_hundred_are_told() -> None:
    answer = read(HEAD + '"x",' * 5_000)
    assert [defect.path for defect in answer.defects] == [f"$.answers[{index}]" for index in range(100)]


def test_values_without_end_are_no_answer() -> None:
    answer = write(SPAM, "k7f2", {1: "spam"}).text
    assert read("[1] " * (MAX_VALUES - 1) + answer, count=1).rows == {1: "spam"}
    assert not read("[1] " * MAX_VALUES + answer, count=1).rows


# "Linear time": not absolute times, which a busy machine stretches, but what four times the text takes

UNITS = [
    *(
        " ",
        "\n",
        "[",
        "{",
        '"',
        "`",
        "\\",
        ",",
        "x",
        "9",
        "\x00",
        "\ud800",
        "[1]",
        "[]",
        "{}",
        "[[]",
        "{[",
        '{"',
        '{"\n',
    ),
    *('answers":', '{"a":', '{"a":{"b":', "```json\n", "```json\n{\n", "` ", "<think>", "<think></think>", "</think>"),
    *("<|channel|>analysis", '{"n":1,"label":"spam"}\n', '{"n":1,"label":"spam"},', '"1 spam",', '["1 spam"]', "[1],"),
    *(
        '"1 \u0316\u0300",',
        "\u0316\u0300",
        '["\\u0041"]',
        '"\\ud800",',
        "NaN,",
        "1e9,",
        '{"a":1,"a":2},',
        f'{HEAD}"1 spam"',
    ),
]
STARTS = ["", "<think>", '{"pack":"', HEAD, f'{HEAD}"1 ', f'{HEAD}{{"n":1,"label":"spam"}},']


def time_of(text: str, task: Task) -> float:
    def once() -> float:
        start = time.process_time()
        read(text, task=task)
        return time.process_time() - start

    return min(once() for _ in range(2))


@pytest.mark.parametrize("task", [SPAM, Task(record=Finding)], ids=["label", "record"])
@pytest.mark.parametrize("start", STARTS)
def test_four_times_the_text_takes_about_four_times_as_long(start: str, task: Task) -> None:
    for unit in UNITS:
        short = time_of(start + unit * (2_500 // len(unit)), task)
        long = time_of(start + unit * (10_000 // len(unit)), task)
        assert long < 9 * short + 0.02, repr(unit)


def test_marks_in_an_order_that_takes_quadratic_time_to_normalise_are_no_label() -> None:
    def time_of_label(marks: int) -> float:
        return time_of(HEAD + '"1 ' + "\u0316\u0300" * marks + '"]}', SPAM)

    assert time_of_label(40_000) < 9 * time_of_label(10_000) + 0.02


# "No proper prefix of an answer gives a row that the whole answer does not"

WRAPPINGS: dict[str, Callable[[str], str]] = {
    "bare": lambda text: text,
    "fence": lambda text: f"```json\n{text}\n```\n",
    "preamble": lambda text: f"Here [as asked] are the {{labels}}:\n\n{text}\n\nTell me if you need more!",
    "reasoning": lambda text: f'<think>Like {{"n":1}}? Or ["1 {WORDS[0]}"]: no.</think>\n{text}',
    "half a reasoning": lambda text: f'The shape is ["1 {WORDS[0]}", ...].\n</think>\n\n{text}',
    "open reasoning": lambda text: f'<think>\nThe shape is ["1 {WORDS[0]}"].\n\n{text}',
    "channels": lambda text: (
        f"<|channel|>analysis<|message|>[1]<|end|><|start|>assistant<|channel|>final<|message|>{text}"
    ),
    "wrapper": lambda text: f'{{"result":{{"answer":{text}}}}}',
    "list": lambda text: f"[{text}]",
    "trailing comma": lambda text: text[:-2] + ",],}",
    "byte order mark": lambda text: f"\ufeff {text}",
    "another reply": lambda text: f"{text}\n{text}",
    "bare array": lambda text: json.dumps(json.loads(text)["answers"]),
    "JSON lines": lambda text: "\n".join(map(json.dumps, json.loads(text)["answers"])),
}


def is_within(part: Mapping[int, Any], whole: Mapping[int, Any]) -> bool:
    return all(number in whole and canonical_json(row) == canonical_json(whole[number]) for number, row in part.items())


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@settings(max_examples=8)
@given(answers(max_count=4))
def test_no_proper_prefix_of_an_answer_gives_a_row_that_the_whole_answer_does_not(
    wrapping: str, written: Written
) -> None:
    if "reasoning" in wrapping and "think" in written.text.casefold():
        return  # a label may be the very tag
    text = WRAPPINGS[wrapping](written.text)
    whole = read_for(written, text)
    if not (wrapping == "JSON lines" and written.task.shape is AnswerShape.LINE):
        assert is_within(written.rows, whole.rows)
    assert not whole.rejected
    kept = 0
    for end in range(len(text)):
        part = read_for(written, text[:end])
        assert is_within(part.rows, whole.rows)
        if wrapping != "another reply":
            # what came is not lost again by what comes after it, and nothing is in doubt on the way
            assert kept <= len(part.rows)
            assert not part.rejected
            kept = len(part.rows)


@pytest.mark.parametrize("shape", AnswerShape)
def test_a_row_is_kept_from_the_character_on_that_closes_it(shape: AnswerShape) -> None:
    task = Task(["spam", "not spam"], shape=shape)
    written = write(task, "k7f2", {1: "not spam", 2: "spam"})
    closed = [len(written.head + written.parts[0]), len(written.head + ",".join(written.parts))]
    if shape is AnswerShape.LINE:  # an unescaped quote would look the same: it takes the comma or the bracket
        closed = [end + 1 for end in closed]
    for end in range(len(written.text) + 1):
        assert len(read_for(written, written.text[:end]).rows) == sum(end >= place for place in closed)


# "Any mutation of a valid answer gives no row for the wrong item"


@pytest.mark.no_cover
@settings(max_examples=400)
@given(telling_answers(), st.data())
def test_an_answer_that_goes_wrong_once_gives_no_row_for_the_wrong_item(written: Written, data: st.DataObject) -> None:
    answer = read_for(written, data.draw(mutated(written)))
    for number, row in answer.rows.items():
        if written.task.record_schema is None:
            assert row == written.rows[number]
        else:
            assert row["word"] == written.rows[number]["word"]


@given(telling_answers(), telling_answers(), st.data())
def test_the_answer_of_another_pack_gives_no_row_beside_ours_or_alone(
    ours: Written, theirs: Written, data: st.DataObject
) -> None:
    if ours.nonce == theirs.nonce:
        return
    theirs_text = write(ours.task, theirs.nonce, dict(zip(theirs.rows, ours.rows.values(), strict=False))).text
    joined = data.draw(st.sampled_from(["", "\n", ",", "\n\n```\n", " and "])).join(
        data.draw(st.permutations([ours.text, theirs_text]))
    )
    for text in (theirs_text, joined):
        answer = read_for(ours, text)
        assert answer.rejected
        assert not answer.rows
    for end in range(len(theirs_text)):
        assert not read_for(ours, theirs_text[:end]).rows


@given(answers())
def test_a_valid_answer_gives_every_row_in_whatever_order(written: Written) -> None:
    for parts in (written.parts, written.parts[::-1]):
        answer = read_for(written, written.join(parts))
        assert answer == Answer(answer.rows)
        assert len(answer.rows) == written.count
        assert is_within(written.rows, answer.rows)


@pytest.mark.no_cover
@settings(max_examples=100)
@given(answers(), st.data())
def test_both_readers_of_json_read_the_same(written: Written, data: st.DataObject) -> None:
    # json's own reads what is clean; words before it leave it to the hand-written one
    text = data.draw(st.just(written.text) | mutated(written))
    clean, dirty = read_for(written, text), read_for(written, f"So:\n{text}")
    try:
        json.loads(text)
    except ValueError:
        return
    assert canonical_json(list(clean.rows.items())) == canonical_json(list(dirty.rows.items()))
    assert (clean.defects, clean.rejected) == (dirty.defects, dirty.rejected)


@settings(max_examples=30)
@given(answers())
def test_what_is_written_here_is_what_prompts_writes(written: Written) -> None:
    plain = write(written.task, written.nonce, written.rows)
    assert plain.text == write_answer(written.task, written.nonce, written.rows)


@pytest.mark.parametrize("name", ["straße", "ΐ", "한국", "ﬃ", "e\u0301te\u0301", "ᾂ", "not spam"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_every_spelling_that_the_task_takes_is_taken_from_a_reply(name: str, form: Literal["NFC", "NFD"]) -> None:
    task = Task([name, "other"])
    for spelling in (name, name.upper(), name.casefold(), f" \u2003{name}\n"):
        spelling = unicodedata.normalize(form, spelling)  # noqa: PLW2901
        assert task.match_label(spelling) == name
        assert read(json.dumps(["1 " + spelling]), task=task, count=1).rows == {1: name}
