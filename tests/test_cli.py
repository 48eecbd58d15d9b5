"""The command as its user runs it: files, pipes, a terminal, signals, exit codes."""

import asyncio
import csv
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import fake_command
import pytest
from gateway_server import Answer, Asked, GatewayServer, Said, Script, completion
from rich.cells import cell_len
from standing_still import NOTHING

import packer
from packer import arguments, connections, runner
from packer.cli import main
from packer.events import AttemptEnded, JobStopped, SettingRefused, Statistics
from packer.exchange import Charge, ChargeSource
from packer.items import MOST_IN_FLIGHT, Item, Result, Status
from packer.ledger import AttemptState, Closed, Ledger, Opened
from packer.limiter import Limiter
from packer.progress import describe, write_event
from packer.prompts import read_user, write_answer
from packer.shown import cut_text, show_text
from packer.summary import Ending, ResultTable, write_summary
from packer.task import Task, read_task
from packer.testing import FakeTransport
from packer.usage import Usage

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ["Win a FREE prize", "see you at 5?", "free entry", "bring the keys", "ok", "call me"]
FAKE = [sys.executable, str(ROOT / "tests" / "fake_command.py"), "label"]
CALL = ["--text", "text", "--labels", "spam,ham", "--model", "gateway/model"]


def write_csv(path: Path, texts: list[str] = TEXTS) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text"], *([str(number), text] for number, text in enumerate(texts))])
    return str(path)


def read_csv(path: Path | str) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def label(*arguments: str, call: list[str] = CALL) -> int:
    return main(["label", *arguments, *call])


# Help, version, speed

HEAVY = ["openai", "instructor", "pydantic", "jsonschema", "rich", "aiohttp", "numpy", "onnxruntime", "genai_prices"]
HEAVY += ["narwhals", "pandas", "polars", "pyarrow"]


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["label", "--help"], ["plan", "--help"], ["--version"], ["label", "--nonsense"], ["models"]),
        *(["evaluate", "--help"], ["evaluate", "a.csv"]),
    ],
)
def test_help_version_and_a_bad_call_import_nothing_slow(arguments: list[str]) -> None:
    code = f"import sys; from packer.cli import main; main({arguments!r}); print(*sys.modules, sep='\\n')"
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(done.stdout.splitlines())
    assert time.perf_counter() - began < 2  # 0.13 s where nothing else runs


