"""The real command and a ledger that cannot be used: a named message, exit code 5, nothing that was committed lost."""

import csv
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_command import annotate, connect_to, make_transport

from packer import connections
from packer.cli import main
from packer.ledger import Ledger
from packer.task import Task

FAKE = [sys.executable, str(Path(__file__).with_name("fake_command.py")), "label", "in.csv"]
CALL = ["--text", "text", "--labels", "spam,ham", "--model", "gateway/model", "--output", "out.csv"]


@pytest.fixture(autouse=True)
def messages(in_folder: Path) -> None:
    write_rows(400)


def write_rows(count: int) -> None:
    rows = "".join(f"{'free' if n % 3 == 0 else 'hello'} {n}\n" for n in range(count))
    Path("in.csv").write_text(f"text\n{rows}", encoding="utf-8")


def start(ledger: Path | str, **variables: str) -> "subprocess.Popen[str]":
    command = [*FAKE, *CALL, "--ledger", str(ledger)]
    environment = {**os.environ, "FAKE_LOG": "log", **variables}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def run(ledger: Path | str, **variables: str) -> tuple[int | None, str]:
    process = start(ledger, **variables)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def asked() -> list[str]:
    return [text for line in Path("log").read_text(encoding="utf-8").splitlines() for text in json.loads(line)]


def check_output(count: int) -> None:
    with Path("out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["status"]) for row in rows] == [(annotate(row["text"]), "labelled") for row in rows]
    assert len(rows) == count


def answers_of(ledger: Path | str) -> int:
    with Ledger(ledger, read_only=True) as opened:
        assert opened.verify() == []
        return opened.statistics().answers


def test_a_second_process_on_one_ledger_is_told_the_first_and_sends_nothing() -> None:
    first = start("l.db", FAKE_SECONDS="1")
    until = time.monotonic() + 30
    while not Path("log").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    environment = {**os.environ, "FAKE_LOG": "other"}
    second = subprocess.run(
        [*FAKE, *CALL[:-1], "other.csv", "--ledger", "l.db"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert second.returncode == 5
    assert f"in use by process {first.pid} on " in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert not Path("other").exists()
    assert not Path("other.csv").exists()
    first.communicate(timeout=60)
    assert first.returncode == 0
    check_output(400)


def test_a_full_disk_stops_the_job_with_code_5_and_the_next_run_asks_only_for_what_was_not_kept(
    tmp_path: Path, mount: Callable[..., Path]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=5m", "tmpfs", at=disk)
    write_rows(6_000)
    code, err = run(disk / "l.db")
    assert code == 5, err
    assert "its disk has no room" in err
    assert len(err.splitlines()) == 1
    kept = answers_of(disk / "l.db")
    sent = Counter(asked())
    assert 500 < kept == len(sent) < 6_000, "all that was asked for was kept: it fits into the room that was set aside"
    assert not Path("out.csv").exists(), "the output is replaced when all is done"
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    Path("log").unlink()
    code, err = run(disk / "l.db")
    assert code == 0, err
    check_output(6_000)
    assert not sent.keys() & set(asked())
    assert len(asked()) == 6_000 - kept


def test_a_ledger_that_may_only_be_read_sends_nothing(tmp_path: Path, mount: Callable[..., Path]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "tmpfs", at=disk)
    assert run(disk / "l.db")[0] == 0
    Path("log").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    write_rows(500)
    code, err = run(disk / "l.db")
    assert code == 5
    assert "Read-only file system" in err
    assert len(err.splitlines()) == 1
    assert not Path("log").exists()
    assert answers_of(disk / "l.db") == 400


def test_no_flipped_bit_gives_a_wrong_label_or_another_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(60)
    assert label("sound.db", monkeypatch) == 0
    sound = Path("sound.db").read_bytes()
    rng = random.Random(1)
    refused = 0
    for flip in range(150):
        place, bit = rng.randrange(len(sound)), 1 << rng.randrange(8)
        rotten = bytearray(sound)
        rotten[place] ^= bit
        Path("l.db").write_bytes(rotten)
        Path("out.csv").unlink(missing_ok=True)
        capsys.readouterr()
        code = label("l.db", monkeypatch)
        said = capsys.readouterr().err
        where = f"flip {flip}: bit {bit} of byte {place}: {said}"
        if code == 5:
            refused += 1
            assert len(said.splitlines()) == 1, where
            assert said.startswith("prompt-packer: ledger "), where
            assert not Path("out.csv").exists(), where
        else:
            assert code == 0, where
            check_output(60)
    assert refused > 20


def label(ledger: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(connections, "connect", connect_to(make_transport(Task(["spam", "ham"]))))
    return main(["label", "in.csv", *CALL, "--ledger", ledger])
