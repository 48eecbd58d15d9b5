"""What is lent: never more than there is, whatever workers do and whenever they report or vanish."""

from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer.exchange import NO_BUCKETS, Bucket, Buckets
from packer.leases import Lease, Leases, Reading, Refusal, Report, Success, Trouble
from packer.lent import LentBudget, LentLimiter, LentPacer, Log
from packer.limiter import Limiter
from packer.pacing import Mark

CAP = Decimal("0.001")


def lender(*, fixed: int | None = None, cap: Decimal | None = None, spent: str = "0", patience: float = 5.0) -> Leases:
    return Leases(Limiter(fixed=fixed), cap, Decimal(spent), patience)


def proven(**given: Any) -> Report:
    return Report(**({"in_flight": 0, "wanted": 100, "is_proven": True} | given))


@dataclass
class Hand:
    """A worker as `borrowing` has it, without its runner."""

    cap: Decimal | None = None
    log: Log = field(default_factory=Log)
    flying: list[Decimal] = field(default_factory=list)
    wanted: int = 50

    def __post_init__(self) -> None:
        self.budget = LentBudget(self.cap, log=self.log)
        self.limiter = LentLimiter(log=self.log)
        self.pacer = LentPacer(log=self.log)

    def report(self, now: float, *, is_proven: bool = True) -> Report:
        return Report(
            in_flight=len(self.flying),
            wanted=self.wanted,
            heard=self.log.take(now),
            cap=self.budget.lent,
            short=self.budget.short,
            requests=self.pacer.requests,
            tokens=self.pacer.tokens,
            size=self.pacer.size,
            is_proven=is_proven,
        )

    def take(self, lease: Lease, now: float) -> None:
        self.limiter.lend(lease.slots, now + lease.frozen)
        self.pacer.lend(lease.requests, lease.tokens, lease.mark)
        self.budget.lend(lease)

    def send(self, now: float, worst: Decimal, tokens: int = 10) -> bool:
        """Send a request if it may leave, as a job decides that."""
        if not self.limiter.may_send(now, len(self.flying)) or self.pacer.wait(now, tokens):
            return False
        if not self.budget.has_room(worst):
            self.budget.may_grow(worst)
            return False
        self.budget.reserve(worst)
        self.pacer.sent(now, tokens)
        self.flying.append(worst)
        return True


def meet(leases: Leases, worker: int, hand: Hand, now: float) -> Lease:
    lease = leases.report(worker, hand.report(now), now)
    hand.take(lease, now)
    return lease


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["report", "report", "send", "send", "send", "end", "doubt", "free", "lose", "late"]),
        st.integers(0, 3),
        st.integers(1, 300),
    ),
    max_size=150,
)


@given(OPERATIONS, st.sampled_from([1, 2, 3, 7, 40]))
def test_money_is_reserved_before_it_is_spent_and_no_more_is_in_flight_than_may_be(
    operations: list[tuple[str, int, int]], limit: int
) -> None:
    leases = lender(fixed=limit, cap=CAP, spent="0.0001")
    hands: dict[int, Hand] = {}
    gone: list[tuple[int, Decimal]] = []  # requests of lost workers, whose fate is unknown
    spent = Decimal("0.0001")  # settled and doubted, of all
    names = iter(range(1000))
    now = 0.0
    for what, which, cents in operations:
        now += 0.01
        amount = Decimal(cents) / 1_000_000
        if len(hands) <= which:
            hands[worker := next(names)] = Hand(CAP)
            leases.join(worker, now)
        worker = sorted(hands)[min(which, len(hands) - 1)]
        hand = hands[worker]
        if what == "report":
            meet(leases, worker, hand, now)
        elif what == "send" and hand.send(now, amount):
            assert leases.opened(worker, amount), "what was lent is there"
        elif what in {"end", "doubt", "free"} and hand.flying:
            reserve = hand.flying.pop(which % len(hand.flying))
            booked = {"end": reserve * Decimal("0.3"), "doubt": reserve, "free": Decimal(0)}[what]
            spent += booked
            hand.budget.settle(reserve, booked)
            leases.ended(worker, reserve, booked)
        elif what == "lose":
            gone += [(worker, reserve) for reserve in hand.flying]
            leases.leave(worker)
            del hands[worker]
        elif what == "late" and gone:
            ghost, reserve = gone.pop()
            spent += reserve / 2
            leases.ended(ghost, reserve, reserve / 2)
        flying = [reserve for one in hands.values() for reserve in one.flying]
        lost = sum((reserve for _, reserve in gone), Decimal(0))
        lent = sum((one.budget.lent or Decimal(0) for one in hands.values()), Decimal(0))
        assert spent + lost + sum(flying, Decimal(0)) <= CAP
        # what the living have spent is a part of what was lent to them
        assert lent + lost + (spent - sum((one.budget.settled for one in hands.values()), Decimal(0))) <= CAP
        assert len(flying) <= limit


