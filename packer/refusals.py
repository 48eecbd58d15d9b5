"""What an error reply means. Its words decide only where its status and codes do not, and what it echoes never does.

A gateway's error body is hostile and comes in many forms: an object, a list of one, a string, a provider's own error as
JSON in a string. Only known fields are read, to a bounded depth, so that a text of ours that is quoted back (`input`,
`failed_generation`) cannot decide anything. The sentences below are real ones, from OpenAI, Azure, Anthropic, Gemini,
OpenRouter, LiteLLM, Mistral, DeepSeek, Groq, vLLM, llama.cpp, Ollama and LM Studio.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from packer.errors import Failure

LONGEST_MESSAGE = 300

_MESSAGES = {"message", "msg", "detail", "details", "description", "raw", "error", "errors", "title"}
_CODES = {
    "code",
    "type",
    "status",
    "param",
    "loc",
    "field",
    "reason",
    "reasons",
    "error_type",
    "limit_source",
    "quotaid",
}
_WRAPPERS = {"metadata", "innererror", "fieldviolations", "violations"}
_DEPTH = 8
_LONGEST_READ = 4_000

# Where a reply with status 200, or with none in its error, says by a word what the status would have been
_STATUS_OF = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "resource_exhausted": 429,
    "insufficient_quota": 429,
    "overloaded_error": 529,
    "unavailable": 503,
    "provider_unavailable": 503,
    "server_error": 500,
    "api_error": 500,
    "internal": 500,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "unauthenticated": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "not_found_error": 404,
    "not_found": 404,
    "model_not_found": 404,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "invalid_request_error": 400,
    "invalid_argument": 400,
}

_TOO_LONG = re.compile(
    r"context[ _](length|window|size)|string_above_max_length|request_too_large|(prompt|input) is too long"
    r"|too many (input )?tokens|maximum (prompt|input|model) length|input token count .{0,40}exceeds"
    r"|(reduce|shorten) (the|your) (length|prompt|input|message)"
    r"|max_?(completion_|output_|new_)?tokens\W.{0,60}"
    r"(too large|at most|above maximum|is limited|less than or equal|cannot exceed|must be (<|less))"
)
_QUOTA = re.compile(
    r"insufficient_quota|billing_(hard_limit|not_active)|credit balance is too low|insufficient (balance|credit|fund)"
    r"|(out of|not enough|no) credits|(key|spend(ing)?|budget|usage) limit (has been )?(exceeded|reached)"
    r"|exceeded_budget|budget has been exceeded"
)
_DAILY = re.compile(r"per[ _-]?day|daily|\b[rt]pd\b")
_KEY = re.compile(r"api[ _]key (is )?(not valid|invalid|expired)|api_key_invalid|invalid_api_key")
_MODERATION = re.compile(r"moderation|flagged|content[ _](policy|filter|management)|safety|prohibited")
_UNKNOWN_MODEL = re.compile(
    r"model_not_found|(unknown|invalid|no such|unrecognized) model|not a valid model|no endpoints found for"
    r"|model.{0,120}?(not found|does not exist|doesn't exist|is not available|isn't available|not supported by any)"
    r"|\bmodel: .*not_found_error"
)

# The optional settings. A word for the setting must stand beside a word of refusal: "temperature" is also English
_REFUSES = re.compile(
    r"support|unknown|unrecogni[sz]ed|unexpected|extra|permitted|allowed|forbidden|invalid|deprecated|unavailable"
    r"|must|cannot|can't|not available|removed|disabled|enabled only|only the default|failed|no endpoints"
    r"|too many states|too complex|requires|not enabled"
)
# the type of every 400 of OpenAI's says "invalid", whatever it is about
_BY_HABIT = re.compile(r"invalid[_ ](request|argument)\w*|bad_?request\w*")
_SETTINGS = {
    "response_format": re.compile(
        r"response_?(format|schema|mime_?type|json_?schema)|json[_ ](schema|object|mode)|output_(config|format)"
        r"|structured.outputs?|guided|grammar|too many states|requested parameters"
    ),
    "temperature": re.compile(r"\btemperature\b"),
}
_LOGPROBS = re.compile(r"log_?prob|log[ -]probabilit")
# A reply that failed the schema is an answer that failed, not a refused setting (Groq)
_NO_SETTING = re.compile(r"json_validate_failed|failed to generate json|does not match the expected schema")
_TITLE = re.compile(r"<title>([^<]{1,200})</title>", re.IGNORECASE)
# What is wrong is inside the schema, not that there is one
_ITS_NAME = re.compile(r"response_?(json_?)?schema|json_schema")
_INSIDE_SCHEMA = re.compile(r"pattern|regex|grammar|schema")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error reply as far as it was understood.

    `status` is the HTTP status, or the one that the error names where HTTP said 200; None where neither tells.
    `message` is the gateway's, as it came. `words` are its messages and codes in lower case. `hints` are headers, and a
    retry delay as `retry-after`, that stood in the body.
    """

    status: int | None
    message: str
    words: str
    codes: frozenset[str] = frozenset()
    hints: Mapping[str, list[str]] = field(default_factory=dict)


