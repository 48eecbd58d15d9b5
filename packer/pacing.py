"""Sends are paced by the buckets that a gateway tells of, so that it need not refuse; nothing is guessed of others.

What a reply says of a bucket is how it stood when that request was let in. What was sent since then is taken off, and
what has flowed back is put on top. Times are seconds of any clock that only goes forward.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from packer.exchange import Bucket, Buckets

_PERIOD = 60.0  # seconds in which a bucket fills where nothing else is told
_MARGIN = 1.05  # what is asked of a bucket: clocks differ, and so do ways there
_WAY = 0.25  # seconds: a request is let in so much after it left, at most
_NOTHING = 1e-6  # of a bucket: what rounding may leave
_LEAST_SECONDS = 2.0  # between two readings that say how fast a bucket fills
_LEAST_FILLED = 10.0  # and as long as it takes for so many
_LEAST_SHARE = 0.05  # of what flows in: so much is always taken for ours
_LONGEST_WAIT = 60.0  # seconds: an empty bucket that the gateway still gives from must not hold a job for ever


@dataclass(frozen=True, slots=True)
class Mark:
    """What had been sent in all when a request left, itself included; `at` is when, `own` are its own tokens."""

    at: float
    requests: int
    tokens: int
    own: int


@dataclass(slots=True)
class _Level:
    """One bucket: what was left at a mark, and how fast it fills for us; others may take from it too."""

    size: float
    left: float
    fills: float  # a second, for all
    rate: float  # a second, for us
    at: float
    sent: int  # of requests or tokens, up to the mark
    refused: int  # of these, what was not taken from the bucket, as far as that was known
    since: _Level | None = None  # an earlier reading, by which the rate is measured

    def wait(self, now: float, amount: float, sent: int) -> float:
        """Seconds until `amount` is there; what is larger than the bucket passes when it is full."""
        # what is in flight was taken out after the bucket filled, whatever the bucket holds at most
        left = min(self.size, self.left + self.rate * (now - self.at)) - (sent - self.sent)
        missing = min(_MARGIN * amount, self.size) - left
        return missing / self.rate if missing > _NOTHING * self.size else 0.0

    def follow(self, before: _Level | None) -> None:
        """Go on from an earlier reading: learn how much of what flows in is ours."""
        if before is None or before.size != self.size:
            return
        self.rate = min(before.rate, self.fills)
        since = before.since or before
        if since.left >= since.size or self.left >= self.size:
            # a full bucket overflows, and says nothing of how fast it fills
            return
        seconds = self.at - since.at
        if seconds < max(_LEAST_SECONDS, _LEAST_FILLED / self.fills):
            self.since = since
            return
        ours = (self.left - since.left + (self.sent - since.sent) - (self.refused - since.refused)) / seconds
        # less is believed at once, for it is refused otherwise; more little by little
        ours = min(ours, (self.rate + ours) / 2)
        self.rate = min(self.fills, max(_LEAST_SHARE * self.fills, ours))


@dataclass(slots=True)
class Pacer:
    """When the next request may leave, by the buckets of requests and of tokens; at once where none is told."""

    _requests: _Level | None = field(default=None, init=False)
    _tokens: _Level | None = field(default=None, init=False)
    _sent: Mark = field(default=Mark(0.0, 0, 0, 0), init=False)
    _refused: tuple[int, int] = field(default=(0, 0), init=False)  # requests and tokens

    @property
    def is_told(self) -> bool:
        """Whether the gateway has told of a bucket."""
        return self._requests is not None or self._tokens is not None

    def wait(self, now: float, tokens: int) -> float:
        """Seconds until a request with so many tokens, input and `max_tokens` together, may leave."""
        waits = (
            self._requests.wait(now, 1, self._sent.requests) if self._requests is not None else 0.0,
            self._tokens.wait(now, tokens, self._sent.tokens) if self._tokens is not None else 0.0,
        )
        return min(_LONGEST_WAIT, max(waits))

    def sent(self, now: float, tokens: int) -> Mark:
        """Book a request that leaves now; its mark goes back with what its reply tells."""
        self._sent = Mark(now, self._sent.requests + 1, self._sent.tokens + tokens, tokens)
        return self._sent

    def told(self, now: float, mark: Mark, buckets: Buckets, *, refused: bool = False) -> None:
        """Take in what the reply to the request with this mark says; `refused` where it was not let in."""
        at = min(now, mark.at + _WAY)
        if refused:
            self._refused = (self._refused[0] + 1, self._refused[1] + mark.own)
        if buckets.requests is not None:
            self._requests = _read(self._requests, buckets.requests, at, mark.requests, self._refused[0])
        if buckets.tokens is not None:
            self._tokens = _read(self._tokens, buckets.tokens, at, mark.tokens, self._refused[1])


def _read(before: _Level | None, bucket: Bucket, at: float, sent: int, refused: int) -> _Level:
    if before is not None and sent < before.sent:
        # nothing new: replies overtake each other
        return before
    fills = bucket.size / _PERIOD
    used = bucket.size - bucket.left
    if bucket.full_after and used > 0:
        # a bucket that takes a day to fill is not one of a minute
        fills = min(fills, used / bucket.full_after)
    level = _Level(bucket.size, bucket.left, fills, fills, at, sent, refused)
    level.follow(before)
    return level
