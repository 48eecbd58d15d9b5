"""Other ways to decide how many requests are in flight, with `Limiter`'s methods, to be compared with it.

Each follows its published rule; the constants are its authors'. A wait that is told by a refusal is kept by all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Controller:
    """A limit that never moves."""

    size: float = 16.0
    frozen_until: float = field(default=0.0, init=False)

    @property
    def limit(self) -> int:
        """How many may be in flight."""
        return max(1, int(self.size))

    def may_send(self, now: float, in_flight: int) -> bool:
        """Whether one more may leave."""
        return now >= self.frozen_until and in_flight < self.limit

    def frozen_for(self, now: float) -> float:
        """Seconds until the freeze ends."""
        return max(0.0, self.frozen_until - now)

    def succeeded(self, now: float, *, seconds: float, output_tokens: int) -> None:
        """Book an answer."""

    def failed(self, now: float, *, seconds: float, jitter: float) -> None:
        """Book a failure."""

    def refused(self, now: float, *, retry_after: float | None, jitter: float, **_: Any) -> None:
        """Book a refusal."""
        self.frozen_until = max(self.frozen_until, now + (retry_after or 0.5) * (1 + 0.25 * jitter))


@dataclass
class Aimd(Controller):
    """One more for each round of answers, a tenth less for each loss (Netflix's `AIMDLimit`)."""

    size: float = 8.0

    def succeeded(self, now: float, *, seconds: float, output_tokens: int) -> None:
        """Grow."""
        self.size = min(256.0, self.size + 1 / self.size)

    def failed(self, now: float, *, seconds: float, jitter: float) -> None:
        """Back off."""
        self.size = max(1.0, 0.9 * self.size)

    def refused(self, now: float, *, retry_after: float | None, jitter: float, **more: Any) -> None:
        """Back off."""
        self.size = max(1.0, 0.9 * self.size)
        super().refused(now, retry_after=retry_after, jitter=jitter, **more)


@dataclass
class Vegas(Aimd):
    """The queue is the limit times the share of the latency that is over the least ever (Brakmo and Peterson 1994)."""

    least: float = field(default=float("inf"), init=False)

    def succeeded(self, now: float, *, seconds: float, output_tokens: int) -> None:
        """Three to six of the queue's are right."""
        self.least = min(self.least, seconds)
        queue = self.size * (1 - self.least / seconds)
        if queue < 3:
            self.size = min(256.0, self.size + 1 / self.size)
        elif queue > 6:
            self.size = max(1.0, self.size - 1 / self.size)


@dataclass
class Gradient2(Controller):
    """The limit times the long mean latency over the short one, plus a queue of four (Netflix's `Gradient2Limit`)."""

    size: float = 8.0
    long: float = field(default=0.0, init=False)
    window: list[float] = field(default_factory=list, init=False)

    def succeeded(self, now: float, *, seconds: float, output_tokens: int) -> None:
        """Once in a window of as many answers as are in flight."""
        self.window.append(seconds)
        if len(self.window) < max(10, self.limit):
            return
        short = sum(self.window) / len(self.window)
        self.window.clear()
        self.long = short if not self.long else self.long + (short - self.long) / 10
        if self.long / short > 2:
            self.long *= 0.95
        gradient = max(0.5, min(1.0, 1.5 * self.long / short))
        self.size = min(256.0, max(1.0, 0.8 * self.size + 0.2 * (self.size * gradient + 4)))


CONTROLLERS: Mapping[str, Callable[[], Controller]] = {
    "fixed 16": Controller,
    "fixed 120": lambda: Controller(120.0),
    "AIMD": Aimd,
    "Vegas": Vegas,
    "Gradient2": Gradient2,
}
