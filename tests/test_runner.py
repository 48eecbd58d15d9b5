"""The runner on a fake transport under a fake clock: laws 1 to 6, quoted where they are checked."""

import asyncio
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pydantic
import pytest
from parity import TASK, parity, texts

from packer import failpoints
from packer.errors import (
    CallError,
    Failure,
    InputError,
    LedgerError,
    LedgerFull,
    LedgerInUse,
    PriceError,
    StoppedError,
    TransportError,
)
from packer.events import AttemptEnded, Event, JobStopped, PackSizeChanged, Paused, Statistics
from packer.exchange import Charge, ChargeSource, Prompt, Reply, StopReason
from packer.items import Item, Result, Status
from packer.ledger import Closed, Ledger, Opened
from packer.limiter import Limiter
from packer.packs import PackLimits
from packer.prompts import read_user
from packer.runner import Runner
from packer.sync import label
from packer.task import Task
from packer.testing import FakeClock, FakeTransport
from packer.usage import Price, Usage

PRICE = Price(Decimal("0.15"), Decimal("0.6"))


def run(items: Any, transport: FakeTransport, **options: Any) -> tuple[list[Result], Runner]:
    options = {"model": "m", "ledger": None} | options

    async def work() -> tuple[list[Result], Runner]:
        async with Runner(TASK, transport=transport, **options) as runner:
            return [result async for result in runner.stream(items)], runner

    return FakeClock().run(work())


def asked(transport: FakeTransport) -> Counter[str]:
    return Counter(text for prompt in transport.prompts for text in read_user(prompt.user)[1])


def test_every_item_gets_its_own_label_in_the_inputs_order() -> None:
    transport = FakeTransport(TASK, parity, seconds=lambda number: 1.0 + number % 5)
    given = texts(500)
    results, runner = run(given, transport)
    assert [result.item.text for result in results] == given
    assert all(result.label == parity(result.item.text) and result.status is Status.LABELLED for result in results)
    assert set(asked(transport).values()) == {1}
    statistics = runner.statistics()
    assert (statistics.items, statistics.labelled, statistics.requests, statistics.packs) == (500, 500, 25, 25)


def test_a_stop_that_comes_while_an_intent_is_written_lets_nothing_leave(tmp_path: Path) -> None:
    """Law 6: the job ends having sent no more than what was already in flight."""
    transport = FakeTransport(TASK, parity)
    runner = Runner(TASK, model="m", transport=transport, ledger=tmp_path / "l.db", price=PRICE, budget_usd=1)

    async def work() -> list[Result]:
        async with runner:
            return [result async for result in runner.stream(texts(40))]

    failpoints.put(lambda name: runner.stop("here") if name == "intent: about to be written" else None)
    try:
        results = FakeClock().run(work())
    finally:
        failpoints.put(None)
    assert transport.prompts == []
    assert [(result.status, result.error) for result in results] == [(Status.PENDING, "stopped: here")] * 40
    assert runner.statistics().reserved == 0
    with Ledger(tmp_path / "l.db", read_only=True) as ledger:
        assert {state.value: count for state, count in ledger.statistics().attempts.items() if count} == {"freed": 1}


def test_the_limiter_is_told_how_late_the_event_loop_takes_what_the_ledger_has_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[float] = []
    commit = Ledger.commit

    async def work() -> None:
        loop = asyncio.get_running_loop()

        def commit_for_a_busy_loop(self: Ledger, changes: Any) -> None:
            commit(self, changes)
            if not told:
                began = threading.Event()
                loop.call_soon_threadsafe(began.set)
                loop.call_soon_threadsafe(time.sleep, 0.05)
                began.wait()

        monkeypatch.setattr(Ledger, "commit", commit_for_a_busy_loop)
        monkeypatch.setattr(Limiter, "waited", lambda _, now, seconds: told.append(seconds))
        transport = FakeTransport(TASK, parity, seconds=0.0)
        async with Runner(TASK, model="m", transport=transport, ledger=None) as runner:
            await runner.submit("text")

    asyncio.run(work())
    assert len(told) == 2
    assert told[0] > 0.04 > told[1]


def test_packs_are_full_and_shuffled_inside_the_window() -> None:
    transport = FakeTransport(TASK, parity)
    run(texts(95), transport)
    sizes = [len(read_user(prompt.user)[1]) for prompt in transport.prompts]
    assert sorted(sizes) == [15, 20, 20, 20, 20]
    assert read_user(transport.prompts[0].user)[1] != texts(20)


def test_the_same_seed_gives_the_same_prompts() -> None:
    first, second, third = (FakeTransport(TASK, parity) for _ in range(3))
    run(texts(95), first, seed=1)
    run(texts(95), second, seed=1)
    run(texts(95), third, seed=2)
    assert [prompt.user for prompt in first.prompts] == [prompt.user for prompt in second.prompts]
    assert first.prompts != third.prompts


def test_the_system_message_and_the_schema_are_the_same_in_every_request() -> None:
    transport = FakeTransport(TASK, parity)
    run(texts(100), transport)
    assert len({prompt.system for prompt in transport.prompts}) == 1
    assert len({id(prompt.schema) for prompt in transport.prompts}) == 1


def test_identical_texts_are_asked_once_and_answered_everywhere() -> None:
    transport = FakeTransport(TASK, parity)
    results, runner = run(["a", "b", "a ", "a", "b\r\n"] * 10, transport)
    assert asked(transport) == {"a": 1, "b": 1}
    assert [result.label for result in results] == ["odd"] * 50
    assert runner.statistics().known == 48
    assert [result.known for result in results[:3]] == [False, False, True]


def test_an_empty_text_fails_and_is_not_sent() -> None:
    transport = FakeTransport(TASK, parity)
    results, _ = run(["", "a", " \n"], transport)
    assert [result.status for result in results] == [Status.FAILED, Status.LABELLED, Status.FAILED]
    assert results[0].error == "the text is empty"
    assert asked(transport) == {"a": 1}


def test_a_text_that_alone_passes_a_cap_fails_with_its_reason_and_is_not_sent() -> None:
    transport = FakeTransport(TASK, parity)
    results, _ = run(["word " * 200_000, "a"], transport)
    assert results[0].status is Status.FAILED
    assert results[0].error.startswith("too long: about 200")
    assert asked(transport) == {"a": 1}


def test_a_request_that_could_cost_more_than_its_cap_is_never_sent() -> None:
    transport = FakeTransport(TASK, parity)
    cap = Decimal("0.00018")
    results, _ = run([*texts(60), "y" * 1000], transport, limits=PackLimits(max_request_usd=cap), price=PRICE)
    assert [result.status for result in results] == [Status.LABELLED] * 60 + [Status.FAILED]
    assert "cap of one request" in results[-1].error
    for prompt in transport.prompts:
        size = len((prompt.system + prompt.user).encode()) + prompt.max_tokens * 4
        assert Decimal(size) * PRICE.input / 1_000_000 <= cap


