"""Bad input, each with one clear line and nothing lost: every line of the list is a test by its name.

`refused` runs the real command and holds it to that: its exit code, one line on standard error, no request sent, and an
older output left as it was.
"""

import json
import os
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import fake_command
import pytest
from test_cli import CALL, read_csv, write_csv

from packer import connections
from packer.cli import main
from packer.ledger import Ledger
from packer.task import Task
from packer.testing import FakeTransport

REAL_CONNECT = connections.connect
KEY = "mdb_live_0123456789abcdef"
Refused = Callable[..., str]


@pytest.fixture
def refused(gateway: FakeTransport, capfd: pytest.CaptureFixture[str]) -> Refused:
    def run(*arguments: str, code: int = 2, call: list[str] = CALL) -> str:
        old = Path("out.csv")
        if not old.exists():
            old.write_text("old")
        before = old.read_bytes()
        output = [] if "--output" in arguments else ["--output", "out.csv"]
        assert main(["label", *arguments, *output, *call]) == code
        shown = capfd.readouterr()
        assert shown.out == ""
        assert shown.err.count("\n") == 1
        assert shown.err.startswith("prompt-packer: ")
        assert not gateway.prompts, "something was sent"
        assert old.read_bytes() == before
        assert not list(Path().glob(".*.part"))
        return shown.err.removeprefix("prompt-packer: ").rstrip("\n")

    return run


# The file


def test_missing_file(refused: Refused) -> None:
    write_csv(Path("messages.csv"))
    assert refused("mesages.csv") == "mesages.csv: there is no such file; did you mean messages.csv?"


def test_missing_column(refused: Refused) -> None:
    Path("in.csv").write_text("id,txt\n1,a\n")
    assert refused("in.csv") == "in.csv: no column 'text'; did you mean 'txt'? (it has 'id', 'txt')"


def test_empty_file(refused: Refused) -> None:
    Path("in.csv").touch()
    assert refused("in.csv") == "in.csv: expected a table, there is nothing in it"
    Path("in.jsonl").write_text("\n\n")
    assert refused("in.jsonl") == "in.jsonl: expected a table, there is nothing in it"


def test_a_folder_as_input(refused: Refused) -> None:
    Path("in.csv").mkdir()
    assert refused("in.csv") == "in.csv: expected a file, this is a folder"


def test_a_file_that_may_not_be_read(refused: Refused) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    Path("in.csv").touch(0o000)
    assert refused("in.csv") == "in.csv: cannot be read: Permission denied"


def test_another_kind_of_file(refused: Refused) -> None:
    Path("in.xlsx").touch()
    assert refused("in.xlsx") == "in.xlsx: expected a name that ends in .csv, .jsonl, .ndjson or .parquet"


def test_not_utf_8(refused: Refused, gateway: FakeTransport) -> None:
    Path("in.csv").write_bytes(b"text\nfree\ncaf\xe9\n")
    assert refused("in.csv") == (
        "in.csv: line 3: byte 0xE9 at offset 13 is not UTF-8; "
        "name the file's encoding with --encoding (cp1252, utf-16, ...)"
    )
    assert main(["label", "in.csv", "--output", "out.csv", "--encoding", "cp1252", *CALL]) == 0
    assert [row["text"] for row in read_csv("out.csv")] == ["free", "caf\xe9"]


def test_no_such_encoding(refused: Refused) -> None:
    source = write_csv(Path("in.csv"))
    assert refused(source, "--encoding", "utf9") == (
        "--encoding: expected a name like utf-8, cp1252 or utf-16, got 'utf9'"
    )


def test_a_broken_csv_row(refused: Refused) -> None:
    Path("in.csv").write_text("text,n\n" + "a,1\n" * 5000 + "b\n")
    assert refused("in.csv") == "in.csv: line 5002: expected 2 cells as in the header, got 1"
    Path("in.csv").write_text('text,n\na,1\n"b,2\nc,3\n')
    assert refused("in.csv") == "in.csv: line 3: a quote is opened and never closed"


def test_a_broken_jsonl_row(refused: Refused) -> None:
    Path("in.jsonl").write_text('{"text": "a"}\n{"text": "b"\n')
    assert refused("in.jsonl").startswith("in.jsonl: line 2: expected a JSON object: Expecting ',' delimiter")
    Path("in.jsonl").write_text('{"text": "a"}\n{"text": 7}\n')
    assert refused("in.jsonl") == "in.jsonl: line 2: expected a text in 'text', got a number"


