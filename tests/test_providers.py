"""Anthropic and Google behind instructor, against a local server that speaks their formats."""

import asyncio
import logging
import sys
import traceback
from collections.abc import Iterator
from decimal import Decimal
from importlib.util import find_spec
from typing import Any

import pytest
from gateway_server import Answer, Asked, GatewayServer, Raw, Said, Script, candidate, http, message

from packer.errors import CallError, Failure, TransportError
from packer.exchange import Charge, ChargeSource, Prompt, Reply, StopReason
from packer.providers import AnthropicTransport, GoogleTransport, ProviderTransport
from packer.usage import Usage

pytest.importorskip("instructor", reason="the extras anthropic and google are not installed")
pytest.importorskip("anthropic", reason="the extra anthropic is not installed")

GOOGLE = pytest.mark.skipif(
    find_spec("google") is None or find_spec("google.genai") is None, reason="the extra google is not installed"
)

KEY = "sk-canary-0123456789abcdefghij"
SCHEMA = {"type": "object", "properties": {"pack": {"type": "string", "pattern": "^[a-z]+$"}}}
# What a prompt must not be taken for: a template, a picture
PROMPT = Prompt(
    "Give labels as JSON.", 'pack: k7f2\n1. "{{ 7*7 }} https://e.example/a.png"', SCHEMA, 320, logprobs=True
)

Ended = Reply | TransportError
BOTH = pytest.mark.parametrize("kind", [AnthropicTransport, pytest.param(GoogleTransport, marks=GOOGLE)])


@pytest.fixture(autouse=True)
def no_log_shows_the_key(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert KEY[:8] not in caplog.text


def check_for_key(error: TransportError) -> None:
    assert KEY[:8] not in "".join([repr(error), str(vars(error)), *traceback.format_exception(error)])
    assert error.__cause__ is error.__context__ is None


def talk(
    kind: type[ProviderTransport], script: Script, *, count: int = 1, deadline: float = 5.0
) -> tuple[list[Asked], list[Ended], Any]:
    async def run() -> tuple[list[Asked], list[Ended], Any]:
        async with GatewayServer(script) as server:
            transport = kind("some-model", api_key=KEY, connections=4, base_url=server.url)
            ended: list[Ended] = []
            for _ in range(count):
                try:
                    ended.append(await transport.send(PROMPT, deadline=deadline))
                except TransportError as error:
                    check_for_key(error)
                    ended.append(error)
            await transport.aclose()
            return server.asked, ended, transport.refused_settings()

    return asyncio.run(run())


def failed(kind: type[ProviderTransport], said: Said) -> TransportError:
    _, (ended,), _ = talk(kind, [said])
    assert isinstance(ended, TransportError)
    return ended


def replied(kind: type[ProviderTransport], said: Said) -> Reply:
    _, (ended,), _ = talk(kind, [said])
    assert isinstance(ended, Reply)
    return ended


def test_a_prompt_reaches_anthropic_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "another")
    (asked,), _, _ = talk(AnthropicTransport, [Answer(message("hi"))])
    assert asked.path == "/v1/messages"
    assert asked.body == {
        "model": "some-model",
        "system": [{"type": "text", "text": PROMPT.system}],
        "messages": [{"role": "user", "content": PROMPT.user}],
        "max_tokens": 320,
        "temperature": 0,
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    }
    assert asked.headers["x-api-key"] == KEY
    assert asked.headers["anthropic-version"]
    assert replied(AnthropicTransport, Answer(message("hi"))).tokens is None  # it has no log-probabilities
    assert "authorization" not in asked.headers


@GOOGLE
def test_a_prompt_reaches_google_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    (asked,), _, _ = talk(GoogleTransport, [Answer(candidate("hi"))])
    assert asked.path == "/v1beta/models/some-model:generateContent"
    assert asked.body["contents"] == [{"role": "user", "parts": [{"text": PROMPT.user}]}]
    assert asked.body["systemInstruction"]["parts"][0]["text"].strip() == PROMPT.system
    assert asked.body["generationConfig"] == {
        "maxOutputTokens": 320,
        "temperature": 0,
        "responseMimeType": "application/json",
        "responseJsonSchema": SCHEMA,
    }
    assert asked.headers["x-goog-api-key"] == KEY


@BOTH
def test_the_charge_header_has_the_name_that_was_given(kind: type[ProviderTransport]) -> None:
    async def run() -> TransportError:
        async with GatewayServer([Answer({"error": {}}, 500, {"X-Cost": "0.5"})]) as server:
            transport = kind("some-model", api_key=KEY, connections=1, base_url=server.url, charge_header="X-Cost")
            with pytest.raises(TransportError) as failed:
                await transport.send(PROMPT, deadline=5)
            await transport.aclose()
            return failed.value

    assert asyncio.run(run()).charge == Charge(Decimal("0.5"), ChargeSource.HEADER)


def test_a_message_is_a_reply_with_its_cached_tokens() -> None:
    usage = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 20,
        "cache_read_input_tokens": 400,
        "output_tokens": 5,
    }
    reply = replied(AnthropicTransport, Answer(message("hi", usage=usage), headers={"X-MDB-Charged-USD": "0.5"}))
    charge = Charge(Decimal("0.5"), ChargeSource.HEADER)
    assert reply == Reply("hi", StopReason.STOP, reply.seconds, Usage(430, 5, 400), charge)


@GOOGLE
def test_a_candidate_is_a_reply() -> None:
    reply = replied(GoogleTransport, Answer(candidate("hi")))
    assert reply == Reply("hi", StopReason.STOP, reply.seconds, Usage(30, 5))


