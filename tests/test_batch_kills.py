"""Kill -9 round the making of a batch, then the same command again: the batch is found, and never bought twice.

The gateway's log, the ledger and the output are held against each other, to the item and to the nano-dollar.
"""

import csv
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from gateway.accounts import Account
from gateway.batches import Batches, BatchSetup
from gateway.records import Record
from gateway.server import KEY, Gateway, Setup, running_gateway
from killable_command import KEY_VARIABLE, Commands, Ended, Place, killable_commands

from packer import failpoints
from packer.ledger import AttemptState, Ledger
from packer.usage import Price

PRICE = Price(Decimal("0.20"), Decimal("0.80"))
TEXTS = [f"{'spam' if n % 3 else 'ham'} number {n}" for n in range(60)]
RESULTS = "batch: its results are here"


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with killable_commands() as running:
        yield running


class Rehearsal:
    """One job with --batch, run again and again; the gateway may end and come back, its batches stay."""

    def __init__(self, commands: Commands, folder: Path) -> None:
        self.batches = Batches()
        self.records: list[Record] = []
        self._commands = commands
        self._folder = folder
        self._port = 0
        with (folder / "in.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["text"], *([text] for text in TEXTS)])

    def run(
        self,
        *more: str,
        place: Place | None = None,
        setup: BatchSetup = BatchSetup(),  # noqa: B008  frozen
        batch: bool = True,
        accounts: tuple[Account, ...] = (),
        began: Callable[[Gateway], object] = lambda gateway: gateway,
    ) -> Ended:
        """The command once more against a gateway of its own, at the address of the first."""
        setting = Setup(price=PRICE, batches=setup, accounts=accounts)
        with running_gateway(setting, port=self._port, batches=self.batches) as gateway:
            self._port = urlsplit(gateway.url).port or 0
            call = ["label", "in.csv", "--text", "text", "--labels", "spam,ham", "--model", "gateway/model"]
            call += ["--base-url", gateway.url, "--api-key-env", KEY_VARIABLE, "--max-items", "5"]
            call += ["--price-input", f"{PRICE.input}", "--price-output", f"{PRICE.output}", "--output", "out.csv"]
            call += ["--batch"] if batch else []
            ended = self._commands.run([*call, *more], self._folder, key=KEY, place=place, began=lambda: began(gateway))
            self.records += gateway.log.records
        self.check_money()
        return ended

    def check_money(self) -> None:
        """What the ledger says was spent holds what was billed."""
        with Ledger(self._folder / "prompt-packer.db", read_only=True) as ledger:
            assert ledger.verify() == []
            spending = ledger.statistics().spending
            self.states = ledger.statistics().attempts
        billed = sum((record.billed for record in self.records), Decimal(0))
        assert spending.settled <= billed <= spending.settled + spending.doubt + spending.open
        self.is_exact = billed == spending.settled and not spending.doubt + spending.open

    def check_rows(self) -> None:
        """Every row has its label."""
        with (self._folder / "out.csv").open(newline="", encoding="utf-8") as file:
            found = [(row["text"], row["label"], row["status"]) for row in csv.DictReader(file, strict=True)]
        assert found == [(text, text.split()[0], "labelled") for text in TEXTS]

    def statuses(self) -> Counter[str]:
        """How many rows have which status."""
        with (self._folder / "out.csv").open(newline="", encoding="utf-8") as file:
            return Counter(row["status"] for row in csv.DictReader(file, strict=True))

    def times_bought(self) -> set[int]:
        """How often texts were billed."""
        return set(Counter(text for one in self.records if one.billed for text in one.texts).values())


@pytest.fixture
def rehearsal(commands: Commands, tmp_path: Path) -> Rehearsal:
    return Rehearsal(commands, tmp_path)


@pytest.mark.parametrize(
    "name", [name for name in failpoints.BATCH_NAMES if name != "batch: an earlier one is collected"]
)
def test_a_kill_at_any_place_of_a_batch_buys_nothing_twice(rehearsal: Rehearsal, name: str) -> None:
    """ "What was paid for is kept": whoever made the batch, the next run collects it, or knows that it is not made."""
    assert rehearsal.run(place=Place(name)).was_killed
    was_made = len(rehearsal.batches.batches)
    assert was_made == (name not in failpoints.BATCH_NAMES[:3])
    assert rehearsal.states[AttemptState.OPEN] == 11
    ended = rehearsal.run()
    assert ended.code == 0, ended.err
    rehearsal.check_rows()
    assert rehearsal.times_bought() == {1}
    assert len(rehearsal.batches.batches) == 1
    # what was not noted may have left by itself, and what was about to be made may have been
    unknown = {"batch: about to be noted", "batch: uploaded, about to be made"}
    assert rehearsal.is_exact == (name not in unknown)
    again = rehearsal.run()
    assert again.code == 0
    assert len(rehearsal.records) == 12, "all is known"


def test_a_list_without_an_end_is_left(rehearsal: Rehearsal) -> None:
    assert rehearsal.run(place=Place("batch: uploaded, about to be made")).was_killed
    ended = rehearsal.run(setup=BatchSetup(endless=True))
    assert ended.code == 0, ended.err
    assert rehearsal.times_bought() == {1}
    assert rehearsal.states[AttemptState.DOUBT] == 11


def test_a_kill_among_the_results_loses_none_and_buys_none_twice(rehearsal: Rehearsal) -> None:
    assert rehearsal.run(place=Place("verdict: durable, nothing shown", nth=4, after=RESULTS)).was_killed
    assert rehearsal.states[AttemptState.OPEN] < 11
    ended = rehearsal.run()
    assert ended.code == 0, ended.err
    rehearsal.check_rows()
    assert rehearsal.times_bought() == {1}
    assert rehearsal.is_exact


@pytest.mark.parametrize("name", [RESULTS, "commit: durable", "batch: an earlier one is collected"])
def test_a_kill_while_a_batch_is_collected_changes_nothing(rehearsal: Rehearsal, name: str) -> None:
    assert rehearsal.run(place=Place("batch: its id is noted")).was_killed
    after = RESULTS if name != RESULTS else ""
    assert rehearsal.run(place=Place(name, after=after)).was_killed
    ended = rehearsal.run()
    assert ended.code == 0, ended.err
    rehearsal.check_rows()
    assert rehearsal.times_bought() == {1}
    assert rehearsal.is_exact


def test_ctrl_c_leaves_the_batch_running_and_the_same_command_collects_it(
    rehearsal: Rehearsal, commands: Commands
) -> None:
    def press(gateway: Gateway) -> None:
        until = time.monotonic() + 30
        while not any(path.startswith("GET /batches/") for path in gateway.batches.asked):
            assert time.monotonic() < until
            time.sleep(0.01)
        commands.interrupt()

    ended = rehearsal.run(setup=BatchSetup(looks=10**9), began=press)
    assert ended.code == 4, ended.err
    said = " ".join(ended.err.split())
    assert "batches go on at the gateway and are paid for; the same command collects them" in said
    assert rehearsal.statuses() == {"labelled": 5, "pending": 55}
    assert not [path for path in rehearsal.batches.asked if path.endswith("cancel")]
    assert rehearsal.states[AttemptState.OPEN] == 11
    ended = rehearsal.run()
    assert ended.code == 0, ended.err
    rehearsal.check_rows()
    assert rehearsal.times_bought() == {1}
    assert rehearsal.is_exact


def test_without_batch_a_job_whose_batch_runs_is_refused_until_the_batch_is_abandoned(rehearsal: Rehearsal) -> None:
    assert rehearsal.run(place=Place("batch: its id is noted")).was_killed
    ended = rehearsal.run(batch=False)
    assert ended.code == 2
    assert "11 requests of an earlier run are in a batch (batch_1) at http" in ended.err
    assert len(rehearsal.records) == 1
    ended = rehearsal.run("--abandon-batches", batch=False)
    assert ended.code == 0, ended.err
    rehearsal.check_rows()
    assert rehearsal.states[AttemptState.DOUBT] == 11


def test_a_batch_at_another_address_is_collected_there_or_nowhere(rehearsal: Rehearsal) -> None:
    assert rehearsal.run(place=Place("batch: its id is noted")).was_killed
    ended = rehearsal.run("--base-url", "http://127.0.0.1:9/v1")
    assert ended.code == 2
    assert "run it there with --batch" in ended.err


def test_with_another_key_the_batch_is_not_found_and_nothing_is_bought_again(rehearsal: Rehearsal) -> None:
    assert rehearsal.run(place=Place("batch: its id is noted")).was_killed
    ended = rehearsal.run(accounts=(Account("somebody else", KEY),))
    assert ended.code == 4, ended.err
    assert "batch batch_1 goes on, and cannot be looked at: HTTP 404" in " ".join(ended.err.split())
    assert len(rehearsal.records) == 1
    assert rehearsal.states[AttemptState.OPEN] == 11
    assert rehearsal.run().code == 0
    assert rehearsal.times_bought() == {1}


def test_a_budget_counts_what_is_in_a_batch_of_an_earlier_run(rehearsal: Rehearsal, tmp_path: Path) -> None:
    """ "Settled + in doubt + reserved never exceeds the cap, across restarts": what waits is reserved, then booked."""
    assert rehearsal.run(place=Place("batch: its id is noted")).was_killed
    with Ledger(tmp_path / "prompt-packer.db", read_only=True) as ledger:
        waiting = ledger.statistics().spending.open
    lost = rehearsal.run("--report", "lost.json", accounts=(Account("somebody else", KEY),))
    assert lost.code == 4
    assert Decimal(read_report(tmp_path / "lost.json")["statistics"]["reserved"]) == waiting > 0
    ended = rehearsal.run("--report", "report.json")
    assert ended.code == 0, ended.err
    assert Decimal(read_report(tmp_path / "report.json")["statistics"]["reserved"]) == 0
    assert rehearsal.is_exact


def read_report(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
