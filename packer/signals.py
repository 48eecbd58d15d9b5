"""The first signal stops the job, the second one the process; what was started to ignore one goes on ignoring it.

SIGHUP is among them: a terminal that is closed ends a job as Ctrl-C does, and loses nothing.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruptible(Protocol):
    """What a signal can stop."""

    def interrupt(self) -> None:
        """Stop at the next occasion. Raises `KeyboardInterrupt` where nothing has begun."""

    def leave(self) -> None:
        """End the process at once."""


class Signals:
    """Hands signals to `job`, which is None until there is one. A context manager.

    A signal that the process was started to ignore (nohup, a shell's &) stays ignored.
    """

    def __init__(self) -> None:
        self.job: Interruptible | None = None
        self._count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  the signature of a handler
        self._count += 1
        if self.job is None:
            raise KeyboardInterrupt
        if self._count == 1:
            self.job.interrupt()
        else:
            self.job.leave()
