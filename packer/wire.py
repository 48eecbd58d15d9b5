"""One request over HTTP: the key goes out to the configured host and nowhere else, and nothing raw comes back.

The SDKs write requests and follow their providers' formats; what they send passes through here. They hold a placeholder
for a key, and see of a reply no header and of an error no body: so no exception, log line or retry of theirs can carry
what they must not know. What came back is told by the `Call`, headers before body, however the call ended.

aiohttp because it takes a fifth of httpx's CPU and holds up beyond 64 connections.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from packer.headers import read_headers

MAX_BODY = 8 * 1024 * 1024  # bytes after decompression; an answer takes some kilobytes

_CONNECT_SECONDS = 15.0  # name, connection and TLS together
# Below the five seconds after which many servers close an idle connection: a request that meets the closing is in doubt
_KEEP_ALIVE_SECONDS = 4.0


@dataclass(slots=True)
class Call:
    """One request, as far as it came.

    `sent`: its first byte may have left. `status` is None until the headers are there. `body` is what was read and
    decompressed; `complete` tells that it is all. `trouble` says what broke the call off, empty where nothing did.
    `unwritten`: the SDK could not write the request. `untrusted`: the server is not the one that was meant. `garbled`:
    what came is no HTTP, or no body that can be read. `most` bytes of it are read.
    """

    unwritten: bool = False
    sent: bool = False
    status: int | None = None
    headers: Mapping[str, list[str]] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False
    trouble: str = ""
    untrusted: bool = False
    garbled: bool = False
    most: int = MAX_BODY
    connection: Any = None  # aiohttp's protocol: what the request went over

    def distrust(self) -> None:
        """Let no later request go over this connection: what comes next on it may be another request's."""
        if self.connection is not None:
            self.connection.force_close()


_CALL: ContextVar[Call] = ContextVar("packer_call")


class Wire:
    """Connections to one host.

    `base_url` says which; `headers` are sent with every request, the key among them; of what an SDK wants to send, only
    `User-Agent` and headers whose names begin with one of `passed` go out. `connections` is the most that are open at
    once. A wire belongs to the event loop in which it first sends.
    """

    def __init__(
        self, base_url: str, headers: Mapping[str, str], *, passed: tuple[str, ...] = (), connections: int
    ) -> None:
        self._origin = _origin(base_url)
        self._headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # answers are short, and what is not compressed cannot be a bomb
            "Content-Type": "application/json",
            **headers,
        }
        self._passed = ("user-agent", *passed)
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def call(self, ask: Callable[[], Awaitable[object]], *, deadline: float, most: int = MAX_BODY) -> Call:
        """What came of the one request that `ask`, a method of an SDK on a client of `client()`, sends.

        `deadline` is in seconds and covers everything; a body of more than `most` bytes is no reply. Whatever goes
        wrong is told by the `Call`; nothing is raised.
        """
        call = Call(most=most)
        token = _CALL.set(call)
        try:
            async with asyncio.timeout(deadline):
                await ask()
        except TimeoutError:
            call.trouble = call.trouble or f"the deadline of {deadline:g} s passed"
        except Exception as error:  # noqa: BLE001  an SDK may raise anything; what happened is in the call
            if not call.complete and not call.trouble:
                call.unwritten, call.trouble = True, f"{type(error).__name__}: {error}"
        finally:
            _CALL.reset(token)
        return call

    def client(self, http: Any) -> Any:
        """An asynchronous client of `http` (the module httpx, or httpx2) for an SDK, which sends through this wire."""
        # Proxies and passwords from the environment are for those who asked for them; a redirect is nobody's wish
        return http.AsyncClient(transport=_Adapter(self, http), trust_env=False, follow_redirects=False, timeout=None)

    async def send(self, method: str, url: str, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Call:
        """Send `body` for the call of the present context, which is returned."""
        call = _CALL.get()
        if _origin(url) != self._origin:
            call.untrusted, call.trouble = True, f"the SDK wants to send to {urlsplit(url).hostname}"
            return call
        given = dict(_decode(headers))
        sent = {name: value for name, value in given.items() if name.startswith(self._passed)} | self._headers
        if (kind := given.get("content-type", "")).startswith("multipart/form-data"):  # a file, with its boundary
            sent["Content-Type"] = kind
        try:
            await self._exchange(call, method, url, sent, body)
        except aiohttp.ClientConnectorCertificateError as error:
            call.untrusted, call.trouble = True, f"{error.host}: {error.certificate_error}"
        except aiohttp.ClientResponseError as error:
            # aiohttp's word for a reply that is no HTTP; the status 400 in it is its own
            call.garbled, call.trouble = True, f"no HTTP reply: {error.message}"
        except aiohttp.ClientPayloadError:
            call.trouble = "the body ended too soon"
        except Exception as error:  # noqa: BLE001  the state of the call tells what it means, not aiohttp's tree
            call.trouble = str(error) or type(error).__name__
        return call

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _exchange(self, call: Call, method: str, url: str, headers: Mapping[str, str], body: bytes) -> None:
        session = self._open()
        request = session.request(
            method, url, data=body or None, headers=headers, allow_redirects=False, trace_request_ctx=call
        )
        async with request as response:
            call.headers = read_headers(response.headers.items())
            call.status = response.status
            if 300 <= response.status < 400:
                call.untrusted = True
                call.trouble = f"a redirect, never followed, to {response.headers.get('Location', 'nowhere')}"
            else:
                await _read(call, response)
            if not call.complete:
                # a body that has come to its end is back in the pool already, where closing it does nothing
                call.distrust()
                response.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_note_sending)
            self._session = aiohttp.ClientSession(
                connector=_Connector(limit=self._connections, keepalive_timeout=_KEEP_ALIVE_SECONDS, ssl=self._trust()),
                timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),  # memory does not grow with the job, whatever a gateway sets
                auto_decompress=False,  # it would decompress without a bound
                trust_env=False,
                trace_configs=[trace],
            )
        return self._session

    def _trust(self) -> Any:
        if self._origin[0] != "https":
            return True
        import httpx2  # noqa: PLC0415  it comes with openai, which is imported late

        return httpx2.create_ssl_context()