@pytest.mark.parametrize("command", [[], ["label"], ["plan"], ["models"], ["evaluate"], ["ledger"]])
def test_help_fits_80_columns(command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "%" not in shown


@pytest.mark.parametrize("command", ["label", "plan", "models", "evaluate"])
def test_help_ends_with_examples_that_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    examples = shown.split("examples:")[1].split("exit codes:")[0].replace("\\\n", " ").strip().splitlines()
    assert len(examples) == 2
    for example in examples:
        # every option exists, and nothing is missing: the file is what is wrong
        assert main(example.split()[1:]) == 2
        assert "there is no such file" in capsys.readouterr().err or "task.toml" in example


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"prompt-packer {packer.__version__}\n"


def test_python_dash_m_packer_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "packer", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"prompt-packer {packer.__version__}\n"


# Files


def test_a_csv_is_labelled_row_by_row(gateway: FakeTransport, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_csv(Path("in.csv"))
    assert label(source, "--output", "out.csv", "--id", "id") == 0
    rows = read_csv("out.csv")
    assert [(row["id"], row["text"]) for row in rows] == [(str(n), text) for n, text in enumerate(TEXTS)]
    assert [row["label"] for row in rows] == [fake_command.annotate(text) for text in TEXTS]
    assert {(row["status"], row["error"]) for row in rows} == {("labelled", "")}
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "6: 6 labelled" in shown.err
    assert "out.csv" in shown.err


def test_two_columns_of_one_name_stay_two(gateway: FakeTransport) -> None:
    Path("in.csv").write_text("text,x,x\nfree,1,2\n")
    assert label("in.csv", "--output", "out.csv") == 0
    assert Path("out.csv").read_text() == "text,x,x,label,status,error\nfree,1,2,spam,labelled,\n"


def test_a_second_run_sends_nothing(gateway: FakeTransport, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_csv(Path("in.csv"))
    assert label(source, "--output", "out.csv") == 0
    first, sent = Path("out.csv").read_bytes(), len(gateway.prompts)
    assert label(source, "--output", "out.csv") == 0
    assert (Path("out.csv").read_bytes(), len(gateway.prompts)) == (first, sent)
    assert "nothing in this run; $0.00010 with earlier runs" in capsys.readouterr().err


def test_a_gold_label_stays_and_the_new_one_gets_another_name(
    gateway: FakeTransport, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in.csv").write_text("text,label\nfree,gold\n")
    assert label("in.csv", "--output", "out.csv") == 0
    assert read_csv("out.csv") == [
        {"text": "free", "label": "gold", "label_2": "spam", "status": "labelled", "error": ""}
    ]
    assert "the input has a column 'label' already; the new one is 'label_2'" in capsys.readouterr().err


def test_jsonl_keeps_its_rows_and_csv_can_come_of_it(gateway: FakeTransport) -> None:
    Path("in.jsonl").write_text('{"text": "free", "n": 1.10}\n{"text": "b\\ud800", "x": [1]}\n')
    assert label("in.jsonl", "--output", "out.jsonl") == 0
    assert Path("out.jsonl").read_text() == (
        '{"text": "free", "n": 1.10, "label": "spam", "status": "labelled", "error": ""}\n'
        '{"text": "b\\ud800", "x": [1], "label": "ham", "status": "labelled", "error": ""}\n'
    )
    assert label("in.jsonl", "--output", "out.csv") == 0
    assert Path("out.csv").read_text() == (
        "text,n,x,label,status,error\nfree,1.1,,spam,labelled,\nb\\ud800,,[1],ham,labelled,\n"
    )


def test_a_record_task_fills_a_column_a_field(
    gateway: FakeTransport, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("task.json").write_text(
        json.dumps(
            {
                "record": {
                    "type": "object",
                    "properties": {"topic": {"type": "string"}, "urgent": {"type": "boolean"}},
                    "required": ["topic", "urgent"],
                }
            }
        )
    )
    transport = FakeTransport(read_task("task.json"), lambda text: {"topic": text[:4], "urgent": True}, seconds=0)
    monkeypatch.setattr(connections, "connect", fake_command.connect_to(transport))
    source = write_csv(Path("in.csv"), ["bill is wrong"])
    arguments = ["label", source, "--text", "text", "--task", "task.json", "--model", "m"]
    assert main([*arguments, "--output", "out.csv"]) == 0
    assert Path("out.csv").read_text() == "id,text,topic,urgent,status,error\n0,bill is wrong,bill,true,labelled,\n"
    assert main([*arguments, "--table"]) == 0
    assert "topic: bill, urgent: yes" in capfd.readouterr().out


def test_failed_rows_are_written_with_their_reason_and_the_exit_code_is_3(
    gateway: FakeTransport, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_csv(Path("in.csv"), ["free", " \n ", ""])
    assert label(source, "--output", "out.csv") == 3
    assert [row["status"] for row in read_csv("out.csv")] == ["labelled", "failed", "failed"]
    assert read_csv("out.csv")[1]["error"] == "the text is empty"
    shown = capsys.readouterr().err
    assert "failed     2: the text is empty" in shown
    assert "the column error says why" in shown


def test_a_stopped_job_writes_every_row_and_the_exit_code_is_4(
    monkeypatch: pytest.MonkeyPatch, in_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    transport = fake_command.make_transport(Task(["spam", "ham"]), faults={"2": "quota", "4": "quota"})
    monkeypatch.setattr(connections, "connect", fake_command.connect_to(transport))
    source = write_csv(Path("in.csv"))
    assert label(source, "--output", "out.csv", "--max-items", "2", "--concurrency", "1") == 4
    rows = read_csv("out.csv")
    assert [row["text"] for row in rows] == TEXTS
    assert sorted(row["status"] for row in rows) == ["labelled"] * 2 + ["pending"] * 4
    shown = capfd.readouterr().err
    assert "stopped    quota: the gateway says: quota" in shown
    assert "run the same command again" in shown
    assert label(source, "--table", "--max-items", "2", "--concurrency", "1", "--ledger", "other.db") == 4
    assert len(capfd.readouterr().out.splitlines()) == 1 + 2  # what is pending is no news
    assert label(source, "--output", "out.csv", "--max-items", "2", "--concurrency", "1") == 0
    assert {row["status"] for row in read_csv("out.csv")} == {"labelled"}
    assert (
        sum("\n" in prompt.user for prompt in transport.prompts) == 6
    )  # twice one and a refused one, and two for the rest


def test_items_in_doubt_are_held_when_that_is_asked_for(monkeypatch: pytest.MonkeyPatch, in_folder: Path) -> None:
    transport = fake_command.make_transport(Task(["spam", "ham"]), faults={"1": "lost"})
    monkeypatch.setattr(connections, "connect", fake_command.connect_to(transport))
    assert label(write_csv(Path("in.csv")), "--output", "out.csv", "--on-doubt", "hold") == 3
    assert {row["status"] for row in read_csv("out.csv")} == {"doubt"}
    assert main(["ledger", "doubt"]) == 0


def test_a_header_alone_gives_a_header(gateway: FakeTransport) -> None:
    Path("in.csv").write_text("id,text\n")
    assert label("in.csv", "--output", "out.csv") == 0
    assert Path("out.csv").read_text() == "id,text,label,status,error\n"


def test_a_formula_is_led_by_an_apostrophe_unless_raw(
    gateway: FakeTransport, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_csv(Path("in.csv"), ["=1+1", "-5"])
    assert label(source, "--output", "out.csv") == 0
    assert [row["text"] for row in read_csv("out.csv")] == ["'=1+1", "-5"]
    assert "1 cell got a leading '" in capsys.readouterr().err
    assert label(source, "--output", "out.csv", "--raw") == 0
    assert [row["text"] for row in read_csv("out.csv")] == ["=1+1", "-5"]


def test_an_output_device_that_is_full_stops_the_job_and_keeps_the_answers(
    gateway: FakeTransport, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    source = write_csv(Path("in.csv"))
    assert label(source, "--output", "/dev/full") == 4
    assert "the output cannot be written: No space left on device" in capsys.readouterr().err
    assert label(source, "--output", "out.csv") == 0


def test_verbose_logs_a_line_a_request(gateway: FakeTransport, capsys: pytest.CaptureFixture[str]) -> None:
    assert label(write_csv(Path("in.csv")), "--output", "out.csv", "-v") == 0
    pattern = r"^\d\d:\d\d:\d\d pack of 6, attempt 1: 6 of 6 answers, \d+\+\d+ tokens, \$0\.00010, 0\.0 s$"
    assert re.search(pattern, capsys.readouterr().err, re.MULTILINE)


def test_an_input_that_lost_rows_after_it_was_checked_is_told(
    gateway: FakeTransport, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Law 1: no row is dropped in silence, and the job is resumable once the input is whole again."""
    source = Path(write_csv(Path("in.csv"), [f"text {number} " + "x" * 200 for number in range(2_000)]))
    whole = source.read_bytes()

    def connect(*_: Any, **__: Any) -> FakeTransport:
        cut = whole.rindex(b"\n", 0, 2 * 65_536) + 1  # between two rows, so that what is left is a sound table
        os.truncate(source, cut)
        return gateway

    monkeypatch.setattr(connections, "connect", connect)
    assert label(str(source), "--output", "out.csv") == 4
    rows = read_csv("out.csv")
    assert f"in.csv: ended after {len(rows)} rows, and had 2000 when it was checked" in capsys.readouterr().err
    assert {row["status"] for row in rows} == {"labelled"}
    assert 0 < len(rows) < 2_000


# Hostile texts

TASK_FILE = """labels = ["spam", "ham"]
[[canaries]]
text = "free money"
label = "spam"
[[canaries]]
text = "lunch at one?"
label = "ham"
"""


@pytest.mark.parametrize(
    ("given", "sizes"), [([], [1, 7]), (["--max-items", "4"], [4, 6]), (["--max-items", "6"], [8])]
)
def test_untrusted_texts_go_in_small_packs_with_canaries(
    monkeypatch: pytest.MonkeyPatch, in_folder: Path, given: list[str], sizes: list[int]
) -> None:
    Path("task.toml").write_text(TASK_FILE)
    transport = fake_command.make_transport(read_task("task.toml"))
    monkeypatch.setattr(connections, "connect", fake_command.connect_to(transport))
    call = ["label", write_csv(Path("in.csv")), "--text", "text", "--task", "task.toml", "--model", "m"]
    assert main([*call, "--output", "out.csv", "--untrusted", *given]) == 0
    assert sorted(len(read_user(prompt.user)[1]) for prompt in transport.prompts) == sizes
    rows = read_csv("out.csv")
    assert [(row["text"], row["label"]) for row in rows] == [(text, fake_command.annotate(text)) for text in TEXTS]


def test_a_canary_hit_is_told_in_the_log_and_in_the_summary(
    monkeypatch: pytest.MonkeyPatch, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("task.toml").write_text(TASK_FILE)
    task = read_task("task.toml")
    gullible = FakeTransport(task, lambda text: "spam" if text == "lunch at one?" else fake_command.annotate(text))
    monkeypatch.setattr(connections, "connect", fake_command.connect_to(gullible))
    call = ["label", write_csv(Path("in.csv")), "--text", "text", "--task", "task.toml", "--model", "m", "-v"]
    assert main([*call, "--output", "out.csv", "--untrusted"]) == 0
    shown = capsys.readouterr().err
    assert "pack of 5, attempt 1: 0 of 5 answers: a canary was hit: ham came back as spam" in shown
    assert "canaries   hit in 1 pack: those items were asked one by one" in shown
    assert [row["label"] for row in read_csv("out.csv")] == [fake_command.annotate(text) for text in TEXTS]


def test_untrusted_without_canaries_is_one_line_and_nothing_is_sent(
    gateway: FakeTransport, capsys: pytest.CaptureFixture[str]
) -> None:
    assert label(write_csv(Path("in.csv")), "--output", "out.csv", "--untrusted") == 2
    shown = capsys.readouterr().err
    assert "prompt-packer: untrusted: expected canaries of at least two labels, got 0: add [[canaries]]" in shown
    assert len(shown.splitlines()) == 1
    assert gateway.prompts == []
    assert not Path("out.csv").exists()


# Pipes


def run_fake(*arguments: str, given: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*FAKE, *arguments, *CALL],
        input=given,
        capture_output=True,
        check=False,
        env={**os.environ, **variables},
        timeout=120,
    )


def test_a_pipe_goes_in_and_out(in_folder: Path) -> None:
    done = run_fake("-", given=b'text\nfree\n"b,\r\nc"\n')
    assert done.returncode == 0
    assert done.stdout == b'text,label,status,error\nfree,spam,labelled,\n"b,\r\nc",ham,labelled,\n'
    done = run_fake("-", "--output", "-", given=b'{"text": "free"}\n')
    assert done.stdout == b'{"text": "free", "label": "spam", "status": "labelled", "error": ""}\n'


def test_a_fault_in_the_middle_of_a_pipe_ends_the_input_and_keeps_what_was_read(in_folder: Path) -> None:
    done = run_fake("-", "--output", "out.csv", given=b"text,n\nfree,1\nb,2\nc\nd,4\n")
    assert done.returncode == 4
    assert [row["label"] for row in read_csv("out.csv")] == ["spam", "ham"]
    assert b"standard input: line 4: expected 2 cells" in done.stderr


def test_a_later_row_of_a_pipe_cannot_take_the_name_of_a_new_column(in_folder: Path) -> None:
    done = run_fake("-", given=b'{"text": "free", "label": 1}\n{"text": "b", "x": 2}\n{"text": "c", "label_2": 3}\n')
    assert done.returncode == 4
    assert b"line 3: the key 'label_2' is not in the first row" in done.stderr
    assert [json.loads(line)["label_2"] for line in done.stdout.splitlines()] == ["spam", "ham"]


def test_a_reader_that_has_enough_ends_the_command_quietly(in_folder: Path) -> None:
    source = write_csv(in_folder / "in.csv", [f"text {number}" for number in range(5000)])
    process = subprocess.Popen([*FAKE, source, *CALL], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"id,text,label,status,error\n"
    process.stdout.close()
    assert (process.stderr.read(), process.wait(30)) == (b"", 4)
    process.stderr.close()


def test_rows_come_out_of_a_slow_pipe_before_it_ends_and_ctrl_c_ends_it(in_folder: Path) -> None:
    with running("-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"text\nfree\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"text,label,status,error\n"
        assert process.stdout.readline() == b"free,spam,labelled,\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 4
        assert process.stderr is not None
        assert b"stopped    interrupted" in process.stderr.read()


# Signals


@contextmanager
def running(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*FAKE, *arguments, *CALL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **variables},
    )
    watchdog = threading.Timer(30, process.kill)  # a read of a silent process would wait for ever
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def wait_for_requests(log: Path, count: int) -> None:
    until = time.monotonic() + 30
    while not log.exists() or len(log.read_text().splitlines()) < count:
        assert time.monotonic() < until, "no request was sent"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_what_is_in_flight_writes_every_row_and_a_second_run_goes_on(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    source = write_csv(in_folder / "in.csv", [f"text {n}" for n in range(40)])
    log = in_folder / "log"
    arguments = [source, "--output", "out.csv", "--max-items", "10", "--concurrency", "1"]
    # the first request is answered at the end of its time, though the signal comes in the middle of it
    with running(*arguments, FAKE_SECONDS="0.6", FAKE_LOG=str(log)) as process:
        wait_for_requests(log, 1)
        process.send_signal(number)
        assert process.stderr is not None
        shown = process.stderr.read().decode()
        assert process.wait(30) == 4
    rows = read_csv("out.csv")
    assert [row["status"] for row in rows].count("labelled") == 10
    assert [row["text"] for row in rows] == [f"text {n}" for n in range(40)]
    assert {row["status"] for row in rows} == {"labelled", "pending"}
    assert "stopping: waiting for 1 request in flight; press Ctrl-C again to leave at once" in shown
    assert "30 items pending; run the same command again to go on" in shown.replace("\n           ", " ")
    monkeypatch.setenv("FAKE_LOG", str(log))
    monkeypatch.setattr(
        connections, "connect", fake_command.connect_to(fake_command.make_transport(Task(["spam", "ham"])))
    )
    assert label(*arguments) == 0
    assert sum(len(json.loads(line)) for line in log.read_text().splitlines()) == 40
    assert {row["status"] for row in read_csv("out.csv")} == {"labelled"}


def test_a_second_ctrl_c_leaves_at_once_and_the_old_output_stays(in_folder: Path) -> None:
    source = write_csv(in_folder / "in.csv")
    Path("out.csv").write_text("old")
    log = in_folder / "log"
    with running(source, "--output", "out.csv", FAKE_SECONDS="60", FAKE_LOG=str(log)) as process:
        wait_for_requests(log, 1)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert b"press Ctrl-C again" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        shown = process.stderr.read().decode()
        assert process.wait(10) == 4
    assert "in doubt" in shown
    assert "Traceback" not in shown
    assert Path("out.csv").read_text() == "old"
    assert not list(in_folder.glob(".*.part"))
    with Ledger("prompt-packer.db") as ledger:  # as the next run opens it
        assert len(list(ledger.attempts_in_doubt())) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_anything_was_sent_is_one_line(in_folder: Path, number: signal.Signals) -> None:
    os.mkfifo("in.csv")
    with running("in.csv", "--output", "out.csv") as process:
        sink = os.open("in.csv", os.O_WRONLY)  # waits until the command has opened it
        process.send_signal(number)
        assert process.stderr is not None
        shown = process.stderr.read().decode()
        assert process.wait(10) == 4
        os.close(sink)
    assert shown == "prompt-packer: interrupted before anything was sent; run the same command again\n"
    assert [path.name for path in in_folder.iterdir()] == ["in.csv"]


def test_an_error_stream_that_nobody_reads_loses_nothing(in_folder: Path) -> None:
    source = write_csv(in_folder / "in.csv")
    process = subprocess.Popen([*FAKE, source, "--output", "out.csv", "-v", *CALL], stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(60) == 0
    assert {row["status"] for row in read_csv("out.csv")} == {"labelled"}


def test_standard_streams_that_are_closed_do_not_become_files(in_folder: Path) -> None:
    write_csv(in_folder / "in.csv")
    code = "import os; from packer.cli import main; main([]); os.mkdir(str(os.open('in.csv', os.O_RDONLY)))"
    subprocess.run(["sh", "-c", shlex.join([sys.executable, "-c", code]) + " <&- >&- 2>&-"], check=True)
    assert not [name for name in "012" if Path(name).exists()]
    command = shlex.join([*FAKE, "in.csv", *CALL])
    shell = ["sh", "-c", f"{command} --output out.csv <&- >&- 2>&-; echo $? > code; {command} >&-"]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert Path("code").read_text() == "0\n"
    assert {row["status"] for row in read_csv("out.csv")} == {"labelled"}
    assert (done.returncode, done.stderr) == (
        2,
        "prompt-packer: standard output is closed; expected --output FILE\n",
    )
    assert main(["ledger", "verify"]) == 0


# The terminal


def run_on_terminal(*arguments: str, **variables: str) -> tuple[int, str]:
    """The exit code and all that was written to an 80-column terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*FAKE, *arguments, *CALL],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "COLUMNS": "80", "TERM": "xterm", **variables},
    )
    os.close(follower)
    written = b""
    try:
        while chunk := os.read(leader, 1 << 16):
            written += chunk
    except OSError:  # Linux tells the end of a terminal so
        pass
    os.close(leader)
    return process.wait(30), written.decode()


def test_a_terminal_gets_a_table_a_bar_and_a_summary(in_folder: Path) -> None:
    source = write_csv(in_folder / "in.csv", [*TEXTS, "evil \x1b[31m\u202e\x9b text", "", "全角" * 40])
    code, shown = run_on_terminal(source, FAKE_SECONDS="0.7")
    assert code == 3
    assert "━" in shown
    assert "in flight" in shown
    assert re.search(r" 1  spam       Win a FREE prize\r\n", shown)
    assert r"evil \x1b[31m\u202e\x9b text" in shown
    assert " (failed)" in shown
    assert "next       --output FILE keeps them" in shown
    assert not re.search("\x1b\\[31m\u202e|\x9b", shown)
    # the bar was wiped away before the first row
    assert "\u2501" not in shown[: shown.index("#  label")].rsplit("\x1b[2K", 1)[1]


def test_no_color_is_respected(in_folder: Path) -> None:
    source = write_csv(in_folder / "in.csv", [*TEXTS, ""])
    _, shown = run_on_terminal(source, FAKE_SECONDS="0.3", NO_COLOR="1")
    assert not re.search("\x1b\\[[0-9;]*3[0-9]m|\x1b\\[[0-9;]*9[0-7]m", shown)


def test_nothing_but_the_summary_is_shown_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, in_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    transport = fake_command.make_transport(Task(["spam", "ham"]), seconds=0.4)
    monkeypatch.setattr(connections, "connect", fake_command.connect_to(transport))
    assert label(write_csv(Path("in.csv")), "--output", "out.csv") == 0
    shown = capfd.readouterr()
    assert (shown.out, shown.err[:6]) == ("", "items ")
    assert not re.search("\x1b|\u2501", shown.err)


def test_a_table_can_be_asked_for(gateway: FakeTransport, capfd: pytest.CaptureFixture[str]) -> None:
    source = write_csv(Path("in.csv"))
    assert label(source, "--table", "--output", "out.csv") == 0
    shown = capfd.readouterr().out.splitlines()
    assert shown[0].split() == ["#", "label", "text"]
    assert shown[1] == " 1  spam       Win a FREE prize"
    assert label(source, "--table") == 0
    assert "next       --output FILE writes the rows; nothing is asked again" in capfd.readouterr().err
    assert len(read_csv("out.csv")) == len(TEXTS)


# A real gateway


@contextmanager
def serving(script: Script) -> Iterator[GatewayServer]:
    """A gateway on loopback in a thread: the command has this one, for its signals."""
    ready, done = threading.Event(), asyncio.Event()
    servers: list[GatewayServer] = []

    async def serve() -> None:
        async with GatewayServer(script) as server:
            servers.append(server)
            loops.append(asyncio.get_running_loop())
            ready.set()
            await done.wait()

    loops: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield servers[0]
    finally:
        loops[0].call_soon_threadsafe(done.set)
        thread.join(10)


def answer_pack(asked: Asked) -> Said:
    nonce, texts = read_user(asked.body["messages"][-1]["content"])
    rows = {number: fake_command.annotate(text) for number, text in enumerate(texts, 1)}
    text = write_answer(Task(["spam", "ham"]), nonce, rows)
    return Answer(completion(text), headers={"X-MDB-Charged-USD": "0.002", "X-MDB-Balance-USD": "7.5"})


def test_a_file_is_labelled_by_a_gateway_and_its_key_shows_nowhere(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    key = "mdb_live_canary0123456789"
    monkeypatch.setenv("MY_KEY", key)
    source = write_csv(Path("in.csv"))
    with serving(answer_pack) as server:
        address = ["--base-url", f"{server.url}/v1", "--api-key-env", "MY_KEY"]
        assert label(source, "--output", "out.csv", "--max-items", "3", "-v", *address) == 0
    assert [row["label"] for row in read_csv("out.csv")] == [fake_command.annotate(text) for text in TEXTS]
    assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {key}"}
    shown = capfd.readouterr()
    assert "$0.0040 (told by the gateway)" in shown.err
    assert main(["ledger", "export"]) == 0
    assert main(["ledger"]) == 0
    written = [path.read_bytes() for path in in_folder.iterdir() if path.is_file()]
    shown_later = capfd.readouterr()
    everything = b"".join(written).decode("utf-8", "replace") + shown.out + shown.err + shown_later.out
    assert key not in everything


def test_a_gateway_may_tell_its_charge_in_a_header_of_its_own(
    in_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def answer(asked: Asked) -> Answer:
        told = answer_pack(asked)
        assert isinstance(told, Answer)
        return Answer(told.body, headers={"X-Our-Cost": "0.003", "X-MDB-Charged-USD": "0.002"})

    source = write_csv(in_folder / "in.csv")
    with serving(answer) as server:
        address = ["--base-url", f"{server.url}/v1", "--charge-header", "X-Our-Cost"]
        assert label(source, "--output", "out.csv", *address) == 0
    assert "$0.0030 (told by the gateway)" in capfd.readouterr().err


def test_a_refused_key_ends_the_job_after_one_request_and_the_next_run_goes_on(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", "mdb_live_canary0123456789")
    source = write_csv(Path("in.csv"), [f"text {number}" for number in range(50)])
    refusal = Answer({"error": {"message": "Invalid API key\x1b[2J mdb_live_canary0123456789"}}, status=401)
    with serving(lambda asked: refusal if len(server.asked) == 1 else answer_pack(asked)) as server:
        address = ["--base-url", f"{server.url}/v1", "--api-key-env", "MY_KEY"]
        assert label(source, "--output", "out.csv", *address) == 4
        assert len(server.asked) == 1
        shown = capfd.readouterr().err
        assert "stopped    key refused" in shown
        assert not re.search("canary|\x1b", shown)
        assert label(source, "--output", "out.csv", *address) == 0
    assert {row["status"] for row in read_csv("out.csv")} == {"labelled"}


# The ledger


def test_the_ledger_is_shown_verified_and_exported(gateway: FakeTransport, capsys: pytest.CaptureFixture[str]) -> None:
    assert label(write_csv(Path("in.csv")), "--output", "out.csv") == 0
    capsys.readouterr()
    assert main(["ledger"]) == 0
    shown = capsys.readouterr().out
    assert "answers    6\n" in shown
    assert "requests   1: 1 settled\n" in shown
    assert "cost       $0.00010\n" in shown
    assert main(["ledger", "verify", "prompt-packer.db"]) == 0
    assert capsys.readouterr().out == "prompt-packer.db: nothing is wrong\n"
    assert main(["ledger", "export"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(answer["value"] for answer in answers) == sorted(map(fake_command.annotate, TEXTS))
    assert main(["ledger", "doubt"]) == 0
    assert capsys.readouterr().out == "no request is in doubt\n"


def test_an_export_whose_reader_has_enough_ends_quietly(in_folder: Path) -> None:
    Ledger("prompt-packer.db").close()
    shell = f"{shlex.quote(sys.executable)} -m packer ledger | sleep 0"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_the_commands_numbers_are_the_runners() -> None:
    assert Limiter().cap == MOST_IN_FLIGHT
    assert arguments.LEDGER == runner.DEFAULT_LEDGER


def test_a_request_in_doubt_is_listed(
    monkeypatch: pytest.MonkeyPatch, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transport = fake_command.make_transport(Task(["spam", "ham"]), faults={"1": "lost"})
    monkeypatch.setattr(connections, "connect", fake_command.connect_to(transport))
    price = ["--price-input", "0.15", "--price-output", "0.6"]
    label(write_csv(Path("in.csv")), "--output", "out.csv", "--on-doubt", "hold", *price)
    capsys.readouterr()
    assert main(["ledger", "doubt"]) == 0
    pattern = (
        r"request 1, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, 6 items, at most \$0\.\d+: lost: the gateway says: lost\n"
    )
    assert re.fullmatch(pattern, capsys.readouterr().out)


def test_a_cost_that_nobody_knows_is_not_shown_as_nothing(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ "Unknown is never zero." """
    with Ledger("l.db") as ledger:
        job = ledger.start_job("mail", {"task": "t", "model": "m", "parameters": {}})
        ledger.commit([Opened(1, job, ("b2:1",), 1, None), Opened(2, job, ("b2:2",), 1, Decimal(1))])
        ledger.commit([Closed(n, AttemptState.SETTLED, "", None, None, 1.0, {}) for n in (1, 2)])
    assert main(["ledger", "l.db"]) == 0
    shown = capsys.readouterr().out
    assert "cost       $1.00\nunknown    1 request cost what nobody knows\n" in shown


def test_what_is_wrong_with_a_ledger_has_exit_code_5(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "no.db"]) == 5
    Path("other.db").write_text("not a ledger, and long enough for a header" * 10)
    assert main(["ledger", "verify", "other.db"]) == 5
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 2
    assert all(line.startswith("prompt-packer: ledger ") for line in shown)


# What a person reads


def changed(**values: Any) -> Statistics:
    return Statistics(**{**{name: getattr(NOTHING, name) for name in Statistics.__slots__}, **values})


def summary(**values: Any) -> str:
    ending = Ending(**{"earlier": NOTHING, "now": NOTHING, "reasons": {}, "ledger": "l.db", **values})
    lines = [line.text for line in write_summary(ending, width=80)]
    assert max(map(cell_len, lines)) <= 80
    assert len(lines) <= 24
    return "\n".join(lines).replace("\n           ", " ")  # as if nothing were wrapped


def test_the_cost_says_where_it_was_read_and_what_is_unknown() -> None:
    told = changed(requests=3, settled=Decimal("0.5"), charge_sources={ChargeSource.HEADER: 2, ChargeSource.PRICE: 1})
    assert "$0.50 (told by the gateway, tokens x price)" in summary(now=told)
    assert "unknown for 2 requests: no charge was told" in summary(now=changed(requests=2, unpriced=2))
    free = changed(requests=2, charge_sources={ChargeSource.FREE: 2})
    assert "free: it ran on this machine" in summary(now=free, notice="a small model")
    doubt = changed(settled=Decimal("0.5"), in_doubt=Decimal("0.25"), doubt_requests=3, doubt_texts=60)
    assert (
        "3 requests with 60 texts, and no word of what they cost: at most $0.25, "
        "so that the job has cost $0.50 to $0.75" in summary(now=doubt)
    )
    earlier = changed(settled=Decimal(2))
    both = changed(requests=1, settled=Decimal(3), charge_sources={ChargeSource.BODY: 1})
    shown = summary(earlier=earlier, now=both, budget=Decimal(5))
    assert "$1.00 (told in the replies); $3.00 with earlier runs; the budget is $5.00" in shown
    lost = changed(requests=1, settled=Decimal(3), in_doubt=Decimal("0.5"), doubt_requests=1)
    assert "$3.00 to $3.50 with earlier runs" in summary(earlier=earlier, now=lost)


def test_a_summary_with_everything_fits_a_screen() -> None:
    now = changed(
        items=1_000_000,
        labelled=900_000,
        failed=50_000,
        doubt=25_000,
        pending=25_000,
        known=500_000,
        packs=45_000,
        requests=60_000,
        usage=Usage(123_456_789, 23_456_789, 12_345_678),
        settled=Decimal("1234.5"),
        in_doubt=Decimal("0.5"),
        unpriced=3,
        charge_sources=dict.fromkeys(ChargeSource, 1),
        seconds=12_345.6,
        stopped="budget: " + "x" * 300,
        refused_settings=("response_format", "max_completion_tokens", "temperature"),
    )
    shown = summary(
        now=now,
        reasons={"hostile \x1b[2J \u202e " + "y" * 500: 3, "two": 2, "three": 1, "four": 1},
        notice="a small embedding model " * 4,
        renamed=[("label", "label_2")],
        guarded=7,
        output="out.csv",
        budget=Decimal(2000),
        stopped="budget: " + "全" * 300,
    )
    assert "1,000,000: 900,000 labelled, 50,000 failed, 25,000 in doubt, 25,000 pending" in shown
    assert "3 h 25 min, 81.0 items a second" in shown
    assert "\x1b" not in shown
    assert "and for 2 more reasons" in shown


def test_hostile_text_is_shown_and_not_obeyed() -> None:
    assert show_text("a\x1b[2Jb\r\n\tc\x9b\u202e\u2066\U000e0041\ud800\u200b") == (
        r"a\x1b[2Jb c\x9b\u202e\u2066\U000e0041\ud800\u200b"
    )
    assert show_text("naïve 全角 👍🏽 e\u0301") == "naïve 全角 👍🏽 e\u0301"


@pytest.mark.parametrize("width", range(1, 12))
def test_a_cut_text_is_never_wider(width: int) -> None:
    for text in ("hello world", "全角文字全角文字", "e\u0301" * 9, "👍🏽" * 6):
        assert cell_len(cut_text(text, width)) <= width
    assert cut_text("hello", 5) == "hello"


def test_a_row_of_the_table_is_never_wider_than_the_terminal() -> None:
    table = ResultTable(labels=["l" * 90, "全" * 50], fields=(), rows=3, width=40)
    item = Item("全角" * 50)
    for result in (
        Result(item, Status.LABELLED, label="全" * 50),
        Result(item, Status.FAILED, error="z" * 200),
        Result(item, Status.DOUBT, error="\x1b" * 9),
    ):
        lines = [table.header(), *table.row(item.text, result)]
        assert max(cell_len(line.text) for line in lines) <= 40
        assert "\x1b" not in "".join(line.text for line in lines)


def test_the_bar_says_done_rate_spend_in_flight_failed_and_what_is_left() -> None:
    now = changed(labelled=1000, failed=2, in_flight=16, settled=Decimal("0.5"), unpriced=0)
    assert describe(now, 3002, 20.0) == "1,002/3,002  20/s  $0.50  16 in flight  2 failed  1:40 left"
    assert describe(changed(labelled=5, unpriced=1), None, 0.0) == "5  0/s  $0+?  0 in flight"


def test_an_event_is_a_line() -> None:
    charge = Charge(Decimal("0.00012"), ChargeSource.HEADER)
    ended = AttemptEnded(7, 20, 1, 18, "18 of 20 answers", "split", 1.34, Usage(812, 63), charge)
    assert write_event(ended) == "pack of 20, attempt 1: 18 of 20 answers, 812+63 tokens, $0.00012, 1.3 s, split"
    lost = AttemptEnded(8, 1, 2, 0, "lost: reset", "resend", 30.0, None, None)
    assert write_event(lost) == "single, attempt 2: lost: reset, 30.0 s, resend"
    assert (
        write_event(SettingRefused("temperature"))
        == "the gateway does not take temperature; it is left out from now on"
    )
    assert write_event(JobStopped("quota")) == "stopping: quota"
