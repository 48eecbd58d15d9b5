"""Arguments in, an exit code out; whatever is wrong is said in one line that names it, and nothing was sent.

This file imports nothing that is slow: `--help` and a bad call answer at once. A key never stands in an argument, and
what might be one is not repeated in a message.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from packer import __version__
from packer.errors import CallError, LedgerError, StoppedError
from packer.packs import MAX_ITEMS_CEILING, PackLimits
from packer.summary import show_text
from packer.usage import Price

WRONG, STOPPED, NO_LEDGER = 2, 4, 5
_PROGRAM = "prompt-packer"
_LEDGER = "prompt-packer.db"
_MOST_IN_FLIGHT = 256
_ENVIRONMENT_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,39}")
_LEDGER_ACTIONS = ("verify", "export", "doubt")

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
_LEDGER_ABOUT = """\
Show what a ledger holds: answers, requests, money. It is only read, also
while a job runs.

  prompt-packer ledger [FILE]          how things stand
  prompt-packer ledger verify [FILE]   read every row and say what is wrong
  prompt-packer ledger export [FILE]   every answer as JSON lines
  prompt-packer ledger doubt [FILE]    requests that were sent and got lost
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    _hold_standard_streams()
    try:
        return _run(argv)
    finally:
        # what Python would flush at its end and cannot would turn the exit code into 120
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _run(argv: Sequence[str] | None) -> int:
    try:
        options = _make_parser().parse_args(argv)
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except SystemExit as ended:  # argparse, after --help and after an error
        return ended.code if isinstance(ended.code, int) else WRONG
    except CallError as error:
        return _complain(error, WRONG)
    except LedgerError as error:
        return _complain(error, NO_LEDGER)
    except StoppedError as error:
        return _complain(error, STOPPED)
    except KeyboardInterrupt:
        return _complain("interrupted before anything was sent; run the same command again", STOPPED)
    except BrokenPipeError:
        # whoever read has enough; what Python would flush at its end has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return STOPPED


def _complain(message: object, code: int) -> int:
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # nobody listens
            sys.stderr.write(f"{_PROGRAM}: {show_text(str(message))}\n")
    return code


def _hold_standard_streams() -> None:
    """Keep a standard stream that is closed from becoming the ledger: the next file to be opened gets its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _run_label(options: argparse.Namespace) -> int:
    from packer.labelling import Order, label_table  # noqa: PLC0415  slow
    from packer.task import Task, read_task  # noqa: PLC0415  pydantic and jsonschema

    if (options.price_input is None) != (options.price_output is None):
        raise CallError("--price-input and --price-output: expected both or neither")
    price = None if options.price_input is None else Price(options.price_input, options.price_output)
    task = read_task(options.task) if options.task is not None else Task(options.labels)
    return label_table(
        Order(
            input=options.input,
            text=options.text,
            task=task,
            model=options.model,
            id_column=options.id,
            encoding=options.encoding,
            output=options.output,
            raw=options.raw,
            table=options.table,
            verbose=options.verbose,
            base_url=options.base_url,
            api_key_env=_check_variable(options.api_key_env),
            api_key_file=options.api_key_file,
            ledger=options.ledger,
            limits=PackLimits(max_items=options.max_items, max_request_usd=options.max_request_usd),
            budget_usd=options.budget_usd,
            price=price,
            concurrency=options.concurrency,
            on_doubt=options.on_doubt,
            seed=options.seed,
        )
    )


def _run_ledger(options: argparse.Namespace) -> int:
    from packer.ledger_view import show_ledger, verify_ledger  # noqa: PLC0415  sqlite3

    words = list(options.words)
    action = words.pop(0) if words and words[0] in _LEDGER_ACTIONS else ""
    if len(words) > 1:
        raise CallError(f"ledger: expected one of {', '.join(_LEDGER_ACTIONS)} and a FILE, got {len(words)} files")
    path = words[0] if words else _LEDGER
    if action == "verify":
        problems = verify_ledger(path)
        for problem in problems or [f"{path}: nothing is wrong"]:
            print(show_text(problem))
        sys.stdout.flush()
        return NO_LEDGER if problems else 0
    for line in show_ledger(path, action):
        print(line)
    sys.stdout.flush()
    return 0


def _check_variable(name: str | None) -> str | None:
    # Somebody gives the key itself now and then; a key may look like a variable's name, and must not be repeated
    if name is None or name in os.environ or _ENVIRONMENT_NAME.fullmatch(name):
        return name
    raise CallError("--api-key-env: expected the name of an environment variable that is set, not the key itself")


class _Parser(argparse.ArgumentParser):
    """argparse, but for its errors: one line, and no echo of what may be a key."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Help, **options)
        self._given: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = list(sys.argv[1:] if args is None else args)
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:  # told here: the parser of the whole command does not know this one's options
            self.error(f"unrecognized arguments: {len(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        unknown = self._find_unknown()
        words = unknown or _reword(message)
        where = self.prog.removeprefix(_PROGRAM).strip()
        self.exit(_complain(f"{where}: {words}" if where else words, WRONG))

    def _find_unknown(self) -> str:
        """The first option that does not exist; what argparse misses because of it is no news."""
        known = self._option_string_actions
        for word in self._given:
            if word == "--":
                break
            name = word.split("=", 1)[0]
            if name.startswith("-") and name != "-" and name not in known and not re.match(r"-[.\d]", name):
                if not name.startswith("--") and name[:2] in known:
                    continue
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; see {self.prog} --help"
                return f"unknown option {name[:40]}{hint}"
        return ""


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size((80, 24)).columns, 100) - 1
        super().__init__(prog, max_help_position=26, width=width)


