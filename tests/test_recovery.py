"""Law 5: one place decides what follows a failure, and a pack of n items costs a bounded number of requests."""

from typing import assert_never

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer.errors import Failure
from packer.recovery import (
    MAX_ANSWERS,
    MAX_ATTEMPTS,
    MAX_FREE_ATTEMPTS,
    MAX_RAISES,
    MAX_REFUSALS,
    MAX_SETTINGS,
    Accept,
    Answered,
    Booking,
    Failed,
    GiveUp,
    JobRecord,
    Outcome,
    PackRecord,
    Resend,
    Split,
    Step,
    Stop,
    book,
    is_doubtful,
    next_step,
)

FAILURES = st.sampled_from(Failure)


def step_after(outcome: Outcome, *, rest: int = 1, hold: bool = False, jitter: float = 0.5, **records: object) -> Step:
    pack = records.get("pack", PackRecord())
    job = records.get("job", JobRecord())
    assert isinstance(pack, PackRecord)
    assert isinstance(job, JobRecord)
    silence = float(str(records.get("silence", 0.0)))
    pack, job = pack.after(outcome), job.after(outcome)
    return next_step(outcome, rest=rest, pack=pack, job=job, jitter=jitter, hold=hold, silence=silence)


class Adversary:
    """Carries a pack through recovery while every outcome is drawn; counts requests, and how each item ended."""

    def __init__(self, data: st.DataObject, items: int) -> None:
        self.data = data
        self.queue = [(items, PackRecord())]
        self.job = JobRecord()
        self.requests = 0
        self.ended = 0

    def run(self, kinds: st.SearchStrategy[str]) -> None:
        while self.queue:
            size, record = self.queue.pop()
            self.requests += 1
            outcome = self.outcome(size, kinds)
            sound = outcome.sound if isinstance(outcome, Answered) else 0
            self.ended += sound
            rest = size - sound
            record, self.job = record.after(outcome), self.job.after(outcome)
            step = next_step(outcome, rest=rest, pack=record, job=self.job, jitter=0.5, hold=False, silence=0.0)
            match step:
                case Accept():
                    assert rest == 0
                case Resend():
                    self.queue.append((rest, record))
                case Split(parts=parts):
                    assert 1 <= parts <= rest
                    sizes = [rest // parts + (part < rest % parts) for part in range(parts)]
                    self.queue += [(part, record.child()) for part in sizes]
                case GiveUp():
                    self.ended += rest
                case Stop():
                    self.ended += rest + sum(waiting for waiting, _ in self.queue)
                    self.queue.clear()
                case _:
                    assert_never(step)

    def outcome(self, size: int, kinds: st.SearchStrategy[str]) -> Outcome:
        kind = self.data.draw(kinds)
        if kind == "answer":
            # a single has no canaries
            if size > 1 and self.data.draw(st.booleans()):
                return Answered(size, 0, truncated=self.data.draw(st.booleans()), defect="a canary was hit", hit=True)
            sound = self.data.draw(st.integers(0, size))
            return Answered(size, sound, truncated=self.data.draw(st.booleans()), defect="bad")
        return Failed(Failure(kind), "words")


KINDS = st.sampled_from(["answer", *Failure])


@given(st.data(), st.integers(1, 40), st.sets(KINDS, min_size=1, max_size=4))
def test_however_requests_fail_a_pack_ends_in_a_bounded_number_of_them(
    data: st.DataObject, items: int, kinds: set[str]
) -> None:
    adversary = Adversary(data, items)
    adversary.run(st.sampled_from(sorted(kinds)))
    assert adversary.ended == items, "no item is lost or doubled"
    each = MAX_FREE_ATTEMPTS + MAX_REFUSALS + MAX_SETTINGS + MAX_ANSWERS + MAX_RAISES + 1
    assert adversary.requests <= (2 * items + items) * each


@pytest.mark.parametrize("failure", [*Failure])
@pytest.mark.parametrize("items", [1, 20])
def test_one_failure_for_ever_costs_few_requests_a_pack(failure: Failure, items: int) -> None:
    queue, requests, job = [(items, PackRecord())], 0, JobRecord(accepted=True)
    while queue:
        size, record = queue.pop()
        requests += 1
        outcome = Failed(failure, f"words {requests}")
        record, job = record.after(outcome), job.after(outcome)
        step = next_step(outcome, rest=size, pack=record, job=job, jitter=0.0, hold=False, silence=0.0)
        if isinstance(step, Resend):
            queue.append((size, record))
        elif isinstance(step, Split):
            queue += [(part, record.child()) for part in (size // 2, size - size // 2)]
        elif isinstance(step, Stop):
            queue.clear()
    assert requests <= max(MAX_REFUSALS, 2 * items - 1, MAX_SETTINGS + 2 * items, MAX_FREE_ATTEMPTS)


@pytest.mark.parametrize("failure", [Failure.KEY_REFUSED, Failure.QUOTA, Failure.UNKNOWN_MODEL, Failure.UNTRUSTED])
def test_what_no_waiting_mends_stops_the_job_at_the_first(failure: Failure) -> None:
    assert isinstance(step_after(Failed(failure, "no"), job=JobRecord(accepted=True)), Stop)


def test_an_answer_without_a_rest_is_accepted() -> None:
    assert step_after(Answered(20, 20), rest=0) == Accept()


def test_the_rest_is_asked_in_two_then_as_singles() -> None:
    assert step_after(Answered(20, 10), rest=10) == Split(2)
    assert step_after(Answered(10, 5), rest=5, pack=PackRecord(generation=1)) == Split(5)
    assert step_after(Answered(10, 9), rest=1, pack=PackRecord(generation=1)) == Split(1)


HIT = Answered(5, 0, truncated=True, defect="a canary was hit", hit=True)


@pytest.mark.parametrize("generation", [0, 1])
def test_after_a_hit_the_items_are_asked_as_singles_at_once(generation: int) -> None:
    assert step_after(HIT, rest=5, pack=PackRecord(generation=generation)) == Split(5)


def test_a_flood_of_hits_does_not_stop_the_job_and_hides_no_model_that_answers_nothing() -> None:
    job = JobRecord(unusable=9)
    for _ in range(100):
        job = job.after(HIT)
        assert step_after(HIT, rest=5, job=job) == Split(5)
    assert isinstance(step_after(Answered(1, 0), job=job), Stop)
    assert JobRecord().after(HIT).accepted is False
    assert JobRecord(accepted=True).after(HIT).accepted is True


def test_a_hit_is_an_answer_after_which_failures_in_a_row_begin_again() -> None:
    job = JobRecord(failures=9, malformed=1, bad_requests=2, bad_request="no")
    assert job.after(HIT) == JobRecord()


def test_a_single_is_asked_twice_then_given_up_with_its_defect() -> None:
    outcome = Answered(1, 0, defect="expected one of the labels @ $.answers[0]")
    assert step_after(outcome) == Resend()
    given_up = step_after(outcome, pack=PackRecord(answers=MAX_ANSWERS - 1))
    assert given_up == GiveUp("no usable answer: expected one of the labels @ $.answers[0]")


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Answered(1, 0, filtered=True), "content filter"),
        (Answered(1, 0, truncated=True, at_ceiling=True), "max_tokens"),
    ],
)
def test_a_single_that_is_given_up_says_why(outcome: Answered, words: str) -> None:
    step = step_after(outcome, pack=PackRecord(answers=MAX_ANSWERS - 1))
    assert isinstance(step, GiveUp)
    assert words in step.reason


