"""A plan is what the job will do, counted by the job's own code; making it sends, locks and writes nothing."""

import json
import subprocess
import sys
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import label_tasks, tasks, texts

from packer import connections, planning
from packer.cli import main
from packer.ledger import Ledger
from packer.packs import PackLimits
from packer.planning import Plan, plan_job
from packer.prompts import read_user, write_answer
from packer.requests import Requests, make_keys
from packer.runner import Runner
from packer.tables import Reader, name_source
from packer.task import Task
from packer.testing import FakeClock, FakeTransport
from packer.tokens import bound_tokens, count_tokens
from packer.usage import Price, Usage, cost

PRICE = Price(Decimal("0.15"), Decimal("0.6"))
MODEL = "openai/gpt-4o-mini"
GUIDELINE = "A message is spam when it wants money, attention or data from people who never asked for it. " * 9


def make_plan(given: Iterable[str], task: Task, ledger: Ledger | None = None, **limits: Any) -> Plan:
    requests = Requests(task, PackLimits(**limits), PRICE, count_tokens, bound_tokens)
    find = None if ledger is None else ledger.find
    return plan_job(given, requests=requests, make_key=make_keys(task, MODEL), find=find)


def run_job(
    given: Iterable[str], task: Task, ledger: Path | None, *, job: str = "", **limits: Any
) -> tuple[FakeTransport, Decimal]:
    """The gateway of a whole job, and what was settled."""
    transport = FakeTransport(task, lambda _: next(iter(task.labels)))

    async def run() -> Decimal:
        options: dict[str, Any] = {"transport": transport, "ledger": ledger, "price": PRICE, "job": job}
        async with Runner(task, model=MODEL, limits=PackLimits(**limits), **options) as runner:
            async for _ in runner.stream(given):
                pass
            return runner.statistics().settled

    return transport, FakeClock().run(run())