def test_duplicate_ids(refused: Refused) -> None:
    Path("in.csv").write_text("id,text\n1,a\n2,b\n1,c\n")
    assert refused("in.csv", "--id", "id") == "in.csv: line 4: the id '1' stands on line 2 already"


# The texts


def test_an_empty_text_is_failed_and_not_sent(gateway: FakeTransport) -> None:
    source = write_csv(Path("in.csv"), ["", "free", " \t\n"])
    assert main(["label", source, "--output", "out.csv", *CALL]) == 3
    rows = read_csv("out.csv")
    assert [(row["status"], row["error"]) for row in rows] == [
        ("failed", "the text is empty"),
        ("labelled", ""),
        ("failed", "the text is empty"),
    ]
    assert [prompt.user.count("\n") for prompt in gateway.prompts] == [1]  # one line: one text


def test_a_nul_or_a_lone_surrogate_is_a_text_like_others(gateway: FakeTransport) -> None:
    Path("in.jsonl").write_text('{"text": "free \\u0000"}\n{"text": "b \\ud800"}\n')
    assert main(["label", "in.jsonl", "--output", "out.jsonl", *CALL]) == 0
    rows = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["text"], row["label"]) for row in rows] == [("free \0", "spam"), ("b \ud800", "ham")]
    Path("in.csv").write_text("text\nfree \0\n")
    assert main(["label", "in.csv", "--output", "out.csv", *CALL]) == 0
    assert "free \0" in Path("out.csv").read_text()


def test_a_text_of_a_megabyte_is_failed_and_the_others_are_labelled(gateway: FakeTransport) -> None:
    source = write_csv(Path("in.csv"), ["free", "word " * 200_000, "ok"])
    assert main(["label", source, "--output", "out.csv", *CALL]) == 3
    rows = read_csv("out.csv")
    assert [row["status"] for row in rows] == ["labelled", "failed", "labelled"]
    assert rows[1]["error"].startswith("too long: about ")
    assert rows[1]["text"] == "word " * 200_000
    assert sum(len(prompt.user) for prompt in gateway.prompts) < 200


# The task


def test_labels_that_differ_only_by_case(refused: Refused) -> None:
    source = write_csv(Path("in.csv"))
    call = ["--text", "text", "--model", "m", "--labels", "Spam,ham,spam"]
    assert refused(source, call=call) == (
        "labels: 'Spam' and 'spam' differ only by case; a reply could not tell them apart"
    )


def test_one_label(refused: Refused) -> None:
    call = ["--text", "text", "--model", "m", "--labels", "spam"]
    assert refused(write_csv(Path("in.csv")), call=call) == "labels: expected at least two labels, got 1"


def test_a_task_file_that_is_wrong_names_its_key(refused: Refused) -> None:
    Path("task.toml").write_text('labels = ["a", "b"]\n[[examples]]\ntext = "x"\nlabel = "c"\n')
    call = ["--text", "text", "--model", "m", "--task", "task.toml"]
    assert refused(write_csv(Path("in.csv")), call=call) == (
        "task.toml: examples[0].label: expected one of the labels (a, b), got 'c'"
    )


# The call


def test_missing_arguments(refused: Refused) -> None:
    assert refused("in.csv", call=[]) == "label: missing: --text"
    assert refused("in.csv", call=["--text", "t", "--labels", "a,b"]) == "label: missing: --model"
    assert refused("in.csv", call=["--text", "t", "--model", "m"]) == "label: missing: --labels or --task"
    assert refused(call=CALL) == "label: missing: INPUT"


