"""An audit fires where packing breaks its promise, and hardly ever where it does not; it buys nothing twice."""

import asyncio
import json
import random
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pydantic
import pytest
from fake_command import connect_to
from gateway.annotators import Annotator, erring
from parity import TASK, parity, right, texts
from schema_documents import SCHEMAS

from packer import connections
from packer.audit import Audit, AuditResult, Stretch
from packer.cli import main
from packer.errors import CallError, Failure, TransportError
from packer.events import AttemptEnded, Audited, Event, PackSizeChanged
from packer.exchange import Charge, ChargeSource, Prompt, Reply, StopReason
from packer.items import Result, Status
from packer.packs import PackLimits
from packer.prompts import read_user, write_answer
from packer.runner import Runner
from packer.sizing import PackSizer
from packer.task import Task
from packer.testing import FakeClock, FakeTransport
from packer.usage import Price, Usage

PRICE = Price(Decimal("0.15"), Decimal("0.6"))


class Erring(FakeTransport):
    """Answers as `annotator` does, who sees the whole pack."""

    def __init__(self, annotator: Annotator, **options: Any) -> None:
        super().__init__(TASK, parity, fault=self._answer, **options)
        self._annotator = annotator

    def _answer(self, prompt: Prompt, number: int) -> Reply:
        nonce, asked = read_user(prompt.user)
        labels = self._annotator(asked, TASK.labels)
        text = write_answer(TASK, nonce, dict(enumerate(labels, 1)))
        return Reply(text, StopReason.STOP, 1.0, Usage(100, 20), Charge(Decimal("0.0001"), ChargeSource.HEADER))


def run(
    given: list[str], transport: FakeTransport, **options: Any
) -> tuple[list[Result], AuditResult, Runner, list[Event]]:
    events: list[Event] = []
    options = {"model": "m", "ledger": None, "audit": 0.2, "on_event": events.append} | options

    async def work() -> tuple[list[Result], AuditResult, Runner, list[Event]]:
        async with Runner(TASK, transport=transport, **options) as runner:
            results = [result async for result in runner.stream(given)]
            found = await runner.audit()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert found is not None
        return results, found, runner, events

    return FakeClock().run(work())


def asked_alone(transport: FakeTransport) -> Counter[str]:
    packs = [read_user(prompt.user)[1] for prompt in transport.prompts]
    return Counter(pack[0] for pack in packs if len(pack) == 1)


# The rule


def fires(seed: int, *, disagreement: float, items: int, promise: float = 0.03) -> bool:
    rng, audit = random.Random(seed), Audit(0.01, promise, cap=20)
    return any(audit.compared(agreed=rng.random() >= disagreement, size=20, number=1) for _ in range(items))


@pytest.mark.no_cover
@pytest.mark.parametrize("disagreement", [0.03, 0.02, 0.0])
def test_a_promise_that_is_kept_is_called_broken_in_at_most_5_of_100_jobs(disagreement: float) -> None:
    assert sum(fires(seed, disagreement=disagreement, items=2_000) for seed in range(400)) <= 20


@pytest.mark.parametrize(("disagreement", "items", "least"), [(0.2, 45, 360), (0.1, 230, 360), (0.06, 2_600, 396)])
def test_a_promise_that_is_broken_is_found_out(disagreement: float, items: int, least: int) -> None:
    assert sum(fires(seed, disagreement=disagreement, items=items) for seed in range(400)) >= least


def test_looks_that_each_allow_5_of_100_would_not_keep_to_that_together() -> None:
    """What the rule guards against: the same evidence, judged each time as if it were looked at once."""
    from packer.intervals import lower_bound

    def is_shown_something(seed: int) -> bool:
        rng, errors = random.Random(seed), 0
        for asked in range(1, 601):
            errors += rng.random() < 0.03
            if asked >= 20 and lower_bound(errors, asked, level=0.95) > 0.03:
                return True
        return False

    assert sum(is_shown_something(seed) for seed in range(100)) > 15


