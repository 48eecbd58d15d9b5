"""Sends are paced by the buckets that a gateway tells of, so that it need not refuse; nothing is guessed of others.

What a reply says of a bucket is how it stood when that request was let in. What was sent since then is taken off, and
what has flowed back is put on top. Times are seconds of any clock that only goes forward.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from packer.exchange import Bucket, Buckets

_PERIOD = 60.0  # seconds in which a bucket fills where nothing else is told
_MARGIN = 1.05  # what is asked of a bucket: clocks differ, and so do ways there
_NOTHING = 1e-6  # of a bucket: what rounding may leave
_LONGEST_WAIT = 60.0  # seconds: an empty bucket that the gateway still gives from must not hold a job for ever


@dataclass(frozen=True, slots=True)
class Mark:
    """What had been sent in all when a request left, itself included; `at` is when."""

    at: float
    requests: int
    tokens: int


@dataclass(slots=True)
class _Level:
    """One bucket: what was left at a mark, and how fast it fills."""

    size: float
    left: float
    rate: float  # a second
    at: float
    sent: int  # of requests or tokens, up to the mark

    def wait(self, now: float, amount: float, sent: int) -> float:
        """Seconds until `amount` is there; what is larger than the bucket passes when it is full."""
        # what is in flight was taken out after the bucket filled, whatever the bucket holds at most
        left = min(self.size, self.left + self.rate * (now - self.at)) - (sent - self.sent)
        missing = min(_MARGIN * amount, self.size) - left
        return missing / self.rate if missing > _NOTHING * self.size else 0.0


@dataclass(slots=True)
class Pacer:
    """When the next request may leave, by the buckets of requests and of tokens; at once where none is told."""

    _requests: _Level | None = field(default=None, init=False)
    _tokens: _Level | None = field(default=None, init=False)
    _sent: Mark = field(default=Mark(0.0, 0, 0), init=False)

    def wait(self, now: float, tokens: int) -> float:
        """Seconds until a request with so many tokens, input and `max_tokens` together, may leave."""
        waits = (
            self._requests.wait(now, 1, self._sent.requests) if self._requests is not None else 0.0,
            self._tokens.wait(now, tokens, self._sent.tokens) if self._tokens is not None else 0.0,
        )
        return min(_LONGEST_WAIT, max(waits))

    def sent(self, now: float, tokens: int) -> Mark:
        """Book a request that leaves now; its mark goes back with what its reply tells."""
        self._sent = Mark(now, self._sent.requests + 1, self._sent.tokens + tokens)
        return self._sent

    def told(self, mark: Mark, buckets: Buckets) -> None:
        """Take in what the reply, or the refusal, to the request with this mark says."""
        self._requests = _follow(self._requests, buckets.requests, mark.at, mark.requests)
        self._tokens = _follow(self._tokens, buckets.tokens, mark.at, mark.tokens)


def _follow(level: _Level | None, bucket: Bucket | None, at: float, sent: int) -> _Level | None:
    if bucket is None or (level is not None and sent < level.sent):
        # nothing new: replies overtake each other
        return level
    rate = bucket.size / _PERIOD
    used = bucket.size - bucket.left
    if bucket.full_after and used > 0:
        # a bucket that takes a day to fill is not one of a minute
        rate = min(rate, used / bucket.full_after)
    return _Level(bucket.size, bucket.left, rate, at, sent)