def _reword(message: str) -> str:
    message = re.sub(r"^argument ([^:]+): ", r"\1: ", message)
    found = re.search(r"^(.*?)invalid choice: (.*) \(choose from (.*)\)$", message, re.DOTALL)
    if found:
        return f"{found[1]}expected {found[3].replace(chr(39), '').replace(', ', ' or ')}, got {found[2]}"
    message = message.replace("expected one argument", "expected a value")
    message = message.replace("the following arguments are required: COMMAND", "expected a command: label or ledger")
    message = message.replace("the following arguments are required: ", "missing: ")
    message = re.sub(r"^one of the arguments (.*) (\S+) is required$", r"missing: \1 or \2", message)
    # what is too much may be a key that was meant for another place
    return "expected one INPUT, got more" if message.startswith("unrecognized arguments") else message


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=_PROGRAM, description=_ABOUT, epilog=_EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"{_PROGRAM} {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_label(commands)
    ledger = commands.add_parser(
        "ledger",
        help="show, verify or export a ledger",
        description=_LEDGER_ABOUT,
        usage="prompt-packer ledger [verify | export | doubt] [FILE]",
    )
    ledger.add_argument("words", nargs="*", metavar="FILE", help=f"the ledger (default: {_LEDGER})")
    ledger.set_defaults(run=_run_ledger)
    return parser