def test_packs_become_half_as_large_and_a_smaller_size_begins_anew() -> None:
    audit = Audit(1.0, 0.03, cap=20)
    lowered = [
        (size, number, audit.cap)
        for size in (20, 12, 20, 10, 5, 3, 2)
        for number in range(1, 21)
        if audit.compared(agreed=False, size=size, number=min(number, size))
    ]
    # a look comes after 20 and no sooner; the packs of 12, and the later ones of 20, are of a size that is gone
    assert lowered == [(20, 20, 10), (10, 20, 5), (5, 20, 2), (2, 20, 1)]
    assert audit.broken


def test_the_evidence_is_looked_at_after_20_30_and_45_items() -> None:
    for right_ones, found_out in ((0, 20), (20, 30), (30, 45)):
        audit = Audit(1.0, 0.03, cap=20)
        fired = [audit.compared(agreed=number <= right_ones, size=20, number=1) for number in range(1, 60)]
        assert fired.index(True) + 1 == found_out


def test_a_promise_is_kept_for_sure_once_enough_items_agree() -> None:
    audit = Audit(1.0, 0.03, cap=20)
    kept = []
    for _ in range(99):
        audit.compared(agreed=True, size=20, number=1)
        kept.append(audit.result().is_kept)
    assert kept == [False] * 98 + [True]
    assert not Audit(1.0, 0.03, cap=20).result().is_kept
    audit.broken = True
    assert not audit.result().is_kept


def test_packs_that_are_smaller_already_are_judged_for_themselves() -> None:
    audit = Audit(1.0, 0.03, cap=20)
    for _ in range(20):
        audit.compared(agreed=True, size=20, number=1)
    assert [audit.compared(agreed=False, size=3, number=1) for _ in range(20)] == [False] * 19 + [True]
    assert audit.cap == 2, "packs of 3 belong to those of up to 5"


def test_errors_are_told_by_where_they_stood_and_earlier_runs_have_no_place() -> None:
    audit = Audit(1.0, 0.5, cap=100)
    for number, agreed in [(1, True), (5, False), (6, True), (20, False), (20, True), (51, True), (100, False)]:
        audit.compared(agreed=agreed, size=100, number=number)
    audit.compared(agreed=True)
    found = audit.result()
    assert found.by_position == (
        Stretch(1, 5, 2, 1),
        Stretch(6, 10, 1, 0),
        Stretch(11, 20, 2, 1),
        Stretch(51, 100, 2, 1),
    )
    assert (found.asked, found.agreed, found.broken) == (8, 5, False)
    assert found.disagreement.value == pytest.approx(3 / 8)
    assert found.disagreement.low < 3 / 8 < found.disagreement.high


