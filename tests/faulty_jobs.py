"""A job of the real command against a fake gateway that fails; whatever failed, the same things hold at its end.

`Rehearsal.run` checks them after every run, and does not know which fault there was. The command's clock is fast, so
that no test waits for a backoff as long as a job does.
"""

from __future__ import annotations

import asyncio
import csv
import json
import logging
import selectors
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from gateway.accounts import Account
from gateway.annotators import keyword
from gateway.records import Record
from gateway.scripts import Script
from gateway.server import Gateway, Setup, running_gateway

import packer.attempts
import packer.runner
import packer.wire
from packer.cli import main
from packer.ledger import AttemptState, Ledger, LedgerStatistics

KEY = "sk-7Hq2mZx94KtLw0vBy3Nd"
"""Searched for wherever it must not be."""

VARIABLE = "REHEARSAL_SECRET"
LABELS = {"spam": "", "ham": ""}
TEXTS = [f"{('spam for you', 'ham for lunch', 'nothing named')[n % 3]}, message {n}" for n in range(60)]
PACK = 5
PACKS = len(TEXTS) // PACK
IN_FLIGHT = 4
BUDGET = Decimal("0.05")
SPEED = 200.0
_DEADLINE = 20.0  # real seconds


class FastLoop(asyncio.SelectorEventLoop):
    """An event loop in whose time a second takes 1/`speed` of one."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        super().__init__(_FastSelector(speed))

    def time(self) -> float:
        return super().time() * self._speed


class _FastSelector(selectors.PollSelector):
    def __init__(self, speed: float) -> None:
        super().__init__()
        self._speed = speed

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout / self._speed)


@dataclass(frozen=True)
class Ran:
    """What a run of the command left behind. `records` are the gateway's, of this run; `said` is both streams."""

    code: int
    rows: Sequence[dict[str, str]]
    report: dict[str, Any]
    ledger: LedgerStatistics
    records: Sequence[Record]
    said: str

    @property
    def stopped(self) -> str:
        """Why the job stopped; empty where it did not."""
        return self.report["stopped"] or ""

    @property
    def statuses(self) -> Counter[str]:
        """How many rows ended how."""
        return Counter(row["status"] for row in self.rows)

    @property
    def sources(self) -> dict[str, int]:
        """How many charges of this run were read where."""
        return dict(self.report["statistics"]["charge_sources"])

    def attempts(self, state: AttemptState) -> int:
        """How many attempts of all runs are in `state`."""
        return self.ledger.attempts[state]


