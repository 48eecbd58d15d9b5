"""Items come in slices, as they arrive, and a source that blocks never blocks the event loop.

A slice is what is there: at most `size` items, fewer where the next one would have to be waited for.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

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
    iterator = iter(source)
    reader = _DaemonThread()
    loop = asyncio.get_running_loop()
    try:
        while True:
            items, error, ended = await loop.run_in_executor(reader, _take, iterator, size, patience)
            if items:
                yield items
            if error is not None:
                raise error
            if ended:
                return
    finally:
        reader.shutdown()


def _take(iterator: Iterator[_T], size: int, patience: float) -> tuple[list[_T], Exception | None, bool]:
    items: list[_T] = []
    until = time.monotonic() + patience
    try:
        while len(items) < size:
            items.append(next(iterator))
            if time.monotonic() >= until:
                break
    except StopIteration:
        return items, None, True
    except Exception as error:  # noqa: BLE001  what was read before it is not lost: it is raised after the items
        return items, error, True
    return items, None, False


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
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001  handed to whoever waits
                future.set_exception(error)
            else:
                future.set_result(result)
