"""One request and what is said to it. Whatever is said, the record is written first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from aiohttp import web
from gateway_server import completion

from gateway.accounts import Account, bill_for
from gateway.probabilities import log_probabilities
from gateway.records import Record
from packer.usage import Price, Usage

if TYPE_CHECKING:
    from gateway.server import Gateway

Headers = dict[str, str]


class _Said(web.Response):
    """All has been said already: nothing more goes out, and the connection is left as it is."""

    async def prepare(self, request: web.BaseRequest) -> None:
        self._keep_alive = True

    async def write_eof(self, data: bytes = b"") -> None:
        pass


@dataclass
class Exchange:
    """A request that was let in.

    `text` is the right answer, cut where max_tokens cuts it (`finish` says so), `usage` what it takes, `rows` its
    labels (or records) by text, `sure` the probability of each being right, None where log-probabilities are not given.
    `prompt` is the chat's system and user message. `request` is None for one of a batch; `price` is what it is billed
    at.
    """

    gateway: Gateway
    request: web.BaseRequest | None
    record: Record
    account: Account
    prompt: tuple[str, str]
    text: str
    finish: str
    usage: Usage
    price: Price
    rows: Mapping[str, Any]
    limits: Headers = field(default_factory=dict)
    sure: Sequence[float] | None = None

    def bill(self, usd: Decimal | None = None) -> Decimal:
        """Take the money for this request: what it costs, or `usd`."""
        taken = bill_for(self.usage, self.price) if usd is None else usd
        self.account.take(taken)
        self.record.billed += taken
        return taken

    def worst(self) -> Decimal:
        """More than any client can have set aside for this request: a token a byte, and all of max_tokens."""
        size = len(self.prompt[0].encode()) + len(self.prompt[1].encode()) + 20_000
        return bill_for(Usage(size, self.record.max_tokens), self.gateway.setup.price)

    def body(self, text: str | None = None, *, finish: str | None = None, **more: Any) -> dict[str, Any]:
        """The completion: `text` in the place of the right answer; `more` replaces fields."""
        usage: dict[str, Any] = {
            "prompt_tokens": self.usage.input_tokens,
            "completion_tokens": self.usage.output_tokens,
            "total_tokens": self.usage.input_tokens + self.usage.output_tokens,
        }
        if self.gateway.setup.tells == "body":
            usage["cost"] = float(self.record.billed)
        text = self.text if text is None else text
        body = completion(text, finish=self.finish if finish is None else finish, **({"usage": usage} | more))
        if self.sure is not None and body["choices"]:
            rows = [self.rows[asked] for asked in self.record.texts]
            body["choices"][0]["logprobs"] = log_probabilities(text, rows, self.sure, seed=self.record.nonce)
        return body

    def money(self) -> Headers:
        """The headers that tell the charge and the balance."""
        told = f"{self.record.billed:f}"
        match self.gateway.setup.tells:
            case "header":
                return {"X-MDB-Charged-USD": told, "X-MDB-Balance-USD": f"{self.account.balance:f}"}
            case "litellm":
                return {"x-litellm-response-cost": told}
            case _:
                return {}

    def honest(self) -> None:
        """Note that this reply gives the right rows, whole."""
        self.record.arrived = dict(self.rows) if self.finish == "stop" else {}

    def told(self) -> None:
        """Note that the reply tells what was billed."""
        self.record.told = None if self.gateway.setup.tells == "silent" else self.record.billed

    def say(self, body: Any, headers: Mapping[str, str] | list[tuple[str, str]] | None = None) -> web.Response:
        """Status 200 with `body`, JSON unless it is bytes; `headers` None are those of the money."""
        self._log(200)
        return respond(200, body, self.money() if headers is None else headers, self.limits)

    def refuse(self, status: int, error: Any, headers: Mapping[str, str] | None = None) -> web.Response:
        """An error reply; nothing is billed for it."""
        self._log(status)
        return respond(status, error, headers or {}, self.limits)

    async def raw(self, data: bytes, *, then: str = "close", drip: tuple[bytes, float] | None = None) -> web.Response:
        """Bytes on the connection as they are, then it is closed, reset or left silent; `drip`: a byte a time."""
        self._log(200)
        assert self.request is not None, "in a batch there is no wire"
        transport = self.request.transport
        assert transport is not None
        transport.write(data)
        if drip is not None:
            for place in range(len(drip[0])):
                await asyncio.sleep(drip[1])
                if transport.is_closing():
                    break
                transport.write(drip[0][place : place + 1])
        await asyncio.sleep(0.03)
        if then == "hang":
            await self.gateway.closing.wait()
        if then == "reset":
            transport.abort()
        elif then != "keep":
            transport.close()
        return _Said()

    def http(self, body: bytes, *headers: str, length: int | None = None) -> bytes:
        """A whole reply as bytes, with the headers of the money; `length` None is the body's own, -1 says none."""
        lines = ["HTTP/1.1 200 OK", "Content-Type: application/json", *headers]
        lines += [f"{name}: {value}" for name, value in self.money().items()]
        if length != -1:
            lines.append(f"Content-Length: {len(body) if length is None else length}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    def _log(self, status: int) -> None:
        self.record.status = status
        self.gateway.log.write(self.record)


def respond(
    status: int, body: Any, headers: Mapping[str, str] | list[tuple[str, str]], more: Mapping[str, str]
) -> web.Response:
    """A response whose headers may come twice."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "text/html" if data.startswith(b"<") else "application/json"
    response = web.Response(status=status, body=data, content_type=kind)
    pairs = headers if isinstance(headers, list) else list(headers.items())
    for name, value in [*pairs, *more.items()]:
        response.headers.add(name, value)
    return response
