"""Every fault of the gateway by its name, met by the real command: what it comes to, what it costs, what is left."""

import asyncio
import itertools
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import pytest
from faulty_jobs import IN_FLIGHT, KEY, PACK, PACKS, SPEED, TEXTS, Ran, Rehearsal, rehearsing
from gateway.accounts import Account
from gateway.faults import FAULTS
from gateway.scripts import always, at, between, no_fault
from gateway_server import untrusted_tls

import packer.wire
from packer.ledger import AttemptState

Rehearse: TypeAlias = Callable[..., AbstractContextManager[Rehearsal]]


class Booked(StrEnum):
    """What is booked for a request that met the fault."""

    FREED = "nothing: it was refused before any work"
    DOUBT = "its reserve, in doubt: nobody knows whether it was billed"
    TOLD = "the charge that the header told"
    RESERVE = "its reserve, as spent: it was answered, and its charge was not told"
    PRICE = "usage x price: this gateway never tells a charge"


@dataclass(frozen=True)
class Ends:
    """How a job ends: its exit code, in which states its items may be, after how many requests at most, and why."""

    code: int
    states: str
    most: int
    booked: Booked
    stop: str = ""


@dataclass(frozen=True)
class Row:
    """The row of the reference, under its own words, and the end of a job that meets it once, or always.

    `always` None: for ever, it is nearly an hour of waits, or an end by chance; a test of its own says what holds.
    """

    words: str
    once: Ends
    always: Ends | None
    once_deadline: float = 20.0  # real seconds
    always_deadline: float = 20.0


def resent(booked: Booked) -> Ends:
    """Asked once more; the job does not notice."""
    return Ends(0, "labelled", PACKS + 1, booked)


def stopped(booked: Booked, most: int, words: str) -> Ends:
    """Nothing but the fault was met, and the job gave in."""
    return Ends(4, "pending", most, booked, words)


def unnoticed(booked: Booked) -> Ends:
    """No request more than without the fault."""
    return Ends(0, "labelled", PACKS, booked)


RATE = "429 with seconds / HTTP-date / nothing"
QUOTA = "429 insufficient_quota, 402"
REFUSED_KEY = "401/403, even in mid-job"
BAD = "400/404/413/422"
CONFLICT = "408/409"
SERVER = "500/502/503/504/529"
NO_COMPLETION = "200 with an error body, empty `choices`, HTML"
RESET = "reset while sending, EOF before headers"
CUT = "cut after headers"
SLOW = "hang, slow-loris"
GARBLED = "wrong content-length, bad or truncated gzip, bomb"
STALE = "stale or duplicated response"
MONEY = "usage missing or stale; charge header missing, NaN, negative, twice, over the reserve"
BALANCE = "balance jumps"
LOAD = "concurrency cliff, brownout, latency spike, reordering"
REDIRECT = "redirect"
# not of the gateway's table: what a reply may hold, from "Reading an answer"
ANSWER = "sound rows are kept, the rest is asked again in smaller packs"

F, D, T, R, P = Booked.FREED, Booked.DOUBT, Booked.TOLD, Booked.RESERVE, Booked.PRICE
LATE = "rate limited 60 times without an answer"
SAME = "the same refusal 3 times and nothing accepted"
FIVE, EIGHT = "5 requests in a row failed", "8 requests in a row failed"
TWO = "2 replies in a row were no chat completions"

rate_limited = partial(Row, RATE, resent(F), stopped(F, 60, LATE))
at_once = partial(Ends, 4, "labelled pending", 8, F)
# one more where a pack was split; an answer without a sound row makes the next packs smaller too
split = Ends(0, "labelled", PACKS + 2, F)
asked_in_parts = Ends(0, "labelled", 2 * PACKS + 4, T)
# two answers to a single fail it; three more may be in flight when the tenth ends the job
no_use = Ends(4, "failed pending", 13, T, "10 answers in a row had no usable row")
useless = Row(ANSWER, asked_in_parts, no_use)
resent_charged = Row(CUT, resent(T), stopped(T, 5, FIVE))
over = partial(Ends, 4, "labelled pending", booked=T, stop="over its worst case")

