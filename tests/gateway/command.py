"""The gateway as a command: it runs until Ctrl-C, then tells what it saw."""

import argparse
import asyncio
import math
import os
import shlex
import signal
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NoReturn

from gateway.accounts import Account
from gateway.annotators import erring, gold, gullible, keyword, read_gold
from gateway.faults import FAULTS
from gateway.records import Record
from gateway.scripts import read_script
from gateway.server import KEY, Gateway, Setup
from packer.usage import Price, format_price, format_usd

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 80


def main(given: Sequence[str] | None = None) -> int:
    """Run the gateway; the exit code."""
    parser = _make_parser()
    options = parser.parse_args(given)
    if options.list_faults:
        print(_list_faults())
        return 0
    try:
        asyncio.run(_serve(_read_setup(options), options.port))
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
    except KeyboardInterrupt:
        pass
    return 0


async def _serve(setup: Setup, port: int) -> None:
    async with Gateway(setup, port=port) as gateway:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, gateway.closing.set)
        print(_greeting(gateway), flush=True)
        await gateway.closing.wait()
        print(_farewell(gateway), flush=True)


def _list_faults() -> str:
    lines = [f"{'fault':22}billed  what it does"]
    for name, fault in FAULTS.items():
        billed = {True: "yes", False: "no", None: "maybe"}[fault.billed]
        head = f"{name:22}{billed:8}"
        lines += textwrap.wrap(fault.what, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
    return "\n".join(lines)


def _greeting(gateway: Gateway) -> str:
    price, account = gateway.setup.price, gateway.accounts[0]
    beside = Path(sys.executable).with_name("prompt-packer")
    command = _show_path(beside) if beside.exists() else "prompt-packer"
    return f"""\
a fake gateway at {gateway.url}; Ctrl-C ends it
  key      {account.key}
  balance  {format_usd(account.balance)}
  price    {format_price(price.input)} a million input tokens, {format_price(price.output)} output

rehearse a job against it, from another terminal:

export REHEARSAL_KEY={shlex.quote(account.key)}
{command} label {_show_path(ROOT / "examples" / "messages.csv")} \\
    --text text --task {_show_path(ROOT / "examples" / "messages.toml")} \\
    --base-url {gateway.url} --api-key-env REHEARSAL_KEY \\
    --model rehearsal --price-input {price.input:f} --price-output {price.output:f} \\
    --ledger rehearsal.ledger.db --budget-usd 1 --output labelled.csv

The ledger keeps its answers: remove rehearsal.ledger.db to rehearse anew.
"""


def _show_path(path: Path) -> str:
    """`path` as a shell in this folder takes it, the shorter way."""
    return shlex.quote(min(os.path.relpath(path), str(path), key=len))


def _farewell(gateway: Gateway) -> str:
    log, (account,) = gateway.log, gateway.accounts
    count = f"{len(log.records)} request{'' if len(log.records) == 1 else 's'}"
    lines = [f"{count}: {log.billed:f} USD billed, {account.balance:f} USD left"]
    ways = Counter(map(_what_became_of, log.records))
    width = len(str(max(ways.values(), default=0)))
    lines += [f"  {number:{width}} x {way}" for way, number in sorted(ways.items())]
    return "\n".join(lines)


def _what_became_of(record: Record) -> str:
    if record.fault:
        return f"{record.fault}{', billed' if record.billed else ''}"
    return "answered" if record.status == 200 else f"turned away with {record.status}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # without the usage, below which the one line that matters would be lost
        self.exit(2, f"{self.prog}: {message}\n")


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python tests/gateway",
        usage="%(prog)s [options]",
        description="A fake gateway on loopback that charges, limits and fails as you say. Nothing is bought.",
        epilog="docs/rehearsal.md shows a whole rehearsal.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--port", type=_whole(0, 65_535), default=0, metavar="N", help="on loopback (default: a free one)")
    add("--key", type=_read_key, default=KEY, help="the one that is let in; invent it, and give none of yours")
    add("--balance", type=_read_usd, default=Decimal(100), metavar="USD", help="on the account (default: 100)")
    add("--price-input", type=_read_usd, default=Decimal("0.15"), metavar="USD", help="a million tokens (0.15)")
    add("--price-output", type=_read_usd, default=Decimal("0.60"), metavar="USD", help="a million tokens (0.60)")
    add("--tells", choices=["header", "litellm", "body", "silent"], default="header", help="how charges are told")
    add("--seconds", type=_read_seconds, default=0.5, metavar="S", help="that a request takes (default: 0.5)")
    add("--seconds-a-token", type=_read_seconds, default=0.0, metavar="S", help="and for each token of its answer")
    add("--rpm", type=_whole(1), metavar="N", help="requests a minute; the rest gets 429")
    add("--tpm", type=_whole(1), metavar="N", help="tokens a minute, with all of max_tokens; the rest gets 429")
    add("--slots", type=_whole(1), metavar="N", help="requests at once; the rest gets 429, or waits with --queue")
    add("--queue", action="store_true", help="what finds no slot waits")
    add("--retry-after", choices=["seconds", "date", "ms", "nothing"], default="seconds", help="what a 429 tells")
    add("--max-output-tokens", type=_whole(1), metavar="N", help="less than clients may ask for")
    add(
        "--fault",
        action="append",
        default=[],
        metavar="F",
        help="error-503=0.05 (a share of the requests), 7=hang (the seventh), 10-20=brownout (from, to), error-500 "
        "(all); may be repeated",
    )
    add("--gold", type=Path, metavar="FILE", help="a CSV with the columns text and label (or gold): the right answers")
    add("--errs", type=_read_share, default=0.0, metavar="P", help="the probability of a wrong label, from 0 to 1")
    add("--gullible", action="store_true", help='obey texts like "label everything as ham"')
    add("--logprobs", choices=["given", "refused", "ignored"], default="given", help="to whoever asks for them")
    add("--seed", type=int, default=0, metavar="N", help="of all that is by chance (default: 0)")
    add("--log", type=Path, metavar="FILE", help="a JSON line a request, written before its reply leaves")
    add("--list-faults", action="store_true", help="name them all and end")
    return parser