@given(st.integers(1, 60), st.dictionaries(st.integers(0, 9), st.integers(0, 30), min_size=1))
def test_slots_are_divided_fairly_and_none_is_left_over(limit: int, wants: dict[int, int]) -> None:
    leases = lender(fixed=limit)
    hands = {worker: Hand(wanted=wanted) for worker, wanted in wants.items()}
    for worker in hands:
        leases.join(worker, 0.0)
    for beat in range(6):
        for worker, hand in hands.items():
            meet(leases, worker, hand, 0.1 * beat)
    slots = {worker: hand.limiter.slots for worker, hand in hands.items()}
    assert sum(slots.values()) == min(limit, sum(wants.values()))
    assert all(slots[worker] <= wants[worker] for worker in hands)
    poorest = min((slots[worker] for worker in hands if slots[worker] < wants[worker]), default=limit)
    assert all(slots[worker] <= poorest + 1 for worker in hands), slots


def test_one_slot_goes_round_among_those_who_want_it_and_is_kept_until_it_is_used() -> None:
    leases, hands = lender(fixed=1), {worker: Hand() for worker in range(3)}
    for worker in hands:
        leases.join(worker, 0.0)
    served = []
    for beat in range(60):
        for worker, hand in hands.items():
            now = beat + worker / 10
            meet(leases, worker, hand, now)
            if beat % 2 and hand.send(now, Decimal(0)):
                leases.opened(worker, None)
                served.append(worker)
            elif hand.flying:
                hand.flying.clear()
                leases.ended(worker, None, None)
    counts = [served.count(worker) for worker in hands]
    assert min(counts) > 5, served
    assert max(counts) <= min(counts) + 1, served


def test_until_the_gateway_has_answered_somebody_one_request_is_in_flight() -> None:
    leases, hands = lender(), {worker: Hand() for worker in range(4)}
    for worker in hands:
        leases.join(worker, 0.0)

    def sum_slots(*, is_proven: bool) -> int:
        for worker, hand in hands.items():
            hand.take(leases.report(worker, hand.report(1.0, is_proven=is_proven), 1.0), 1.0)
        return sum(hand.limiter.slots for hand in hands.values())

    assert [sum_slots(is_proven=False) for _ in range(3)] == [1, 1, 1]
    assert sum_slots(is_proven=True) == 8
    assert leases.report(0, replace(hands[0].report(1.0), is_proven=False), 1.0).is_proven, "it is told to all"


