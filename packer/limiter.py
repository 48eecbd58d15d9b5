"""How many requests may be in flight: raised until refusals or latency say stop, and cut at once.

The rule is that of the reference simulation: a slow start that doubles each round, one cut an episode of refusals, a
freeze of everybody for as long as the gateway asks, and growth only when the limit was really used. Sources: Netflix
concurrency-limits (AIMD, windowed gradient), TCP CUBIC's plateau, Envoy's adaptive concurrency.

Failures that are no refusals take from a quota that answers fill, and as it runs out less is in flight, down to one:
a brownout, which answers quickly and in vain, is met with less load and not with more. (The AWS SDKs' retry quota and
Google's adaptive throttling do the same for clients that do not limit what is in flight.)
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

START = 8  # never more on a gateway that nothing is known of
_CUT = 0.85
_LATENCY_CUT = 0.9
_LATENCY_TOLERANCE = 1.4
_LATENCY_SAMPLES = 50
_SATURATED = 0.8
_HOLD_ROUNDS = 4
_BAD_ROUND = 0.2
_QUOTA = 50.0  # failures
_QUOTA_BACK = 1.0  # for an answer: a gateway that fails more than half is asked less and less
_OUTAGE = 4  # failures in a row, or half of the limit where that is more
_TOKENS_A_SECOND = 50.0  # how fast models write, roughly: makes latencies of long and short answers comparable


@dataclass(slots=True)
class Limiter:
    """The limit for one (host, key, model). Times are seconds of any clock that only goes forward.

    `cap` is the most that is ever in flight. `fixed` switches the search off; refusals still freeze.
    """

    cap: int = 256
    fixed: int | None = None
    _limit: float = field(init=False)
    _slow_start: bool = field(default=True, init=False)
    _plateau: float | None = field(default=None, init=False)
    _epoch: float = field(default=0.0, init=False)
    _frozen_until: float = field(default=0.0, init=False)
    _successes: int = field(default=0, init=False)
    _failures: int = field(default=0, init=False)
    _refusals: int = field(default=0, init=False)  # episodes since the last success
    _streak: int = field(default=0, init=False)  # failures since the last success
    _outages: int = field(default=0, init=False)  # pauses for them
    _quota: float = field(default=_QUOTA, init=False)
    _peak: int = field(default=0, init=False)
    _held: int = field(default=0, init=False)
    _slow_rounds: int = field(default=0, init=False)
    _base: float | None = field(default=None, init=False)
    _latencies: deque[float] = field(default_factory=lambda: deque(maxlen=200), init=False)
    _samples: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._limit = float(self.fixed if self.fixed is not None else min(START, self.cap))

    @property
    def limit(self) -> int:
        """How many requests may be in flight."""
        return max(1, int(self._limit * self._quota / _QUOTA))

    def may_send(self, now: float, in_flight: int) -> bool:
        """Whether one more request may leave now."""
        self._peak = max(self._peak, in_flight)
        return now >= self._frozen_until and in_flight < self.limit

    @property
    def frozen_until(self) -> float:
        """When the freeze ends, or ended; 0 where there was none."""
        return self._frozen_until

    def frozen_for(self, now: float) -> float:
        """Seconds until the freeze ends, 0 where there is none."""
        return max(0.0, self._frozen_until - now)

    def refused(self, now: float, *, in_flight: int, retry_after: float | None, jitter: float) -> None:
        """Book a 429 while `in_flight` other requests were being held by the gateway."""
        # without a wait that is told, or with one of nothing, each refusal in a row doubles ours
        own = min(60.0, (0.3 + 0.4 * jitter) * 2.0**self._refusals)
        wait = retry_after * (1 + 0.25 * jitter) if retry_after else own
        self._frozen_until = max(self._frozen_until, now + wait)
        self._slow_start = False
        if self.fixed is None:
            self._limit = max(1.0, min(self._limit, float(in_flight)))
        if now >= self._epoch:
            self._refusals += 1
            self._plateau = self._limit
            self._cut(_CUT)
            self._epoch = now + max(self._median(), wait)

    def failed(self, now: float, *, jitter: float) -> None:
        """Book a 5xx or a time-out: no growth this round, a cut when they are a fifth of it, a pause in an outage."""
        self._failures += 1
        self._streak += 1
        self._quota = max(0.0, self._quota - 1)
        if self._streak >= max(_OUTAGE, self._limit / 2) and now >= self._frozen_until:
            # nobody gets through: everybody waits, longer each time, so that no pack uses its attempts up on it
            self._frozen_until = now + min(60.0, 0.5 * 2.0**self._outages) * (0.75 + 0.5 * jitter)
            self._outages += 1
        if self._failures > _BAD_ROUND * max(self._limit, START) and now >= self._epoch:
            self._slow_start = False
            self._plateau = self._limit
            self._cut(_CUT)
            self._epoch = now + max(self._median(), 1.0)
            self._next_round()

    def succeeded(self, now: float, *, seconds: float, output_tokens: int) -> None:
        """Book a reply that took `seconds`; a round of them may raise the limit."""
        self._latencies.append(seconds / (1 + output_tokens / _TOKENS_A_SECOND))
        self._samples += 1
        self._successes += 1
        self._quota = min(_QUOTA, self._quota + _QUOTA_BACK)
        self._refusals = self._streak = self._outages = 0
        if self._successes < max(self._limit, START):
            return
        saturated = self._peak >= _SATURATED * self.limit
        if now >= self._epoch and saturated and not self._failures:
            self._finish_round()
        self._next_round()

    def _finish_round(self) -> None:
        typical = self._median()
        self._base = typical if self._base is None else min(self._base * 1.01, typical)
        if self._samples >= _LATENCY_SAMPLES and typical > _LATENCY_TOLERANCE * self._base:
            self._slow_rounds += 1
            if self._slow_rounds >= 2:
                self._slow_rounds = 0
                self._slow_start = False
                self._cut(_LATENCY_CUT)
                self._plateau = self._limit
            return
        self._slow_rounds = 0
        if self._slow_start:
            self._grow(self._limit)
        elif self._plateau is not None and self._limit < 0.95 * self._plateau:
            self._grow(min(0.95 * self._plateau, max(self._limit + 1, 1.1 * self._limit)) - self._limit)
            self._held = 0
        else:
            # at the plateau: hold, then probe by +1 +1 +2 +2 +4 ...
            self._held += 1
            if self._held > _HOLD_ROUNDS:
                self._grow(float(2 ** min((self._held - _HOLD_ROUNDS - 1) // 2, 6)))

    def _next_round(self) -> None:
        self._successes = self._failures = self._peak = 0

    def _grow(self, by: float) -> None:
        if self.fixed is None:
            self._limit = min(float(self.cap), self._limit + by)

    def _cut(self, factor: float) -> None:
        self._held = 0
        if self.fixed is None:
            self._limit = max(1.0, self._limit * factor)

    def _median(self) -> float:
        if not self._latencies:
            return 1.0
        return sorted(self._latencies)[len(self._latencies) // 2]