def test_who_is_asked_again_hangs_on_the_key_and_the_seed_only() -> None:
    keys = [f"b2:{number}" for number in range(5_000)]
    chosen = [[key for key in keys if Audit(0.1, 0.03, cap=20, seed=seed).chooses(key)] for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert 400 < len(chosen[0]) < 600
    assert all(Audit(1.0, 0.03, cap=20).chooses(key) for key in keys)


def test_a_pack_size_that_was_lowered_stays_low() -> None:
    sizer = PackSizer(20)
    sizer.lower(10)
    assert (sizer.size, sizer.cap) == (10, 10)
    for _ in range(200):
        sizer.answered(10, 10)
    sizer.lower(15)
    assert (sizer.size, sizer.cap) == (10, 10)
    for _ in range(3):
        sizer.answered(10, 0)
    assert sizer.size == 5
    sizer.lower(8)
    assert (sizer.size, sizer.cap) == (5, 8)


# The audit of a job


def test_a_share_of_what_was_labelled_in_packs_is_asked_again_alone_while_the_job_runs() -> None:
    transport = Erring(right)
    given = texts(1_000)
    results, found, runner, events = run(given, transport)
    assert [(result.label, result.known) for result in results] == [(parity(text), False) for text in given]
    again = asked_alone(transport)
    assert set(again.values()) == {1}
    assert 150 < len(again) < 250
    assert (found.asked, found.agreed, found.broken) == (len(again), len(again), False)
    assert sum(stretch.items for stretch in found.by_position) == found.asked
    statistics = runner.statistics()
    assert (statistics.items, statistics.requests) == (1_000, 50)
    assert statistics.settled == Decimal("0.0001") * (50 + len(again)), "what it costs is the job's"
    ends = [event.ask for event in events if isinstance(event, AttemptEnded)]
    assert "single" in ends[: len(ends) // 2], "not only when all rows are there"
    told = [event for event in events if isinstance(event, Audited)]
    assert [(event.asked, event.agreed, event.broken, event.ask) for event in told] == [
        (found.asked, found.agreed, False, "")
    ]


def test_packs_of_20_that_err_in_10_of_100_become_smaller_and_their_labels_stay() -> None:
    transport = Erring(erring(right, an_item=0.1 / 19))
    results, found, runner, events = run(texts(4_000), transport, concurrency=4)
    assert found.broken
    assert found.agreed < found.asked
    assert runner.statistics().pack_size < 20
    sizes = [event.size for event in events if isinstance(event, PackSizeChanged) and not event.ask]
    assert sizes[:2] == [20, 10]
    assert any(isinstance(event, Audited) and event.broken for event in events[: len(events) // 2])
    assert all(result.status is Status.LABELLED for result in results)
    wrong = sum(result.label != parity(result.item.text) for result in results)
    assert wrong > 0, "an answer that was given stands, whatever came alone"


def test_errors_late_in_a_pack_are_told_as_such() -> None:
    _, found, _, _ = run(texts(2_000), Erring(erring(right, a_place=0.01)), audit=0.5, max_disagreement=0.9)
    rates = [stretch.errors / stretch.items for stretch in found.by_position]
    assert [stretch.most for stretch in found.by_position] == [5, 10, 20]
    assert rates[0] < rates[2]
    assert not found.broken


def test_singles_are_not_asked_again() -> None:
    transport = Erring(right)
    _, found, _, _ = run(["one"], transport, audit=1)
    assert (found.asked, len(transport.prompts)) == (0, 1)
    assert found.disagreement.value is None
    with pytest.raises(CallError, match="asked alone already"):
        run(["one"], transport, limits=PackLimits(max_items=1))


@pytest.mark.parametrize(("name", "given"), [("audit", 0), ("audit", 1.5), ("max_disagreement", float("nan"))])
def test_a_share_that_is_none_is_refused_before_anything_is_sent(name: str, given: float) -> None:
    transport = Erring(right)
    with pytest.raises(CallError, match=f"{name}: expected a share"):
        run(["one"], transport, **{name: given})
    assert not transport.prompts


def test_a_second_run_buys_nothing_and_finds_the_same(tmp_path: Path) -> None:
    given = [*texts(300), *texts(300)]
    first, second = Erring(erring(right, an_item=0.002)), Erring(right)
    options: dict[str, Any] = {"ledger": tmp_path / "l.db", "max_disagreement": 0.9}
    _, found, _, _ = run(given, first, **options)
    _, again, runner, _ = run(given, second, **options)
    assert not second.prompts
    assert (again.asked, again.agreed) == (found.asked, found.agreed)
    assert 0 < found.agreed < found.asked
    assert again.by_position == ()
    assert runner.statistics().known == 600


def test_copies_of_a_text_are_counted_once() -> None:
    transport = Erring(right)

    async def work() -> AuditResult | None:
        async with Runner(TASK, model="m", transport=transport, ledger=None, audit=1) as runner:
            for _ in range(3):
                assert len([result async for result in runner.stream(texts(100) + texts(100))]) == 200
                found = await runner.audit()
            return found

    found = FakeClock().run(work())
    assert found is not None
    assert found.asked == 100
    assert sum(asked_alone(transport).values()) == 100


def test_what_fails_alone_says_nothing() -> None:
    def fault(prompt: Prompt, number: int) -> Reply | TransportError | None:
        is_single = len(read_user(prompt.user)[1]) == 1
        return TransportError(Failure.BAD_REQUEST, f"no {number}") if is_single and number % 2 else None

    transport = FakeTransport(TASK, parity, fault=fault)
    results, found, _, _ = run(texts(200), transport)
    assert {result.status for result in results} == {Status.LABELLED}
    assert 0 < found.asked == found.agreed < len(asked_alone(transport))


def test_a_job_that_stops_stops_its_audit_too() -> None:
    transport = Erring(right)
    given = texts(2_000)

    async def work() -> tuple[list[Result], AuditResult | None]:
        async with Runner(TASK, model="m", transport=transport, ledger=None, audit=1, concurrency=2) as runner:
            asyncio.get_running_loop().call_later(9.5, runner.stop, "enough")
            results = [result async for result in runner.stream(given)]
            at = len(transport.prompts)
            found = await runner.audit()
        assert len(transport.prompts) == at
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return results, found

    results, found = FakeClock().run(work())
    states = Counter(result.status for result in results)
    assert set(states) == {Status.LABELLED, Status.PENDING}
    assert found is not None
    assert found.asked == sum(asked_alone(transport).values())


def test_who_leaves_without_asking_for_the_audit_waits_for_it_and_who_is_interrupted_does_not() -> None:
    async def leave(error: BaseException | None) -> tuple[int, int]:
        transport = Erring(right)
        try:
            async with Runner(TASK, model="m", transport=transport, ledger=None, audit=1, concurrency=1) as runner:
                assert len([result async for result in runner.stream(texts(40))]) == 40
                if error is not None:
                    raise error
        except KeyError:
            pass
        return sum(asked_alone(transport).values()), runner.statistics().labelled

    assert FakeClock().run(leave(None)) == (40, 40)
    alone, labelled = FakeClock().run(leave(KeyError("ours")))
    assert (alone < 5, labelled) == (True, 40)


def test_an_audit_keeps_to_the_budget() -> None:
    transport = Erring(right)
    results, found, runner, _ = run(texts(400), transport, audit=1, budget_usd="0.01", price=PRICE)
    statistics = runner.statistics()
    assert statistics.settled + statistics.in_doubt <= Decimal("0.01")
    assert found.asked < 400
    assert statistics.settled == Decimal("0.0001") * len(transport.prompts)
    assert {result.status for result in results} <= {Status.LABELLED, Status.PENDING}


class Length(pydantic.BaseModel):
    """A record with two fields."""

    letters: int
    even: bool


def test_records_agree_where_the_whole_record_does() -> None:
    task = Task(record=Length)

    def annotate(text: str) -> dict[str, Any]:
        return {"letters": len(text), "even": len(text) % 2 == 0}

    def fault(prompt: Prompt, number: int) -> Reply | None:
        nonce, asked = read_user(prompt.user)
        if len(asked) > 1:
            return None
        wrong = annotate(asked[0]) | {"letters": 0 if asked[0].endswith("7") else len(asked[0])}
        return Reply(write_answer(task, nonce, {1: wrong}), StopReason.STOP, 1.0, Usage(1, 1))

    async def work() -> AuditResult | None:
        transport = FakeTransport(task, annotate, fault=fault)
        async with Runner(task, model="m", transport=transport, ledger=None, audit=1, max_disagreement=0.5) as runner:
            assert len([result async for result in runner.stream(texts(100))]) == 100
            return await runner.audit()

    found = FakeClock().run(work())
    assert found is not None
    assert (found.asked, found.agreed) == (100, 90)


# The command

LABEL = [
    "in.csv",
    "--text",
    "text",
    "--labels",
    "even,odd",
    "--model",
    "m",
    "--price-input",
    "1",
    "--price-output",
    "4",
]


@pytest.fixture
def table(in_folder: Path) -> Path:
    path = in_folder / "in.csv"
    path.write_text("text\n" + "".join(f"{text}\n" for text in texts(1_000)), encoding="utf-8")
    return path


@pytest.mark.usefixtures("table")
def test_the_command_tells_of_an_audit_in_a_line_and_in_its_report(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def label(annotator: Annotator, ledger: str, *more: str) -> tuple[str, dict[str, Any]]:
        monkeypatch.setattr(connections, "connect", connect_to(Erring(annotator, seconds=0.002)))
        command = ["label", *LABEL, "--output", "out.csv", "--report", "report.json", "--ledger", ledger, *more]
        assert main(command) == 0
        report = json.loads(Path("report.json").read_text(encoding="utf-8"))
        schema = json.loads((SCHEMAS / "report.schema.json").read_text(encoding="utf-8"))
        jsonschema.validate(report, schema, format_checker=jsonschema.FormatChecker())
        return " ".join(capfd.readouterr().err.split()), report

    shown, report = label(right, "1.db", "--audit", "0.2", "--seed", "7")
    found = report["audit"]
    assert found["asked"] == found["agreed"]
    assert (found["promise"], found["broken"], found["disagreement"]["value"]) == (0.03, False, 0.0)
    assert found["by_position"][0] == {"least": 1, "most": 5, "items": found["by_position"][0]["items"], "errors": 0}
    assert (report["settings"]["audit"], report["settings"]["max_disagreement"]) == (0.2, 0.03)
    assert f"audit {found['asked']} of {found['asked']} items got the same answer when asked again alone" in shown
    assert "the promised 3 % at most is kept" in shown

    shown, report = label(right, "2.db", "--audit", "0.02")
    assert "to be sure of 3 % at most, more would have to be asked" in shown

    shown, report = label(erring(right, an_item=0.01), "3.db", "--audit", "0.5", "--verbose")
    assert report["audit"]["broken"]
    assert "over the promised 3 %, so packs became smaller; --max-items" in shown
    assert "items got the same answer: packs become smaller" in shown
    assert "single: single, attempt 1: 1 of 1 answers" in shown

    shown, report = label(right, "4.db")
    assert report["audit"] is None
    assert "audit" not in shown


@pytest.mark.usefixtures("table")
def test_a_plan_has_what_an_audit_adds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *LABEL, "--audit", "0.1", "--budget-usd", "0.05"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "audit about 100 requests more, each of one text, for about $0.0235" in shown
    assert "does not cover it: it is enough for about 90 %" in shown
    assert main(["plan", *LABEL, "--budget-usd", "0.05"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "audit" not in shown
    assert "covers what is expected" in shown


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["--audit", "0"], "--audit: expected a share above 0, and 1 at most, like 0.01, got '0'"),
        (["--audit", "1.01"], "expected a share"),
        (["--audit", "0.1", "--max-disagreement", "nan"], "--max-disagreement: expected a share"),
        (["--audit", "0.1", "--max-items", "1"], "singles are asked alone already"),
    ],
)
def test_an_audit_that_makes_no_sense_is_refused_at_once(
    given: list[str], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["label", *LABEL, *given]) == 2
    assert wanted in capsys.readouterr().err


@pytest.mark.usefixtures("table")
def test_an_audit_without_scipy_is_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transport = Erring(right)
    monkeypatch.setattr(connections, "connect", connect_to(transport))
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    assert main(["label", *LABEL, "--audit", "0.1"]) == 2
    assert "prompt-packer[quality]" in capsys.readouterr().err
    assert not transport.prompts