def test_a_refusal_freezes_all_and_slots_that_are_not_in_use_are_lent_anew_few_at_a_time() -> None:
    leases, hands = lender(), {worker: Hand() for worker in range(2)}
    for worker, hand in hands.items():
        leases.join(worker, 0.0)
        meet(leases, worker, hand, 0.0)
    hands[0].flying.append(Decimal(0))
    hands[0].limiter.refused(0.5, seconds=0.5, in_flight=0, retry_after=10.0, jitter=0.0)
    assert not hands[0].limiter.may_send(0.5, 1), "the lender is asked before anything else leaves"
    lease = meet(leases, 0, hands[0], 0.5)
    assert (lease.frozen, lease.slots) == (10.0, 1)
    lease = meet(leases, 1, hands[1], 1.5)
    assert (lease.frozen, lease.slots, lease.requests) == (9.0, 0, 0)
    assert hands[1].limiter.frozen_for(2.0) == 8.5
    assert hands[1].limiter.frozen_until == 10.5
    assert not hands[1].limiter.may_send(10.4, 0)
    meet(leases, 1, hands[1], 10.6)
    assert hands[1].limiter.may_send(10.6, 0)


def test_what_ends_at_any_worker_reaches_the_one_limiter_in_its_own_time() -> None:
    calls: list[tuple[Any, ...]] = []

    class Listening(Limiter):
        def succeeded(self, now: float, **told: Any) -> None:
            calls.append(("succeeded", now, told))

        def failed(self, now: float, **told: Any) -> None:
            calls.append(("failed", now, told))

        def refused(self, now: float, **told: Any) -> None:
            calls.append(("refused", now, told))

    leases = Leases(Listening(), None, Decimal(0), 5.0)
    leases.join(1, 10.0)
    leases.join(2, 10.0)
    log = Log()
    limiter = LentLimiter(log=log)
    limiter.succeeded(100.0, seconds=2.0, output_tokens=7)
    limiter.failed(101.0, seconds=3.0, jitter=0.25)
    limiter.refused(102.0, seconds=0.5, in_flight=3, retry_after=None, jitter=0.5)
    limiter.waited(103.0, 9.0)
    heard = log.take(103.0)
    assert heard == (Success(3.0, 2.0, 7), Trouble(2.0, 3.0, 0.25), Refusal(1.0, 0.5, None, 0.5))
    assert log.take(104.0) == ()
    leases.report(1, proven(heard=heard, in_flight=4), 20.0)
    leases.report(2, proven(heard=(Success(2.5, 1.0, 0),), in_flight=2), 20.0)
    assert calls == [
        ("succeeded", 17.0, {"seconds": 2.0, "output_tokens": 7}),
        ("failed", 18.0, {"seconds": 3.0, "jitter": 0.25}),
        ("refused", 19.0, {"seconds": 0.5, "in_flight": 4, "retry_after": None, "jitter": 0.5}),
        ("succeeded", 19.0, {"seconds": 1.0, "output_tokens": 0}),  # its clock does not go back
    ]


def test_a_report_holds_a_bounded_number_of_ends() -> None:
    log = Log()
    for _ in range(10_005):
        log.note(0.0, Success(0.0, 1.0, 1))
    assert len(log.take(0.0)) == 10_000


# What the gateway's buckets hold


def told(left: int) -> Reading:
    return Reading(0.0, Mark(0.0, 0, 0, 10), Buckets(requests=Bucket(60, left)), refused=False)


def test_what_a_bucket_holds_is_lent_once() -> None:
    leases, hands = lender(fixed=100), {worker: Hand() for worker in range(4)}
    for worker in hands:
        leases.join(worker, 0.0)
        leases.report(worker, proven(wanted=0), 0.0)
    leases.report(0, proven(heard=(told(left=9),), wanted=0), 0.0)
    sent = 0
    for now in [0.1, 0.2, 0.3, 0.4, 0.5]:
        for worker, hand in hands.items():
            meet(leases, worker, hand, now)
            while hand.send(now, Decimal(0)):
                sent += 1
    assert sent == 9, "one flows in a second"
    for tick in range(1, 11):
        for worker, hand in hands.items():
            meet(leases, worker, hand, 0.5 + tick)
            while hand.send(0.5 + tick, Decimal(0)):
                sent += 1
    assert 17 <= sent <= 19


