"""The ledger against what breaks it: kill -9, a second process, a full disk, a failing disk, rotten bytes. All real."""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from decimal import Decimal
from itertools import islice
from pathlib import Path

import pytest

from packer import ledger_file
from packer.errors import LedgerDamaged, LedgerError, LedgerForeign, LedgerFull, LedgerInUse, LedgerReadOnly
from packer.exchange import Charge, ChargeSource
from packer.ledger import AttemptState, Closed, Ledger, Opened, Spending
from packer.usage import Usage

ABOUT = {"task": "f00d", "model": "m", "parameters": {}}
CENT = Decimal("0.01")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.db"


def opened(attempt: int, job: int, size: int = 20) -> Opened:
    return Opened(attempt, job, tuple(f"b2:{attempt:04}:{number:036}" for number in range(size)), 1, CENT)


def closed(change: Opened) -> Closed:
    charge = Charge(Decimal("0.001"), ChargeSource.HEADER)
    answers = dict.fromkeys(change.keys, "spam")
    return Closed(
        change.attempt, AttemptState.SETTLED, "all", charge, Usage(9, 9), 1.0, answers, dict.fromkeys(answers, 0.75)
    )


def spent(settled: str, doubt: str, *, requests: int = 0) -> Spending:
    return Spending(Decimal(settled), Decimal(doubt), Decimal(0), doubt_requests=requests, doubt_texts=2 * requests)


