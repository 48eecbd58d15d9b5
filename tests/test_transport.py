"""The gateway transport against a real server on loopback: what it sends, what it makes of replies, and every fault.

After each fault the key is searched for: law 9, a key appears in no log, report or traceback.
"""

import asyncio
import gzip
import json
import logging
import socket
import subprocess
import sys
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from gateway_server import Answer, Asked, GatewayServer, Raw, Said, Script, completion, http, untrusted_tls
from hypothesis import given, settings
from hypothesis import strategies as st

import packer.wire
from packer.dialects import Dialects, Form
from packer.errors import Failure, TransportError
from packer.exchange import Charge, ChargeSource, Prompt, Reply, StopReason
from packer.transport import GatewayTransport
from packer.usage import Usage
from packer.wire import Call, Wire

KEY = "sk-canary-0123456789abcdefghij"
SCHEMA = {"type": "object", "properties": {"pack": {"type": "string", "pattern": "^[a-z]+$"}}}
PROMPT = Prompt("Give labels as JSON.", 'pack: k7f2\n1. "é \\u202e"', SCHEMA, 320)
CHARGED = {"X-MDB-Charged-USD": "0.25", "X-MDB-Balance-USD": "3.5"}
CHARGE = Charge(Decimal("0.25"), ChargeSource.HEADER)

Ended = Reply | TransportError


@pytest.fixture(autouse=True)
def no_log_shows_the_key(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    shown = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert KEY[:8] not in shown


def check_for_key(error: TransportError) -> None:
    shown = [str(error), repr(error), str(vars(error)), *traceback.format_exception(error)]
    assert KEY[:8] not in "".join(shown)
    assert error.__cause__ is None
    assert error.__context__ is None


async def ask(transport: GatewayTransport, *, prompt: Prompt = PROMPT, deadline: float = 5.0) -> Ended:
    try:
        return await transport.send(prompt, deadline=deadline)
    except TransportError as error:
        check_for_key(error)
        return error


def connect(url: str, *, connections: int = 8, key: str = KEY) -> GatewayTransport:
    return GatewayTransport("some/model", base_url=f"{url}/v1", api_key=key, connections=connections)


def talk(*script: Said, deadline: float = 5.0, key: str = KEY) -> list[Ended]:
    """What becomes of as many requests as the script has replies, one after the other."""

    async def run() -> list[Ended]:
        async with GatewayServer(script) as server:
            transport = connect(server.url, key=key)
            ended = [await ask(transport, deadline=deadline) for _ in script]
            await transport.aclose()
            return ended

    return asyncio.run(run())


def failed(said: Said, *, deadline: float = 5.0) -> TransportError:
    (ended,) = talk(said, deadline=deadline)
    assert isinstance(ended, TransportError)
    return ended


def replied(said: Said) -> Reply:
    (ended,) = talk(said)
    assert isinstance(ended, Reply)
    return ended


def requests_of(script: Script, count: int) -> tuple[list[Asked], list[Ended], tuple[str, ...]]:
    """What a server with `script` is asked for `count` prompts, what becomes of them, and what is refused."""

    async def run() -> tuple[list[Asked], list[Ended], tuple[str, ...]]:
        async with GatewayServer(script) as server:
            transport = connect(server.url)
            ended = [await ask(transport) for _ in range(count)]
            await transport.aclose()
            return server.asked, ended, transport.refused_settings()

    return asyncio.run(run())


# What is sent


def test_a_request_is_a_chat_completion_with_a_strict_schema() -> None:
    (asked,), _, _ = requests_of([Answer(completion())], 1)
    assert asked.path == "/v1/chat/completions"
    assert asked.body == {
        "model": "some/model",
        "messages": [{"role": "system", "content": PROMPT.system}, {"role": "user", "content": PROMPT.user}],
        "max_completion_tokens": 320,
        "temperature": 0,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA},
        },
    }
    assert asked.headers["authorization"] == f"Bearer {KEY}"


