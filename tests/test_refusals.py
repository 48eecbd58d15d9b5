"""What gateways really say when they refuse, and what follows from it. The bodies are from issues of their users."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer.errors import Failure
from packer.refusals import (
    LONGEST_MESSAGE,
    classify,
    clean_message,
    is_inside_schema,
    read_refusal,
    refused_setting,
)

LIMIT = "max_completion_tokens"
KEY = "sk-canary-0123456789abcdefghij"


def openai(message: str, code: str | None = None, param: str | None = None, kind: str = "invalid_request_error") -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def litellm(message: str, code: str = "400") -> Any:
    return {"error": {"message": f"litellm.BadRequestError: {message}", "type": None, "param": None, "code": code}}


def openrouter(raw: Any, code: int = 400) -> Any:
    text = raw if isinstance(raw, str) else json.dumps(raw)
    return {
        "error": {
            "message": "Provider returned error",
            "code": code,
            "metadata": {"raw": text, "provider_name": "OpenAI"},
        },
        "user_id": "org_1",
    }


def google(message: str, status: str = "INVALID_ARGUMENT", code: int = 400, *details: Any) -> Any:
    return [{"error": {"code": code, "message": message, "status": status, "details": list(details)}}]


def anthropic(kind: str, message: str) -> Any:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


NO_MAX_TOKENS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)
NO_TEMPERATURE = (
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
)
NO_SCHEMA = "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."
EXTRA = [
    {"type": "extra_forbidden", "loc": ["body", LIMIT], "msg": "Extra inputs are not permitted", "input": 320}
]  # fmt: skip
CONTEXT = (
    "This model's maximum context length is 16384 tokens. However, you requested 122946 tokens (112946 in the "
    "messages, 10000 in the completion). Please reduce the length of the messages or completion."
)


@pytest.mark.parametrize(
    ("status", "body", "setting"),
    [
        (400, openai(NO_TEMPERATURE, "unsupported_value", "temperature"), "temperature"),
        (400, litellm(f"OpenAIException - Error code: 400 - {openai(NO_TEMPERATURE)}"), "temperature"),
        (400, litellm("openai does not support parameters: ['temperature'], for model=o3"), "temperature"),
        (400, anthropic("invalid_request_error", "`temperature` is deprecated for this model."), "temperature"),
        (422, {"error": "`temperature` must be strictly positive"}, "temperature"),
        (400, google('Invalid JSON payload received. Unknown name "temperature": Cannot find field.'), "temperature"),
        (400, openrouter(openai(NO_TEMPERATURE)), "temperature"),
        (400, openai(NO_SCHEMA, None, "response_format"), "response_format"),
        (400, openai("This response_format type is unavailable now"), "response_format"),
        (
            422,
            "Failed to deserialize the JSON body: response_format.type `json_schema` is unavailable now at line 1",
            "response_format",
        ),
        (400, {"error": "'response_format.type' must be 'json_schema' or 'text'"}, "response_format"),
        (400, openai("Invalid schema for response_format 'answer': 'pattern' is not permitted."), "response_format"),
        (
            400,
            {
                "object": "error",
                "message": "The provided JSON schema contains features not supported by xgrammar.",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            },
            "response_format",
        ),
        (
            400,
            {"error": {"code": 400, "message": "Failed to initialize samplers: failed to parse grammar"}},
            "response_format",
        ),
        (500, {"error": "invalid JSON schema in format"}, "response_format"),
        (400, google('Unknown name "response_format": Cannot find field.'), "response_format"),
        (400, google("The specified schema produces a constraint that has too many states."), "response_format"),
        (400, anthropic("invalid_request_error", "output_config: Extra inputs are not permitted"), "response_format"),
        (404, openai("No endpoints found that can handle the requested parameters."), "response_format"),
        (
            400,
            openai(
                "response_format value as json_schema is enabled only for api versions 2024-08-01-preview and later"
            ),
            "response_format",
        ),
        (422, {"object": "error", "message": {"detail": EXTRA}, "type": "invalid_request_error"}, LIMIT),
        (400, {"object": "error", "message": str(EXTRA), "type": "BadRequestError", "code": 400}, LIMIT),
        (400, litellm("groq does not support parameters: ['max_completion_tokens'], for model=x"), LIMIT),
        # not a setting, or not refused
        (400, openai("max_tokens is too large: 6000. This model supports at most 4096.", None, "max_tokens"), None),
        (
            400,
            openai(
                "The parameter `max_completion_tokens` specified in the request are not valid: integer above maximum "
                "value, expected a value <= 12288, but got 32000 instead.",
                "InvalidParameter",
                LIMIT,
            ),
            None,
        ),
        (400, openai("'max_tokens' or 'max_completion_tokens' is too large: 64000. " + CONTEXT), None),
        (
            400,
            openai("Failed to generate JSON for json_schema. See 'failed_generation'.", "json_validate_failed"),
            None,
        ),
        (400, openai("The room temperature is 20 degrees"), None),
        (429, openai(NO_TEMPERATURE), None),
        (401, openai(NO_SCHEMA), None),
        (503, openai(NO_SCHEMA), None),
    ],
)
def test_a_refused_setting_is_recognised_in_the_words_of_each_gateway(
    status: int, body: Any, setting: str | None
) -> None:
    assert refused_setting(read_refusal(status, body), limit=LIMIT) == setting


def test_only_the_name_that_was_sent_is_refused() -> None:
    refusal = read_refusal(400, openai(NO_MAX_TOKENS, "unsupported_parameter", "max_tokens"))
    assert refused_setting(refusal, limit="max_tokens") == "max_tokens"


@pytest.mark.parametrize(
    ("message", "inside"),
    [
        (NO_SCHEMA, False),
        ("response_format.type `json_schema` is unavailable now", False),
        ("Invalid schema for response_format 'answer': 'pattern' is not permitted.", True),
        ("The provided JSON schema contains features not supported by xgrammar.", True),
        ("failed to parse grammar", True),
    ],
)
def test_what_is_wrong_inside_a_schema_is_told_from_that_there_is_one(message: str, inside: bool) -> None:
    assert is_inside_schema(read_refusal(400, openai(message))) is inside


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (401, openai("Incorrect API key provided", "invalid_api_key"), Failure.KEY_REFUSED),
        (402, {}, Failure.QUOTA),
        (403, {}, Failure.KEY_REFUSED),
        (403, "<html><title>Attention Required!</title></html>", Failure.KEY_REFUSED),
        (403, openai("Project `p` does not have access to model `m`", "model_not_found"), Failure.UNKNOWN_MODEL),
        (
            403,
            {"error": {"code": 403, "message": "x", "metadata": {"reasons": ["flagged"], "flagged_input": "y"}}},
            Failure.BAD_REQUEST,
        ),
        (403, openai("Key limit exceeded (total limit)."), Failure.QUOTA),
        (404, openai("The model `gpt-4.1-x` does not exist or you do not have access to it."), Failure.UNKNOWN_MODEL),
        (404, openai("No endpoints found for a/b:free."), Failure.UNKNOWN_MODEL),
        (400, openai("a/b is not a valid model ID"), Failure.UNKNOWN_MODEL),
        (400, litellm("/chat/completions: Invalid model name passed in model=x."), Failure.UNKNOWN_MODEL),
        (404, anthropic("not_found_error", "model: claude-none"), Failure.UNKNOWN_MODEL),
        (
            404,
            google("models/x is not found for API version v1beta", "NOT_FOUND", 404),
            Failure.UNKNOWN_MODEL,
        ),
        (404, openai('model "x" not found, try pulling it first'), Failure.UNKNOWN_MODEL),
        (404, {"detail": "Not Found"}, Failure.BAD_REQUEST),
        (404, "404 page not found", Failure.BAD_REQUEST),
        (400, openai(CONTEXT, "context_length_exceeded", "messages"), Failure.TOO_LONG),
        (400, openai("max_tokens is too large: 6000. This model supports at most 4096."), Failure.TOO_LONG),
        (400, anthropic("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"), Failure.TOO_LONG),
        (400, google("The input token count (9) exceeds the maximum number of tokens allowed (8)."), Failure.TOO_LONG),
        (
            400,
            {"error": {"code": 400, "type": "exceed_context_size_error", "message": "the request exceeds"}},
            Failure.TOO_LONG,
        ),
        (500, openai("the request exceeds the available context size"), Failure.TOO_LONG),
        (413, "", Failure.TOO_LONG),
        (400, anthropic("invalid_request_error", "Your credit balance is too low to access the API."), Failure.QUOTA),
        (
            400,
            google("API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT", 400),
            Failure.KEY_REFUSED,
        ),
        (
            400,
            openai("The response was filtered due to the prompt triggering our content management policy.", "x"),
            Failure.BAD_REQUEST,
        ),
        (400, openai("Failed to generate JSON.", "json_validate_failed"), Failure.BAD_REQUEST),
        (400, {}, Failure.BAD_REQUEST),
        (422, None, Failure.BAD_REQUEST),
        (418, 7, Failure.BAD_REQUEST),
        (408, {}, Failure.CONFLICT),
        (409, {}, Failure.CONFLICT),
        (429, openai("Rate limit reached", "rate_limit_exceeded", kind="requests"), Failure.RATE_LIMITED),
        (429, {}, Failure.RATE_LIMITED),
        (429, openai("You exceeded your current quota", "insufficient_quota"), Failure.QUOTA),
        (
            429,
            openrouter("z-ai/glm is temporarily rate-limited upstream. Please retry shortly", 429),
            Failure.RATE_LIMITED,
        ),
        (
            429,
            {
                "error": {
                    "message": "Rate limit exceeded",
                    "code": 429,
                    "metadata": {"limit_source": "openrouter_free_tier_daily"},
                }
            },
            Failure.QUOTA,
        ),
        (429, openai("Rate limit exceeded: free-models-per-day. Add 10 credits"), Failure.QUOTA),
        (429, openai("Rate limit reached on requests per day (RPD): Limit 200, Used 200."), Failure.QUOTA),
        (
            429,
            google(
                "You exceeded your current quota, please check your plan and billing details.",
                "RESOURCE_EXHAUSTED",
                429,
                {"violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]},
            ),
            Failure.RATE_LIMITED,
        ),
        (
            429,
            google("x", "RESOURCE_EXHAUSTED", 429, {"violations": [{"quotaId": "GenerateRequestsPerDayPerModel"}]}),
            Failure.QUOTA,
        ),
        (500, {}, Failure.OVERLOADED),
        (502, "<html>bad gateway</html>", Failure.OVERLOADED),
        (503, None, Failure.OVERLOADED),
        (529, anthropic("overloaded_error", "Overloaded"), Failure.OVERLOADED),
        (302, "", Failure.UNTRUSTED),
        # with HTTP 200, or another 2xx, the error's own code decides
        (200, {"error": {"code": 429, "message": "Provider returned error"}}, Failure.RATE_LIMITED),
        (200, {"error": {"code": "502", "message": "upstream"}}, Failure.OVERLOADED),
        (200, openai("quota", "insufficient_quota"), Failure.QUOTA),
        (200, anthropic("overloaded_error", "Overloaded"), Failure.OVERLOADED),
        (200, {"error": "something"}, Failure.MALFORMED),
        (200, {"error": {"code": 200, "message": "ok"}}, Failure.MALFORMED),
        (204, None, Failure.MALFORMED),
        (101, None, Failure.MALFORMED),
    ],
)
def test_a_refusal_is_classified_by_its_status_then_its_codes_then_its_words(
    status: int, body: Any, failure: Failure
) -> None:
    assert classify(read_refusal(status, body)) is failure


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"message": "refused", "failed_generation": NO_TEMPERATURE}}),
        (422, {"detail": [{"loc": ["body", "messages"], "msg": "bad", "input": f"{CONTEXT} insufficient_quota"}]}),
    ],
)
def test_what_a_gateway_quotes_back_decides_nothing(status: int, body: Any) -> None:
    refusal = read_refusal(status, body)
    assert classify(refusal) is Failure.BAD_REQUEST
    assert refused_setting(refusal, limit=LIMIT) is None


def test_a_providers_own_words_are_shown_behind_a_routers() -> None:
    assert (
        read_refusal(400, openrouter(openai("too many images"))).message == "Provider returned error: too many images"
    )
    assert read_refusal(400, openrouter("plain words")).message == "Provider returned error: plain words"
    assert read_refusal(502, "<html><head><title>502 Bad Gateway</title>").message == "502 Bad Gateway"
    assert read_refusal(502, "<html>").message == "an HTML page"


def test_headers_in_a_body_and_a_retry_delay_are_hints() -> None:
    limited = {
        "error": {
            "message": "x",
            "code": 429,
            "metadata": {"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": 1793000000000}},
        }
    }
    hints = {"x-ratelimit-remaining": ["0"], "x-ratelimit-reset": ["1793000000000"]}
    assert read_refusal(429, limited).hints == hints
    delayed = google("x", "RESOURCE_EXHAUSTED", 429, {"@type": "google.rpc.RetryInfo", "retryDelay": "22s"})
    assert read_refusal(429, delayed).hints == {"retry-after": ["22s"]}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["[", '{"error":']),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "detail", "metadata", "raw", "headers", "retryDelay", "loc"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.integers(200, 599), JSON)
def test_no_body_raises(status: int, body: Any) -> None:
    refusal = read_refusal(status, body)
    assert classify(refusal) in Failure
    assert refused_setting(refusal, limit=LIMIT) in {None, LIMIT, "temperature", "response_format"}
    assert refused_setting(refusal, limit=LIMIT, logprobs=True) in {
        None,
        LIMIT,
        "temperature",
        "response_format",
        "logprobs",
    }
    assert len(clean_message(refusal.message, secret=KEY)) <= LONGEST_MESSAGE


def test_a_body_of_any_depth_and_size_is_read_in_bounded_time() -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = {"error": deep}
    assert read_refusal(400, deep).message == ""
    assert read_refusal(400, "[" * 15_000).message.startswith("[[[")
    wide = {"error": [{"message": "x" * 100_000}] * 10_000}
    assert len(read_refusal(400, wide).words) <= 4_000


@given(st.text(), st.integers(0, 22), st.integers(8, 30), st.text())
def test_no_message_shows_eight_characters_of_the_key(before: str, start: int, length: int, after: str) -> None:
    shown = clean_message(before + KEY[start : start + length] + after, secret=KEY)
    assert not any(KEY[place : place + 8] in shown for place in range(len(KEY) - 7))
    assert shown.isprintable()
    assert len(shown) <= LONGEST_MESSAGE


def test_a_message_is_one_printable_line() -> None:
    assert clean_message("a\n\x1b[31m\tb\u202ec\ud800", secret=None) == r"a \x1b[31m b\u202ec\ud800"
    assert clean_message("x" * 400, secret=None) == "x" * 299 + "…"
    assert clean_message(f"key {KEY}{KEY}, short", secret=KEY) == "key [key], short"
    assert clean_message("a b c", secret="b") == "a [key] c"
