"""Both numberings of an untrusted pack meet in one place, and no canary passes it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import texts

from packer.canaries import Canaries, Canary, find_canaries
from packer.errors import CallError, TaskError
from packer.task import Example, Task, read_task

LABELS = ["a", "b", "c"]


@st.composite
def mixed(draw: st.DrawFn) -> tuple[list[str], Canaries]:
    """A pack's texts, and canaries of two labels at any two numbers of its prompt."""
    items = draw(st.lists(texts(), max_size=8))
    labels = draw(st.permutations(LABELS))
    numbers = draw(st.sets(st.integers(1, len(items) + 2), min_size=2, max_size=2))
    return items, Canaries(
        {number: Canary(draw(texts()), label) for number, label in zip(numbers, labels, strict=False)}
    )


def right_rows(items: list[str], canaries: Canaries) -> dict[int, Any]:
    """What a flawless model says of the prompt: a canary's label, and of an item its own text."""
    prompt = enumerate(canaries.mix(items), 1)
    return {
        number: canaries.by_number[number].label if number in canaries.by_number else ("of", text)
        for number, text in prompt
    }


@given(mixed())
def test_an_answer_to_the_prompt_is_an_answer_to_the_pack_and_no_canary_is_left(
    given: tuple[list[str], Canaries],
) -> None:
    items, canaries = given
    assert len(canaries.mix(items)) == len(items) + 2
    rows, missed = canaries.sift(right_rows(items, canaries))
    assert rows == {number: ("of", text) for number, text in enumerate(items, 1)}
    assert missed == {}


@given(mixed(), st.data())
def test_rows_that_are_missing_move_no_other_row(given: tuple[list[str], Canaries], data: st.DataObject) -> None:
    items, canaries = given
    lost = data.draw(st.sets(st.sampled_from(range(1, len(items) + 1)))) if items else set()
    right = {number: row for number, row in right_rows(items, canaries).items() if row not in LABELS}
    kept = {number: row for place, (number, row) in enumerate(sorted(right.items()), 1) if place not in lost}
    kept |= {number: canary.label for number, canary in canaries.by_number.items()}
    rows, missed = canaries.sift(kept)
    assert rows == {number: ("of", text) for number, text in enumerate(items, 1) if number not in lost}
    assert missed == {}


@given(mixed(), st.data())
def test_a_canary_that_is_wrong_or_missing_leaves_no_row(
    given: tuple[list[str], Canaries], data: st.DataObject
) -> None:
    items, canaries = given
    rows = right_rows(items, canaries)
    number, canary = data.draw(st.sampled_from(sorted(canaries.by_number.items(), key=lambda pair: pair[0])))
    came = data.draw(st.sampled_from([None, *(label for label in LABELS if label != canary.label)]))
    rows |= {number: came}
    if came is None:
        del rows[number]
    assert canaries.sift(rows) == ({}, {canary.label: came})


def test_an_answer_without_a_row_accuses_nobody() -> None:
    assert Canaries({1: Canary("x", "a"), 2: Canary("y", "b")}).sift({}) == ({}, {})


@given(st.lists(texts(), max_size=5))
def test_without_canaries_the_numbers_are_the_packs(items: list[str]) -> None:
    rows = {number: text for number, text in enumerate(items, 1) if number % 2}
    assert Canaries().mix(items) == items
    assert Canaries().sift(rows) == (rows, {})


# What the task gives


def test_canaries_are_kept_by_label_in_normalised_form() -> None:
    task = Task(["a", "b"], canaries=[(" one\r\n", "A"), Example("two", "b"), ("three", "a")])
    assert find_canaries(task) == {
        "a": (Canary("one", "a"), Canary("three", "a")),
        "b": (Canary("two", "b"),),
    }


@pytest.mark.parametrize("canaries", [[], [("one", "a")], [("one", "a"), ("two", "a")]])
def test_canaries_of_fewer_than_two_labels_are_refused_with_what_to_add(canaries: list[tuple[str, str]]) -> None:
    with pytest.raises(CallError, match=r"at least two labels, got [01]: add \[\[canaries\]\]"):
        find_canaries(Task(["a", "b"], canaries=canaries))


def test_examples_do_not_serve_as_canaries() -> None:
    with pytest.raises(CallError, match="got 0"):
        find_canaries(Task(["a", "b"], examples=[("one", "a"), ("two", "b")]))
    with pytest.raises(TaskError, match=r"canaries\[1\].text: expected a text that is not one of the examples"):
        Task(["a", "b"], examples=[("one", "a")], canaries=[("two", "b"), ("one ", "a")])


def test_a_record_task_has_no_canaries() -> None:
    record = {"type": "object", "properties": {"x": {"type": "string"}}}
    with pytest.raises(TaskError, match="canaries: expected none for a record task"):
        Task(record=record, canaries=[Example("one", {"x": "1"})])
    with pytest.raises(CallError, match="untrusted: expected a task with labels"):
        find_canaries(Task(record=record))


def test_a_wrong_canary_is_named() -> None:
    with pytest.raises(TaskError, match=r"canaries\[0\].label: expected one of the labels \(a, b\), got 'c'"):
        Task(["a", "b"], canaries=[("one", "c")])
    with pytest.raises(TaskError, match=r"canaries\[0\]: expected a \(text, answer\) pair"):
        Task(["a", "b"], canaries=["one"])  # type: ignore[list-item]  # what is refused


def test_canaries_are_no_part_of_what_the_model_is_told_of_the_task() -> None:
    assert Task(["a", "b"], canaries=[("one", "a")]).fingerprint == Task(["a", "b"]).fingerprint


def test_a_task_file_gives_canaries(tmp_path: Any) -> None:
    file = tmp_path / "task.toml"
    file.write_text('labels = ["a", "b"]\n[[canaries]]\ntext = "one"\nlabel = "b"\n')
    assert read_task(file).canaries == (Example("one", "b"),)
    file.write_text('labels = ["a", "b"]\n[[canaries]]\ntext = "one"\n')
    with pytest.raises(TaskError, match=r"task.toml: canaries\[0\].label"):
        read_task(file)