def test_nothing_of_the_environment_goes_out_or_decides_where(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: 1\nAuthorization: Bearer sk-custom")
    (asked,), (ended,), _ = requests_of([Answer(completion())], 1)
    assert isinstance(ended, Reply)
    allowed = {"host", "user-agent", "accept", "accept-encoding", "content-type", "content-length", "authorization"}
    assert set(asked.headers) == allowed
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["authorization"] == f"Bearer {KEY}"


def test_a_cookie_is_not_kept() -> None:
    async def run() -> list[Asked]:
        async with GatewayServer([Answer(completion(), headers={"Set-Cookie": "a=b"}), Answer(completion())]) as server:
            transport = connect(server.url.replace("127.0.0.1", "localhost"))  # an address would get no cookie anyway
            assert isinstance(await ask(transport), Reply)
            assert isinstance(await ask(transport), Reply)
            await transport.aclose()
            return server.asked

    assert ["cookie" in asked.headers for asked in asyncio.run(run())] == [False, False]


def test_without_a_key_none_is_sent() -> None:
    async def run() -> dict[str, str]:
        async with GatewayServer([Answer(completion())]) as server:
            transport = GatewayTransport("m", base_url=server.url, api_key=None, connections=1)
            await transport.send(PROMPT, deadline=5)
            await transport.aclose()
            return dict(server.asked[0].headers)

    headers = asyncio.run(run())
    assert "authorization" not in headers


def test_the_transport_is_imported_without_the_sdk_or_an_http_client() -> None:
    heavy = "{'openai', 'httpx2', 'aiohttp', 'instructor'}"
    code = f"import sys, packer.connections, packer.runner; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_as_many_requests_are_in_flight_as_connections_are_allowed() -> None:
    async def run() -> tuple[set[int], list[Ended]]:
        async with GatewayServer(lambda _: Answer(completion("hi"), seconds=0.1)) as server:
            transport = connect(server.url, connections=150)
            ended = await asyncio.gather(*[ask(transport) for _ in range(150)])
            await transport.aclose()
            return {asked.port for asked in server.asked}, ended

    ports, ended = asyncio.run(run())
    assert len(ports) == 150
    assert all(isinstance(one, Reply) for one in ended)


# Replies


def test_a_reply_is_text_usage_charge_balance_and_time() -> None:
    usage = {"prompt_tokens": 900, "completion_tokens": 80, "prompt_tokens_details": {"cached_tokens": 512}}
    reply = replied(Answer(completion("hi", usage=usage), headers=CHARGED, seconds=0.05))
    assert 0.05 <= reply.seconds < 2
    assert reply == Reply("hi", StopReason.STOP, reply.seconds, Usage(900, 80, 512), CHARGE, Decimal("3.5"))


@pytest.mark.parametrize(
    ("headers", "cost", "charge"),
    [
        ({}, None, None),
        ({}, 0.0042, Charge(Decimal("0.0042"), ChargeSource.BODY)),
        ({"x-litellm-response-cost": "3e-05"}, 0.0042, Charge(Decimal("0.00003"), ChargeSource.PROXY)),
        ({"x-litellm-response-cost": "3e-05", **CHARGED}, 0.0042, CHARGE),
        ({"X-MDB-Charged-USD": "NaN"}, 0.0042, Charge(Decimal("0.0042"), ChargeSource.BODY)),
        ({"X-MDB-Charged-USD": "-1"}, -1, None),
        ({"X-MDB-Charged-USD": "0"}, 7, Charge(Decimal(0), ChargeSource.HEADER)),
    ],
)
def test_the_charge_is_read_where_it_is_told_best(
    headers: dict[str, str], cost: float | None, charge: Charge | None
) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 8, "cost": cost}
    assert replied(Answer(completion("hi", usage=usage), headers=headers)).charge == charge


def test_a_charge_header_that_came_twice_is_no_charge() -> None:
    headers = [("X-MDB-Charged-USD", "0.1"), ("X-MDB-Charged-USD", "0.1")]
    assert replied(Answer(completion("hi"), headers=headers)).charge is None


def test_a_compressed_reply_is_read_although_none_was_asked_for() -> None:
    body = gzip.compress(json.dumps(completion("hi")).encode())
    assert replied(Answer(body, headers={"Content-Encoding": "gzip"})).text == "hi"