def test_the_first_pack_goes_alone() -> None:
    began: list[float] = []
    clock = FakeClock()

    class Timed(FakeTransport):
        async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
            began.append(clock.now)
            return await super().send(prompt, deadline=deadline)

    async def work() -> None:
        async with Runner(TASK, model="m", transport=Timed(TASK, parity), ledger=None) as runner:
            assert [result async for result in runner.stream(texts(200))]

    clock.run(work())
    assert began[1] - began[0] == pytest.approx(1.0)
    assert began[2] == began[1]


@pytest.mark.parametrize("concurrency", [1, 3, 50])
def test_no_more_than_the_limit_is_in_flight(concurrency: int) -> None:
    transport = FakeTransport(TASK, parity)
    run(texts(2000), transport, concurrency=concurrency)
    assert transport.most_in_flight == concurrency


def test_a_malformed_job_is_told_by_one_request_at_a_time() -> None:
    refused = TransportError(Failure.BAD_REQUEST, "no such parameter", status=400)
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: refused)
    results, runner = run(texts(500), transport)
    assert len(transport.prompts) == 3
    assert transport.most_in_flight == 1
    assert {result.status for result in results} == {Status.PENDING}
    assert "no such parameter" in (runner.statistics().stopped or "")


@pytest.mark.parametrize("failure", [Failure.KEY_REFUSED, Failure.QUOTA, Failure.UNKNOWN_MODEL, Failure.UNTRUSTED])
def test_a_refused_key_in_mid_job_stops_with_nothing_more_than_what_was_in_flight(failure: Failure) -> None:
    refused = TransportError(failure, "no", status=401)
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: refused if number >= 4 else None)
    results, runner = run(texts(2000), transport, concurrency=8)
    assert len(transport.prompts) <= 1 + 8 + 2
    assert len(results) == 2000
    counts = Counter(result.status for result in results)
    assert counts[Status.LABELLED] == 60
    assert counts[Status.PENDING] == 1940
    assert runner.statistics().stopped == f"{failure}: no"


def test_a_poison_item_fails_alone() -> None:
    def fault(prompt: Prompt, number: int) -> TransportError | None:
        return TransportError(Failure.BAD_REQUEST, "moderated") if "text xx 9" in prompt.user else None

    transport = FakeTransport(TASK, parity, fault=fault)
    results, _ = run(texts(60), transport)
    failed = [result for result in results if result.status is not Status.LABELLED]
    assert [(result.item.text, result.error) for result in failed] == [("text xx 9", "refused: moderated")]


def cut(transport: FakeTransport, prompt: Prompt, share: float) -> Reply:
    whole = transport.right_reply(prompt)
    return Reply(whole.text[: int(len(whole.text) * share)], StopReason.MAX_TOKENS, 1.0, whole.usage)


def test_sound_rows_of_a_cut_answer_are_kept_and_only_the_rest_is_asked_again() -> None:
    transport = FakeTransport(
        TASK, parity, fault=lambda prompt, number: cut(transport, prompt, 0.6) if number == 1 else None
    )
    results, _ = run(texts(20), transport)
    assert all(result.label == parity(result.item.text) for result in results)
    assert 20 < sum(asked(transport).values()) < 40


def test_a_whole_answer_that_runs_on_until_it_is_cut_raises_no_allowance() -> None:
    def fault(prompt: Prompt, number: int) -> Reply:
        whole = transport.right_reply(prompt)
        return Reply(whole.text + " " * 200, StopReason.MAX_TOKENS, 1.0, Usage(100, prompt.max_tokens))

    transport = FakeTransport(TASK, parity, fault=fault)
    results, _ = run(texts(600), transport, concurrency=1)
    assert {result.status for result in results} == {Status.LABELLED}
    assert max(prompt.max_tokens for prompt in transport.prompts) < 2 * transport.prompts[0].max_tokens


def test_a_gateway_with_a_small_output_cap_costs_a_few_requests_and_never_the_job() -> None:
    def fault(prompt: Prompt, number: int) -> Reply | None:
        size = len(read_user(prompt.user)[1])
        return cut(transport, prompt, 4 / size) if size > 5 else None

    transport = FakeTransport(TASK, parity, fault=fault)
    events: list[Event] = []
    results, runner = run(texts(2000), transport, on_event=events.append)
    assert {result.status for result in results} == {Status.LABELLED}
    assert runner.statistics().pack_size < 20
    assert any(isinstance(event, PackSizeChanged) for event in events)


def test_an_item_without_a_usable_answer_fails_with_the_defect() -> None:
    silly = FakeTransport(Task(["even", "odd", "other"]), lambda text: "other" if text == "bad" else parity(text))
    results, _ = run(["bad", "good"], silly)
    assert [result.status for result in results] == [Status.FAILED, Status.LABELLED]
    assert "other" in results[0].error
    assert asked(silly)["bad"] <= 4


def test_a_copy_of_a_failed_text_is_not_paid_for_again() -> None:
    silly = FakeTransport(Task(["even", "odd", "other"]), lambda text: "other" if text == "bad" else parity(text))

    async def slowly() -> AsyncIterator[str]:
        for _ in range(4):
            yield "bad"
            await asyncio.sleep(60)

    results, _ = run(slowly(), silly)
    assert [result.status for result in results] == [Status.FAILED] * 4
    assert asked(silly)["bad"] == 2


def test_a_second_run_sends_nothing(tmp_path: Path) -> None:
    ledger = tmp_path / "labels.db"
    first, second = FakeTransport(TASK, parity), FakeTransport(TASK, parity)
    bought, _ = run(texts(100), first, ledger=ledger)
    known, runner = run(texts(100), second, ledger=ledger, limits=PackLimits(max_items=7))
    assert [result.label for result in known] == [result.label for result in bought]
    assert second.prompts == []
    assert runner.statistics().known == 100


def test_another_task_or_model_has_answers_of_its_own(tmp_path: Path) -> None:
    ledger = tmp_path / "labels.db"
    run(["a"], FakeTransport(TASK, parity), ledger=ledger)
    other = FakeTransport(TASK, parity)
    run(["a"], other, ledger=ledger, model="another")
    assert len(other.prompts) == 1


def test_the_budget_is_never_passed_over_concurrency_and_restarts(tmp_path: Path) -> None:
    charge = Charge(Decimal("0.0001"), ChargeSource.HEADER)
    cap = Decimal("0.003")
    spent = Decimal(0)
    for _ in range(4):
        transport = FakeTransport(TASK, parity, charge=charge)
        results, runner = run(texts(2000), transport, ledger=tmp_path / "l.db", budget_usd=cap, price=PRICE)
        spent += len(transport.prompts) * charge.usd
        assert len(results) == 2000
        assert spent <= cap
        assert runner.statistics().settled == spent
    assert spent > cap * Decimal("0.8"), "a reserve that starves the job is no reserve"
    assert "budget" in (runner.statistics().stopped or "")