def test_an_unknown_option(refused: Refused) -> None:
    assert refused("in.csv", "--budget", "3") == "label: unknown option --budget; did you mean --budget-usd?"
    assert refused("in.csv", call=["--txt", "t", "--lables=a,b"]) == (
        "label: unknown option --txt; did you mean --text?"
    )


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("--max-items", "x", "expected a whole number from 1 to 100, got 'x'"),
        ("--max-items", "101", "expected a whole number from 1 to 100, got '101'"),
        ("--max-items", "\u0663", "expected a whole number from 1 to 100, got '\u0663'"),
        ("--concurrency", "0", "expected auto or a whole number from 1 to 256, got '0'"),
        ("--budget-usd", "0", "expected US dollars above 0, like 2.50, got '0'"),
        ("--budget-usd", "nan", "expected US dollars above 0, like 2.50, got 'nan'"),
        ("--max-request-usd", "$1", "expected US dollars above 0, like 2.50, got '$1'"),
        ("--price-input", "inf", "expected US dollars per million tokens, like 0.15, got 'inf'"),
        ("--charge-header", "X: 1", "expected the name of a header, like X-Cost-USD, got 'X: 1'"),
        ("--on-doubt", "maybe", "expected retry or hold, got 'maybe'"),
        ("--seed", "1.5", "expected a whole number from 0 to 9223372036854775807, got '1.5'"),
        ("--encoding", "", "expected a name like utf-8, cp1252 or utf-16, got ''"),
    ],
)
def test_a_bad_value(refused: Refused, option: str, value: str, wanted: str) -> None:
    message = refused(write_csv(Path("in.csv")), option, value)
    assert message.removeprefix("label: ") == f"{option}: {wanted}"


def test_half_a_price(refused: Refused) -> None:
    source = write_csv(Path("in.csv"))
    assert refused(source, "--price-input", "1") == "--price-input and --price-output: expected both or neither"


def test_a_hostile_value_is_one_line_that_is_not_obeyed(refused: Refused) -> None:
    message = refused("no\x1b[2J\n\u202efile.csv")
    assert message == r"no\x1b[2J \u202efile.csv: there is no such file"


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (
            ["lable"],
            "COMMAND: expected label, plan, models, calibrate, evaluate, report, dashboard or ledger, got 'lable'",
        ),
        ([], "expected a command: label, plan, models, calibrate, evaluate, report, dashboard or ledger"),
        (["ledger", "verify", "a", "b"], "ledger: expected one of verify, export, doubt and a FILE, got 2 files"),
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err == f"prompt-packer: {words}\n"


# The model, the key, the address


def test_a_money_cap_without_a_price(refused: Refused) -> None:
    message = refused(write_csv(Path("in.csv")), "--budget-usd", "1")
    assert message.startswith("no price is known for gateway/model, and a money cap needs one")