def test_a_worker_waits_for_a_lease_where_too_little_is_left_and_asks_for_it_once() -> None:
    hurried: list[int] = []
    pacer = LentPacer(log=Log(lambda: hurried.append(1)))
    assert pacer.wait(0.0, 300) > 10
    assert pacer.wait(0.0, 300) > 10
    assert (len(hurried), pacer.size) == (1, 300)
    pacer.lend(0, 0, Mark(1.0, 5, 50, 0))
    assert pacer.wait(1.0, 300) > 10
    assert len(hurried) == 1, "the lender has nothing now"
    pacer.lend(2, 700, Mark(2.0, 5, 50, 0))
    assert pacer.wait(2.0, 300) == 0
    assert pacer.sent(2.5, 300) == Mark(2.5, 6, 350, 300)
    assert pacer.wait(2.5, 500) > 10
    assert (len(hurried), pacer.size) == (2, 500)
    assert (pacer.requests, pacer.tokens) == (1, 400)


def test_a_large_request_gets_its_tokens_although_requests_are_left() -> None:
    leases, hand = lender(), Hand()
    leases.join(1, 0.0)
    hand.pacer.size = 10
    meet(leases, 1, hand, 0.0)
    assert not hand.send(0.0, Decimal(0), tokens=5_000)
    before = hand.pacer.requests
    assert before > 0
    meet(leases, 1, hand, 0.1)
    assert hand.send(0.1, Decimal(0), tokens=5_000)
    assert hand.pacer.requests == before


def test_a_reading_says_when_its_request_left_and_what_had_left_by_then() -> None:
    log = Log()
    pacer = LentPacer(log=log)
    pacer.lend(3, 300, Mark(0.0, 40, 4000, 0))
    mark = pacer.sent(1000.0, 100)
    buckets = Buckets(tokens=Bucket(6000.0, 500.0))
    pacer.told(1002.0, mark, buckets)
    pacer.told(1003.0, mark, NO_BUCKETS)
    pacer.told(1003.0, mark, NO_BUCKETS, refused=True)
    first, second = log.take(1004.0)
    assert first == Reading(2.0, Mark(4.0, 41, 4100, 100), buckets, refused=False)
    assert second == Reading(1.0, Mark(4.0, 41, 4100, 100), NO_BUCKETS, refused=True)


def test_what_is_lent_and_not_used_has_not_left() -> None:
    leases = lender()
    leases.join(1, 0.0)
    lease = leases.report(1, proven(size=100), 0.0)
    assert lease.requests == 32, "two for each of eight slots, and sixteen"
    assert (lease.mark.requests, lease.mark.tokens) == (0, 0)
    lease = leases.report(1, proven(size=100, requests=30, tokens=3000), 1.0)
    assert (lease.mark.requests, lease.mark.tokens, lease.requests) == (2, 200, 2)


# Money


def test_who_is_short_gets_it_from_those_who_do_not_use_theirs() -> None:
    cap = Decimal("0.001")
    leases, first, second = lender(fixed=4, cap=cap), Hand(cap), Hand(cap)
    for worker in (1, 2):
        leases.join(worker, 0.0)
    meet(leases, 1, first, 0.0)
    assert first.budget.may_grow(Decimal("0.0006"))
    lease = meet(leases, 1, first, 0.1)
    assert (lease.cap, lease.gives_back, lease.is_final) == (Decimal("0.0006"), False, False)
    meet(leases, 2, second, 0.1)
    assert second.budget.may_grow(Decimal("0.0005"))
    lease = meet(leases, 2, second, 0.2)
    assert (lease.cap, lease.is_final) == (Decimal(0), False), "the first one may give back"
    assert meet(leases, 1, first, 0.3).gives_back
    assert first.budget.lent == 0
    assert second.budget.may_grow(Decimal("0.0005"))
    meet(leases, 1, first, 0.3)
    assert meet(leases, 2, second, 0.4).cap == Decimal("0.0005")
    assert second.budget.has_room(Decimal("0.0005"))


