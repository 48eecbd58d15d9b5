"""Fakes that behave: a transport that reads the very prompts and writes the very answers, a clock that never waits.

Our own tests use these, and yours may: a job on `FakeTransport` under `FakeClock` runs through hours in milliseconds
and gives the same result each time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from decimal import Decimal
from typing import Any, TypeAlias, TypeVar

from packer.errors import TransportError
from packer.exchange import Charge, Prompt, Reply, StopReason
from packer.prompts import read_user, write_answer
from packer.task import Task
from packer.usage import Usage

_T = TypeVar("_T")

Annotate: TypeAlias = Callable[[str], str | Mapping[str, Any]]
Fault: TypeAlias = Callable[[Prompt, int], Reply | TransportError | None]


class FakeTransport:
    """A gateway in memory.

    `annotate` gives a text's label (or record). `seconds` is a number, or a function from a request's number to the
    time that it takes. `fault` sees each prompt and its number (from 1) and may return a reply or a failure to take the
    place of the right one. `charge` is told for every reply, None for a gateway that tells none. `prompts` is the log.
    """

    def __init__(
        self,
        task: Task,
        annotate: Annotate,
        *,
        seconds: float | Callable[[int], float] = 1.0,
        fault: Fault | None = None,
        charge: Charge | None = None,
        balance: Decimal | None = None,
        free: bool = False,
    ) -> None:
        self.prompts: list[Prompt] = []
        self.most_in_flight = 0
        self._task = task
        self._annotate = annotate
        self._seconds = seconds
        self._fault = fault
        self._charge = charge
        self._balance = balance
        self._free = free
        self._in_flight = 0

    async def send(self, prompt: Prompt, *, deadline: float) -> Reply:  # noqa: ARG002  the protocol's signature
        """Answer `prompt` after its time."""
        self.prompts.append(prompt)
        number = len(self.prompts)
        seconds = self._seconds(number) if callable(self._seconds) else self._seconds
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._in_flight -= 1
        ended = None if self._fault is None else self._fault(prompt, number)
        if isinstance(ended, TransportError):
            raise ended
        return self.right_reply(prompt, seconds=seconds) if ended is None else ended

    def right_reply(self, prompt: Prompt, *, seconds: float = 1.0) -> Reply:
        """The reply that a flawless model would give."""
        nonce, texts = read_user(prompt.user)
        rows = {number: self._annotate(text) for number, text in enumerate(texts, 1)}
        text = write_answer(self._task, nonce, rows)
        usage = Usage(len(prompt.system + prompt.user) // 4, len(text) // 4)
        return Reply(text, StopReason.STOP, seconds, usage, self._charge, self._balance)

    def refused_settings(self) -> tuple[str, ...]:
        """None: it takes everything."""
        return ()

    def is_free(self) -> bool:
        """As it was made."""
        return self._free

    async def aclose(self) -> None:
        """Nothing to close."""


class FakeClock:
    """Runs a coroutine on an event loop whose time jumps to the next thing that is due.

    What would run in a thread runs at once, so that a run is the same each time.
    """

    def __init__(self) -> None:
        self._loop = JumpingLoop()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """The result of `work`. Raises `RuntimeError` where it waits for something that can never happen."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            return runner.run(work)

    @property
    def now(self) -> float:
        """Seconds since the loop began."""
        return self._loop.time()


class JumpingLoop(asyncio.SelectorEventLoop):
    """The loop of `FakeClock`, for tests whose threads take a time of their own."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_JumpingSelector(self.jump))

    def time(self) -> float:
        """Seconds since the loop began."""
        return self.now

    def run_in_executor(  # type: ignore[override]  # typeshed's is generic over args
        self,
        executor: Executor | None,  # noqa: ARG002  the loop's signature
        func: Callable[..., Any],
        *args: Any,
    ) -> asyncio.Future[Any]:
        """The result of `func`, which runs at once."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  handed to whoever waits
            future.set_exception(error)
        return future

    def jump(self, seconds: float | None) -> None:
        """Go to what is due next. Raises `RuntimeError` where nothing is."""
        if seconds is None:
            raise RuntimeError("everybody waits and nothing is due")
        self.now += max(0.0, seconds)


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, jump: Callable[[float | None], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            self._jump(timeout)
        return ready