def test_an_answer_cut_before_its_first_row_is_asked_again_whole_while_its_allowance_grows() -> None:
    cut = Answered(20, 0, truncated=True)
    assert step_after(cut, rest=20) == Resend()
    assert step_after(Answered(20, 0, truncated=True, at_ceiling=True), rest=20) == Split(2)
    assert step_after(cut, rest=20, pack=PackRecord(answers=MAX_RAISES)) == Split(2)


def test_a_refused_pack_is_halved_until_the_refused_item_stands_alone() -> None:
    refused = Failed(Failure.BAD_REQUEST, "no")
    assert step_after(refused, rest=20) == Split(2)
    assert step_after(refused, rest=1, job=JobRecord(accepted=True)) == GiveUp("refused: no")
    assert step_after(Failed(Failure.TOO_LONG, "length"), rest=20) == Split(2)


def test_three_identical_refusals_and_nothing_accepted_stop_the_job() -> None:
    refused, job = Failed(Failure.BAD_REQUEST, "no"), JobRecord()
    job = job.after(refused).after(refused)
    assert isinstance(step_after(refused, rest=20, job=job), Stop)
    assert step_after(Failed(Failure.BAD_REQUEST, "other"), rest=20, job=job) == Split(2)
    assert step_after(refused, rest=20, job=job.after(Answered(20, 1))) == Split(2)


