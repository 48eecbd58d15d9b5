"""Kill -9 at every failpoint of the real command, then the same command again: nothing is lost, nothing bought twice.

Three witnesses are held against each other, to the item and to the nano-dollar: the gateway's log, which survives the
client; the ledger; the output. Every run has a key of its own, so that the log says which run sent what.
"""

import contextlib
import csv
import http.client
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from gateway.accounts import Account
from gateway.records import Record
from gateway.scripts import Script, mixed, no_fault
from gateway.server import Gateway, Setup, running_gateway
from killable_command import KEY_VARIABLE, Commands, Ended, Place, killable_commands

from packer import failpoints
from packer.errors import LedgerForeign
from packer.exchange import ChargeSource
from packer.ledger import Attempt, AttemptState, Ledger, Spending
from packer.ledger_rows import ATTEMPT_COLUMNS, read_attempt
from packer.requests import make_keys
from packer.task import Task

MODEL = "gateway/model"
KEY_OF = make_keys(Task(["spam", "ham"]), MODEL)
PACKS, PACK = 12, 5
TEXTS = [f"{'spam' if n % 3 == 0 else 'ham'} {n}" for n in range(PACKS * PACK)]
OLD = b"text,label\nwhat was here before,ham\n"
IN_FLIGHT = 3
LAST_COMMIT = "job: about to be ended in the ledger"  # what stands before it


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with killable_commands() as running:
        yield running


@dataclass(frozen=True)
class Books:
    """What the ledger holds: attempts by their job, jobs that ended, what answered each key, the money of all jobs."""

    attempts: Mapping[int, Sequence[Attempt]]
    ended: frozenset[int]
    answers: Mapping[str, int]
    spending: Spending

    @property
    def open(self) -> list[Attempt]:
        """The attempts whose process died."""
        return [one for job in self.attempts.values() for one in job if one.state is AttemptState.OPEN]

    @property
    def doubtful(self) -> list[Attempt]:
        """The attempts in doubt, and those that the next run will find to be."""
        states = {AttemptState.OPEN, AttemptState.DOUBT}
        return [one for job in self.attempts.values() for one in job if one.state in states]


EMPTY = Books({}, frozenset(), {}, Spending(Decimal(0), Decimal(0), Decimal(0)))


