"""A command in, an exit code out; whatever is wrong is said in one line that names it, and nothing was sent.

This file imports nothing that is slow: `--help` and a bad call answer at once. A key never stands in an argument, and
what might be one is not repeated in a message.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from packer.arguments import LEDGER, read_arguments
from packer.errors import CallError, LedgerError, StoppedError
from packer.packs import PackLimits, usual_items
from packer.parsing import PROGRAM
from packer.shown import show_text
from packer.usage import Price

if TYPE_CHECKING:
    from packer.order import Order
    from packer.task import Task

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
    from packer.labelling import label_table  # noqa: PLC0415  slow

    return label_table(_make_job(options))


def _run_plan(options: argparse.Namespace) -> int:
    from packer.plan_view import show_plan  # noqa: PLC0415  slow

    return _print(line.text for line in show_plan(_make_job(options), width=_width()))


def _run_models(options: argparse.Namespace) -> int:
    from packer.models_view import COMMON, Comparison, show_models  # noqa: PLC0415  slow

    task = _make_task(options)
    comparison = Comparison(
        input=options.input,
        text=options.text,
        task=task,
        models=options.models or COMMON,
        id_column=options.id,
        encoding=options.encoding,
        max_items=options.max_items or usual_items(task.max_items, untrusted=False),
    )
    return _print(line.text for line in show_models(comparison, width=_width()))


def _run_calibrate(options: argparse.Namespace) -> int:
    from packer.calibrating import calibrate  # noqa: PLC0415  slow
    from packer.task import AnswerShape  # noqa: PLC0415  pydantic
    from packer.trials import Trial  # noqa: PLC0415  slow

    order = _make_order(options)
    trial = Trial(
        order,
        sizes=options.sizes,
        shapes=[AnswerShape(shape) for shape in options.shapes or [order.task.shape]],
        models=options.models,
        sample=options.sample,
        promise=options.max_disagreement,
        gold=options.gold,
        write_task=options.write_task,
        output=options.json,
        examples_per_label=options.examples_per_label,
    )
    lines, code = calibrate(trial, width=_width())
    _print(line.text for line in lines)
    return code


def _run_evaluate(options: argparse.Namespace) -> int:
    from packer.evaluating import Question, show_evaluation  # noqa: PLC0415  slow

    task = None if options.task is options.labels is None else _make_task(options)
    question = Question(
        table=options.table,
        gold=options.gold,
        text=options.text,
        by=tuple(dict.fromkeys(options.by)),
        encoding=options.encoding,
        output=options.json,
        task=task,
        task_file=options.task,
        model=options.model or (None if task is None else task.model),
        ledger=options.ledger,
    )
    return _print(line.text for line in show_evaluation(question, width=_width()))


def _make_task(options: argparse.Namespace) -> Task:
    from packer.task import Task, read_task  # noqa: PLC0415  pydantic and jsonschema

    task = read_task(options.task) if options.task is not None else Task(options.labels)
    if options.examples is None:
        if options.examples_per_label is not None:
            raise CallError("--examples-per-label: expected --examples FILE too")
        return task
    from packer.examples import PER_LABEL, draw_examples  # noqa: PLC0415  slow

    drawn = draw_examples(
        options.examples,
        task,
        text=options.text or "text",
        encoding=options.encoding,
        per_label=options.examples_per_label or PER_LABEL,
        seed=getattr(options, "seed", 0),
    )
    return task.with_examples(drawn)


def _make_job(options: argparse.Namespace) -> Order:
    from packer.doubting import with_doubt  # noqa: PLC0415  slow

    return with_doubt(_make_order(options), options)


def _make_order(options: argparse.Namespace) -> Order:
    from packer.canaries import find_canaries  # noqa: PLC0415  as task
    from packer.order import Order  # noqa: PLC0415  slow

    if (options.price_input is None) != (options.price_output is None):
        raise CallError("--price-input and --price-output: expected both or neither")
    price = None if options.price_input is None else Price(options.price_input, options.price_output)
    if options.batch and (options.audit is not None or options.vote is not None or options.escalate is not None):
        raise CallError("--batch: expected no --audit, --vote or --escalate: what is asked again would come too late")
    task = _make_task(options)
    model = options.model or task.model
    if model is None:
        raise CallError(f"{options.command}: missing: --model")
    if options.untrusted:
        find_canaries(task)  # before a large input is read
    max_items = options.max_items or usual_items(task.max_items, untrusted=options.untrusted)
    if options.audit is not None and max_items == 1:
        raise CallError("--audit: expected packs of more than one item, for singles are asked alone already")
    return Order(
        input=options.input,
        text=options.text,
        task=task,
        model=model,
        task_file=options.task,
        id_column=options.id,
        encoding=options.encoding,
        output=options.output,
        raw=options.raw,
        table=options.table,
        verbose=options.verbose,
        base_url=options.base_url,
        api_key_env=_check_variable(options.api_key_env),
        api_key_file=options.api_key_file,
        charge_header=options.charge_header,
        ledger=options.ledger,
        limits=PackLimits(max_items=max_items, max_request_usd=options.max_request_usd),
        budget_usd=options.budget_usd,
        price=price,
        concurrency=options.concurrency,
        on_doubt=options.on_doubt,
        seed=options.seed,
        report=options.report,
        dashboard=options.dashboard,
        untrusted=options.untrusted,
        audit=options.audit,
        max_disagreement=options.max_disagreement,
        confidence=options.confidence,
        examples=options.examples,
        batch=options.batch,
        abandon_batches=options.abandon_batches,
    )


def _run_report(options: argparse.Namespace) -> int:
    from packer.page import make_page  # noqa: PLC0415  slow

    page = make_page(options.report, evaluation=options.evaluation, output=options.output)
    return _print([show_text(str(page))])


def _run_dashboard(options: argparse.Namespace) -> int:
    from packer.dashboard.command import show_jobs  # noqa: PLC0415  slow

    return show_jobs(options.ledger)


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
    return _print(show_ledger(path, action))


def _print(lines: Iterable[str]) -> int:
    for line in lines:
        print(line)
    sys.stdout.flush()
    return 0


def _width() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def _check_variable(name: str | None) -> str | None:
    # Somebody gives the key itself now and then; a key may look like a variable's name, and must not be repeated
    if name is None or name in os.environ or _ENVIRONMENT_NAME.fullmatch(name):
        return name
    raise CallError("--api-key-env: expected the name of an environment variable that is set, not the key itself")


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "label": _run_label,
    "plan": _run_plan,
    "models": _run_models,
    "calibrate": _run_calibrate,
    "evaluate": _run_evaluate,
    "report": _run_report,
    "dashboard": _run_dashboard,
    "ledger": _run_ledger,
}