TABLE: dict[str, Row] = {
    "rate-limited-seconds": rate_limited(),
    "rate-limited-date": rate_limited(),
    "rate-limited-silent": Row(RATE, resent(F), None),
    "insufficient-quota": Row(QUOTA, at_once("quota: "), stopped(F, 1, "quota: ")),
    "no-balance": Row(QUOTA, at_once("quota: "), stopped(F, 1, "quota: ")),
    "key-refused": Row(REFUSED_KEY, at_once("key refused: "), stopped(F, 1, "key refused: ")),
    "forbidden": Row(REFUSED_KEY, at_once("key refused: "), stopped(F, 1, "key refused: ")),
    "bad-request": Row(BAD, split, stopped(F, 3, SAME)),
    "not-found": Row(BAD, split, stopped(F, 3, SAME)),
    "too-large": Row(BAD, split, stopped(F, 3, SAME)),
    "unprocessable": Row(BAD, split, stopped(F, 3, SAME)),
    "echo-key": Row(BAD, split, stopped(F, 3, f"{SAME}: HTTP 400: bad header Bearer [key]")),
    "poison": Row(BAD, split, Ends(3, "labelled failed", PACKS + 6, F)),
    "error-408": Row(CONFLICT, resent(D), stopped(D, 5, FIVE)),
    "error-409": Row(CONFLICT, resent(D), stopped(D, 5, FIVE)),
    "error-500": Row(SERVER, resent(D), stopped(D, 8, EIGHT)),
    "error-502": Row(SERVER, resent(D), stopped(D, 8, EIGHT)),
    "error-503": Row(SERVER, resent(D), stopped(D, 8, EIGHT)),
    "error-504": Row(SERVER, resent(D), stopped(D, 8, EIGHT)),
    "error-529": Row(SERVER, resent(D), stopped(D, 8, EIGHT)),
    # by its inner code, which is that of a 500
    "ok-error-body": Row(NO_COMPLETION, resent(D), stopped(D, 8, EIGHT)),
    "ok-empty-choices": Row(NO_COMPLETION, resent(T), stopped(T, 2, TWO)),
    "ok-html": Row(NO_COMPLETION, resent(R), stopped(R, 2, TWO)),
    "reset-before-headers": Row(RESET, resent(D), stopped(D, 5, FIVE)),
    "eof-before-headers": Row(RESET, resent(D), stopped(D, 5, FIVE)),
    "cut-after-headers": resent_charged,
    "cut-unannounced": resent_charged,
    "hang": Row(SLOW, resent(D), stopped(D, 5, FIVE), once_deadline=1.0, always_deadline=0.3),
    # its headers came, and a charge that was told is in no doubt
    "slow-loris": Row(SLOW, resent(T), stopped(T, 5, FIVE), once_deadline=1.0, always_deadline=0.3),
    "wrong-length-long": Row(GARBLED, resent(T), stopped(T, 5, FIVE)),
    # aiohttp gives out no header of a reply that goes on after its end: more is booked than was taken
    "wrong-length-short": Row(GARBLED, resent(R), stopped(R, 2, TWO)),
    "bad-gzip": Row(GARBLED, resent(T), stopped(T, 2, TWO)),
    "cut-gzip": Row(GARBLED, resent(T), stopped(T, 5, FIVE)),
    "gzip-bomb": Row(GARBLED, resent(T), stopped(T, 2, TWO)),
    "stale-reply": Row(STALE, asked_in_parts, no_use),
    "duplicate-reply": Row(STALE, unnoticed(T), unnoticed(T)),
    "usage-missing": Row(MONEY, unnoticed(T), unnoticed(T)),
    "usage-stale": Row(MONEY, unnoticed(T), unnoticed(T)),
    "charge-missing": Row(MONEY, unnoticed(R), unnoticed(P)),
    "charge-nan": Row(MONEY, unnoticed(R), unnoticed(R)),
    "charge-negative": Row(MONEY, unnoticed(R), unnoticed(R)),
    "charge-twice": Row(MONEY, unnoticed(R), unnoticed(R)),
    "charge-over-reserve": Row(MONEY, over(8), over(1)),
    # always is no jump: two low readings in a row are a low balance
    "balance-jump": Row(BALANCE, unnoticed(T), Ends(4, "labelled pending", 8, T, "balance: ")),
    "redirect": Row(REDIRECT, at_once("untrusted: HTTP 307: a redirect, never followed"), stopped(F, 1, "a redirect")),
    "latency-spike": Row(LOAD, unnoticed(T), unnoticed(T)),
    "reorder": Row(LOAD, unnoticed(T), unnoticed(T)),
    "brownout": Row(LOAD, resent(D), None),
    "truncated": Row(ANSWER, asked_in_parts, Ends(4, "labelled failed pending", 40, T, "30 answers in a row")),
    "content-filter": useless,
    "shifted-numbers": useless,
    "foreign-nonce": useless,
    "lost-row": useless,
    "prose": useless,
    "unknown-label": Row(ANSWER, Ends(0, "labelled", PACKS + 1, T), Ends(3, "labelled failed", 2 * len(TEXTS), T)),
    "duplicate-row": Row(ANSWER, unnoticed(T), unnoticed(T)),
}
POISONED = [*TEXTS[:7], f"{TEXTS[7]} POISON", *TEXTS[8:]]


