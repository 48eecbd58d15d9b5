"""A command in, an exit code out; whatever is wrong is said in one line that names it, and nothing was sent.

This file imports nothing that is slow: `--help` and a bad call answer at once. A key never stands in an argument, and
what might be one is not repeated in a message.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence

from packer.arguments import LEDGER, PROGRAM, read_arguments
from packer.errors import CallError, LedgerError, StoppedError
from packer.packs import PackLimits
from packer.summary import show_text
from packer.usage import Price

WRONG, STOPPED, NO_LEDGER = 2, 4, 5
_ENVIRONMENT_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,39}")
_LEDGER_ACTIONS = ("verify", "export", "doubt")


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
        options = read_arguments(argv)
        return _COMMANDS[options.command](options)
    except SystemExit as ended:  # argparse, after --help and --version
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
            sys.stderr.write(f"{PROGRAM}: {show_text(str(message))}\n")
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
    path = words[0] if words else LEDGER
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


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"label": _run_label, "ledger": _run_ledger}
