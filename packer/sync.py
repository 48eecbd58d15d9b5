"""The runner for code that does not await: in a script, and in a notebook whose event loop already runs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeVar, Unpack

from packer.errors import CallError, StoppedError
from packer.items import Item, Result
from packer.options import RunnerOptions
from packer.runner import Runner
from packer.task import Task

_T = TypeVar("_T")


def label(
    items: Iterable[Item | str],
    labels: Iterable[str] | Mapping[str, str] | Any = None,
    *,
    model: str,
    task: Task | None = None,
    **options: Unpack[RunnerOptions],
) -> list[Result]:
    """One result an item, in the order of `items`.

    Give either `labels` (as `Task` takes them) or a whole `task`. `options` are those of `Runner`.

    Raises `CallError` for what is wrong with the call, `LedgerError`, and `StoppedError` where the job stopped before
    its end: its `results` hold every item's state, and the same call again goes on where it stopped.
    """
    task = choose_task(labels, task)
    if isinstance(items, str):
        raise CallError("expected a list of texts, got one text")
    runner = Runner(task, model=model, **options)
    return _run(_label(runner, items))


def choose_task(labels: Any, task: Task | None) -> Task:
    """The task that is given, whole or by its labels. Raises `CallError` where it is not one of the two."""
    if (labels is None) == (task is None):
        raise CallError("expected either labels or a task, got " + ("neither" if labels is None else "both"))
    return Task(labels) if task is None else task


async def _label(runner: Runner, items: Iterable[Item | str]) -> list[Result]:
    async with runner:
        results = [result async for result in runner.stream(items)]
    stopped = runner.statistics().stopped
    if stopped is not None:
        raise StoppedError(stopped, results)
    return results


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    # A loop runs in this thread (a notebook): another thread gets a loop of its own
    ended: list[_T] = []
    errors: list[BaseException] = []
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[_T]]] = []

    async def main() -> _T:
        task = asyncio.ensure_future(work)
        running.append((asyncio.get_running_loop(), task))
        return await task

    def run() -> None:
        try:
            ended.append(asyncio.run(main()))
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            errors.append(error)
        finally:
            done.set()

    # an event, not join(): once interrupted, CPython 3.11's join() takes the thread for ended
    done = threading.Event()
    threading.Thread(target=run, name="packer-label").start()
    try:
        done.wait()
    except BaseException:
        # an interrupt reaches this thread only: the job is told, and keeps what is in flight
        for loop, task in running:
            with contextlib.suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(task.cancel)
        done.wait()
        raise
    if errors:
        raise errors[0]
    return ended[0]
