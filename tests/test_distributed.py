"""A real Ray of several worker processes, a real gateway, and a worker that is killed in mid-job."""

import asyncio
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from gateway.server import KEY, Gateway, Setup, running_gateway

import packer
from packer.errors import CallError, LedgerError, StoppedError
from packer.items import Result, Status
from packer.leases import Terms
from packer.ledger import AttemptState, Ledger
from packer.packs import PackLimits
from packer.task import Task
from packer.testing import FakeClock
from packer.usage import Price

ray = pytest.importorskip("ray")
from packer import distributed  # noqa: E402  without Ray there is nothing to import it for

TASK = Task(["spam", "ham"])
PRICE = Price(Decimal("0.15"), Decimal("0.60"))
LONE = PackLimits(1)
RUN = uuid.uuid4().hex  # other Rays may run on this machine


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    environment = {"PACKER_TEST_KEY": KEY, "PACKER_TEST_RUN": RUN}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)  # workers inherit it; a key does not travel
        ray.init(
            "local",
            num_cpus=3,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _node_ip_address="127.0.0.1",
        )
        yield
        ray.shutdown()


def options(gateway: Gateway, folder: Path, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "model": "m",
        "base_url": gateway.url,
        "api_key_env": "PACKER_TEST_KEY",
        "ledger": folder / "l.db",
        "price": PRICE,
        "limits": PackLimits(10),
        "budget_usd": "0.05",
    }
    return given | more


def texts(count: int) -> list[str]:
    return [f"{('spam', 'ham')[number % 2]} {number}" for number in range(count)]


def asked(gateway: Gateway) -> Counter[str]:
    return Counter(text for record in gateway.log.records for text in record.texts)


def check(results: list[Result], given: list[str]) -> None:
    assert [result.item.text for result in results] == given
    assert all(result.label == text.split()[0] for result, text in zip(results, given, strict=True) if result.label)