@pytest.fixture
def rehearse(
    in_folder: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> Rehearse:
    return partial(rehearsing, folder=in_folder, capsys=capsys, caplog=caplog, monkeypatch=monkeypatch)


def check_end(ran: Ran, ends: Ends) -> None:
    assert ran.code == ends.code
    assert set(ran.statuses) <= set(ends.states.split())
    assert len(ran.records) <= ends.most
    assert ends.stop in ran.stopped
    assert bool(ends.stop) == bool(ran.stopped)


def check_booking(ran: Ran, name: str, booked: Booked) -> None:
    """Of the first run: what met the fault is booked so, and nothing else is booked otherwise than as told."""
    faulty = [record for record in ran.records if record.fault == name]
    vain = [record for record in faulty if not record.arrived]
    unsent = sum(ran.ledger.attempts.values()) - len(ran.records)  # withdrawn, because the job stopped
    assert ran.attempts(AttemptState.FREED) == unsent + (len(vain) if booked is Booked.FREED else 0)
    assert ran.attempts(AttemptState.DOUBT) == (len(vain) if booked is Booked.DOUBT else 0)
    others = {Booked.RESERVE: "reserve", Booked.PRICE: "price"}
    told = ran.attempts(AttemptState.SETTLED) - (len(faulty) if booked in others else 0)
    assert ran.sources == {k: v for k, v in [("header", told), (others.get(booked), len(faulty))] if k and v}
    known = sum(record.billed for record in ran.records if booked is not Booked.DOUBT or record not in vain)
    settled = ran.ledger.spending.settled
    assert settled > known if booked is Booked.RESERVE and faulty else settled == known + 0


def check_again(job: Rehearsal, first: Ran) -> None:
    """The same command, where all is well, labels the rest; what was labelled is not bought again."""
    job.mend()
    again = job.run()
    assert (again.code, again.statuses) == (0, {"labelled": len(job.texts)})
    labelled = {row["text"] for row in first.rows if row["status"] == "labelled"}
    assert not labelled & {text for record in again.records for text in record.texts}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_mid_job(name: str, rehearse: Rehearse) -> None:
    row = TABLE[name]
    texts = POISONED if name == "poison" else TEXTS
    with rehearse(at({3: name}), texts=texts, deadline=row.once_deadline) as job:
        ran = job.run()
        assert [record.number for record in ran.records if record.fault] == [3]
        check_end(ran, row.once)
        check_booking(ran, name, row.once.booked)
        check_again(job, ran)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.always is not None])
def test_a_fault_for_ever(name: str, rehearse: Rehearse) -> None:
    row = TABLE[name]
    assert row.always is not None
    texts = POISONED if name == "poison" else TEXTS
    with rehearse(always(name), texts=texts, deadline=row.always_deadline) as job:
        ran = job.run()
        assert {record.fault for record in ran.records} == {name}
        check_end(ran, row.always)
        check_booking(ran, name, row.always.booked)
        check_again(job, ran)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.once.booked is Booked.DOUBT])
