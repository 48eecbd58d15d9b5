"""Rehearse a job without paying: a fake gateway fails on purpose, and its books and the ledger's are compared.

Runs offline, from a clone: the gateway is in its `tests` folder. docs/rehearsal.md does the same with the command.
"""

import asyncio
import csv
import sys
import tempfile
from decimal import Decimal
from pathlib import Path

import packer

CLONE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CLONE / "tests"))

from gateway.scripts import at  # noqa: E402  only now can it be found
from gateway.server import KEY, Gateway, Setup  # noqa: E402

FAULTS = {
    2: "error-503",  # not billed, but the reply does not say so
    4: "cut-after-headers",  # the charge is told, the answer is lost
    6: "reset-before-headers",  # billed, and nothing is told
    8: "lost-row",
}


async def rehearse(gateway: Gateway, folder: Path) -> None:
    """Label the messages through the faults, and print what both sides have in their books."""
    with (CLONE / "examples" / "messages.csv").open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    runner = packer.Runner(
        packer.read_task(CLONE / "examples" / "messages.toml"),
        model="rehearsal",
        base_url=gateway.url,
        api_key=KEY,
        price=packer.Price(Decimal("0.15"), Decimal("0.60")),
        limits=packer.PackLimits(max_items=10),
        ledger=folder / "rehearsal.ledger.db",
        budget_usd="0.05",
    )
    async with runner:
        results = [result async for result in runner.stream(texts)]
        told = runner.statistics()

    print(f"{len(texts)} texts, {sum(result.label is not None for result in results)} labelled")
    for record in gateway.log.records:
        print(f"  request {record.number:2}: {len(record.texts):2} texts, {record.billed:.9f} USD  {record.fault}")
    least, most = told.settled, told.settled + told.in_doubt
    print(f"the gateway billed {gateway.log.billed:.9f} USD")
    print(f"the ledger says    {least:.9f} USD, and at most {told.in_doubt:.9f} USD in doubt")
    if not least <= gateway.log.billed <= most:
        sys.exit("they do not agree")
    print("they agree")


async def main() -> None:
    """A gateway, a folder for the ledger, and the job."""
    with tempfile.TemporaryDirectory() as folder:
        async with Gateway(Setup(script=at(FAULTS), seconds=0.05)) as gateway:
            await rehearse(gateway, Path(folder))


asyncio.run(main())
