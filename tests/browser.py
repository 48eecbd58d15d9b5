"""A real headless Chromium, driven over its own protocol: what it shows, what it asks for, and what it complains of."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-extensions --remote-debugging-port=0 --hide-scrollbars"""


class Browser:
    """`async with Browser(folder) as browser`; `asked` are addresses, `complaints` its console's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self._undo = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        command = [str(CHROMIUM), *_FLAGS.split(), f"--user-data-dir={self._folder}", "about:blank"]
        async with contextlib.AsyncExitStack() as undo:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
            undo.callback(process.wait)
            undo.callback(process.kill)
            port = self._folder / "DevToolsActivePort"
            async with asyncio.timeout(30):
                while not port.is_file() or len(port.read_text().splitlines()) < 2:  # noqa: ASYNC110  a file tells nobody
                    await asyncio.sleep(0.05)
            session = await undo.enter_async_context(aiohttp.ClientSession())
            number = port.read_text().splitlines()[0]
            async with session.get(f"http://127.0.0.1:{number}/json/list") as reply:
                (page,) = [target for target in await reply.json() if target["type"] == "page"]
            self._socket = await undo.enter_async_context(
                session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
            )
            reader = asyncio.create_task(self._read())
            undo.callback(reader.cancel)
            for domain in ("Page", "Runtime", "Log", "Network"):
                await self.call(f"{domain}.enable")
            self._undo = undo.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._undo.aclose()

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the protocol's `method` answers."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(30):
            answer = await self._answers[number]
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, address: str) -> None:
        """Load a page, or load it again where it is that one."""
        self._loaded.clear()
        await self.call("Page.navigate", url=address)
        async with asyncio.timeout(30):
            await self._loaded.wait()

    async def reload(self) -> None:
        """As its user would."""
        self._loaded.clear()
        await self.call("Page.reload")
        async with asyncio.timeout(30):
            await self._loaded.wait()

    async def ask(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def wait_for(self, script: str, seconds: float = 30) -> Any:
        """The expression's value as soon as it is true."""
        async with asyncio.timeout(seconds):
            while not (value := await self.ask(script)):  # noqa: ASYNC110  the page is asked
                await asyncio.sleep(0.05)
        return value

    async def look(self, path: Path, *, width: int, dark: bool = False, height: int = 900, whole: bool = True) -> None:
        """A screenshot."""
        await self.resize(width, height, dark=dark)
        picture = await self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))  # noqa: ASYNC240

    async def resize(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Another window, and light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=theme)

    async def _read(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if (answer := self._answers.pop(told.get("id", 0), None)) is not None:
                answer.set_result(told)
                continue
            about = told.get("params", {})
            match told.get("method"):
                case "Page.loadEventFired":
                    self._loaded.set()
                case "Network.requestWillBeSent":
                    self.asked.append(about["request"]["url"])
                case "Log.entryAdded" if about["entry"]["level"] == "error":
                    self.complaints.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
                case "Runtime.exceptionThrown":
                    self.complaints.append(str(about["exceptionDetails"]))
                case "Runtime.consoleAPICalled" if about["type"] in {"error", "warning"}:
                    self.complaints.append(str(about["args"]))
                case _:
                    pass