def read_refusal(status: int, body: Any) -> Refusal:
    """The refusal in `body`, which is parsed JSON or a text."""
    if isinstance(body, str) and body.lstrip().startswith("<"):
        title = _TITLE.search(body[:_LONGEST_READ])
        body = title[1] if title else "an HTML page"
    messages: list[str] = []
    codes: list[str] = []
    hints: dict[str, list[str]] = {}
    for kind, name, value in _walk(body, "error" if isinstance(body, str) else "", 0):
        if kind == "message" and value not in messages:
            messages.append(value)
        elif kind == "code":
            codes.append(value.lower())
        elif kind == "hint":
            hints.setdefault(name.lower(), []).append(value)
    words = " ".join([*messages, *codes])[:_LONGEST_READ].lower()
    # a router's "Provider returned error" says nothing without the provider's own
    return Refusal(_status(status, codes), ": ".join(messages[:2]), words, frozenset(codes), hints)


def classify(refusal: Refusal) -> Failure:
    """The kind of failure that a refusal is, refused settings aside (see `refused_setting`)."""
    words = refusal.words
    match refusal.status:
        case None:
            return Failure.MALFORMED
        case status if 300 <= status < 400:
            return Failure.UNTRUSTED
        case 401:
            return Failure.KEY_REFUSED
        case 402:
            return Failure.QUOTA
        case 403 if _MODERATION.search(words):
            return Failure.BAD_REQUEST
        case 403 if _QUOTA.search(words):
            return Failure.QUOTA
        case 403:
            return Failure.UNKNOWN_MODEL if "model_not_found" in refusal.codes else Failure.KEY_REFUSED
        case 408 | 409:
            return Failure.CONFLICT
        case 413:
            return Failure.TOO_LONG
        case 429:
            return Failure.QUOTA if _QUOTA.search(words) or _DAILY.search(words) else Failure.RATE_LIMITED
        case status if status >= 500:
            # some gateways give 500 for what is the request's fault
            return Failure.TOO_LONG if status == 500 and _TOO_LONG.search(words) else Failure.OVERLOADED
        case _ if _TOO_LONG.search(words):
            return Failure.TOO_LONG
        case _ if _QUOTA.search(words):
            return Failure.QUOTA
        case _ if _KEY.search(words):
            return Failure.KEY_REFUSED
        case _ if _UNKNOWN_MODEL.search(words) and not _MODERATION.search(words):
            return Failure.UNKNOWN_MODEL
        case _:
            return Failure.BAD_REQUEST


