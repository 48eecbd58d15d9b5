"""How many requests may be in flight: raised while that brings more answers, lowered where refusals or latency say so.

A slow start doubles the limit each round. What ends it is a limit at which requests are lost, or at which an answer
takes clearly longer than at a lower one; then the limit goes back to where all was well, returns to just below, holds,
and probes. Where latency rises although the limit did not, nobody can tell a cliff that came nearer from a gateway that
became slow: the limit is lowered as a trial. If the latency comes down, it was the limit; if not, it is put back. By
Little's law a limit that is doubled brings no more answers where an answer takes twice as long.

Sources: TCP's slow start and one cut a window of losses (RFC 5681, RFC 6582), CUBIC's plateau (RFC 9438), the gradient
of Netflix' concurrency-limits (the limit divided by the inflation of the latency). Losses that come as often below the
plateau as at it are chance, and are allowed for.

Failures that are no refusals take from a quota that answers fill, and as it runs out less is in flight, down to one:
a brownout, which answers quickly and in vain, is met with less load and not with more. (The AWS SDKs' retry quota and
Google's adaptive throttling do the same for clients that do not limit what is in flight.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from packer.rounds import Base, Latency, Round

START = 8  # never more on a gateway that nothing is known of
_CUT = 0.85
_SATURATED = 0.8
_BELOW = 0.98  # of the plateau: where the limit rests
_PATIENCE = 4  # rounds at rest before it is probed; doubled each time that the probe ends at the same plateau
# At most; a refusal costs little, a failure may have been billed, and what is slow is in the way for long
_PATIENCE_REFUSED, _PATIENCE_FAILED, _PATIENCE_SLOW = 16, 32, 64
_SUNK = 0.8  # times the last limit at rest: a plateau under that is that of a gateway that has less room now
_FROZEN, _FROZEN_TRYING = 40, 10  # rounds at rest for one that a probe is frozen: a fortieth, a tenth while trying
_TRIES = 16  # probes that do not wait longer each time
_WINDOW = 2.0  # times what a refusal takes
_MANY_LOST = 0.1  # of a round: too many even below the plateau
_SOME_FAILED = 0.05  # of a round: too many where the limit may be too high
_MOST_CHANCE = 0.05  # a share of losses that may be taken for chance
_FINE = math.log(1.2)  # over the base: the limit may grow
_SLOW = math.log(1.4)  # over the base: the limit may be too high
_UNSURE = 3  # times as long is a round that is slow and not surely so
_DOUBTS = 6  # rounds in a row that are neither fine nor surely slow
_DOUBT = 0.25  # the most that the error of a latency may hide, where the limit is to grow
_TRIAL_ANSWERS = 32  # at most
_SETTLE = 1.25  # times the slowest
_OVERDUE = 2.0  # times what a round should take
_STUCK = 3.0  # times that: what has not ended counts as slow
_QUOTA = 50.0  # failures
_QUOTA_BACK = 1.0  # for an answer: a gateway that fails more than half is asked less and less
_LAGGING = 0.025  # of an answer's time: so long may what is ready wait for our own event loop where it has time left
_ALWAYS = 0.002  # seconds of it: what is being done when something else becomes ready
_HOPS = 4  # such waits in an answer's time: to be sent, to be read, to be taken from there, to be judged
_EASE = 0.8  # of the limit, where that takes too long
_LAG_KEPT = 0.7  # of a lag, in the next round
_OUTAGE = 4  # failures in a row, or half of the limit where that is more


@dataclass(slots=True)
class Limiter:
    """The limit for one (host, key, model). Times are seconds of any clock that only goes forward.

    `cap` is the most that is ever in flight. `fixed` switches the search off; refusals still freeze.
    """

    cap: int = 256
    fixed: int | None = None
    _limit: float = field(init=False)
    _slow_start: bool = field(default=True, init=False)
    _plateau: float | None = field(default=None, init=False)  # the last limit that may be right
    _patience: int = field(default=_PATIENCE, init=False)
    _held: int = field(default=0, init=False)  # rounds at rest
    _before: float = field(default=0.0, init=False)  # the limit of the round before
    _doubts: int = field(default=0, init=False)
    _fine: float = field(default=0.0, init=False)  # the highest limit at which all was well
    _trial: tuple[float, Latency] | None = field(default=None, init=False)  # the limit before it, and the latency
    _eased: tuple[float, float] | None = field(default=None, init=False)  # the limit before it, and the lag
    _lag: float = field(default=0.0, init=False)  # of the rounds before: seconds
    _foreign: float = field(default=0.0, init=False)  # lag that does not come from how many are in flight
    _rest: float = field(default=0.0, init=False)  # the last limit at rest
    _was: float = field(default=0.0, init=False)  # that before the gateway had less room, while it is tried again
    _tries: int = field(default=0, init=False)
    _opening: int = field(default=0, init=False)  # how many may leave together after refusals; 0: as many as there are
    _ceiling: int | None = field(default=None, init=False)
    _window: float = field(default=0.0, init=False)  # seconds between those
    _sunk_from: float = field(default=0.0, init=False)  # the limit when failures began to cut it
    _lossy: bool = field(default=False, init=False)  # whether losses ever set the plateau
    _round: Round = field(default_factory=Round, init=False)
    _base: Base = field(default_factory=Base, init=False)
    _former: Base | None = field(default=None, init=False)  # what the base was before a trial, until it is confirmed
    _usual: float = field(default=1.0, init=False)  # slot-seconds that an answer takes where all is well
    _slowest: float = field(default=0.0, init=False)  # seconds: one answer in twenty takes longer
    _heard_at: float = field(default=0.0, init=False)  # of the last answer
    _raised_at: float = field(default=-math.inf, init=False)
    _chance: float = field(default=0.0, init=False)  # the share of losses that come whatever the limit
    _cut_at: float = field(default=-math.inf, init=False)
    _paused_at: float = field(default=-math.inf, init=False)
    _frozen_until: float = field(default=0.0, init=False)
    _refusals: int = field(default=0, init=False)  # episodes since the last success
    _streak: int = field(default=0, init=False)  # failures since the last success
    _outages: int = field(default=0, init=False)  # pauses for them
    _quota: float = field(default=_QUOTA, init=False)

    def __post_init__(self) -> None:
        self._limit = float(self.fixed if self.fixed is not None else min(START, self.cap))

    @property
    def limit(self) -> int:
        """How many requests may be in flight."""
        return max(1, int(int(self._limit + 0.5) * self._quota / _QUOTA))

    def may_send(self, now: float, in_flight: int) -> bool:
        """Whether one more request may leave now."""
        self._round.flies(now, in_flight)
        if now < self._frozen_until:
            return False
        if in_flight >= self.limit:
            self._opening = 0
            return False
        if self._opening and self._ceiling is None:
            self._ceiling = in_flight + self._opening
        elif self._opening and self._ceiling is not None and in_flight >= self._ceiling:
            # those that have left tell whether there is room, as quickly as others were refused
            self._opening, self._ceiling = 2 * self._opening, None
            self._freeze(now + self._window)
            return False
        return True

    @property
    def frozen_until(self) -> float:
        """When the freeze ends, or ended; 0 where there was none."""
        return self._frozen_until

    def frozen_for(self, now: float) -> float:
        """Seconds until the freeze ends, 0 where there is none."""
        return max(0.0, self._frozen_until - now)

    def refused(self, now: float, *, seconds: float, in_flight: int, retry_after: float | None, jitter: float) -> None:
        """Book a 429 after `seconds`, while `in_flight` other requests were being held by the gateway."""
        sent = now - seconds
        self._round.lose(now, seconds=seconds)
        is_quick, is_probe = seconds < self._usual / 2, self._is_probe()
        tolerated = self._tolerated(0.0 if is_probe and is_quick else 1.0)
        surprises = self._is_below() and self._round.lost > max(1.0, _by_chance(self._chance * self._size))
        if is_quick and (surprises or self._limit < self._was):
            self._opening, self._ceiling, self._window = 1, None, _WINDOW * seconds
        if retry_after:
            self._freeze(now + retry_after * (1 + 0.25 * jitter))
        elif sent >= self._paused_at:
            # Without a wait that is told: a fast gateway is not waited for as long as a slow one, what chance explains
            # is hardly waited for, and each episode in a row doubles the wait
            pause = (0.3 + 0.4 * jitter) * min(1.0, self._usual) * 2.0**self._refusals
            if not self._refusals:
                pause *= min(1.0, max(1, self._round.lost) / (1 + tolerated))
            self._freeze(now + min(60.0, pause))
        if sent >= self._paused_at:
            self._refusals += 1
            self._paused_at = now
        # what was refused at once tells how many were held just then
        held = max(1.0, float(in_flight)) if is_quick else math.inf
        if held < _SUNK * self._rest:
            self._was, self._tries = max(self._was, self._rest), _TRIES
        if sent < self._cut_at:
            self._lower(plateau=min(self._plateau or held, held))
        elif self._round.lost > tolerated or retry_after:
            self._lossy = True
            held = min(held, self._limit)
            # a probe that is refused has found the limit, and nothing has piled up
            to = held if is_probe and is_quick and self._before <= held else _CUT * held
            self._cut(now, plateau=held, to=to, patience=_PATIENCE_REFUSED, frozen=retry_after or 0.0)

    def failed(self, now: float, *, seconds: float, jitter: float) -> None:
        """Book a 5xx or a time-out: no growth this round, a cut when they are many, a pause in an outage."""
        self._round.lose(now, seconds=seconds)
        self._streak += 1
        self._quota = max(0.0, self._quota - 1)
        if self._streak >= max(_OUTAGE, self._limit / 2) and now >= self._frozen_until:
            # nobody gets through: everybody waits, longer each time, so that no pack uses its attempts up on it
            self._frozen_until = now + min(60.0, 0.5 * 2.0**self._outages) * (0.75 + 0.5 * jitter)
            self._outages += 1
        allowed = _by_chance(_SOME_FAILED * self._size) if self._slow_start else 1.0
        # one in flight is not too many, and what fails quickly tells no more of the limit than what fails in time
        may_cut = (self.limit > 1 or self._limit < START) and now - self._cut_at >= self._usual
        if may_cut and self._round.lost > self._tolerated(max(1.0, allowed)):
            self._lossy = True
            self._sunk_from = self._sunk_from or self._limit
            self._cut(now, plateau=self._just_under, to=_CUT * self._limit, patience=_PATIENCE_FAILED)
        else:
            self._judge(now)

    def succeeded(self, now: float, *, seconds: float, output_tokens: int) -> None:
        """Book a reply that took `seconds`; a round of them may raise the limit."""
        self._follow_slowest(now, seconds)
        self._quota = min(_QUOTA, self._quota + _QUOTA_BACK)
        self._refusals = self._streak = self._outages = 0
        self._round.answered(now, seconds=seconds, output_tokens=output_tokens)
        self._judge(now)

    def waited(self, now: float, seconds: float) -> None:
        """Book how long something that was ready waited for our own event loop: lag, which is no gateway's latency."""
        self._round.waited(now, seconds)

    @property
    def _size(self) -> int:
        return max(self.limit, START)

    @property
    def _just_under(self) -> float:
        return max(1.0, int(self._limit + 0.5) - 1.0)

    def _is_probe(self) -> bool:
        return self._held > self._patience or 0 < self._limit < self._was

    def _is_below(self) -> bool:
        return self._plateau is not None and self._limit <= max(1.0, _BELOW * self._plateau) + 1e-9

    def _tolerated(self, alone: float) -> float:
        """How many of a round may be lost; `alone` at a limit that may be too high, whatever chance explains."""
        size = max(self._size, self._round.tried)
        by_chance = _by_chance(self._chance * size)
        if self._is_below():
            return max(2.0, _MANY_LOST * size, by_chance)
        return max(alone, by_chance)

    def _follow_slowest(self, now: float, seconds: float) -> None:
        # a quantile by stochastic approximation (Robbins and Monro 1951), in logarithms; over some five of its lengths,
        # however many answers come in them
        step = min(0.01, (now - self._heard_at) / max(1e-3, 5 * self._slowest))
        self._heard_at = now
        if seconds > self._slowest:
            self._slowest = min(seconds, self._slowest * math.exp(19 * step)) if self._slowest else seconds
        else:
            self._slowest *= math.exp(-step)

    def _freeze(self, until: float) -> None:
        self._frozen_until = max(self._frozen_until, until)

    def _judge(self, now: float) -> None:
        """Decide, where a round is over."""
        this, base = self._round, self._base.latency
        size = self._size if base.answers else 1
        if self._trial is not None:
            self._end_trial(now)
            return
        usual = size * this.work_an_answer * self._usual
        overdue = this.ended < size and this.slot_seconds > _OVERDUE * usual
        if (this.ended < size and not overdue) or not this.latency.answers:
            return
        own = self._own_share()
        over, error = this.latency.over(base) if base.answers else (0.0, 0.0)
        over += math.log(max(0.25, 1 - _HOPS * own))
        if this.ended < size and self._base.is_firm and this.slot_seconds > _STUCK * usual:
            # by Little's law: those that have not ended count as well
            over = max(over, math.log(this.slot_seconds * size / ((this.ended + 1) * usual)))
        if this.ended >= size and self._is_eased(now, own):
            return
        if over > _SLOW:
            if over > _SLOW + 2 * error:
                self._too_slow(now, over)
                return
            if this.ended < _UNSURE * size:
                return
        if this.ended < size:
            return
        self._allow_for_chance()
        fine = over <= _FINE + min(error, _DOUBT)
        saturated = this.peak >= _SATURATED * self.limit
        if fine:
            if this.lost <= _MANY_LOST * this.ended:
                taken = this.slot_seconds / (this.ended * this.work_an_answer)
                self._usual = max(1e-3, self._usual + (1.0 if base.answers < START else 0.3) * (taken - self._usual))
            if not base.answers:
                self._raised_at = now
            if (steady := now - self._raised_at > self._slowest) or base.answers < START:
                self._base.learn(this.latency, min(self._limit, float(this.peak)), steady=steady)
            if saturated:
                # those that ended in this round left in the one before
                self._fine = max(self._fine, min(self._limit, self._before))
                self._former = None
        explained = _by_chance((_SOME_FAILED if self._slow_start else self._chance) * size)
        self._doubts = 0 if fine else self._doubts + 1
        if self._doubts >= _DOUBTS or (self._doubts and over > _SLOW and not self._base.is_firm):
            self._too_slow(now, over)
            return
        if fine and not this.lost and this.ended >= START:
            if self._sunk_from > START and self._limit < self._sunk_from / 2:
                # whatever failed may be over: tried a few times, each of which a cliff would soon end
                self._slow_start, self._plateau = True, None
                self._sunk_from /= 2
            else:
                self._sunk_from = 0.0
        if saturated and this.lost <= explained:
            self._next_round(now, grow=fine and this.ended >= START, own=own)
        else:
            # one lost is nothing; one lost in each of two rounds is a limit that is a little too high
            carried = 0 if self._slow_start or self._is_below() else this.lost - this.carried
            self._next_round(now, grow=False)
            self._round.carry(carried)

    def _begin(self, now: float, *, settle: float) -> None:
        # bursts and lulls are shorter than it takes to answer: a lag fades, and is seen at once
        self._lag = max(self._round.lag, _LAG_KEPT * self._lag + (1 - _LAG_KEPT) * self._round.lag)
        self._round.begin(now, settle=settle)

    def _own_share(self) -> float:
        """How long what is ready waits for our own event loop because of what is in flight, as a share of an answer."""
        lag = max(self._round.lag, self._lag)
        self._foreign = min(self._foreign, lag)
        return max(0.0, lag - self._foreign - _ALWAYS) / self._round.seconds_an_answer

    def _is_eased(self, now: float, own: float) -> bool:
        """Ask for less where our own event loop cannot keep up; put it back where that does not help."""
        if self._eased is not None:
            (limit, before), self._eased = self._eased, None
            if own > _LAGGING and self._round.lag > _EASE * before:
                self._foreign = self._round.lag
                self._raise_to(limit, now)
                self._begin(now, settle=0.0)
                return True
        if own > 2 * _LAGGING and self._limit > START and self.fixed is None:
            self._eased = self._limit, max(self._round.lag, self._lag)
            self._limit = max(float(START), _EASE * self._limit)
            self._begin(now, settle=_SETTLE * self._slowest)
            self._lag = 0.0
            return True
        return False

    def _allow_for_chance(self) -> None:
        if self._is_below():
            share = min(_MOST_CHANCE, self._round.lost / max(1, self._round.tried))
            self._chance += min(0.25, self._round.tried / 100) * (share - self._chance)

    def _too_slow(self, now: float, over: float) -> None:
        """Go back to where it was fine; where it was fine here, find out by a trial whether the limit is the reason."""
        limit, latency = self._limit, self._round.latency
        if self._former is not None:
            # put back, the limit is too high even for the base of the trial: it was the limit, and still is
            self._base, self._former = self._former, None
            over, _ = latency.over(self._base.latency)
        is_trial = not self._base.is_firm or not 0 < self._fine < limit
        to = limit / math.exp(over) if is_trial else 0.95 * self._fine
        is_probe = self._held > self._patience
        self._cut(now, plateau=self._just_under, to=to, patience=_PATIENCE_SLOW, lost=1 - math.exp(-over))
        if is_trial:
            self._trial = (limit, latency)
            # a limit at rest that is slow all of a sudden says nothing of what probes cost
            self._patience = self._patience if is_probe else _PATIENCE

    def _end_trial(self, now: float) -> None:
        assert self._trial is not None
        limit, before = self._trial
        latency = self._round.latency
        if latency.answers < max(START, self._limit / 2):
            return
        error = max(latency.spread, before.spread) / math.sqrt(latency.answers)
        middle = (before.mean + self._base.latency.mean) / 2
        if abs(latency.mean - middle) < 2 * error and latency.answers < max(_TRIAL_ANSWERS, self._limit):
            return
        if latency.mean > before.mean + max(error, _FINE) and self._limit > 1:
            # what was seen before was only the beginning
            over, _ = latency.over(self._base.latency)
            to = min(limit / math.exp(over), self._limit / 2)
            self._cut(now, plateau=max(1.0, limit - 1), to=to, patience=_PATIENCE_SLOW)
            self._trial = (limit, latency)
            return
        self._trial = None
        if latency.mean > middle:
            # as slow with less in flight: it was not the limit
            self._former, self._base = self._base, Base(latency, self._limit, steady=True)
            self._limit, self._plateau, self._raised_at = limit, None, now
            self._slow_start = not self._lossy
        else:
            self._base.learn(latency, self._limit, steady=True)
        self._next_round(now, grow=False)

    def _cut(
        self, now: float, *, plateau: float, to: float, patience: int, lost: float = 1.0, frozen: float = 0.0
    ) -> None:
        """Lower the limit; `lost` is the share of the answers that the higher one cost, on top of `frozen` seconds."""
        is_same = self._plateau is not None and 0.8 < plateau / self._plateau < 1.25
        freezes = frozen / self._usual
        if is_same and self._held > self._patience and self._was:
            self._patience = int(min(_PATIENCE_SLOW, max(_PATIENCE, _FROZEN_TRYING * freezes)))
            self._tries -= 1
            self._was = self._was if self._tries > 0 else 0.0
        elif is_same and self._held > self._patience:
            # a probe ended where the one before did: the next one waits longer, the more so the more this one cost
            rounds = max(4 * lost * (now - self._raised_at + self._slowest) / self._usual, _FROZEN * freezes)
            patience = int(min(_PATIENCE_SLOW, max(patience, _FROZEN * freezes)))
            self._patience = int(min(patience, max(min(2 * self._patience, _PATIENCE_FAILED), rounds)))
        elif not is_same:
            self._patience = _PATIENCE
        self._allow_for_chance()
        self._slow_start = False
        self._trial = self._eased = None
        self._held = self._doubts = 0
        self._cut_at = now
        self._limit = max(1.0, to) if self.fixed is None else self._limit
        self._lower(plateau=plateau)
        self._fine = min(self._fine, self._limit)
        self._before = self._limit
        self._begin(now, settle=_SETTLE * self._slowest)

    def _lower(self, *, plateau: float) -> None:
        self._plateau = plateau
        if self.fixed is None:
            self._limit = max(1.0, min(self._limit, _BELOW * plateau))

    def _next_round(self, now: float, *, grow: bool, own: float = 0.0) -> None:
        self._begin(now, settle=0.0)
        self._before = self._limit
        if not grow or self.fixed is not None:
            return
        if self._slow_start:
            self._raise_to((2 - 0.9 * min(1.0, own / _LAGGING)) * self._limit, now)
        elif own > _LAGGING:
            self._held = 0
        elif self._plateau is not None and self._limit < _BELOW * self._plateau:
            step = max(self._limit + 1, 1.2 * self._limit, min(2 * self._limit, self._plateau / 2))
            self._raise_to(min(_BELOW * self._plateau, step), now)
            self._held = 0
        else:
            # at rest: hold, then probe by +1 +1 +2 +2 +4 ...
            self._held += 1
            if self._held <= self._patience:
                self._rest = self._limit
                self._was = self._was if self._limit < _SUNK * self._was else 0.0
            elif self._limit < self._was and self._held > self._patience + 1:
                # there is room again: back to where it was before the gateway had less
                self._raise_to(min(2 * self._limit, self._was), now)
            else:
                self._raise_to(self._limit + 2.0 ** min((self._held - self._patience - 1) // 2, 6), now)

    def _raise_to(self, limit: float, now: float) -> None:
        self._raised_at = now
        self._limit = min(float(self.cap), limit)
        if self._limit < self._was:
            self._opening, self._ceiling = 1, None


def _by_chance(expected: float) -> float:
    """How many may be lost where so many are expected to be: three standard deviations of Poisson's more."""
    return expected + 3 * math.sqrt(expected)