def test_on_doubt_hold_a_fault_parks_its_items_and_buys_them_only_when_told(name: str, rehearse: Rehearse) -> None:
    with rehearse(at({3: name}), deadline=TABLE[name].once_deadline) as job:
        ran = job.run("--on-doubt", "hold")
        assert ran.statuses == {"labelled": len(TEXTS) - PACK, "doubt": PACK}
        assert len(ran.records) == PACKS
        check_booking(ran, name, Booked.DOUBT)
        job.mend()
        held = job.run("--on-doubt", "hold")
        assert (held.statuses, held.records) == (ran.statuses, [])
        check_again(job, held)


# 429


@pytest.mark.parametrize("form", ["seconds", "date", "silent"])
def test_a_rate_limit_in_whatever_form_uses_no_attempt_up(form: str, rehearse: Rehearse) -> None:
    with rehearse(between(2, 13, f"rate-limited-{form}"), speed=2 * SPEED) as job:
        ran = job.run("--concurrency", "1")
        assert (ran.code, len(ran.records)) == (0, PACKS + 12)
        assert f"pack of {PACK}, attempt 13: {PACK} of {PACK} answers" in ran.said
        check_booking(ran, f"rate-limited-{form}", Booked.FREED)


@pytest.mark.parametrize("form", ["seconds", "date", "ms", "nothing"])
def test_a_gateway_with_one_slot_refuses_the_rest_and_every_item_is_labelled(form: str, rehearse: Rehearse) -> None:
    with rehearse(no_fault, slots=1, retry_after=form) as job:
        ran = job.run()
        refused = [record for record in ran.records if record.status == 429]
        assert (ran.code, len(ran.records)) == (0, PACKS + len(refused))
        assert refused
        assert ran.attempts(AttemptState.FREED) == len(refused)


def test_a_rate_limit_pauses_the_whole_key(rehearse: Rehearse) -> None:
    with rehearse(at({3: "rate-limited-seconds"}), speed=5.0) as job:
        # what was in flight, and what took its place before the refusal came, arrives before the pause
        assert max(waits_of(job.run())[: 3 + IN_FLIGHT]) >= 1 / job.speed


def waits_of(ran: Ran) -> list[float]:
    """The real seconds between two requests that reached the gateway."""
    arrivals = sorted(record.at for record in ran.records)
    return [after - before for before, after in pairwise(arrivals)]


# 401 in mid-job; money


def test_a_key_that_is_revoked_in_mid_job_ends_it_with_no_more_than_what_was_in_flight(rehearse: Rehearse) -> None:
    with rehearse(no_fault, account=Account("rehearsal", KEY, revoked_from=6)) as job:
        ran = job.run()
        assert (ran.code, ran.stopped[:13]) == (4, "key refused: ")
        assert min(record.number for record in ran.records if record.status == 401) == 6
        assert len(ran.records) <= 6 + IN_FLIGHT - 1
        job.gateway.accounts[0].revoked_from = None
        check_again(job, ran)


def test_a_low_balance_stops_the_job_before_the_402_does(rehearse: Rehearse) -> None:
    with rehearse(no_fault, account=Account("rehearsal", KEY, Decimal("0.0005"))) as job:
        ran = job.run()
        assert (ran.code, ran.stopped[:9]) == (4, "balance: ")
        assert {record.status for record in ran.records} == {200}
        assert ran.statuses["labelled"] > len(TEXTS) / 2
        job.gateway.accounts[0].balance += 1
        check_again(job, ran)


def test_a_balance_that_jumps_once_is_only_information_though_nothing_else_is_in_flight(rehearse: Rehearse) -> None:
    with rehearse(at({3: "balance-jump"})) as job:
        ran = job.run("--concurrency", "1")
        assert (ran.code, len(ran.records)) == (0, PACKS)


