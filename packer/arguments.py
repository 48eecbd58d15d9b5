"""What may be asked of the command, word by word. What is no such thing is said in one line, without an echo of a key.

An option that several commands have is added by one function here, so that it has the same name, reader, default and
help wherever it stands. Nothing is done here, and nothing slow is imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from packer import __version__
from packer.audit import MAX_DISAGREEMENT
from packer.packs import MAX_ITEMS_CEILING, UNTRUSTED_ITEMS, usual_items
from packer.parsing import (
    PROGRAM,
    Parser,
    one_of,
    read_concurrency,
    read_header,
    read_labels,
    read_models,
    read_price,
    read_share,
    read_usd,
    whole,
)

LEDGER = "prompt-packer.db"
EVALUATED_BY = ("position", "pack-size", "length")

_ABOUT = """\
Label many short texts with an LLM: packed into few requests, checked one by
one, never bought twice.
"""
_EXIT_CODES = """\
exit codes:
  0  every item is labelled
  2  the call or the input is wrong; nothing was sent
  3  finished, some items failed
  4  stopped before the end; the same command again goes on
  5  the ledger cannot be used
"""
_LABEL_EXAMPLES = """\
examples:
  prompt-packer label messages.csv --text text --labels spam,ham \\
      --model local --output labelled.csv
  prompt-packer label tickets.jsonl --text body --task task.toml \\
      --model openai/gpt-4o-mini --base-url https://modeldatabase.com/v1 \\
      --api-key-env MDB_API_KEY --budget-usd 5 --output labelled.jsonl
"""
_PLAN_ABOUT = """\
Say what a job would send and cost: requests, tokens, money, and whether packing
pays. Nothing is sent, no key is needed, and a job that runs is not disturbed.

It takes the command line of label: write plan where label stands.
"""
_PLAN_EXAMPLES = """\
examples:
  prompt-packer plan messages.csv --text text --labels spam,ham \\
      --model openai/gpt-4o-mini --budget-usd 1
  prompt-packer plan tickets.jsonl --text body --task task.toml \\
      --model my/model --price-input 0.10 --price-output 0.40 --max-items 50
"""
_MODELS_ABOUT = """\
Compare what a whole table would cost with several models, at their list prices:
in packs, one text a request, and through the provider's Batch API. Nothing is
sent, and the ledger is not looked at.
"""
_MODELS_EXAMPLES = """\
examples:
  prompt-packer models messages.csv --text text --labels spam,ham
  prompt-packer models tickets.jsonl --text body --task task.toml \\
      --models openai/gpt-4o-mini,google/gemini-2.5-flash-lite
"""
_EVALUATE_ABOUT = """\
Hold the labels of a table that label wrote against a column of right ones:
accuracy, macro F1, precision and recall, what is confused with what, and where
the errors sit. Nothing is sent.

--text names the texts that are shown beside errors (default: the column text).
--by position and --by pack-size also need what label was asked: --labels or
--task, --model, and its ledger.
"""
_EVALUATE_EXAMPLES = """\
examples:
  prompt-packer evaluate labelled.csv --gold gold
  prompt-packer evaluate labelled.csv --gold gold --by position --by length \\
      --labels spam,ham --model openai/gpt-4o-mini
"""
_LEDGER_ABOUT = """\
Show what a ledger holds: answers, requests, money. It is only read, also
while a job runs.

  prompt-packer ledger [FILE]          how things stand
  prompt-packer ledger verify [FILE]   read every row and say what is wrong
  prompt-packer ledger export [FILE]   every answer as JSON lines
  prompt-packer ledger doubt [FILE]    requests that were sent and got lost
