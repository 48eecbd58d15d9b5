"""Whoever listens is told each change once, and a listener's bug costs no paid answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from packer.events import Event, JobStopped, LimitChanged, PackSizeChanged, Paused, SettingRefused
from packer.job import Job

_LONG_PAUSE = 10.0  # seconds: shorter ones are nobody's news


class Teller:
    """Tells `listener` (None: nobody) what happens; `fail` gets the error of one that raises, which is told no more.

    `ask` is written on every event.
    """

    def __init__(
        self, listener: Callable[[Event], None] | None, fail: Callable[[Exception], None], *, ask: str = ""
    ) -> None:
        self._listener = listener
        self._fail = fail
        self._ask = ask
        self._told: dict[Any, Event] = {}
        self._told_pause = 0.0

    def tell(self, event: Event) -> None:
        """Tell of one event."""
        if self._listener is None:
            return
        try:
            self._listener(replace(event, ask=self._ask) if self._ask else event)
        except Exception as error:  # noqa: BLE001  the listener's bug costs no paid answer: it is raised at the end
            self._listener = None
            self._fail(error)

    def tell_changes(self, job: Job, now: float, *, route: bool) -> None:
        """Tell what has changed since the last look at `job`, and on its `route` where nobody else tells that."""
        standing: dict[Any, Event] = {}
        if route:
            limiter = job.route.limiter
            pause, until = limiter.frozen_for(now), limiter.frozen_until
            if pause > _LONG_PAUSE and until > self._told_pause + _LONG_PAUSE:
                self._told_pause = until
                self.tell(Paused(pause))
            standing[LimitChanged] = LimitChanged(limiter.limit)
        standing[PackSizeChanged] = PackSizeChanged(job.sizer.size)
        if route:
            standing |= {setting: SettingRefused(setting) for setting in job.route.transport.refused_settings()}
        if job.stopped is not None:
            standing[JobStopped] = JobStopped(job.stopped)
        for name, event in standing.items():
            if self._told.get(name) != event:
                self.tell(event)
        self._told = standing