def _add_label(commands: argparse._SubParsersAction[_Parser]) -> None:
    label = commands.add_parser(
        "label",
        help="label a CSV or JSONL table",
        description="Label each row of a CSV or JSONL table.",
        usage="prompt-packer label INPUT --text COLUMN (--labels A,B | --task FILE)\n"
        "                           --model MODEL [--output OUT] [options]",
        epilog=f"{_LABEL_EXAMPLES}\n{_EXIT_CODES}",
    )
    label.set_defaults(run=_run_label)
    label.add_argument("input", metavar="INPUT", help="a .csv, .jsonl or .ndjson file, or - for standard input")

    asked = label.add_argument_group("what is asked")
    asked.add_argument("--text", metavar="COLUMN", required=True, help="the column that holds the texts")
    which = asked.add_mutually_exclusive_group(required=True)
    which.add_argument("--labels", metavar="A,B,...", type=_read_labels, help="the labels, separated by commas")
    which.add_argument("--task", metavar="FILE", help="a task file, .toml or .json: labels or a record, examples")

    model = label.add_argument_group("the model")
    add = model.add_argument
    add("--model", required=True, help="its name at the gateway; local: a small model on this machine, without a key")
    add("--base-url", metavar="URL", help="an OpenAI-compatible gateway, https://.../v1")
    key = model.add_mutually_exclusive_group()
    key.add_argument("--api-key-env", metavar="NAME", help="the environment variable that holds the key")
    key.add_argument("--api-key-file", metavar="FILE", help="a file of mode 0600 that holds the key")

    table = label.add_argument_group("tables")
    add = table.add_argument
    add("--output", metavar="OUT", help="a .csv, .jsonl or .ndjson file, or -; it is replaced when all is done")
    add("--id", metavar="COLUMN", help="a column of ids; one that is given twice is refused")
    add("--encoding", default="utf-8", metavar="NAME", help="of INPUT (default: utf-8); OUT is UTF-8")
    add("--raw", action="store_true", help="leave CSV cells that begin like a formula without a leading '")
    add("--table", action="store_true", help="show a table on standard output, which is what a terminal gets anyway")

    money = label.add_argument_group("money, in US dollars")
    add = money.add_argument
    add(
        "--budget-usd",
        metavar="X",
        type=_read_usd,
        help="at most this for INPUT with this task and model, in all runs on one ledger together",
    )
    add("--max-request-usd", metavar="X", type=_read_usd, help="at most this for one request in the worst case")
    add("--price-input", metavar="X", type=_read_price, help="the model's price per million input tokens")
    add("--price-output", metavar="X", type=_read_price, help="and per million output tokens")

    running = label.add_argument_group("how it runs")
    add = running.add_argument
    items = _whole(1, MAX_ITEMS_CEILING)
    add(
        "--max-items",
        metavar="N",
        type=items,
        default=20,
        help=f"texts in a request, 1 to {MAX_ITEMS_CEILING} (default: 20)",
    )
    add("--concurrency", metavar="auto|N", type=_read_concurrency, help="requests in flight (default: auto)")
    add(
        "--ledger",
        metavar="FILE",
        default=_LEDGER,
        help=f"remembers every answer, so that none is bought twice (default: {_LEDGER})",
    )
    add(
        "--on-doubt",
        metavar="retry|hold",
        type=_one_of("retry", "hold"),
        default="retry",
        help="items of a request that was sent and never heard of: ask again, or leave (default: retry)",
    )
    add("--seed", metavar="N", type=_whole(0, 2**63 - 1), default=0, help="of the order inside packs (default: 0)")
    add("-v", "--verbose", action="store_true", help="one line a request on standard error")


def _read_labels(given: str) -> list[str]:
    return [label.strip() for label in given.split(",")]


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(given: str) -> int:
        if re.fullmatch(r"\d{1,19}", given, re.ASCII) and least <= int(given) <= most:
            return int(given)
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {given!r}")

    return read


def _one_of(*words: str) -> Callable[[str], str]:
    def read(given: str) -> str:
        if given in words:
            return given
        raise argparse.ArgumentTypeError(f"expected {' or '.join(words)}, got {given!r}")

    return read


def _read_concurrency(given: str) -> int | None:
    if given == "auto":
        return None
    try:
        return _whole(1, _MOST_IN_FLIGHT)(given)
    except argparse.ArgumentTypeError:
        message = f"expected auto or a whole number from 1 to {_MOST_IN_FLIGHT}, got {given!r}"
        raise argparse.ArgumentTypeError(message) from None


def _read_amount(given: str) -> Decimal:
    try:
        return Decimal(given) if given.isascii() else Decimal("NaN")
    except InvalidOperation:
        return Decimal("NaN")


def _read_usd(given: str) -> Decimal:
    amount = _read_amount(given)
    if amount.is_finite() and Decimal("1e-9") <= amount <= 1_000_000:
        return amount
    raise argparse.ArgumentTypeError(f"expected US dollars above 0, like 2.50, got {given!r}")


def _read_price(given: str) -> Decimal:
    amount = _read_amount(given)
    if amount.is_finite() and 0 <= amount <= 1_000_000:
        return amount
    raise argparse.ArgumentTypeError(f"expected US dollars per million tokens, like 0.15, got {given!r}")
