"""What a reply says in each format, and that what cannot be true is not said."""

from typing import Any

import pytest
from gateway_server import candidate, completion, message
from hypothesis import given
from hypothesis import strategies as st

from packer.exchange import StopReason
from packer.replies import read_candidate, read_completion, read_error, read_message
from packer.usage import Usage

FIELDS = (
    *("choices", "message", "content", "parts", "text", "type", "finish_reason", "usage", "prompt_tokens", "refusal"),
    *("completion_tokens", "prompt_tokens_details", "cached_tokens", "error", "candidates", "usageMetadata", "thought"),
    *("promptTokenCount", "candidatesTokenCount", "promptFeedback", "blockReason", "stop_reason", "input_tokens"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=20,
)


def said(**fields: Any) -> dict[str, Any]:
    return completion(choices=[{"index": 0, "finish_reason": "stop", "message": fields}])


@pytest.mark.parametrize(
    ("body", "text", "stop"),
    [
        (completion("hi"), "hi", StopReason.STOP),
        (completion("hi", finish="length"), "hi", StopReason.MAX_TOKENS),
        (completion("hi", finish="content_filter"), "hi", StopReason.CONTENT_FILTER),
        (completion("hi", finish="tool_calls"), "hi", StopReason.UNKNOWN),
        (completion("hi", choices=[{"message": {"content": "hi"}}]), "hi", StopReason.UNKNOWN),
        (said(content=None), "", StopReason.STOP),
        (said(content=None, refusal="I cannot"), "", StopReason.CONTENT_FILTER),
        (said(content="hi", refusal="I cannot"), "", StopReason.CONTENT_FILTER),
        (said(content="hi", refusal=None), "hi", StopReason.STOP),
        (said(content="hi", reasoning_content="let me think"), "hi", StopReason.STOP),
        (
            said(content=[{"type": "text", "text": "h"}, {"type": "thinking", "text": "?"}, {"text": "i"}, 7]),
            "hi",
            StopReason.STOP,
        ),
        (said(content={"text": "hi"}), "", StopReason.STOP),
    ],
)
def test_a_completion_gives_its_text_and_why_it_ended(body: Any, text: str, stop: StopReason) -> None:
    reading = read_completion(body)
    assert reading is not None
    assert (reading.text, reading.stop_reason) == (text, stop)


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 30, "completion_tokens": 5}, Usage(30, 5)),
        ({"prompt_tokens": 30, "completion_tokens": 5, "prompt_tokens_details": None}, Usage(30, 5)),
        (
            {"prompt_tokens": 30, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 20}},
            Usage(30, 5, 20),
        ),
        (
            {"prompt_tokens": 30, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 99}},
            Usage(30, 5, 30),
        ),
        (
            {"prompt_tokens": 30, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": -1}},
            Usage(30, 5),
        ),
        (None, None),
        ({}, None),
        ([], None),
        ({"prompt_tokens": 30}, None),
        ({"prompt_tokens": -30, "completion_tokens": 5}, None),
        ({"prompt_tokens": "30", "completion_tokens": 5}, None),
        ({"prompt_tokens": 30.0, "completion_tokens": 5}, None),
        ({"prompt_tokens": True, "completion_tokens": 5}, None),
        ({"prompt_tokens": 10**30, "completion_tokens": 5}, None),
        # unknown is never zero
        ({"prompt_tokens": 0, "completion_tokens": 5}, None),
        ({"prompt_tokens": 30, "completion_tokens": 0}, None),
    ],
)
def test_usage_that_cannot_be_true_is_none(usage: Any, read: Usage | None) -> None:
    reading = read_completion(completion("hi", usage=usage))
    assert reading is not None
    assert reading.usage == read


def test_an_empty_text_may_have_taken_no_tokens() -> None:
    reading = read_completion(completion("", usage={"prompt_tokens": 30, "completion_tokens": 0}))
    assert reading is not None
    assert reading.usage == Usage(30, 0)


@pytest.mark.parametrize(
    "body",
    [
        *(None, 7, "x", [], {}, {"choices": None}, {"choices": []}, {"choices": [None]}, {"choices": [{}]}),
        {"choices": [{"message": "hi"}]},
        {"choices": {"message": {"content": "hi"}}},
    ],
)
def test_what_is_no_completion_gives_none(body: Any) -> None:
    assert read_completion(body) is None
    assert read_message(body) is None
    assert read_candidate(body) is None