@dataclass
class Rehearsal:
    """A job and its gateway. `script` says what fails until `mend` is called.

    `lies`: the gateway tells less than it takes, so that no client can know what was spent.
    """

    folder: Path
    capsys: pytest.CaptureFixture[str]
    caplog: pytest.LogCaptureFixture
    script: Script
    texts: Sequence[str]
    speed: float
    lies: bool
    gateway: Gateway = field(init=False)
    is_well: bool = field(default=False, init=False)
    _leaks: list[str] = field(default_factory=list, init=False)

    def fault(self, number: int, texts: Sequence[str]) -> str:
        """The script as the gateway gets it; the ledger's files are looked at while requests are in flight."""
        for path in self.folder.glob("ledger.db*"):
            is_ballast = path.stat().st_size > 1_000_000
            if path.stat().st_mode & 0o777 != 0o600 or (not is_ballast and _shows_key(path.read_bytes())):
                self._leaks.append(f"{path.name} at request {number}")
        return "" if self.is_well else self.script(number, texts)

    def mend(self) -> None:
        """Nothing fails from now on, and there is time for everything."""
        self.is_well = True
        packer.attempts._DEADLINE = _DEADLINE * self.speed  # `rehearsing` had patched it: it is undone

    def run(self, *more: str, url: str | None = None, budget: Decimal = BUDGET, is_over: bool = False) -> Ran:
        """Run the command, with `more` options, and check what holds after every run.

        `is_over`: one charge alone was over the budget, and no client can prevent that.
        """
        before = len(self.gateway.log.records)
        self.capsys.readouterr()
        self.caplog.clear()
        with pytest.MonkeyPatch.context() as patch:
            # the gateway has its loop already, in its own thread
            patch.setattr(asyncio.events, "new_event_loop", lambda: FastLoop(self.speed))
            code = main([*_command(url or self.gateway.url, budget), *more])
        shown = self.capsys.readouterr()
        with Ledger("ledger.db", read_only=True) as opened:
            assert opened.verify() == []
            statistics = opened.statistics()
        ran = Ran(
            code=code,
            rows=_read_rows(Path("out.csv")),
            report=json.loads(Path("report.json").read_bytes()),
            ledger=statistics,
            records=self.gateway.log.records[before:],
            said=shown.out + shown.err,
        )
        self._check_rows(ran)
        self._check_purchases(ran)
        self._check_money(ran, None if is_over else budget)
        self._check_secrets(ran)
        return ran

    def _check_rows(self, ran: Ran) -> None:
        """Every item ends in exactly one reported state, and a label is the one that was given for its text."""
        assert [row["text"] for row in ran.rows] == list(self.texts)
        assert set(ran.statuses) <= {"labelled", "failed", "doubt", "pending"}
        for row in ran.rows:
            if row["status"] == "labelled":
                assert [row["label"]] == keyword([row["text"]], LABELS)
            assert (row["label"] == "") == (row["status"] != "labelled"), row
            assert (row["error"] == "") == (row["status"] == "labelled"), row
            assert row["error"].startswith("stopped: ") == (row["status"] == "pending"), row
        told = ran.report["statistics"]
        counts = {state: told[state] for state in ("labelled", "failed", "doubt", "pending")}
        assert {state: count for state, count in counts.items() if count} == dict(ran.statuses)
        left = ran.statuses.keys() - {"labelled"}
        assert ran.report["exit_code"] == ran.code == (4 if "pending" in left else 3 if left else 0)
        assert bool(ran.stopped) == (ran.code == 4)

    def _check_purchases(self, ran: Ran) -> None:
        """What was paid for is kept: a text whose answer arrived is never asked again, and is labelled."""
        arrived: set[str] = set()
        for record in self.gateway.log.records:
            assert not arrived & set(record.texts), f"request {record.number} buys again what had arrived"
            arrived |= record.arrived.keys()
        assert arrived <= {row["text"] for row in ran.rows if row["status"] == "labelled"}
        assert self.gateway.asked_elsewhere == 0

    def _check_money(self, ran: Ran, cap: Decimal | None) -> None:
        """Settled and in doubt together are no less than what was billed, and no more than the cap."""
        spending, billed = ran.ledger.spending, self.gateway.log.billed
        job = ran.report["job"]
        assert Decimal(job["least"]) == spending.settled - spending.assumed
        assert Decimal(job["most"]) == spending.settled + spending.doubt
        assert cap is None or spending.settled + spending.doubt <= cap
        assert spending.unknown == spending.open == 0
        assert job["doubt_requests"] == ran.attempts(AttemptState.DOUBT)
        if not self.lies:
            assert Decimal(job["least"]) <= billed <= Decimal(job["most"])
            run, billed = ran.report["run"], sum((record.billed for record in ran.records), Decimal(0))
            assert Decimal(run["least"]) <= billed <= Decimal(run["most"])

    def _check_secrets(self, ran: Ran) -> None:
        """The key is nowhere, and what tells of the job is its owner's alone."""
        logged = self.caplog.text + "".join(str(vars(record)) for record in self.caplog.records)
        places = {"the output": ran.said.encode(), "a log": logged.encode()}
        for path in self.folder.iterdir():
            places[path.name] = path.read_bytes() if path.is_file() else b""
            if path.name.startswith(("ledger.db", "report")):
                assert path.stat().st_mode & 0o777 == 0o600, path.name
        assert [name for name, data in places.items() if _shows_key(data)] == []
        assert self._leaks == []
        assert {"out.csv", "report.json", "ledger.db", "gateway.jsonl"} <= places.keys()


@contextmanager
def rehearsing(
    script: Script,
    *,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    texts: Sequence[str] = TEXTS,
    speed: float = SPEED,
    deadline: float = _DEADLINE,
    lies: bool = False,
    **setup: Any,
) -> Iterator[Rehearsal]:
    """A job in `folder` whose gateway is as `setup` and `script` say; `deadline` is in real seconds."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(VARIABLE, KEY)
    # these are about the machine, and not about waiting: the fast clock must not shorten them
    monkeypatch.setattr(packer.attempts, "_DEADLINE", deadline * speed)
    monkeypatch.setattr(packer.wire, "_CONNECT_SECONDS", 10 * speed)
    defaults = packer.runner.Runner.__init__.__kwdefaults__ or {}
    monkeypatch.setitem(defaults, "linger", defaults["linger"] * speed)
    with Path("in.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    job = Rehearsal(folder, capsys, caplog, script, texts, speed, lies)
    account = setup.pop("account", Account("rehearsal", KEY))
    made = Setup(script=job.fault, accounts=(account,), log=folder / "gateway.jsonl", seconds=0.02)
    with running_gateway(replace(made, **setup)) as job.gateway:
        yield job


def _command(url: str, budget: Decimal) -> list[str]:
    words = "label in.csv --text text --labels spam,ham --model openai/gpt-4o-mini --price-input .15 --price-output .6"
    words += f" --base-url {url} --api-key-env {VARIABLE} --budget-usd {budget} --max-items {PACK} --seed 1"
    words += f" --concurrency {IN_FLIGHT} --output out.csv --ledger ledger.db --report report.json -v"
    return words.split()


def _shows_key(data: bytes) -> bool:
    """Whether any 8 characters of the key stand in `data`."""
    return any(KEY[start : start + 8].encode() in data for start in range(len(KEY) - 7))


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))
