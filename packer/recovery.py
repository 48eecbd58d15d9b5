"""One place decides what follows an attempt, and what is booked for it. Nothing else retries.

However requests fail, a pack of n items costs a bounded number of requests: an attempt that used one up is counted, a
pack is split at most log2(n) times or once into singles, a refusal that uses no attempt up is counted by itself, and
what is counted has an end: the items fail, or the job stops.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias, assert_never

from packer.errors import Failure

MAX_ATTEMPTS = 5  # requests for one pack that failed on the way and may have been paid for
MAX_FREE_ATTEMPTS = 8  # where none was: about a minute of backoff, for a router that restarts
MAX_ANSWERS = 2  # answers to a single that could not be used
MAX_RAISES = 5  # answers without a row, cut at a max_tokens that is then raised
MAX_REFUSALS = 60  # "rate limited" for one pack: the job then stops, resumable
MAX_SETTINGS = 8  # optional settings that a gateway may refuse, one by one
_SAME_BAD_REQUESTS = 3
_MALFORMED_IN_ROW = 2
_FAILURES_IN_ROW = 30
_DOUBTS_IN_ROW = 10
_UNUSABLE_AT_START = 10
_UNUSABLE_IN_ROW = 30
_LONGEST_WAIT = 3_600.0  # seconds that a gateway may ask for; more is a daily cap, and no job waits for it
LONGEST_SILENCE = 2 * _LONGEST_WAIT  # seconds without an answer to anything, after which a failure ends the job
_NUMBERED = re.compile(r"[\w-]*\d[\w-]*")

_BASE = 0.5  # seconds
_SHORTEST = 0.05  # so that what failed never stands before what was not asked yet
_LONGEST = 60.0


@dataclass(frozen=True, slots=True)
class Answered:
    """A reply was read: of `asked` rows `sound` were accepted.

    `truncated`: it ended at its max_tokens. `filtered`: a content filter ended it. `defect` is the first thing that was
    wrong, empty where nothing was. `at_ceiling`: no more tokens can be allowed. `hit`: a canary came back wrong or not
    at all, so that no row was accepted.
    """

    asked: int
    sound: int
    truncated: bool = False
    filtered: bool = False
    at_ceiling: bool = False
    defect: str = ""
    hit: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """No reply was read.

    `message` is the transport's; `retry_after` is in seconds, None where nothing was said. `charged`: the gateway told
    what it took all the same, so that nothing is in doubt. `may_be_billed`: it did not, and may have taken something,
    even for what is free otherwise.
    """

    failure: Failure
    message: str
    retry_after: float | None = None
    charged: bool = False
    may_be_billed: bool = False


Outcome: TypeAlias = Answered | Failed


@dataclass(frozen=True, slots=True)
class PackRecord:
    """What a pack has been through. `generation` counts the splits that made it."""

    generation: int = 0
    failures: int = 0
    answers: int = 0
    refusals: int = 0
    settings: int = 0
    allowance: int = 0  # the least max_tokens of the next request, 0 where nothing is known

    @property
    def attempts(self) -> int:
        """Requests sent for this very pack."""
        return self.failures + self.answers + self.refusals + self.settings

    def after(self, outcome: Outcome) -> PackRecord:
        """The record with one more outcome."""
        match outcome:
            case Answered():
                return replace(self, answers=self.answers + 1)
            case Failed(failure=Failure.RATE_LIMITED):
                return replace(self, refusals=self.refusals + 1)
            case Failed(failure=Failure.SETTING_REFUSED):
                return replace(self, settings=self.settings + 1)
            case Failed():
                return replace(self, failures=self.failures + 1)
            case _:
                assert_never(outcome)

    def child(self) -> PackRecord:
        """The record of a pack that is split off. Refused settings count on: a smaller pack brings none back."""
        return PackRecord(generation=self.generation + 1, settings=self.settings)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What the job has been through, as far as it bears on the next step."""

    accepted: bool = False
    bad_requests: int = 0  # the same refusal, in a row
    bad_request: str = ""
    malformed: int = 0  # in a row
    failures: int = 0  # of any kind but rate limits, in a row
    unusable: int = 0  # answers without a sound row, in a row

    def after(self, outcome: Outcome) -> JobRecord:
        """The record with one more outcome."""
        match outcome:
            case Answered(hit=True):
                # an attack in the texts: neither a reply that can be used nor a model that cannot be
                return JobRecord(accepted=self.accepted, unusable=self.unusable)
            case Answered(sound=sound):
                return JobRecord(accepted=self.accepted or sound > 0, unusable=0 if sound else self.unusable + 1)
            case Failed(failure=Failure.BAD_REQUEST | Failure.TOO_LONG, message=message):
                message = _NUMBERED.sub("#", message)  # a request's id is no difference
                same = self.bad_requests + 1 if message == self.bad_request else 1
                return replace(self, bad_requests=same, bad_request=message, malformed=0, failures=self.failures + 1)
            case Failed(failure=Failure.MALFORMED):
                return replace(self, malformed=self.malformed + 1, failures=self.failures + 1)
            case Failed(failure=Failure.RATE_LIMITED):
                return self
            case Failed():
                return replace(self, malformed=0, failures=self.failures + 1)
            case _:
                assert_never(outcome)


