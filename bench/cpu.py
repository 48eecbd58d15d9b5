"""What a request costs this machine: `python bench/cpu.py`. CPU of the client alone, the gateway is another process.

A bare aiohttp request that sends the same bytes and reads the answer as JSON is 1. The job does all that a job does:
it packs, sends through the SDK, checks the answer row by row, and commits intent and answers to a ledger on disk.
"""

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

import packer
from packer.exchange import Prompt
from packer.prompts import answer_schema, write_system, write_user
from packer.transport import GatewayTransport

ROOT = Path(__file__).resolve().parents[1]
KEY = "rehearsal-key-0123456789"
TASK = packer.Task(["spam", "ham"], instructions="Messages of a phone, as spam or ham. " * 20)
PACK, REQUESTS, IN_FLIGHT, ROUNDS = 20, 400, 16, 7
TEXTS = [f"message {number}: are we still on for lunch, or shall I go alone?" for number in range(PACK * REQUESTS)]


async def bare(url: str) -> None:
    """Requests without an SDK, a check or a ledger; their bodies were written before."""
    bodies = iter(BODIES)

    async def work(session: aiohttp.ClientSession) -> None:
        for body in bodies:
            async with session.post(f"{url}/chat/completions", data=body, headers=headers) as response:
                json.loads(await response.read())

    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as session:
        await asyncio.gather(*(work(session) for _ in range(IN_FLIGHT)))


async def transport(url: str) -> None:
    """Requests through the transport alone."""
    system, schema = write_system(TASK), answer_schema(TASK)
    packs = iter([TEXTS[start : start + PACK] for start in range(0, len(TEXTS), PACK)])
    gateway = GatewayTransport("m", base_url=url, api_key=KEY, connections=IN_FLIGHT)

    async def work() -> None:
        for texts in packs:
            await gateway.send(Prompt(system, write_user(texts, "aaaa"), schema, 400), deadline=60)

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    await gateway.aclose()


async def job(url: str) -> None:
    """A whole job."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"base_url": url, "api_key": KEY, "ledger": Path(folder) / "l.db", "concurrency": IN_FLIGHT}
        async with packer.Runner(TASK, model="m", **options) as runner:  # type: ignore[arg-type]  # all are its own
            results = [result async for result in runner.stream(TEXTS)]
    assert all(result.label for result in results)


def _body(texts: list[str]) -> bytes:
    messages = [
        {"role": "system", "content": write_system(TASK)},
        {"role": "user", "content": write_user(texts, "aaaa")},
    ]
    return json.dumps({"model": "m", "max_tokens": 400, "temperature": 0, "messages": messages}).encode()


BODIES = [_body(TEXTS[start : start + PACK]) for start in range(0, len(TEXTS), PACK)]


def measure(work: Callable[[str], Awaitable[None]], url: str) -> float:
    """CPU milliseconds a request."""
    began = time.process_time()
    asyncio.run(work(url))  # type: ignore[arg-type]  # they are coroutines
    return (time.process_time() - began) * 1000 / REQUESTS


def main() -> None:
    """Print the table."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the gateway ends too
    command = [sys.executable, str(ROOT / "tests" / "gateway"), "--seconds", "0.001"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        url = next(word for line in gateway.stdout for word in line.split() if word.startswith("http")).rstrip(";")
        try:
            asyncio.run(transport(url))  # imports, and whatever is made once
            rows = {"bare aiohttp": bare, "the transport": transport, "a whole job": job}
            # in turns, so that a slow minute of the machine meets all of them
            turns = [[measure(work, url) for work in rows.values()] for _ in range(ROUNDS)]
            taken = {
                name: sorted(column)[ROUNDS // 2] for name, column in zip(rows, zip(*turns, strict=True), strict=True)
            }
        finally:
            gateway.terminate()
    print(f"CPU of a request with {PACK} texts, median of {ROUNDS} times {REQUESTS} requests")
    for name, milliseconds in taken.items():
        print(f"{name:16}{milliseconds:8.2f} ms{milliseconds / taken['bare aiohttp']:7.1f} x")


if __name__ == "__main__":
    main()
