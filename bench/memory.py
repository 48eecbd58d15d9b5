"""Memory and CPU of large tables: `python bench/memory.py [ROWS]`. The command, with a gateway inside its own process.

Each run is a process of its own: its peak of memory and its CPU are what the kernel says of it. The gateway inside
answers at once, in the same process, so that what it takes counts as ours.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packer import connections
from packer.cli import main as run_command
from packer.exchange import Prompt, Reply
from packer.task import Task
from packer.testing import FakeTransport

FEW, MANY = 10_000, 1_000_000
CHILD = "--in-this-process"


class Forgetful(FakeTransport):
    """A gateway that answers at once, and keeps no log."""

    async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
        """Answer `prompt`."""
        reply = await super().send(prompt, deadline=deadline)
        self.prompts.clear()
        return reply


@dataclass(frozen=True)
class Taken:
    """What a process took: seconds on the clock and of CPU, and its peak of memory in MB."""

    seconds: float
    cpu: float
    megabytes: float


def run_child(arguments: Sequence[str]) -> int:
    """Run the command on a gateway in memory; its exit code."""

    def connect(*_: Any, **__: Any) -> FakeTransport:
        return Forgetful(Task(["spam", "ham"]), lambda text: "spam" if "7" in text else "ham", seconds=0, free=True)

    connections.connect = connect
    return run_command(arguments)


def run(folder: Path, name: str, ledger: str) -> Taken:
    """Label the table `name` in `folder`."""
    options = ["--text", "text", "--labels", "spam,ham", "--model", "m", "--ledger", ledger]
    command = ["label", name, "--output", f"labelled-{name}", *options]
    began = time.perf_counter()
    # not subprocess.run: the kernel tells only who waits for a process what it took
    child = subprocess.Popen([sys.executable, __file__, CHILD, *command], cwd=folder, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with exit code {child.returncode}")
    return Taken(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def texts(rows: int) -> Iterator[str]:
    """Distinct messages of some 60 characters."""
    for number in range(rows):
        yield f"message {number}: are we still on for lunch, or shall I go alone?"


def write_table(path: Path, rows: int) -> None:
    """A table of `rows` messages, by the ending of its name."""
    with path.open("w", encoding="utf-8") as file:
        if path.suffix == ".csv":
            file.write("id,text\n")
            file.writelines(f'{number},"{text}"\n' for number, text in enumerate(texts(rows)))
        else:
            file.writelines(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(texts(rows)))


def main() -> None:
    """Print the table."""
    many = int(sys.argv[1]) if len(sys.argv) > 1 else MANY
    print(f"{'':8}{'rows':>10}{'MB':>7}{'seconds':>9}{'CPU s':>8}{'us a row':>10}{'again: MB':>11}{'seconds':>9}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for ending in ("csv", "jsonl"):
            base = Taken(0, 0, 0)
            for rows in (FEW, many):
                table = f"{rows}.{ending}"
                write_table(folder / table, rows)
                first, again = (run(folder, table, f"{table}.db") for _ in range(2))
                # what a run of few takes is mostly the start: the rest is what the other rows take
                rate = f"{(first.cpu - base.cpu) / (rows - FEW) * 1e6:10.0f}" if rows > FEW else f"{'':10}"
                base = base if rows > FEW else first
                print(
                    f"{ending:8}{rows:10,}{first.megabytes:7.0f}{first.seconds:9.1f}{first.cpu:8.1f}{rate}"
                    f"{again.megabytes:11.0f}{again.seconds:9.1f}",
                    flush=True,
                )
                for left in folder.iterdir():
                    left.unlink()


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        sys.exit(run_child(sys.argv[2:]))
    main()