@settings(max_examples=40)
@given(label_tasks(), st.lists(texts(), max_size=60), st.lists(texts(), max_size=60), st.integers(1, 30))
def test_a_plans_packs_are_those_that_the_runner_sends(
    task: Task, earlier: list[str], rows: list[str], max_items: int
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        run_job(earlier, task, path, job="an earlier one")
        with Ledger(path, read_only=True) as ledger:
            plan = make_plan(earlier + rows, task, ledger, max_items=max_items)
        transport, settled = run_job(earlier + rows, task, path, max_items=max_items)
    sent = [read_user(prompt.user)[1] for prompt in transport.prompts]
    assert plan.packs.requests == len(sent)
    assert plan.singles.requests == plan.asked == sum(map(len, sent))
    assert plan.packs.worst is not None
    assert 0 <= settled <= plan.packs.worst
    assert plan.items == len(earlier + rows)


@given(tasks(), st.lists(texts(), max_size=40))
def test_every_row_of_a_plan_is_counted_once(task: Task, rows: list[str]) -> None:
    plan = make_plan(rows + rows, task)
    assert plan.items == 2 * len(rows)
    assert plan.texts + plan.empty <= plan.items
    assert plan.asked + plan.known + plan.too_long == plan.texts
    # the packs carry the lines of the singles, and the instructions less often
    packs, singles = plan.packs, plan.singles
    more = singles.requests - packs.requests
    assert singles.input_tokens - packs.input_tokens == more * plan.constant


def test_the_expected_cost_is_near_what_a_run_comes_to(shared_data: Path) -> None:
    task = Task(["spam", "ham"], instructions=GUIDELINE)
    assert 150 < count_tokens([GUIDELINE])[0] < 210
    with Reader(str(shared_data / "sms_spam.csv"), text="text") as reader:
        rows = [row.text for row in reader]
    plan = make_plan(rows, task)
    transport, _ = run_job(rows, task, None)
    taken = Usage(0, 0)
    for prompt in transport.prompts:
        answer = transport.right_reply(prompt).text
        *inputs, output = count_tokens([prompt.system, prompt.user, json.dumps(prompt.schema), answer])
        taken += Usage(sum(inputs), output)
    assert float(plan.packs.cost(PRICE)) == pytest.approx(float(cost(taken, PRICE)), rel=0.15)


def test_the_expected_answer_is_as_long_as_the_labels_are_on_average() -> None:
    task = Task(["a", "a far longer label, of many words"])
    requests = Requests(task, PackLimits(), PRICE, count_tokens, bound_tokens)
    half = dict(enumerate([*task.labels] * 10, 100))
    assert requests.expect_answer(20) == pytest.approx(count_tokens([write_answer(task, "k7f2", half)])[0], abs=3)


def test_a_records_length_is_that_of_the_examples() -> None:
    schema = {"type": "object", "properties": {"topic": {"type": "string"}}}
    long = {"topic": "many words, " * 40}
    plain = Requests(Task(record=schema), PackLimits(), PRICE, count_tokens, bound_tokens)
    shown = Task(record=schema, examples=[("text", long)])
    informed = Requests(shown, PackLimits(), PRICE, count_tokens, bound_tokens)
    assert informed.expect_answer(10) > 1_000 > plain.expect_answer(10) > 500
    assert informed.allowance.row == plain.allowance.row


def test_a_text_that_comes_again_much_later_is_asked_once() -> None:
    rows = [f"text {number}" for number in range(planning._SLICE + 1)]
    plan = make_plan(rows + rows, Task(["a", "b"]))
    assert (plan.items, plan.texts, plan.asked) == (2 * len(rows), len(rows), len(rows))


def test_memory_does_not_grow_with_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_SLICE", 50)
    alive: list[int] = []

    def rows() -> Iterable[str]:
        for number in range(2_000):
            alive.append(number)
            yield f"text {number}"

    asked = planning._ask(rows(), Plan(), make_requests(), make_keys(Task(["a", "b"]), MODEL), None)
    next(iter(asked))
    assert len(alive) == 50


def make_requests() -> Requests:
    return Requests(Task(["a", "b"]), PackLimits(), PRICE, count_tokens, bound_tokens)


# The command


@pytest.fixture(autouse=True)
def nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a plan connects to nothing")

    monkeypatch.setattr(connections, "connect", refuse)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def table(in_folder: Path) -> Path:
    path = in_folder / "in.csv"
    rows = [f"message number {number} which is about nothing in particular" for number in range(100)]
    path.write_text("\n".join(["text", *rows, "", '""', *rows[:20]]), encoding="utf-8")
    return path


def plan(*options: str, model: str = MODEL) -> int:
    return main(["plan", "in.csv", "--text", "text", "--labels", "spam,ham", "--model", model, *options])


def facts(shown: str) -> dict[str, str]:
    """The plan by the names of its facts; what is wrapped is one text again."""
    found: dict[str, str] = {}
    name = ""
    for line in shown.splitlines():
        assert len(line) <= 80, line
        name = line[:9].strip() or name
        found[name] = f"{found[name]} {line[11:]}" if not line[:9].strip() else line[11:]
    return found


def test_a_plan_reads_like_this(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--budget-usd", "1") == 0
    assert (
        capsys.readouterr().out
        == """\
items      121: 100 distinct texts, 1 empty
packs      5 requests of up to 20: 2,410 tokens in, 340 out
singles    100 requests of one: 19,700 tokens in, 1,100 out
cost       about $0.00057 in packs, $0.0036 as singles
worst      $0.0017, if every answer runs on for as long as it may
budget     $1.00 covers even the worst case
packing    saves 84 % of the money: singles take 6.4 times as much
price      $0.15 in, $0.60 out per million tokens: OpenAI's list price
note       tokens are o200k's; other models count 0.8 to 2.5 times as many
"""
    )
    assert not list(table.parent.glob("prompt-packer.db*"))


def test_a_plan_takes_the_command_line_of_label(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--base-url https://gateway.example/v1 --api-key-env NO_SUCH_KEY --output out.csv --raw --table "
    options += "--concurrency 3 --on-doubt hold --seed 7 --verbose"
    assert plan(*options.split()) == 0
    assert "cost" in capsys.readouterr().out
    assert not (table.parent / "out.csv").exists()


def test_help_shows_only_what_changes_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--budget-usd" in shown
    assert "--seed" in shown  # it draws the examples
    for option in ("--output", "--raw", "--api-key-env", "--concurrency", "--confidence", "--verbose"):
        assert option not in shown


def label_some(rows: list[str]) -> None:
    """A job of the same table, which has asked `rows` already."""
    task = Task(["spam", "ham"])

    transport = FakeTransport(task, lambda _: "ham")
    job = name_source("in.csv", text="text")
    options: dict[str, Any] = {"transport": transport, "ledger": "prompt-packer.db", "job": job}

    async def run() -> None:
        async with Runner(task, model=MODEL, price=PRICE, **options) as runner:
            async for _ in runner.stream(rows):
                pass

    FakeClock().run(run())


def test_what_the_ledger_has_is_not_planned_again(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_some(table.read_text(encoding="utf-8").splitlines()[1:41])
    before = Path("prompt-packer.db").read_bytes()
    assert plan() == 0
    shown = facts(capsys.readouterr().out)
    assert shown["known"] == "40 texts answered in prompt-packer.db already, at no cost now"
    assert shown["packs"].startswith("3 requests")
    assert plan("--ledger", "other.db") == 0
    assert "known" not in facts(capsys.readouterr().out)
    # another model has other answers
    assert plan(model="openai/gpt-4.1-nano") == 0
    assert "known" not in facts(capsys.readouterr().out)
    assert Path("prompt-packer.db").read_bytes() == before


def test_a_plan_of_what_is_done_costs_nothing(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_some(table.read_text(encoding="utf-8").splitlines()[1:])
    assert plan("--budget-usd", "1") == 0
    shown = facts(capsys.readouterr().out)
    assert shown["packs"] == "none: nothing is left to be asked"
    assert "cost" not in shown


def test_a_running_job_is_not_disturbed(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger("prompt-packer.db") as running:
        running.start_job("a job", {"task": "", "model": "", "parameters": {}})
        assert plan("--budget-usd", "1") == 0
        running.start_job("another job", {"task": "", "model": "", "parameters": {}})
    assert "100 distinct texts" in capsys.readouterr().out
    assert table.exists()


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("0.01", "$0.0100 covers even the worst case"),
        ("0.001", "$0.0010 covers what is expected, not the worst case"),
        ("0.0002", "$0.00020 does not cover it: it is enough for about 35 % of the texts"),
    ],
)
@pytest.mark.usefixtures("table")
def test_a_plan_says_what_the_budget_covers(budget: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--budget-usd", budget) == 0
    assert facts(capsys.readouterr().out)["budget"] == words


def test_what_earlier_runs_spent_is_taken_off_the_budget(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_some(table.read_text(encoding="utf-8").splitlines()[1:41])
    assert plan("--budget-usd", "0.0003") == 0
    shown = facts(capsys.readouterr().out)["budget"]
    assert shown.startswith("$0.00030, of which $0.00017 is spent or in doubt, does not cover it")


def test_without_a_price_a_plan_shows_tokens(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(model="openai/gpt-4o-mni") == 0
    shown = facts(capsys.readouterr().out)
    assert "2,410 tokens in" in shown["packs"]
    assert shown["cost"].startswith("unknown: no price is known for openai/gpt-4o-mni")
    assert "openai/gpt-4o-mini" in shown["cost"]
    assert shown["packing"].startswith("saves 87 % of the tokens")
    assert "price" not in shown
    assert table.exists()


@pytest.mark.parametrize("cap", ["--budget-usd", "--max-request-usd"])
@pytest.mark.usefixtures("table")
def test_a_money_cap_without_a_price_is_refused(cap: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(cap, "1", model="gateway/model") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("prompt-packer: no price is known for gateway/model, and a money cap needs one: give")
    assert said.err.count("\n") == 1


@pytest.mark.usefixtures("table")
def test_the_price_is_the_options_then_the_task_files(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_folder / "task.toml").write_text('labels = ["a", "b"]\n[price]\ninput = 0.125\noutput = 2', encoding="utf-8")
    call = ["plan", "in.csv", "--text", "text", "--task", "task.toml", "--model", "gateway/model", "--budget-usd", "1"]
    assert main(call) == 0
    assert facts(capsys.readouterr().out)["price"] == (
        "$0.125 in, $2.00 out per million tokens: as the task file gives it"
    )
    assert main([*call, "--price-input", "1", "--price-output", "2"]) == 0
    assert facts(capsys.readouterr().out)["price"] == "$1.00 in, $2.00 out per million tokens: as given"


@pytest.mark.usefixtures("table")
def test_a_task_file_that_names_its_model_has_no_price_for_another(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = 'labels = ["a", "b"]\nmodel = "gateway/model"\nmax_items = 1\n'
    (in_folder / "task.toml").write_text(f"{settings}[price]\ninput = 0.125\noutput = 2", encoding="utf-8")
    call = ["plan", "in.csv", "--text", "text", "--task", "task.toml", "--budget-usd", "1"]
    assert main(call) == 0
    said = facts(capsys.readouterr().out)
    assert said["price"].startswith("$0.125 in")
    assert said["packing"].startswith("none with --max-items 1")
    assert main([*call, "--model", "gateway/other"]) == 2
    assert "no price is known for gateway/other" in capsys.readouterr().err


def test_the_local_model_costs_nothing(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--budget-usd", "1", model="local") == 0
    shown = facts(capsys.readouterr().out)
    assert shown["cost"] == "nothing: it runs on this machine"
    assert table.exists()


def test_a_plan_says_when_packing_does_not_pay(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{number} " + "a very long text indeed " * 1_200 for number in range(30)]
    (in_folder / "in.csv").write_text("\n".join(["text", *rows]), encoding="utf-8")
    assert plan() == 0
    shown = facts(capsys.readouterr().out)
    assert shown["packing"] == "does not pay here: it saves 0.0 %; --max-items 1 asks for each text alone"


@pytest.mark.usefixtures("table")
def test_with_packs_of_one_nothing_is_packed(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--max-items", "1") == 0
    shown = facts(capsys.readouterr().out)
    assert shown["packing"] == "none with --max-items 1: every text is a request of its own"
    assert shown["cost"] == "about $0.0036"
    assert "packs" not in shown


def test_texts_that_cannot_be_asked_are_counted(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_folder / "in.csv").write_text("text\nshort\n" + "long " * 9_000, encoding="utf-8")
    assert plan() == 0
    shown = facts(capsys.readouterr().out)
    assert shown["items"] == "2: 2 distinct texts, 1 too long to be asked"
    assert shown["singles"].startswith("1 request of one")


def test_cached_instructions_and_guessed_records_are_noted(
    in_folder: Path, capsys: pytest.CaptureFixture[str], table: Path
) -> None:
    task = {"instructions": GUIDELINE * 8, "record": {"type": "object", "properties": {"topic": {"type": "string"}}}}
    (in_folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    assert main(["plan", str(table), "--text", "text", "--task", "task.json", "--model", MODEL]) == 0
    shown = capsys.readouterr().out
    assert "tokens are always the same; cached, they cost $0.075 a million" in shown
    assert "a record's length is a guess" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_pipe_can_be_planned(table: Path) -> None:
    call = [sys.executable, "-m", "packer", "plan", "-", "--text", "text", "--labels", "a,b", "--model", MODEL]
    done = subprocess.run(call, input=table.read_bytes(), capture_output=True, check=True, cwd=table.parent)
    assert done.stdout.startswith(b"items      121: 100 distinct texts")


def test_an_empty_ledger_is_none_and_a_foreign_one_is_refused(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = table.parent / "prompt-packer.db"
    ledger.touch()
    assert plan() == 0
    ledger.write_text("my diary", encoding="utf-8")
    capsys.readouterr()
    assert plan() == 5
    assert "not a ledger" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (["plan", "no.csv", "--text", "text", "--labels", "a,b", "--model", MODEL], "there is no such file"),
        (["plan", "in.csv", "--text", "txt", "--labels", "a,b", "--model", MODEL], "did you mean 'text'?"),
        (["plan", "in.csv", "--text", "text", "--model", MODEL], "missing: --labels or --task"),
        (["plan", "in.csv", "--text", "text", "--labels", "a,b"], "missing: --model"),
        (["plan", "in.csv", "--text", "text", "--labels", "a,b", "--modle", MODEL], "did you mean --model?"),
        (
            ["plan", "in.csv", "--text", "text", "--labels", "a,b", "--model", MODEL, "--ledger", "x\0"],
            "cannot be read",
        ),
    ],
)
@pytest.mark.usefixtures("table")
def test_a_bad_call_is_one_line(call: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(call) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize("command", ["plan", "models"])
def test_neither_plan_nor_models_imports_what_sends(command: str, table: Path) -> None:
    call = [command, "in.csv", "--text", "text", "--labels", "a,b", *(["--model", MODEL] if command == "plan" else [])]
    code = f"import sys; from packer.cli import main; assert main({call!r}) == 0; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=table.parent)
    assert not {"openai", "instructor", "aiohttp", "packer.runner", "packer.transport"} & set(done.stdout.splitlines())


def test_a_missing_file_is_told_before_the_price_table_is_read(table: Path) -> None:
    call = ["plan", "no.csv", "--text", "text", "--labels", "a,b", "--model", MODEL]
    code = f"import sys; from packer.cli import main; assert main({call!r}) == 2; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=table.parent)
    assert not {"genai_prices", "toktok"} & set(done.stdout.splitlines())


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        (["--model", "gpt-4o-mini"], "($0.075 in, $0.30 out per million tokens, its list price)"),
        (["--model", "groq/llama-3.3-70b-versatile"], "no price of its Batch API is known, so that the ordinary one"),
        (["--model", "m", "--price-input", "0.2", "--price-output", "0.8"], "($0.10 in, $0.40 out per million tokens,"),
        (["--model", "nobody/knows"], "1 batch of up to 2,000 requests, one after the other, each within a day"),
    ],
)
def test_a_plan_with_batch_says_what_a_batch_costs_and_how_long_it_takes(
    more: list[str], shown: str, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in.csv").write_text("text\nfree\nhello\n", encoding="utf-8")
    assert main(["plan", "in.csv", "--text", "text", "--labels", "spam,ham", "--batch", *more]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert shown in told
    assert "within a day" in told
