"""A change is durable before its `commit` returns, and changes that wait together share one transaction.

All calls of the ledger run in one thread: SQLite has one writer, and the event loop never waits for a disk. When the
thread is done, the loop may be busy with something else: how late it comes is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from packer.errors import LedgerFull
from packer.ledger import Closed, Ledger, Opened

_T = TypeVar("_T")
Group: TypeAlias = list[tuple[Opened | Closed, asyncio.Future[None]]]


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of some keys: their answers, and how sure the model was of some of these.

    Keys that are `elsewhere` are being asked by somebody else. What is in `doubtful` is not to be asked again.
    """

    answers: Mapping[str, Any]
    confidences: Mapping[str, float]
    elsewhere: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()


class Journal:
    """The ledger at `path` (None: in memory) for code that awaits."""

    def __init__(self, path: Path | str | None) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="packer-ledger")
        self._waiting: Group = []
        self._writer: asyncio.Task[None] | None = None
        self._ledger: Ledger | None = None
        self.on_late: list[Callable[[float, float], object]] = []  # told now and the seconds, after each commit

    async def open(self) -> None:
        """Open the ledger. Raises `LedgerError`."""
        await self._run(self._open)

    async def ask(self, question: Callable[[Ledger], _T]) -> _T:
        """The ledger's answer to `question`, which runs in the ledger's thread."""
        ledger = self._ledger
        assert ledger is not None, "open() comes first"
        return await self._run(lambda: question(ledger))

    async def find(self, keys: Sequence[str], *, confidences: bool) -> Found:
        """What is known of `keys`; with `confidences` how sure the model was, too. Raises `LedgerError`."""

        def find(ledger: Ledger) -> Found:
            answers = ledger.find(keys)
            return Found(answers, ledger.confidences(list(answers)) if confidences else {})

        return await self.ask(find)

    async def commit(self, change: Opened | Closed) -> None:
        """Write `change`; it is durable when this returns. Raises `LedgerError`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await done

    async def close(self) -> None:
        """Write what waits and close the ledger."""
        # shielded: who is cancelled here must not leave the ledger in use for as long as the process lives
        await asyncio.shield(asyncio.ensure_future(self._end()))

    async def _end(self) -> None:
        if self._writer is not None:
            await asyncio.wait([self._writer])
        await self._run(self._close)
        self._thread.shutdown(wait=False)

    def _open(self) -> None:
        # noted by the thread that opens it: a caller that is cancelled meanwhile cannot note it
        self._ledger = Ledger(self._path)

    def _close(self) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.close()

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                await self._commit(group)
            except LedgerFull as error:
                # paid answers still fit into the room that was kept for them, new requests do not
                _fail([one for one in group if isinstance(one[0], Opened)], error)
                await self._settle([one for one in group if isinstance(one[0], Closed)])
            except Exception as error:  # noqa: BLE001  whoever waits gets it
                _fail(group, error)

    async def _settle(self, group: Group) -> None:
        if group:
            try:
                await self._commit(group)
            except Exception as error:  # noqa: BLE001  whoever waits gets it
                _fail(group, error)

    async def _commit(self, group: Group) -> None:
        changes = [change for change, _ in group]
        loop = asyncio.get_running_loop()

        def commit(ledger: Ledger) -> float:
            ledger.commit(changes)
            return loop.time()

        ended = await self.ask(commit)
        now = loop.time()
        for tell in self.on_late:
            tell(now, now - ended)
        for _, done in group:
            if not done.done():
                done.set_result(None)

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _fail(group: Group, error: Exception) -> None:
    for _, done in group:
        if not done.done():
            done.set_exception(error)
