"""`label --vote`, `--escalate`, `--target-accuracy` as a user calls them: what is said, written, planned, refused."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from gateway.annotators import erring
from parity import parity, right, texts
from schema_documents import SCHEMAS
from test_cli import read_csv
from test_votes import Gateway, is_wrong, sure_as_right, unsure

from packer import connections
from packer.cli import main

LABEL = ["in.csv", "--text", "text", "--labels", "even,odd", "--model", "m"]
PRICES = ["--price-input", "1", "--price-output", "4"]
STRONG = ["--escalate", "strong", "--escalate-price-input", "5", "--escalate-price-output", "20"]


@pytest.fixture
def table(in_folder: Path) -> Path:
    path = in_folder / "in.csv"
    rows = [f"{text},{parity(text) if number % 2 else ''}\n" for number, text in enumerate(texts(400))]
    path.write_text("text,gold\n" + "".join(rows), encoding="utf-8")
    return path


def gateway(annotator: Any, **options: Any) -> Gateway:
    """One that answers at once: a command runs on the real clock."""
    return Gateway(annotator, seconds=0.001, **options)


class Desk:
    """Both models behind `connections.connect`, which notes what it was called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, weak: Gateway, strong: Gateway | None = None) -> None:
        self.weak, self.strong = weak, strong or gateway(right)
        self.calls: dict[str, dict[str, Any]] = {}
        monkeypatch.setattr(connections, "connect", self._connect)

    def _connect(self, model: str, **options: Any) -> Gateway:
        self.calls[model] = options
        return self.weak if model == "m" else self.strong


