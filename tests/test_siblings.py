"""Several ways of asking within one job: one budget, one ledger, one way to a gateway, and answers kept apart."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import TASK, parity, texts

from packer.errors import CallError, Failure, PriceError, TransportError
from packer.events import AttemptEnded, AttemptStarted, Event, JobStarted, JobStopped, LimitChanged
from packer.exchange import Charge, ChargeSource, Prompt, Reply
from packer.items import Result, Status, canonical_json, key_maker
from packer.ledger import AttemptState, Ledger
from packer.packs import PackLimits
from packer.prompts import read_user
from packer.runner import Runner
from packer.testing import FakeClock, FakeTransport
from packer.usage import Price

_T = TypeVar("_T")

PRICE = Price(Decimal("0.15"), Decimal("0.6"))
SINGLES = PackLimits(max_items=1)


def run(
    work: Callable[[Runner], Coroutine[Any, Any, _T]], transport: FakeTransport, **options: Any
) -> tuple[_T, Runner]:
    """`work` with an open runner; nothing runs any more afterwards."""
    options = {"model": "m", "ledger": None} | options

    async def enter() -> tuple[_T, Runner]:
        async with Runner(TASK, transport=transport, **options) as runner:
            done = await work(runner)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return done, runner

    return FakeClock().run(enter())


async def ask(runner: Runner, items: list[str]) -> list[Result]:
    return [result async for result in runner.stream(items)]


async def ask_both(main: Runner, sibling: Runner, items: list[str]) -> list[list[Result]]:
    async with sibling:
        return list(await asyncio.gather(ask(main, items), ask(sibling, items)))


def asked(transport: FakeTransport) -> Counter[tuple[str, bool]]:
    """How often each text was asked in a pack (False), and as a single (True)."""
    packs = [read_user(prompt.user)[1] for prompt in transport.prompts]
    return Counter((text, len(pack) == 1) for pack in packs for text in pack)


def test_an_ordinary_key_is_what_it_always_was_and_a_way_of_asking_gives_another() -> None:
    options: dict[str, Any] = {"fingerprint": "f", "model": "m", "parameters": {"temperature": 0}}
    ordinary = key_maker(**options)("text")
    assert ordinary == "b2:a943675cfc93c65361ac74b4fd23e8ab6b920aef"
    assert key_maker(**options, ask="")("text") == ordinary
    assert len({ordinary, key_maker(**options, ask="single")("text"), key_maker(**options, ask="vote 2")("text")}) == 3


def test_what_is_asked_in_two_ways_is_bought_in_both_and_in_each_only_once(tmp_path: Path) -> None:
    ledger, given = tmp_path / "l.db", texts(60)
    first, second = (FakeTransport(TASK, parity) for _ in range(2))

    async def work(runner: Runner) -> list[list[Result]]:
        return await ask_both(runner, runner.sibling("single", limits=SINGLES), given)

    both, _ = run(work, first, ledger=ledger)
    for results in both:
        assert [(result.label, result.known) for result in results] == [(parity(text), False) for text in given]
    assert asked(first) == {(text, single): 1 for text in given for single in (False, True)}

    both, _ = run(work, second, ledger=ledger)
    assert not second.prompts
    assert {result.known for results in both for result in results} == {True}
    third = FakeTransport(TASK, parity)
    run(lambda runner: ask(runner, given), third, ledger=ledger, limits=SINGLES)
    assert not third.prompts, "the packed answers are the ordinary ones"
    fresh, lone = FakeTransport(TASK, parity), tmp_path / "other.db"

    async def single_only(runner: Runner) -> list[Result]:
        async with runner.sibling("single", limits=SINGLES) as sibling:
            return await ask(sibling, given)

    run(single_only, fresh, ledger=lone)
    again = FakeTransport(TASK, parity)
    run(lambda runner: ask(runner, given), again, ledger=lone, limits=SINGLES)
    assert len(again.prompts) == 60, "singles that a sibling asked are no ordinary answers"


def test_each_way_of_asking_has_a_number_in_the_ledger_and_its_spending_is_the_jobs(tmp_path: Path) -> None:
    ledger = tmp_path / "l.db"
    charge = Charge(Decimal("0.001"), ChargeSource.HEADER)
    transport = FakeTransport(TASK, parity, charge=charge)

    async def work(runner: Runner) -> None:
        await ask_both(runner, runner.sibling("single", limits=SINGLES), texts(40))

    _, runner = run(work, transport, ledger=ledger, job="mail")
    assert runner.statistics().settled == Decimal("0.042"), "2 packs and 40 singles"
    with Ledger(ledger) as opened:
        assert opened.statistics().jobs == 2
        assert opened.spending(canonical_json([TASK.fingerprint, "m", "mail"])).settled == Decimal("0.042")
        assert Counter(row["ask"] for row in opened.export()) == {"": 40, "single": 40}


def test_money_is_counted_over_all_and_items_by_each(tmp_path: Path) -> None:
    transport = FakeTransport(TASK, parity, charge=Charge(Decimal("0.001"), ChargeSource.HEADER))

    async def work(runner: Runner) -> None:
        async with runner.sibling("single", limits=SINGLES) as sibling:
            await ask(sibling, texts(5))
            await ask(runner, texts(40))
            own, main = sibling.statistics(), runner.statistics()
            assert (own.items, own.labelled, own.requests, own.pack_size) == (5, 5, 5, 1)
            assert (main.items, main.labelled, main.requests, main.pack_size) == (40, 40, 2, 20)
            assert own.settled == main.settled == Decimal("0.007")
            assert own.charge_sources == main.charge_sources == {ChargeSource.HEADER: 7}
            assert own.usage == main.usage
            assert main.usage.output_tokens > 0

    run(work, transport)


@pytest.mark.parametrize("concurrency", [1, 3, 7])
def test_what_is_in_flight_to_one_model_counts_for_all_who_ask_it(concurrency: int) -> None:
    transport = FakeTransport(TASK, parity, seconds=lambda number: 0.5 + number % 3)

    async def work(runner: Runner) -> None:
        async with AsyncExitStack() as open_ones:
            siblings = [
                await open_ones.enter_async_context(runner.sibling(f"vote {number}", limits=PackLimits(number)))
                for number in (1, 2, 5)
            ]
            results = await asyncio.gather(*(ask(one, texts(60)) for one in (runner, *siblings)))
            assert all(result.label for some in results for result in some)
            assert [one.statistics().in_flight for one in siblings] == [0, 0, 0]

    run(work, transport, concurrency=concurrency)
    assert transport.most_in_flight == concurrency


def test_nobody_who_asks_is_kept_waiting_until_another_has_finished() -> None:
    transport = FakeTransport(TASK, parity)

    async def work(runner: Runner) -> None:
        async with runner.sibling("single", limits=SINGLES) as sibling:
            many = asyncio.create_task(ask(runner, texts(2_000)))
            await asyncio.sleep(5)
            await ask(sibling, texts(3))
            assert runner.statistics().labelled < 1_000
            assert not many.done()
            await many

    run(work, transport, concurrency=2)


def test_another_model_has_its_own_way_there_and_its_own_price() -> None:
    weak, strong = FakeTransport(TASK, parity), FakeTransport(TASK, parity, seconds=9.0)
    price = Price(Decimal(100), Decimal(400))

    async def work(runner: Runner) -> None:
        sibling = runner.sibling("alone", model="strong", transport=strong, price=price, limits=SINGLES)
        await ask_both(runner, sibling, texts(30))
        assert (sibling.price, runner.price) == (price, PRICE)

    _, runner = run(work, weak, concurrency=2, price=PRICE)
    assert len(weak.prompts) == 2
    assert len(strong.prompts) == 30
    assert strong.most_in_flight == 2
    statistics = runner.statistics()
    assert statistics.charge_sources == {ChargeSource.PRICE: 32}
    assert statistics.settled > Decimal("0.1")


def test_two_siblings_of_one_model_share_the_way_there() -> None:
    strong = FakeTransport(TASK, parity)

    async def work(runner: Runner) -> None:
        async with runner.sibling("alone", model="strong", transport=strong) as first:
            await ask_both(first, first.sibling("single", limits=SINGLES), texts(60))
        async with runner.sibling("size 2", model="strong", limits=PackLimits(2)) as later:
            await ask(later, texts(60))

    run(work, FakeTransport(TASK, parity), concurrency=3)
    assert len(strong.prompts) == 3 + 60 + 30
    assert strong.most_in_flight == 3


def test_events_say_who_asked_and_the_limit_of_one_way_is_told_once() -> None:
    events: list[Event] = []
    transport = FakeTransport(TASK, parity)

    async def work(runner: Runner) -> None:
        await ask_both(runner, runner.sibling("single", limits=SINGLES), texts(40))

    run(work, transport, on_event=events.append)
    for kind, count in ((AttemptStarted, 40), (AttemptEnded, 40), (JobStarted, 1)):
        counts = Counter(event.ask for event in events if isinstance(event, kind))
        assert counts["single"] == count
        assert counts[""] == (1 if kind is JobStarted else 2)
    assert {event.ask for event in events if isinstance(event, LimitChanged)} == {""}


def test_a_stop_of_the_main_runner_stops_its_siblings_and_what_is_in_flight_is_kept() -> None:
    events: list[Event] = []
    transport = FakeTransport(TASK, parity)

    async def work(runner: Runner) -> list[list[Result]]:
        asyncio.get_running_loop().call_later(2.5, runner.stop, "enough")
        return await ask_both(runner, runner.sibling("single", limits=SINGLES), texts(900))

    results, runner = run(work, transport, on_event=events.append, concurrency=4)
    for some in results:
        states = Counter((result.status, result.error) for result in some)
        assert set(states) == {(Status.LABELLED, ""), (Status.PENDING, "stopped: enough")}
    assert sum(result.label is not None for result in results[1]) == sum(single for _, single in asked(transport))
    assert Counter(event.ask for event in events if isinstance(event, JobStopped)) == {"": 1, "single": 1}
    assert runner.statistics().stopped == "enough"


def test_a_stop_of_a_sibling_stops_nobody_else() -> None:
    async def work(runner: Runner) -> list[list[Result]]:
        sibling = runner.sibling("single", limits=SINGLES)
        asyncio.get_running_loop().call_later(2.5, lambda: sibling.stop("enough"))
        return await ask_both(runner, sibling, texts(200))

    (packed, singles), runner = run(work, FakeTransport(TASK, parity), concurrency=2)
    assert {result.status for result in packed} == {Status.LABELLED}
    assert singles[-1].error == "stopped: enough"
    assert runner.statistics().stopped is None


@pytest.mark.parametrize("failure", [Failure.KEY_REFUSED, Failure.QUOTA, Failure.UNKNOWN_MODEL, Failure.UNTRUSTED])
def test_a_refused_key_stops_a_sibling_of_another_model_alone_and_is_told(failure: Failure) -> None:
    events: list[Event] = []
    refused = TransportError(failure, "no", status=401)
    strong = FakeTransport(TASK, parity, fault=lambda prompt, number: refused)

    async def work(runner: Runner) -> list[list[Result]]:
        results = await ask_both(runner, runner.sibling("alone", model="strong", transport=strong), texts(100))
        async with runner.sibling("late", model="strong") as late:
            assert {result.error for result in await ask(late, texts(9))} == {f"stopped: {failure}: no"}
        return results

    (cheap, dear), runner = run(work, FakeTransport(TASK, parity), on_event=events.append)
    assert {result.status for result in cheap} == {Status.LABELLED}
    assert {(result.status, result.error) for result in dear} == {(Status.PENDING, f"stopped: {failure}: no")}
    assert len(strong.prompts) == 1
    assert runner.statistics().stopped is None
    told = [(event.ask, event.reason) for event in events if isinstance(event, JobStopped)]
    assert told == [("alone", f"{failure}: no"), ("late", f"{failure}: no")]


def test_a_refused_key_stops_all_who_ask_the_same_model_with_nothing_more_than_what_was_in_flight() -> None:
    """Law 6, over all who ask: what one of them has met, the others need not try."""
    refused = TransportError(Failure.KEY_REFUSED, "no", status=401)
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: refused if number >= 30 else None)

    async def work(runner: Runner) -> list[list[Result]]:
        return await ask_both(runner, runner.sibling("single", limits=SINGLES), texts(2_000))

    results, runner = run(work, transport, concurrency=8)
    assert len(transport.prompts) <= 30 + 8 + 2
    assert [some[-1].error for some in results] == ["stopped: key refused: no"] * 2
    assert runner.statistics().stopped == "key refused: no"


def test_a_budget_that_is_used_up_stops_each_in_turn_and_is_not_passed() -> None:
    charge = Charge(Decimal("0.00002"), ChargeSource.HEADER)
    transport = FakeTransport(TASK, parity, charge=charge)

    async def work(runner: Runner) -> list[list[Result]]:
        return await ask_both(runner, runner.sibling("single", limits=SINGLES), texts(900))

    results, runner = run(work, transport, budget_usd="0.002", price=PRICE)
    statistics = runner.statistics()
    assert statistics.settled + statistics.in_doubt <= Decimal("0.002")
    assert statistics.settled == len(transport.prompts) * charge.usd
    for some in results:
        errors = {result.error for result in some if result.status is Status.PENDING}
        assert errors == {"stopped: budget: the next request could pass the cap of 0.002 USD"}


def test_one_who_lacks_money_waits_for_what_another_has_reserved() -> None:
    """A reserve that is not needed comes back, whoever holds it."""
    charge = Charge(Decimal("0.000001"), ChargeSource.HEADER)
    transport = FakeTransport(TASK, parity, charge=charge, seconds=lambda number: 1.0 if number < 3 else 30.0)

    async def work(runner: Runner) -> list[list[Result]]:
        return await ask_both(runner, runner.sibling("single", limits=SINGLES), texts(6))

    results, runner = run(work, transport, budget_usd="0.0002", price=PRICE)
    assert {result.status for some in results for result in some} == {Status.LABELLED}
    assert runner.statistics().stopped is None


def test_what_a_sibling_had_in_flight_when_its_process_died_is_in_doubt(tmp_path: Path) -> None:
    ledger = tmp_path / "l.db"

    class Killed(BaseException):
        pass

    def die(prompt: Prompt, number: int) -> Reply | None:
        if len(read_user(prompt.user)[1]) == 1 and number > 5:
            raise Killed
        return None

    async def singles(runner: Runner) -> list[Result]:
        async with runner.sibling("single", limits=SINGLES) as sibling:
            return await ask(sibling, texts(20))

    options: dict[str, Any] = {"ledger": ledger, "price": PRICE, "budget_usd": 1}
    with pytest.raises(Killed):
        run(singles, FakeTransport(TASK, parity, fault=die), **options)
    with Ledger(ledger) as opened:
        lost = {key for attempt in opened.attempts_in_doubt() for key in attempt.keys}
        reserve = opened.spending(canonical_json([TASK.fingerprint, "m", ""])).doubt
    make_key = key_maker(fingerprint=TASK.fingerprint, model="m", parameters={"temperature": 0}, ask="single")
    doubtful = {text for text in texts(20) if make_key(text) in lost}
    assert doubtful

    held = FakeTransport(TASK, parity)
    results, runner = run(singles, held, **options, on_doubt="hold")
    assert {result.item.text for result in results if result.status is Status.DOUBT} == doubtful
    assert not doubtful & {text for text, _ in asked(held)}
    assert runner.statistics().in_doubt == reserve

    retried = FakeTransport(TASK, parity)
    results, _ = run(singles, retried, **options)
    assert {result.status for result in results} == {Status.LABELLED}
    assert {text for text, _ in asked(retried)} == doubtful


def test_a_sibling_that_is_still_open_when_the_main_runner_leaves_is_closed_before_it(tmp_path: Path) -> None:
    ledger = tmp_path / "l.db"
    transport = FakeTransport(TASK, parity)

    async def work(runner: Runner) -> list[Result]:
        sibling = runner.sibling("single", limits=SINGLES)
        await sibling.__aenter__()
        some = asyncio.create_task(ask(sibling, texts(50)))
        await asyncio.sleep(2.5)
        some.add_done_callback(lambda _: None)
        left.append((sibling, some))
        return []

    left: list[tuple[Runner, asyncio.Task[list[Result]]]] = []

    async def enter() -> None:
        async with Runner(TASK, model="m", transport=transport, ledger=ledger, concurrency=3) as runner:
            await work(runner)
        ((sibling, some),) = left
        results = await some
        labelled = sum(result.label is not None for result in results)
        assert labelled == len(transport.prompts) > 0, "what was in flight is kept"
        assert {result.error for result in results if not result.label} == {"stopped: the runner was closed"}
        await sibling.__aexit__(None, None, None)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    FakeClock().run(enter())
    with Ledger(ledger) as opened:
        assert opened.verify() == []
        assert opened.statistics().attempts[AttemptState.SETTLED] == len(transport.prompts)


def test_a_sibling_that_is_abandoned_in_mid_request_takes_no_room_from_the_others() -> None:
    """Only a second interrupt abandons what is in flight; its reserve stays booked, and the job goes on."""
    transport = FakeTransport(TASK, parity, seconds=lambda number: 60.0 if number == 1 else 1.0)

    async def use(runner: Runner) -> None:
        async with runner.sibling("single", limits=SINGLES) as sibling:
            await ask(sibling, texts(3))

    async def work(runner: Runner) -> tuple[list[Result], Decimal]:
        using = asyncio.create_task(use(runner))
        for _ in range(2):
            await asyncio.sleep(0.5)
            using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await using
        reserved = runner.statistics().reserved
        assert runner.statistics().in_flight == 0
        return await ask(runner, texts(600)), reserved

    (results, reserved), runner = run(work, transport, concurrency=1, price=PRICE, budget_usd="0.0015")
    statistics = runner.statistics()
    assert reserved == statistics.reserved > 0
    # what is left does not pay for all, and nobody waits for what never ends
    assert {result.status for result in results} == {Status.LABELLED, Status.PENDING}
    assert statistics.settled + statistics.reserved <= Decimal("0.0015")
    assert (statistics.stopped or "").startswith("budget")


class Closing(FakeTransport):
    """Counts how often it is closed, and what was in flight then."""

    closed = 0

    async def aclose(self) -> None:
        self.closed += 1


def test_nothing_is_left_open_whatever_goes_wrong_inside(tmp_path: Path) -> None:
    ledger = tmp_path / "l.db"
    transport, strong = Closing(TASK, parity), Closing(TASK, parity)

    async def enter() -> None:
        async with Runner(TASK, model="m", transport=transport, ledger=ledger) as runner:
            sibling = await runner.sibling("alone", model="strong", transport=strong).__aenter__()
            async for _ in sibling.stream(texts(100)):
                raise KeyError("ours")

    async def outer() -> None:
        with pytest.raises(KeyError, match="ours"):
            await enter()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    FakeClock().run(outer())
    assert (transport.closed, strong.closed) == (1, 1)
    with Ledger(ledger) as opened:
        assert opened.verify() == []
        assert not opened.statistics().attempts.get(AttemptState.OPEN, 0)


def test_a_sibling_that_cannot_be_entered_says_why_and_the_job_goes_on() -> None:
    strong = Closing(TASK, parity)

    async def work(runner: Runner) -> list[Result]:
        with pytest.raises(CallError, match="expected its transport"):
            await runner.sibling("alone", model="strong").__aenter__()
        with pytest.raises(PriceError, match="strong"):
            await runner.sibling("alone", model="strong", transport=strong).__aenter__()
        with pytest.raises(CallError, match="expected a word"):
            runner.sibling(" ")
        async with runner.sibling("single"):
            with pytest.raises(CallError, match="in the same way"):
                await runner.sibling("single", limits=SINGLES).__aenter__()
        async with runner.sibling("single"):
            return await ask(runner, texts(40))

    results, _ = run(work, FakeTransport(TASK, parity), price=PRICE, budget_usd=1)
    assert {result.status for result in results} == {Status.LABELLED}
    assert strong.closed == 1


def test_a_sibling_lives_only_inside_its_main_runner() -> None:
    async def enter() -> None:
        runner = Runner(TASK, model="m", transport=FakeTransport(TASK, parity), ledger=None)
        sibling = runner.sibling("single")
        with pytest.raises(CallError, match="main runner to be open"):
            await sibling.__aenter__()
        async with runner:
            pass
        with pytest.raises(CallError, match="main runner to be open"):
            await runner.sibling("single").__aenter__()

    FakeClock().run(enter())


def test_a_key_that_was_given_for_one_provider_is_not_sent_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 9: a key goes only to the configured host."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)

    async def enter() -> None:
        async with Runner(TASK, model="gpt-4o-mini", api_key="sk-ours", ledger=None) as runner:
            with pytest.raises(CallError, match="ANTHROPIC_API_KEY"):
                await runner.sibling("alone", model="anthropic/claude").__aenter__()
            async with runner.sibling("alone", model="gpt-4o"):
                pass

    asyncio.run(enter())


def test_a_listener_that_raises_stops_all_and_its_error_comes_from_the_main_runner() -> None:
    def listen(event: Event) -> None:
        if isinstance(event, AttemptEnded) and event.ask:
            raise KeyError("ours")

    async def work(runner: Runner) -> list[Result]:
        async with runner.sibling("single", limits=SINGLES) as sibling:
            return await ask(sibling, texts(40))

    seen: list[Result] = []

    async def enter() -> None:
        async with Runner(
            TASK, model="m", transport=FakeTransport(TASK, parity), ledger=None, on_event=listen
        ) as runner:
            seen.extend(await work(runner))

    with pytest.raises(KeyError, match="ours"):
        FakeClock().run(enter())
    assert Counter(result.status for result in seen) == {Status.LABELLED: 1, Status.PENDING: 39}


class Killed(BaseException):
    """The process is gone."""


@settings(max_examples=50)
@given(
    data=st.data(),
    faults=st.lists(st.sampled_from(["right", "kill", *Failure]), max_size=5),
    cap=st.sampled_from([Decimal("0.0002"), Decimal("0.001"), Decimal(1)]),
    hold=st.booleans(),
)
def test_all_who_ask_stay_under_one_cap_through_kills_and_restarts(
    data: st.DataObject, faults: list[str], cap: Decimal, *, hold: bool
) -> None:
    """Law 4: settled + in doubt + reserved never passes the cap, across restarts."""
    billed = Decimal(0)

    def fate(prompt: Prompt, _: int) -> TransportError | Reply | None:
        nonlocal billed
        usd = Decimal(len(prompt.system + prompt.user)) / 40_000_000
        fault = data.draw(st.sampled_from(["right", "right", *faults]))
        if fault == "kill":
            billed += usd
            raise Killed
        if fault in set(Failure):
            return TransportError(Failure(fault), "words", retry_after=2.0)
        billed += usd
        reply = transport.right_reply(prompt)
        return Reply(reply.text, reply.stop_reason, 1.0, reply.usage, Charge(usd, ChargeSource.HEADER))

    async def one_run() -> None:
        async with Runner(
            TASK,
            model="m",
            transport=transport,
            ledger=ledger,
            budget_usd=cap,
            price=PRICE,
            on_doubt="hold" if hold else "retry",
        ) as runner:
            single = runner.sibling("single", limits=SINGLES)
            async with single, runner.sibling("dear", model="dear", transport=dear, price=PRICE) as other:
                await asyncio.gather(*(ask(one, texts(30)) for one in (runner, single, other)))
                for one in (runner, single, other):
                    now = one.statistics()
                    assert now.settled + now.in_doubt + now.reserved <= cap
                    assert now.reserved == 0

    transport, dear = (FakeTransport(TASK, parity, fault=fate) for _ in range(2))
    with TemporaryDirectory() as folder:
        ledger = Path(folder) / "l.db"
        for _ in range(3):
            try:
                FakeClock().run(one_run())
            except Killed:
                continue
        with Ledger(ledger) as opened:
            assert opened.verify() == []
            spending = opened.spending(canonical_json([TASK.fingerprint, "m", ""]))
            assert billed <= spending.settled + spending.doubt <= cap
            assert not opened.statistics().attempts.get(AttemptState.OPEN, 0)
