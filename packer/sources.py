"""Items come in slices, as they arrive, and a source that blocks never blocks the event loop.

A slice is what is there: at most `size` items, fewer where the next one would have to be waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


async def slices(source: Iterable[_T] | AsyncIterable[_T], *, size: int, patience: float) -> AsyncIterator[list[_T]]:
    """The items of `source` in lists that are never empty.

    A list is passed on when it holds `size` items or is `patience` seconds old.
    """
    taken = (
        _slices_of_async(source, size, patience)
        if isinstance(source, AsyncIterable)
        else _slices_of(source, size, patience)
    )
    async for items in taken:
        yield items


async def _slices_of(source: Iterable[_T], size: int, patience: float) -> AsyncIterator[list[_T]]:
    reader = _DaemonThread()
    loop = asyncio.get_running_loop()
    slice_ = _Slice(iter(source), size, loop)
    filling: asyncio.Future[bool] | None = None
    try:
        while True:
            filling = filling or loop.run_in_executor(reader, slice_.fill)
            either: list[asyncio.Future[Any]] = [filling, slice_.begun]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not filling.done():
                await asyncio.wait([filling], timeout=patience)
            is_filled = filling.done()
            items = slice_.take()
            if items:
                yield items
            if is_filled:
                if filling.result():
                    return
                filling = None
    finally:
        reader.shutdown()


class _Slice(Generic[_T]):
    """The slice that a thread fills and the event loop takes; the thread may wait in the middle of it."""

    def __init__(self, iterator: Iterator[_T], size: int, loop: asyncio.AbstractEventLoop) -> None:
        self.begun: asyncio.Future[None] = loop.create_future()  # done when an item is there
        self._iterator = iterator
        self._size = size
        self._loop = loop
        self._items: list[_T] = []
        self._lock = threading.Lock()

    def fill(self) -> bool:
        """Read until the slice is full (False) or the source has ended (True). Raises what the source raises."""
        for item in self._iterator:
            with self._lock:
                self._items.append(item)
                count = len(self._items)
            if count == 1:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(self._begin)
            if count >= self._size:
                return False
        return True

    def take(self) -> list[_T]:
        """What is there, and a new slice in its place."""
        with self._lock:
            items, self._items = self._items, []
        if self.begun.done():
            self.begun = self._loop.create_future()
        return items

    def _begin(self) -> None:
        # it may come after the slice that it tells of: then the next one is looked at too early, and found empty
        if not self.begun.done():
            self.begun.set_result(None)


async def _slices_of_async(source: AsyncIterable[_T], size: int, patience: float) -> AsyncIterator[list[_T]]:
    loop = asyncio.get_running_loop()
    iterator = aiter(source)
    upcoming: asyncio.Task[_T] | None = None
    try:
        while True:
            items: list[_T] = []
            until: float | None = None
            while len(items) < size:
                upcoming = upcoming or asyncio.ensure_future(_next(iterator))
                wait = None if until is None else max(0.0, until - loop.time())
                await asyncio.wait([upcoming], timeout=wait)
                if not upcoming.done():
                    break
                finished, upcoming = upcoming, None
                if isinstance(finished.exception(), StopAsyncIteration):
                    if items:
                        yield items
                    return
                if finished.exception() is not None and items:
                    yield items
                items.append(finished.result())
                until = until or loop.time() + patience
            yield items
    finally:
        if upcoming is not None:
            upcoming.cancel()


async def _next(iterator: AsyncIterator[_T]) -> _T:
    return await anext(iterator)


class _DaemonThread(Executor):
    """One thread that a program's end does not wait for: a read from a silent pipe may never return."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Run `fn` after what was submitted before."""
        future: Future[_T] = Future()
        self._calls.put((future, lambda: fn(*args, **kwargs)))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="packer-source", daemon=True)
            self._thread.start()
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:  # noqa: ARG002  Executor's signature
        """End the thread after what was submitted."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            future, work = call
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001  handed to whoever waits
                future.set_exception(error)
            else:
                future.set_result(result)