def test_what_is_in_doubt_counts_against_the_budget_in_this_run_and_the_next(rehearse: Rehearse) -> None:
    with rehearse(always("error-503")) as job:
        ran = job.run(budget=Decimal("0.0004"))
        assert (ran.code, ran.stopped[:8]) == (4, "budget: ")
        assert ran.attempts(AttemptState.DOUBT) == len(ran.records) >= 2
        again = job.run(budget=ran.ledger.spending.doubt)
        assert (again.code, again.stopped[:8], again.records) == (4, "budget: ", [])
        check_again(job, again)


def test_a_charge_over_the_reserve_is_booked_in_full_though_it_breaks_the_budget(rehearse: Rehearse) -> None:
    """The one thing that a client cannot prevent; nothing more is bought."""
    with rehearse(always("charge-over-reserve")) as job:
        ran = job.run(budget=Decimal("0.001"), is_over=True)
        assert ran.ledger.spending.settled == job.gateway.log.billed > Decimal("0.001")
        again = job.run(budget=Decimal("0.001"), is_over=True)
        assert (again.code, again.stopped[:8], again.records) == (4, "budget: ", [])
        check_again(job, again)


def test_usage_that_lies_where_no_charge_is_told_is_a_lie_that_nobody_sees(rehearse: Rehearse) -> None:
    """Then usage x price is all there is. Where a charge is told, usage decides nothing: see the table."""
    with rehearse(always("usage-stale"), tells="silent", lies=True) as job:
        ran = job.run()
        assert (ran.code, ran.sources) == (0, {"price": PACKS})
        assert ran.ledger.spending.settled < job.gateway.log.billed


def test_no_usage_where_no_charge_is_told_books_the_reserve(rehearse: Rehearse) -> None:
    with rehearse(always("usage-missing"), tells="silent") as job:
        ran = job.run()
        assert (ran.code, ran.sources) == (0, {"reserve": PACKS})


# Time and memory


@pytest.mark.parametrize("name", ["hang", "slow-loris"])
def test_a_reply_that_never_ends_meets_one_deadline_for_the_whole_call(name: str, rehearse: Rehearse) -> None:
    """A byte every half second would keep any pause between two bytes short, for 30 seconds."""
    with rehearse(at({3: name}), deadline=1.0, tells="silent") as job:
        ran = job.run()
        assert (ran.code, ran.attempts(AttemptState.DOUBT)) == (0, 1)
        assert "the deadline of" in ran.said
        lost, *_, again = (record for record in ran.records if ran.records[2].texts[0] in record.texts)
        assert 0.9 < again.at - lost.at < 5


def test_a_bomb_takes_no_memory(rehearse: Rehearse) -> None:
    with rehearse(at({1: "key-refused", 2: "gzip-bomb"}), texts=TEXTS[:PACK]) as job:
        job.run()  # imports
        tracemalloc.start()
        try:
            ran = job.run()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (ran.code, ran.records[0].fault) == (0, "gzip-bomb")
        assert peak < 50_000_000, "a reply is read up to 8 MB, and the bomb is 400 MB"


def test_a_clock_that_steps_moves_no_wait(rehearse: Rehearse, monkeypatch: pytest.MonkeyPatch) -> None:
    real, steps = time.time, itertools.cycle([0, 86_400, -86_400, 400_000_000])
    faults = {2: "rate-limited-seconds", 3: "error-503", 5: "rate-limited-silent", 6: "reset-before-headers"}
    with rehearse(at(faults), speed=5.0) as job:
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: real() + next(steps))
            patch.setattr(time, "time_ns", lambda: int((real() + next(steps)) * 1e9))
            ran = job.run()
        assert (ran.code, len(ran.records)) == (0, PACKS + len(faults))
        assert 1 / job.speed <= max(waits_of(ran)) < 15


# Load


def test_a_brownout_that_passes_costs_requests_and_no_item(rehearse: Rehearse) -> None:
    with rehearse(between(3, 14, "brownout")) as job:
        ran = job.run()
        assert (ran.code, ran.statuses) == (0, {"labelled": len(TEXTS)})
        assert len(ran.records) <= PACKS + 12
        check_booking(ran, "brownout", Booked.DOUBT)


def test_a_cliff_changes_no_result(rehearse: Rehearse) -> None:
    with rehearse(no_fault, cliff=2) as job:
        ran = job.run("--concurrency", "auto")
        assert (ran.code, len(ran.records)) == (0, PACKS)


