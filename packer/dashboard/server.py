"""Who asks is known before anything is answered: by the Host, the method, where the request comes from, and a secret.

The server listens on 127.0.0.1 only, in a thread with an event loop of its own: no reader, however slow or hostile,
holds up a job, and what fails here ends nothing but a page. It takes in nothing but GET, and keeps nothing but one
secret. How many connections there are is bounded, and each stream holds what it sent last and nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from aiohttp import web

_MOST_CONNECTIONS = 32
_MOST_STREAMS = 8
_BEAT = 0.5  # seconds between two looks at the job
_LAST_WORDS = 1.0  # seconds that streams have to tell the end
_START_SECONDS = 10.0
_SECRET_BYTES = 16
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Server": "prompt-packer",
}
_HOSTS = ("127.0.0.1", "localhost")
_FILES = {
    "/page.css": ("packer", "page.css", "text/css"),
    "/dashboard.css": ("packer.dashboard", "dashboard.css", "text/css"),
    "/dashboard.js": ("packer.dashboard", "dashboard.js", "text/javascript"),
}


class Pages(Protocol):
    """What is served. Both methods are called in the server's thread, one call at a time."""

    def page(self, path: str) -> str | None:
        """The HTML at `path`, None where there is none."""

    def parts(self, path: str) -> Mapping[str, str] | None:
        """The HTML inside each element of the page at `path` that changes, by the element's id; None where none does.

        Asked for twice a second while the page is open, and never when nobody looks.
        """