# Refusals


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (400, Failure.BAD_REQUEST),
        (401, Failure.KEY_REFUSED),
        (402, Failure.QUOTA),
        (403, Failure.KEY_REFUSED),
        (404, Failure.BAD_REQUEST),
        (408, Failure.CONFLICT),
        (409, Failure.CONFLICT),
        (413, Failure.TOO_LONG),
        (422, Failure.BAD_REQUEST),
        (429, Failure.RATE_LIMITED),
        (500, Failure.OVERLOADED),
        (502, Failure.OVERLOADED),
        (503, Failure.OVERLOADED),
        (504, Failure.OVERLOADED),
        (529, Failure.OVERLOADED),
    ],
)
def test_an_error_reply_is_a_failure_with_its_charge_and_balance(status: int, failure: Failure) -> None:
    error = failed(Answer({"error": {"message": "no\x1b[2J"}}, status, CHARGED))
    assert (error.failure, error.status) == (failure, status)
    assert (error.charge, error.balance) == (CHARGE, Decimal("3.5"))
    assert str(error).startswith(f"HTTP {status}: no\\x1b[2J")
    assert ("base URL" in str(error)) == (status == 404)


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ({"error": {"code": 429, "message": "slow down"}}, Failure.RATE_LIMITED),
        ({"choices": [{"error": {"code": 502, "message": "x"}}]}, Failure.OVERLOADED),
        (completion(choices=[]), Failure.MALFORMED),
        ({"error": "something"}, Failure.MALFORMED),
        ([], Failure.MALFORMED),
        (b"", Failure.MALFORMED),
        (b"<html><title>Welcome</title></html>", Failure.MALFORMED),
        (b"data: {}\n\n", Failure.MALFORMED),
        (b"\xff\xfe\x00", Failure.MALFORMED),
        (b"[" * 100_000, Failure.MALFORMED),
    ],
)
def test_a_reply_with_status_200_and_no_completion_is_a_failure(body: Any, failure: Failure) -> None:
    error = failed(Answer(body, headers=CHARGED))
    assert (error.failure, error.status, error.charge) == (failure, 200, CHARGE)


@pytest.mark.parametrize("code", [400, 403, 429, 502])
def test_an_error_after_work_was_done_is_charged_what_its_body_tells(code: int) -> None:
    """Law 4: a refusal that tells a cost was not for nothing."""
    choice = {"error": {"code": code, "message": "stopped half way"}, "message": {"content": '{"pack": "k7'}}
    usage = {"prompt_tokens": 50, "completion_tokens": 200, "cost": 0.02}
    told = Charge(Decimal("0.02"), ChargeSource.BODY)
    assert failed(Answer({"choices": [choice], "usage": usage})).charge == told
    assert failed(Answer({"choices": [], "usage": usage})).charge == told
    assert failed(Answer({"error": {"message": "no"}, "usage": usage}, code)).charge == told
    assert failed(Answer({"choices": [choice], "usage": usage}, headers=CHARGED)).charge == CHARGE
    assert failed(Answer({"choices": [choice], "usage": {"cost": -1}})).charge is None
    assert failed(Answer({"choices": [choice], "usage": {"cost": -1}})).may_be_billed is False


@pytest.mark.parametrize(
    ("answer", "may_be_billed"),
    [
        (Answer({"error": {"message": "no"}}, status=429), False),
        (Answer({"error": {"message": "no"}}, status=429, headers={"X-MDB-Charged-USD": ""}), False),
        (Answer({"error": {"message": "no"}}, status=429, headers={"X-MDB-Charged-USD": "0"}), False),
        (Answer({"error": {"message": "no"}}, status=429, headers={"X-MDB-Charged-USD": "-1"}), True),
        (Answer({"error": {"message": "no"}}, status=400, headers=[("X-MDB-Charged-USD", "1")] * 2), True),
        (Answer({"error": {"message": "no", "code": 429}, "usage": {"prompt_tokens": 9}}), True),
        (Answer({"error": {"message": "no", "code": 429}, "usage": {"prompt_tokens": 9, "cost": 0.1}}), False),
        (Answer({"error": {"message": "no", "code": 429}, "usage": {"prompt_tokens": 0}}), False),
    ],
)
def test_a_refusal_may_have_been_billed_where_work_was_done_or_a_charge_cannot_be_read(
    answer: Answer, may_be_billed: bool
) -> None:
    assert failed(answer).may_be_billed is may_be_billed


def test_a_model_that_repeats_the_key_is_not_repeated() -> None:
    told = completion(json.dumps({"pack": "k", "answers": [f"1 it is {KEY}, and {KEY[3:15]} too"]}))
    assert replied(Answer(told)).text == '{"pack": "k", "answers": ["1 it is [key], and [key] too"]}'