# What never left


@dataclass
class Lookups:
    """Looks `localhost` up: now and then in vain, or at an address where nobody answers; else rightly."""

    kind: str
    bad: Container[int]  # which of them
    count: int = 0

    async def __call__(self, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert host == "localhost"
        self.count += 1
        if self.count in self.bad and self.kind == "DNS":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        address = "127.0.0.2" if self.count in self.bad else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))]


@contextmanager
def full_queue(port: int) -> Iterator[None]:
    """At 127.0.0.2, a host that takes no connection and refuses none."""
    with socket.create_server(("127.0.0.2", port), backlog=0), socket.socket() as waiting:
        waiting.connect(("127.0.0.2", port))
        yield


@pytest.mark.parametrize("kind", ["DNS", "refused", "connect time-out"])
@pytest.mark.parametrize("when", ["in mid-job", "for ever"])
def test_a_request_that_never_left_is_freed_and_sent_again(
    kind: str, when: str, rehearse: Rehearse, monkeypatch: pytest.MonkeyPatch
) -> None:
    # names are remembered for ten seconds of the machine's time, and not of the job's
    monkeypatch.setattr(packer.wire, "_Connector", partial(packer.wire._Connector, use_dns_cache=False))
    with rehearse(no_fault) as job, ExitStack() as undo:
        url = job.gateway.url.replace("127.0.0.1", "localhost")
        if kind == "connect time-out":
            undo.enter_context(full_queue(urlsplit(url).port or 0))
            monkeypatch.setattr(packer.wire, "_CONNECT_SECONDS", 0.5 * SPEED)
        lookups = Lookups(kind, range(2, 4) if when == "in mid-job" else range(1_000))
        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", lookups)
        ran = job.run(url=url)
        if when == "in mid-job":
            assert (ran.code, len(ran.records), ran.attempts(AttemptState.FREED)) == (0, PACKS, 2)
        else:
            assert (ran.code, ran.records, ran.attempts(AttemptState.FREED)) == (4, [], 8)
            assert ran.stopped.startswith(EIGHT)
        assert ran.attempts(AttemptState.DOUBT) == 0
        check_again(job, ran)


@contextmanager
def untrusted_host(folder: Path) -> Iterator[tuple[str, list[bytes]]]:
    """A URL whose certificate nobody has signed, and what was said to it after the handshake."""
    heard: list[bytes] = []
    context = untrusted_tls(folder)

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection, suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                heard.append(secure.recv(1_000))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.getsockname()[1]}/v1", heard
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_certificate_that_nobody_signed_stops_the_job_before_a_word_is_said(
    rehearse: Rehearse, in_folder: Path
) -> None:
    with rehearse(no_fault) as job, untrusted_host(in_folder) as (url, heard):
        ran = job.run(url=url)
        assert (ran.code, ran.statuses, heard) == (4, {"pending": len(TEXTS)}, [])
        assert ran.stopped.startswith("untrusted: ")
        assert "certificate verify failed" in ran.stopped
        assert (ran.attempts(AttemptState.FREED), sum(ran.ledger.attempts.values())) == (1, 1)
        check_again(job, ran)


# Nothing is left out

OTHER_ROWS = {
    "DNS, refused, connect time-out": test_a_request_that_never_left_is_freed_and_sent_again,
    "certificate": test_a_certificate_that_nobody_signed_stops_the_job_before_a_word_is_said,
    "clock steps": test_a_clock_that_steps_moves_no_wait,
}


def test_every_row_of_the_reference_has_a_test(shared_data: Path) -> None:
    reference = (shared_data.parent / "reference" / "faults.md").read_text(encoding="utf-8")
    table = reference.split("## The gateway")[1].split("##")[0]
    rows = set(re.findall(r"^\| (.+?) \|", table, re.MULTILINE)) - {"fault"}
    assert rows == {row.words for row in TABLE.values()} - {ANSWER} | OTHER_ROWS.keys()


def test_every_fault_has_its_row() -> None:
    assert set(TABLE) == set(FAULTS)
