"""The runner for code that does not await: in a script, and in a notebook whose event loop already runs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sized
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias, TypeVar, Unpack

from packer.errors import CallError, StoppedError
from packer.events import Statistics
from packer.items import Item
from packer.options import RunnerOptions
from packer.results import Results
from packer.runner import Runner
from packer.task import Task

_T = TypeVar("_T")
_Show: TypeAlias = Callable[[Statistics], None]
_TICK = 0.25  # seconds between two looks at the statistics


class Bar(Protocol):
    """What shows how a job stands."""

    def update(self, now: Statistics) -> None:
        """Show it."""


def label(
    items: Iterable[Item | str],
    labels: Iterable[str] | Mapping[str, str] | Any = None,
    *,
    model: str,
    task: Task | None = None,
    progress: bool = False,
    **options: Unpack[RunnerOptions],
) -> Results:
    """One result an item, in the order of `items`.

    Give either `labels` (as `Task` takes them) or a whole `task`. `progress` shows a bar in a notebook, or on standard
    error where that is a terminal, and nothing elsewhere. `options` are those of `Runner`.

    Raises `CallError` for what is wrong with the call, `LedgerError`, and `StoppedError` where the job stopped before
    its end: its `results` hold every item's state, and the same call again goes on where it stopped.
    """
    task = choose_task(labels, task)
    if isinstance(items, str):
        raise CallError("expected a list of texts, got one text")
    runner = Runner(task, model=model, **options)
    make = functools.partial(_label, runner, items)
    if not progress:
        return run(make, None)
    with open_bar(len(items) if isinstance(items, Sized) else None) as bar:
        return run(make, bar.update)


def choose_task(labels: Any, task: Task | None) -> Task:
    """The task that is given, whole or by its labels. Raises `CallError` where it is not one of the two."""
    if (labels is None) == (task is None):
        raise CallError("expected either labels or a task, got " + ("neither" if labels is None else "both"))
    return Task(labels) if task is None else task


def open_bar(rows: int | None) -> AbstractContextManager[Bar]:
    """A bar for `rows` items (None: unknown), for a notebook or for a terminal."""
    from packer.notebook import NotebookBar, is_notebook  # noqa: PLC0415  nobody waits for a bar that is not shown
    from packer.progress import Display  # noqa: PLC0415  as above

    return NotebookBar(rows) if is_notebook() else Display(rows, verbose=False)


async def _label(runner: Runner, items: Iterable[Item | str], show: _Show | None) -> Results:
    async with runner:
        earlier = runner.statistics()
        ticker = None if show is None else asyncio.create_task(_tick(runner, show))
        try:
            results = [result async for result in runner.stream(items)]
        finally:
            if ticker is not None:
                ticker.cancel()
    now = runner.statistics()
    if show is not None:
        show(now)
    labelled = Results(results, earlier=earlier, statistics=now)
    if now.stopped is not None:
        raise StoppedError(now.stopped, labelled)
    return labelled


async def _tick(runner: Runner, show: _Show) -> None:
    while True:
        show(runner.statistics())
        await asyncio.sleep(_TICK)


def run(make: Callable[[_Show | None], Coroutine[Any, Any, _T]], show: _Show | None) -> _T:
    """The result of what `make` makes; it is told who is shown statistics, and `show` is called in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make(show))
    # A loop runs in this thread (a notebook): another thread gets a loop of its own
    ended: list[_T] = []
    errors: list[BaseException] = []
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[_T]]] = []
    latest: deque[Statistics] = deque(maxlen=1)

    async def main() -> _T:
        task = asyncio.ensure_future(make(None if show is None else latest.append))
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
        while not done.wait(None if show is None else _TICK):
            _show_latest(latest, show)
    except BaseException:
        # an interrupt reaches this thread only: the job is told, and keeps what is in flight
        for loop, task in running:
            with contextlib.suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(task.cancel)
        done.wait()
        raise
    finally:
        _show_latest(latest, show)
    if errors:
        raise errors[0]
    return ended[0]


def _show_latest(latest: deque[Statistics], show: _Show | None) -> None:
    if latest and show is not None:
        show(latest.pop())