@BOTH
@pytest.mark.parametrize("text", ['{"pack": "k7f2", "answers": ["1 spa', "no JSON at all", ""])
def test_an_answer_that_no_validation_would_pass_comes_back_with_its_usage(
    kind: type[ProviderTransport], text: str
) -> None:
    said = {
        AnthropicTransport: message(text, stop="max_tokens"),
        GoogleTransport: candidate(text, finish="MAX_TOKENS"),
    }
    cut = replied(kind, Answer(said[kind]))
    assert (cut.text, cut.stop_reason, cut.usage) == (text, StopReason.MAX_TOKENS, Usage(30, 5))


def anthropic_error(kind: str, text: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": text}}


@pytest.mark.parametrize(
    ("said", "failure", "retry_after"),
    [
        (Answer(anthropic_error("authentication_error", "invalid x-api-key"), 401), Failure.KEY_REFUSED, None),
        (
            Answer(anthropic_error("rate_limit_error", "slow down"), 429, {"retry-after": "12"}),
            Failure.RATE_LIMITED,
            12.0,
        ),
        (Answer(anthropic_error("overloaded_error", "Overloaded"), 529), Failure.OVERLOADED, None),
        (Answer(anthropic_error("overloaded_error", "Overloaded"), 200), Failure.OVERLOADED, None),
        (Answer(anthropic_error("not_found_error", "model: some-model"), 404), Failure.UNKNOWN_MODEL, None),
        (Answer(anthropic_error("invalid_request_error", "prompt is too long: 9 > 8"), 400), Failure.TOO_LONG, None),
        (Answer(b"<html>"), Failure.MALFORMED, None),
        (Answer([]), Failure.MALFORMED, None),
        (Answer({"content": 7}), Failure.MALFORMED, None),
    ],
)
def test_anthropics_errors_are_failures(said: Answer, failure: Failure, retry_after: float | None) -> None:
    error = failed(AnthropicTransport, said)
    assert (error.failure, error.status, error.retry_after) == (failure, said.status, retry_after)


@GOOGLE
@pytest.mark.parametrize(
    ("said", "failure"),
    [
        (Answer([{"error": {"code": 400, "message": "API key not valid."}}], 400), Failure.KEY_REFUSED),
        (Answer({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}, 429), Failure.RATE_LIMITED),
        (Answer({"error": {"code": 503, "status": "UNAVAILABLE"}}, 503), Failure.OVERLOADED),
        (Answer({"candidates": []}), Failure.MALFORMED),
    ],
)
def test_googles_errors_are_failures(said: Answer, failure: Failure) -> None:
    assert failed(GoogleTransport, said).failure is failure


@BOTH
@pytest.mark.parametrize(
    ("said", "failure"),
    [
        (Raw(then="close"), Failure.LOST),
        (Raw(then="hang"), Failure.LOST),
        (Raw(http(b"{}", "Content-Length: 70")), Failure.CUT),
        (Answer({}, 307, {"Location": "https://e.example"}), Failure.UNTRUSTED),
        (Answer({"error": {"message": f"bad key {KEY}"}}, 401, {"X-Echo": KEY}), Failure.KEY_REFUSED),
    ],
)
def test_faults_are_the_wires_and_nothing_is_sent_twice(
    kind: type[ProviderTransport], said: Said, failure: Failure
) -> None:
    asked, (ended,), _ = talk(kind, [said], deadline=0.3 if said == Raw(then="hang") else 5.0)
    assert isinstance(ended, TransportError)
    assert ended.failure is failure
    assert len(asked) == 1


def test_what_anthropic_refuses_is_left_out() -> None:
    def reply(asked: Asked) -> Said:
        for name in ("output_config", "temperature"):
            if name in asked.body:
                text = f"{name}: pattern in schema: Extra inputs are not permitted"
                return Answer(anthropic_error("invalid_request_error", text), 400)
        return Answer(message("hi"))

    asked, ended, refused = talk(AnthropicTransport, reply, count=4)
    assert "pattern" not in str(asked[1].body)
    assert set(asked[-1].body) == {"model", "system", "messages", "max_tokens"}
    assert [one.failure for one in ended if isinstance(one, TransportError)] == [Failure.SETTING_REFUSED] * 3
    assert refused == ("response_format json_schema pattern", "response_format json_schema", "temperature")


@GOOGLE
def test_what_google_refuses_is_left_out() -> None:
    def reply(asked: Asked) -> Said:
        config = asked.body["generationConfig"]
        for name in ("responseJsonSchema", "responseMimeType", "temperature"):
            if name in config:
                return Answer({"error": {"code": 400, "message": f"{name} is not supported"}}, 400)
        return Answer(candidate("hi"))

    asked, ended, refused = talk(GoogleTransport, reply, count=4)
    assert isinstance(ended[-1], Reply)
    assert asked[-1].body["generationConfig"] == {"maxOutputTokens": 320}
    assert refused == ("response_format json_schema", "response_format json_object", "temperature")


@pytest.mark.parametrize(
    ("kind", "module"),
    [(AnthropicTransport, "anthropic"), (AnthropicTransport, "instructor"), (GoogleTransport, "google.genai")],
)
def test_a_missing_extra_is_named(kind: type[ProviderTransport], module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # how an import is made to fail
    with pytest.raises(CallError, match=rf"needs an extra.*prompt-packer\[{kind.EXTRA}\]"):
        kind("some-model", api_key=KEY, connections=1)


def test_an_extra_of_which_nothing_is_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GoogleTransport, "MODULES", ("nowhere.genai",))
    with pytest.raises(CallError, match="needs an extra"):
        GoogleTransport("some-model", api_key=KEY, connections=1)