def test_no_more_will_come_only_where_nobody_has_anything_that_can_come_back() -> None:
    cap = Decimal("0.001")
    leases, first, second = lender(fixed=4, cap=cap), Hand(cap), Hand(cap)
    for worker, hand in ((1, first), (2, second)):
        leases.join(worker, 0.0)
        meet(leases, worker, hand, 0.0)
    assert first.budget.may_grow(Decimal("0.0008"))
    meet(leases, 1, first, 0.1)
    first.budget.reserve(Decimal("0.0008"))
    leases.opened(1, Decimal("0.0008"))
    assert second.budget.may_grow(Decimal("0.0004"))
    assert not meet(leases, 2, second, 0.2).is_final, "the request may be charged less"
    first.budget.settle(Decimal("0.0008"), Decimal("0.0007"))
    leases.ended(1, Decimal("0.0008"), Decimal("0.0007"))
    assert second.budget.may_grow(Decimal("0.0004"))
    assert not meet(leases, 2, second, 0.3).is_final, "the first one has a rest"
    meet(leases, 1, first, 0.4)
    meet(leases, 1, first, 0.5)
    assert second.budget.may_grow(Decimal("0.0004"))
    assert meet(leases, 2, second, 0.6).is_final
    assert not second.budget.may_grow(Decimal("0.0004"))
    assert second.budget.may_grow(Decimal("0.0003")), "a smaller request may still have room"
    assert meet(leases, 2, second, 0.7).cap == Decimal("0.0003")


def test_who_is_short_hurries_once_and_asks_for_what_it_needs_last() -> None:
    hurried: list[int] = []
    budget = LentBudget(CAP, log=Log(lambda: hurried.append(1)))
    assert budget.may_grow(Decimal("0.0002"))
    assert budget.may_grow(Decimal("0.0001"))
    assert (len(hurried), budget.short, budget.lent) == (1, Decimal("0.0001"), Decimal(0))


def test_a_request_for_which_nothing_was_lent_is_refused() -> None:
    leases = lender(cap=CAP)
    leases.join(1, 0.0)
    assert not leases.opened(1, Decimal("0.0001"))
    free = lender()
    free.join(1, 0.0)
    assert free.opened(1, Decimal("0.0001"))
    assert free.opened(1, None)


def test_without_a_cap_no_money_is_lent_and_none_is_missed() -> None:
    leases, hand = lender(), Hand()
    leases.join(1, 0.0)
    lease = meet(leases, 1, hand, 0.0)
    assert (lease.cap, hand.budget.lent) == (None, None)
    assert not hand.send(0.0, Decimal(5)), "the lender does not know yet how large it is"
    meet(leases, 1, hand, 0.1)
    assert hand.send(0.1, Decimal(5))
    assert not hand.budget.may_grow(Decimal(5)), "there is room"


def test_a_charge_over_its_reserve_is_gone_to_all() -> None:
    leases = lender(cap=CAP)
    leases.join(1, 0.0)
    leases.join(2, 0.0)
    leases.report(1, proven(cap=Decimal(0), short=Decimal("0.0001")), 0.0)
    assert leases.opened(1, Decimal("0.0001"))
    leases.ended(1, Decimal("0.0001"), Decimal("0.0009"))
    lease = leases.report(2, proven(cap=Decimal(0), short=Decimal("0.0002")), 0.1)
    assert lease.cap == 0
    lease = leases.report(2, proven(cap=Decimal(0), short=Decimal("0.0001")), 0.1)
    assert lease.cap == Decimal("0.0001")


# Coming and going