def test_a_charge_over_its_reserve_is_booked_and_stops_the_job() -> None:
    transport = FakeTransport(TASK, parity, charge=Charge(Decimal(1), ChargeSource.HEADER))
    results, runner = run(texts(200), transport, price=PRICE)
    assert runner.statistics().settled == 1
    assert "over its worst case" in (runner.statistics().stopped or "")
    assert Counter(result.status for result in results) == {Status.LABELLED: 20, Status.PENDING: 180}


@pytest.mark.parametrize(("model", "price"), [("m", PRICE), ("another", None)])
def test_a_task_says_how_large_packs_are_and_what_its_own_model_costs(model: str, price: Price | None) -> None:
    task = Task(["even", "odd"], max_items=3, model="m", price=PRICE)
    transport = FakeTransport(task, parity)

    async def work() -> Price | None:
        async with Runner(task, model=model, transport=transport, ledger=None) as runner:
            assert [result.status async for result in runner.stream(texts(12))] == [Status.LABELLED] * 12
            return runner.price

    assert FakeClock().run(work()) == price
    assert [len(read_user(prompt.user)[1]) for prompt in transport.prompts] == [3] * 4


def test_a_money_cap_without_a_price_refuses_to_start() -> None:
    transport = FakeTransport(TASK, parity)
    with pytest.raises(PriceError, match="no price is known for m"):
        run(["a"], transport, budget_usd=1)
    assert transport.prompts == []


def test_an_unknown_cost_is_reported_as_unknown() -> None:
    _, runner = run(texts(40), FakeTransport(TASK, parity))
    assert runner.statistics().unpriced == 2
    assert runner.statistics().settled == 0


def test_usage_times_price_is_booked_where_the_gateway_tells_no_charge() -> None:
    _, runner = run(texts(40), FakeTransport(TASK, parity), price=PRICE)
    statistics = runner.statistics()
    assert statistics.charge_sources == {ChargeSource.PRICE: 2}
    used = statistics.usage.input_tokens * PRICE.input + statistics.usage.output_tokens * PRICE.output
    assert statistics.settled == used / 1_000_000


def test_a_lost_reply_keeps_its_reserve_and_its_items_are_asked_again() -> None:
    lost = TransportError(Failure.LOST, "reset")
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: lost if number == 2 else None)
    results, runner = run(texts(60), transport, price=PRICE)
    assert {result.status for result in results} == {Status.LABELLED}
    assert runner.statistics().in_doubt > 0
    assert runner.statistics().reserved == 0


def test_under_hold_a_lost_reply_leaves_its_items_in_doubt_and_a_later_run_does_not_ask_them(tmp_path: Path) -> None:
    lost = TransportError(Failure.LOST, "reset")
    options = {"ledger": tmp_path / "l.db", "price": PRICE, "on_doubt": "hold"}
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: lost if number == 2 else None)
    results, _ = run(texts(60), transport, **options)
    counts = Counter(result.status for result in results)
    assert counts == {Status.LABELLED: 40, Status.DOUBT: 20}
    again = FakeTransport(TASK, parity)
    results, runner = run(texts(60), again, **options)
    assert Counter(result.status for result in results) == counts
    assert again.prompts == []
    assert runner.statistics().in_doubt > 0
    retried = FakeTransport(TASK, parity)
    results, _ = run(texts(60), retried, **(options | {"on_doubt": "retry"}))
    assert {result.status for result in results} == {Status.LABELLED}
    assert sum(asked(retried).values()) == 20


def test_rate_limits_freeze_everybody_and_cost_no_item() -> None:
    limited = TransportError(Failure.RATE_LIMITED, "slow down", retry_after=30.0)
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: limited if 5 <= number <= 12 else None)
    results, runner = run(texts(1000), transport)
    assert {result.status for result in results} == {Status.LABELLED}
    assert runner.statistics().seconds > 30


def test_stopping_keeps_what_is_in_flight_and_leaves_the_rest_pending() -> None:
    transport = FakeTransport(TASK, parity)

    async def work() -> tuple[list[Result], Runner]:
        async with Runner(TASK, model="m", transport=transport, ledger=None, concurrency=4) as runner:
            asyncio.get_running_loop().call_later(1.5, runner.stop, "interrupted")
            return [result async for result in runner.stream(texts(1000))], runner

    results, runner = FakeClock().run(work())
    assert Counter(result.status for result in results) == {Status.LABELLED: 100, Status.PENDING: 900}
    assert len(transport.prompts) == 5
    assert runner.statistics().stopped == "interrupted"
    assert results[-1].error == "stopped: interrupted"


def test_an_interrupt_waits_for_what_is_in_flight_and_keeps_it(tmp_path: Path) -> None:
    transport = FakeTransport(TASK, parity, seconds=10)

    async def work() -> None:
        async with Runner(TASK, model="m", transport=transport, ledger=tmp_path / "l.db") as runner:
            assert [result async for result in runner.stream(texts(20))]

    async def interrupted() -> None:
        job = asyncio.create_task(work())
        await asyncio.sleep(5)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job

    FakeClock().run(interrupted())
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.statistics().answers == 20


def test_the_input_is_read_ahead_within_a_bound() -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for number in range(200_000):
            taken += 1
            yield f"text {number}"

    async def work() -> None:
        transport = FakeTransport(TASK, parity, seconds=1000)
        async with Runner(TASK, model="m", transport=transport, ledger=None) as runner:
            async for _ in runner.stream(endless()):
                break

    FakeClock().run(work())
    assert taken <= 11_000


def test_an_error_in_the_source_comes_after_the_results_of_what_was_read() -> None:
    def broken() -> Iterator[str]:
        yield from texts(30)
        raise InputError("line 31: not CSV", line=31)

    transport = FakeTransport(TASK, parity)
    seen: list[Result] = []

    async def work() -> None:
        async with Runner(TASK, model="m", transport=transport, ledger=None) as runner:
            async for result in runner.stream(broken()):
                seen.append(result)  # noqa: PERF401  a comprehension would be lost with the error

    with pytest.raises(InputError, match="line 31"):
        FakeClock().run(work())
    assert [result.label for result in seen] == [parity(text) for text in texts(30)]


def test_awaited_single_texts_share_a_pack() -> None:
    transport = FakeTransport(TASK, parity)

    async def work() -> list[Result]:
        async with Runner(TASK, model="m", transport=transport, ledger=None) as runner:
            await runner.submit("the first goes alone")
            return await asyncio.gather(*(runner.submit(text) for text in texts(45)))

    results = FakeClock().run(work())
    assert [result.label for result in results] == [parity(text) for text in texts(45)]
    assert [len(read_user(prompt.user)[1]) for prompt in transport.prompts] == [1, 20, 20, 5]


