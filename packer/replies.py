"""What a reply says, in the three formats that gateways speak. What cannot be true is not said.

Chat completions (OpenAI and whoever is compatible with it), messages (Anthropic) and candidates (Gemini). A reader
takes parsed JSON of any shape and gives None for what is no reply in its format; it never raises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packer.exchange import StopReason, Token
from packer.usage import Usage

_STOPS = {"stop", "end_turn", "stop_sequence", "eos", "eos_token"}
_LIMITS = {"length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded"}
_FILTERS = {
    "blocklist",
    "content_filter",
    "guardrail_intervened",
    "prohibited_content",
    "recitation",
    "refusal",
    "safety",
    "sensitive",
    "spii",
}
# More than any model takes in: a larger number is an error or an attack on the books
_MOST_TOKENS = 100_000_000
# What stands for a token that was not among the likely ones; a whole number below it is none
_LEAST_LOGPROB = -9_999


@dataclass(frozen=True, slots=True)
class Reading:
    """A reply's text, why it ended, and what it says it took; `cost` is `usage.cost` as it came.

    `tokens` are the text's with their log-probabilities, None where there are none.
    """

    text: str
    stop_reason: StopReason
    usage: Usage | None
    cost: Any = None
    tokens: Sequence[Token] | None = None


def read_error(body: Any) -> Any:
    """What stands in the place of an error in a reply with status 200; None where nothing does."""
    if not isinstance(body, Mapping):
        return None
    if body.get("error"):
        return {"error": body["error"]}
    if body.get("object") == "error" or body.get("type") == "error":
        return body
    error = _first(body.get("choices")).get("error")
    return {"error": error} if error else None


def read_cost(body: Any) -> Any:
    """`usage.cost` as it came, of a reply or of an error that came after work was done; None where there is none."""
    return _dict(_dict(body).get("usage")).get("cost")


def has_usage(body: Any) -> bool:
    """Whether tokens were counted: an error that comes with them came after work was done."""
    return any(isinstance(count, int) and count > 0 for count in _dict(_dict(body).get("usage")).values())


def read_completion(body: Any) -> Reading | None:
    """A chat completion."""
    body = _dict(body)
    choice = _first(body.get("choices"))
    message = choice.get("message")
    if not isinstance(message, Mapping):
        return None
    usage = _dict(body.get("usage"))
    cached = _dict(usage.get("prompt_tokens_details")).get("cached_tokens")
    text, stop = _text(message.get("content")), _stop_reason(choice.get("finish_reason"))
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        text, stop = "", StopReason.CONTENT_FILTER
    tokens = _usage(text, usage.get("prompt_tokens"), usage.get("completion_tokens"), cached)
    return Reading(text, stop, tokens, read_cost(body), _tokens(choice.get("logprobs")))


def read_message(body: Any) -> Reading | None:
    """An Anthropic message; its input tokens leave the cached ones out, ours do not."""
    body = _dict(body)
    if not isinstance(body.get("content"), list):
        return None
    usage, text = _dict(body.get("usage")), _text(body["content"])
    cached = usage.get("cache_read_input_tokens")
    parts = [_count(usage.get("input_tokens")), _count(usage.get("cache_creation_input_tokens")), _count(cached)]
    total = None if parts[0] is None else sum(part or 0 for part in parts)
    return Reading(text, _stop_reason(body.get("stop_reason")), _usage(text, total, usage.get("output_tokens"), cached))


def read_candidate(body: Any) -> Reading | None:
    """A Gemini candidate; its thoughts are paid for as output."""
    body = _dict(body)
    usage, candidate = _dict(body.get("usageMetadata")), _first(body.get("candidates"))
    blocked = _dict(body.get("promptFeedback")).get("blockReason")
    if not candidate and not blocked:
        return None
    text = _text(_dict(candidate.get("content")).get("parts"))
    outputs = [_count(usage.get("candidatesTokenCount")), _count(usage.get("thoughtsTokenCount"))]
    told = [count for count in outputs if count is not None]
    stop = StopReason.CONTENT_FILTER if blocked else _stop_reason(candidate.get("finishReason"))
    cached = usage.get("cachedContentTokenCount")
    return Reading(text, stop, _usage(text, usage.get("promptTokenCount"), sum(told) if told else None, cached))


def _stop_reason(reason: Any) -> StopReason:
    match str(reason).lower().replace("-", "_"):
        case word if word in _STOPS:
            return StopReason.STOP
        case word if word in _LIMITS:
            return StopReason.MAX_TOKENS
        case word if word in _FILTERS:
            return StopReason.CONTENT_FILTER
        case _:
            return StopReason.UNKNOWN


def _text(content: Any) -> str:
    """The text of a message: a string, or the text parts of a list; thoughts and tool calls are none of it."""
    if isinstance(content, str):
        return content
    parts = [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
    texts = [
        part.get("text")
        for part in parts
        if part.get("type", "text") in {"text", "output_text"} and not part.get("thought")
    ]
    return "".join(text for text in texts if isinstance(text, str))


def _tokens(logprobs: Any) -> list[Token] | None:
    """The tokens of a chat completion; None where one of them cannot be spelled, since it would move all the others."""
    content = _dict(logprobs).get("content")
    if not isinstance(content, list):
        return None
    tokens = []
    for entry in content:
        told = _dict(entry)
        token = told.get("token")
        piece: Any = told.get("bytes")
        try:
            # `bytes` tells what a part of a character is; whoever has none gives null, or nothing
            if piece is None and isinstance(token, str):
                spelled = token.encode("utf-8", "surrogatepass")
            else:
                spelled = bytes(iter(piece))
        except (TypeError, ValueError):
            return None
        tokens.append(Token(spelled, _logprob(told.get("logprob"))))
    return tokens


def _logprob(value: Any) -> float:
    if type(value) is int and _LEAST_LOGPROB <= value <= 0:
        return float(value)
    return value if type(value) is float else math.nan


def _usage(text: str, inputs: Any, outputs: Any, cached: Any) -> Usage | None:
    taken, given = _count(inputs), _count(outputs)
    # No prompt is empty, and no text comes from nothing: zero stands for "not counted", and that is not free
    if not taken or given is None or (text and not given):
        return None
    return Usage(taken, given, min(_count(cached) or 0, taken))


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _first(value: Any) -> Mapping[str, Any]:
    return _dict(value[0]) if isinstance(value, list) and value else {}