class Rehearsal:
    """One job of the command against a fake gateway, run again and again until it is done."""

    def __init__(self, commands: Commands, gateway: Gateway, folder: Path, texts: Sequence[str], *options: str) -> None:
        self.gateway = gateway
        self.ended: list[Ended] = []
        self._commands = commands
        self._folder = folder
        self._options = options
        self._files: set[str] = set()  # in the folder when the last run had ended
        self._job_of: dict[str, int] = {}  # of a run's account
        self._acknowledged: set[str] = set()
        # what stands twice is bought once, and white space is no difference
        self.rows = [*texts, *(f" {text} " for text in texts[:6])]
        with (folder / "in.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["text"], *([row] for row in self.rows)])

    def run(
        self, *more: str, place: Place | None = None, output: str = "out.csv", began: Callable[[], object] = int
    ) -> Ended:
        """The command once more, killed at `place`; its traces are held against each other whenever it ends."""
        account = self.gateway.accounts[len(self.ended)]
        call = ["label", "in.csv", "--text", "text", "--labels", "spam,ham", "--model", MODEL]
        call += ["--base-url", self.gateway.url, "--api-key-env", KEY_VARIABLE]
        call += ["--price-input", "0.15", "--price-output", "0.60", "--max-items", str(PACK)]
        call += ["--output", output, *self._options, *more]
        jobs = len(self.look().attempts)
        ended = self._commands.run(call, self._folder, key=account.key, place=place, began=began)
        self.ended.append(ended)
        self._files = {path.name for path in self._folder.iterdir()}
        self._drain()
        books = self.look()
        if len(books.attempts) > jobs:
            self._job_of[account.name] = max(books.attempts)
        self._check_run(account.name, ended, books)
        self._check_agreement(books)
        return ended

    def look(self) -> Books:
        """The ledger, read while nobody writes it."""
        path = self._folder / "prompt-packer.db"
        if not path.exists():
            return EMPTY
        try:
            with Ledger(path, read_only=True) as ledger:
                assert ledger.verify() == []
        except LedgerForeign:
            assert path.stat().st_size == 0, "killed before anything was durable"
            return EMPTY
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            jobs = dict(db.execute("SELECT id, name FROM jobs"))
            attempts: dict[int, list[Attempt]] = {job: [] for job in jobs}
            for row in db.execute(f"SELECT {ATTEMPT_COLUMNS} FROM attempts ORDER BY id"):
                attempt = read_attempt(row, jobs[row[1]])
                attempts[attempt.job].append(attempt)
            ended = frozenset(job for (job,) in db.execute("SELECT id FROM jobs WHERE ended IS NOT NULL"))
            answers = dict(db.execute("SELECT key, attempt FROM answers"))
        assert len(set(jobs.values())) <= 1, "one command, one budget"
        with Ledger(path, read_only=True) as ledger:
            return Books(attempts, ended, answers, ledger.spending(next(iter(jobs.values()), "")))

    def sent(self, account: str | None = None) -> list[Record]:
        """What the gateway saw, of one run or of all."""
        return [one for one in self.gateway.log.records if one.account and account in {None, one.account}]

    def times_bought(self) -> Counter[str]:
        """How often the gateway billed each text."""
        return Counter(text for record in self.sent() if record.billed for text in record.texts)

    def output(self) -> bytes:
        """The output as it stands."""
        return (self._folder / "out.csv").read_bytes()

    def check_rows(self, doubtful: frozenset[str] = frozenset()) -> None:
        """Every row is there, in order; `doubtful` keys are in doubt and all others have their label."""
        with (self._folder / "out.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        assert [row["text"] for row in rows] == self.rows
        for row in rows:
            if KEY_OF(row["text"].strip()) in doubtful:
                assert (row["label"], row["status"]) == ("", "doubt")
            else:
                assert (row["label"], row["status"]) == (row["text"].split()[0], "labelled")

    def check_folder(self) -> None:
        """Nothing is left of the processes that died, once one has ended by itself."""
        assert self._files - {"report.json"} == {"in.csv", "out.csv", "prompt-packer.db"}

    def _drain(self) -> None:
        """Wait until the gateway has written down all that dead processes sent."""
        address = urlsplit(self.gateway.url)
        with contextlib.closing(http.client.HTTPConnection(str(address.hostname), address.port)) as stranger:
            # what was sent earlier is read earlier
            stranger.request("POST", "/v1/chat/completions", b"{}")
            assert stranger.getresponse().status == 401
        until = time.monotonic() + 30
        while self.gateway.number != len(self.gateway.log.records):
            assert time.monotonic() < until
            time.sleep(0.005)

    def _check_run(self, account: str, ended: Ended, books: Books) -> None:
        """Hold the run that just ended against the failpoints that it passed, and against what was there before it."""
        passed = Counter(ended.passed)
        sent = self.sent(account)
        job = self._job_of.get(account, 0)
        attempts = books.attempts.get(job, [])
        closed = [one for one in attempts if one.state is not AttemptState.OPEN]
        # "Money is reserved before it is spent": intents first
        assert len(sent) <= passed["intent: durable, nothing sent"] <= len(attempts)
        # "What was paid for is kept": what the process was told to be durable is there
        assert passed["verdict: durable, nothing shown"] <= len(closed)
        assert passed["job: noted"] <= (job in books.attempts)
        told = ended.passed[ended.passed.index(LAST_COMMIT) :] if LAST_COMMIT in passed else []
        assert ("commit: durable" in told) <= (job in books.ended)
        assert not self._acknowledged & {KEY_OF(text) for record in sent for text in record.texts}, "bought again"
        assert self._acknowledged <= books.answers.keys(), "an answer is lost"
        self._acknowledged = set(books.answers)
        for key, attempt in books.answers.items():
            later = [one.id for job in books.attempts.values() for one in job if key in one.keys and one.id > attempt]
            assert not later, f"attempts {later} ask for what attempt {attempt} answered"

    def _check_agreement(self, books: Books) -> None:
        """The gateway's log and the ledger tell of the same requests and of the same money."""
        in_doubt = Decimal(0)
        for account in self.gateway.accounts:
            attempts = books.attempts.get(self._job_of.get(account.name, 0), [])
            in_doubt += pair(self.sent(account.name), attempts)
        billed, spending = self.gateway.log.billed, books.spending
        assert billed == sum(account.billed for account in self.gateway.accounts)
        assert billed == spending.settled + in_doubt
        assert spending.settled <= billed <= spending.settled + spending.doubt + spending.open


def pair(sent: Sequence[Record], attempts: Sequence[Attempt]) -> Decimal:
    """Give each request of one run its attempt, by its texts and its charge; the USD billed for those in doubt."""
    rest: dict[tuple[str, ...], list[Record]] = {}
    for record in sent:
        rest.setdefault(tuple(map(KEY_OF, record.texts)), []).append(record)
    for attempt in attempts:
        if attempt.state is AttemptState.SETTLED:
            assert attempt.charge is not None
            assert attempt.charge.source is ChargeSource.HEADER
            mine = [one for one in rest.get(attempt.keys, []) if one.told == one.billed == attempt.charge.usd]
            assert mine, f"the gateway never charged {attempt.charge.usd} USD for the texts of attempt {attempt.id}"
            assert mine[0].status == 200
            rest[attempt.keys].remove(mine[0])
    for attempt in attempts:
        free = [one for one in rest.get(attempt.keys, []) if not one.billed]
        if attempt.state is AttemptState.FREED and free:
            rest[attempt.keys].remove(free[0])
    in_doubt = Decimal(0)
    doubtful = [one for one in attempts if one.state in {AttemptState.OPEN, AttemptState.DOUBT}]
    # the same texts may have been asked for with several reserves: the largest bill belongs to the largest
    for attempt in sorted(doubtful, key=reserve_of, reverse=True):
        if left := rest.get(attempt.keys):
            record = max(left, key=lambda one: one.billed)
            assert record.billed <= reserve_of(attempt)
            in_doubt += record.billed
            left.remove(record)
    assert not any(rest.values()), f"sent without an attempt: {rest}"
    return in_doubt


def reserve_of(attempt: Attempt) -> Decimal:
    assert attempt.reserve is not None
    return attempt.reserve


@contextlib.contextmanager
def rehearsal(
    commands: Commands,
    folder: Path,
    *options: str,
    texts: Sequence[str] = TEXTS,
    script: Script = no_fault,
    seconds: float = 0.0,
) -> Iterator[Rehearsal]:
    accounts = tuple(Account(f"run {number}", f"key-of-run-{number:04}") for number in range(1, 31))
    with running_gateway(Setup(accounts=accounts, script=script, seconds=seconds)) as gateway:
        yield Rehearsal(commands, gateway, folder, texts, *options)


# At every failpoint

ONCE = [name for name in failpoints.NAMES if name.startswith("job: ")]
FOR_EACH_PACK = [name for name in failpoints.NAMES if name.startswith(("intent: ", "reply: ", "verdict: "))]
COMMITS = [name for name in failpoints.NAMES if name.startswith("commit: ")]
OUTPUTS = [name for name in failpoints.NAMES if name.startswith("output: ")]

PLACES = {name: Place(name) for name in ONCE}
for _name in FOR_EACH_PACK:
    PLACES |= {
        f"{_name}, first": Place(_name),
        f"{_name}, middle": Place(_name, PACKS // 2),
        f"{_name}, last": Place(_name, PACKS),
    }
for _name in COMMITS:
    # how many there are depends on what happens to be committed together
    PLACES |= {
        f"{_name}, first": Place(_name),
        f"{_name}, middle": Place(_name, 8),
        f"{_name}, last": Place(_name, after=LAST_COMMIT),
    }
for _name in OUTPUTS:
    PLACES |= {f"{_name}, the table": Place(_name), f"{_name}, the report": Place(_name, 2)}

at_every_place = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())


def test_every_failpoint_is_killed_at_and_the_last_times_are_the_last(commands: Commands, tmp_path: Path) -> None:
    assert {place.name for place in PLACES.values()} == set(failpoints.NAMES)
    with rehearsal(commands, tmp_path, "--concurrency", str(IN_FLIGHT), "--report", "report.json") as job:
        ended = job.run()
        assert ended.code == 0, ended.err
        passed = Counter(ended.passed)
        assert all(passed[name] == 1 for name in ONCE)
        assert all(passed[name] == PACKS for name in FOR_EACH_PACK)
        assert all(passed[name] == 2 for name in OUTPUTS)
        behind = ended.passed[ended.passed.index(LAST_COMMIT) :]
        assert all(behind.count(name) == 1 and passed[name] > 8 for name in COMMITS)
        assert job.times_bought() == dict.fromkeys(TEXTS, 1)
        job.check_rows()
        job.check_folder()


@at_every_place
def test_a_killed_job_goes_on_loses_nothing_and_buys_again_only_what_was_in_doubt(
    commands: Commands, tmp_path: Path, place: Place
) -> None:
    (tmp_path / "out.csv").write_bytes(OLD)
    with rehearsal(commands, tmp_path, "--concurrency", str(IN_FLIGHT), "--report", "report.json") as job:
        killed = job.run(place=place)
        assert killed.was_killed, killed
        if "output: in its place" in killed.passed:
            job.check_rows()
        else:
            assert job.output() == OLD
        interrupted = job.look().open
        assert len(interrupted) <= IN_FLIGHT
        in_doubt = {key for attempt in interrupted for key in attempt.keys}
        reached = Counter(KEY_OF(text) for record in job.sent() for text in record.texts)
        resumed = job.run("--on-doubt", "retry")
        assert resumed.code == 0, resumed.err
        job.check_rows()
        job.check_folder()
        bought = {KEY_OF(text): times for text, times in job.times_bought().items()}
        assert bought == {KEY_OF(t): 2 if KEY_OF(t) in in_doubt and reached[KEY_OF(t)] else 1 for t in TEXTS}
        in_doubt_now = [attempt for attempt in job.look().doubtful if attempt.state is AttemptState.DOUBT]
        assert [attempt.id for attempt in in_doubt_now] == [attempt.id for attempt in interrupted]


@at_every_place
def test_under_hold_a_text_in_doubt_is_parked_and_never_sent_again(
    commands: Commands, tmp_path: Path, place: Place
) -> None:
    with rehearsal(
        commands, tmp_path, "--concurrency", str(IN_FLIGHT), "--report", "report.json", "--on-doubt", "hold"
    ) as job:
        assert job.run(place=place).was_killed
        in_doubt = frozenset(key for attempt in job.look().open for key in attempt.keys)
        held = job.run()
        assert held.code == (3 if in_doubt else 0), held.err
        job.check_rows(in_doubt)
        job.check_folder()
        seen = Counter(KEY_OF(text) for record in job.sent() for text in record.texts)
        assert {key for key in map(KEY_OF, TEXTS) if seen[key] != 1} <= in_doubt
        assert max(seen.values()) == 1
        # in doubt means that nobody knows: a text whose request never left is among them
        assert job.look().answers.keys() == set(map(KEY_OF, TEXTS)) - in_doubt
        assert job.run("--on-doubt", "retry").code == 0
        job.check_rows()


@pytest.mark.parametrize("packs", [1, 2, PACKS])
def test_a_row_that_was_shown_is_never_bought_again(commands: Commands, tmp_path: Path, packs: int) -> None:
    """ "An accepted answer is committed before it is shown": rows on a pipe are seen before the job has ended."""
    # one request at a time: behind the first reply an intent and a verdict take turns, and the last one is a verdict.
    # The pause gives the rows of what is not durable the time to be shown.
    place = Place("commit: written, not durable", 2 * packs - 1, after="reply: here, nothing booked", pause=0.05)
    texts = TEXTS[: packs * PACK]
    with rehearsal(commands, tmp_path, "--concurrency", "1", texts=texts) as job:
        killed = job.run(place=place, output="-")
        assert killed.was_killed
        assert len(job.look().answers) == len(texts) - PACK
        shown = list(csv.DictReader(killed.out.splitlines()))
        assert {KEY_OF(row["text"].strip()) for row in shown if row["label"]} <= job.look().answers.keys()
        resumed = job.run(output="-")
        assert resumed.code == 0
        rows = [(row["text"], row["label"]) for row in csv.DictReader(resumed.out.splitlines())]
        assert rows == [(text, text.split()[0]) for text in job.rows]


# Again and again


class Trigger:
    """A script of no faults but those of `inner`, which kills the command at the n-th request from `pull` on."""

    def __init__(self, commands: Commands, inner: Script = no_fault) -> None:
        self._commands = commands
        self._inner = inner
        self._left = 0

    def __call__(self, number: int, texts: Sequence[str]) -> str:
        self._left -= 1
        if self._left == 0:
            self._commands.kill()
        return self._inner(number, texts)

    def pull(self, requests: int) -> Callable[[], None]:
        """What makes the command die at its `requests`-th request."""

        def pulled() -> None:
            self._left = requests

        return pulled


MANY = [f"{'spam' if n % 3 == 0 else 'ham'} number {n}" for n in range(300)]
FAULTS = {
    "error-503": 0.02,
    "reset-before-headers": 0.03,
    "eof-before-headers": 0.03,
    "cut-after-headers": 0.03,
    "lost-row": 0.03,
    "stale-reply": 0.02,
    "reorder": 0.1,
}


@pytest.mark.parametrize(("cap", "code"), [("0.03", 0), ("0.003", 4)], ids=["finishes", "stops"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_budget_holds_over_a_dozen_kills(commands: Commands, tmp_path: Path, seed: int, cap: str, code: int) -> None:
    """ "Settled + in doubt + reserved never passes the cap, across restarts", and neither does the bill."""
    rng = random.Random(seed)
    names = [*FOR_EACH_PACK, *COMMITS]
    trigger = Trigger(commands)
    with rehearsal(
        commands, tmp_path, "--concurrency", "4", "--budget-usd", cap, texts=MANY, script=trigger, seconds=0.002
    ) as job:
        kills = 0
        while kills < 12:
            if rng.random() < 0.5:
                ended = job.run(
                    place=Place(rng.choice(names), rng.randrange(1, 4), after="intent: about to be written")
                )
            else:
                ended = job.run(began=trigger.pull(rng.randrange(1, 4)))
            spending = job.look().spending
            assert spending.settled + spending.doubt + spending.open <= Decimal(cap)
            assert job.gateway.log.billed <= Decimal(cap)
            if not ended.was_killed:
                break
            kills += 1
        trigger.pull(0)()
        ended = job.run()
        assert ended.code == code, ended.err
        spending = job.look().spending
        assert spending.settled + spending.doubt <= Decimal(cap)
        assert job.gateway.log.billed <= Decimal(cap)
        assert kills == 12 if code == 0 else kills > 3
        if code == 0:
            job.check_rows()
        else:
            assert "budget: the next request could pass the cap" in ended.err
        job.check_folder()


@pytest.mark.parametrize("seed", range(10))
def test_killed_at_random_among_faults_a_job_ends_as_if_nothing_had_happened(
    commands: Commands, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    trigger = Trigger(commands, mixed(FAULTS, seed=seed))
    (tmp_path / "out.csv").write_bytes(OLD)
    with rehearsal(commands, tmp_path, "--concurrency", "8", texts=MANY[:200], script=trigger, seconds=0.01) as job:
        for most in (30, 6):
            killed = job.run(began=trigger.pull(rng.randrange(1, most)))
            assert killed.was_killed, killed
            assert len(job.look().open) <= 8
            assert job.output() == OLD
        codes = [job.run().code]
        while codes[-1] == 3 and len(codes) < 5:  # a text whose answers two faults met is asked again
            codes.append(job.run().code)
        assert codes[-1] == 0, job.ended[-1].err
        job.check_rows()
        job.check_folder()