def test_a_slow_source_is_labelled_as_it_comes() -> None:
    async def slowly() -> AsyncIterator[Item]:
        for number in range(3):
            yield Item(f"text {number}", id=number)
            await asyncio.sleep(100)

    clock = FakeClock()
    seen: list[float] = []

    async def work() -> None:
        async with Runner(TASK, model="m", transport=FakeTransport(TASK, parity), ledger=None) as runner:
            async for result in runner.stream(slowly()):
                assert result.item.id == len(seen)
                seen.append(clock.now)

    clock.run(work())
    assert [round(moment) for moment in seen] == [1, 101, 201]


def test_events_tell_every_request_and_the_stop() -> None:
    events: list[Event] = []
    refused = TransportError(Failure.QUOTA, "empty", status=402)
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: refused if number == 3 else None)
    run(texts(100), transport, on_event=events.append, concurrency=1)
    ended = [event for event in events if isinstance(event, AttemptEnded)]
    assert [(event.outcome, event.step) for event in ended] == [
        ("20 of 20 answers", "accept"),
        ("20 of 20 answers", "accept"),
        ("quota: empty", "stop"),
    ]
    assert [event for event in events if isinstance(event, JobStopped)] == [JobStopped("quota: empty")]


def test_a_ledger_that_fails_in_mid_job_ends_it_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, calls = Ledger.commit, 0

    def failing(self: Ledger, changes: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise LedgerError(tmp_path, "the disk is gone")
        commit(self, changes)

    monkeypatch.setattr(Ledger, "commit", failing)
    with pytest.raises(LedgerError, match="the disk is gone"):
        run(texts(1000), FakeTransport(TASK, parity), ledger=tmp_path / "l.db")


def test_a_full_disk_stops_the_job_and_keeps_what_is_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, opened = Ledger.commit, 0

    def filling(self: Ledger, changes: Any) -> None:
        nonlocal opened
        opened += sum(isinstance(change, Opened) for change in changes)
        if opened > 4 and any(isinstance(change, Opened) for change in changes):
            raise LedgerFull(tmp_path, "no room")
        commit(self, changes)

    monkeypatch.setattr(Ledger, "commit", filling)
    seen: list[Result] = []
    transport = FakeTransport(TASK, parity, seconds=float)

    async def work() -> None:
        async with Runner(TASK, model="m", transport=transport, ledger=tmp_path / "l.db", concurrency=3) as runner:
            async for result in runner.stream(texts(400)):
                seen.append(result)  # noqa: PERF401  a comprehension would be lost with the error

    with pytest.raises(LedgerFull, match="no room"):
        FakeClock().run(work())
    assert Counter(result.status for result in seen) == {
        Status.LABELLED: 20 * len(transport.prompts),
        Status.PENDING: 400 - 20 * len(transport.prompts),
    }
    monkeypatch.undo()
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.statistics().answers == 20 * len(transport.prompts)


def test_a_budget_refuses_to_start_where_earlier_costs_are_unknown(tmp_path: Path) -> None:
    run(texts(20), FakeTransport(TASK, parity), ledger=tmp_path / "l.db")
    with pytest.raises(PriceError, match="what 1 earlier requests of this job cost is unknown"):
        run(texts(40), FakeTransport(TASK, parity), ledger=tmp_path / "l.db", budget_usd=1, price=PRICE)


@pytest.mark.parametrize("usd", ["-1", "NaN", "Infinity"])
def test_a_charge_that_is_no_amount_books_the_reserve(usd: str) -> None:
    charge = Charge(Decimal(usd), ChargeSource.HEADER)
    _, runner = run(texts(20), FakeTransport(TASK, parity, charge=charge), price=PRICE)
    assert runner.statistics().charge_sources == {ChargeSource.RESERVE: 1}
    assert runner.statistics().settled > 0


def test_where_charges_are_told_one_that_is_missing_is_taken_for_the_reserve_and_not_for_the_usage() -> None:
    def fault(prompt: Prompt, number: int) -> Reply | None:
        return replace(transport.right_reply(prompt), charge=None) if number == 2 else None

    charge = Charge(Decimal("0.00001"), ChargeSource.HEADER)
    transport = FakeTransport(TASK, parity, fault=fault, charge=charge)
    _, runner = run(texts(60), transport, price=PRICE)
    assert runner.statistics().charge_sources == {ChargeSource.HEADER: 2, ChargeSource.RESERVE: 1}


def test_a_low_balance_stops_the_job_before_the_gateway_does() -> None:
    left = [Decimal("0.001")]

    def fault(prompt: Prompt, number: int) -> Reply | TransportError:
        left[0] -= Decimal("0.00005")
        if left[0] < 0:
            return TransportError(Failure.QUOTA, "no credit", status=402)
        return replace(transport.right_reply(prompt), balance=left[0])

    transport = FakeTransport(TASK, parity, fault=fault, charge=Charge(Decimal("0.00005"), ChargeSource.HEADER))
    results, runner = run(texts(1000), transport, price=PRICE)
    assert (runner.statistics().stopped or "").startswith("balance: 0.000")
    assert 200 < sum(result.status is Status.LABELLED for result in results) < 400
    assert left[0] >= 0, "nothing was refused"


def test_one_odd_balance_is_information_only() -> None:
    def fault(prompt: Prompt, number: int) -> Reply:
        return replace(transport.right_reply(prompt), balance=Decimal(0) if number % 3 == 0 else Decimal(5))

    transport = FakeTransport(TASK, parity, fault=fault)
    results, runner = run(texts(400), transport, price=PRICE)
    assert {result.status for result in results} == {Status.LABELLED}
    assert runner.statistics().stopped is None


def test_cost_and_pace_are_told_by_how_much_was_in_flight() -> None:
    transport = FakeTransport(TASK, parity, seconds=2.0, charge=Charge(Decimal("0.0002"), ChargeSource.HEADER))
    _, runner = run(texts(2000), transport)
    levels = runner.statistics().levels
    assert [(level.least, level.most) for level in levels][:4] == [(1, 1), (2, 3), (4, 7), (8, 15)]
    assert sum(level.requests for level in levels) == 100
    assert {level.usd_an_item for level in levels} == {Decimal("0.00001")}
    assert [level.items_a_second for level in levels][:1] == [10.0]
    paces = [level.items_a_second or 0 for level in levels]
    assert paces == sorted(paces)
    assert paces[-1] > 50


@pytest.mark.no_cover
@pytest.mark.parametrize(("share", "load"), [(0.5, 1.3), (0.8, 0.2), (0.95, 0.1)])
def test_a_brownout_is_met_with_no_more_load_than_before_and_with_less_the_less_it_answers(
    share: float, load: float
) -> None:
    clock, rng = FakeClock(), random.Random(1)
    sent: list[float] = []
    fails: dict[int, bool] = {}

    def seconds(number: int) -> float:
        # what fails, fails fast: the slots come free ten times as often
        fails[number] = 20 <= clock.now < 200 and rng.random() < share
        sent.append(clock.now)
        return 0.1 if fails[number] else 1.0

    def fault(prompt: Prompt, number: int) -> TransportError | None:
        return TransportError(Failure.OVERLOADED, "busy", status=503) if fails[number] else None

    async def work() -> Statistics:
        transport = FakeTransport(TASK, parity, seconds=seconds, fault=fault)
        options: Any = {"ledger": None, "limits": PackLimits(max_items=2), "concurrency": 20}
        async with Runner(TASK, model="m", transport=transport, **options) as runner:
            assert len([result async for result in runner.stream(texts(9000))]) == 9000
            return runner.statistics()

    statistics = clock.run(work())
    before = sum(10 <= moment < 20 for moment in sent) / 10
    during = sum(20 <= moment < 200 for moment in sent) / 180
    after = sum(moment >= 230 for moment in sent) / (clock.now - 230)
    assert during < load * before
    assert after > 0.7 * before
    assert statistics.labelled + statistics.failed == 9000, "the job outlives it"
    assert statistics.failed < 20


def test_after_two_hours_of_silence_the_job_stops() -> None:
    refused = TransportError(Failure.RATE_LIMITED, "later", status=429, retry_after=1000.0)
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: refused if number > 1 else None)
    results, runner = run(texts(100), transport)
    assert (runner.statistics().stopped or "").startswith("nothing was answered for 1")
    assert sum(result.status is Status.PENDING for result in results) == 80
    assert runner.statistics().seconds < 3 * 3600