def test_once_something_was_accepted_the_same_refusal_is_the_items_fault() -> None:
    job = JobRecord(accepted=True, bad_requests=9, bad_request="no")
    assert step_after(Failed(Failure.BAD_REQUEST, "no"), rest=1, job=job) == GiveUp("refused: no")


def test_two_malformed_replies_in_a_row_stop_the_job() -> None:
    malformed = Failed(Failure.MALFORMED, "HTML")
    assert isinstance(step_after(malformed), Resend)
    assert isinstance(step_after(malformed, job=JobRecord().after(malformed)), Stop)
    between = JobRecord().after(malformed).after(Answered(1, 1))
    assert isinstance(step_after(malformed, job=between), Resend)
    assert isinstance(step_after(malformed, job=JobRecord().after(malformed).after(Failed(Failure.LOST, ""))), Resend)


def test_a_rate_limit_uses_no_attempt_up_and_has_an_end() -> None:
    limited = Failed(Failure.RATE_LIMITED, "slow down", retry_after=5.0)
    assert step_after(limited, pack=PackRecord(failures=MAX_ATTEMPTS - 1)) == Resend()
    assert isinstance(step_after(limited, pack=PackRecord(refusals=MAX_REFUSALS - 1)), Stop)


def test_a_refused_setting_is_left_out_at_once_and_finally_counts_as_a_refusal() -> None:
    refused = Failed(Failure.SETTING_REFUSED, "temperature")
    assert step_after(refused, rest=20) == Resend()
    assert step_after(refused, rest=20, pack=PackRecord(settings=MAX_SETTINGS)) == Split(2)


@pytest.mark.parametrize("failures", range(MAX_ATTEMPTS - 1))
def test_backoff_is_exponential_with_full_jitter_and_capped(failures: int) -> None:
    lost = Failed(Failure.LOST, "reset")
    pack = PackRecord(failures=failures)
    longest = step_after(lost, jitter=0.999, pack=pack)
    assert isinstance(longest, Resend)
    assert longest.after == pytest.approx(0.999 * min(60, 0.5 * 2 ** (failures + 1)))
    shortest = step_after(lost, jitter=0.0, pack=pack)
    assert isinstance(shortest, Resend)
    assert 0 < shortest.after < 0.1


@pytest.mark.parametrize("failure", [Failure.RATE_LIMITED, Failure.OVERLOADED, Failure.LOST, Failure.NOT_SENT])
def test_after_two_hours_without_an_answer_a_failure_stops_the_job(failure: Failure) -> None:
    failed = Failed(failure, "no")
    assert isinstance(step_after(failed, silence=7_200.0), Resend)
    assert step_after(failed, silence=7_201.0) == Stop("nothing was answered for 120 minutes, the last failure: no")


def test_under_hold_a_gateway_that_answers_nobody_stops_the_job() -> None:
    lost = Failed(Failure.LOST, "reset")
    assert step_after(lost, hold=True, job=JobRecord(failures=8)) == GiveUp("in doubt: reset", doubt=True)
    stopped = step_after(lost, hold=True, job=JobRecord(failures=9))
    assert stopped == Stop("10 requests in a row failed, the last one: reset", doubt=True)


@pytest.mark.parametrize("failure", [Failure.LOST, Failure.CUT, Failure.OVERLOADED, Failure.CONFLICT])
def test_what_the_gateway_told_the_charge_of_is_not_in_doubt(failure: Failure) -> None:
    assert is_doubtful(Failed(failure, "cut"))
    assert not is_doubtful(Failed(failure, "cut", charged=True))
    assert not is_doubtful(Answered(asked=1, sound=0))
    assert isinstance(step_after(Failed(failure, "cut", charged=True), hold=True), Resend)


