"""A request's end is judged before anything changes: the verdict is committed, then applied.

What is booked is the gateway's word, else usage x price, else the reserve; what nobody knows is None. Usage is only
information: where a charge was told and made no sense, or where this gateway tells charges and this once did not, the
reserve is booked instead of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any

from packer import recovery
from packer.answers import parse_answer
from packer.canaries import Canaries
from packer.confidence import weigh
from packer.errors import TransportError
from packer.exchange import NO_BUCKETS, Buckets, Charge, ChargeSource, Prompt, Reply, StopReason
from packer.ledger import AttemptState, Closed, Opened
from packer.pacing import Mark
from packer.packs import Pack
from packer.recovery import Answered, Booking, Failed, Outcome, PackRecord
from packer.requests import Requests
from packer.usage import Price, Usage, cost, is_amount


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt that is about to be sent for `pack`, and what is reserved for it (None: the price is unknown).

    `in_flight` requests are under way with it, itself included. `canaries` stand on the prompt among the pack's items.
    `mark` is the pacer's.
    """

    attempt: int
    pack: Pack
    record: PackRecord
    prompt: Prompt
    nonce: str
    reserve: Decimal | None
    in_flight: int
    canaries: Canaries
    mark: Mark

    def unsent(self) -> Closed:
        """The end of an attempt that never left."""
        return Closed(self.attempt, AttemptState.FREED, "not sent: the job stopped", None, None, 0.0, {})

    def opened(self, job: int) -> Opened:
        """The intent, as the ledger keeps it."""
        return Opened(self.attempt, job, self.pack.keys, self.record.attempts + 1, self.reserve)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a request came to: to be committed first (`closed`), then applied.

    `rows` are by the pack's numbers, and so are `confidences`, where they are known. `missed` canaries came back wrong,
    right label to what came; then no row is kept.
    """

    request: Request
    outcome: Outcome
    rows: Mapping[int, Any]  # number -> answer
    state: AttemptState
    charge: Charge | None
    usage: Usage | None
    balance: Decimal | None
    seconds: float
    words: str
    written: int = 0  # tokens of the reply's text, by our own count
    missed: Mapping[str, str | None] = field(default_factory=dict)
    buckets: Buckets = NO_BUCKETS
    confidences: Mapping[int, float] = field(default_factory=dict)

    def closed(self) -> Closed:
        """The end of the attempt, as the ledger keeps it."""
        keys = self.request.pack.keys
        answers = {keys[number - 1]: answer for number, answer in self.rows.items()}
        sure = {keys[number - 1]: confidence for number, confidence in self.confidences.items()}
        return Closed(
            self.request.attempt, self.state, self.words, self.charge, self.usage, self.seconds, answers, sure
        )


def judge(
    request: Request,
    ended: Reply | TransportError,
    seconds: float,
    *,
    requests: Requests,
    free: bool,
    tells_charges: bool,
) -> Verdict:
    """What a request came to after `seconds`.

    `free` where the model takes no money; `tells_charges` where the gateway has told what another request took.
    """
    told = ended.charge if ended.charge is not None and is_amount(ended.charge.usd) else None
    booked = partial(_book, request, told, price=requests.price, free=free)
    if isinstance(ended, TransportError):
        failed = Failed(
            ended.failure,
            str(ended),
            ended.retry_after,
            charged=told is not None,
            may_be_billed=ended.may_be_billed,
        )
        state, charge = booked(failed, None)
        words = f"{ended.failure}: {ended}"
        buckets = ended.buckets or NO_BUCKETS
        return Verdict(request, failed, {}, state, charge, None, ended.balance, seconds, words, buckets=buckets)
    size = len(request.pack)
    answer = parse_answer(
        ended.text,
        task=requests.task,
        nonce=request.nonce,
        count=size + len(request.canaries),
        locate=ended.tokens is not None,
    )
    rows, missed = request.canaries.sift(answer.rows)
    sure = weigh(ended.text, ended.tokens or (), answer.spans)
    defect = f"{answer.defects[0].message} @ {answer.defects[0].path}" if answer.defects else ""
    if missed:
        came = (f"{label} came back as {'nothing' if got is None else got}" for label, got in missed.items())
        defect = f"a canary was hit: {', '.join(came)}"
    outcome = Answered(
        asked=size,
        sound=len(rows),
        truncated=ended.stop_reason is StopReason.MAX_TOKENS,
        filtered=ended.stop_reason is StopReason.CONTENT_FILTER,
        defect=defect,
        hit=bool(missed),
    )
    trusted = not tells_charges and not ended.garbled_charge and (ended.charge is None or told is not None)
    state, charge = booked(outcome, ended.usage if trusted else None)
    words = f"{outcome.sound} of {size} answers"
    if outcome.truncated:
        words += ", cut at max_tokens"
    if outcome.sound < size and defect:
        words += f": {defect}"
    written = requests.count([ended.text])[0]
    told_of = (ended.usage, ended.balance)
    confidences = request.canaries.renumber(sure) if rows else {}
    return Verdict(
        request, outcome, rows, state, charge, *told_of, seconds, words, written, missed, ended.buckets, confidences
    )


def _book(
    request: Request, told: Charge | None, outcome: Outcome, usage: Usage | None, *, price: Price | None, free: bool
) -> tuple[AttemptState, Charge | None]:
    """The attempt's state, and the charge: the gateway's word, else usage x price, else the reserve."""
    if free:
        return AttemptState.SETTLED, Charge(Decimal(0), ChargeSource.FREE)
    if told is not None:
        return AttemptState.SETTLED, told
    booking = recovery.book(outcome)
    if booking is Booking.RELEASE:
        return AttemptState.FREED, Charge(Decimal(0), ChargeSource.FREE)
    if booking is Booking.DOUBT:
        return AttemptState.DOUBT, None
    if usage is not None and price is not None:
        return AttemptState.SETTLED, Charge(cost(usage, price), ChargeSource.PRICE)
    if request.reserve is not None:
        return AttemptState.SETTLED, Charge(request.reserve, ChargeSource.RESERVE)
    return AttemptState.SETTLED, None
