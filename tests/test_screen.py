"""What somebody at a terminal sees: at mid-job one line that fits, at the end a screen that says what to do next."""

import csv
import re
import signal
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from rich.cells import cell_len
from screens import Terminal
from test_cli import CALL, FAKE, changed

from packer.audit import AuditResult
from packer.events import Level
from packer.exchange import ChargeSource
from packer.intervals import Interval
from packer.progress import describe
from packer.summary import Ending, write_summary
from packer.usage import Usage
from packer.votes import DoubtResult

BAR = "[━╸╺]{7,}"
PRICED = ["--price-input", "1", "--price-output", "2"]


def write_texts(count: int) -> str:
    """A table of so many texts and an empty one, which fails."""
    with Path("in.csv").open("w", newline="", encoding="utf-8") as file:
        texts = [f"text number {number}, which is longer than a line of the screen is wide" for number in range(count)]
        csv.writer(file).writerows([["id", "text"], *enumerate([*texts, ""])])
    return "in.csv"


def command(*arguments: str) -> list[str]:
    return [*FAKE, *arguments, *CALL]


@pytest.mark.parametrize(("columns", "shows"), [(40, "left"), (80, "in flight"), (200, "in flight")])
def test_a_running_job_is_one_line_that_fits_and_is_gone_at_the_end(columns: int, shows: str, in_folder: Path) -> None:
    call = command(write_texts(400), "--output", "out.csv")
    with Terminal(call, columns=columns, FAKE_SECONDS="0.4") as terminal:
        shown = terminal.wait_for(lambda lines: " left" in lines[-1])
        assert len(shown) == 1
        assert re.match(BAR + r" \d+/401  .*1 failed  \d+:\d\d left$", shown[0])
        assert shows in shown[0]
        assert cell_len(shown[0]) <= columns
        assert not terminal.has_cursor
        code, shown = terminal.finish()
        assert code == 3
        assert terminal.has_cursor
    assert not re.search(BAR, "".join(shown))
    assert shown[0].startswith("items      401: 400 labelled, 1")
    assert max(map(cell_len, shown)) <= columns
    assert " ".join(line[11:] for line in shown[-4:]).endswith("asks only for what has no answer yet")


def test_rows_stand_above_the_bar_and_the_summary_below_them(in_folder: Path) -> None:
    with Terminal(command(write_texts(60)), FAKE_SECONDS="0.4") as terminal:
        shown = terminal.wait_for(lambda lines: " left" in lines[-1])
        assert shown[0].split() == ["#", "label", "text"]
        assert re.match(BAR + r" \d+/61 .* left$", shown[-1])
        assert all(line.endswith("…") for line in shown[1:-1])
        code, shown = terminal.finish()
    assert (code, len(shown)) == (3, 23)
    start = next(number for number, line in enumerate(shown) if line.startswith("items "))
    assert shown[start - 2 : start] == ["61  (failed)", "    the text is empty"]


def test_no_color_leaves_the_bar_and_takes_the_colours(in_folder: Path) -> None:
    call = command(write_texts(20), "--output", "out.csv", "--ledger", "l.db")
    with Terminal(call, FAKE_SECONDS="0.3") as terminal:
        terminal.finish()
        assert terminal.colours > {"default"}
    with Terminal([*call, "--ledger", "m.db"], FAKE_SECONDS="0.3", NO_COLOR="1") as terminal:
        terminal.wait_for(lambda lines: lines[-1].startswith("━") and "in flight" in lines[-1])
        terminal.finish()
        assert terminal.colours == {"default"}


def test_a_dumb_terminal_gets_plain_lines(in_folder: Path) -> None:
    with Terminal(command(write_texts(20), "--table"), FAKE_SECONDS="0.3", TERM="dumb") as terminal:
        code, shown = terminal.finish()
        assert code == 3
        assert not re.search("\x1b|━|\r(?!\r?\n)".encode(), terminal.raw)
    assert shown[-2].startswith("next       --output FILE")


