"""The command through a gateway's Batch API: the same labels at half the money, and nothing bought twice."""

import csv
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from gateway.accounts import bill_for
from gateway.server import KEY, Gateway, Setup, running_gateway

from packer import batch_files, batches
from packer.cli import main
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
    for state in ("in progress 0/11", "finalizing 11/11", "completed 11/11"):
        assert f"batch batch_1 {state} requests" in shown
