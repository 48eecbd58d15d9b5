"""How long the command takes to say something: `python bench/start.py`. Each run is a process; the least of some runs.

The first request is seen by a gateway in this process, on loopback, and is measured against what importing openai alone
takes in the same environment.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROWS = 1_000
RUNS = 5
COMMAND = [sys.executable, "-m", "packer"]


class Doorbell:
    """A server that notes when the first byte of a request comes, and closes."""

    def __init__(self) -> None:
        self.rang = 0.0
        self.port = 0
        self._is_open = threading.Event()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True).start()
        self._is_open.wait()

    async def _serve(self) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            self.rang = self.rang or time.perf_counter()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._is_open.set()
        await server.serve_forever()


def time_run(command: Sequence[str], *, expected: int = 0) -> float:
    """Seconds that a process takes; the least of some runs."""
    return min(_time_once(command, expected) for _ in range(RUNS))


def _time_once(command: Sequence[str], expected: int) -> float:
    began = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, check=False)
    if ended.returncode != expected:
        raise SystemExit(f"{' '.join(command)} ended with exit code {ended.returncode}: {ended.stderr.decode()}")
    return time.perf_counter() - began


def time_first_request(table: str) -> float:
    """Seconds from the start of a process to its first request; the least of some runs."""
    return min(_time_request(table) for _ in range(RUNS))


def _time_request(table: str) -> float:
    bell = Doorbell()
    options = ["--text", "text", "--labels", "spam,ham", "--model", "m", "--base-url", f"http://127.0.0.1:{bell.port}"]
    began = time.perf_counter()
    with subprocess.Popen(
        [*COMMAND, "label", table, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while not bell.rang and process.poll() is None:
            time.sleep(0.001)
        process.kill()
    if not bell.rang:
        raise SystemExit("the command ended without a request")
    return bell.rang - began


@contextlib.contextmanager
def folder_with(rows: int) -> Iterator[str]:
    """A folder of its own to be in, and a table of `rows` messages there."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        lines = (f"message {number}: are we still on for lunch?\n" for number in range(rows))
        Path("texts.csv").write_text("text\n" + "".join(lines), encoding="utf-8")
        try:
            yield "texts.csv"
        finally:
            os.chdir(before)


def main() -> None:
    """Print the table."""
    with folder_with(ROWS) as table:
        label = [*COMMAND, "label", table, "--labels", "spam,ham"]
        plan = [*COMMAND, "plan", table, "--text", "text", "--labels", "spam,ham", "--model", "gpt-4o-mini"]
        openai = time_run([sys.executable, "-c", "import openai"])
        first = time_first_request(table)
        rows = {
            "--help": time_run([*COMMAND, "--help"]),
            "a bad call: an unknown option": time_run([*label, "--modell", "m"], expected=2),
            "a bad call: no such column": time_run([*label, "--text", "txt", "--model", "m"], expected=2),
            f"plan of {ROWS:,} rows": time_run(plan),
            "importing openai alone": openai,
            "label, to the first request": first,
            "  after that import": first - openai,
        }
    print(f"{'seconds, the least of ' + str(RUNS):36}")
    for name, seconds in rows.items():
        print(f"{name:36}{seconds:6.2f}")


if __name__ == "__main__":
    main()
