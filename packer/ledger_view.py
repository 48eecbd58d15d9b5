"""The ledger as a person or a program reads it: read-only, so that it may be looked at while a job runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal

from packer.ledger import Attempt, Ledger
from packer.ledger_batches import WaitingSum, add_up
from packer.shown import count_of, show_text
from packer.usage import format_usd


def show_ledger(path: str, action: str) -> Iterator[str]:
    """The lines of `action` (export, doubt, or empty for the statistics). Raises `LedgerError`."""
    with Ledger(path, read_only=True) as ledger:
        match action:
            case "export":
                for answer in ledger.export():
                    yield json.dumps(answer, ensure_ascii=False)
            case "doubt":
                yield from _list_doubt(ledger.attempts_in_doubt())
            case _:
                yield from _write_statistics(ledger)


def verify_ledger(path: str) -> list[str]:
    """What is wrong with the ledger, a line each; empty where nothing is. Raises `LedgerError`."""
    with Ledger(path, read_only=True) as ledger:
        return [show_text(problem) for problem in ledger.verify()]


def _write_statistics(ledger: Ledger) -> Iterator[str]:
    with ledger.snapshot():
        now, waiting = ledger.statistics(), add_up(ledger.all_waiting())
    attempts = ", ".join(f"{count:,} {state}" for state, count in now.attempts.items() if count)
    total = sum(now.attempts.values())
    yield f"answers    {now.answers:,}"
    yield f"requests   {total:,}" + (f": {attempts}" if attempts else "")
    yield f"jobs       {now.jobs:,}"
    yield f"tokens     {now.usage.input_tokens:,} in, {now.usage.output_tokens:,} out"
    money = now.spending
    yield f"cost       {format_usd(money.settled)}"
    # what waits in a batch is open, and in nobody's doubt
    doubt = money.doubt + money.open - (waiting.reserved if waiting else Decimal(0))
    if doubt:
        most = money.settled + doubt
        yield f"in doubt   at most {format_usd(doubt)}, so that {format_usd(most)} is the most it can be"
    if unknown := money.unknown - (waiting.unpriced if waiting else 0):
        yield f"unknown    {count_of(unknown, 'request')} cost what nobody knows"
    if waiting is not None:
        yield from _write_waiting(waiting)
    yield f"file       {now.file_bytes:,} bytes, format {now.schema_version}"


def _write_waiting(waiting: WaitingSum) -> Iterator[str]:
    asked = f"{count_of(waiting.requests, 'request')} with {count_of(waiting.texts, 'text')}"
    urls = show_text(", ".join(waiting.urls))
    yield f"batches    {count_of(waiting.batches, 'batch', 'batches')} waiting at {urls}"
    yield f"           since {waiting.since:%Y-%m-%d %H:%M} UTC: {asked}, {write_set_aside(waiting)} besides"
    yield "           the same command with --batch collects what came of them"


def write_set_aside(waiting: WaitingSum) -> str:
    """What batches that wait may cost."""
    if waiting.unpriced:
        return f"an unknown cost of {count_of(waiting.unpriced, 'request')}"
    return f"at most {format_usd(waiting.reserved)}"


def _list_doubt(attempts: Iterator[Attempt]) -> Iterator[str]:
    count = 0
    for attempt in attempts:
        count += 1
        items = count_of(len(attempt.keys), "item")
        most = "cost unknown" if attempt.reserve is None else f"at most {format_usd(attempt.reserve)}"
        when = f"{attempt.opened:%Y-%m-%d %H:%M:%S} UTC"
        yield show_text(f"request {attempt.id}, {when}, {items}, {most}: {attempt.outcome or 'in flight'}")
    if not count:
        yield "no request is in doubt"