def test_a_runner_that_nobody_asked_anything_was_not_silent() -> None:
    flaky = TransportError(Failure.OVERLOADED, "busy", status=503)
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: flaky if number == 2 else None)

    async def work() -> Result:
        async with Runner(TASK, model="m", transport=transport, ledger=None) as runner:
            await runner.submit("one")
            await asyncio.sleep(9_000)
            return await runner.submit("two")

    assert FakeClock().run(work()).status is Status.LABELLED


def test_a_long_pause_is_told_once() -> None:
    refused = TransportError(Failure.RATE_LIMITED, "later", status=429, retry_after=200.0)
    events: list[Event] = []
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: refused if number in {3, 4} else None)
    run(texts(200), transport, on_event=events.append)
    pauses = [event.seconds for event in events if isinstance(event, Paused)]
    assert len(pauses) == 1
    assert 200 <= pauses[0] <= 250


@pytest.mark.parametrize("failure", [Failure.LOST, Failure.CONFLICT, Failure.OVERLOADED, Failure.CUT])
def test_under_hold_nothing_that_may_have_been_billed_is_asked_again(failure: Failure) -> None:
    sick = TransportError(failure, "gone")
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: sick if number == 2 else None)
    results, runner = run(texts(100), transport, on_doubt="hold", price=PRICE)
    assert set(asked(transport).values()) == {1}
    assert Counter(result.status for result in results) == {Status.LABELLED: 80, Status.DOUBT: 20}
    assert runner.statistics().in_doubt > 0


def test_under_hold_a_cut_reply_whose_charge_is_known_is_not_in_doubt() -> None:
    charge = Charge(Decimal("0.0001"), ChargeSource.HEADER)
    cut_off = TransportError(Failure.CUT, "cut off", charge=charge)
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: cut_off if number == 2 else None)
    results, runner = run(texts(100), transport, on_doubt="hold", price=PRICE)
    assert {result.status for result in results} == {Status.LABELLED}
    assert runner.statistics().in_doubt == 0


def test_under_hold_a_gateway_that_answers_nobody_stops_the_job_and_parks_only_what_was_sent() -> None:
    lost = TransportError(Failure.LOST, "reset")
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: lost if number > 5 else None)
    results, runner = run(texts(2000), transport, on_doubt="hold", price=PRICE)
    counts = Counter(result.status for result in results)
    assert "in a row failed" in (runner.statistics().stopped or "")
    assert counts[Status.DOUBT] == 20 * (len(transport.prompts) - 5) <= 600
    assert counts[Status.PENDING] == 2000 - 100 - counts[Status.DOUBT]


def test_an_answer_is_committed_before_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = Ledger.commit

    def failing(self: Ledger, changes: Any) -> None:
        if any(isinstance(change, Closed) for change in changes):
            raise LedgerError(tmp_path, "the disk is gone")
        commit(self, changes)

    monkeypatch.setattr(Ledger, "commit", failing)
    seen: list[Result] = []

    async def work() -> None:
        async with Runner(TASK, model="m", transport=FakeTransport(TASK, parity), ledger=tmp_path / "l.db") as runner:
            async for result in runner.stream(texts(10)):
                seen.append(result)  # noqa: PERF401  a comprehension would be lost with the error

    with pytest.raises(LedgerError, match="the disk is gone"):
        FakeClock().run(work())
    assert seen == []


def test_attempts_are_numbered_from_one_and_kept(tmp_path: Path) -> None:
    lost = TransportError(Failure.LOST, "reset")
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: lost if number <= 2 else None)
    events: list[Event] = []
    run(["a"], transport, ledger=tmp_path / "l.db", on_event=events.append)
    assert [event.number for event in events if isinstance(event, AttemptEnded)] == [1, 2, 3]
    with Ledger(tmp_path / "l.db") as ledger:
        assert [attempt.number for attempt in ledger.attempts_in_doubt()] == [1, 2]


def test_a_bug_in_a_transport_is_raised_to_an_awaited_single_too() -> None:
    class Broken(FakeTransport):
        async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
            raise ZeroDivisionError

    async def work() -> None:
        async with Runner(TASK, model="m", transport=Broken(TASK, parity), ledger=None) as runner:
            await runner.submit("a")

    with pytest.raises(ZeroDivisionError):
        FakeClock().run(work())


def test_a_bug_in_a_transport_is_raised_and_hangs_nobody() -> None:
    class Broken(FakeTransport):
        async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(texts(10), Broken(TASK, parity))


async def never_ends(work: Any) -> Any:
    return await asyncio.wait_for(work, 5)


def test_a_ledger_that_fails_in_a_look_up_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Ledger, keys: Any) -> Any:
        raise LedgerError("l.db", "damaged")

    monkeypatch.setattr(Ledger, "find", failing)
    with pytest.raises(LedgerError, match="damaged"):
        run(texts(5), FakeTransport(TASK, parity))