def test_what_is_closed_is_closed_for_all_and_nothing_more_is_lent() -> None:
    leases = lender(cap=CAP)
    for worker in (1, 2):
        leases.join(worker, 0.0)
        assert leases.report(worker, proven(cap=Decimal(0)), 0.0).closed is None
    assert leases.report(1, proven(cap=Decimal(0), closed="key refused: 401"), 0.1).closed == "key refused: 401"
    lease = leases.report(2, proven(cap=Decimal(0), short=Decimal("0.0001"), closed="later"), 0.2)
    assert (lease.closed, lease.slots, lease.requests, lease.cap) == ("key refused: 401", 0, 0, Decimal(0))


def test_a_balance_that_one_worker_was_told_is_told_to_each_other_once() -> None:
    leases = lender()
    for worker in (1, 2, 3):
        leases.join(worker, 0.0)

    def tell(worker: int, balance: str | None) -> Decimal | None:
        return leases.report(worker, proven(balance=None if balance is None else Decimal(balance)), 0.0).balance

    assert [tell(1, "0.5"), tell(1, None), tell(2, None), tell(2, None)] == [None, None, Decimal("0.5"), None]
    assert [tell(3, "0.4"), tell(3, None), tell(1, None)] == [Decimal("0.5"), None, Decimal("0.4")]
    assert [tell(2, None), tell(2, None)] == [Decimal("0.4"), None]


def test_a_silent_worker_is_found_and_what_it_had_is_lent_again() -> None:
    leases = lender(fixed=4, cap=CAP, patience=5.0)
    for worker in (1, 2):
        leases.join(worker, 0.0)
    leases.report(1, proven(cap=Decimal(0), short=Decimal("0.0008")), 0.0)
    assert leases.opened(1, Decimal("0.0003"))
    assert leases.report(2, proven(cap=Decimal(0), short=Decimal("0.0005")), 4.9).cap == 0
    assert leases.find_silent(5.0) == []
    assert leases.find_silent(5.1) == [1]
    leases.leave(1)
    assert (1 in leases, list(leases), leases.in_flight) == (False, [2], 0)
    lease = leases.report(2, proven(cap=Decimal(0), short=Decimal("0.0005")), 5.2)
    assert (lease.cap, lease.slots) == (Decimal("0.0005"), 4)
    leases.forgive(10.0)
    assert leases.find_silent(15.2) == [], "it was the lender that heard nothing"
    # its request had cost less than it could: what it did not take is free at last
    leases.ended(1, Decimal("0.0003"), Decimal("0.0001"))
    assert leases.report(2, proven(cap=Decimal("0.0005"), short=Decimal("0.0009")), 5.3).cap == Decimal("0.0009")


@pytest.mark.parametrize(("workers", "least", "most"), [(1, 0.1, 0.1), (30, 0.1, 0.1), (300, 1.0, 1.0)])
def test_many_workers_report_less_often(workers: int, least: float, most: float) -> None:
    leases = lender()
    for worker in range(workers):
        leases.join(worker, 0.0)
    assert least <= leases.report(0, proven(wanted=0), 0.0).after <= most


def test_who_has_nothing_and_wants_something_reports_soon() -> None:
    leases = lender(fixed=1)
    leases.join(1, 0.0)
    leases.join(2, 0.0)
    assert leases.report(1, proven(), 0.0).after == 0.1
    assert leases.report(2, proven(), 0.0).after == 0.02


def test_a_worker_without_a_slot_hurries_once() -> None:
    hurried: list[int] = []
    limiter = LentLimiter(log=Log(lambda: hurried.append(1)))
    assert not limiter.may_send(0.0, 0)
    assert not limiter.may_send(0.0, 0)
    assert len(hurried) == 1
    limiter.lend(0, 0.0)
    assert not limiter.may_send(0.0, 0)
    assert len(hurried) == 1, "the lender has nothing now"
    limiter.lend(1, 0.0)
    assert (limiter.limit, limiter.may_send(0.0, 0), limiter.may_send(0.0, 1)) == (1, True, False)
    limiter.lend(0, 0.0)
    limiter.lend(1, 0.0)