def test_retry_after_is_kept_and_never_shortened() -> None:
    step = step_after(Failed(Failure.OVERLOADED, "busy", retry_after=8.0), jitter=0.5)
    assert step == Resend(8.0 * 1.125)


@pytest.mark.parametrize("failure", [Failure.RATE_LIMITED, Failure.OVERLOADED, Failure.CONFLICT, Failure.MALFORMED])
def test_a_wait_of_more_than_an_hour_stops_the_job_whoever_asks_for_it(failure: Failure) -> None:
    assert isinstance(step_after(Failed(failure, "busy", retry_after=3_600.0)), Resend)
    asked = step_after(Failed(failure, "busy", retry_after=3_601.0))
    assert asked == Stop("the gateway asks to wait 3601 seconds: busy")


def test_what_failed_too_often_is_given_up_and_an_outage_stops_the_job() -> None:
    lost, job = Failed(Failure.LOST, "reset"), JobRecord(accepted=True)
    pack = PackRecord(failures=MAX_ATTEMPTS - 1)
    assert step_after(lost, pack=pack, job=job) == GiveUp(f"failed {MAX_ATTEMPTS} times, the last time: reset")
    assert isinstance(step_after(lost, pack=pack), Stop), "nothing was ever accepted"
    assert isinstance(step_after(lost, pack=pack, job=JobRecord(accepted=True, failures=9)), Stop)
    blip = step_after(lost, job=JobRecord(accepted=True, failures=250))
    assert isinstance(blip, Resend), "many at once are one blip"


@pytest.mark.parametrize("failure", [Failure.NOT_SENT, Failure.OVERLOADED])
def test_what_was_not_paid_for_is_tried_for_longer(failure: Failure) -> None:
    job, failed = JobRecord(accepted=True), Failed(failure, "down")
    assert isinstance(step_after(failed, job=job, pack=PackRecord(failures=MAX_FREE_ATTEMPTS - 2)), Resend)
    assert isinstance(step_after(failed, job=job, pack=PackRecord(failures=MAX_FREE_ATTEMPTS - 1)), GiveUp)


@pytest.mark.parametrize("failure", [Failure.LOST, Failure.CONFLICT])
def test_under_hold_what_is_in_doubt_is_not_asked_again(failure: Failure) -> None:
    step = step_after(Failed(failure, "reset"), hold=True)
    assert step == GiveUp("in doubt: reset", doubt=True)


@pytest.mark.parametrize("failure", [Failure.RATE_LIMITED, Failure.BAD_REQUEST, Failure.SETTING_REFUSED])
def test_a_refusal_that_may_have_been_billed_is_in_doubt(failure: Failure) -> None:
    told = Failed(failure, "no", may_be_billed=True)
    assert book(told) is Booking.DOUBT
    assert step_after(told, hold=True) == GiveUp("in doubt: no", doubt=True)
    assert not isinstance(step_after(told, hold=False), GiveUp) or failure is Failure.BAD_REQUEST


@pytest.mark.parametrize(
    ("failure", "booking"),
    [
        (Failure.RATE_LIMITED, Booking.RELEASE),
        (Failure.NOT_SENT, Booking.RELEASE),
        (Failure.KEY_REFUSED, Booking.RELEASE),
        (Failure.BAD_REQUEST, Booking.RELEASE),
        (Failure.SETTING_REFUSED, Booking.RELEASE),
        (Failure.OVERLOADED, Booking.DOUBT),
        (Failure.LOST, Booking.DOUBT),
        (Failure.CONFLICT, Booking.DOUBT),
        (Failure.CUT, Booking.DOUBT),
        (Failure.MALFORMED, Booking.RESERVE),
    ],
)
def test_what_is_booked_where_the_gateway_tells_no_charge(failure: Failure, booking: Booking) -> None:
    assert book(Failed(failure, "")) is booking


def test_an_answer_without_a_charge_books_its_reserve() -> None:
    assert book(Answered(1, 0)) is Booking.RESERVE
