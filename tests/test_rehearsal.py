"""A user can rehearse a job: the gateway as a command in a process, and docs/rehearsal.md, run as it stands."""

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest
from gateway.command import main
from gateway.faults import FAULTS
from gateway.records import read_log

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "rehearsal.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^ *```text\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"(?:^ {4,}\S.*\n)+", FENCED.sub("", PAGE), re.MULTILINE)]
SERVED = ".venv/bin/python tests/gateway"


@pytest.fixture
def clone(in_folder: Path) -> Path:
    """A folder that looks like a clone that was set up; what is written there does not land in this one."""
    for name in ("examples", "tests"):
        (in_folder / name).symlink_to(ROOT / name)
    (in_folder / ".venv").symlink_to(sys.prefix)
    return in_folder


class Served:
    """The gateway in a process: what it printed at its start, and at its end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        self._out = process.stdout
        # what it prints at once are four paragraphs
        self.greeting = "\n".join("".join(iter(self._out.readline, "\n")) for _ in range(4))

    def end(self, number: int = signal.SIGINT) -> str:
        self._process.send_signal(number)
        said, _ = self._process.communicate(timeout=20)
        assert self._process.returncode == 0
        return said


@contextmanager
def serving(command: str) -> Iterator[Served]:
    with subprocess.Popen(["sh", "-c", f"exec {command}"], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Served(process)
        finally:
            process.kill()


def run(script: str, code: int = 0) -> str:
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def billed(farewell: str) -> Decimal:
    found = re.match(r"\d+ requests?: ([\d.]+) USD billed", farewell)
    assert found is not None, farewell
    return Decimal(found[1])


def mask(said: str) -> str:
    return re.sub(r"\d+", "0", said)


# The command


def test_the_greetings_command_works_when_it_is_pasted(clone: Path) -> None:
    with serving(f"{SERVED} --seconds 0 --key 'a$key' --log gateway.jsonl --fault 2=lost-row") as served:
        assert max(map(len, served.greeting.splitlines())) <= 80
        command = served.greeting[served.greeting.index("export ") :].split("\n\n")[0]
        assert "60 labelled" in run(command)
        farewell = served.end(signal.SIGTERM)
    log = read_log(clone / "gateway.jsonl")
    assert billed(farewell) == sum(record.billed for record in log) > 0
    assert farewell.splitlines()[1:] == [f"  {len(log) - 1} x answered", "  1 x lost-row, billed"]
    assert Decimal(farewell.split("billed, ")[1].split()[0]) == 100 - billed(farewell)
    report = run(".venv/bin/prompt-packer ledger rehearsal.ledger.db")
    assert f"requests   {len(log)}:" in report


def test_nothing_but_loopback_and_a_farewell_without_a_request(clone: Path) -> None:
    with serving(f"{SERVED} --port 0 --balance 2.50") as served:
        assert re.search(r"at http://127\.0\.0\.1:\d+/v1; Ctrl-C ends it", served.greeting)
        assert "balance  $2.50" in served.greeting
        assert served.end() == "0 requests: 0 USD billed, 2.50 USD left\n"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--fault", "nope"], "nope: expected NAME, NAME=SHARE, NUMBER=NAME or FROM-TO=NAME"),
        (["--fault", "hang=2"], "hang=2: expected a share"),
        (["--balance", "-1"], "argument --balance: expected US dollars, like 2.50, got '-1'"),
        (["--price-input", "x"], "argument --price-input: expected US dollars"),
        (["--port", "65536"], "argument --port: expected a whole number from 0 to 65535"),
        (["--rpm", "0"], "argument --rpm: expected a whole number from 1"),
        (["--slots", "two"], "argument --slots: expected a whole number from 1"),
        (["--seconds", "nan"], "argument --seconds: expected seconds, from 0 to 3600"),
        (["--errs", "1.5"], "argument --errs: expected a number from 0 to 1"),
        (["--key", "a b"], "argument --key: expected ASCII characters without a space"),
        (["--gold", "none.csv"], "none.csv: No such file or directory"),
        (["--log", "none/log"], "none/log: No such file or directory"),
        (["--tells", "all"], "argument --tells: invalid choice: 'all'"),
        (["--list"], "unrecognized arguments: --list"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_in_one_line(
    options: list[str], wanted: str, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(options)
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert said.err.startswith(f"python tests/gateway: {wanted}")
    assert said.err.count("\n") == 1


def test_a_port_that_is_taken_is_refused_in_one_line(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit):
            main(["--port", port])
    said = capsys.readouterr().err
    assert "address already in use" in said
    assert said.count("\n") == 1


def test_the_help_and_the_list_of_faults_fit_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    assert main(["--list-faults"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert max(map(len, listed)) <= 80
    said = " ".join(" ".join(listed).split())
    for name, fault in FAULTS.items():
        assert f"{name} { {True: 'yes', False: 'no', None: 'maybe'}[fault.billed] } {fault.what}" in said
    assert [line.split()[0] for line in listed[1:] if line[0] != " "] == [*FAULTS]


# The page


def test_the_page_has_every_fault_in_the_gateways_order_with_its_words() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:3] == "| `"]
    assert [row[:3] for row in rows] == [
        [f"`{name}`", fault.what, {True: "yes", False: "no", None: "maybe"}[fault.billed]]
        for name, fault in FAULTS.items()
    ]
    assert all(len(row) == 4 and row[3] for row in rows)


def test_the_pages_commands_work_as_they_stand(clone: Path) -> None:
    with socket.socket() as free:  # the page's port may be taken here
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    first, label, ledger, second, again = (block.replace("8321", port) for block in BLOCKS)
    assert first.startswith(SERVED)
    assert second.startswith(SERVED)

    with serving(first) as served:
        key = re.search(r"^export REHEARSAL_KEY=(.*)$", label, re.MULTILINE)
        assert key is not None
        assert f"key      {key[1]}\n" in served.greeting
        summary = run(label)
        assert "60 labelled" in summary
        assert "in doubt   2 requests" in summary
        books = run(ledger)
        assert "in doubt   at most" in books
        assert len(re.findall(r"^request \d+", books, re.MULTILINE)) == 2
        farewell = served.end()
    report = json.loads((clone / "labelled.json").read_text(encoding="utf-8"))
    assert (report["exit_code"], report["stopped"], report["failed"]) == (0, None, {})
    assert Decimal(report["job"]["least"]) <= billed(farewell) <= Decimal(report["job"]["most"])
    shown = FENCED.search(PAGE)
    assert shown is not None
    # which pack meets which fault hangs on the pace, and so do the last digits
    assert mask(textwrap.dedent(shown[1])) == mask(farewell)

    with serving(second) as served:
        summary = run(f"{key[0]}\n{again}", code=4)
        assert re.search(r"^stopped +balance: ", summary, re.MULTILINE)
        farewell = served.end()
    assert re.search(r"^ +\d+ x turned away with 429$", farewell, re.MULTILINE)
    with serving(second.replace("0.0006", "1")) as served:
        assert "60 labelled" in run(f"{key[0]}\n{again.split('db', 1)[1]}")
        assert billed(served.end()) < billed(farewell)


def test_the_page_is_linked_and_its_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert "docs/rehearsal.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    for command in re.findall(r"python tests/gateway\b[^\n]*(?:\\\n[^\n]*)*", PAGE):
        assert {option for option in shlex.split(re.sub(r"[`\\]", " ", command)) if option.startswith("--")} <= known
