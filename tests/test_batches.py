"""The command through a gateway's Batch API: the same labels at half the money, and nothing bought twice."""

import csv
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from gateway.accounts import bill_for
from gateway.batches import Batches, BatchSetup
from gateway.scripts import at, between
from gateway.server import KEY, Gateway, Setup, running_gateway

from packer import batch_files, batches, recovery
from packer.batch_calls import BatchCalls, Refused
from packer.cli import main
from packer.errors import Failure, LedgerFull
from packer.ledger import Ledger
from packer.usage import Price, Usage

PRICE = Price(Decimal("0.20"), Decimal("0.80"))  # of which the half is whole nano-dollars a token
MODEL = "gateway/model"
TEXTS = [f"{'spam' if n % 3 else 'ham'} number {n}" for n in range(60)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, in_folder: Path) -> None:
    """In an empty folder, with a key, without the waits that only people need; five requests are worth a batch."""
    monkeypatch.setenv("REHEARSAL_KEY", KEY)
    monkeypatch.setattr(batch_files, "_FIRST_LOOK", 0.001)
    monkeypatch.setattr(batch_files, "_LONGEST_LOOK", 0.02)
    monkeypatch.setattr(batches, "_QUIET", 0.1)
    monkeypatch.setattr(batches, "LEAST_LINES", 5)
    with Path("in.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in TEXTS)])


def label(gateway: Gateway, *more: str) -> int:
    call = ["label", "in.csv", "--text", "text", "--labels", "spam,ham", "--model", MODEL, "--batch"]
    call += ["--base-url", gateway.url, "--api-key-env", "REHEARSAL_KEY", "--max-items", "5", "--output", "out.csv"]
    return main([*call, "--price-input", f"{PRICE.input}", "--price-output", f"{PRICE.output}", *more])


def rows() -> list[dict[str, str]]:
    with Path("out.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def check_rows() -> None:
    found = rows()
    assert [row["text"] for row in found] == TEXTS
    assert [row["label"] for row in found] == [text.split()[0] for text in TEXTS]
    assert {row["status"] for row in found} == {"labelled"}


def check_money(gateway: Gateway, *, exactly: bool = True) -> None:
    """The ledger is sound, and what it says was spent holds what the gateway billed."""
    with Ledger("prompt-packer.db", read_only=True) as ledger:
        assert ledger.verify() == []
        spending = ledger.statistics().spending
    billed = gateway.log.billed
    assert spending.settled - spending.assumed <= billed <= spending.settled + spending.doubt + spending.open
    if exactly:
        assert billed == spending.settled
        assert not spending.doubt + spending.open


def times_bought(gateway: Gateway) -> Counter[str]:
    return Counter(text for record in gateway.log.records if record.billed for text in record.texts)


def test_a_table_goes_out_in_one_batch_at_half_the_price(capsys: pytest.CaptureFixture[str]) -> None:
    with running_gateway(Setup(price=PRICE)) as gateway:
        assert label(gateway) == 0, capsys.readouterr().err
    check_rows()
    check_money(gateway)
    assert set(times_bought(gateway).values()) == {1}
    alone = [record for record in gateway.log.records if not record.in_batch]
    assert len(alone) == 1, "the first pack, which opens the gate"
    assert [path for path in gateway.batches.asked if path.startswith("POST")] == ["POST /files", "POST /batches"]
    half = Price(PRICE.input / 2, PRICE.output / 2)
    for record in gateway.log.records:
        usage = Usage(record.input_tokens, record.output_tokens)
        assert record.billed == bill_for(usage, half if record.in_batch else PRICE)
    shown = capsys.readouterr().err
    assert "a batch of 11 requests is gathered\n" in shown
    assert "a batch of 11 requests is uploaded\n" in shown
    for state in ("in progress 0/11", "finalizing 11/11", "completed 11/11"):
        assert f"batch batch_1 {state} requests" in shown


def test_a_gateway_that_counts_nothing_is_told_by_what_was_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show = Batches._show
    monkeypatch.setattr(Batches, "_show", lambda *given: show(*given) | {"request_counts": None})
    with running_gateway(Setup(price=PRICE)) as gateway:
        assert label(gateway) == 0
    check_rows()
    assert "batch batch_1 completed 0/11 requests" in capsys.readouterr().err


def test_a_batch_that_cannot_be_made_is_told_as_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(self: BatchCalls, packed: bytes) -> str:
        raise Refused(Failure.QUOTA, "no room for files")

    monkeypatch.setattr(BatchCalls, "upload", refuse)
    with running_gateway(Setup(price=PRICE)) as gateway:
        assert label(gateway) == 4
    assert "a batch of 11 requests is given up\n" in capsys.readouterr().err
    check_money(gateway)


def test_what_is_too_large_for_one_file_goes_out_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_MOST_BYTES", 6_000)
    with running_gateway(Setup(price=PRICE)) as gateway:
        assert label(gateway) == 0
    check_rows()
    check_money(gateway)
    assert set(times_bought(gateway).values()) == {1}
    assert gateway.batches.asked.count("POST /batches") == 2


# What batches are known to do


@pytest.mark.parametrize(
    "setup",
    [
        BatchSetup(tangled=True),
        BatchSetup(cuts=3),
        BatchSetup(forgets=1),
        BatchSetup(looks=6),
    ],
    ids=["tangled", "half-downloaded", "made without a word", "slow"],
)
def test_no_way_of_a_batch_costs_a_label_or_buys_a_text_twice(setup: BatchSetup) -> None:
    with running_gateway(Setup(price=PRICE, batches=setup)) as gateway:
        assert label(gateway) == 0
    check_rows()
    check_money(gateway)
    assert set(times_bought(gateway).values()) == {1}
    assert len(gateway.batches.batches) == 1


def test_results_that_are_lost_are_in_doubt_and_asked_again() -> None:
    with running_gateway(Setup(price=PRICE, batches=BatchSetup(loses=2))) as gateway:
        assert label(gateway) == 0
    check_rows()
    check_money(gateway, exactly=False)
    assert sorted(Counter(times_bought(gateway).values()).items()) == [(1, 50), (2, 10)]
    with Ledger("prompt-packer.db", read_only=True) as ledger:
        assert [attempt.outcome.split(",")[0] for attempt in ledger.attempts_in_doubt()] == [
            "lost: batch batch_1 completed"
        ] * 2


def test_results_that_are_lost_stay_in_doubt_under_hold() -> None:
    with running_gateway(Setup(price=PRICE, batches=BatchSetup(loses=2))) as gateway:
        assert label(gateway, "--on-doubt", "hold") == 3
    assert Counter(row["status"] for row in rows()) == {"labelled": 50, "doubt": 10}
    check_money(gateway, exactly=False)
    assert set(times_bought(gateway).values()) == {1}


def test_what_a_batch_that_expired_has_done_is_kept_and_the_rest_goes_out_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "_BASE", 0.02)  # the first backoff is shorter than what gathers waits
    with running_gateway(Setup(price=PRICE, batches=BatchSetup("expired", share=0.5))) as gateway:
        assert label(gateway) == 0
    check_rows()
    check_money(gateway)
    assert set(times_bought(gateway).values()) == {1}
    made = [batch.total for batch in gateway.batches.batches.values()]
    assert made == [11, 5], "half of 11 was done; of the 5 that came again 2, and 3 are too few for a third"


@pytest.mark.parametrize("ends", ["expired", "cancelled"])
def test_what_a_batch_without_an_end_has_done_and_lost_is_in_doubt_and_not_free(ends: Any) -> None:
    """ "Unknown is never zero": 6 of 11 were carried out and billed, and the files tell of 4."""
    with running_gateway(Setup(price=PRICE, batches=BatchSetup(ends, share=0.5, loses=2))) as gateway:
        assert label(gateway) == (0 if ends == "expired" else 4)
    check_money(gateway, exactly=False)
    with Ledger("prompt-packer.db", read_only=True) as ledger:
        doubtful = list(ledger.attempts_in_doubt())
    assert len(doubtful) >= 2
    assert all("and tells nothing of it" in attempt.outcome for attempt in doubtful)


def test_a_batch_that_somebody_cancels_ends_the_job_and_the_next_run_asks_for_the_rest() -> None:
    shared = Batches()
    with running_gateway(Setup(price=PRICE, batches=BatchSetup("cancelled", share=0.5)), batches=shared) as gateway:
        assert label(gateway) == 4
    assert Counter(row["status"] for row in rows()) == {"labelled": 35, "pending": 25}
    check_money(gateway)
    with running_gateway(Setup(price=PRICE), batches=shared) as other:
        assert label(other) == 0
    check_rows()
    assert set((times_bought(gateway) + times_bought(other)).values()) == {1}


@pytest.mark.parametrize(("reason", "word"), [("token_limit_exceeded", "quota"), ("model_not_found", "unknown model")])
def test_a_batch_that_is_refused_ends_the_job_and_costs_nothing(
    reason: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_gateway(Setup(price=PRICE, batches=BatchSetup("failed", reason=reason))) as gateway:
        assert label(gateway) == 4
    assert f"{word}: batch batch_1 was refused: refused: {reason}" in " ".join(capsys.readouterr().err.split())
    assert len(gateway.batches.batches) == 1
    check_money(gateway)
    assert Counter(row["status"] for row in rows()) == {"labelled": 5, "pending": 55}


def test_a_batch_whose_file_is_refused_is_made_a_bounded_number_of_times() -> None:
    with running_gateway(Setup(price=PRICE, batches=BatchSetup("failed"))) as gateway:
        assert label(gateway) == 4
    assert len(gateway.batches.batches) <= 4
    check_money(gateway)


@pytest.mark.parametrize(
    ("fault", "exactly"),
    [
        *(("rate-limited-seconds", True), ("error-500", False), ("bad-request", True), ("truncated", True)),
        *(("lost-row", True), ("usage-missing", False), ("foreign-nonce", True), ("ok-empty-choices", False)),
        *(("content-filter", True), ("prose", True)),
    ],
)
def test_one_line_with_a_fault_costs_no_other_line(fault: str, exactly: bool) -> None:
    with running_gateway(Setup(price=PRICE, script=at({4: fault}))) as gateway:
        assert label(gateway) == 0
    check_rows()
    check_money(gateway, exactly=exactly)
    assert gateway.log.counts()[fault] == 1
    assert len(gateway.batches.batches) == 1, "what is left over is not worth a day"
    bought = times_bought(gateway)
    twice = {text for text, times in bought.items() if times > 1}
    (faulty,) = (record for record in gateway.log.records if record.fault)
    assert twice <= set(faulty.texts)


def test_usage_at_half_the_price_is_what_is_booked() -> None:
    with running_gateway(Setup(price=PRICE)) as gateway:
        assert label(gateway, "--report", "report.json") == 0
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert report["statistics"]["charge_sources"] == {"header": 1, "price": 11}
    assert Decimal(report["run"]["least"]) == Decimal(report["run"]["most"]) == gateway.log.billed


def test_a_gateway_without_batches_is_told_in_one_line_and_nothing_is_bought(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with running_gateway(Setup(price=PRICE, batches=BatchSetup(refuses=True))) as gateway:
        assert label(gateway) == 2
    assert "has no Batch API (HTTP 404 for /batches); leave --batch out" in capsys.readouterr().err
    assert not gateway.log.records
    assert not Path("out.csv").exists()


@pytest.mark.parametrize("model", ["local", "anthropic/claude-haiku-4-5", "google/gemini-2.5-flash"])
def test_other_providers_have_no_such_batches(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "in.csv", "--text", "text", "--labels", "spam,ham", "--model", model, "--batch"]) == 2
    assert f"expected a gateway with OpenAI's Batch API, and {model} is none" in capsys.readouterr().err


def test_an_audit_and_a_batch_do_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    call = ["label", "in.csv", "--text", "text", "--labels", "spam,ham", "--model", MODEL]
    assert main([*call, "--batch", "--audit", "0.1"]) == 2
    assert "--batch: expected no --audit" in capsys.readouterr().err


def test_a_budget_holds_over_all_that_is_in_a_batch() -> None:
    """ "Settled + in doubt + reserved never exceeds the cap": what has no room waits for the next batch."""
    with running_gateway(Setup(price=PRICE)) as gateway:
        assert label(gateway, "--budget-usd", "0.001") == 0
    assert next(iter(gateway.batches.batches.values())).total < 11
    assert gateway.log.billed <= Decimal("0.001")
    check_rows()
    check_money(gateway)


def test_canaries_and_confidences_go_through_batches() -> None:
    Path("task.toml").write_text(
        'labels = ["spam", "ham"]\n'
        '[[canaries]]\ntext = "spam of the canary"\nlabel = "spam"\n'
        '[[canaries]]\ntext = "ham of the canary"\nlabel = "ham"\n',
        encoding="utf-8",
    )
    with running_gateway(Setup(price=PRICE)) as gateway:
        call = ["label", "in.csv", "--text", "text", "--task", "task.toml", "--model", MODEL, "--batch", "--untrusted"]
        call += ["--base-url", gateway.url, "--api-key-env", "REHEARSAL_KEY", "--output", "out.csv", "--confidence"]
        assert main(call) == 0
    assert all(0 < float(row["confidence"]) <= 1 for row in rows())
    check_rows()


def test_lines_that_are_refused_for_their_rate_go_out_a_bounded_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "_BASE", 0.0)
    with running_gateway(Setup(price=PRICE, script=between(2, 10**6, "rate-limited-seconds"))) as gateway:
        assert label(gateway) == 4
    assert len(gateway.batches.batches) == recovery.MAX_FREE_ATTEMPTS
    assert Counter(row["status"] for row in rows()) == {"labelled": 5, "pending": 55}
    check_money(gateway)


def test_a_batch_that_takes_a_day_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "LONGEST_SILENCE", 0.0)
    with running_gateway(Setup(price=PRICE, script=at({4: "error-500"}))) as gateway:
        assert label(gateway) == 0
    check_rows()


def test_a_ledger_that_has_no_room_for_a_batch_leaves_it_unmade(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Ledger, **_: Any) -> int:
        raise LedgerFull("prompt-packer.db", "no room")

    monkeypatch.setattr(Ledger, "note_batch", refuse)
    monkeypatch.setattr(recovery, "_BASE", 0.0)
    with running_gateway(Setup(price=PRICE)) as gateway:
        assert label(gateway) == 4
    assert "POST /files" not in gateway.batches.asked
    check_money(gateway)
