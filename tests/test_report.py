"""`--report`: what the command did in numbers, as its document says, readable by its owner only."""

import json
import os
import stat
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fake_command import connect_to, make_transport
from schema_documents import SCHEMAS

from packer import connections
from packer.cli import main
from packer.task import Task

LABEL = ["label", "in.csv", "--text", "text", "--labels", "spam,ham", "--model", "m", "--output", "out.csv"]
PRICE = ["--price-input", "0.25", "--price-output", "0.6", "--max-items", "2"]


@pytest.fixture(autouse=True)
def messages(in_folder: Path) -> None:
    Path("in.csv").write_text("text\n" + "".join(f"free {n}\nhello {n}\n" for n in range(4)), encoding="utf-8")


def run(monkeypatch: pytest.MonkeyPatch, *more: str, **faults: Any) -> tuple[int, dict[str, Any]]:
    monkeypatch.setattr(connections, "connect", connect_to(make_transport(Task(["spam", "ham"]), **faults)))
    code = main([*LABEL, *PRICE, "--report", "report.json", *more])
    report: dict[str, Any] = json.loads(Path("report.json").read_text(encoding="utf-8"))
    schema = json.loads((SCHEMAS / "report.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(report, schema, format_checker=jsonschema.FormatChecker())
    return code, report


def test_a_report_tells_settings_money_sources_and_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    code, report = run(monkeypatch, "--budget-usd", "1")
    assert (code, report["exit_code"], report["stopped"]) == (0, 0, None)
    assert report["settings"]["budget_usd"] == "1"
    assert report["settings"]["price"] == {"input": "0.25", "output": "0.6", "cached_input": None}
    assert report["settings"]["max_items"] == 2
    assert Decimal(report["run"]["least"]) == Decimal(report["job"]["most"]) == Decimal("0.0004")
    statistics = report["statistics"]
    assert statistics["charge_sources"] == {"header": 4}
    assert statistics["labelled"] == 8
    assert sum(level["items"] for level in statistics["levels"]) == 8
    assert {Decimal(level["usd_an_item"]) for level in statistics["levels"]} == {Decimal("0.00005")}
    assert report["began"] <= report["ended"]


def test_a_report_tells_what_was_asked_and_how_it_went(monkeypatch: pytest.MonkeyPatch) -> None:
    task = '{"labels": {"spam": "adverts", "ham": ""}, "instructions": "Sort.", "shape": "pair"}'
    Path("task.json").write_text(task, encoding="utf-8")
    monkeypatch.setattr(connections, "connect", connect_to(make_transport(Task(["spam", "ham"]))))
    label = [word for word in LABEL if word not in {"--labels", "spam,ham"}]
    assert main([*label, *PRICE, "--task", "task.json", "--report", "report.json"]) == 0
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert report["asked"] == {
        "instructions": "Sort.",
        "labels": {"spam": "adverts", "ham": ""},
        "fields": [],
        "examples": 0,
        "canaries": 0,
        "shape": "pair",
    }


def test_a_report_shows_the_run_over_time_and_its_requests_by_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    _, report = run(monkeypatch, faults={"2": "rate limited", "3": "overloaded"})
    statistics, last = report["statistics"], report["timeline"][-1]
    assert report["outcomes"] == {"accept": 4, "rate limited": 1, "overloaded": 1}
    assert sum(report["outcomes"].values()) == statistics["requests"]
    for name in ("labelled", "failed", "requests", "settled", "in_doubt", "in_flight", "limit", "pack_size"):
        assert last[name] == statistics[name], name
    assert last["refused"] == 1
    assert (report["timeline"][0]["requests"], report["timeline"][0]["seconds"] < 0.25) == (0, True)


def test_requests_of_an_audit_are_no_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    _, report = run(monkeypatch, "--audit", "1")
    assert report["audit"]["asked"] == 8
    assert report["outcomes"] == {"accept": report["statistics"]["requests"]} == {"accept": 4}


def test_a_report_names_the_items_without_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("in.csv").write_text('text\nfree\n""\nhello\n', encoding="utf-8")
    _, report = run(monkeypatch, faults={"1": "key refused"})
    assert [(item["row"], item["status"], item["text"]) for item in report["unanswered"]] == [
        (1, "pending", "free"),
        (2, "failed", ""),
        (3, "pending", "hello"),
    ]
    assert report["unanswered"][1]["reason"] == "the text is empty"
    _, report = run(monkeypatch)
    assert [item["row"] for item in report["unanswered"]] == [2]
    assert "hello" not in Path("report.json").read_text(encoding="utf-8")


def test_a_report_gives_the_interval_of_true_spending(monkeypatch: pytest.MonkeyPatch) -> None:
    code, report = run(monkeypatch, "--on-doubt", "hold", faults={"2": "lost"})
    assert code == 3
    money = report["run"]
    assert (money["doubt_requests"], money["doubt_texts"]) == (1, 2)
    assert Decimal(money["least"]) == Decimal("0.0003") < Decimal(money["most"])
    code, again = run(monkeypatch, "--on-doubt", "retry")
    assert code == 0
    assert Decimal(again["run"]["least"]) == Decimal("0.0001")
    assert again["run"]["doubt_requests"] == 0
    assert again["job"]["doubt_requests"] == 1
    assert Decimal(again["job"]["most"]) - Decimal(again["job"]["least"]) == Decimal(money["most"]) - Decimal(
        money["least"]
    )


def test_a_job_that_stopped_is_reported_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    code, report = run(monkeypatch, faults={"2": "key refused"})
    assert (code, report["exit_code"]) == (4, 4)
    assert report["stopped"] == "key refused: the gateway says: key refused"
    assert report["statistics"]["pending"] > 0


def test_failed_items_are_counted_by_their_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("in.csv").write_text('text\n""\nfree\n" "\n', encoding="utf-8")
    code, report = run(monkeypatch)
    assert (code, report["failed"]) == (3, {"the text is empty": 2})


def test_a_file_whose_name_is_not_utf_8_does_not_cost_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"out\xff.csv")
    code, report = run(monkeypatch, "--output", name)
    assert (code, report["settings"]["output"]) == (0, name)


def test_a_report_is_its_owners_only_whatever_stood_there_before(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("report.json").write_text("{}", encoding="utf-8")
    Path("report.json").chmod(0o644)
    run(monkeypatch)
    assert stat.S_IMODE(Path("report.json").stat().st_mode) == 0o600
    assert sorted(path.name for path in Path().iterdir()) == ["in.csv", "out.csv", "prompt-packer.db", "report.json"]


def test_a_report_replaces_nothing_that_the_job_reads_and_no_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transport = make_transport(Task(["spam", "ham"]))
    monkeypatch.setattr(connections, "connect", connect_to(transport))
    Path("task.json").write_text('{"labels": ["spam", "ham"]}', encoding="utf-8")
    Path("key.json").write_text("sk-1", encoding="utf-8")
    Path("input.json").symlink_to("in.csv")
    os.mkfifo("pipe.json")
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    label = ["label", "in.csv", "--text", "text", "--task", "task.json", "--model", "m", "--output", "out.csv", *PRICE]
    for report, wanted in [
        ("input.json", "the report is the input"),
        ("./task.json", "the report is the task file"),
        ("key.json", "the report is the key file"),
        ("pipe.json", "expected a file, this is a pipe or a device"),
    ]:
        assert main([*label, "--api-key-file", "key.json", "--report", report]) == 2
        assert wanted in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    assert Path("pipe.json").is_fifo()
    assert transport.prompts == []


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--report", "report.csv"], "expected a name that ends in .json"),
        (["--report", "none/report.json"], "there is no folder"),
        (["--report", "x.json", "--ledger", "x.json"], "the report is the ledger"),
    ],
)
def test_a_report_that_cannot_be_written_is_told_before_anything_is_sent(
    arguments: list[str], wanted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transport = make_transport(Task(["spam", "ham"]))
    monkeypatch.setattr(connections, "connect", connect_to(transport))
    assert main([*LABEL, *PRICE, *arguments]) == 2
    assert wanted in capsys.readouterr().err
    assert transport.prompts == []
    assert [path.name for path in Path().iterdir()] == ["in.csv"]