@pytest.mark.parametrize("key", ["x", "none", "ollama"])
def test_a_placeholder_for_a_key_is_not_cut_out_of_answers(key: str) -> None:
    answer = '{"pack": "vxrc", "answers": ["1 none", "2 ollama"]}'
    (ended,) = talk(Answer(completion(answer)), key=key)
    assert isinstance(ended, Reply)
    assert ended.text == answer


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (Answer({}, 429), None),
        (Answer({}, 429, {"Retry-After": "20"}), 20.0),
        (Answer({}, 429, {"Retry-After-MS": "1500"}), 1.5),
        (
            Answer({}, 429, {"Retry-After": "Sat, 01 Jan 2000 00:00:30 GMT", "Date": "Sat, 01 Jan 2000 00:00:00 GMT"}),
            30.0,
        ),
        (Answer({}, 429, {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}), 360.0),
        (Answer({}, 503, {"Retry-After": "7"}), 7.0),
        (Answer([{"error": {"code": 429, "details": [{"retryDelay": "22s"}]}}], 429), 22.0),
        (
            Answer(
                {
                    "error": {
                        "code": 429,
                        "metadata": {
                            "headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1792992860000"},
                        },
                    }
                },
                429,
                {"Date": "Mon, 26 Oct 2026 05:33:20 GMT"},
            ),
            60.0,
        ),
    ],
)
def test_a_failure_tells_how_long_to_wait(said: Answer, seconds: float | None) -> None:
    assert failed(said).retry_after == seconds


# Faults


BODY = json.dumps(completion("hi")).encode()
PACKED = gzip.compress(BODY)
MONEY = ("X-MDB-Charged-USD: 0.25", "X-MDB-Balance-USD: 3.5")
PACKING = {"Content-Encoding": "gzip", **CHARGED}


@pytest.mark.parametrize(
    ("said", "failure", "charge"),
    [
        (Raw(then="close"), Failure.LOST, None),
        (Raw(then="reset"), Failure.LOST, None),
        (Raw(b"HTTP/1.1 200 O", "close"), Failure.LOST, None),
        (Raw(then="hang"), Failure.LOST, None),
        (Answer(completion("hi"), seconds=0.4), Failure.LOST, None),
        (Raw(http(BODY, *MONEY)[:-9], "close"), Failure.CUT, CHARGE),
        (Raw(http(BODY, *MONEY)[:-9], "reset"), Failure.CUT, CHARGE),
        (Raw(http(BODY, *MONEY)[:-9], "hang"), Failure.CUT, CHARGE),
        (Raw(http(b"", *MONEY, "Content-Length: 70"), "hang", later=b" ", seconds=0.1), Failure.CUT, CHARGE),
        (Raw(http(BODY[:-9], *MONEY, "Connection: close"), "close"), Failure.CUT, CHARGE),
        (Raw(http(b"", *MONEY, "Transfer-Encoding: chunked") + b"5\r\n{}", "close"), Failure.CUT, CHARGE),
        (Raw(http(b"", *MONEY, "Transfer-Encoding: chunked"), "hang", later=b"zz\r\n{}"), Failure.CUT, CHARGE),
        (Answer(PACKED[:-9], 200, PACKING), Failure.CUT, CHARGE),
        (Answer(BODY, 200, PACKING), Failure.MALFORMED, CHARGE),
        (Answer(PACKED + b"more", 200, PACKING), Failure.MALFORMED, CHARGE),
        (Answer(BODY, 200, {"Content-Encoding": "br", **CHARGED}), Failure.MALFORMED, CHARGE),
        (Answer(b" " * (8 * 1024 * 1024 + 1), 200, CHARGED), Failure.MALFORMED, CHARGE),
        (Raw(http(BODY, "Content-Length: 2", *MONEY)), Failure.MALFORMED, None),
        (Raw(b"SSH-2.0-OpenSSH_9.2\r\n"), Failure.MALFORMED, None),
        (Raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000), Failure.MALFORMED, None),
        (Answer({}, 307, {"Location": "/elsewhere", **CHARGED}), Failure.UNTRUSTED, CHARGE),
        # the body is missing, and the status says all the same what is to be done
        (Raw(http(b"", "Retry-After: 7", "Content-Length: 70", status="429 No"), "hang"), Failure.RATE_LIMITED, None),
        (Raw(http(b"", "Content-Length: 70", status="401 No")), Failure.KEY_REFUSED, None),
        (Raw(http(b"", "Content-Length: 70", status="400 No")), Failure.CUT, None),
    ],
)
def test_a_fault_on_the_wire_is_told_from_the_others(said: Said, failure: Failure, charge: Charge | None) -> None:
    """And the next request is answered: what is broken is dropped with its connection."""
    (ended, next_ended) = talk(said, Answer(completion("next")), deadline=0.25 if _is_slow(said) else 5.0)
    assert isinstance(ended, TransportError)
    assert (ended.failure, ended.charge) == (failure, charge), str(ended)
    assert isinstance(next_ended, Reply)
    assert next_ended.text == "next"