def child(code: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def output(process: "subprocess.Popen[str]") -> str:
    out, _ = process.communicate(timeout=60)
    return out


# kill -9

# One whole job, killed before its n-th SQL statement, for every n; one line a kill: how it went, and what it was told
KILLS = """
import os, signal, sqlite3, sys
from decimal import Decimal
from packer.exchange import Charge, ChargeSource
from packer.ledger import AttemptState, Closed, Ledger, Opened
from packer.usage import Usage

plain_connect = sqlite3.connect

def run_job(path, stop_at, tell):
    seen = 0

    def connect(*arguments, **options):
        def before(statement):
            nonlocal seen
            seen += 1
            if seen == stop_at:
                tell("AT " + statement.split("(")[0].split("=")[0].strip())
                signal.pause()

        db = plain_connect(*arguments, **options)
        db.set_trace_callback(before)
        return db

    sqlite3.connect = connect
    ledger = Ledger(path)
    job = ledger.start_job("mail", {})
    cent, charge = Decimal("0.01"), Charge(Decimal("0.001"), ChargeSource.HEADER)
    ledger.commit([Opened(n, job, (f"b2:{n}0", f"b2:{n}1"), 1, cent) for n in (1, 2, 3)])
    tell("opened")
    ledger.commit([
        Closed(1, AttemptState.SETTLED, "2 of 2", charge, Usage(9, 9), 1.0, {"b2:10": "spam", "b2:11": "ham"},
               {"b2:10": 0.75}),
        Closed(2, AttemptState.FREED, "not sent", None, None, 1.0, {}),
    ])
    tell("closed")
    ledger.end_job(job, "finished", {})
    ledger.close()
    tell("END")

number, told = 0, []
while "END" not in told:
    number += 1
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        path = os.path.join(sys.argv[1], f"{number}.db")
        run_job(path, number, lambda text: os.write(writing, f"{text}\\n".encode()))
        os._exit(0)
    os.close(writing)
    told = []
    with open(reading) as lines:
        for line in lines:
            told.append(line.strip())
            if told[-1].startswith("AT "):
                break
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    print(number, "|".join(told), sep="|")
"""


def test_whatever_statement_a_job_is_killed_at_what_it_was_told_is_kept_and_nothing_is_half(tmp_path: Path) -> None:
    """ "What was paid for is kept"; "settled + in doubt + reserved"; and an open attempt is in doubt afterwards."""
    kills = [line.split("|") for line in output(child(KILLS, tmp_path)).splitlines()]
    assert len(kills) > 40
    for number, *told in kills:
        with Ledger(tmp_path / f"{number}.db") as ledger:
            settled = ledger.statistics().attempts[AttemptState.SETTLED]
            found = ledger.find(["b2:10", "b2:11", "b2:20"])
            assert ledger.confidences(["b2:10", "b2:11", "b2:20"]) == ({"b2:10": 0.75} if found else {}), told
            spending = ledger.spending("mail")
            in_doubt = [attempt.id for attempt in ledger.attempts_in_doubt()]
            assert ledger.verify() == [], told
        if settled:
            assert (found, spending, in_doubt) == (
                {"b2:10": "spam", "b2:11": "ham"},
                spent("0.001", "0.01", requests=1),
                [3],
            ), told
        elif in_doubt:
            assert (found, spending, in_doubt) == ({}, spent("0", "0.03", requests=3), [1, 2, 3]), told
        else:
            assert (found, spending) == ({}, spent("0", "0")), told
        assert in_doubt or "opened" not in told
        assert settled or "closed" not in told
    at = {told[-1] for _, *told in kills}
    assert at >= {
        "AT CREATE TABLE answers",
        "AT COMMIT",
        "AT UPDATE attempts SET state",
        "AT INSERT INTO answers VALUES",
    }
    assert any(place.startswith("AT INSERT INTO confidences") for place in at)


HOLD = """
import signal, sys
from packer.ledger import Ledger
ledger = Ledger(sys.argv[1])
ledger.start_job("mail", {})
print("holding", flush=True)
signal.pause()
"""


def test_a_second_process_is_told_the_first_ones_number_and_may_follow_when_it_has_died(path: Path) -> None:
    first = child(HOLD, path)
    assert first.stdout is not None
    assert first.stdout.readline() == "holding\n"
    with pytest.raises(LedgerInUse, match=rf"in use by process {first.pid} on \S+; let it end, or name another file"):
        Ledger(path)
    second = child(HOLD, path)
    assert f"LedgerInUse: ledger {path}: in use by process {first.pid} on " in output(second)
    with Ledger(path, read_only=True) as reader:
        assert reader.statistics().jobs == 1
    first.kill()
    output(first)
    with Ledger(path) as ledger:
        assert ledger.statistics().jobs == 1


TAKE_TURNS = """
import sys
from packer.errors import LedgerInUse
from packer.ledger import Ledger
done = 0
while done < 15:
    try:
        with Ledger(sys.argv[1]) as ledger:
            before = ledger.statistics().jobs
            ledger.start_job(sys.argv[2], {})
            assert ledger.statistics().jobs == before + 1
            done += 1
    except LedgerInUse:
        pass
"""


def test_processes_that_take_turns_never_hold_the_ledger_together(path: Path) -> None:
    """The lock file is removed with every turn: none of them may be left with a lock on a removed file."""
    several = [child(TAKE_TURNS, path, number) for number in range(3)]
    assert [output(process) for process in several] == [""] * 3
    with Ledger(path) as ledger:
        assert ledger.statistics().jobs == 45
        assert ledger.verify() == []


# A disk without room, a disk that cannot be written, a disk that fails


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    return filler


@pytest.mark.parametrize("earlier", [0, 100, 400], ids=lambda packs: f"{packs} packs before")
def test_on_a_full_disk_all_that_is_in_flight_is_kept_and_nothing_new_begins(
    tmp_path: Path, mount: Callable[..., Path], earlier: int
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=24m", "tmpfs", at=disk)
    path = disk / "labels.db"
    with Ledger(path) as ledger:
        job = ledger.start_job("mail", ABOUT)
        before = [opened(number, job) for number in range(1, earlier + 1)]
        ledger.commit(before)
        ledger.commit([closed(change) for change in before])
        flight = [opened(number, job) for number in range(1001, 1257)]
        ledger.commit(flight)
        filler = fill(disk)
        refused = 0
        # the log may still have room of its own for a while
        for number in range(2000, 2300):
            try:
                ledger.commit([opened(number, job)])
            except LedgerFull:
                refused += 1
        assert refused
        for change in flight:
            ledger.commit([closed(change)])
        with pytest.raises(LedgerFull, match="make room and run the same again"):
            ledger.start_job("another", ABOUT)
        ledger.end_job(job, "the disk is full", {})
        assert not Path(f"{path}.ballast").exists()
    fill(disk)
    with pytest.raises(LedgerFull, match="its lock file cannot be written: No space left on device"):
        Ledger(path)
    assert sorted(disk.iterdir()) == [filler, path]
    filler.unlink()
    with Ledger(path) as ledger:
        keys = [key for change in before + flight for key in change.keys]
        assert ledger.find(keys) == dict.fromkeys(keys, "spam")
        assert ledger.spending("mail").settled == Decimal("0.001") * (earlier + 256)
        assert ledger.verify() == []


def test_a_full_disk_lets_no_ledger_begin(tmp_path: Path, mount: Callable[..., Path]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", at=disk)
    filler = fill(disk)
    with pytest.raises(LedgerFull):
        Ledger(disk / "labels.db")
    filler.unlink()
    with pytest.raises(LedgerFull, match="ballast"):
        Ledger(disk / "labels.db")
    subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
    with Ledger(disk / "labels.db") as ledger:
        assert ledger.verify() == []


LIMITED = """
import resource, sys
from decimal import Decimal
from packer.errors import LedgerError
from packer.exchange import Charge, ChargeSource
from packer.ledger import AttemptState, Closed, Ledger, Opened
from packer.usage import Usage
ledger = Ledger(sys.argv[1])
job = ledger.start_job("mail", {})
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
charge = Charge(Decimal("0.001"), ChargeSource.HEADER)
try:
    for n in range(1, 1000):
        ledger.commit([Opened(n, job, (f"b2:{n}",), 1, Decimal("0.01"))])
        ledger.commit([Closed(n, AttemptState.SETTLED, "so", charge, None, 1.0, {f"b2:{n}": "x" * 4000})])
        print(n, flush=True)
except LedgerError as error:
    print(type(error).__name__, error)
ledger.close()
"""


def test_a_refused_write_is_told_and_what_came_before_it_is_kept(path: Path) -> None:
    """A file size limit, which SQLite reports as a disk quota: as an input/output error, not as a full disk."""
    *written, last = output(child(LIMITED, path)).splitlines()
    assert last.startswith(f"LedgerFull ledger {path}: its disk has no room")
    assert "(or a quota, a file size limit or the disk refuses it)" in last
    assert len(written) > 10
    with Ledger(path) as ledger:
        assert ledger.find([f"b2:{n}" for n in written]) == {f"b2:{n}": "x" * 4000 for n in written}
        assert ledger.verify() == []


FAILING = """
import sys
from decimal import Decimal
from packer.errors import LedgerError
from packer.ledger import Ledger, Opened
ledger = Ledger(sys.argv[1])
job = ledger.start_job("mail", {})
n = 0
for _ in range(3):
    try:
        while n < 100:
            n += 1
            ledger.commit([Opened(n, job, (f"b2:{n}",), 1, Decimal("0.01"))])
    except LedgerError as error:
        print(n, type(error).__name__, error, flush=True)
ledger.close()
"""


def test_after_a_failed_fsync_nothing_is_written_any_more(path: Path) -> None:
    """The kernel may drop what it could not write and report success the next time."""
    tracer = shutil.which("strace")
    if tracer is None:
        pytest.skip("making fsync fail takes strace")
    inject = ["-f", "-o", os.devnull, "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO:when=30+"]
    command = [tracer, *inject, sys.executable, "-c", FAILING, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if "ptrace" in done.stderr or "PTRACE" in done.stderr:
        pytest.skip(f"strace is not allowed here: {done.stderr.strip()}")
    first, second, third = done.stdout.splitlines()
    number = int(first.split()[0])
    assert 10 < number < 50
    assert "LedgerError" in first
    assert "its disk fails (SQLITE_IOERR_FSYNC); the job must not go on" in first
    assert [int(line.split()[0]) for line in (second, third)] == [number + 1, number + 2]
    with Ledger(path) as ledger:
        # the commit that failed may be there or not; no later one is
        assert ledger.next_attempt() in {number, number + 1}
        assert ledger.verify() == []


@pytest.fixture
def frozen(tmp_path: Path, mount: Callable[..., Path]) -> Callable[[Path], Path]:
    """A function that shows a folder on a file system that cannot be written."""

    def frozen(folder: Path) -> Path:
        at = tmp_path / "frozen"
        at.mkdir()
        mount("--bind", str(folder), at=at)
        subprocess.run(["mount", "-o", "remount,bind,ro", at], check=True)
        return at

    return frozen


def test_a_ledger_on_a_read_only_disk_can_be_read_and_not_written(
    tmp_path: Path, frozen: Callable[[Path], Path]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with Ledger(folder / "labels.db") as ledger:
        job = ledger.start_job("mail", ABOUT)
        ledger.commit([opened(1, job, 2)])
        ledger.commit([closed(opened(1, job, 2))])
    path = frozen(folder) / "labels.db"
    with pytest.raises(LedgerReadOnly, match="Read-only file system"):
        Ledger(path)
    with pytest.raises(LedgerReadOnly, match="Read-only file system"):
        Ledger(path.with_name("new.db"))
    with Ledger(path, read_only=True) as ledger:
        assert len(list(ledger.export())) == 2
        assert ledger.verify() == []


def test_a_log_that_is_left_over_on_a_read_only_disk_is_read_or_refused_never_ignored(
    tmp_path: Path, frozen: Callable[[Path], Path]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    first = child(HOLD, folder / "labels.db")
    assert first.stdout is not None
    assert first.stdout.readline() == "holding\n"
    first.kill()
    output(first)
    at = frozen(folder)
    with Ledger(at / "labels.db", read_only=True) as ledger:
        assert ledger.statistics().jobs == 1
    (folder / "labels.db-shm").unlink()
    with pytest.raises(LedgerError, match="check the permissions of it and of its folder"):
        Ledger(at / "labels.db", read_only=True)


AS_NOBODY = """
import os, sys
from packer.errors import LedgerError
from packer.ledger import Ledger
os.setgid(65534)
os.setuid(65534)
for options in ({}, {"read_only": True}):
    try:
        with Ledger(sys.argv[1], **options) as ledger:
            print("opened", ledger.statistics().jobs)
    except LedgerError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("folder_mode", "file_mode", "writing", "reading"),
    [
        (0o777, 0o666, "opened 1", "opened 1"),
        (0o755, 0o644, "LedgerReadOnly", "opened 1"),
        (0o777, 0o444, "LedgerReadOnly", "opened 1"),
        (0o777, 0o600, "LedgerError", "LedgerError"),
    ],
)
def test_permissions_are_told_to_who_lacks_them(folder_mode: int, file_mode: int, writing: str, reading: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming somebody else takes root")
    # the folders of tmp_path let nobody else through
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "labels.db"
        with Ledger(path) as ledger:
            ledger.start_job("mail", ABOUT)
        path.chmod(file_mode)
        path.parent.chmod(folder_mode)
        told = output(child(AS_NOBODY, path)).splitlines()
    assert [line.startswith(what) for line, what in zip(told, (writing, reading), strict=True)] == [True, True], told


# Rot


def everything(path: Path) -> object:
    with Ledger(path, read_only=True) as ledger:
        problems = ledger.verify()
        if problems:
            raise LedgerDamaged(path, problems[0])
        keys = [f"b2:{n:04}:{number:036}" for n in range(1, 13) for number in range(20)]
        return (
            list(ledger.export()),
            ledger.find(keys),
            ledger.confidences(keys),
            ledger.spending("mail"),
            list(ledger.attempts_in_doubt()),
            ledger.statistics(),
            ledger.next_attempt(),
            ledger.doubtful_keys(),
        )


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed ledger of some twenty pages with a bit of everything."""
    path = tmp_path_factory.mktemp("rot") / "sound.db"
    with Ledger(path) as ledger:
        job = ledger.start_job("mail", ABOUT)
        changes = [opened(number, job) for number in range(1, 13)]
        ledger.commit(changes)
        ledger.commit([closed(change) for change in changes[:10]])
        ledger.commit([Closed(11, AttemptState.DOUBT, "lost", None, None, 1.0, {})])
        ledger.end_job(job, "finished", {"items": 240})
    with Ledger(path) as ledger:
        ledger.commit([])
    return path


@pytest.mark.parametrize("flip", [lambda rng: 1, lambda rng: rng.randrange(2, 256)], ids=["lowest bit", "other bits"])
def test_no_rotten_byte_changes_what_the_ledger_says_without_being_told(
    tmp_path: Path, flip: Callable[[random.Random], int]
) -> None:
    """ "Unknown is never zero", and rot is never an answer: an error of ours, a named problem, or no difference."""
    path = tmp_path / "rotten.db"
    with Ledger(path) as ledger:
        job = ledger.start_job("mail", ABOUT)
        ledger.commit([opened(number, job, 2) for number in (1, 2, 3)])
        ledger.commit([closed(opened(1, job, 2)), Closed(2, AttemptState.DOUBT, "lost", None, None, 1.0, {})])
        ledger.end_job(job, "finished", {"items": 6})
    content, truth = path.read_bytes(), everything(path)
    rng = random.Random(len(content))
    told = 0
    # every byte that says something, but for the text of the tables' definitions: of that a part
    places = [at for at, byte in enumerate(content) if byte and (at < 200 or at > 4000 or at % 8 == 0)]
    for at in places:
        rotten = bytearray(content)
        rotten[at] ^= flip(rng)
        path.write_bytes(rotten)
        try:
            assert everything(path) == truth, at
        except LedgerError:
            told += 1
        # SQLite leaves the reader's files behind
        for ending in ("-wal", "-shm"):
            Path(f"{path}{ending}").unlink(missing_ok=True)
    assert told > 0.9 * len(places)


@pytest.mark.parametrize("part", range(2))
def test_a_rotten_file_that_is_opened_for_writing_gives_an_error_of_ours_or_works(
    tmp_path: Path, sound: Path, part: int
) -> None:
    rng = random.Random(part)
    content = sound.read_bytes()
    refused = 0
    for number in range(60):
        rotten = bytearray(content)
        for _ in range(rng.randrange(1, 20)):
            rotten[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        path = tmp_path / f"{number}.db"
        path.write_bytes(rotten)
        try:
            with Ledger(path) as ledger:
                job = ledger.start_job("mail", ABOUT)
                change = opened(ledger.next_attempt(), job)
                ledger.commit([change])
                ledger.commit([closed(change)])
        except LedgerError:
            refused += 1
        assert not Path(f"{path}.lock").exists()
        assert not Path(f"{path}.ballast").exists()
    assert refused > 20


def zero_page(content: bytes) -> bytes:
    return content[:8192] + bytes(4096) + content[12288:]


def swap_pages(content: bytes) -> bytes:
    return content[:8192] + content[12288:16384] + content[8192:12288] + content[16384:]


@pytest.mark.parametrize(
    "harm",
    [zero_page, swap_pages, lambda content: content[:-4096], lambda content: content[:5000]],
    ids=["a page of zeros", "swapped pages", "the last page is missing", "torn"],
)
def test_a_broken_page_ends_the_job_before_it_begins(path: Path, sound: Path, harm: Callable[[bytes], bytes]) -> None:
    path.write_bytes(harm(sound.read_bytes()))
    content = path.read_bytes()
    with pytest.raises(LedgerDamaged, match=r"damaged: .*use a copy or a new file"):
        Ledger(path)
    assert path.read_bytes() == content
    try:
        with Ledger(path, read_only=True) as ledger:
            assert ledger.verify()
    except LedgerDamaged:
        pass


def test_a_page_list_that_is_wrong_is_named_though_every_row_is_right(path: Path, sound: Path) -> None:
    content = sound.read_bytes()
    path.write_bytes(content[:36] + (7).to_bytes(4, "big") + content[40:])
    with Ledger(path, read_only=True) as ledger:
        (problem,) = ledger.verify()
    assert "freelist" in problem.lower()


def test_reading_rows_out_of_order_ends(path: Path, sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last key of a page becomes the smallest of all: the next page would be the first one again, for ever."""
    monkeypatch.setattr(ledger_file, "PAGE_ROWS", 8)
    key = opened(1, 1).keys[7].encode()
    content = sound.read_bytes()
    assert content.count(b'"' + key) == 1
    path.write_bytes(content.replace(key, b"a" + key[1:]).replace(b'"a' + key[1:], b'"' + key))
    with Ledger(path, read_only=True) as ledger:
        with pytest.raises(LedgerDamaged, match="rows out of order"):
            list(islice(ledger.export(), 1000))
        assert [problem for problem in ledger.verify() if "rows out of order" in problem]


def test_the_first_bytes_rotten_make_it_a_foreign_file(path: Path, sound: Path) -> None:
    path.write_bytes(b"sqlite" + sound.read_bytes()[6:])
    with pytest.raises(LedgerForeign):
        Ledger(path)


def test_a_rotten_log_loses_its_end_and_never_half_a_commit(tmp_path: Path) -> None:
    """SQLite's own checksums end the log at the first frame that is wrong; each commit before it is whole."""
    path = tmp_path / "labels.db"
    with Ledger(path) as ledger:
        job = ledger.start_job("mail", ABOUT)
        for number in range(1, 9):
            ledger.commit([opened(number, job, 5), closed(opened(number, job, 5))])
        files = {ending: Path(f"{path}{ending}").read_bytes() for ending in ("", "-wal")}
    rng = random.Random(1)
    kept = set()
    for number in range(60):
        log = bytearray(files["-wal"])
        log[rng.randrange(len(log))] ^= 1 << rng.randrange(8)
        copy = tmp_path / f"{number}.db"
        copy.write_bytes(files[""])
        Path(f"{copy}-wal").write_bytes(log)
        with Ledger(copy) as ledger:
            settled = ledger.statistics().attempts[AttemptState.SETTLED]
            keys = [key for n in range(1, settled + 1) for key in opened(n, job, 5).keys]
            assert [row["key"] for row in ledger.export()] == keys
            assert ledger.verify() == []
        kept.add(settled)
    assert len(kept) > 4


def test_a_process_that_dies_while_another_reads_leaves_a_whole_ledger(path: Path) -> None:
    first = child(HOLD, path)
    assert first.stdout is not None
    assert first.stdout.readline() == "holding\n"
    with Ledger(path, read_only=True) as reader:
        os.kill(first.pid, signal.SIGKILL)
        output(first)
        with Ledger(path) as writer:
            assert writer.start_job("mail", ABOUT) == 2
            assert reader.statistics().jobs == 2
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
