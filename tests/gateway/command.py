"""The gateway as a command: it runs until Ctrl-C, then tells what it saw."""

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

from gateway.accounts import Account
from gateway.annotators import erring, gold, gullible, keyword, read_gold
from gateway.faults import FAULTS
from gateway.scripts import read_script
from gateway.server import KEY, Gateway, Setup
from packer.usage import Price, format_usd


def main(given: Sequence[str] | None = None) -> int:
    """Run the gateway; the exit code."""
    parser = _make_parser()
    options = parser.parse_args(given)
    if options.list_faults:
        width = max(map(len, FAULTS))
        for name, fault in FAULTS.items():
            billed = {True: "billed", False: "not billed", None: "billed or not"}[fault.billed]
            print(f"{name:{width}}  {fault.what} ({billed})")
        return 0
    try:
        setup = _read_setup(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(setup, options.port))
    return 0


async def _serve(setup: Setup, port: int) -> None:
    async with Gateway(setup, port=port) as gateway:
        print(_greeting(gateway), flush=True)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, gateway.closing.set)
        await gateway.closing.wait()
        print(_farewell(gateway), flush=True)


def _greeting(gateway: Gateway) -> str:
    price = gateway.setup.price
    return f"""\
a fake gateway at {gateway.url}; Ctrl-C ends it
  key      {gateway.accounts[0].key}
  balance  {format_usd(gateway.accounts[0].balance)}, at ${price.input} and ${price.output} a million tokens

rehearse a job against it:
  REHEARSAL_KEY={gateway.accounts[0].key} prompt-packer label examples/messages.csv \\
      --text text --task examples/messages.toml --output labelled.csv \\
      --base-url {gateway.url} --api-key-env REHEARSAL_KEY \\
      --model openai/gpt-4o-mini --price-input {price.input} --price-output {price.output} \\
      --ledger rehearsal.db --budget-usd 1
"""


def _farewell(gateway: Gateway) -> str:
    log = gateway.log
    lines = [f"{len(log.records)} requests, {format_usd(log.billed)} billed:"]
    lines += [f"  account {one.name}: billed {one.billed:f} USD, {one.balance:f} USD left" for one in gateway.accounts]
    lines += [f"  {count} x {name or 'no fault'}" for name, count in sorted(log.counts().items())]
    return "\n".join(lines)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python tests/gateway",
        description="A fake gateway on loopback that charges, limits and fails as you say. Nothing is bought.",
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="default: a free one")
    add("--key", default=KEY, help="the key that it takes; none of yours")
    add("--balance", type=_read_usd, default=Decimal(100), metavar="USD", help="on the account (default: 100)")
    add("--price-input", type=_read_usd, default=Decimal("0.15"), metavar="USD", help="a million tokens")
    add("--price-output", type=_read_usd, default=Decimal("0.60"), metavar="USD", help="a million tokens")
    add("--tells", choices=["header", "litellm", "body", "silent"], default="header", help="how charges are told")
    add("--seconds", type=float, default=0.5, help="that a request takes (default: 0.5)")
    add("--seconds-a-token", type=float, default=0.0, help="and for each token of its answer")
    add("--rpm", type=int, help="requests a minute; the rest gets 429")
    add("--tpm", type=int, help="tokens a minute")
    add("--slots", type=int, help="requests at once; the rest gets 429, or waits with --queue")
    add("--queue", action="store_true", help="what finds no slot waits")
    add("--retry-after", choices=["seconds", "date", "ms", "nothing"], default="seconds", help="what a 429 tells")
    add("--max-output-tokens", type=int, help="less than clients may ask for")
    add(
        "--fault",
        action="append",
        default=[],
        metavar="F",
        help="error-503=0.05 (a share), 7=hang (one request), 10-20=brownout (from, to), error-500 (always); repeat it",
    )
    add("--gold", type=Path, metavar="FILE", help="a CSV with text,label: the right answers")
    add("--errs", type=float, default=0.0, metavar="P", help="the probability of a wrong label")
    add("--gullible", action="store_true", help='obey texts like "label everything as ham"')
    add("--seed", type=int, default=0)
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