def _is_slow(said: Said) -> bool:
    return said.seconds > 0.3 if isinstance(said, Answer) else said.then == "hang"


def test_a_gzip_bomb_takes_no_memory() -> None:
    bomb = gzip.compress(bytes(100_000_000))
    talk(Answer(completion()))  # imports
    tracemalloc.start()
    error = failed(Answer(bomb, headers={"Content-Encoding": "gzip", **CHARGED}))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (error.failure, error.charge) == (Failure.MALFORMED, CHARGE)
    assert peak < 40_000_000


def test_a_redirect_is_never_followed() -> None:
    async def run() -> tuple[Ended, int]:
        async with (
            GatewayServer() as other,
            GatewayServer([Answer({}, 308, {"Location": f"{other.url}/v1"})]) as server,
        ):
            transport = connect(server.url)
            ended = await ask(transport)
            await transport.aclose()
            return ended, len(other.asked)

    ended, asked = asyncio.run(run())
    assert isinstance(ended, TransportError)
    assert ended.failure is Failure.UNTRUSTED
    assert asked == 0


def test_a_certificate_that_nobody_signed_stops_before_anything_is_sent(tmp_path: Path) -> None:
    async def run() -> tuple[Ended, int]:
        async with GatewayServer([Answer(completion())], tls=untrusted_tls(tmp_path)) as server:
            transport = connect(server.url)
            ended = await ask(transport)
            await transport.aclose()
            return ended, len(server.asked)

    ended, asked = asyncio.run(run())
    assert isinstance(ended, TransportError)
    assert ended.failure is Failure.UNTRUSTED
    assert "certificate verify failed" in str(ended)
    assert asked == 0


def unanswered(url: str, *, deadline: float = 5.0) -> TransportError:
    async def run() -> Ended:
        transport = connect(url)
        ended = await ask(transport, deadline=deadline)
        await transport.aclose()
        return ended

    ended = asyncio.run(run())
    assert isinstance(ended, TransportError)
    return ended


def test_a_refused_connection_sent_nothing() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert unanswered(f"http://127.0.0.1:{port}").failure is Failure.NOT_SENT