class _Connector(aiohttp.TCPConnector):
    """A pool that gives out no connection on which something came that nobody asked for, or that is distrusted.

    aiohttp would take a second reply to request A for the reply to request B, and stay one behind from then on.
    """

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  aiohttp's signature
    ) -> aiohttp.connector.Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                _CALL.get().connection = connection.protocol
                return connection
            connection.close()


@lru_cache(maxsize=8)
def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _decode(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[str, str]]:
    return ((name.decode("ascii").lower(), value.decode("ascii")) for name, value in headers)


async def _note_sending(_session: object, context: Any, _params: object) -> None:
    # Called before the first byte is written, on a connection that is open: until then nothing can have been billed
    context.trace_request_ctx.sent = True


async def _read(call: Call, response: aiohttp.ClientResponse) -> None:
    """Read the body into `call`, as far as it makes sense."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    unpack = zlib.decompressobj(47) if encoding in {"gzip", "x-gzip", "deflate"} else None  # 47: either header
    if unpack is None and encoding != "identity":
        call.garbled, call.trouble = True, f"the reply is encoded as {encoding}, which was not asked for"
        return
    async for chunk in response.content.iter_any():
        if unpack is None:
            call.body += chunk
        else:
            try:
                call.body += unpack.decompress(chunk, call.most + 1 - len(call.body))
            except zlib.error as error:
                call.garbled, call.trouble = True, f"the reply is no {encoding}: {error}"
                return
        if len(call.body) > call.most:
            call.garbled, call.trouble = True, f"the reply is longer than {call.most} bytes"
            return
        if unpack is not None and unpack.unused_data:
            call.garbled, call.trouble = True, f"the reply goes on after the end of its {encoding}"
            return
    if unpack is not None and not unpack.eof:
        call.trouble = f"the reply ends within its {encoding}"
        return
    call.complete = True


class _Adapter:
    """What httpx and httpx2 call a transport."""

    def __init__(self, wire: Wire, http: Any) -> None:
        self._wire = wire
        self._http = http

    async def handle_async_request(self, request: Any) -> Any:
        call = await self._wire.send(request.method, str(request.url), request.headers.raw, await request.aread())
        if not call.complete:
            raise self._http.TransportError("broken off")
        # An SDK parses a reply but is not told of an error's words
        content = bytes(call.body) if call.status == 200 else b""
        told = {"content-type": "application/json"}
        return self._http.Response(call.status, headers=told, content=content, request=request)

    async def aclose(self) -> None:
        """The wire is closed by whoever made it."""