def label(capfd: pytest.CaptureFixture[str], *more: str, code: int = 0) -> tuple[str, dict[str, Any]]:
    """What was shown, in one line, and the report."""
    assert main(["label", *LABEL, "--output", "out.csv", "--report", "report.json", *more]) == code
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    schema = json.loads((SCHEMAS / "report.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(report, schema, format_checker=jsonschema.FormatChecker())
    return " ".join(capfd.readouterr().err.split()), report


@pytest.mark.usefixtures("table")
def test_votes_are_told_in_a_line_a_column_and_the_report(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(monkeypatch, gateway(right, sure=unsure))
    doubtful = [text for text in texts(400) if unsure(text) < 0.9]
    shown, report = label(capfd, "--vote", "3", "--verbose")
    found = report["doubt"]
    assert (found["asked_again"], found["votes"], found["doubtful"]) == (len(doubtful), len(doubtful), 0)
    requests = found["vote_requests"]
    assert f"{len(doubtful)} texts asked again, {len(doubtful)} further answers counted; {requests} requests" in shown
    assert "changed 0 labels of these are not what was answered first" in shown
    assert "vote 2: pack of" in shown
    assert (report["settings"]["vote"], report["settings"]["doubtful_below"]) == (3, 0.9)
    rows = read_csv("out.csv")
    assert list(rows[0]) == ["text", "gold", "label", "decision", "status", "error"]
    assert {row["text"] for row in rows if row["decision"] == "vote"} == set(doubtful)
    assert Counter(row["decision"] for row in rows).keys() == {"first", "vote"}
    assert len(desk.weak.prompts) == report["statistics"]["requests"] + requests
    shown, report = label(capfd, "--vote", "3", "--confidence")
    assert "nothing was asked in this run" in shown
    assert list(read_csv("out.csv")[0]) == ["text", "gold", "label", "confidence", "decision", "status", "error"]
    assert main(["evaluate", "out.csv", "--gold", "gold"]) == 0
    assert "accuracy 1.000" in " ".join(capfd.readouterr().out.split())
    shown, report = label(capfd, "--ledger", "other.db")
    assert report["doubt"] is None
    assert "decision" not in read_csv("out.csv")[0]


@pytest.mark.usefixtures("table")
def test_a_row_says_by_what_it_was_decided_and_is_one_of_the_document(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Desk(monkeypatch, gateway(erring(right, base=0.3, anew=True)))
    shown, report = label(capfd, "--escalate", "strong", "--output", "out.jsonl")
    found = report["doubt"]
    assert (
        f"escalated {found['escalated']} texts labelled by the stronger model, {found['overruled']} otherwise" in shown
    )
    rows = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert Counter(row["decision"] for row in rows) == {
        "vote": 400 - found["escalated"],
        "escalated": found["escalated"],
    }
    document = json.loads((SCHEMAS / "result.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(rows, {"type": "array", "items": document})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(rows[0] | {"decision": "guess"}, document)


@pytest.mark.usefixtures("table")
def test_votes_that_a_budget_cuts_short_are_said_and_the_same_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Desk(monkeypatch, gateway(right, sure=lambda _: 0.5))
    shown, report = label(capfd, *PRICES, "--vote", "5", "--budget-usd", "0.006", code=4)
    found = report["doubt"]
    assert 0 < found["doubtful"] < 400
    assert f"doubtful {found['doubtful']} labels still: the column decision says which" in shown
    assert f"{found['cut']} answers could not be asked for: budget: the next request could pass" in shown
    assert "run the same command again to go on" in shown
    assert Counter(row["decision"] for row in read_csv("out.csv"))["doubtful"] == found["doubtful"]
    _, report = label(capfd, *PRICES, "--vote", "5", "--budget-usd", "1")
    assert report["doubt"]["doubtful"] == 0


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("gold", [[], ["--gold", "gold"]])
def test_a_cascade_says_from_which_confidence_on_labels_are_kept_and_what_that_means(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], gold: list[str]
) -> None:
    annotator, sure = sure_as_right(is_wrong)
    desk = Desk(monkeypatch, gateway(annotator, sure=sure))
    shown, report = label(capfd, *STRONG, "--target-accuracy", "0.85", "--sample", "150", *gold)
    judge = "gold" if gold else "the stronger model"
    assert "asking 150 texts of both models first, to learn which labels to keep" in shown
    threshold = report["doubt"]["threshold"]
    assert (threshold["items"], threshold["certified"], threshold["target"]) == (150, True, 0.85)
    assert f"answers with a confidence of {threshold['below']:.6g} or more are kept" in shown
    assert f"% of all labels differ from {judge} (95 % sure)" in shown
    rows = read_csv("out.csv")
    assert all((row["decision"] == "first") == (sure(row["text"]) >= threshold["below"]) for row in rows)
    assert sum(row["label"] == parity(row["text"]) for row in rows) > 0.85 * 400
    assert report["statistics"]["items"] == 400
    if gold:
        assert {text for text in desk.strong.asked() if sure(text) >= threshold["below"]} <= set(texts(400)[1::2])


@pytest.mark.usefixtures("table")
def test_a_target_that_no_threshold_meets_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    annotator = erring(right, base=0.4)
    Desk(monkeypatch, gateway(annotator, sure=lambda _: 0.99), gateway(annotator))
    shown, _ = label(capfd, *STRONG, "--target-accuracy", "0.9", "--gold", "gold")
    assert "labels of the stronger model itself differ from gold, so that 90 % cannot be promised" in shown
    Desk(monkeypatch, gateway(annotator, sure=lambda _: 0.99))
    shown, _ = label(capfd, *STRONG, "--target-accuracy", "0.9", "--ledger", "2.db")
    assert "no confidence is enough to keep 90 % of the labels right: all go to the stronger model" in shown
    assert {row["decision"] for row in read_csv("out.csv")} == {"escalated"}


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["--vote", "4"], "--vote: expected 3, 5, 7 or 9, got '4'"),
        (["--vote", "3", "--max-items", "1"], "a single asked again is the same question"),
        (["--vote", "3", "--doubtful-below", "1.1"], "--doubtful-below: expected a share"),
        (["--doubtful-below", "0.5"], "--doubtful-below: expected --vote or --escalate too"),
        ([*STRONG, "--target-accuracy", "0.9", "--doubtful-below", "0.5"], "and no --target-accuracy"),
        (["--escalate", "m"], "--escalate: expected another model than m"),
        (STRONG[2:], "expected both, and --escalate"),
        (STRONG[:4], "expected both, and --escalate"),
        (["--vote", "3", "--gold", "gold"], "--gold and --sample: expected --target-accuracy too"),
        (["--vote", "3", "--sample", "10"], "--gold and --sample: expected --target-accuracy too"),
        (["--target-accuracy", "0.9"], "--target-accuracy: expected --escalate MODEL, and no --vote"),
        ([*STRONG, "--target-accuracy", "1"], "--target-accuracy: expected a share between 0 and 1"),
        ([*STRONG, "--target-accuracy", "0.99"], "not enough items to tell: expected a sample of 299 different texts"),
        ([*STRONG, "--target-accuracy", "0.99", "--sample", "300", "--gold", "gold"], "with a gold label at the least"),
        (
            [*STRONG, "--target-accuracy", "0.9", "--gold", "text"],
            "line 2: expected one of the task's labels in 'text'",
        ),
        ([*STRONG, "--target-accuracy", "0.9", "--gold", "good"], "no column 'good'; did you mean 'gold'?"),
        (["--escalate", "strong", "--budget-usd", "1", *PRICES], "no price is known for strong"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], given: list[str], wanted: str
) -> None:
    desk = Desk(monkeypatch, gateway(right))
    assert main(["label", *LABEL, "--output", "out.csv", *given]) == 2
    assert wanted in " ".join(capfd.readouterr().err.split())
    assert not desk.weak.prompts
    assert not desk.strong.prompts


@pytest.mark.usefixtures("table")
def test_a_record_has_no_gold_column_and_a_pipe_no_sample(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Desk(monkeypatch, gateway(right))
    record = '[record]\ntype = "object"\nrequired = ["letters"]\n[record.properties.letters]\ntype = "integer"\n'
    Path("task.toml").write_text(f'instructions = "How long?"\n{record}', encoding="utf-8")
    command = ["label", "in.csv", "--text", "text", "--task", "task.toml", "--model", "m", "--output", "out.csv"]
    assert main([*command, *STRONG, "--target-accuracy", "0.9", "--gold", "gold"]) == 2
    assert "--gold: expected a task with labels, not with a record" in capfd.readouterr().err
    command[1] = "/dev/stdin"
    assert main([*command, *STRONG, "--target-accuracy", "0.9"]) == 2
    assert "--target-accuracy: expected a file, for a sample of it is asked first" in capfd.readouterr().err


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("strong", "base", "told"), [("anthropic/s", None, False), ("s", None, True), ("anthropic/s", "https://g", True)]
)
def test_a_key_that_was_given_for_one_host_does_not_go_to_another(
    monkeypatch: pytest.MonkeyPatch, strong: str, base: str | None, told: bool
) -> None:
    desk = Desk(monkeypatch, gateway(right, sure=unsure))
    where = [] if base is None else ["--base-url", base]
    monkeypatch.setenv("A_KEY", "secret")
    assert main(["label", *LABEL, "--output", "out.csv", "--escalate", strong, "--api-key-env", "A_KEY", *where]) == 0
    assert desk.calls["m"]["api_key_env"] == "A_KEY"
    assert (desk.calls[strong].get("api_key_env") == "A_KEY") is told
    assert desk.calls[strong]["base_url"] == base


@pytest.mark.usefixtures("table")
def test_a_plan_has_what_doubtful_labels_add(capsys: pytest.CaptureFixture[str]) -> None:
    def plan(*more: str) -> str:
        assert main(["plan", *LABEL, *PRICES, *more]) == 0
        return " ".join(capsys.readouterr().out.split())

    shown = plan("--vote", "5", "--budget-usd", "1")
    assert "votes where the gateway tells no confidence, every text is asked twice: about 20 requests more" in shown
    assert "else those whose confidence is below 0.9" in shown
    assert "for each 10 % of doubtful texts: about 4 requests more" in shown
    assert "doubtful labels come on top" in shown
    shown = plan(*STRONG)
    assert "escalate for each 10 % of texts that go to strong: about 40 requests more, for about $" in shown
    shown = plan("--escalate", "strong", "--target-accuracy", "0.9", "--sample", "100")
    assert "sample about 100 requests more, at an unknown cost, each of one text, to learn what to escalate" in shown
    shown = plan()
    assert not any(word in shown for word in ("votes", "escalate", "doubtful"))
    assert main(["plan", *LABEL, *PRICES, "--escalate", "strong", "--budget-usd", "1"]) == 2