def test_a_name_that_is_not_found_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lookup(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", lookup)
    error = unanswered("https://gateway.example")
    assert error.failure is Failure.NOT_SENT
    assert "gateway.example" in str(error)


@pytest.mark.parametrize("by", ["the deadline", "the limit for connecting"])
def test_a_connection_that_takes_too_long_sent_nothing(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if by != "the deadline":
        monkeypatch.setattr(packer.wire, "_CONNECT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"  # TLS waits for a word
        error = unanswered(url, deadline=0.1 if by == "the deadline" else 5.0)
    assert error.failure is Failure.NOT_SENT
    assert ("deadline" in str(error)) == (by == "the deadline")


def test_no_tls_where_it_was_meant_sent_nothing() -> None:
    async def run() -> Ended:
        async with GatewayServer([Answer(completion())]) as server:
            transport = connect(server.url.replace("http:", "https:"))
            ended = await ask(transport)
            await transport.aclose()
            return ended

    ended = asyncio.run(run())
    assert isinstance(ended, TransportError)
    assert ended.failure is Failure.NOT_SENT


def test_a_prompt_that_cannot_be_written_is_a_bad_request() -> None:
    async def run() -> Ended:
        async with GatewayServer() as server:
            transport = connect(server.url)
            ended = await ask(transport, prompt=Prompt("\ud800", "x", SCHEMA, 5))
            await transport.aclose()
            return ended

    ended = asyncio.run(run())
    assert isinstance(ended, TransportError)
    assert ended.failure is Failure.BAD_REQUEST


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (Answer(completion('{"pack": "k7f2"}')), True),
        (Answer(completion("I cannot help with that.")), True),
        (Answer({}, status=503), True),
        (Answer(BODY, 200, PACKING), False),
        (Answer(PACKED[:-9], 200, PACKING), False),
        (Answer(completion('{"pack": "zzzz"}')), False),
    ],
)
def test_a_connection_is_kept_unless_what_came_on_it_was_broken_or_another_requests(said: Said, *, kept: bool) -> None:
    """A body that ends where it says is back in the pool before anybody can see that it is no gzip."""
    asked, _, _ = requests_of([said, Answer(completion())], 2)
    assert (asked[0].port == asked[1].port) == kept


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_second_reply_to_one_request_reaches_no_other(when: str) -> None:
    first, stale = http(json.dumps(completion("first")).encode()), http(json.dumps(completion("stale")).encode())
    twice = Raw(first + stale, "hang") if when == "at once" else Raw(first, "hang", later=stale)

    async def run() -> list[Ended]:
        async with GatewayServer([twice, Answer(completion("second")), Answer(completion("third"))]) as server:
            transport = connect(server.url)
            ended = [await ask(transport)]
            await asyncio.sleep(0.1)
            ended += [await ask(transport), await ask(transport)]
            await transport.aclose()
            return ended

    texts = [one.text if isinstance(one, Reply) else str(one.failure) for one in asyncio.run(run())]
    assert texts[0] in {"first", "malformed"}
    assert texts[1:] == ["second", "third"]


def test_a_cancelled_request_is_cancelled_and_leaves_nothing_open() -> None:
    async def run() -> int:
        async with GatewayServer([Raw(then="hang"), Answer(completion())]) as server:
            transport = connect(server.url)
            await ask(transport, deadline=0.05)
            task = asyncio.create_task(transport.send(PROMPT, deadline=5))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert isinstance(await ask(transport), Reply | TransportError)
            await transport.aclose()
            return len(server.asked)

    assert asyncio.run(run()) >= 2


@pytest.mark.parametrize(
    "said",
    [
        Answer({"error": {"message": f"Incorrect API key provided: {KEY}."}}, 401),
        Answer({"error": {"message": f"Incorrect API key provided: {KEY[:10]}*****ghij."}}, 401),
        Answer({"error": f"{KEY}"}, 400),
        Answer(f"<title>{KEY}</title>".encode(), 502),
        Answer(f"key {KEY}".encode()),
        Answer({}, 307, {"Location": f"https://elsewhere.example/{KEY}"}),
        Answer({}, 400, {"X-Echo": KEY, "Content-Type": KEY, "Set-Cookie": KEY}),
        Raw(f"HTTP/1.1 200 {KEY}\r\nContent-Length: 0\r\n\r\n".encode()),
        Raw(f"HTTP/1.1 401 {KEY}\r\nContent-Length: 0\r\n\r\n".encode()),
        Raw(f"{KEY}\r\n\r\n".encode()),
        Raw(http(BODY, f"Content-Encoding: {KEY}")),
        Raw(http(b"", "Transfer-Encoding: chunked") + KEY.encode() + b"\r\n", "hang"),
    ],
)
def test_a_gateway_that_echoes_the_key_gets_it_shown_nowhere(said: Said) -> None:
    error = failed(said, deadline=0.5)
    assert len(str(error)) <= 300


def test_a_wire_sends_to_no_other_host() -> None:
    async def run() -> tuple[Call, int]:
        async with GatewayServer() as other:
            wire = Wire("https://gateway.example/v1", {"Authorization": f"Bearer {KEY}"}, connections=1)
            call = await wire.call(lambda: wire.send("POST", f"{other.url}/v1", [], b"{}"), deadline=5)
            await wire.aclose()
            return call, len(other.asked)

    call, asked = asyncio.run(run())
    assert call.untrusted
    assert (call.sent, asked) == (False, 0)


# Settings that are refused


def test_a_refused_setting_is_left_out_from_then_on() -> None:
    def reply(asked: Asked) -> Said:
        if "temperature" in asked.body:
            return Answer({"error": {"message": "Unsupported value", "param": "temperature"}}, 400)
        return Answer(completion("hi"))

    asked, ended, refused = requests_of(reply, 3)
    assert isinstance(ended[0], TransportError)
    assert (ended[0].failure, ended[0].setting) == (Failure.SETTING_REFUSED, "temperature")
    assert [isinstance(one, Reply) for one in ended] == [False, True, True]
    assert [("temperature" in one.body) for one in asked] == [True, False, False]
    assert refused == ("temperature",)


def test_a_schema_whose_patterns_are_refused_is_sent_without_them() -> None:
    def reply(asked: Asked) -> Said:
        if "pattern" in str(asked.body["response_format"]):
            return Answer({"error": "Invalid schema for response_format 'answer': 'pattern' is not permitted"}, 400)
        return Answer(completion("hi"))

    asked, ended, refused = requests_of(reply, 3)
    assert [isinstance(one, Reply) for one in ended] == [False, True, True]
    assert [one.body["response_format"]["type"] for one in asked] == ["json_schema"] * 3
    assert refused == ("response_format json_schema pattern",)


def test_a_token_limit_that_is_ignored_in_silence_is_sent_under_its_other_name() -> None:
    def reply(asked: Asked) -> Said:
        taken = 320 if "max_tokens" in asked.body else 9_000
        return Answer(completion("hi", usage={"prompt_tokens": 30, "completion_tokens": taken}))

    asked, ended, refused = requests_of(reply, 3)
    assert all(isinstance(one, Reply) for one in ended)
    assert ["max_tokens" in one.body for one in asked] == [False, True, True]
    assert refused == ("max_completion_tokens",)


def test_a_gateway_that_refuses_everything_is_asked_a_bounded_number_of_times() -> None:
    def reply(asked: Asked) -> Said:
        name = next(
            n for n in ("response_format", "temperature", "max_completion_tokens", "max_tokens") if n in asked.body
        )
        return Answer({"error": {"message": f"pattern in schema: {name} is not supported", "param": name}}, 400)

    asked, ended, refused = requests_of(reply, 8)
    kinds = [one.failure for one in ended if isinstance(one, TransportError)]
    assert kinds == [Failure.SETTING_REFUSED] * 5 + [Failure.BAD_REQUEST] * 3
    formats = [one.body.get("response_format", {}).get("type") for one in asked[:4]]
    assert formats == ["json_schema", "json_schema", "json_object", None]
    assert "pattern" not in str(asked[1].body)
    assert {key: value for key, value in asked[-1].body.items() if key not in {"model", "messages"}} == {
        "max_tokens": 320
    }
    assert refused == (
        "response_format json_schema pattern",
        "response_format json_schema",
        "response_format json_object",
        "temperature",
        "max_completion_tokens",
    )


def test_requests_sent_in_the_old_dialect_step_down_no_further() -> None:
    def reply(asked: Asked) -> Said:
        if asked.body.get("response_format", {}).get("type") == "json_schema":
            return Answer({"error": "This response_format type is unavailable now"}, 400, seconds=0.05)
        return Answer(completion("hi"))

    async def run() -> tuple[list[Ended], Ended, tuple[str, ...]]:
        async with GatewayServer(reply) as server:
            transport = connect(server.url)
            ended = await asyncio.gather(*[ask(transport) for _ in range(8)])
            last = await ask(transport)
            await transport.aclose()
            assert server.bodies[-1]["response_format"] == {"type": "json_object"}
            return ended, last, transport.refused_settings()

    ended, last, refused = asyncio.run(run())
    assert {one.failure for one in ended if isinstance(one, TransportError)} == {Failure.SETTING_REFUSED}
    assert isinstance(last, Reply)
    assert refused == ("response_format json_schema",)


# Anything at all


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "choices", "message", "content", "usage", "code", "prompt_tokens", "cost"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)
BODIES = st.one_of(st.binary(max_size=60), JSON.map(lambda body: json.dumps(body).encode()))


@settings(max_examples=100)
@given(
    st.none() | st.integers(100, 999),
    BODIES,
    st.booleans(),
    st.dictionaries(st.sampled_from(["x-mdb-charged-usd", "retry-after", "date"]), st.lists(st.text(), max_size=2)),
)
def test_whatever_comes_back_is_a_reply_or_one_documented_failure(
    status: int | None, body: bytes, complete: bool, headers: dict[str, list[str]]
) -> None:
    transport = GatewayTransport("m", base_url="http://127.0.0.1:1", api_key=KEY, connections=1)
    call = Call(sent=True, status=status, headers=headers, body=bytearray(body), complete=complete, trouble="broken")
    dialect = Dialects(tuple(Form), ("max_tokens",)).current
    read: Callable[..., Reply] = transport._reply
    try:
        reply = read(call, PROMPT, dialect, 1.0)
    except TransportError as error:
        check_for_key(error)
    else:
        assert status == 200
        assert complete
        assert isinstance(reply.text, str)