def refused_setting(refusal: Refusal, *, limit: str, logprobs: bool = False) -> str | None:
    """The optional setting that is refused: `response_format`, `temperature` or `limit`, the name of the token limit.

    Where `logprobs` were asked for, they may be it, and go before a setting on which answers depend. None where none
    is: the request itself is at fault, or the gateway.
    """
    words = refusal.words
    is_of_logprobs = logprobs and _LOGPROBS.search(words) is not None
    # OpenAI's reasoning models: 403, "You are not allowed to request logprobs from this model"
    statuses = {400, 404, 415, 422, 500, 501} | ({403} if is_of_logprobs else set())
    if refusal.status not in statuses or _TOO_LONG.search(words) or _NO_SETTING.search(words):
        return None
    named = ({"logprobs": _LOGPROBS} if logprobs else {}) | {**_SETTINGS, limit: re.compile(rf"\b{re.escape(limit)}\b")}
    for setting, pattern in named.items():
        if any(pattern.search(code) for code in refusal.codes):
            return setting
    if _REFUSES.search(_BY_HABIT.sub(" ", words)) is None:
        return None
    return next((setting for setting, pattern in named.items() if pattern.search(words)), None)


def is_inside_schema(refusal: Refusal) -> bool:
    """Whether it is something in the schema that is refused, so that a simpler one may pass."""
    return _INSIDE_SCHEMA.search(_ITS_NAME.sub(" ", refusal.words)) is not None


def clean_message(text: str, *, secret: str | None) -> str:
    """`text` on one line of at most 300 characters, without control characters and without any part of `secret`.

    A part is 8 characters in a row, or the whole secret where it is shorter.
    """
    text = mask_secret(text[:_LONGEST_READ], secret)
    text = " ".join(text.split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:LONGEST_MESSAGE])
    return (
        shown if len(shown) <= LONGEST_MESSAGE and len(text) <= LONGEST_MESSAGE else shown[: LONGEST_MESSAGE - 1] + "…"
    )


def mask_secret(text: str, secret: str | None) -> str:
    """`text` with `[key]` in the place of every part of `secret`: 8 characters in a row, or the whole where shorter."""
    size = min(8, len(secret or ""))
    parts = {secret[start : start + size] for start in range(len(secret) - size + 1)} if secret else set()
    if not any(part in text for part in parts):
        return text
    shown, hidden, end = [], False, 0
    for place, character in enumerate(text):
        if text[place : place + size] in parts:
            end = place + size
        if place >= end:
            shown.append(character)
        elif not hidden:
            shown.append("[key]")
        hidden = place < end
    return "".join(shown)


def _walk(node: Any, name: str, depth: int) -> Iterator[tuple[str, str, str]]:
    if depth > _DEPTH:
        return
    if isinstance(node, Mapping):
        for key, value in list(node.items())[:64]:
            if name == "metadata" and key == "headers" and isinstance(value, Mapping):
                yield from (("hint", str(header), str(told)) for header, told in list(value.items())[:64])
            elif str(key).lower() == "retrydelay":
                yield "hint", "retry-after", str(value)
            elif str(key).lower() in _MESSAGES | _CODES | _WRAPPERS:
                yield from _walk(value, str(key).lower(), depth + 1)
    elif isinstance(node, list):
        for value in node[:16]:
            yield from _walk(value, name, depth + 1)
    elif name in _CODES and isinstance(node, str | int) and not isinstance(node, bool):
        yield "code", name, str(node)[:200]
    elif name in _MESSAGES and isinstance(node, str):
        inner = _parse(node)
        if inner is None:
            yield "message", name, node[:_LONGEST_READ]
        else:
            yield from _walk(inner, name, depth + 1)


def _parse(text: str) -> Any:
    """`text` as JSON where it is an object or a list, which is how a provider's own error is passed on."""
    text = text.strip()
    if len(text) > 20_000 or text[:1] not in {"{", "["}:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _status(status: int, codes: list[str]) -> int | None:
    if status >= 300:
        return status
    numbers = (int(code) for code in codes if code.isascii() and code.isdigit() and len(code) == 3)
    named = (_STATUS_OF[code] for code in codes if code in _STATUS_OF)
    return next((number for number in (*numbers, *named) if 400 <= number < 600), None)
