"""What may be asked of the command, word by word. What is no such thing is said in one line, without an echo of a key.

An option that several commands have is added by one function here, so that it has the same name, reader, default and
help wherever it stands. Nothing is done here, and nothing slow is imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from packer import __version__
from packer.audit import MAX_DISAGREEMENT
from packer.cascade import SAMPLE
from packer.explanations import (
    ABOUT,
    CALIBRATE_ABOUT,
    CALIBRATE_EXAMPLES,
    DASHBOARD_ABOUT,
    EVALUATE_ABOUT,
    EVALUATE_EXAMPLES,
    EXIT_CODES,
    LABEL_EXAMPLES,
    LEDGER_ABOUT,
    MODELS_ABOUT,
    MODELS_EXAMPLES,
    PLAN_ABOUT,
    PLAN_EXAMPLES,
    REPORT_ABOUT,
)
from packer.items import MAX_ITEMS_CEILING
from packer.packs import UNTRUSTED_ITEMS
from packer.parsing import (
    PROGRAM,
    Parser,
    one_of,
    read_concurrency,
    read_header,
    read_labels,
    read_models,
    read_price,
    read_shapes,
    read_share,
    read_sizes,
    read_target,
    read_usd,
    read_votes,
    whole,
)
from packer.votes import BELOW

LEDGER = "prompt-packer.db"
EVALUATED_BY = ("position", "pack-size", "length")


def read_arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """What was asked, `command` among it. Raises `CallError`, and `SystemExit` after `--help` and `--version`."""
    return make_parser().parse_args(given)


def make_parser() -> Parser:
    """The parser of the whole command: what may be asked, and what is said of it."""
    parser = Parser(prog=PROGRAM, description=ABOUT, epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True, parser_class=Parser)
    adds = (_add_label, _add_plan, _add_models, _add_calibrate, _add_evaluate, _add_report, _add_dashboard, _add_ledger)
    for add in adds:
        add(commands)
    return parser


def _add_label(commands: argparse._SubParsersAction[Parser]) -> None:
    label = commands.add_parser(
        "label",
        help="label a CSV, JSONL or Parquet table",
        description="Label each row of a CSV, JSONL or Parquet table.",
        usage="prompt-packer label INPUT --text COLUMN (--labels A,B | --task FILE)\n"
        "                           --model MODEL [--output OUT] [options]",
        epilog=f"{LABEL_EXAMPLES}\n{EXIT_CODES}",
    )
    _take_job(label)


def _add_plan(commands: argparse._SubParsersAction[Parser]) -> None:
    plan = commands.add_parser(
        "plan",
        help="say what label would send and cost, and send nothing",
        description=PLAN_ABOUT,
        usage="prompt-packer plan INPUT --text COLUMN (--labels A,B | --task FILE)\n"
        "                          --model MODEL [options]",
        epilog=PLAN_EXAMPLES,
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
        description=MODELS_ABOUT,
        usage="prompt-packer models INPUT --text COLUMN (--labels A,B | --task FILE)\n"
        "                            [--models A,B,...] [options]",
        epilog=MODELS_EXAMPLES,
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


def _add_calibrate(commands: argparse._SubParsersAction[Parser]) -> None:
    calibrate = commands.add_parser(
        "calibrate",
        help="find out how large packs may be, with some of your texts",
        description=CALIBRATE_ABOUT,
        usage="prompt-packer calibrate INPUT --text COLUMN (--labels A,B | --task FILE)\n"
        "                               --model MODEL [options]",
        epilog=CALIBRATE_EXAMPLES,
    )
    _take_input(calibrate)
    asked = _take_task(calibrate)
    _take_encoding(asked)
    model = calibrate.add_argument_group("the model")
    _take_model(model)
    _take_gateway(model)
    tried = calibrate.add_argument_group("what is tried")
    add = tried.add_argument
    add("--sample", metavar="N", type=whole(1, 100_000), default=300, help="distinct texts at most (default: 300)")
    sizes = "texts in a pack, from small to large (default: 5,10,20,50)"
    add("--sizes", metavar="A,B,...", type=read_sizes, default=(5, 10, 20, 50), help=sizes)
    shapes = "how an answer is written: line, pair, object (default: the task's)"
    add("--shapes", metavar="A,B,...", type=read_shapes, help=shapes)
    models = "also in packs of these models, held against --model's singles"
    add("--models", metavar="A,B,...", type=read_models, default=(), help=models)
    _take_max_disagreement(tried)
    add("--gold", metavar="COLUMN", help="the right labels: also say what packs cost in accuracy")
    add("--seed", metavar="N", type=whole(0, 2**63 - 1), default=0, help="of the sample (default: 0)")
    found = calibrate.add_argument_group("what is found")
    add = found.add_argument
    add("--write-task", metavar="NEW", help="write the settings into this new task file, and leave that of --task")
    add("--json", metavar="FILE", help="the same figures as one JSON object; readable by you only")
    money = calibrate.add_argument_group("money, in US dollars")
    _take_budget(money)
    _take_request_cap(money)
    _take_price(money)
    _take_charge_header(money)
    running = calibrate.add_argument_group("how it runs")
    _take_concurrency(running)
    _take_ledger(running)
    _take_verbose(running)
    # its order is made as a job's is: what only a job takes is as it is there without a word
    job, own = Parser(add_help=False), {action.dest for action in calibrate._actions}  # noqa: SLF001  as above
    _take_job(job)
    calibrate.set_defaults(**{a.dest: a.default for a in job._actions if a.dest not in own})  # noqa: SLF001  as above


def _add_evaluate(commands: argparse._SubParsersAction[Parser]) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="hold a labelled table against a column of right labels",
        description=EVALUATE_ABOUT,
        usage="prompt-packer evaluate LABELED --gold COLUMN [options]",
        epilog=EVALUATE_EXAMPLES,
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
    _take_model(asked)
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
    add("--output", metavar="OUT", help="a .csv, .jsonl, .ndjson or .parquet file, or -; replaced when all is done")
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
    _take_doubt(label.add_argument_group("doubtful labels"))
    running = label.add_argument_group("how it runs")
    _take_max_items(running)
    _take_untrusted(running)
    _take_audit(running)
    _take_concurrency(running)
    _take_batch(running)
    _take_ledger(running)
    add = running.add_argument
    add(
        "--on-doubt",
        metavar="retry|hold",
        type=one_of("retry", "hold"),
        default="retry",
        help="items of a request that may have been billed without a word: ask again, or leave (default: retry)",
    )
    _take_seed(running)
    add("--report", metavar="FILE", help="a .json file: settings, money, pace, failures; a .html file: its page too")
    add("--dashboard", action="store_true", help="show the job in a browser on this machine while it runs")
    _take_verbose(running)


def _add_report(commands: argparse._SubParsersAction[Parser]) -> None:
    report = commands.add_parser(
        "report",
        help="draw the page of a report",
        description=REPORT_ABOUT,
        usage="prompt-packer report REPORT.json [--evaluation FILE.json]\n"
        "                            [--output PAGE.html]",
    )
    add = report.add_argument
    add("report", metavar="REPORT.json", help="what label --report wrote")
    add("--evaluation", metavar="FILE.json", help="what evaluate --json wrote, to be shown with it")
    add("--output", metavar="PAGE.html", help="the page (default: beside the report); readable by you only")


def _add_dashboard(commands: argparse._SubParsersAction[Parser]) -> None:
    dashboard = commands.add_parser(
        "dashboard",
        help="show a ledger's jobs in a browser",
        description=DASHBOARD_ABOUT,
        usage="prompt-packer dashboard [--ledger FILE]",
    )
    dashboard.add_argument("--ledger", metavar="FILE", default=LEDGER, help=f"the ledger (default: {LEDGER})")


def _add_ledger(commands: argparse._SubParsersAction[Parser]) -> None:
    ledger = commands.add_parser(
        "ledger",
        help="show, verify or export a ledger",
        description=LEDGER_ABOUT,
        usage="prompt-packer ledger [verify | export | doubt] [FILE]",
    )
    ledger.add_argument("words", nargs="*", metavar="FILE", help=f"the ledger (default: {LEDGER})")


# What several commands take. A function adds what belongs together, to the group in which the command shows it.


def _take_input(command: Parser) -> None:
    command.add_argument(
        "input", metavar="INPUT", help="a .csv, .jsonl, .ndjson or .parquet file, or - for standard input"
    )


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


def _take_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model",
        help="its name at the gateway (default: the task file's); local: a small model on this machine, without a key",
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
        help=f"texts in a request, 1 to {MAX_ITEMS_CEILING} (default: the task file's, else 20)",
    )


def _take_untrusted(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--untrusted",
        action="store_true",
        help="the texts may try to steer labels: the task file's canaries stand among them, in packs of "
        f"{UNTRUSTED_ITEMS} where --max-items says nothing",
    )


def _take_concurrency(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--concurrency", metavar="auto|N", type=read_concurrency, help="requests in flight (default: auto)"
    )


def _take_verbose(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-v", "--verbose", action="store_true", help="one line a request on standard error")


def _take_audit(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--audit",
        metavar="SHARE",
        type=read_share,
        help="ask this share of the texts again, each alone, like 0.01: how often packing changes an answer",
    )
    _take_max_disagreement(group)


def _take_max_disagreement(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-disagreement",
        metavar="SHARE",
        type=read_share,
        default=MAX_DISAGREEMENT,
        help=f"the share of answers that packs may change; else they become smaller (default: {MAX_DISAGREEMENT})",
    )


def _take_batch(group: argparse._ArgumentGroup) -> None:
    batch = "through the gateway's Batch API: half the price, an answer within a day; stop and go on as you like"
    group.add_argument("--batch", action="store_true", help=batch)
    abandon = "do not collect what earlier runs have left in batches: it may be paid for, and is asked again"
    group.add_argument("--abandon-batches", action="store_true", help=abandon)


def _take_doubt(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--vote",
        metavar="K",
        type=read_votes,
        help="ask for doubtful ones again, in other packs, until most of K answers agree: 3, 5, 7 or 9",
    )
    add(
        "--doubtful-below",
        metavar="X",
        type=read_share,
        help=f"the confidence under which a label is doubtful (default: {BELOW}); where the gateway tells none, those "
        "are whose second answer differs",
    )
    add("--escalate", metavar="MODEL", help="ask this stronger model for what is doubtful still, each text alone")
    add("--escalate-price-input", metavar="X", type=read_price, help="its price per million input tokens")
    add("--escalate-price-output", metavar="X", type=read_price, help="and per million output tokens")
    add(
        "--target-accuracy",
        metavar="X",
        type=read_target,
        help="escalate as little as keeps this share of labels right, by a sample: as --gold, or else that model, says",
    )
    add("--gold", metavar="COLUMN", help="right labels for --target-accuracy, where a row has one")
    sizes = f"texts in its sample (default: {SAMPLE})"
    add("--sample", metavar="N", type=whole(1, 100_000), help=sizes)


def _take_ledger(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--ledger",
        metavar="FILE",
        default=LEDGER,
        help=f"remembers every answer, so that none is bought twice (default: {LEDGER})",
    )
