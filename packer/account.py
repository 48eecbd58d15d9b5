"""What the runners of one job share: one budget, one count of attempts, and one route to each model.

Money that one of them reserves is gone for the others, and what one of them has in flight takes room from the others:
a gateway knows nothing of runners. No clock, no I/O: the journal and the transports are carried, and used elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from packer.books import Books
from packer.budget import Budget
from packer.exchange import Charge
from packer.ledger import AttemptState
from packer.limiter import Limiter
from packer.pacing import Pacer
from packer.packs import Pack
from packer.transport import Transport

if TYPE_CHECKING:
    from packer.verdicts import Verdict


@dataclass(slots=True, eq=False)
class Route:
    """One way to a model: how much is in flight on it, how much and how fast it may be, and what its gateway told.

    `closed` says why nothing more may leave on it, None while it may. With `is_patient` a long silence is no news: what
    is sent together takes its time.
    """

    model: str
    transport: Transport
    limiter: Limiter
    is_patient: bool = False
    books: Books = field(default_factory=Books, init=False)
    pacer: Pacer = field(default_factory=Pacer, init=False)
    in_flight: int = field(default=0, init=False)
    closed: str | None = field(default=None, init=False)


class Member(Protocol):
    """Whoever asks on the account: the job of a runner."""

    route: Route
    in_flight: int

    def stop(self, reason: str) -> None:
        """Send nothing more."""

    def wake(self) -> None:
        """Look again: something has changed."""

    def is_waiting(self) -> bool:
        """Whether it has results to give that are not there yet."""


class Witness(Protocol):
    """Whoever looks on as answers come in."""

    def answered(self, pack: Pack, rows: Mapping[int, Any]) -> None:
        """Rows of a pack, by its numbers, were accepted."""

    def recalled(self, known: Iterable[tuple[str, str, Any]]) -> None:
        """Answers were found in the ledger: key, text and answer of each."""


@dataclass(slots=True, eq=False)
class Account:
    """What is shared.

    `earlier` are the sums of earlier runs, `attempt` is the first number that no attempt has, and `doubtful` are the
    keys that are not asked again under `hold`. `stopped` says why nothing more may leave at all.
    """

    budget: Budget
    earlier: Books
    attempt: int
    doubtful: set[str] = field(default_factory=set)
    routes: list[Route] = field(default_factory=list, init=False)
    members: list[Member] = field(default_factory=list, init=False)
    stopped: str | None = field(default=None, init=False)

    def next_attempt(self) -> int:
        """A number for an attempt."""
        self.attempt += 1
        return self.attempt - 1

    def in_flight(self) -> int:
        """Requests under way on all routes."""
        return sum(route.in_flight for route in self.routes)

    def find_route(self, model: str, transport: Transport | None) -> Route | None:
        """The route to `model` that is there, by this `transport` where one is given."""
        routes = (route for route in self.routes if transport is None or route.transport is transport)
        return next((route for route in routes if route.model == model), None)

    def add_up(self) -> Books:
        """The sums of all routes and of earlier runs."""
        total = Books()
        total.add(self.earlier)
        for route in self.routes:
            total.add(route.books)
        return total

    def book(self, route: Route, verdict: Verdict) -> None:
        """Book the money of a request that has ended, once its verdict is committed."""
        reserve, charge, texts = verdict.request.reserve, verdict.charge, len(verdict.request.pack)
        route.books.told(verdict.usage, verdict.balance)
        book_end(self.budget, route.books, verdict.state, reserve=reserve, charge=charge, texts=texts)
        is_settled = verdict.state is AttemptState.SETTLED
        if is_settled and charge is not None and reserve is not None and charge.usd > reserve:
            self.close(
                route,
                f"a request was charged {charge.usd} USD, over its worst case of {reserve} USD: "
                "the price that is known for this model is not the gateway's",
            )

    def wake(self) -> None:
        """A request has ended: money and room may have come back to anybody. Who has least under way looks first."""
        for member in sorted(self.members, key=lambda member: member.in_flight):
            member.wake()

    def close(self, route: Route, reason: str) -> None:
        """Let nothing more leave on `route`: what was refused to one who asks there is refused to all."""
        route.closed = route.closed or reason
        for member in self.members:
            if member.route is route:
                member.stop(reason)

    def stop(self, reason: str) -> None:
        """Let nothing more leave at all."""
        self.stopped = self.stopped or reason
        for member in self.members:
            member.stop(reason)

    def stop_waiting(self, reason: str) -> None:
        """Let nothing more leave for those who still wait for a result."""
        for member in self.members:
            if member.is_waiting():
                member.stop(reason)


def book_end(
    budget: Budget, books: Books, state: AttemptState, *, reserve: Decimal | None, charge: Charge | None, texts: int
) -> None:
    """Book that a request for so many `texts` has ended in `state`; its `reserve` and `charge`, None where unknown."""
    held = reserve or Decimal(0)
    if state is AttemptState.DOUBT:
        budget.hold(held)
        books.doubted(texts=texts, priced=reserve is not None)
    elif state is AttemptState.FREED:
        budget.release(held)
    elif charge is None:
        books.unpriced += 1
    else:
        budget.settle(held, charge.usd)
        books.charged(charge)
