"""What a worker was lent stands where its own limit, pace and budget would: it uses that, and tells what comes of it.

`Leases` lends. Between two leases a worker decides alone, so that no request waits for another process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal

from packer.budget import Budget
from packer.exchange import Buckets
from packer.leases import Heard, Lease, Reading, Refusal, Success, Trouble
from packer.limiter import Limiter
from packer.pacing import Mark, Pacer
from packer.usage import to_nano, to_usd

_MOST_HEARD = 10_000  # between two reports; what is more is not told
_LONG = 60.0  # seconds: the next lease ends such a wait


def _nobody() -> None:
    """Hurry nobody."""


@dataclass(slots=True)
class Log:
    """What has ended since the last report; `hurry` is called when the next one should not wait."""

    hurry: Callable[[], None] = _nobody
    _heard: list[tuple[float, Heard]] = field(default_factory=list, init=False)

    def note(self, now: float, heard: Heard) -> None:
        """Keep something for the next report."""
        if len(self._heard) < _MOST_HEARD:
            self._heard.append((now, heard))

    def take(self, now: float) -> tuple[Heard, ...]:
        """All of it, once, with ages in place of times."""
        taken, self._heard = self._heard, []
        return tuple(_give_age(heard, at, now) for at, heard in taken)


@dataclass(slots=True)
class LentLimiter(Limiter):
    """So many requests may be in flight as there are slots; what ends is for the lender's limiter."""

    log: Log = field(default_factory=Log)
    slots: int = field(default=0, init=False)
    _thaws_at: float = field(default=0.0, init=False)
    _asks: bool = field(default=False, init=False)  # nothing more leaves until the lender has spoken
    _hurries: bool = field(default=True, init=False)  # not again where the last lease gave nothing

    @property
    def limit(self) -> int:
        """How many requests may be in flight."""
        return self.slots

    @property
    def frozen_until(self) -> float:
        """When the freeze ends, or ended; 0 where there was none."""
        return self._thaws_at

    def lend(self, slots: int, thaws_at: float) -> None:
        """Use `slots` from now on, or from when the freeze is over."""
        self.slots, self._thaws_at = slots, thaws_at
        self._asks, self._hurries = False, bool(slots)

    def may_send(self, now: float, in_flight: int) -> bool:
        """Whether one more request may leave now."""
        if not self.slots and self._hurries:
            self._hurries = False
            self.log.hurry()
        return in_flight < self.slots and now >= self._thaws_at and not self._asks

    def frozen_for(self, now: float) -> float:
        """Seconds until the freeze ends, 0 where there is none."""
        return max(0.0, self._thaws_at - now)

    def refused(self, now: float, *, seconds: float, in_flight: int, retry_after: float | None, jitter: float) -> None:  # noqa: ARG002  the lender knows of all
        """Tell of a 429; nothing more is sent until the lender has said what follows."""
        self.log.note(now, Refusal(0.0, seconds, retry_after, jitter))
        self._asks = True
        self.log.hurry()

    def failed(self, now: float, *, seconds: float, jitter: float) -> None:
        """Tell of a 5xx or a time-out."""
        self.log.note(now, Trouble(0.0, seconds, jitter))

    def succeeded(self, now: float, *, seconds: float, output_tokens: int) -> None:
        """Tell of a reply."""
        self.log.note(now, Success(0.0, seconds, output_tokens))

    def waited(self, now: float, seconds: float) -> None:
        """Tell nobody: a loop that lags is this worker's matter, and no gateway's."""


@dataclass(slots=True)
class LentPacer(Pacer):
    """So much may leave as was lent."""

    log: Log = field(default_factory=Log)
    requests: int = field(default=0, init=False)
    tokens: int = field(default=0, init=False)
    size: int = field(default=0, init=False)  # tokens of the request that was to leave last
    _mark: Mark = field(default=Mark(0.0, 0, 0, 0), init=False)
    _hurries: bool = field(default=True, init=False)  # not again where the last lease gave nothing

    def lend(self, requests: int, tokens: int, mark: Mark) -> None:
        """Use so much more; `mark` is what all workers had sent by now."""
        self.requests += requests
        self.tokens += tokens
        self._mark, self._hurries = mark, bool(requests) or not self.size

    def wait(self, now: float, tokens: int) -> float:  # noqa: ARG002  the next lease ends it, whenever that comes
        """0 where a request of so many tokens may leave, else a long time."""
        self.size = tokens
        if self.requests >= 1 and self.tokens >= tokens:
            return 0.0
        if self._hurries:
            self._hurries = False
            self.log.hurry()
        return _LONG

    def sent(self, now: float, tokens: int) -> Mark:
        """Book a request that leaves now."""
        self.requests -= 1
        self.tokens -= tokens
        self._mark = Mark(now, self._mark.requests + 1, self._mark.tokens + tokens, tokens)
        return self._mark

    def told(self, now: float, mark: Mark, buckets: Buckets, *, refused: bool = False) -> None:
        """Tell what a reply said of buckets."""
        if buckets.requests is not None or buckets.tokens is not None or refused:
            self.log.note(now, Reading(0.0, mark, buckets, refused))


@dataclass(slots=True)
class LentBudget(Budget):
    """As much as was lent of the job's `cap`: it rises as money is lent, and falls as it is given back."""

    log: Log = field(default_factory=Log)
    short: Decimal = field(default=Decimal(0), init=False)
    _hopeless: int | None = field(default=None, init=False)  # so much at once will never come
    _hurries: bool = field(default=True, init=False)  # not again where the last lease gave nothing

    def __post_init__(self) -> None:
        super(LentBudget, self).__post_init__()
        self._cap = None if self.cap is None else 0

    @property
    def lent(self) -> Decimal | None:
        """What was lent in all, spent or not; None for a job without a cap."""
        return None if self._cap is None else to_usd(self._cap)

    def may_grow(self, worst: Decimal) -> bool:
        """Whether there may be room for `worst` later; the next report asks for it."""
        if self.has_room(worst) or (self._hopeless is not None and to_nano(worst) >= self._hopeless):
            return False
        if self._hurries:
            self._hurries = False
            self.log.hurry()
        self.short = worst
        return True

    def lend(self, lease: Lease) -> None:
        """Take what is lent, and give back what is wanted elsewhere."""
        if lease.cap is None:
            return
        self._hurries = to_nano(lease.cap) > (self._cap or 0)
        self._cap = to_nano(lease.cap)
        if lease.is_final:
            self._hopeless = to_nano(self.short)
        if lease.gives_back:
            self._cap = min(self._cap, self._settled + self._doubt + self._reserved)
        self.short = Decimal(0)


def _give_age(heard: Heard, at: float, now: float) -> Heard:
    if isinstance(heard, Reading):
        return replace(heard, age=now - at, mark=replace(heard.mark, at=now - heard.mark.at))
    return replace(heard, age=now - at)