def when(reached: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Do something once something is so."""

    def wait() -> None:
        while not reached():
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def labellers() -> list[int]:
    """The worker processes that label a part now: Ray writes a task's name into the process list."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::_label_part") and is_ours(path.parent):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def parts_asked(gateway: Gateway, size: int) -> set[int]:
    """The parts of `size` items of which a text was asked: all who label one have requests in flight."""
    return {int(text.split()[1]) // size for text in asked(gateway)}


def is_ours(process: Path) -> bool:
    return f"PACKER_TEST_RUN={RUN}".encode() in (process / "environ").read_bytes()


def test_parts_are_labelled_by_several_processes_and_each_text_is_asked_once(tmp_path: Path) -> None:
    given = texts(300)
    with running_gateway(Setup(price=PRICE, seconds=0.05)) as gateway:
        seen: list[packer.Statistics] = []
        with distributed.open_job(TASK, **options(gateway, tmp_path)) as job:
            actor = ray.get_actor(job.name, namespace=distributed.NAMESPACE)
            assert ray.get(actor.is_used.remote()) is False
            results = list(job.stream(given, workers=3, part=60, show=seen.append))
            now = job.statistics()
        check(results, given)
        assert (now.items, now.labelled, now.requests) == (300, 300, len(gateway.log.records))
        assert now.settled == gateway.log.billed
        assert seen
        assert set(asked(gateway).values()) == {1}
        with pytest.raises(ValueError, match="lender of"):
            ray.get_actor(job.name, namespace=distributed.NAMESPACE)

        before = len(gateway.log.records)
        again = distributed.label(given, task=TASK, part=100, **options(gateway, tmp_path))
        check(again, given)
        assert {result.known for result in again} == {True}
        assert len(gateway.log.records) == before
    with Ledger(tmp_path / "l.db", read_only=True) as ledger:
        assert ledger.verify() == []
        assert [job.outcome for job in ledger.jobs()] == ["finished", "finished"]


def test_a_worker_that_is_killed_in_mid_job_costs_at_most_what_it_had_in_flight(tmp_path: Path) -> None:
    given = texts(240)
    killed: list[int] = []

    def kill() -> None:
        killed.append(labellers()[0])
        os.kill(killed[0], signal.SIGKILL)

    with running_gateway(Setup(price=PRICE, seconds=0.3)) as gateway:
        killer = when(lambda: len(gateway.log.records) >= 30 and parts_asked(gateway, 80) == {0, 1, 2}, kill)
        given_options = options(gateway, tmp_path, limits=PackLimits(2), concurrency=8, patience=5.0)
        results = distributed.label(given, task=TASK, workers=3, part=80, **given_options)
        killer.join(10)
    assert killed
    check(results, given)
    assert {result.status for result in results} == {Status.LABELLED}
    with Ledger(tmp_path / "l.db", read_only=True) as ledger:
        assert ledger.verify() == []
        doubts = list(ledger.attempts_in_doubt())
        statistics = ledger.statistics()
    assert len(doubts) <= 8, "none, where it was killed between two requests"
    assert {attempt.outcome for attempt in doubts} <= {"its worker was lost"}
    twice = sum(count - 1 for count in asked(gateway).values())
    assert twice <= sum(len(attempt.keys) for attempt in doubts)
    spending = statistics.spending
    assert spending.settled <= gateway.log.billed <= spending.settled + spending.doubt <= Decimal("0.05")
    assert statistics.attempts[AttemptState.OPEN] == 0
    assert results.statistics.in_doubt == spending.doubt
    assert results.statistics.labelled == 240


def test_a_driver_that_is_killed_is_taken_over_by_the_next_one(tmp_path: Path) -> None:
    given = texts(40)
    with running_gateway(Setup(price=PRICE, seconds=0.3)) as gateway:
        given_options = options(gateway, tmp_path, limits=LONE, concurrency=4, patience=5.0)
        code = f"""if True:
            import sys, ray
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from test_distributed import PackLimits, Path, Price, Decimal, TASK, distributed, texts
            ray.init(address={ray.get_runtime_context().gcs_address!r}, log_to_driver=False)
            distributed.label(texts(40), task=TASK, part=20, workers=2, **{given_options!r})
        """.replace("PosixPath", "Path")
        with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as driver:
            killer = when(lambda: len(gateway.log.records) >= 12 or driver.poll() is not None, driver.kill)
            assert driver.wait(60) == -signal.SIGKILL, driver.stderr and driver.stderr.read().decode()
            killer.join()
        results = distributed.label(given, task=TASK, part=20, workers=2, **given_options)
    check(results, given)
    assert {result.status for result in results} == {Status.LABELLED}
    assert 8 <= sum(result.known for result in results) < 40
    with Ledger(tmp_path / "l.db", read_only=True) as ledger:
        assert [job.outcome for job in ledger.jobs()] == ["finished"], "it was one lender all the time"
        doubts = sum(len(attempt.keys) for attempt in ledger.attempts_in_doubt())
    assert sum(count - 1 for count in asked(gateway).values()) <= doubts <= 4


def test_a_part_whose_workers_die_again_and_again_is_pending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_TRIES", 0)
    with running_gateway(Setup(price=PRICE, seconds=0.2)) as gateway:
        killer = when(lambda: len(gateway.log.records) >= 3, lambda: os.kill(labellers()[0], signal.SIGKILL))
        with pytest.raises(StoppedError, match="the process that was to label it died 1 times") as stopped:
            distributed.label(
                texts(40), task=TASK, **options(gateway, tmp_path, limits=LONE, concurrency=2, patience=3.0)
            )
        killer.join()
    results = stopped.value.results
    assert [result.item.text for result in results] == texts(40)
    assert {result.status for result in results} == {Status.PENDING}
    with Ledger(tmp_path / "l.db", read_only=True) as ledger:
        assert ledger.verify() == []
        assert 1 <= len(list(ledger.attempts_in_doubt())) <= 2


def test_a_lender_that_dies_is_told_and_the_same_call_again_goes_on(tmp_path: Path) -> None:
    given = texts(30)
    with running_gateway(Setup(price=PRICE, seconds=0.2)) as gateway:
        given_options = options(gateway, tmp_path, limits=LONE, concurrency=2)

        def kill() -> None:
            ray.kill(ray.get_actor(f"lender of {tmp_path / 'l.db'}", namespace=distributed.NAMESPACE))

        killer = when(lambda: len(gateway.log.records) >= 8, kill)
        with pytest.raises(
            LedgerError, match="its lender has ended or its machine is gone; the same call again goes on"
        ):
            distributed.label(given, task=TASK, part=15, **given_options)
        killer.join()
        results = distributed.label(given, task=TASK, part=15, **given_options)
    check(results, given)
    assert sum(result.known for result in results) >= 5
    with Ledger(tmp_path / "l.db", read_only=True) as ledger:
        assert ledger.verify() == []
        doubts = sum(len(attempt.keys) for attempt in ledger.attempts_in_doubt())
    assert sum(count - 1 for count in asked(gateway).values()) <= doubts <= 2


def test_a_job_that_stops_tells_why_and_what_every_item_came_to(tmp_path: Path) -> None:
    with running_gateway(Setup(price=PRICE)) as gateway:
        with pytest.raises(
            StoppedError, match=r"budget: the next request could pass the cap of 0\.0005 USD"
        ) as stopped:
            distributed.label(texts(200), task=TASK, part=70, **options(gateway, tmp_path, budget_usd="0.0005"))
        states = Counter(result.status for result in stopped.value.results)
        assert sum(states.values()) == 200
        assert states.keys() == {Status.LABELLED, Status.PENDING}
        assert gateway.log.billed <= Decimal("0.0005")
        results = distributed.label(texts(200), task=TASK, part=70, **options(gateway, tmp_path))
    check(results, texts(200))
    assert set(asked(gateway).values()) == {1}


def test_items_come_back_as_they_were_given_and_what_reading_raises_comes_after_them(tmp_path: Path) -> None:
    given = [packer.Item(text, threading.Lock()) for text in texts(25)]  # an id that nobody can send

    def read() -> Iterator[packer.Item]:
        yield from given
        raise OSError("the source broke")

    most = 0

    def look(_: packer.Statistics) -> None:
        nonlocal most
        most = max(most, len(labellers()))

    found: list[Result] = []
    with running_gateway(Setup(price=PRICE, seconds=0.1)) as gateway:
        given_options = options(gateway, tmp_path, limits=LONE, concurrency=1)
        given_options["ledger"] = tmp_path / os.fsdecode(b"caf\xe9 #1.db")  # no text in UTF-8
        with distributed.open_job(TASK, **given_options) as job, pytest.raises(OSError, match="broke"):  # noqa: PT012
            for result in job.stream(read(), workers=1, part=10, show=look):
                found.append(result)  # noqa: PERF402  what came before the error counts
    assert [(result.item.id, result.label) for result in found] == [(item.id, item.text.split()[0]) for item in given]
    assert most == 1


def test_a_stream_that_is_left_stops_the_job(tmp_path: Path) -> None:
    with running_gateway(Setup(price=PRICE, seconds=0.2)) as gateway:
        with distributed.open_job(TASK, **options(gateway, tmp_path, concurrency=2)) as job:
            stream = job.stream(texts(400), workers=2, part=10)
            assert next(stream).label == "spam"
            stream.close()  # type: ignore[attr-defined]  # a generator
            assert job.statistics().stopped == "the stream was left"
        assert len(gateway.log.records) < 15


def test_a_lender_that_everybody_has_forgotten_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[float] = []
    terms = Terms("job", TASK.fingerprint, "m", None, hold=False, concurrency=None, patience=5.0)

    async def forget() -> list[float]:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(ray.actor, "exit_actor", lambda: ended.append(loop.time()))
        lender = distributed._LenderActor(str(tmp_path / "l.db"), terms)
        await lender.open(terms)
        await lender.join(terms)  # and is never heard of again
        await asyncio.sleep(3 * 3600)
        return list(ended)

    (end,) = FakeClock().run(forget())
    assert 3600 <= end < 3800
    with Ledger(tmp_path / "l.db"):
        pass


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"api_key_env": "PACKER_NO_SUCH_KEY"}, CallError, r"on [\w.-]+: API key: expected a key in the environment"),
        ({"price": None}, CallError, "price"),
        ({"budget_usd": "-1"}, CallError, "budget_usd: expected US dollars above 0"),
        ({"patience": 0}, CallError, "patience: expected seconds, 1 or more"),
        ({"workers": -1}, CallError, "workers: expected 1 or more, got -1"),
        ({"part": 0}, CallError, "part: expected 1 or more, got 0"),
        ({"ledger": "/proc/no/such/folder/l.db"}, LedgerError, "ledger /proc/no/such"),
    ],
)
def test_a_wrong_call_is_one_line_and_nothing_is_sent(
    more: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with running_gateway(Setup(price=PRICE)) as gateway:
        with pytest.raises(error, match=message) as wrong:
            distributed.label(texts(20), task=TASK, **options(gateway, tmp_path, **more))
        assert "\n" not in str(wrong.value)
        assert KEY not in repr(wrong.value)
        assert not gateway.log.records
    # no lender is left behind
    with Ledger(tmp_path / "l.db"):
        pass


def test_a_record_model_that_workers_do_not_have_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").write_text("import pydantic\nclass Person(pydantic.BaseModel):\n    age: int\n")
    monkeypatch.syspath_prepend(tmp_path)
    task = Task(record=importlib.import_module("only_here").Person)
    with running_gateway(Setup(price=PRICE)) as gateway:
        with pytest.raises(
            CallError, match=r"a worker cannot read the task \(.*No module named 'only_here'\)"
        ) as wrong:
            distributed.label(["one"], task=task, **options(gateway, tmp_path))
        assert "\n" not in str(wrong.value)
        assert not gateway.log.records


def test_a_driver_with_other_terms_takes_over_a_job_that_nobody_is_at_work_on(tmp_path: Path) -> None:
    with running_gateway(Setup(price=PRICE)) as gateway:
        job = distributed.open_job(TASK, **options(gateway, tmp_path))
        with distributed.open_job(TASK, **options(gateway, tmp_path, budget_usd=3)) as other:
            with pytest.raises(CallError, match=r"another job has taken this ledger's lender: cap 3, not 0\.05"):
                job.label(texts(3))
            assert [result.label for result in other.label(texts(2))] == ["spam", "ham"]
    with pytest.raises(LedgerError, match="its lender has ended or its machine is gone; the same call again goes on"):
        other.label(texts(3))