def test_a_stream_that_is_left_during_its_look_up_leaves_its_texts_askable(monkeypatch: pytest.MonkeyPatch) -> None:
    find = Ledger.find

    def slowly(self: Ledger, keys: Any) -> Any:
        time.sleep(0.05)
        return find(self, keys)

    monkeypatch.setattr(Ledger, "find", slowly)

    async def work() -> Result:
        transport = FakeTransport(TASK, parity, seconds=0)
        async with Runner(TASK, model="m", transport=transport, ledger=None) as runner:
            stream = runner.stream(texts(3000))
            await anext(stream)
            await stream.aclose()
            return await asyncio.wait_for(runner.submit(texts(3000)[700]), 5)

    assert asyncio.run(work()).status is Status.LABELLED


def test_what_a_stream_that_is_left_has_read_ahead_is_not_bought() -> None:
    transport = FakeTransport(TASK, parity)

    async def work() -> Result:
        async with Runner(TASK, model="m", transport=transport, ledger=None, concurrency=4) as runner:
            stream = runner.stream(texts(2000))
            assert (await anext(stream)).status is Status.LABELLED
            await stream.aclose()
            under_way = runner.statistics().requests
            await asyncio.sleep(1000)
            statistics = runner.statistics()
            assert len(transport.prompts) == statistics.requests == under_way < 40
            assert statistics.items == statistics.labelled < 800
            # a text that was in flight when it was left is answered for whoever asks next, and so is one that was not
            return [await runner.submit(text) for text in texts(2000)[-40:]][-1]

    assert FakeClock().run(work()).status is Status.LABELLED
    assert set(asked(transport).values()) == {1}


@pytest.mark.parametrize("failure", [Failure.LOST, Failure.RATE_LIMITED, Failure.BAD_REQUEST])
def test_a_request_that_fails_after_its_stream_was_left_is_not_made_again(failure: Failure) -> None:
    """Law 3, in reverse: what nobody wants any more is not paid for, however its request ended."""
    transport = FakeTransport(
        TASK, parity, fault=lambda _, number: TransportError(failure, "no") if number < 2 else None
    )

    async def work() -> Result:
        async with Runner(TASK, model="m", transport=transport, ledger=None) as runner:
            stream = runner.stream(texts(20))
            first = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.5)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await stream.aclose()
            await asyncio.sleep(1000)
            assert len(transport.prompts) == 1
            # and it can be asked by whoever comes next
            return await runner.submit(texts(20)[7])

    assert FakeClock().run(work()).status is Status.LABELLED
    assert len(transport.prompts) == 2


def test_a_stream_that_is_left_during_its_look_up_buys_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    find, looking, found = Ledger.find, threading.Event(), threading.Event()

    def slowly(self: Ledger, keys: Any) -> Any:
        looking.set()
        found.wait(5)
        return find(self, keys)

    monkeypatch.setattr(Ledger, "find", slowly)
    transport = FakeTransport(TASK, parity, seconds=0)

    async def work() -> Statistics:
        async with Runner(TASK, model="m", transport=transport, ledger=None, linger=0.0) as runner:
            stream = runner.stream(texts(100))
            first = asyncio.ensure_future(anext(stream))
            await asyncio.to_thread(looking.wait, 5)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            found.set()
            last = await runner.submit("the last one")
            assert last.status is Status.LABELLED
            return runner.statistics()

    statistics = asyncio.run(work())
    assert set(asked(transport)) == {"the last one"}
    assert statistics.items == 1


@pytest.mark.parametrize("seconds", [0.01, 0.5])
def test_a_text_whose_caller_gives_up_is_not_bought(seconds: float) -> None:
    transport = FakeTransport(TASK, parity)

    async def work() -> int:
        async with Runner(TASK, model="m", transport=transport, ledger=None, concurrency=1, linger=0.1) as runner:
            before = asyncio.ensure_future(runner.submit("the one before"))
            await asyncio.sleep(0.2)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(runner.submit("given up"), seconds)
            await before
            await asyncio.sleep(1000)
            return runner.statistics().items

    assert FakeClock().run(work()) == 1
    assert set(asked(transport)) == {"the one before"}


def test_a_copy_that_somebody_else_waits_for_is_bought_all_the_same() -> None:
    transport = FakeTransport(TASK, parity)

    async def work() -> Result:
        async with Runner(TASK, model="m", transport=transport, ledger=None, concurrency=1) as runner:
            stream = runner.stream(texts(2000))
            await anext(stream)
            other = asyncio.create_task(runner.submit(texts(2000)[-1]))
            await asyncio.sleep(0.5)
            await stream.aclose()
            return await other

    assert FakeClock().run(work()).label == parity(texts(2000)[-1])


@pytest.mark.parametrize("how", ["left", "awaited"])
def test_a_ledger_that_fails_after_the_caller_has_left_is_told_at_the_end(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Ledger, changes: Any) -> None:
        raise LedgerFull("l.db", "no room")

    async def work() -> None:
        transport = FakeTransport(TASK, parity)
        async with Runner(TASK, model="m", transport=transport, ledger=tmp_path / "l.db", concurrency=2) as runner:
            if how == "left":
                stream = runner.stream(texts(1000))
                await anext(stream)
                monkeypatch.setattr(Ledger, "commit", fail)
                await stream.aclose()
            else:
                monkeypatch.setattr(Ledger, "commit", fail)
                assert (await runner.submit("a")).status is Status.PENDING

    with pytest.raises(LedgerFull, match="no room"):
        FakeClock().run(work())


def test_an_allowance_grows_for_the_pack_that_needs_it_whatever_others_answer() -> None:
    def fault(prompt: Prompt, number: int) -> Reply | None:
        whole = transport.right_reply(prompt)
        if " 77" not in prompt.user or prompt.max_tokens >= 3000:
            return None
        return Reply("", StopReason.MAX_TOKENS, 1.0, whole.usage)

    transport = FakeTransport(TASK, parity, fault=fault, seconds=lambda number: 0.5 + number % 3)
    results, _ = run(texts(6000), transport, concurrency=8)
    assert {result.status for result in results} == {Status.LABELLED}


def test_answers_that_are_all_cut_stop_the_job_and_break_nothing() -> None:
    transport = FakeTransport(
        TASK, parity, fault=lambda prompt, number: Reply("", StopReason.MAX_TOKENS, 1.0, Usage(300, prompt.max_tokens))
    )
    results, runner = run(texts(2000), transport, price=PRICE)
    assert {result.status for result in results} == {Status.PENDING}
    assert "no usable row" in (runner.statistics().stopped or "")
    assert len(transport.prompts) <= 20