def test_an_unknown_model_ends_the_job_after_one_request(
    monkeypatch: pytest.MonkeyPatch, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transport = fake_command.make_transport(Task(["spam", "ham"]), faults={"*": "unknown model"})
    monkeypatch.setattr(connections, "connect", fake_command.connect_to(transport))
    source = write_csv(Path("in.csv"), [f"text {number}" for number in range(100)])
    assert main(["label", source, "--output", "out.csv", *CALL]) == 4
    assert len(transport.prompts) == 1
    assert "stopped    unknown model: the gateway says" in capsys.readouterr().err
    assert {row["status"] for row in read_csv("out.csv")} == {"pending"}


def test_no_key(no_fake: Refused) -> None:
    source = write_csv(Path("in.csv"))
    assert no_fake(source) == "api.openai.com: expected a key in the environment variable OPENAI_API_KEY"
    assert no_fake(source, "--base-url", "https://gateway.example/v1").startswith("gateway.example: no key is known")


def test_an_environment_variable_without_a_key(no_fake: Refused) -> None:
    source = write_csv(Path("in.csv"))
    assert "environment variable NO_SUCH_KEY" in no_fake(source, "--api-key-env", "NO_SUCH_KEY")


def test_a_key_in_the_place_of_a_name_is_not_repeated(no_fake: Refused) -> None:
    source = write_csv(Path("in.csv"))
    for arguments in (["--api-key-env", KEY], ["--api-key", KEY], [f"--api-key={KEY}"], ["--api-key-file", "f", KEY]):
        assert KEY not in no_fake(source, *arguments)


def test_two_places_for_the_key(refused: Refused) -> None:
    message = refused("in.csv", "--api-key-env", "A", "--api-key-file", "b")
    assert message == "label: --api-key-file: not allowed with argument --api-key-env"


def test_a_key_file_that_others_may_read(no_fake: Refused) -> None:
    Path("key").write_text(KEY)
    Path("key").chmod(0o644)
    source = write_csv(Path("in.csv"))
    assert no_fake(source, "--api-key-file", "key") == (
        "key file key: others may read it; expected mode 0600 (chmod 600)"
    )
    assert no_fake(source, "--api-key-file", "none") == "key file none: No such file or directory"


@pytest.mark.parametrize("url", ["http://gateway.example/v1", "ftp://127.0.0.1/v1", "gateway.example", "http://"])
def test_a_base_url_that_is_not_https_and_not_loopback(no_fake: Refused, url: str) -> None:
    message = no_fake(write_csv(Path("in.csv")), "--base-url", url)
    assert "https" in message


@pytest.fixture
def no_fake(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """`refused` with the real connections, and no network at all."""

    def fail(*_: object) -> None:
        pytest.fail("something was sent")

    monkeypatch.setattr(connections, "connect", REAL_CONNECT)
    monkeypatch.setattr(socket.socket, "connect", fail)
    return refused


# The output


def test_output_equal_to_input(refused: Refused) -> None:
    source = write_csv(Path("in.csv"))
    before = Path("in.csv").read_bytes()
    Path("soft.csv").symlink_to("in.csv")
    Path("hard.csv").hardlink_to("in.csv")
    Path("folder").mkdir()
    for output in ("in.csv", "./folder/../in.csv", "soft.csv", "hard.csv", os.path.abspath("in.csv")):  # noqa: PTH100  as a user writes it
        assert refused(source, "--output", output) == f"{output}: the output is the input; expected another file"
    assert refused("soft.csv", "--output", "hard.csv").startswith("hard.csv: the output is the input")
    assert Path("in.csv").read_bytes() == before


def test_an_output_folder_that_does_not_exist(refused: Refused) -> None:
    source = write_csv(Path("in.csv"))
    assert refused(source, "--output", "no/out.csv") == "no/out.csv: there is no folder no"


def test_an_output_that_is_a_folder_or_of_another_kind(refused: Refused) -> None:
    source = write_csv(Path("in.csv"))
    Path("d.csv").mkdir()
    assert refused(source, "--output", "d.csv") == "d.csv: expected a file to write, this is a folder"
    assert refused(source, "--output", "out.xlsx") == (
        "out.xlsx: expected a name that ends in .csv, .jsonl, .ndjson or .parquet"
    )
    assert refused(source, "--output", "prompt.csv", "--ledger", "prompt.csv") == (
        "prompt.csv: the output is the ledger; expected another file"
    )


def test_a_table_and_data_on_the_same_standard_output(refused: Refused) -> None:
    message = refused(write_csv(Path("in.csv")), "--output", "-", "--table")
    assert message == "--table: the rows go to standard output already (--output -); expected one of the two"


# The ledger


def test_a_ledger_that_is_not_ours(refused: Refused) -> None:
    source = write_csv(Path("in.csv"))
    other = sqlite3.connect("other.db")
    other.execute("CREATE TABLE t (x)")
    other.commit()
    other.close()
    Path("text.db").write_text("these are notes, and no database at all\n" * 20)
    for name in ("other.db", "text.db"):
        before = Path(name).read_bytes()
        assert f"{name}: not a ledger of prompt-packer" in refused(source, "--ledger", name, code=5)
        assert Path(name).read_bytes() == before


def test_a_ledger_of_a_newer_version(refused: Refused) -> None:
    Ledger("new.db").close()
    database = sqlite3.connect("new.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    message = refused(write_csv(Path("in.csv")), "--ledger", "new.db", code=5)
    assert "new.db: written by a later version of prompt-packer (format 99" in message


def test_a_ledger_in_use(refused: Refused) -> None:
    with Ledger("used.db"):
        message = refused(write_csv(Path("in.csv")), "--ledger", "used.db", code=5)
    assert f"used.db: in use by process {os.getpid()}" in message


def test_a_ledger_in_a_folder_that_does_not_exist(refused: Refused) -> None:
    message = refused(write_csv(Path("in.csv")), "--ledger", "no/l.db", code=5)
    assert "no/l.db: its folder" in message
    assert "does not exist" in message


def test_nothing_of_a_refused_call_is_left_behind(refused: Refused) -> None:
    Path("in.csv").write_text("text\nfree\n")
    refused("in.csv", call=["--text", "none", *CALL[2:]])
    assert sorted(path.name for path in Path().iterdir()) == ["in.csv", "out.csv"]
