"""Await one text at a time, as a web server would: whatever waits at the same moment shares a pack. Runs offline."""

import asyncio

import packer


async def handle(runner: packer.Runner, text: str) -> None:
    """One caller, who knows nothing of the others."""
    result = await runner.submit(text)
    print(f"{result.label:10} {text}")


async def main() -> None:
    """Five callers at once."""
    task = packer.Task(
        {
            "question": "asks for something, where can I, how do I, do you",
            "thanks": "says thank you",
            "complaint": "is not satisfied, it broke, I want my money back",
        }
    )
    texts = [
        "Thanks a lot, that was quick!",
        "Where can I change my password?",
        "This is the second time it broke, I want my money back",
        "thank you all for the lovely evening",
        "do you ship to Norway?",
    ]
    async with packer.Runner(task, model="local", ledger=None) as runner:
        await asyncio.gather(*(handle(runner, text) for text in texts))
        statistics = runner.statistics()
    print(f"{statistics.items} texts, {statistics.requests} requests")


asyncio.run(main())
