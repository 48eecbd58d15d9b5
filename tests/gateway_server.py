"""A real HTTP server on loopback that says what a script tells it, reply by reply, and remembers what it was asked.

It speaks the formats of OpenAI, Anthropic and Gemini alike: a reply is an `Answer`, whatever it holds, or `Raw` bytes
for what no HTTP server would say.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from aiohttp import web


@dataclass(frozen=True)
class Asked:
    """One request as it arrived; header names are lower-case."""

    path: str
    headers: Mapping[str, str]
    body: Any
    port: int


@dataclass(frozen=True)
class Answer:
    """A reply. `body` is JSON unless it is bytes; `seconds` is the time that it takes to begin."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Raw:
    """Bytes on the connection, as they are, and more of them `later`; `then` it is closed, reset, or left silent."""

    data: bytes = b""
    then: Literal["close", "reset", "hang"] = "close"
    later: bytes = b""
    seconds: float = 0.03


Said: TypeAlias = Answer | Raw
Script: TypeAlias = Iterable[Said] | Callable[[Asked], Said]


class GatewayServer:
    """`async with GatewayServer(script) as server`: `server.url` is its address, `server.asked` the requests so far.

    `script` is the replies in order, or a function from a request to its reply.
    """

    def __init__(self, script: Script = (), *, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self._reply: Callable[[Asked], Said]
        if callable(script):
            self._reply = script
        else:
            replies = iter(script)
            self._reply = lambda _: next(replies, Answer({"error": "the script is at its end"}, 599))
        self._tls = tls
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0)
        self._closing = asyncio.Event()
        self.url = ""

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        await self._runner.cleanup()

    @property
    def bodies(self) -> list[Any]:
        """The bodies of the requests so far."""
        return [asked.body for asked in self.asked]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        headers = {name.lower(): value for name, value in request.headers.items()}
        port = request.transport.get_extra_info("peername")[1]
        asked = Asked(request.path, headers, json.loads(await request.read() or b"null"), port)
        self.asked.append(asked)
        said = self._reply(asked)
        if isinstance(said, Raw):
            return await self._say_raw(request.transport, said)
        await asyncio.sleep(said.seconds)
        body = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
        response = web.Response(status=said.status, body=body, content_type="application/json")
        pairs = said.headers.items() if isinstance(said.headers, Mapping) else said.headers
        for name, value in pairs:
            if name.lower() in {"content-type", "content-length"}:
                response.headers[name] = value
            else:
                response.headers.add(name, value)
        return response

    async def _say_raw(self, transport: asyncio.Transport, said: Raw) -> web.StreamResponse:
        transport.write(said.data)
        if said.later:
            await asyncio.sleep(said.seconds)
            transport.write(said.later)
        if said.then == "hang":
            await self._closing.wait()
        elif said.then == "reset":
            transport.abort()
        else:
            transport.close()
        return web.Response()  # to nobody: the connection is gone


def completion(text: str | None = "{}", *, finish: str = "stop", **more: Any) -> dict[str, Any]:
    """A chat completion as OpenAI writes it; `more` replaces its fields."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35},
    } | more


def message(text: str = "{}", *, stop: str = "end_turn", **more: Any) -> dict[str, Any]:
    """A message as Anthropic writes it; `more` replaces its fields."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": text}],
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 30, "output_tokens": 5},
    } | more


def candidate(text: str = "{}", *, finish: str = "STOP", **more: Any) -> dict[str, Any]:
    """A candidate as Gemini writes it; `more` replaces its fields."""
    return {
        "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": finish, "index": 0}],
        "usageMetadata": {"promptTokenCount": 30, "candidatesTokenCount": 5, "totalTokenCount": 35},
    } | more


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A whole HTTP reply, to be cut or garbled; its length is that of `body` unless a header says otherwise."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers]
    if not any(header.lower().startswith(("content-length", "transfer-encoding", "connection")) for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


# Made for these tests and for 127.0.0.1; nobody trusts it
_CERTIFICATE = """\
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIASARHo9lQpZZssmnQsp7HO1Cx26X4F2s1pK4a9UD9EzoAoGCCqGSM49
AwEHoUQDQgAE3GnXlV5l1L/ARfYYAorkK+qLb7BQqrjfF3BDSggoHSbk2ghkf7OX
uUboUktkbyA/6k0sBKqLl+hV/B6yBSBMsQ==
-----END EC PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBjzCCATagAwIBAgIUBrmHratB010H1vdzvsnsdX9W5IMwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJMTI3LjAuMC4xMCAXDTI2MTEyNDAzMTYzOFoYDzIxMjYxMDMx
MDMxNjM4WjAUMRIwEAYDVQQDDAkxMjcuMC4wLjEwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATcadeVXmXUv8BF9hgCiuQr6otvsFCquN8XcENKCCgdJuTaCGR/s5e5
RuhSS2RvID/qTSwEqouX6FX8HrIFIEyxo2QwYjAdBgNVHQ4EFgQUBy2ff9lCpozy
R6R9vhrdbpxe5w0wHwYDVR0jBBgwFoAUBy2ff9lCpozyR6R9vhrdbpxe5w0wDwYD
VR0TAQH/BAUwAwEB/zAPBgNVHREECDAGhwR/AAABMAoGCCqGSM49BAMCA0cAMEQC
IBCJya281TENWv/djFJy6ypr1rgpvQyzh0agUeBpDVTWAiBNJBprxZHA5714FP9v
otnDyhErtq75WFM7BVD4LklGmg==
-----END CERTIFICATE-----
"""


def untrusted_tls(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS with a certificate that nobody has signed."""
    path = folder / "certificate.pem"
    path.write_text(_CERTIFICATE, encoding="ascii")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
