"""Simulated time: it jumps to what is due next, and a thread's work takes a time of its own. A kill ends everything.

The work of a thread is done when it is due, in one piece and in the order in which it was submitted: what else is due
in the meantime comes first, as it may where threads are real.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

from packer.testing import JumpingLoop

_T = TypeVar("_T")
_MOST_STEPS = 300_000  # of the loop: a job that takes more will never end


class Killed(KeyboardInterrupt):
    """The process is gone. asyncio lets no task catch this: it leaves the loop at once, as SIGKILL would."""


class Endless(RuntimeError):
    """The job goes on for ever."""


class SimulatedLoop(JumpingLoop):
    """A loop without a clock. `thread_seconds` gives the time that a piece of a thread's work takes."""

    def __init__(self, thread_seconds: Callable[[], float]) -> None:
        super().__init__()
        self.is_dead = False
        self._steps = 0
        self._thread_seconds = thread_seconds
        self._busy_until: dict[int, float] = {}

    def run_in_executor(  # type: ignore[override]  # typeshed's is generic over args
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """The result of `func`, once its thread has come to it."""
        future = self.create_future()
        if self.is_dead:
            future.set_exception(Endless("a thread of a dead process"))
            return future
        # a little after what the same thread does before: two timers of one time have no order
        due = max(self.now + self._thread_seconds(), self._busy_until.get(id(executor), 0.0) + 1e-9)
        self._busy_until[id(executor)] = due
        self.call_at(due, self._work, future, func, args)
        return future

    def _work(self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if future.cancelled() or self.is_dead:
            return
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  handed to whoever waits
            future.set_exception(error)

    def jump(self, seconds: float | None) -> None:
        """Go to what is due next. Raises `Endless` after too many steps."""
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise Endless(f"not at its end after {_MOST_STEPS} steps")
        super().jump(seconds)


def run(loop: SimulatedLoop, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of `work`. Raises `Killed` where it was killed; what was under way is swept up and does nothing."""
    try:
        return loop.run_until_complete(work)
    except BaseException:
        loop.is_dead = True
        raise
    finally:
        _sweep(loop)
        loop.close()


def _sweep(loop: SimulatedLoop) -> None:
    loop.set_exception_handler(lambda _loop, _context: None)
    for _ in range(20):
        tasks = asyncio.all_tasks(loop)
        if not tasks:
            break
        for task in tasks:
            task.cancel()
        try:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        except (Killed, RuntimeError):
            continue
    loop.run_until_complete(loop.shutdown_asyncgens())


def thread_seconds(rng: random.Random) -> Callable[[], float]:
    """Mostly quick, at times as slow as a busy disk."""
    return lambda: rng.choice((0.0, 0.0001, 0.001, 0.01, 0.5)) if rng.random() < 0.3 else 0.0