class Server:
    """Serves `pages` from `start` to `close`."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._token = secrets.token_urlsafe(_SECRET_BYTES)
        self._cookie = secrets.token_urlsafe(_SECRET_BYTES)  # not the token: who sees one does not know the other
        self._port = 0
        self._serves = False
        self._streams: set[asyncio.Task[object]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Begin to serve; the address, with the token. Raises `OSError`."""
        listening = socket.create_server(("127.0.0.1", 0))
        self._port = listening.getsockname()[1]
        started = threading.Event()
        # a daemon: what hangs here must not keep the process
        self._thread = threading.Thread(target=self._run, args=(listening, started), name="packer-page", daemon=True)
        self._thread.start()
        if not started.wait(_START_SECONDS) or not self._serves:
            raise OSError(errno.EIO, "it does not start")
        return f"http://127.0.0.1:{self._port}/?token={self._token}"

    def close(self) -> None:
        """Tell every reader how things stand now, and that this is the end. Takes two seconds at most."""
        if self._loop is None or self._closing is None or self._thread is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(2 * _LAST_WORDS)

    def _run(self, listening: socket.socket, started: threading.Event) -> None:
        # whatever ends the server ends nothing else
        with contextlib.suppress(Exception), listening:
            asyncio.run(self._serve(listening, started))
        started.set()

    async def _serve(self, listening: socket.socket, started: threading.Event) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)  # a connection that breaks is no line on a terminal
        server = _make_server(self._handle)
        self._loop, self._closing = loop, asyncio.Event()
        listener = await loop.create_server(server, sock=listening)
        self._serves = True
        started.set()
        await self._closing.wait()
        listener.close()
        if self._streams:
            await asyncio.wait(self._streams, timeout=_LAST_WORDS)
        left = [handler.transport for handler in server.connections if handler.transport is not None]
        await server.shutdown(timeout=0.1)
        for transport in left:  # one whose reader does not read would wait for him
            transport.abort()
        await asyncio.sleep(0)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        refused = self._refuse(request)
        if refused is not None:
            return _say(*refused)
        # also for whoever is known: the token leaves the address
        if request.path == "/" and _is_same(request.query.get("token", ""), self._token):
            return self._let_in()
        if not self._is_known(request):
            return _say(HTTPStatus.FORBIDDEN, "open the address that prompt-packer printed, with its token")
        try:
            return await self._answer(request)
        except Exception:  # noqa: BLE001  a page that cannot be made is said to whoever asks, and to nobody else
            return _say(HTTPStatus.INTERNAL_SERVER_ERROR, "the page cannot be made")

    def _refuse(self, request: web.BaseRequest) -> tuple[HTTPStatus, str] | None:
        # a name that resolves to this machine (DNS rebinding) is not this machine's
        if request.headers.getall("Host", []) not in [[f"{host}:{self._port}"] for host in _HOSTS]:
            return HTTPStatus.FORBIDDEN, "expected the host 127.0.0.1"
        if request.method != "GET":
            return HTTPStatus.METHOD_NOT_ALLOWED, "expected GET"
        origins = {f"http://{host}:{self._port}" for host in _HOSTS}
        if not set(request.headers.getall("Origin", [])) <= origins:
            return HTTPStatus.FORBIDDEN, "expected no other origin"
        if not set(request.headers.getall("Sec-Fetch-Site", [])) <= {"none", "same-origin"}:
            return HTTPStatus.FORBIDDEN, "expected no other site: paste the address into the browser"
        return None

    def _is_known(self, request: web.BaseRequest) -> bool:
        return _is_same(request.cookies.get(self._cookie_name, ""), self._cookie)

    @property
    def _cookie_name(self) -> str:
        # a browser has one set of cookies for all ports of a host
        return f"prompt-packer-{self._port}"

    def _let_in(self) -> web.Response:
        # off to an address without the token, so that it is in no history and on no screenshot
        response = _say(HTTPStatus.SEE_OTHER, "this way", {"Location": "/"})
        response.set_cookie(self._cookie_name, self._cookie, path="/", httponly=True, samesite="Strict")
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/events" or request.path.startswith("/events/"):
            return await self._stream(request, request.path.removeprefix("/events") or "/")
        if file := _FILES.get(request.path):
            package, name, kind = file
            return _say(HTTPStatus.OK, resources.files(package).joinpath(name).read_text(encoding="utf-8"), kind=kind)
        page = self._pages.page(request.path)
        if page is None:
            return _say(HTTPStatus.NOT_FOUND, "there is no such page")
        return _say(HTTPStatus.OK, page, kind="text/html")

    async def _stream(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        from aiohttp import web  # noqa: PLC0415  loaded by now

        closing, task = self._closing, asyncio.current_task()
        assert closing is not None, "requests come after the start"
        assert task is not None, "and in tasks"
        if self._pages.parts(path) is None:
            return _say(HTTPStatus.NOT_FOUND, "nothing here changes")
        if len(self._streams) >= _MOST_STREAMS:
            return _say(HTTPStatus.SERVICE_UNAVAILABLE, "too many pages are open")
        response = web.StreamResponse(headers=_HEADERS | {"Content-Type": "text/event-stream; charset=utf-8"})
        self._streams.add(task)
        try:
            await response.prepare(request)
            seen: Mapping[str, str] = {}
            is_last = False
            while not is_last:
                is_last = closing.is_set()
                now = self._pages.parts(path) or {}
                changed = {name: html for name, html in now.items() if seen.get(name) != html}
                seen = now
                # waits for a slow reader; what changes meanwhile is sent as it stands then
                await response.write(_event("parts", changed))
                if not is_last:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(closing.wait(), _BEAT)
            await response.write(_event("end", {}))
            await response.write_eof()
        except ConnectionError:
            pass
        finally:
            self._streams.discard(task)
        return response


def _make_server(handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> web.Server:
    from aiohttp import web, web_protocol  # noqa: PLC0415  slow

    class Bounded(web.Server):
        """One whose connections over the limit are closed at once: each takes a descriptor that a job may need."""

        def connection_made(self, handler: web_protocol.RequestHandler, transport: asyncio.Transport) -> None:
            super().connection_made(handler, transport)
            if len(self.connections) > _MOST_CONNECTIONS:
                transport.abort()

    silent = logging.getLogger("packer.dashboard")
    silent.disabled = True  # a request, and the token in it, is no line in a log
    return Bounded(handle, access_log=None, logger=silent, keepalive_timeout=15.0)


def _say(
    status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None, *, kind: str = "text/plain"
) -> web.Response:
    from aiohttp import web  # noqa: PLC0415  loaded by now

    more = {"Allow": "GET"} if status is HTTPStatus.METHOD_NOT_ALLOWED else {}
    body = text.encode("utf-8", "backslashreplace")
    every = _HEADERS | {"Content-Type": f"{kind}; charset=utf-8"} | more | dict(headers or {})
    return web.Response(status=status, body=body, headers=every)


def _event(name: str, data: Mapping[str, str]) -> bytes:
    # ASCII, so that no line separator of a stranger's ends a line of the stream
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def _is_same(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "surrogatepass"), secret.encode())
