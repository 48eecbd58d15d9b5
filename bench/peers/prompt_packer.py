"""Ours, by its public API."""

import asyncio

from order import FOLDER, MODEL, ORDER, TEXTS, report

import packer


async def main():
    task = packer.Task(ORDER.labels, instructions=ORDER.task)
    runner = packer.Runner(
        task,
        model=MODEL,
        base_url=ORDER.url,
        api_key=ORDER.key,
        ledger=FOLDER / "ledger.db",
        limits=packer.PackLimits(max_items=ORDER.pack),
    )
    async with runner:
        report([result.label async for result in runner.stream(TEXTS)])


asyncio.run(main())