@pytest.mark.parametrize("outputs", [0, 1])
def test_a_usage_that_is_too_low_truncates_nothing(outputs: int) -> None:
    def fault(prompt: Prompt, number: int) -> Reply:
        whole = transport.right_reply(prompt)
        cut_off = whole.usage is not None and whole.usage.output_tokens > prompt.max_tokens
        stop = StopReason.MAX_TOKENS if cut_off else StopReason.STOP
        return Reply(whole.text[: 4 * prompt.max_tokens], stop, 1.0, Usage(300, outputs))

    transport = FakeTransport(TASK, parity, fault=fault)
    run(texts(1000), transport)
    assert len(transport.prompts) <= 60


@pytest.mark.parametrize("failure", [Failure.TOO_LONG, Failure.BAD_REQUEST, Failure.SETTING_REFUSED])
def test_a_gateway_that_refuses_everything_costs_few_requests(failure: Failure) -> None:
    def fault(prompt: Prompt, number: int) -> TransportError:
        return TransportError(failure, f"no, said req_{number}a")

    transport = FakeTransport(TASK, parity, fault=fault)
    results, runner = run(texts(2000), transport)
    assert runner.statistics().stopped
    assert len(transport.prompts) <= 40
    assert sum(result.status is Status.PENDING for result in results) >= 1900


def test_under_hold_a_doubtful_text_is_not_asked_again_in_the_same_job() -> None:
    lost = TransportError(Failure.LOST, "gone")
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: lost if number == 1 else None)

    async def work() -> list[Result]:
        async with Runner(TASK, model="m", transport=transport, ledger=None, on_doubt="hold") as runner:
            return [await runner.submit("one"), await runner.submit("one")]

    assert [result.status for result in FakeClock().run(work())] == [Status.DOUBT, Status.DOUBT]
    assert len(transport.prompts) == 1


def test_one_odd_usage_fails_no_item() -> None:
    def fault(prompt: Prompt, number: int) -> Reply:
        whole = transport.right_reply(prompt)
        assert whole.usage is not None
        return replace(whole, usage=Usage(whole.usage.input_tokens + 1500, whole.usage.output_tokens))

    transport = FakeTransport(TASK, parity, fault=fault)
    results, _ = run(texts(300), transport, limits=PackLimits(max_input_tokens=500))
    assert {result.status for result in results} == {Status.LABELLED}


def test_a_content_refusal_slows_nobody_down() -> None:
    def fault(prompt: Prompt, number: int) -> TransportError | None:
        return TransportError(Failure.BAD_REQUEST, "moderated") if " 1" in prompt.user.split("\n")[1] else None

    transport = FakeTransport(TASK, parity, fault=fault)
    _, runner = run(texts(4000), transport)
    assert runner.statistics().limit >= 8


def test_a_listener_that_raises_costs_no_paid_answer(tmp_path: Path) -> None:
    heard = 0

    def listen(event: Event) -> None:
        nonlocal heard
        heard += isinstance(event, AttemptEnded)
        if heard == 5:
            raise ZeroDivisionError

    transport = FakeTransport(TASK, parity)
    with pytest.raises(ZeroDivisionError):
        run(texts(2000), transport, ledger=tmp_path / "l.db", on_event=listen)
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.statistics().answers == 20 * len(transport.prompts)
        assert not list(ledger.attempts_in_doubt())


def test_an_interrupt_inside_the_first_call_of_a_listener_leaves_the_ledger_free(tmp_path: Path) -> None:
    class Interrupt(BaseException):
        """As Ctrl-C's, which the test's own loop would take for its own."""

    def listen(event: Event) -> None:
        raise Interrupt

    with pytest.raises(Interrupt):
        run(["a"], FakeTransport(TASK, parity), ledger=tmp_path / "l.db", on_event=listen)
    results, _ = run(["a"], FakeTransport(TASK, parity), ledger=tmp_path / "l.db")
    assert results[0].label == "odd"


def test_a_start_that_fails_leaves_the_ledger_free(tmp_path: Path) -> None:
    ledger = tmp_path / "l.db"
    run(texts(20), FakeTransport(TASK, parity), ledger=ledger)
    with pytest.raises(PriceError) as kept:
        run(texts(40), FakeTransport(TASK, parity), ledger=ledger, budget_usd=1, price=PRICE)
    results, _ = run(texts(40), FakeTransport(TASK, parity), ledger=ledger)
    assert len(results) == 40
    assert kept.value is not None


@pytest.mark.parametrize("step", ["open", "write", "close"])
def test_who_is_cancelled_while_the_ledger_is_busy_leaves_it_free(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = {"open": "__init__", "write": "commit", "close": "end_job"}[step]
    original, begun, go_on = getattr(Ledger, method), threading.Event(), threading.Event()

    def slowly(self: Ledger, *given: Any, **named: Any) -> None:
        begun.set()
        go_on.wait(5)
        original(self, *given, **named)

    def runner() -> Runner:
        return Runner(TASK, model="m", transport=FakeTransport(TASK, parity), ledger=tmp_path / "l.db")

    async def work() -> None:
        async def use() -> None:
            async with runner() as entered:
                async for _ in entered.stream(texts(20) if step == "write" else []):
                    pass

        with monkeypatch.context() as slow:
            slow.setattr(Ledger, method, slowly)
            using = asyncio.ensure_future(use())
            await asyncio.to_thread(begun.wait, 5)
            for _ in range(50):  # whatever it waits for next
                using.cancel()
                await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.05, go_on.set)
            await asyncio.gather(using, return_exceptions=True)
        await asyncio.to_thread(go_on.wait, 5)
        for _ in range(50):  # the thread that was abandoned ends in its own time
            try:
                async with runner():
                    return
            except LedgerInUse:
                await asyncio.sleep(0.05)
        raise AssertionError("the ledger is in use for good")

    asyncio.run(work())


@pytest.mark.parametrize("error", [ValueError, KeyError])
def test_a_stored_record_that_its_model_refuses_by_now_fails_alone(error: type[Exception], tmp_path: Path) -> None:
    """A model's validators are no part of the fingerprint, and they are the user's code: they may raise anything."""
    is_strict = False

    class Length(pydantic.BaseModel):
        length: int

        @pydantic.field_validator("length")
        @classmethod
        def check(cls, length: int) -> int:
            if is_strict and length == 6:
                raise error("no longer")
            return length

    task = Task(record=Length)
    transport = FakeTransport(task, lambda text: {"length": len(text)})

    async def work(*given: str) -> list[Result]:
        async with Runner(task, model="m", transport=transport, ledger=tmp_path / "l.db") as runner:
            return [result async for result in runner.stream(given)]

    assert {result.status for result in FakeClock().run(work("six is", "seventy"))} == {Status.LABELLED}
    is_strict = True
    six, seventy, fresh = FakeClock().run(work("six is", "seventy", "something new"))
    assert (six.status, six.error) == (
        Status.FAILED,
        "the ledger's record for this text no longer passes the task's model",
    )
    assert (seventy.status, fresh.status) == (Status.LABELLED, Status.LABELLED)
    assert len(transport.prompts) == 2


