"""What the answers of a round say of a gateway: how long one takes, as a mean of logarithms, and how sure that is.

Latencies of language models have long tails and stand in ratios to each other, so that means and errors are those of
logarithms: one answer of 100 s among a hundred of 1 s moves such a mean by 5 %. Times are seconds of any clock that
only goes forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_TOKENS_A_SECOND = 50.0  # how fast models write, roughly: makes long and short answers comparable
_LEAST_SPREAD = 0.3  # of logarithms: a few answers that happen to be alike prove nothing
_REMEMBERED = 300.0  # answers
_APART = 0.35  # logarithm of a factor: a latency that is so much lower is that of another time
_FIRM = 0.15  # the error of a base's mean logarithm
_FEW = 8  # answers
_ALIKE = 0.1  # logarithm of a factor
_QUICKEST = 1e-3  # seconds


@dataclass(slots=True)
class Latency:
    """The mean and the variance of the logarithms of seconds an answer, over so many `answers`."""

    mean: float = 0.0
    answers: float = 0.0
    _squares: float = field(default=0.0, init=False)  # of the differences from the mean

    def add(self, seconds: float) -> None:
        """Take an answer in; Welford's update."""
        value = math.log(max(_QUICKEST, seconds))
        self.answers += 1
        step = value - self.mean
        self.mean += step / self.answers
        self._squares += step * (value - self.mean)

    def merge(self, other: Latency) -> None:
        """Take the answers of another in; what is older than some hundred answers fades."""
        if self.answers > _REMEMBERED:
            self._squares *= _REMEMBERED / self.answers
            self.answers = _REMEMBERED
        answers = self.answers + other.answers
        step = other.mean - self.mean
        self._squares += other._squares + step**2 * self.answers * other.answers / answers
        self.mean += step * other.answers / answers
        self.answers = answers

    def over(self, base: Latency) -> tuple[float, float]:
        """By how much it is over the base, and the standard error of that: both logarithms of factors (Welch)."""
        of_this, of_base = self.spread**2 / max(1.0, self.answers), base.spread**2 / max(1.0, base.answers)
        return self.mean - base.mean, math.sqrt(of_this + of_base)

    @property
    def spread(self) -> float:
        """The standard deviation of the logarithms."""
        variance = self._squares / (self.answers - 1) if self.answers > 1 else 1.0
        return max(_LEAST_SPREAD, math.sqrt(variance))


@dataclass(slots=True)
class Round:
    """Counts from one decision to the next.

    A round may begin with a time in which what was in flight before is waited for. Those that leave and end in it are
    the quick ones, and would make any change look like a cure: only their number and the losses among them count.
    """

    since: float = -math.inf
    opens: float = -math.inf
    latency: Latency = field(default_factory=Latency, init=False)
    tried: int = field(default=0, init=False)  # that left in this round and ended
    lost: int = field(default=0, init=False)  # of them, and of those that the round before carried over
    carried: int = field(default=0, init=False)
    peak: int = field(default=0, init=False)
    slot_seconds: float = field(default=0.0, init=False)  # what was in flight, by how long
    work: float = field(default=0.0, init=False)  # of the answers; that of one without a token is 1
    _waited: float = field(default=0.0, init=False)  # seconds in all
    _waits: int = field(default=0, init=False)
    _in_flight: int = field(default=0, init=False)
    _now: float = field(default=0.0, init=False)

    def begin(self, now: float, *, settle: float) -> None:
        """Start over, and wait so long for what was in flight; without a wait that counts as well."""
        self._pass(now)
        self.since, self.opens = (now, now + settle) if settle else (-math.inf, now)
        self.latency = Latency()
        self.tried = self.lost = self.carried = self.peak = 0
        self.slot_seconds = self.work = self._waited = 0.0
        self._waits = 0

    def carry(self, lost: int) -> None:
        """Count losses of the round before as this one's."""
        self.lost = self.carried = lost

    def flies(self, now: float, in_flight: int) -> None:
        """See how many are in flight."""
        self._pass(now)
        self._in_flight = in_flight
        self.peak = max(self.peak, in_flight)

    def answered(self, now: float, *, seconds: float, output_tokens: int) -> None:
        """Book an answer that ends now."""
        if self._end(now, seconds) and now >= self.opens:
            work = 1 + output_tokens / _TOKENS_A_SECOND
            self.work += work
            self.latency.add(seconds / work)

    def lose(self, now: float, *, seconds: float) -> None:
        """Book a request that ends now without an answer."""
        self.lost += self._end(now, seconds)

    def waited(self, now: float, seconds: float) -> None:
        """Book how long something that is taken now was ready, and waited for our own event loop."""
        if now >= self.opens:
            self._waited += seconds
            self._waits += 1

    @property
    def lag(self) -> float:
        """Seconds that what is ready waits for our own event loop, in the mean."""
        return self._waited / self._waits if self._waits else 0.0

    @property
    def seconds_an_answer(self) -> float:
        """The geometric mean, which a few slow ones do not move."""
        return max(1e-3, math.exp(self.latency.mean) * self.work_an_answer)

    @property
    def ended(self) -> float:
        """Answers whose latency counts, and losses."""
        return self.latency.answers + self.lost - self.carried

    @property
    def work_an_answer(self) -> float:
        """The mean; 1 where there is none."""
        return self.work / self.latency.answers if self.latency.answers else 1.0

    def _end(self, now: float, seconds: float) -> bool:
        self._pass(now)
        self._in_flight = max(0, self._in_flight - 1)
        is_ours = now - seconds >= self.since
        self.tried += is_ours
        return is_ours

    def _pass(self, now: float) -> None:
        self.slot_seconds += self._in_flight * max(0.0, now - max(self._now, self.opens))
        self._now = max(self._now, now)


@dataclass(slots=True)
class Base:
    """The latency of a gateway that is not too busy, and the limit at which it was measured; no answers: not known.

    `steady` is False for answers that came while the load grew: the slow ones were still missing.
    """

    latency: Latency = field(default_factory=Latency)
    limit: float = 0.0
    steady: bool = False

    @property
    def is_firm(self) -> bool:
        """Whether a latency that is over it says something of what it is compared with, and not of the base."""
        return self.steady and self.latency.spread < _FIRM * math.sqrt(self.latency.answers)

    def learn(self, latency: Latency, limit: float, *, steady: bool) -> None:
        """Take in a round that was fine.

        One at a higher limit is not taken in: a base that follows the limit up never says that it is too high. But
        where the limit has doubled for hardly more time, the doubling was worth it, and the base moves there.
        """
        grew = latency.mean - self.latency.mean
        is_other = self.latency.answers < _FEW or grew < -_APART or (limit >= 2 * self.limit and grew < _ALIKE)
        if is_other or (steady and not self.steady and limit <= self.limit):
            self.latency, self.limit, self.steady = latency, limit, steady
        elif limit <= 1.1 * self.limit:
            self.latency.merge(latency)
            self.limit = min(self.limit, limit)
            self.steady |= steady
