"""What the runners of one job share: one budget, one count of attempts, and one route to each model.

Money that one of them reserves is gone for the others, and what one of them has in flight takes room from the others:
a gateway knows nothing of runners. No clock, no I/O: the journal and the transports are carried, and used elsewhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from packer.books import Books
from packer.budget import Budget
from packer.limiter import Limiter
from packer.pacing import Pacer
from packer.transport import Transport


@dataclass(slots=True, eq=False)
class Route:
    """One way to a model: how much is in flight on it, and how much and how fast it may be.

    `books` hold what this gateway told, of earlier runs too where it is the first route.
    """

    model: str
    transport: Transport
    limiter: Limiter
    books: Books = field(default_factory=Books)
    pacer: Pacer = field(default_factory=Pacer, init=False)
    in_flight: int = field(default=0, init=False)


@dataclass(slots=True, eq=False)
class Account:
    """What is shared. `attempt` is the first number that no attempt has; `doubtful` the keys that are not asked again.

    `wakes` are called when a request has ended: money and room may have come back to anybody.
    """

    budget: Budget
    attempt: int
    doubtful: set[str] = field(default_factory=set)
    routes: list[Route] = field(default_factory=list, init=False)
    wakes: deque[Callable[[], None]] = field(default_factory=deque, init=False)

    def next_attempt(self) -> int:
        """A number for an attempt."""
        self.attempt += 1
        return self.attempt - 1

    def in_flight(self) -> int:
        """Requests under way on all routes."""
        return sum(route.in_flight for route in self.routes)

    def add_up(self) -> Books:
        """The sums of all routes."""
        total = Books()
        for route in self.routes:
            total.add(route.books)
        return total

    def wake(self) -> None:
        """Let everybody look again; who comes first changes, so that nobody always does."""
        self.wakes.rotate()
        for wake in self.wakes:
            wake()
