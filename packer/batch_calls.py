"""The calls round a batch, none of which buys anything twice. What buys nothing is repeated until it works.

To upload, to look and to fetch cost nothing, so patience is all that they need. To make a batch buys all that is in it:
it is asked for once, and where nobody knows what became of that, the gateway's list tells.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from packer.batch_files import (
    ENDPOINT,
    WINDOW,
    Result,
    Standing,
    count_ran,
    next_look,
    read_id,
    read_page,
    read_results,
    read_standing,
)
from packer.errors import Failure, StillWaiting
from packer.refusals import classify, clean_message, read_refusal

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from packer.wire import Call, Wire

_MOST_FETCHED = 200_000_000  # bytes of a file
_DEADLINE = 60.0  # seconds for a look
_TRANSFER_DEADLINE = 900.0  # for a file
_PATIENCE = 600.0  # with what fails before a batch is made
_WAITING_PATIENCE = 7_200.0  # with what fails while it runs
_APPEARS = 10  # looks at the list for a batch that nobody has told of
_MOST_PAGES = 100  # of that list, the newest first; a list without an end is no list
_SHORT_FETCHES = 4  # of files that hold less than was carried out
# Nothing that comes later changes these
_FINAL = frozenset({400, 401, 402, 403, 404, 405, 413, 422, 501})


class Refused(Exception):
    """A call that will not be answered otherwise; `failure` is None where nobody knows what became of it."""

    def __init__(self, failure: Failure | None, message: str) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message


class BatchCalls:
    """A gateway's files and batches, by `client` through `wire`; `raw` is what a reply is cast to.

    Once `left` is set, nothing is waited for any more: what would wait raises `StillWaiting`. All raise `Refused`.
    """

    def __init__(self, wire: Wire, client: AsyncOpenAI, raw: Any, left: asyncio.Event, *, secret: str | None) -> None:
        self._wire = wire
        self._client = client
        self._raw = raw
        self._left = left
        self._secret = secret

    async def is_there(self) -> int | None:
        """The status with which a list of batches is refused because there are none here; None where it is not."""
        call = await self._wire.call(lambda: self._get("/batches?limit=1"), deadline=_DEADLINE)
        return call.status if call.status in {404, 405, 501} else None

    async def upload(self, packed: bytes) -> str:
        """The id of the file that holds `packed`."""

        async def ask() -> None:
            await self._client.files.create(file=("batch.jsonl", packed), purpose="batch")

        until = asyncio.get_running_loop().time() + _PATIENCE
        file = read_id(await self._manage(ask, until=until, deadline=_TRANSFER_DEADLINE))
        if file is None:
            raise Refused(None, "the gateway gave no id for the file")
        return file

    async def make(self, file: str, token: str) -> str:
        """Make the batch, once: where nobody knows whether it was made, the list tells."""

        async def ask() -> None:
            await self._client.batches.create(
                input_file_id=file, endpoint=ENDPOINT, completion_window=WINDOW, metadata={"packer": token}
            )

        until = asyncio.get_running_loop().time() + _PATIENCE
        for looks in range(1_000):
            call = await self._wire.call(ask, deadline=_DEADLINE)
            standing = read_standing(_parse(call)) if call.status == 200 and call.complete else None
            if standing is not None:
                return standing.id
            if call.status in _FINAL:
                raise self._turn_down(call)
            # refused for its rate, or never sent: it was not made
            is_free = call.status == 429 or (call.status is None and not call.sent)
            if not is_free:
                found = await self.find(file, token)
                if found is None:
                    raise Refused(None, f"it was asked for, and is not listed: {_describe(call)}")
                return found
            if asyncio.get_running_loop().time() > until or self._left.is_set():
                raise Refused(Failure.NOT_SENT, _describe(call))
            await self._rest(looks)
        raise AssertionError("patience ends before")

    async def find(self, file: str, token: str) -> str | None:
        """The id of the batch that was made of `file`; None where the list does not show it."""
        for looks in range(_APPEARS):
            after: str | None = ""
            for _ in range(_MOST_PAGES):
                page = "/batches?limit=100" + (f"&after={after}" if after else "")
                batches, after = read_page(await self._look(page))
                for standing in batches:
                    if standing.file == file or standing.token == token:
                        return standing.id
                if after is None:
                    break
            await self._rest(looks)
        return None

    async def wait(self, remote: str, tell: Callable[[Standing], None]) -> Standing:
        """How a batch stands once it has ended; `tell` is told at every look."""
        looks = 0
        while True:
            standing = read_standing(await self._look(f"/batches/{remote}"))
            if standing is None or standing.id != remote:
                raise Refused(None, "what is told of it is no batch")
            tell(standing)
            if standing.has_ended:
                return standing
            if self._left.is_set():
                raise StillWaiting
            await self._rest(looks)
            looks += 1

    async def fetch(self, standing: Standing, wanted: Collection[str]) -> dict[str, Result]:
        """The results of all files; fetched again where a file holds less than was carried out."""
        found: dict[str, Result] = {}
        for looks in range(_SHORT_FETCHES):
            for file in (standing.output, standing.errors):
                if file is not None:
                    data = await self._look(f"/files/{file}/content", is_file=True)
                    found |= {ident: one for ident, one in read_results(data, wanted).items() if ident not in found}
            if len(found) == len(wanted) or count_ran(found) >= min(standing.ran or 0, len(wanted)):
                break
            await self._rest(looks)
        return found

    async def _get(self, path: str) -> None:
        await self._client.get(path, cast_to=self._raw)

    async def _look(self, path: str, *, is_file: bool = False) -> Any:
        until = asyncio.get_running_loop().time() + _WAITING_PATIENCE
        deadline = _TRANSFER_DEADLINE if is_file else _DEADLINE
        return await self._manage(lambda: self._get(path), until=until, deadline=deadline, is_file=is_file)

    async def _manage(
        self, ask: Callable[[], Awaitable[object]], *, until: float, deadline: float, is_file: bool = False
    ) -> Any:
        """The body of what `ask` asks for, repeated until it is there, patience ends, or the wait is left."""
        looks = 0
        while True:
            call = await self._wire.call(ask, deadline=deadline, most=_MOST_FETCHED)
            if call.complete and call.status == 200 and not call.untrusted:
                if is_file:
                    return bytes(call.body)
                if isinstance(body := _parse(call), Mapping):
                    return body
            if call.untrusted or call.status in _FINAL:
                raise self._turn_down(call)
            if self._left.is_set():
                raise StillWaiting
            if asyncio.get_running_loop().time() > until:
                raise Refused(None, _describe(call))
            await self._rest(looks)
            looks += 1

    def _turn_down(self, call: Call) -> Refused:
        if call.untrusted:
            return Refused(Failure.UNTRUSTED, clean_message(call.trouble, secret=self._secret))
        refusal = read_refusal(call.status or 0, _parse(call) or "")
        words = clean_message(f"HTTP {call.status}: {refusal.message or 'refused'}", secret=self._secret)
        return Refused(classify(refusal), words)

    async def _rest(self, looks: int) -> None:
        """Wait before the next look, unless the wait is left."""
        wait = next_look(looks, jitter=random.random())  # noqa: S311  jitter, no secret
        try:
            async with asyncio.timeout(wait):
                await self._left.wait()
        except TimeoutError:
            pass


def _parse(call: Call) -> Any:
    try:
        return json.loads(call.body)
    except (ValueError, RecursionError):
        return None


def _describe(call: Call) -> str:
    return call.trouble or f"HTTP {call.status}"