@pytest.mark.parametrize(
    ("body", "text", "stop", "usage"),
    [
        (message("hi"), "hi", StopReason.STOP, Usage(30, 5)),
        (message("hi", stop="max_tokens"), "hi", StopReason.MAX_TOKENS, Usage(30, 5)),
        (message("hi", stop="refusal"), "hi", StopReason.CONTENT_FILTER, Usage(30, 5)),
        (message("hi", stop="pause_turn"), "hi", StopReason.UNKNOWN, Usage(30, 5)),
        (
            message("hi", content=[{"type": "thinking", "thinking": "?"}, {"type": "text", "text": "hi"}]),
            "hi",
            StopReason.STOP,
            Usage(30, 5),
        ),
        (message("hi", content=[]), "", StopReason.STOP, Usage(30, 5)),
        (
            message(
                "hi",
                usage={
                    "input_tokens": 10,
                    "cache_creation_input_tokens": 20,
                    "cache_read_input_tokens": 400,
                    "output_tokens": 5,
                },
            ),
            "hi",
            StopReason.STOP,
            Usage(430, 5, 400),
        ),
        (message("hi", usage={"cache_read_input_tokens": 9}), "hi", StopReason.STOP, None),
    ],
)
def test_a_message_gives_its_text_and_all_of_its_input(
    body: Any, text: str, stop: StopReason, usage: Usage | None
) -> None:
    reading = read_message(body)
    assert reading is not None
    assert (reading.text, reading.stop_reason, reading.usage) == (text, stop, usage)


@pytest.mark.parametrize(
    ("body", "text", "stop", "usage"),
    [
        (candidate("hi"), "hi", StopReason.STOP, Usage(30, 5)),
        (candidate("hi", finish="MAX_TOKENS"), "hi", StopReason.MAX_TOKENS, Usage(30, 5)),
        (candidate("hi", finish="PROHIBITED_CONTENT"), "hi", StopReason.CONTENT_FILTER, Usage(30, 5)),
        (
            candidate(
                "hi",
                usageMetadata={
                    "promptTokenCount": 30,
                    "candidatesTokenCount": 5,
                    "thoughtsTokenCount": 90,
                    "cachedContentTokenCount": 7,
                },
            ),
            "hi",
            StopReason.STOP,
            Usage(30, 95, 7),
        ),
        (
            candidate(candidates=[{"content": {"parts": [{"text": "?", "thought": True}, {"text": "hi"}]}}]),
            "hi",
            StopReason.UNKNOWN,
            Usage(30, 5),
        ),
        (candidate(candidates=[{"finishReason": "MAX_TOKENS"}]), "", StopReason.MAX_TOKENS, Usage(30, 5)),
        (
            candidate(candidates=[], promptFeedback={"blockReason": "SAFETY"}),
            "",
            StopReason.CONTENT_FILTER,
            Usage(30, 5),
        ),
        (candidate("hi", usageMetadata={}), "hi", StopReason.STOP, None),
    ],
)
def test_a_candidate_gives_its_text_and_pays_for_its_thoughts(
    body: Any, text: str, stop: StopReason, usage: Usage | None
) -> None:
    reading = read_candidate(body)
    assert reading is not None
    assert (reading.text, reading.stop_reason, reading.usage) == (text, stop, usage)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (completion("hi"), None),
        (completion("hi", error=None), None),
        ([completion("hi")], None),
        ({"error": {"code": 429}}, {"error": {"code": 429}}),
        ({"error": "no"}, {"error": "no"}),
        ({"choices": [{"error": {"code": 502}, "finish_reason": "error"}]}, {"error": {"code": 502}}),
        ({"object": "error", "message": "no"}, {"object": "error", "message": "no"}),
    ],
)
def test_an_error_with_status_200_is_seen(body: Any, error: Any) -> None:
    assert read_error(body) == error


@given(JSON)
def test_no_json_raises(body: Any) -> None:
    for read in (read_completion, read_message, read_candidate):
        reading = read(body)
        assert reading is None or isinstance(reading.text, str)
    read_error(body)