@dataclass(frozen=True, slots=True)
class Accept:
    """Every row is sound."""


@dataclass(frozen=True, slots=True)
class Resend:
    """Ask the same items again in one pack, not before `after` seconds."""

    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Split:
    """Ask the rest again in `parts` packs."""

    parts: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The rest fails for `reason`; with `doubt` it ends in doubt: sent, its fate unknown, not asked again."""

    reason: str
    doubt: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """The job ends, resumable, for `reason`; with `doubt` the rest of this pack ends in doubt, and is not pending.

    `everybody`: the key, the account or the model is refused, and so is whoever else asks this model with this key.
    """

    reason: str
    doubt: bool = False
    everybody: bool = False


Step: TypeAlias = Accept | Resend | Split | GiveUp | Stop


def next_step(
    outcome: Outcome, *, rest: int, pack: PackRecord, job: JobRecord, jitter: float, hold: bool, silence: float
) -> Step:
    """What follows an attempt.

    `rest` is the number of items without a sound row; `pack` and `job` are the records with this outcome booked;
    `jitter` is uniform in [0, 1); `hold` means that items in doubt are not asked again; `silence` is the seconds since
    anything was answered, or since the job's first request. Backoff is exponential with full jitter (Brooker,
    "Exponential Backoff And Jitter", AWS 2015).
    """
    match outcome:
        case Answered():
            return _after_answer(outcome, rest, pack, job)
        case Failed():
            doubt = hold and is_doubtful(outcome)
            step = _after_failure(outcome, rest=rest, pack=pack, job=job, jitter=jitter, doubt=doubt)
            if isinstance(step, Resend) and silence > LONGEST_SILENCE:
                reason = f"nothing was answered for {silence / 60:.0f} minutes, the last failure: {outcome.message}"
                return Stop(reason, doubt=doubt)
            return step
        case _:
            assert_never(outcome)


def _after_answer(outcome: Answered, rest: int, pack: PackRecord, job: JobRecord) -> Step:
    if rest == 0:
        return Accept()
    if outcome.hit:
        # a single harms nobody but itself, and has no canary: no second hit can follow
        return Split(rest)
    if job.unusable >= (_UNUSABLE_IN_ROW if job.accepted else _UNUSABLE_AT_START):
        return Stop(f"{job.unusable} answers in a row had no usable row, the last one: {outcome.defect}")
    if outcome.truncated and outcome.sound == 0 and not outcome.at_ceiling and pack.answers <= MAX_RAISES:
        # not a row came through (a model that reasons first?): the allowance is too small, not the pack too large
        return Resend()
    if rest > 1:
        # in two, then singles: a third round in packs seldom mends what two could not
        return Split(2 if pack.generation == 0 else rest)
    if outcome.asked > 1:
        return Split(1)
    if pack.answers < MAX_ANSWERS:
        return Resend()
    if outcome.filtered:
        return GiveUp("the gateway's content filter ended the answer")
    if outcome.truncated:
        return GiveUp("the answer is longer than max_tokens may grow")
    return GiveUp(f"no usable answer: {outcome.defect}")


def _after_failure(outcome: Failed, *, rest: int, pack: PackRecord, job: JobRecord, jitter: float, doubt: bool) -> Step:
    backoff = max(_SHORTEST, jitter * min(_LONGEST, _BASE * 2.0**pack.failures))
    match outcome.failure:
        case Failure.KEY_REFUSED | Failure.QUOTA | Failure.UNKNOWN_MODEL | Failure.UNTRUSTED | Failure.CANCELLED:
            return Stop(f"{outcome.failure}: {outcome.message}", everybody=True)
        case _ if doubt and job.failures >= _DOUBTS_IN_ROW:
            # one pack after the other would be parked for a gateway that answers nobody
            return Stop(f"{job.failures} requests in a row failed, the last one: {outcome.message}", doubt=True)
        case _ if doubt:
            return GiveUp(f"in doubt: {outcome.message}", doubt=True)
        case Failure.RATE_LIMITED:
            if outcome.retry_after is not None and outcome.retry_after > _LONGEST_WAIT:
                return Stop(_asks_to_wait(outcome.retry_after, outcome.message))
            # the limiter pauses everybody; this pack needs no wait of its own
            if pack.refusals < MAX_REFUSALS:
                return Resend()
            return Stop(f"rate limited {MAX_REFUSALS} times without an answer: {outcome.message}")
        case Failure.SETTING_REFUSED if pack.settings <= MAX_SETTINGS:
            return Resend()
        case Failure.BAD_REQUEST | Failure.TOO_LONG | Failure.SETTING_REFUSED:
            if not job.accepted and job.bad_requests >= _SAME_BAD_REQUESTS:
                return Stop(f"the same refusal {job.bad_requests} times and nothing accepted: {outcome.message}")
            if job.failures >= _FAILURES_IN_ROW:
                return Stop(f"{job.failures} requests in a row were refused, the last one: {outcome.message}")
            if rest > 1:
                return Split(2)
            return GiveUp(f"refused: {outcome.message}")
        case Failure.MALFORMED if job.malformed >= _MALFORMED_IN_ROW:
            return Stop(f"{job.malformed} replies in a row were no chat completions: {outcome.message}")
        case Failure.OVERLOADED | Failure.NOT_SENT | Failure.LOST | Failure.CONFLICT | Failure.CUT | Failure.MALFORMED:
            free = outcome.failure in {Failure.NOT_SENT, Failure.OVERLOADED}
            if pack.failures < (MAX_FREE_ATTEMPTS if free else MAX_ATTEMPTS):
                if outcome.retry_after is not None and outcome.retry_after > _LONGEST_WAIT:
                    return Stop(_asks_to_wait(outcome.retry_after, outcome.message))
                told = 0.0 if outcome.retry_after is None else outcome.retry_after * (1 + 0.25 * jitter)
                return Resend(after=max(told, backoff))
            if not job.accepted or job.failures >= 2 * MAX_ATTEMPTS:
                # nobody else gets through either: it is not these items' fault
                return Stop(f"{job.failures} requests in a row failed, the last one: {outcome.message}")
            return GiveUp(f"failed {pack.failures} times, the last time: {outcome.message}")
        case _:
            assert_never(outcome.failure)


def _asks_to_wait(seconds: float, message: str) -> str:
    return f"the gateway asks to wait {seconds:.0f} seconds: {message}"


class Booking(StrEnum):
    """What is booked for an attempt whose charge the gateway did not tell."""

    RELEASE = "release"  # not billed: the request never left, or was refused before any work
    DOUBT = "doubt"  # it may have been billed: the reserve stays
    RESERVE = "reserve"  # it was answered: the worst case is booked as spent


def is_doubtful(outcome: Outcome) -> bool:
    """Whether nobody knows if the request was billed."""
    return isinstance(outcome, Failed) and not outcome.charged and book(outcome) is Booking.DOUBT


def book(outcome: Outcome) -> Booking:
    """What is booked where the gateway told no charge; where it told one, the charge is booked."""
    match outcome:
        case Answered() | Failed(failure=Failure.MALFORMED):
            return Booking.RESERVE
        case Failed(may_be_billed=True):
            return Booking.DOUBT
        case Failed(failure=Failure.OVERLOADED | Failure.LOST | Failure.CONFLICT | Failure.CUT):
            return Booking.DOUBT
        case Failed():
            return Booking.RELEASE
        case _:
            assert_never(outcome)
