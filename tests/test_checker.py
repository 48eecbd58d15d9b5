"""The checker believes a good history, and each of its claims has a history that breaks that claim and no other."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import combinations
from typing import Any

import pytest
from simulation.checker import CLAIMS, check
from simulation.evidence import Evidence
from simulation.history import History, Image, Run, Sent, Shown

from packer.errors import Failure, LedgerError
from packer.events import Level, Statistics
from packer.exchange import Charge, ChargeSource
from packer.items import Item, Result, Status, normalise_text
from packer.ledger import Attempt, AttemptState, Spending
from packer.usage import Usage

TEXTS = ("a", "b", " a", "", "c", "d", "e", "f", "g", "h", "i")
RESERVE = Decimal("0.010")
COST = Decimal("0.002")
CHEAP = Decimal("0.0019")
CAP = Decimal("0.080")
LAST_CAP = Decimal(1)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
FIRST, HELD, LAST = 0, 1, 2  # the runs' places

Change = Callable[[History], History]


def gold(text: str) -> str:
    return f"label {text}"


def key(text: str) -> str:
    return f"key {text}"


def sent(number: int, run: int, at: float, texts: str | tuple[str, ...], fate: str = "right", **changes: Any) -> Sent:
    right = fate == "right"
    made = Sent(
        number=number,
        run=run,
        at=at,
        nonce=f"n{number}",
        texts=tuple(texts),
        max_tokens=100,
        worst=RESERVE,
        billed=COST if right else Decimal(0),
        told=COST if right else None,
        fate=fate,
        arrived={text: gold(text) for text in texts} if right else {},
        honest=True,
    )
    return replace(made, **changes)


def attempt(
    ident: int, job: int, texts: str | tuple[str, ...], state: AttemptState, charge: Charge | None = None
) -> Attempt:
    is_open = state is AttemptState.OPEN
    if state is AttemptState.SETTLED and charge is None:
        charge = Charge(COST, ChargeSource.HEADER)
    if state is AttemptState.FREED:
        charge = Charge(Decimal(0), ChargeSource.FREE)
    return Attempt(
        id=ident,
        job=job,
        job_name="job",
        keys=tuple(map(key, texts)),
        number=1,
        reserve=RESERVE,
        state=state,
        charge=charge,
        usage=None,
        seconds=None if is_open else 1.0,
        outcome="" if is_open else "words",
        opened=NOON,
        closed=None if is_open else NOON,
    )


def spending(attempts: tuple[Attempt, ...]) -> Spending:
    sums = dict.fromkeys(AttemptState, Decimal(0))
    for one in attempts:
        sums[one.state] += one.charge.usd if one.charge else one.reserve or Decimal(0)
    doubtful = [one for one in attempts if one.state is AttemptState.DOUBT]
    return Spending(
        sums[AttemptState.SETTLED],
        sums[AttemptState.DOUBT],
        sums[AttemptState.OPEN],
        doubt_requests=len(doubtful),
        doubt_texts=sum(len(one.keys) for one in doubtful),
    )


def image(attempts: tuple[Attempt, ...], answered: str) -> Image:
    return Image(attempts, {key(text): gold(text) for text in answered}, spending(attempts), ())


def statistics(
    before: Image, after: Image, shown: tuple[Shown, ...], stopped: str | None, seconds: float
) -> Statistics:
    counts = Counter(one.result.status for one in shown)
    old = {one.id for one in before.attempts}
    fresh = [one for one in after.attempts if one.id not in old]
    settled = [one for one in fresh if one.state is AttemptState.SETTLED and one.charge is not None]
    usd = sum((one.charge.usd for one in settled if one.charge), Decimal(0))
    items = len(after.answers) - len(before.answers)
    return Statistics(
        items=len(shown),
        labelled=counts[Status.LABELLED],
        failed=counts[Status.FAILED],
        doubt=counts[Status.DOUBT],
        pending=counts[Status.PENDING],
        known=sum(one.result.known for one in shown),
        packs=len(fresh),
        requests=len(fresh),
        in_flight=0,
        limit=8,
        pack_size=20,
        usage=Usage(0, 0),
        settled=after.spending.settled,
        in_doubt=after.spending.doubt,
        reserved=after.spending.open,
        unpriced=0,
        doubt_requests=after.spending.doubt_requests,
        doubt_texts=after.spending.doubt_texts,
        balance=None,
        charge_sources=dict(Counter(one.charge.source for one in settled if one.charge)),
        levels=(Level(1, 1, len(settled), items, usd, usd / items, 1.0),),
        seconds=seconds,
        stopped=stopped,
        refused_settings=(),
        canaries_asked=0,
        canary_hits=0,
    )


def show(text: str, status: str, sent_before: int, *, known: bool = False) -> Shown:
    label = gold(normalise_text(text)) if status == "labelled" else None
    return Shown(Result(Item(text), Status(status), label, None, "" if label else "words", known), sent_before)


def good() -> History:
    """Three runs: one that is killed, one that holds and is stopped by a refused key, one that ends well.

    The first buys a and b, loses c and d, buys e without being told its price, and dies with a second request for c
    and d in flight. The second has f after a rate limit, loses g, and stops at h. The last labels all that is left.
    """
    states = AttemptState
    e = Charge(RESERVE, ChargeSource.RESERVE)
    killed = (
        attempt(1, 1, "ab", states.SETTLED),
        attempt(2, 1, "cd", states.DOUBT),
        attempt(3, 1, "e", states.SETTLED, e),
        attempt(4, 1, "cd", states.OPEN),
    )
    held = (
        *killed[:3],
        replace(attempt(4, 1, "cd", states.DOUBT), seconds=None),
        attempt(5, 2, "f", states.FREED),
        attempt(6, 2, "f", states.SETTLED),
        attempt(7, 2, "g", states.DOUBT),
        attempt(8, 2, "h", states.FREED),
        attempt(9, 2, "i", states.FREED),
    )
    done = (*held, attempt(10, 3, "cd", states.SETTLED), attempt(11, 3, "ghi", states.SETTLED))
    first = image(killed, "abe")
    second, third = image(held, "abef"), image(done, "abefcdghi")
    shown = (
        (show("a", "labelled", 1), show("b", "labelled", 1), show(" a", "labelled", 1, known=True)),
        (
            *(show(text, "labelled", 4, known=True) for text in ("a", "b", " a")),
            show("", "failed", 4),
            *(show(text, "doubt", 4) for text in "cd"),
            show("e", "labelled", 4, known=True),
            show("f", "labelled", 6),
            show("g", "doubt", 7),
            show("h", "pending", 8),
            show("i", "pending", 8),
        ),
        (
            *(show(text, "labelled", 8, known=True) for text in ("a", "b", " a")),
            show("", "failed", 8),
            *(show(text, "labelled", 9) for text in "cd"),
            *(show(text, "labelled", 9, known=True) for text in "ef"),
            *(show(text, "labelled", 10) for text in "ghi"),
        ),
    )
    stopped = statistics(first, second, shown[1], "key refused", 6.0)
    finished = statistics(second, third, shown[2], None, 3.0)
    return History(
        seed=0,
        texts=TEXTS,
        cap=CAP,
        last_cap=LAST_CAP,
        gold=gold,
        key=key,
        requests=(
            sent(1, 1, 0.0, "ab"),
            sent(2, 1, 2.0, "cd", Failure.LOST, billed=COST),
            sent(3, 1, 2.0, "e", told=None),
            sent(4, 1, 4.0, "cd"),
            sent(5, 2, 0.0, "f", Failure.RATE_LIMITED),
            sent(6, 2, 2.0, "f"),
            sent(7, 2, 3.0, "g", Failure.OVERLOADED),
            sent(8, 2, 5.0, "h", Failure.KEY_REFUSED),
            sent(9, 3, 0.0, "cd"),
            sent(10, 3, 2.0, "ghi"),
        ),
        runs=(
            Run(1, "reply: here, nothing booked", False, range(1, 5), shown[0], None, None, None, first, 5.0),
            Run(2, None, True, range(5, 9), shown[1], stopped, None, first, second, 6.0),
            Run(3, None, False, range(9, 11), shown[2], finished, None, second, third, 3.0),
        ),
    )


# How a history is changed. What follows from the attempts (sums, statistics) follows; nothing else does.


def request(number: int, **changes: Any) -> Change:
    def change(history: History) -> History:
        requests = tuple(replace(one, **changes) if one.number == number else one for one in history.requests)
        return replace(history, requests=requests)

    return change


def run(place: int, **changes: Any) -> Change:
    def change(history: History) -> History:
        runs = list(history.runs)
        runs[place] = replace(runs[place], **changes)
        return replace(history, runs=tuple(runs))

    return change


def result(place: int, text: str, **changes: Any) -> Change:
    """Every copy that is shown as `text` stands in the input."""

    def change(history: History) -> History:
        shown = tuple(
            replace(one, result=replace(one.result, **changes)) if one.result.item.text == text else one
            for one in history.runs[place].shown
        )
        return follow(run(place, shown=shown)(history))

    return change


def told(place: int, **changes: Any) -> Change:
    """The statistics of a run say something else."""

    def change(history: History) -> History:
        before = history.runs[place].statistics
        assert before is not None
        return run(place, statistics=replace(before, **changes))(history)

    return change


def images(change_one: Callable[[Image, int], Image]) -> Change:
    """Change every image; the number counts them: 0 after the first run, 1 before the second, and so on."""

    def change(history: History) -> History:
        runs = []
        for place, one in enumerate(history.runs):
            before = None if one.before is None else change_one(one.before, 2 * place - 1)
            runs.append(replace(one, before=before, after=change_one(one.after, 2 * place)))
        return follow(replace(history, runs=tuple(runs)))

    return change


def booked(ident: int, *, since: int = 0, until: int = 9, **changes: Any) -> Change:
    """An attempt stands differently in the images `since` to `until`."""

    def change_one(one: Image, number: int) -> Image:
        if not since <= number <= until:
            return one
        attempts = tuple(replace(a, **changes) if a.id == ident else a for a in one.attempts)
        return replace(one, attempts=attempts)

    return images(change_one)


def written(ident: int, *, since: int = 0, until: int = 9) -> Change:
    """An attempt does not stand in the images `since` to `until`."""

    def change_one(one: Image, number: int) -> Image:
        if not since <= number <= until:
            return one
        return replace(one, attempts=tuple(a for a in one.attempts if a.id != ident))

    return images(change_one)


def answers(since: int, until: int = 9, **changes: str | None) -> Change:
    """The answers of some texts stand differently (None: not at all) in the images `since` to `until`."""

    def change_one(one: Image, number: int) -> Image:
        if not since <= number <= until:
            return one
        merged: Mapping[str, object] = {**one.answers, **{key(text): value for text, value in changes.items()}}
        return replace(one, answers={key: value for key, value in merged.items() if value is not None})

    return images(change_one)


def follow(history: History) -> History:
    """Let sums and statistics follow from the attempts, the answers and the results."""
    runs = []
    for one in history.runs:
        before = None if one.before is None else replace(one.before, spending=spending(one.before.attempts))
        after = replace(one.after, spending=spending(one.after.attempts))
        said = one.statistics
        if said is not None:
            assert before is not None
            said = statistics(before, after, one.shown, said.stopped, said.seconds)
        runs.append(replace(one, before=before, after=after, statistics=said))
    return replace(history, runs=tuple(runs))


def add(place: int, asked: Sent, state: AttemptState = AttemptState.FREED, **changes: Any) -> Change:
    """One more request at the end of a run, with its attempt."""

    def change(history: History) -> History:
        old = history.runs[place]
        number, ident = old.sent.stop, 90 + old.sent.stop
        requests = [replace(one, number=one.number + (one.number >= number)) for one in history.requests]
        requests.insert(number - 1, replace(asked, number=number, run=old.number))
        made = replace(attempt(ident, old.number, asked.texts, state), **changes)

        def change_one(one: Image, taken: int) -> Image:
            return replace(one, attempts=(*one.attempts, made)) if taken >= 2 * place else one

        runs = []
        for at, one in enumerate(history.runs):
            later = at > place
            shown = tuple(replace(s, sent_before=s.sent_before + 1) for s in one.shown) if later else one.shown
            stop = one.sent.stop + (at >= place)
            runs.append(
                replace(one, shown=shown, sent=range(one.sent.start + later, stop), seconds=max(one.seconds, asked.at))
            )
        return images(change_one)(replace(history, requests=tuple(requests), runs=tuple(runs)))

    return change


def all_of(*changes: Change) -> Change:
    def change(history: History) -> History:
        for one in changes:
            history = one(history)
        return history

    return change


LOST, LIMITED = Failure.LOST, Failure.RATE_LIMITED
SETTLED, DOUBT, FREED, OPEN = AttemptState.SETTLED, AttemptState.DOUBT, AttemptState.FREED, AttemptState.OPEN
UNTOLD = Charge(RESERVE, ChargeSource.RESERVE)


def times(count: int, change: Callable[[int], Change]) -> Change:
    return all_of(*(change(number) for number in range(count)))


def swapped(history: History) -> History:
    first, second, *rest = history.runs[HELD].shown
    return run(HELD, shown=(second, first, *rest))(history)


def dropped(history: History) -> History:
    return follow(run(HELD, shown=history.runs[HELD].shown[:-1])(history))


def backwards(history: History) -> History:
    shown = history.runs[HELD].shown
    return run(HELD, shown=(*shown[:-1], replace(shown[-1], sent_before=7)))(history)


def doubted_under_retry(history: History) -> History:
    shown = history.runs[FIRST].shown
    return run(FIRST, shown=(*shown, show("", "failed", 4), show("c", "doubt", 4)))(history)


def levels(**changes: Any) -> Change:
    def change(history: History) -> History:
        said = history.runs[LAST].statistics
        assert said is not None
        return told(LAST, levels=(replace(said.levels[0], **changes),))(history)

    return change


def levels_twice(history: History) -> History:
    said = history.runs[LAST].statistics
    assert said is not None
    return told(LAST, levels=(*said.levels, Level(1, 1, 0, 0, Decimal(0), None, None)))(history)


def unanswered(*packs: str, fate: str = LIMITED, told: Decimal | None = None) -> Change:
    """The first run asks for packs in vain before it dies."""
    state = FREED if told is None else SETTLED
    billed = told or Decimal(0)
    return all_of(*(add(FIRST, sent(0, 1, 5.0, pack, fate, told=told, billed=billed), state) for pack in packs))


def late(history: History) -> History:
    """The second run shows nothing from e on before its last request has left."""
    shown = history.runs[HELD].shown
    last = history.runs[HELD].sent[-1]
    return run(HELD, shown=(*shown[:6], *(replace(one, sent_before=last) for one in shown[6:])))(history)


def dead_early(history: History) -> History:
    """The second run dies before it shows e."""
    shown = history.runs[HELD].shown[:6]
    return run(HELD, died_at="verdict: applied", shown=shown, statistics=None)(history)


def broken_early(history: History) -> History:
    """The second run ends with an error before it shows e, with an attempt open; its statistics are of no account."""
    shown = history.runs[HELD].shown[:6]
    opened = all_of(booked(9, until=3, state=OPEN, charge=None), booked(9, since=4, state=DOUBT, charge=None))
    changed = opened(history)
    said = changed.runs[HELD].statistics
    assert said is not None
    wrong = replace(said, requests=0, charge_sources={}, levels=(), settled=OVER, seconds=99.0)
    return run(HELD, error=LedgerError("labels.db", "words"), shown=shown, statistics=wrong)(changed)


def stillborn(history: History) -> History:
    """Between the first two runs one more begins, and dies before it has changed anything."""
    first, *others = history.runs
    disk = first.after
    dead = Run(9, "commit: written, not durable", False, range(5, 5), (), None, None, disk, disk, 0.0)
    return replace(history, runs=(first, dead, *others))


def sums_of(place: int, **changes: Any) -> Change:
    def change(history: History) -> History:
        after = history.runs[place].after
        return run(place, after=replace(after, spending=replace(after.spending, **changes)))(history)

    return change


def problems(history: History) -> History:
    after = history.runs[FIRST].after
    return run(FIRST, after=replace(after, problems=("attempt 1: rotten",)))(history)


IN_TWO_PACKS = [*["f"] * 8, *["fg"] * 9]
# f stands in nine packs; then 21 packs, of which none of their texts stands in more than six
NINE_OF_F = ["f", "fg", "fh", "fi", "fgh", "fgi", "fhi", "fghi", "fc"]
MANY = [*"cdfghi", *map("".join, combinations("cdfghi", 2))]
OVER = Decimal("0.02")
overcharged = all_of(
    request(6, told=OVER, billed=OVER, honest=False), booked(6, charge=Charge(OVER, ChargeSource.HEADER))
)


def wrong_gold(history: History) -> History:
    return replace(history, gold=lambda text: "another" if text == "f" else gold(text))


SHOWN = "law 3: what was shown as labelled is not sent"
# What was shown is in the ledger too, so that asking for it breaks another claim: the screen's word for the ledger's
IMPLIED = {SHOWN: {"law 3: what a run has bought it does not buy again"}}
LABELLED = "last: every text that can be labelled is labelled"
EXAMPLES: list[tuple[str, Change]] = [
    ("record: requests are numbered through all runs", request(6, run=1)),
    ("record: requests are numbered through all runs", run(HELD, statistics=None)),
    (
        "record: a run ends by itself, by a kill, or because the ledger cannot be used",
        run(HELD, error=RuntimeError("everybody waits")),
    ),
    ("record: requests are numbered through all runs", run(LAST, sent=range(9, 12))),
    ("record: requests leave and results come in the order of time", request(6, at=-1.0)),
    ("record: requests leave and results come in the order of time", backwards),
    ("law 1: each text is shown once, in the input's order", swapped),
    ("law 1: each text is shown once, in the input's order", dropped),
    ("law 1: what is labelled has a label, anything else a reason", result(HELD, "h", error="")),
    ("law 1: what is labelled has a label, anything else a reason", result(LAST, "h", error="words")),
    ("law 1: what is labelled has a label, anything else a reason", result(LAST, "h", label=None)),
    *(
        ("law 1: the statistics count what was shown", told(HELD, **{name: 77}))
        for name in ("items", "labelled", "failed", "doubt", "pending", "known")
    ),
    ("law 1: an empty text fails and is never sent", result(HELD, "", status=Status.PENDING)),
    (
        "law 1: an empty text fails and is never sent",
        add(HELD, sent(0, 2, 5.5, ("",), LIMITED)),
    ),
    (
        "law 1: copies of a text end alike",
        result(HELD, " a", status=Status.PENDING, label=None, error="words", known=False),
    ),
    ("law 1: a text is pending only where the job stopped", told(HELD, stopped=None)),
    ("law 2: a label is the right one", wrong_gold),
    ("law 2: no label comes out of nothing", request(6, arrived={})),
    ("law 2: a request asks for texts of the job, each once", add(HELD, sent(0, 2, 5.5, "z", LIMITED))),
    ("law 2: a request asks for texts of the job, each once", add(HELD, sent(0, 2, 5.5, "hh", LIMITED))),
    ("law 3: an answer that was committed stays", all_of(dead_early, answers(1, 1, e=None))),
    (
        "law 3: a label is committed before it is shown",
        all_of(request(10, told=None), booked(11, state=DOUBT, charge=None), answers(4, g=None, h=None, i=None)),
    ),
    (
        "law 3: an answer is committed with its charge",
        all_of(request(6, told=None), booked(6, state=DOUBT, charge=None)),
    ),
    ("law 3: an answer whose request was booked is kept", answers(0, 0, e=None)),
    (
        "law 3: what had an answer when the run began is not sent",
        all_of(add(HELD, sent(0, 2, 5.5, "e", LIMITED)), late),
    ),
    ("law 3: what is shown as known was known", result(LAST, "f", known=False)),
    ("law 3: what is shown as known was known", result(LAST, "g", known=True)),
    ("law 3: what is shown as known was known", result(LAST, " a", known=False)),
    (SHOWN, add(FIRST, sent(0, 1, 5.0, "b", LIMITED))),
    ("law 3: what a run has bought it does not buy again", add(FIRST, sent(0, 1, 5.0, "e", LIMITED))),
    ("law 4: what is billed stays under the cap", all_of(request(9, worst=Decimal(2)), booked(10, reserve=Decimal(2)))),
    ("law 4: what is booked stays under the cap", lambda history: replace(history, cap=Decimal("0.031"))),
    ("law 4: a request is written down with its worst cost before it leaves", written(4)),
    ("law 4: a request is written down with its worst cost before it leaves", request(6, worst=Decimal("0.0101"))),
    ("law 4: a charge that was told is booked exactly", request(6, told=Decimal("0.0021"))),
    (
        "law 4: a charge that was told is booked exactly",
        booked(6, charge=Charge(CHEAP, ChargeSource.HEADER)),
    ),
    ("law 4: a reply that was lost stays booked at its reserve", booked(2, state=FREED)),
    ("law 4: a reply that was lost stays booked at its reserve", booked(2, state=SETTLED, charge=UNTOLD)),
    ("law 4: unknown is never zero", booked(3, charge=Charge(CHEAP, ChargeSource.PRICE))),
    ("law 4: a reserve is freed only where nothing was billed", request(5, billed=COST)),
    ("law 4: a reserve is freed only where nothing was billed", request(5, fate="malformed")),
    ("law 4: nothing is charged that was not sent", booked(9, state=SETTLED, charge=UNTOLD)),
    (
        "law 4: the true bill lies within what is booked",
        all_of(overcharged, request(8, at=3.5), request(10, billed=Decimal("0.038"))),
    ),
    ("law 4: the true bill lies within what is booked", request(10, billed=Decimal("0.5"))),
    ("law 4: the true bill lies within what is booked", times(4, lambda n: request(n + 1, billed=Decimal(0)))),
    *(
        ("law 4: the ledger's sums are those of its attempts", sums_of(FIRST, **{name: value}))
        for name, value in {"settled": COST, "doubt": COST, "open": COST, "doubt_requests": 7, "doubt_texts": 7}.items()
    ),
    *(
        ("law 4: the statistics' sums are the ledger's", told(LAST, **{name: 77}))
        for name in ("settled", "in_doubt", "reserved", "doubt_requests", "doubt_texts", "unpriced", "in_flight")
    ),
    ("hold: what was in doubt is not sent", add(HELD, sent(0, 2, 5.5, "c", LIMITED))),
    ("hold: what comes into doubt is not sent again", add(HELD, sent(0, 2, 5.5, "g", LIMITED))),
    ("hold: what is in doubt is shown so", result(HELD, "c", status=Status.PENDING)),
    ("hold: what is in doubt is shown so", result(HELD, "g", status=Status.FAILED)),
    ("hold: only what is in doubt is shown so", result(HELD, "h", status=Status.DOUBT)),
    ("law 6: nothing leaves after a fatal refusal", add(HELD, sent(0, 2, 7.5, "i", LIMITED))),
    ("hold: only what is in doubt is shown so", doubted_under_retry),
    ("law 5: one pack costs a bounded number of requests", unanswered(*["f"] * 61)),
    ("law 5: one pack costs a bounded number of requests", unanswered(*["f"] * 9, fate="malformed", told=COST)),
    ("law 5: one pack costs a bounded number of requests", unanswered(*["f"] * 7, fate="shifted", told=COST)),
    ("law 5: one text costs a bounded number of requests", unanswered(*IN_TWO_PACKS, fate=Failure.SETTING_REFUSED)),
    ("law 5: one text costs a bounded number of requests", unanswered(*NINE_OF_F)),
    ("law 5: one run costs a bounded number of requests", unanswered(*MANY)),
    (
        "law 6: nothing leaves after a charge over its reserve",
        overcharged,
    ),
    ("ledger: it has no problems", problems),
    (
        "ledger: an ended run leaves no attempt open",
        all_of(booked(9, until=3, state=OPEN, charge=None), booked(9, since=4, state=DOUBT, charge=None)),
    ),
    ("ledger: what was open is in doubt, with its reserve", booked(4, since=2, state=SETTLED, charge=UNTOLD)),
    ("ledger: what was open is in doubt, with its reserve", booked(4, since=2, state=FREED)),
    (
        "ledger: what was open is in doubt, with its reserve",
        all_of(booked(4, since=2, until=3, state=OPEN), run(HELD, died_at="job: ended", statistics=None)),
    ),
    ("ledger: an attempt stays as it was closed", booked(1, since=3, charge=Charge(CHEAP, ChargeSource.HEADER))),
    ("ledger: an attempt stays as it was closed", booked(2, since=3, reserve=Decimal("0.0099"))),
    ("ledger: an attempt stays as it was closed", booked(2, since=2, state=FREED)),
    ("ledger: an attempt stays as it was closed", booked(4, since=1, state=DOUBT)),
    ("ledger: an attempt stays as it was closed", written(5, since=3)),
    (LABELLED, result(LAST, "i", status=Status.FAILED, label=None, error="words")),
    (LABELLED, told(LAST, stopped="words")),
    (LABELLED, run(LAST, died_at="job: ended", statistics=None)),
    (LABELLED, run(LAST, error=LedgerError("labels.db", "words"))),
    ("statistics: requests are the run's attempts", told(HELD, requests=3)),
    ("statistics: requests are the run's attempts", told(HELD, requests=6)),
    ("statistics: charge sources are those of the run's attempts", told(HELD, charge_sources={})),
    ("statistics: levels add up", levels(items=6, usd=None, usd_an_item=None)),
    ("statistics: levels add up", levels(requests=3)),
    ("statistics: levels add up", levels(usd=Decimal("0.005"), usd_an_item=Decimal("0.001"))),
    ("statistics: levels add up", levels(usd_an_item=Decimal("0.001"))),
    ("statistics: levels add up", levels_twice),
    ("clock: a run ends in time", run(LAST, seconds=15_000.0)),
    ("clock: a run ends in time", run(LAST, seconds=2.5)),
    ("clock: a run ends in time", request(4, at=5.5)),
    ("clock: silence ends a run", all_of(request(8, at=20_000.0), run(HELD, seconds=20_001.0))),
]


# What is allowed, and close to what is not
HARMLESS: dict[str, Change] = {
    "a job without a cap": lambda history: replace(history, cap=None, last_cap=None),
    "a text of its own fault fails in the last run": result(
        LAST, "i", status=Status.FAILED, label=None, error="too long: about 9 tokens, and a request has room for 8"
    ),
    "a charge over its reserve while another request is in flight": all_of(overcharged, request(8, at=3.5)),
    "a dishonest charge that nobody was told": request(4, told=None, billed=OVER, honest=False),
    "a charge that is no amount": request(3, told=Decimal("NaN")),
    "a run that ends with an error": broken_early,
    "a text in doubt that a run without hold does not reach": all_of(
        run(HELD, hold=False), *(result(HELD, text, status=Status.PENDING) for text in "cdg")
    ),
    "a pack that is rate limited as often as is borne": unanswered(*["f"] * 60),
    "requests in flight when the key is refused": add(HELD, sent(0, 2, 6.5, "i", LIMITED)),
    "a process that dies while it opens the ledger": stillborn,
}


# The states of one pack's attempts in their order, the fates of its requests, and which attempts are theirs
MATCHES: list[tuple[list[AttemptState], list[Sent], list[int]]] = [
    ([FREED, OPEN], [sent(1, 1, 0.0, "a")], [2]),
    ([FREED, SETTLED], [sent(1, 1, 0.0, "a")], [2]),
    ([FREED, DOUBT], [sent(1, 1, 0.0, "a", LOST)], [2]),
    ([FREED, DOUBT], [sent(1, 1, 0.0, "a", "a fate that nobody knows")], [2]),
    ([DOUBT, FREED], [sent(1, 1, 0.0, "a", LIMITED)], [2]),
    ([DOUBT, OPEN], [sent(1, 1, 0.0, "a", LOST)], [1]),
    ([DOUBT, SETTLED], [sent(1, 1, 0.0, "a", told=None)], [2]),
    ([DOUBT, SETTLED], [sent(1, 1, 0.0, "a", LOST, told=COST)], [2]),
    ([FREED, FREED, SETTLED], [sent(1, 1, 0.0, "a", LIMITED), sent(2, 1, 1.0, "a")], [1, 3]),
    ([FREED, SETTLED, FREED], [sent(1, 1, 0.0, "a"), sent(2, 1, 1.0, "a", LIMITED)], [2, 3]),
    ([SETTLED], [sent(1, 1, 0.0, "a"), sent(2, 1, 1.0, "a")], [1]),
]


def complaints(history: History) -> set[str]:
    sentences = check(history)
    return {name for name in CLAIMS if any(sentence.startswith(f"{name}: ") for sentence in sentences)}


def test_a_good_history_passes() -> None:
    assert check(good()) == []


def test_every_claim_has_a_history_that_breaks_it() -> None:
    assert {name for name, _ in EXAMPLES} == set(CLAIMS)


@pytest.mark.parametrize(("name", "change"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_what_breaks_a_claim_breaks_no_other(name: str, change: Change) -> None:
    history = change(good())
    assert complaints(history) == {name} | IMPLIED.get(name, set()), check(history)


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_is_allowed_breaks_no_claim(change: Change) -> None:
    assert check(change(good())) == []


@pytest.mark.parametrize(("states", "requests", "wanted"), MATCHES)
def test_attempts_whose_requests_never_arrived_are_told_from_those_that_did(
    states: list[AttemptState], requests: list[Sent], wanted: list[int]
) -> None:
    after = image(tuple(attempt(ident, 1, "a", state) for ident, state in enumerate(states, 1)), "")
    only = Run(1, "intent: durable, nothing sent", False, range(1, 9), (), None, None, None, after, 9.0)
    evidence = Evidence(replace(good(), requests=tuple(requests), runs=(only,)))
    assert [one.id for _, one in evidence.written(only)] == wanted
    assert len(evidence.unsent(only)) == len(states) - len(wanted)
