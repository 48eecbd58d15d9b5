"""Models are compared by what one table costs with each, cheapest first; an unknown price is last, and never zero."""

import re
from decimal import Decimal
from pathlib import Path

import pytest

from packer import planning
from packer.cli import main
from packer.models_view import COMMON, Comparison, show_models
from packer.pricing import find_price, find_quote
from packer.seen import Seen
from packer.task import Task
from packer.usage import format_usd


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def table(in_folder: Path) -> Path:
    path = in_folder / "in.csv"
    path.write_text("\n".join(["text", *(f"message number {number}" for number in range(2_000))]), encoding="utf-8")
    return path


def models(*options: str) -> int:
    return main(["models", "in.csv", "--text", "text", "--labels", "spam,ham", *options])


def rows(shown: str) -> list[list[str]]:
    """The cells of the comparison."""
    lines = shown.split("\n\n")[1].splitlines()
    return [re.split(r"  +", line) for line in lines[1:]]


def usd(cell: str) -> Decimal:
    return Decimal(cell.removeprefix("$").replace(",", ""))


@pytest.mark.parametrize("model", COMMON)
def test_each_common_model_is_in_the_price_table(model: str) -> None:
    quote = find_quote(model)
    assert quote is not None
    # whose price it is need not be explained
    assert model.endswith(f"/{quote.model}")
    assert quote.price.input > 0


def test_there_is_a_dozen_of_common_models() -> None:
    assert len(set(COMMON)) == 12


@pytest.mark.usefixtures("table")
def test_the_cheapest_stands_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert models() == 0
    shown = capsys.readouterr().out
    found = rows(shown)
    assert {name for name, *_ in found} == set(COMMON)
    costs = [usd(packs) for _, packs, *_ in found]
    assert costs == sorted(costs)
    assert all(usd(packs) < usd(singles) for _, packs, singles, *_ in found)
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.usefixtures("table")
def test_a_model_costs_what_the_plan_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert models("--models", "openai/gpt-4o-mini", "--max-items", "50") == 0
    (row,) = rows(capsys.readouterr().out)
    call = ["plan", "in.csv", "--text", "text", "--labels", "spam,ham", "--model", "openai/gpt-4o-mini"]
    assert main([*call, "--max-items", "50"]) == 0
    planned = capsys.readouterr().out
    assert f"about {row[1]} in packs, {row[2]} as singles" in planned
    assert row[4:] == ["$0.15", "$0.60"]


def test_the_batch_api_is_half_the_packs(table: Path) -> None:
    comparison = Comparison(input=str(table), text="text", task=Task(["a", "b"]), models=["openai/gpt-4o-mini"])
    (row,) = rows("\n".join(line.text for line in show_models(comparison, width=80)))
    assert usd(row[3]) == pytest.approx(usd(row[1]) / 2, rel=Decimal("0.05"))


@pytest.mark.usefixtures("table")
def test_an_unknown_model_is_last_and_has_no_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert models("--models", "gateway/model,openai/gpt-4o-mini, openai/gpt-4o-mini-evil") == 0
    found = rows(capsys.readouterr().out)
    assert [name for name, *_ in found] == ["openai/gpt-4o-mini", "gateway/model", "openai/gpt-4o-mini-evil"]
    assert found[1][1:] == ["unknown", "unknown", "-", "-", "-"]


@pytest.mark.usefixtures("table")
def test_it_is_said_whose_price_was_taken_where_the_name_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        models(
            "--models",
            "nobody/gpt-4o-mini,google/gemini-2.0-flash,openrouter/openai/gpt-4o-mini,bedrock/amazon.nova-lite-v1:0",
        )
        == 0
    )
    taken = [line for line in capsys.readouterr().out.splitlines() if line.startswith("taken")]
    assert taken == ["taken      for nobody/gpt-4o-mini: OpenAI's list price"]


@pytest.mark.usefixtures("table")
def test_the_table_its_kind_and_the_tokens_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert models() == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("genai-prices 0.", "list prices", "not your gateway's", "0.8 to 2.5 times", "billed as output"):
        assert words in shown


def test_a_context_that_is_too_small_is_told(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = "openrouter/openai/gpt-3.5-turbo-0613"
    quote = find_quote(small)
    assert quote is not None
    assert quote.context == 4_095
    texts = ["many words, " * 300 + str(number) for number in range(40)]
    (in_folder / "in.csv").write_text("\n".join(["text", *(f'"{text}"' for text in texts)]), encoding="utf-8")
    labels = ",".join(f"a rather long label number {number}" for number in range(77))
    call = ["models", "in.csv", "--text", "text", "--labels", labels, "--models", small]
    assert main([*call, "--max-items", "8"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"context {small} takes 4,095 tokens, and these packs need up to" in shown


@pytest.mark.usefixtures("table")
def test_the_table_is_read_once_for_all_models(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Seen] = []

    class Counted(Seen):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(planning, "Seen", Counted)
    assert models() == 0
    assert len(made) == 1
    assert "2,000 distinct texts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--models", ""], "--models: expected names of models, separated by commas"),
        (["--models", "a,,b"], "--models: expected names of models, separated by commas"),
        (["--model", "a"], "did you mean --models?"),
        (["--max-items", "0"], "--max-items: expected a whole number from 1 to 100, got '0'"),
        (["--budget-usd", "1"], "unknown option --budget-usd"),
    ],
)
@pytest.mark.usefixtures("table")
def test_a_bad_call_is_one_line(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert models(*options) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_real_table_is_compared(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", str(shared_data / "sms_spam.csv"), "--text", "text", "--labels", "spam,ham"]) == 0
    shown = capsys.readouterr().out
    assert len(rows(shown)) == 12
    assert max(map(len, shown.splitlines())) <= 80
    price = find_price("openai/gpt-4o-mini")
    assert price is not None
    assert format_usd(None) not in shown
