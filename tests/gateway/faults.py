"""Every fault that a gateway is known to have, by its name: what it does, and whether the account is billed for it."""

from __future__ import annotations

import asyncio
import email.utils
import functools
import gzip
import json
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from gateway.annotators import chance
from gateway.exchanges import Exchange
from packer.prompts import read_user

Act = Callable[[Exchange], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Fault:
    """`what` it does in a line; `billed` where the account pays for it, None where a coin decides."""

    what: str
    billed: bool | None
    act: Act


FAULTS: dict[str, Fault] = {}


def fault(name: str, what: str, *, billed: bool | None) -> Callable[[Act], Act]:
    def note(act: Act) -> Act:
        FAULTS[name] = Fault(what, billed, act)
        return act

    return note


def error(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI writes it."""
    return {"error": {"message": message, "type": kind, "code": code, "param": None}}


def refusal(name: str, status: int, body: Any, headers: Callable[[], dict[str, str]] = dict) -> None:
    """A fault that is one error reply, not billed."""
    message = body["error"]["message"] if isinstance(body, dict) else str(body)

    async def act(exchange: Exchange) -> web.StreamResponse:
        return exchange.refuse(status, body, headers())

    FAULTS[name] = Fault(f"{status}: {message}", billed=False, act=act)


_SLOW = error("Rate limit reached for requests", "requests", "rate_limit_exceeded")
refusal("rate-limited-seconds", 429, _SLOW, lambda: {"Retry-After": "1"})
refusal("rate-limited-date", 429, _SLOW, lambda: {"Retry-After": email.utils.formatdate(time.time() + 2, usegmt=True)})
refusal("rate-limited-silent", 429, _SLOW)
refusal("insufficient-quota", 429, error("You exceeded your current quota", "insufficient_quota", "insufficient_quota"))
refusal("no-balance", 402, error("Your balance is too low", "billing", "balance_too_low"))
refusal("key-refused", 401, error("Incorrect API key provided", "invalid_request_error", "invalid_api_key"))
refusal("forbidden", 403, error("This key may not use this model", "permission_error"))
refusal("bad-request", 400, error("Unrecognized request argument supplied: messages", "invalid_request_error"))
refusal("not-found", 404, error("Invalid URL", "invalid_request_error"))
refusal("too-large", 413, error("Request entity too large", "invalid_request_error"))
refusal("unprocessable", 422, error("messages: value is not a valid list", "invalid_request_error"))
for _status, _words in {
    408: "The request took too long",
    409: "Another request is in progress",
    500: "The server had an error",
    502: "Bad gateway",
    503: "The engine is overloaded",
    504: "The upstream did not answer in time",
    529: "Overloaded",
}.items():
    refusal(f"error-{_status}", _status, error(_words, "server_error"))


@fault("echo-key", "400 whose message repeats the Authorization header", billed=False)
async def _echo_key(exchange: Exchange) -> web.StreamResponse:
    assert exchange.request is not None
    return exchange.refuse(400, error(f"bad header {exchange.request.headers.get('Authorization')}", "invalid"))


@fault("redirect", "307 to another host", billed=False)
async def _redirect(exchange: Exchange) -> web.StreamResponse:
    return exchange.refuse(307, b"{}", {"Location": exchange.gateway.elsewhere})


@fault("ok-error-body", "200 with an error object in the body", billed=False)
async def _ok_error(exchange: Exchange) -> web.StreamResponse:
    return exchange.say(error("The engine is overloaded", "server_error"), {})


@fault("ok-empty-choices", "200 without a choice", billed=True)
async def _ok_empty(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    exchange.told()
    return exchange.say(exchange.body(choices=[]))


@fault("ok-html", "200 with an HTML page", billed=False)
async def _ok_html(exchange: Exchange) -> web.StreamResponse:
    return exchange.say(b"<html><title>Please log in</title></html>", {})


# The wire


@fault("reset-before-headers", "the connection is reset after the work was done", billed=True)
async def _reset(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    return await exchange.raw(b"", then="reset")


@fault("eof-before-headers", "the connection is closed without a reply", billed=None)
async def _eof(exchange: Exchange) -> web.StreamResponse:
    if chance(exchange.gateway.setup.seed, exchange.record.number, "eof") < 0.5:
        exchange.bill()
    return await exchange.raw(b"")


@fault("cut-after-headers", "the charge is told, the body ends in the middle", billed=True)
async def _cut(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    exchange.told()
    body = json.dumps(exchange.body()).encode()
    return await exchange.raw(exchange.http(body[: len(body) // 2], length=len(body)))


@fault("cut-unannounced", "a body without a length ends in the middle, and nobody says so", billed=True)
async def _cut_unannounced(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    exchange.told()
    body = json.dumps(exchange.body()).encode()
    return await exchange.raw(exchange.http(body[: len(body) // 2], "Connection: close", length=-1))


@fault("hang", "the work is done and nothing ever comes", billed=True)
async def _hang(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    return await exchange.raw(b"", then="hang")


@fault("slow-loris", "the charge is told, then a byte each half second, for half a minute", billed=True)
async def _slow_loris(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    exchange.told()
    body = json.dumps(exchange.body()).encode()
    return await exchange.raw(exchange.http(b"", length=len(body)), drip=(body[:60], 0.5))


@fault("wrong-length-long", "the body is shorter than its length says", billed=True)
async def _too_short(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    exchange.told()
    body = json.dumps(exchange.body()).encode()
    return await exchange.raw(exchange.http(body, length=len(body) + 50))


@fault("wrong-length-short", "the body is longer than its length says", billed=True)
async def _too_long(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    exchange.told()
    body = json.dumps(exchange.body()).encode()
    return await exchange.raw(exchange.http(body, length=len(body) - 50))


@fault("bad-gzip", "a body that says gzip and is none", billed=True)
async def _bad_gzip(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    exchange.told()
    return await exchange.raw(exchange.http(json.dumps(exchange.body()).encode(), "Content-Encoding: gzip"))


@fault("cut-gzip", "a gzip body without its end", billed=True)
async def _cut_gzip(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    exchange.told()
    packed = gzip.compress(json.dumps(exchange.body()).encode())
    return await exchange.raw(exchange.http(packed[: len(packed) // 2], "Content-Encoding: gzip"))


@fault("gzip-bomb", "a gzip body of 400 MB", billed=True)
async def _bomb(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    exchange.told()
    return await exchange.raw(exchange.http(_make_bomb(), "Content-Encoding: gzip"))


@fault("stale-reply", "the reply to an earlier request", billed=True)
async def _stale(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    exchange.told()
    return exchange.say(exchange.body(exchange.gateway.last_text or '{"pack":"zzzz","answers":[]}'))


@fault("duplicate-reply", "two replies on one connection", billed=True)
async def _duplicate(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    exchange.told()
    exchange.honest()
    whole = exchange.http(json.dumps(exchange.body()).encode())
    return await exchange.raw(whole + whole, then="keep")


# Money


@fault("usage-missing", "no usage in the body", billed=True)
async def _usage_missing(exchange: Exchange) -> web.StreamResponse:
    return _right(exchange, usage=None)


@fault("usage-stale", "the usage of another, smaller request", billed=True)
async def _usage_stale(exchange: Exchange) -> web.StreamResponse:
    return _right(exchange, usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})


def _charge_told_as(name: str, what: str, *values: str) -> None:
    async def act(exchange: Exchange) -> web.StreamResponse:
        exchange.bill()
        exchange.honest()
        if exchange.gateway.setup.tells == "body":  # where no header is needed
            exchange.told()
        balance = ("X-MDB-Balance-USD", f"{exchange.account.balance:f}")
        return exchange.say(exchange.body(), [*(("X-MDB-Charged-USD", value) for value in values), balance])

    FAULTS[name] = Fault(what, billed=True, act=act)


_charge_told_as("charge-missing", "no charge header")
_charge_told_as("charge-nan", "a charge of NaN", "NaN")
_charge_told_as("charge-negative", "a negative charge", "-0.01")
_charge_told_as("charge-twice", "two charge headers", "0.000001", "0.000002")


@fault("charge-over-reserve", "a charge that no client can have set aside", billed=True)
async def _over(exchange: Exchange) -> web.StreamResponse:
    exchange.bill(exchange.worst() * 2)
    exchange.told()
    exchange.honest()
    return exchange.say(exchange.body())


@fault("balance-jump", "a balance of a thousandth of a cent, once", billed=True)
async def _jump(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    exchange.told()
    exchange.honest()
    return exchange.say(exchange.body(), exchange.money() | {"X-MDB-Balance-USD": "0.00001"})


# Answers


@fault("truncated", "the answer ends in the middle, finish_reason length", billed=True)
async def _truncated(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    exchange.told()
    return exchange.say(exchange.body(exchange.text[: len(exchange.text) * 2 // 3], finish="length"))


@fault("content-filter", "no answer, finish_reason content_filter", billed=True)
async def _filtered(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    exchange.told()
    return exchange.say(exchange.body("", finish="content_filter"))


def _answer(name: str, what: str, twist: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    async def act(exchange: Exchange) -> web.StreamResponse:
        exchange.bill()
        exchange.told()
        try:
            text = json.dumps(twist(json.loads(exchange.text)), separators=(",", ":"), ensure_ascii=False)
        except ValueError:  # it was cut at max_tokens already
            text = exchange.text
        return exchange.say(exchange.body(text))

    FAULTS[name] = Fault(what, billed=True, act=act)


def _renumber(row: Any, by: int) -> Any:
    if isinstance(row, str):
        number, _, label = row.partition(" ")
        return f"{int(number) + by} {label}"
    if isinstance(row, list):
        return [row[0] + by, *row[1:]]
    return {**row, "n": row["n"] + by}


def _relabel(row: Any) -> Any:
    if isinstance(row, str):
        return f"{row.partition(' ')[0]} no such label"
    if isinstance(row, list):
        return [row[0], "no such label"]
    return {**row, "label": "no such label"}


_answer(
    "shifted-numbers",
    "every number is one too high",
    lambda a: {**a, "answers": [_renumber(r, 1) for r in a["answers"]]},
)
_answer("foreign-nonce", "the answer names another pack", lambda a: {**a, "pack": "zzzz"})
_answer("lost-row", "the first row is missing", lambda a: {**a, "answers": a["answers"][1:]})
_answer("duplicate-row", "the first row comes twice", lambda a: {**a, "answers": [*a["answers"][:1], *a["answers"]]})
_answer(
    "unknown-label",
    "the first row has a label that does not exist",
    lambda a: {**a, "answers": [_relabel(row) for row in a["answers"][:1]] + a["answers"][1:]},
)


@fault("prose", "a sentence in the place of JSON", billed=True)
async def _prose(exchange: Exchange) -> web.StreamResponse:
    exchange.bill()
    exchange.told()
    return exchange.say(exchange.body("I am sorry, I cannot help with that."))


# Load


@fault("latency-spike", "the right reply, ten times as late", billed=True)
async def _late(exchange: Exchange) -> web.StreamResponse:
    await asyncio.sleep(9 * exchange.gateway.setup.seconds + 0.3)
    return _right(exchange)


@fault("reorder", "the right reply, after some that were asked later", billed=True)
async def _reorder(exchange: Exchange) -> web.StreamResponse:
    await asyncio.sleep(0.2 * chance(exchange.gateway.setup.seed, exchange.record.number))
    return _right(exchange)


@fault("brownout", "nine of ten get 503", billed=None)
async def _brownout(exchange: Exchange) -> web.StreamResponse:
    if chance(exchange.gateway.setup.seed, exchange.record.number, "brownout") < 0.9:
        return exchange.refuse(503, error("The engine is overloaded", "server_error"))
    return _right(exchange)


@fault("poison", "400 for a pack with a text that says POISON; else the right reply", billed=None)
async def _poison(exchange: Exchange) -> web.StreamResponse:
    if any("POISON" in text for text in read_user(exchange.prompt[1])[1]):
        return exchange.refuse(400, error("flagged by our content policy", "invalid_request_error", "content_filter"))
    return _right(exchange)


def _right(exchange: Exchange, **more: Any) -> web.StreamResponse:
    exchange.bill()
    if "usage" not in more or exchange.gateway.setup.tells != "body":
        exchange.told()
    exchange.honest()
    return exchange.say(exchange.body(**more))


async def answer(exchange: Exchange) -> web.StreamResponse:
    """No fault at all."""
    return _right(exchange)


@functools.cache
def _make_bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    million = b" " * 1_000_000
    return b"".join(packer.compress(million) for _ in range(400)) + packer.flush()