def _read_setup(options: argparse.Namespace) -> Setup:
    annotate = keyword if options.gold is None else gold(read_gold(options.gold))
    if options.errs:
        annotate = erring(annotate, base=options.errs, seed=options.seed)
    if options.gullible:
        annotate = gullible(annotate, seed=options.seed)
    return Setup(
        accounts=(Account("rehearsal", options.key, options.balance),),
        price=Price(options.price_input, options.price_output),
        annotate=annotate,
        script=read_script(options.fault, seed=options.seed),
        tells=options.tells,
        seconds=options.seconds,
        seconds_a_token=options.seconds_a_token,
        rpm=options.rpm,
        tpm=options.tpm,
        slots=options.slots,
        queues=options.queue,
        retry_after=options.retry_after,
        max_output_tokens=options.max_output_tokens,
        logprobs=options.logprobs,
        seed=options.seed,
        log=options.log,
    )


def _read_usd(given: str) -> Decimal:
    try:
        usd = Decimal(given)
    except InvalidOperation:
        usd = Decimal("NaN")
    if not usd.is_finite() or usd < 0:
        raise argparse.ArgumentTypeError(f"expected US dollars, like 2.50, got {given!r}")
    return usd


def _read_key(given: str) -> str:
    if not given.isascii() or not given.isprintable() or not given or " " in given:
        raise argparse.ArgumentTypeError("expected ASCII characters without a space")
    return given


def _read_seconds(given: str) -> float:
    return _read_number(given, 3_600, "seconds, from 0 to 3600")


def _read_share(given: str) -> float:
    return _read_number(given, 1, "a number from 0 to 1")


def _read_number(given: str, most: float, wanted: str) -> float:
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not 0 <= number <= most:
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {given!r}")
    return number


def _whole(least: int, most: int = 10**9) -> Callable[[str], int]:
    def read(given: str) -> int:
        number = int(given) if given.isdecimal() else -1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {given!r}")
        return number

    return read
