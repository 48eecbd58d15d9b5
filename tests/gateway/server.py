"""The gateway: lets in, works, bills, answers. Equal setups and equal requests give equal replies."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self

from aiohttp import web

from gateway.accounts import Account, bill_for, count_input, count_output, cut_to
from gateway.annotators import Annotator, fill_record, keyword, surety
from gateway.batches import Batches, BatchSetup
from gateway.exchanges import Exchange, respond
from gateway.faults import FAULTS, answer, error
from gateway.limits import Bucket, Slots
from gateway.records import Log, Record
from gateway.scripts import Script, no_fault
from packer.prompts import read_labels, read_record_schema, read_user
from packer.usage import Price, Usage

KEY = "rehearsal-key-0123456789"
MOST_TOKENS = 1_000_000


@dataclass(frozen=True)
class Setup:
    """How the gateway is.

    `price` is in USD per million tokens. `tells` says how charges are told. `seconds` is how long a request takes, plus
    `seconds_a_token` for each token of its answer. `rpm` and `tpm` are buckets a minute; `slots` a number, or a
    schedule of (from second, slots); with `queues` what finds no slot waits, else it gets 429. `cliff`: what comes in
    beyond so many at once takes ten times as long. `retry_after` is how a 429 tells the wait. `request_cap_usd` refuses
    what could cost more. None is no limit. `max_output_tokens` is less than clients may ask for. `logprobs` says what
    becomes of a request for log-probabilities: given, refused with 400, or ignored.
    """

    accounts: tuple[Account, ...] = ()
    price: Price = Price(Decimal("0.15"), Decimal("0.60"))  # noqa: RUF009  frozen
    annotate: Annotator = keyword
    script: Script = no_fault
    tells: Literal["header", "litellm", "body", "silent"] = "header"
    seconds: float = 0.0
    seconds_a_token: float = 0.0
    rpm: int | None = None
    tpm: int | None = None
    slots: int | tuple[tuple[float, int], ...] | None = None
    queues: bool = False
    cliff: int | None = None
    retry_after: Literal["seconds", "date", "ms", "nothing"] = "seconds"
    request_cap_usd: Decimal | None = None
    max_output_tokens: int | None = None
    logprobs: Literal["given", "refused", "ignored"] = "given"
    batches: BatchSetup = BatchSetup()  # noqa: RUF009  frozen
    seed: int = 0
    log: Path | None = None


class Gateway:
    """`async with Gateway(setup) as gateway:` a server on loopback; `gateway.url` is a base URL for clients."""

    def __init__(self, setup: Setup, *, port: int = 0, batches: Batches | None = None) -> None:
        self.setup = setup
        self.batches = Batches() if batches is None else batches
        self.accounts = setup.accounts or (Account("default", KEY),)
        self.log = Log(setup.log)
        self.number = 0
        self.last_text = ""
        self.closing = asyncio.Event()
        self.url = ""
        self.elsewhere = ""
        self.asked_elsewhere = 0
        slots = setup.slots
        self._slots = Slots(((0.0, slots),) if isinstance(slots, int) else slots or ())
        self._requests, self._tokens = Bucket(setup.rpm), Bucket(setup.tpm)
        self._freed = asyncio.Condition()
        self._port = port
        self._runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=0)
        self._other = web.ServerRunner(web.Server(self._serve_elsewhere, access_log=None), shutdown_timeout=0)

    async def __aenter__(self) -> Self:
        self._began = time.monotonic()
        for runner, port in ((self._runner, self._port), (self._other, 0)):
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        self.elsewhere = f"http://127.0.0.1:{self._other.addresses[0][1]}/v1/chat/completions"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closing.set()
        await self._runner.cleanup()
        await self._other.cleanup()
        self.log.close()

    @property
    def now(self) -> float:
        """Seconds since the gateway began."""
        return time.monotonic() - self._began

    async def _serve_elsewhere(self, request: web.BaseRequest) -> web.StreamResponse:
        # where a redirect leads: nobody may ever come here
        self.asked_elsewhere += 1
        return web.Response(status=200)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        data = await request.read()
        self.number += 1
        record = Record(self.number, self.now, "", "", [], 0)
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        account = next((account for account in self.accounts if account.key == key), None)
        revoked = account is not None and account.revoked_from is not None and self.number >= account.revoked_from
        if account is None or revoked:
            return self._turn_away(record, 401, error("Incorrect API key provided", "invalid_request_error"))
        record.account = account.name
        if request.path.startswith(("/v1/files", "/v1/batches")):
            self.number -= 1  # no request to a model
            return await self.batches.serve(self, request, account, data)
        return await self._answer(request, record, account, data)

    async def work_in_batch(self, account: Account, data: bytes, price: Price) -> tuple[int, Any]:
        """The status and the body that one request of a batch comes to, billed at `price`."""
        self.number += 1
        record = Record(self.number, self.now, account.name, "", [], 0, in_batch=True)
        response = await self._answer(None, record, account, data, price)
        assert isinstance(response, web.Response), "a fault of the wire says nothing in a batch"
        assert isinstance(response.body, bytes)
        return response.status, json.loads(response.body)

    async def _answer(
        self, request: web.BaseRequest | None, record: Record, account: Account, data: bytes, price: Price | None = None
    ) -> web.StreamResponse:
        try:
            body = json.loads(data)
            system, user = (message["content"] for message in body["messages"])
            record.nonce, record.texts = read_user(user)
            record.max_tokens = int(body.get("max_completion_tokens") or body["max_tokens"])
            allowed = 1 <= record.max_tokens <= MOST_TOKENS and (
                read_labels(system) or read_record_schema(system)["properties"]
            )
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as wrong:
            return self._turn_away(
                record, 400, error(f"cannot be read: {type(wrong).__name__}", "invalid_request_error")
            )
        if not allowed:
            return self._turn_away(
                record, 400, error("nothing is asked, or max_tokens is out of range", "invalid_request_error")
            )
        wants_logprobs = body.get("logprobs") is True
        if wants_logprobs and self.setup.logprobs == "refused":
            refusal = error(
                "'logprobs' is not supported with this model.", "invalid_request_error", "unsupported_parameter"
            )
            return self._turn_away(record, 400, refusal)
        most = self.setup.max_output_tokens
        if most is not None:
            record.max_tokens = min(record.max_tokens, most)
        record.input_tokens = count_input(data)
        worst = bill_for(Usage(record.input_tokens, record.max_tokens), self.setup.price)
        if self.setup.request_cap_usd is not None and worst > self.setup.request_cap_usd:
            return self._turn_away(record, 400, error("this request could cost more than its cap", "request_cap"))
        if record.in_batch:
            sure = surety(self.setup.annotate, record.texts)
            given = wants_logprobs and self.setup.logprobs == "given"
            return await self._work(
                request, record, account, (system, user), {}, sure=sure if given else None, price=price
            )
        wait = self._requests.take(1, self.now) or self._tokens.take(record.input_tokens + record.max_tokens, self.now)
        told = self._requests.headers("requests") | self._tokens.headers("tokens")
        if wait:
            return self._turn_away(
                record, 429, error("Rate limit reached", "rate_limit_exceeded"), told | self._wait(wait)
            )
        if not await self._enter():
            message = error("Too many requests at once", "rate_limit_exceeded")
            return self._turn_away(record, 429, message, told | self._wait(self.setup.seconds))
        try:
            sure = surety(self.setup.annotate, record.texts)
            given = wants_logprobs and self.setup.logprobs == "given"
            return await self._work(request, record, account, (system, user), told, sure=sure if given else None)
        finally:
            await self._leave()

    async def _work(
        self,
        request: web.BaseRequest | None,
        record: Record,
        account: Account,
        prompt: tuple[str, str],
        told: Mapping[str, str],
        *,
        sure: Sequence[float] | None,
        price: Price | None = None,
    ) -> web.StreamResponse:
        price = price or self.setup.price
        rows = annotate(self.setup.annotate, prompt[0], record.texts)
        whole = write_answer(prompt[0], record.nonce, rows)
        text = cut_to(whole, record.max_tokens)
        record.output_tokens = min(count_output(text), record.max_tokens)
        usage = Usage(record.input_tokens, record.output_tokens)
        if account.balance < bill_for(usage, price):
            return self._turn_away(record, 402, error("Your balance is too low", "billing"))
        crowded = self.setup.cliff is not None and self._slots.taken > self.setup.cliff
        seconds = self.setup.seconds + self.setup.seconds_a_token * record.output_tokens
        await asyncio.sleep(seconds * (10 if crowded else 1))
        record.fault = self.setup.script(record.number, record.texts)
        exchange = Exchange(
            gateway=self,
            request=request,
            record=record,
            account=account,
            prompt=prompt,
            text=text,
            finish="stop" if text == whole else "length",
            usage=usage,
            rows=dict(zip(record.texts, rows, strict=True)),
            limits=dict(told),
            sure=sure,
            price=price,
        )
        act = FAULTS[record.fault].act if record.fault else answer
        response = await act(exchange)
        self.last_text = text
        return response

    def _turn_away(
        self, record: Record, status: int, body: Any, headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        record.status = status
        self.log.write(record)
        return respond(status, body, headers or {}, {})

    def _wait(self, seconds: float) -> dict[str, str]:
        match self.setup.retry_after:
            case "seconds":
                return {"Retry-After": str(max(1, math.ceil(seconds)))}
            case "ms":
                return {"retry-after-ms": str(max(1, math.ceil(seconds * 1000)))}
            case "date":
                return {"Retry-After": email.utils.formatdate(math.ceil(time.time() + seconds), usegmt=True)}
            case _:
                return {}

    async def _enter(self) -> bool:
        async with self._freed:
            if not self._slots.has_room(self.now):
                if not self.setup.queues:
                    return False
                await self._freed.wait_for(lambda: self._slots.has_room(self.now))
            self._slots.taken += 1
        return True

    async def _leave(self) -> None:
        async with self._freed:
            self._slots.taken -= 1
            self._freed.notify_all()


def annotate(annotator: Annotator, system: str, texts: Sequence[str]) -> list[Any]:
    """A label, or a record, for each text."""
    labels = read_labels(system)
    if labels:
        return list(annotator(texts, labels))
    schema = read_record_schema(system)
    return [fill_record(schema, text) for text in texts]


def write_answer(system: str, nonce: str, rows: Sequence[Any]) -> str:
    """The answer in the shape that the system message shows."""
    numbered = enumerate(rows, 1)
    if not read_labels(system):
        answers: list[Any] = [{"n": number, **row} for number, row in numbered]
    elif '"answers":["1 ' in system:
        answers = [f"{number} {row}" for number, row in numbered]
    elif '"answers":[[1,' in system:
        answers = [[number, row] for number, row in numbered]
    else:
        answers = [{"n": number, "label": row} for number, row in numbered]
    return json.dumps({"pack": nonce, "answers": answers}, ensure_ascii=False, separators=(",", ":"))


@contextlib.contextmanager
def running_gateway(setup: Setup, *, port: int = 0, batches: Batches | None = None) -> Iterator[Gateway]:
    """A gateway in a thread of its own, for what does not await: the command, another process."""
    started: list[Gateway] = []
    loops: list[asyncio.AbstractEventLoop] = []
    ready = threading.Event()

    async def serve() -> None:
        async with Gateway(setup, port=port, batches=batches) as gateway:
            started.append(gateway)
            loops.append(asyncio.get_running_loop())
            ready.set()
            await gateway.closing.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="fake-gateway")
    thread.start()
    ready.wait()
    try:
        yield started[0]
    finally:
        loops[0].call_soon_threadsafe(started[0].closing.set)
        thread.join()