"""


def read_arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """What was asked, `command` among it. Raises `CallError`, and `SystemExit` after `--help` and `--version`."""
    parser = Parser(prog=PROGRAM, description=_ABOUT, epilog=_EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True, parser_class=Parser)
    for add in (_add_label, _add_plan, _add_models, _add_evaluate, _add_ledger):
        add(commands)
    options = parser.parse_args(given)
    if getattr(options, "max_items", 0) is None:
        options.max_items = usual_items(untrusted=getattr(options, "untrusted", False))
    return options


def _add_label(commands: argparse._SubParsersAction[Parser]) -> None:
    label = commands.add_parser(
        "label",
        help="label a CSV or JSONL table",
        description="Label each row of a CSV or JSONL table.",
        usage="prompt-packer label INPUT --text COLUMN (--labels A,B | --task FILE)\n"
        "                           --model MODEL [--output OUT] [options]",
        epilog=f"{_LABEL_EXAMPLES}\n{_EXIT_CODES}",
    )
    _take_job(label)


def _add_plan(commands: argparse._SubParsersAction[Parser]) -> None:
    plan = commands.add_parser(
        "plan",
        help="say what label would send and cost, and send nothing",
        description=_PLAN_ABOUT,
        usage="prompt-packer plan INPUT --text COLUMN (--labels A,B | --task FILE)\n"
        "                          --model MODEL [options]",
        epilog=_PLAN_EXAMPLES,
    )
    _take_job(plan)
    shown = {"help", "input", "text", "labels", "task", "model", "base_url", "id", "encoding", "budget_usd"}
    shown |= {"max_request_usd", "price_input", "price_output", "max_items", "untrusted", "audit", "ledger", "batch"}
    shown |= {"examples", "examples_per_label", "seed"}
    for action in plan._actions:  # noqa: SLF001  argparse has no public name for it
        if action.dest not in shown:  # taken, so that a command line of label's is one of plan's
            action.help = argparse.SUPPRESS


def _add_models(commands: argparse._SubParsersAction[Parser]) -> None:
    models = commands.add_parser(
        "models",
        help="compare what a job would cost with several models",
        description=_MODELS_ABOUT,
        usage="prompt-packer models INPUT --text COLUMN (--labels A,B | --task FILE)\n"
        "                            [--models A,B,...] [options]",
        epilog=_MODELS_EXAMPLES,
    )
    _take_input(models)
    _take_task(models)
    compared = models.add_argument_group("the models")
    compared.add_argument(
        "--models", metavar="A,B,...", type=read_models, help="their names, separated by commas (default: a dozen)"
    )
    tables = models.add_argument_group("tables")
    _take_id(tables)
    _take_encoding(tables)
    _take_max_items(models.add_argument_group("how it runs"))


def _add_evaluate(commands: argparse._SubParsersAction[Parser]) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="hold a labelled table against a column of right labels",
        description=_EVALUATE_ABOUT,
        usage="prompt-packer evaluate LABELED --gold COLUMN [options]",
        epilog=_EVALUATE_EXAMPLES,
    )
    add = evaluate.add_argument
    add("table", metavar="LABELED", help="a table that label wrote, or - for standard input")
    gold = "the right labels; of a record: the right values of the field of that name, or FIELD=COLUMN; once a field"
    add("--gold", metavar="COLUMN", action="append", required=True, help=gold)
    by = "where errors sit: position (in the pack), pack-size or length (of the text); may be given several times"
    add("--by", metavar="WHAT", action="append", default=[], type=one_of(*EVALUATED_BY), help=by)
    add("--json", metavar="FILE", help="the same figures as one JSON object; readable by you only")
    _take_encoding(evaluate)
    asked = _take_task(evaluate, required=False)
    _take_model(asked, required=False)
    _take_ledger(asked)
    _take_seed(asked)


def _take_job(label: Parser) -> None:
    """All that a job takes, for the command that runs one and the command that plans one."""
    _take_input(label)
    _take_task(label)
    model = label.add_argument_group("the model")
    _take_model(model)
    _take_gateway(model)
    tables = label.add_argument_group("tables")
    add = tables.add_argument
    add("--output", metavar="OUT", help="a .csv, .jsonl or .ndjson file, or -; it is replaced when all is done")
    _take_id(tables)
    _take_encoding(tables)
    add("--raw", action="store_true", help="leave CSV cells that begin like a formula without a leading '")
    add("--confidence", action="store_true", help="a column: how sure the model was, 0 to 1, where the gateway tells")
    add("--table", action="store_true", help="show a table on standard output, which is what a terminal gets anyway")
    money = label.add_argument_group("money, in US dollars")
    _take_budget(money)
    _take_request_cap(money)
    _take_price(money)
    _take_charge_header(money)
    running = label.add_argument_group("how it runs")
    _take_max_items(running)
    _take_untrusted(running)
    _take_audit(running)
    add = running.add_argument
    add("--concurrency", metavar="auto|N", type=read_concurrency, help="requests in flight (default: auto)")
    _take_batch(running)
    _take_ledger(running)
    add(
        "--on-doubt",
        metavar="retry|hold",
        type=one_of("retry", "hold"),
        default="retry",
        help="items of a request that may have been billed without a word: ask again, or leave (default: retry)",
    )
    _take_seed(running)
    add("--report", metavar="FILE", help="a .json file: settings, money, pace, failures; readable by you only")
    add("-v", "--verbose", action="store_true", help="one line a request on standard error")


def _add_ledger(commands: argparse._SubParsersAction[Parser]) -> None:
    ledger = commands.add_parser(
        "ledger",
        help="show, verify or export a ledger",
        description=_LEDGER_ABOUT,
        usage="prompt-packer ledger [verify | export | doubt] [FILE]",
    )
    ledger.add_argument("words", nargs="*", metavar="FILE", help=f"the ledger (default: {LEDGER})")


# What several commands take. A function adds what belongs together, to the group in which the command shows it.


def _take_input(command: Parser) -> None:
    command.add_argument("input", metavar="INPUT", help="a .csv, .jsonl or .ndjson file, or - for standard input")


def _take_task(command: Parser, *, required: bool = True) -> argparse._ArgumentGroup:
    asked = command.add_argument_group("what is asked")
    asked.add_argument("--text", metavar="COLUMN", required=required, help="the column that holds the texts")
    which = asked.add_mutually_exclusive_group(required=required)
    which.add_argument("--labels", metavar="A,B,...", type=read_labels, help="the labels, separated by commas")
    which.add_argument("--task", metavar="FILE", help="a task file, .toml or .json: labels or a record, examples")
    add = asked.add_argument
    add(
        "--examples", metavar="FILE", help="a labelled table, from which examples are drawn; its columns: COLUMN, label"
    )
    add("--examples-per-label", metavar="N", type=whole(1, 20), help="examples of each label (default: 2)")
    return asked


def _take_model(group: argparse._ArgumentGroup, *, required: bool = True) -> None:
    group.add_argument(
        "--model",
        required=required,
        help="its name at the gateway; local: a small model on this machine, without a key",
    )


def _take_gateway(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--base-url", metavar="URL", help="an OpenAI-compatible gateway, https://.../v1")
    key = group.add_mutually_exclusive_group()
    key.add_argument("--api-key-env", metavar="NAME", help="the environment variable that holds the key")
    key.add_argument("--api-key-file", metavar="FILE", help="a file of mode 0600 that holds the key")


def _take_id(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--id", metavar="COLUMN", help="a column of ids; one that is given twice is refused")


def _take_seed(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--seed",
        metavar="N",
        type=whole(0, 2**63 - 1),
        default=0,
        help="of the order inside packs, and of the examples (default: 0)",
    )


def _take_encoding(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--encoding", default="utf-8", metavar="NAME", help="of INPUT and examples (default: utf-8); OUT is UTF-8"
    )


def _take_budget(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--budget-usd",
        metavar="X",
        type=read_usd,
        help="at most this for INPUT with this task and model, in all runs on one ledger together",
    )


def _take_request_cap(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-request-usd", metavar="X", type=read_usd, help="at most this for one request in the worst case"
    )


def _take_price(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--price-input", metavar="X", type=read_price, help="the model's price per million input tokens")
    add("--price-output", metavar="X", type=read_price, help="and per million output tokens")


def _take_charge_header(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--charge-header",
        metavar="NAME",
        type=read_header,
        help="the header of a reply that tells its charge in dollars (default: X-MDB-Charged-USD)",
    )


def _take_max_items(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-items",
        metavar="N",
        type=whole(1, MAX_ITEMS_CEILING),
        help=f"texts in a request, 1 to {MAX_ITEMS_CEILING} (default: 20)",
    )


def _take_untrusted(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--untrusted",
        action="store_true",
        help="the texts may try to steer labels: the task file's canaries stand among them, in packs of "
        f"{UNTRUSTED_ITEMS} where --max-items says nothing",
    )


def _take_audit(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--audit",
        metavar="SHARE",
        type=read_share,
        help="ask this share of the texts again, each alone, like 0.01: how often packing changes an answer",
    )
    add(
        "--max-disagreement",
        metavar="SHARE",
        type=read_share,
        default=MAX_DISAGREEMENT,
        help=f"where it changes more than this share, packs become smaller (default: {MAX_DISAGREEMENT})",
    )


def _take_batch(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--batch",
        action="store_true",
        help="through the gateway's Batch API: half the price, an answer within a day; stop and go on as you like",
    )
    add(
        "--abandon-batches",
        action="store_true",
        help="do not collect what earlier runs have left in batches: it may be paid for, and is asked again",
    )


def _take_ledger(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--ledger",
        metavar="FILE",
        default=LEDGER,
        help=f"remembers every answer, so that none is bought twice (default: {LEDGER})",
    )