OUTCOMES = {
    "done": (0, [], {}, "next       prompt-packer evaluate out.csv --gold COLUMN tells how right it is"),
    "key": (4, [], {"*": "key refused"}, "next       40 items pending; with a key that the gateway takes"),
    "quota": (4, [], {"2": "quota"}, "20 items pending; when the account has money again"),
    "budget": (4, ["--budget-usd", "0.00001", *PRICED], {}, "40 items pending; with a larger --budget-usd, run the"),
    "doubt": (3, ["--on-doubt", "hold"], {"2": "lost"}, "--on-doubt retry asks again"),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_the_last_words_say_what_to_do_next(outcome: str, in_folder: Path) -> None:
    code, arguments, faults, words = OUTCOMES[outcome]
    source = write_texts(40)
    Path(source).write_text(Path(source).read_text().rpartition("40,")[0])
    said = "{" + ", ".join(f'"{number}": "{kind}"' for number, kind in faults.items()) + "}"
    with Terminal(command(source, "--output", "out.csv", *arguments), FAKE_FAULTS=said) as terminal:
        ended, shown = terminal.finish()
    assert ended == code, shown
    start = max(number for number, line in enumerate(shown) if line.startswith("next "))
    assert all(line.startswith(" " * 11) for line in shown[start + 1 :])
    assert words in " ".join([shown[start], *(line.strip() for line in shown[start + 1 :])])


def test_an_interrupted_job_says_how_to_go_on(in_folder: Path) -> None:
    with Terminal(command(write_texts(4_000), "--output", "out.csv"), FAKE_SECONDS="0.3") as terminal:
        terminal.wait_for(lambda lines: " left" in lines[-1])
        terminal.process.send_signal(signal.SIGINT)
        code, shown = terminal.finish()
    assert code == 4
    assert any(line.startswith("stopping: ") for line in shown)
    assert re.search(r"next       [\d,]+ items pending; run the same command again to go on", "\n".join(shown))


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("stopped", ["", "budget: " + "x" * 300, "balance: 0.01 USD are left", "key refused: no"])
def test_a_summary_of_everything_fits_a_screen_and_ends_with_what_to_do(columns: int, stopped: str) -> None:
    level = Level(1, 1, 9, 90, Decimal("0.0001"), Decimal("0.0001"), 1.0)
    now = changed(
        items=10**6,
        labelled=900_000,
        failed=50_000,
        doubt=25_000,
        pending=25_000,
        known=9,
        packs=45_000,
        requests=60_000,
        unpriced=3,
        doubt_requests=9,
        doubt_texts=99,
        usage=Usage(10**8, 10**7, 10**6),
        settled=Decimal("1234.5"),
        in_doubt=Decimal("0.5"),
        charge_sources=dict.fromkeys(ChargeSource, 1),
        seconds=12_345.6,
        canary_hits=3,
        refused_settings=("response_format", "max_completion_tokens"),
        levels=(level, replace(level, most=9)),
    )
    ending = Ending(
        earlier=changed(),
        now=now,
        reasons={"y" * 500: 3, "two": 2, "three": 1},
        ledger="l.db",
        output="out.csv",
        budget=Decimal(2000),
        notice="a small embedding model " * 4,
        renamed=[(f"field{number}", f"field{number}_2") for number in range(30)],
        guarded=7,
        stopped=stopped,
        unsure=12,
        audit=AuditResult(300, 280, Interval(0.0667, 0.04, 0.1), 0.03, broken=True, by_position=()),
        doubt=DoubtResult(9, 20, 3, 5, 2, 4, 6, "budget: " + "x" * 99),
    )
    lines = [line.text for line in write_summary(ending, width=columns)]
    assert len(lines) <= 23
    assert max(map(cell_len, lines)) <= columns
    assert lines[0].startswith("items      1,000,000: 900,000")
    start = next(number for number, line in enumerate(lines) if line.startswith("next "))
    assert all(line.startswith(" " * 11) for line in lines[start + 1 :])
    words = " ".join(line[11:] for line in lines[start:])
    assert words.endswith("may pay for it twice" if not stopped else "every answer is kept in l.db")


def test_the_words_behind_the_bar_lose_what_matters_least_where_they_do_not_fit() -> None:
    now = changed(labelled=1_000_000, failed=98_765, in_flight=256, settled=Decimal("1234.56"), unpriced=1)
    done, rest = "1,098,765/12,345,678", "98,765 failed  253:59:43 left"
    said = {
        200: f"{done}  12/s  $1,234.56+?  256 in flight  {rest}",
        83: f"{done}  12/s  $1,234.56+?  {rest}",
        68: f"{done}  $1,234.56+?  {rest}",
        60: f"{done}  {rest}",
        40: f"{done}  253:59:43 left",
    }
    for width, words in said.items():
        assert describe(now, 12_345_678, 12.3, width) == words
        assert len(words) <= width
        assert describe(now, 12_345_678, 12.3, len(words)) == words


PYTHON = """
import sys
{before}
import packer
from packer.testing import FakeTransport
task = packer.Task(["spam", "ham"])
transport = FakeTransport(task, lambda text: "ham", seconds=0.4)
texts = [str(number) for number in range(200)]
results = packer.label(texts, task=task, model="m", ledger=None, transport=transport, progress=True)
print(len(results), "IPython" in sys.modules)
"""


def test_label_shows_a_bar_on_a_terminal_that_is_gone_at_the_end() -> None:
    with Terminal([sys.executable, "-c", PYTHON.format(before="")]) as terminal:
        shown = terminal.wait_for(lambda lines: " left" in lines[-1])
        assert re.match(BAR + r" \d+/200  .* left$", shown[-1])
        code, shown = terminal.finish()
        assert (code, terminal.has_cursor) == (0, True)
    assert shown == ["200 False"]
