"""Tokens: o200k_base, offline, whatever the text."""

import base64
import csv
import gzip
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer.tokens import bound_tokens, count_tokens, replace_surrogates

Reference = Callable[[Sequence[str]], list[int]]
VOCABULARY = Path(__file__).resolve().parents[2] / "shared" / "data" / "vocab" / "o200k_base.tiktoken.gz"


@pytest.fixture(scope="module")
def reference() -> Reference:
    """What OpenAI's own library counts, with a vocabulary that is read from a file."""
    if not VOCABULARY.is_file():
        pytest.skip("the o200k_base vocabulary is not beside this repository")
    tiktoken = pytest.importorskip("tiktoken")
    public = pytest.importorskip("tiktoken_ext.openai_public")
    lines = gzip.decompress(VOCABULARY.read_bytes()).splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(public, "load_tiktoken_bpe", lambda *_, **__: ranks)
        encoding = tiktoken.Encoding(**public.o200k_base())
    return lambda texts: [len(encoding.encode_ordinary(text)) for text in texts]


@pytest.mark.parametrize("name", ["sms_spam", "banking77", "prompt_injections"])
def test_counts_are_openai_s_on_real_texts(name: str, shared_data: Path, reference: Reference) -> None:
    with (shared_data / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    assert len(texts) > 500
    assert count_tokens(texts) == reference(texts)


def test_counts_are_openai_s_on_any_text_or_off_by_one(reference: Reference) -> None:
    @given(st.lists(st.text(), max_size=20))
    def check(texts: list[str]) -> None:
        for ours, theirs in zip(count_tokens(texts), reference(texts), strict=True):
            assert abs(ours - theirs) <= 1

    check()


@given(st.text(st.characters(codec=None)))
def test_the_bound_is_never_below_the_count(text: str) -> None:
    assert bound_tokens(text) >= count_tokens([text])[0]


def test_the_bound_is_the_bytes_of_utf_8() -> None:
    assert [bound_tokens(text) for text in ("", "abc", "é", "中", "👍", "\ud800", "a\x00")] == [0, 3, 2, 3, 4, 3, 2]


def test_the_spelling_of_a_special_token_counts_as_text() -> None:
    assert count_tokens(["<|endoftext|>", "<|im_start|>"]) == [7, 6]


def test_a_lone_surrogate_counts_as_the_replacement_character() -> None:
    assert count_tokens(["a \ud800 b", "\udc00"]) == count_tokens(["a \ufffd b", "\ufffd"])


def test_two_halves_side_by_side_are_one_character() -> None:
    assert replace_surrogates("\ud83d\udc4d") == "👍"
    assert replace_surrogates("\ud83d \udc4dx") == "\ufffd \ufffdx"


@given(st.text(st.characters(codec=None)))
def test_what_has_no_surrogate_is_left_alone_and_what_has_becomes_utf_8(text: str) -> None:
    cleaned = replace_surrogates(text)
    assert cleaned.encode().decode() == cleaned
    assert cleaned == text or any("\ud800" <= character <= "\udfff" for character in text)


def test_one_bad_text_does_not_change_its_neighbours() -> None:
    assert count_tokens(["hello world", "\ud800", "hello world"])[::2] == [2, 2]


def test_no_texts_have_no_counts() -> None:
    assert count_tokens([]) == []


@pytest.mark.parametrize("text", ["a" * 1_000_000, "\n" * 1_000_000, "中" * 350_000, "x9-" * 330_000])
def test_a_text_of_a_million_bytes_is_counted_at_once(text: str) -> None:
    count_tokens(["warm"])
    began = time.perf_counter()
    assert count_tokens([text])[0] > 1_000
    assert time.perf_counter() - began < 1


def test_importing_it_does_not_load_the_vocabulary() -> None:
    code = "import sys, packer.tokens; sys.exit('toktok' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
