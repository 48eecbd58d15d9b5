"""Items: what is sent is what is keyed, and one question has one key."""

import hashlib
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import texts

from packer.items import canonical_json, key_maker, normalise_text

MAKE = key_maker(fingerprint="f", model="m", parameters={"temperature": 0})


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  a\r\nb\rc\n", "a\nb\nc"),
        ("e\u0301", "é"),
        ("\ud83d\ude00", "😀"),
        ("x\ud83d", "x\ud83d"),
        ("\u00a0é\u2003", "é"),
        ("", ""),
    ],
)
def test_a_text_has_one_normal_form(text: str, normal: str) -> None:
    assert normalise_text(text) == normal


@given(texts())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise_text(normalise_text(text)) == normalise_text(text)


@given(texts(), texts())
def test_two_texts_share_a_key_exactly_where_their_normal_forms_are_equal(one: str, other: str) -> None:
    one, other = normalise_text(one), normalise_text(other)
    assert (MAKE(one) == MAKE(other)) == (one == other)


@given(texts())
def test_a_key_is_blake2b_over_the_canonical_json_of_all_that_can_change_an_answer(text: str) -> None:
    document = {"model": "m", "parameters": {"temperature": 0}, "task": "f", "text": text}
    assert MAKE(text) == "b2:" + hashlib.blake2b(canonical_json(document).encode(), digest_size=20).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"fingerprint": "g", "model": "m", "parameters": {"temperature": 0}},
        {"fingerprint": "f", "model": "n", "parameters": {"temperature": 0}},
        {"fingerprint": "f", "model": "m", "parameters": {"temperature": 1}},
    ],
)
def test_another_task_model_or_parameter_is_another_key(other: dict[str, object]) -> None:
    assert key_maker(**other)("text") != MAKE("text")  # type: ignore[arg-type]  # one of the two strings and a mapping


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_canonical_json_is_json_and_one_spelling(value: object) -> None:
    assert json.loads(canonical_json(value)) == value
    assert canonical_json(value).isascii()


def test_a_hostile_text_of_combining_marks_takes_no_time() -> None:
    hostile = "e" + "\u0316\u0300" * 500_000
    assert normalise_text(f" {hostile}\r\n") == hostile


def test_the_normal_form_is_nfc() -> None:
    assert unicodedata.is_normalized("NFC", normalise_text("A\u030angstro\u0308m"))