def test_a_closed_runner_says_so() -> None:
    async def work() -> None:
        async with Runner(TASK, model="m", transport=FakeTransport(TASK, parity), ledger=None) as runner:
            pass
        await runner.submit("late")

    with pytest.raises(CallError, match="the runner is closed"):
        FakeClock().run(never_ends(work()))


def test_a_gateway_that_asks_to_wait_for_a_day_stops_the_job() -> None:
    limited = TransportError(Failure.RATE_LIMITED, "tomorrow", retry_after=86_400.0)
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: limited if number == 3 else None)
    _, runner = run(texts(2000), transport)
    assert "asks to wait 86400 seconds" in (runner.statistics().stopped or "")


def test_refusals_without_a_wait_are_outwaited_for_minutes() -> None:
    clock = FakeClock()

    class Closed4Minutes(FakeTransport):
        async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
            if 5 < clock.now < 245:
                raise TransportError(Failure.RATE_LIMITED, "slow down", retry_after=0.0)
            return await super().send(prompt, deadline=deadline)

    async def work() -> Runner:
        async with Runner(TASK, model="m", transport=Closed4Minutes(TASK, parity), ledger=None) as runner:
            async for _ in runner.stream(texts(6000)):
                pass
        return runner

    statistics = clock.run(work()).statistics()
    assert statistics.labelled == 6000
    assert statistics.requests < 450


@pytest.mark.parametrize("seconds", [1.0, 20.0])
def test_a_short_outage_in_mid_job_fails_no_item_and_stops_nothing(seconds: float) -> None:
    clock = FakeClock()

    class Blinking(FakeTransport):
        async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
            if 10 < clock.now < 10 + seconds:
                raise TransportError(Failure.NOT_SENT, "no route")
            return await super().send(prompt, deadline=deadline)

    async def work() -> Runner:
        transport = Blinking(TASK, parity)
        async with Runner(TASK, model="m", transport=transport, ledger=None, concurrency=30) as runner:
            async for _ in runner.stream(texts(12_000)):
                pass
        return runner

    statistics = clock.run(work()).statistics()
    assert (statistics.labelled, statistics.stopped) == (12_000, None)


def test_a_network_that_is_down_leaves_every_item_pending() -> None:
    down = TransportError(Failure.NOT_SENT, "no route")
    transport = FakeTransport(TASK, parity, fault=lambda prompt, number: down)
    results, runner = run(texts(400), transport)
    assert {result.status for result in results} == {Status.PENDING}
    assert len(transport.prompts) == 8
    assert "no route" in (runner.statistics().stopped or "")


def test_label_is_one_line(in_folder: Path) -> None:
    transport = FakeTransport(TASK, parity, seconds=0)
    results = label(["ab", "c"], labels=["even", "odd"], model="m", transport=transport)
    assert [result.label for result in results] == ["even", "odd"]
    assert (in_folder / "prompt-packer.db").exists()


def test_label_works_inside_a_running_loop() -> None:
    async def notebook() -> list[Result]:
        transport = FakeTransport(TASK, parity, seconds=0)
        return label(["ab", "c"], task=TASK, model="m", ledger=None, transport=transport)

    assert [result.label for result in asyncio.run(notebook())] == ["even", "odd"]


def test_an_interrupt_in_a_notebook_ends_the_job_and_keeps_what_was_in_flight(tmp_path: Path) -> None:
    transport = FakeTransport(TASK, parity, seconds=0.05)

    async def notebook() -> None:
        label(texts(5000), task=TASK, model="m", ledger=tmp_path / "l.db", transport=transport, concurrency=2)

    loop = asyncio.new_event_loop()
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(notebook())
    timer.join()
    loop.close()
    sent = len(transport.prompts)
    assert 0 < sent < 250
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.statistics().answers == 20 * sent
    time.sleep(0.15)
    assert len(transport.prompts) == sent


def test_label_raises_what_stopped_it_with_every_items_state() -> None:
    refused = TransportError(Failure.QUOTA, "empty")
    transport = FakeTransport(TASK, parity, seconds=0, fault=lambda prompt, number: refused if number == 2 else None)
    with pytest.raises(StoppedError, match="quota: empty") as caught:
        label(texts(30), task=TASK, model="m", ledger=None, transport=transport)
    assert Counter(result.status for result in caught.value.results) == {Status.LABELLED: 20, Status.PENDING: 10}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({"items": ["a"]}, "expected either labels or a task, got neither"),
        ({"items": ["a"], "labels": ["x", "y"], "task": TASK}, "got both"),
        ({"items": "abc", "labels": ["x", "y"]}, "expected a list of texts, got one text"),
        ({"items": [1], "labels": ["x", "y"]}, "expected texts or items, got int"),
        ({"items": ["a"], "task": TASK, "budget_usd": "much"}, "budget_usd: expected US dollars above 0, got 'much'"),
        ({"items": ["a"], "task": TASK, "budget_usd": 0}, "budget_usd: expected US dollars above 0, got 0"),
        ({"items": ["a"], "task": TASK, "concurrency": 0}, "concurrency: expected 1 to 256"),
    ],
)
def test_a_wrong_call_says_what_was_wanted_and_sends_nothing(arguments: dict[str, Any], wanted: str) -> None:
    transport = FakeTransport(TASK, parity)
    with pytest.raises(CallError, match=wanted):
        label(model="m", ledger=None, transport=transport, **arguments)
    assert transport.prompts == []


def test_record_tasks_give_instances_of_the_model(tmp_path: Path) -> None:
    import pydantic

    class Parity(pydantic.BaseModel):
        even: bool
        size: int

    task = Task(record=Parity)

    def annotate(text: str) -> dict[str, Any]:
        return {"even": len(text) % 2 == 0, "size": len(text)}

    for expected_prompts in (1, 0):
        transport = FakeTransport(task, annotate, seconds=0)
        results = label(["ab", "c"], task=task, model="m", ledger=tmp_path / "l.db", transport=transport)
        assert [result.record for result in results] == [Parity(even=True, size=2), Parity(even=False, size=1)]
        assert len(transport.prompts) == expected_prompts


def test_the_max_tokens_of_a_request_is_tight_and_learned() -> None:
    transport = FakeTransport(TASK, parity)
    run(texts(2000), transport, concurrency=1)
    first, last = transport.prompts[0], transport.prompts[-2]
    usage = transport.right_reply(last).usage
    assert isinstance(usage, Usage)
    assert first.max_tokens <= 200
    assert usage.output_tokens < last.max_tokens <= 2 * usage.output_tokens
