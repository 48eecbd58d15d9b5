"""The command with a fake gateway inside, for tests that need a process: `python tests/fake_command.py label ...`.

FAKE_SECONDS is how long a request takes. FAKE_FAULTS is JSON: from a request's number (or "*") to a kind of failure.
FAKE_LOG is a file that gets a line for each request: its texts as a JSON list.
"""

import json
import os
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from packer import connections
from packer.cli import main
from packer.errors import Failure, TransportError
from packer.exchange import Charge, ChargeSource, Prompt, Reply
from packer.prompts import read_user
from packer.task import Task
from packer.testing import FakeTransport

CHARGE = Charge(Decimal("0.0001"), ChargeSource.HEADER)


def annotate(text: str) -> str:
    """The label that every test expects."""
    return "spam" if "free" in text.lower() else "ham"


def connect_to(transport: FakeTransport) -> Callable[..., FakeTransport]:
    """What takes the place of `connections.connect`."""
    return lambda *_, **__: transport


class LoggedTransport(FakeTransport):
    """A fake gateway that writes down what comes before it answers."""

    async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
        """Answer `prompt` after its time."""
        if log := os.environ.get("FAKE_LOG"):
            with Path(log).open("a", encoding="utf-8") as file:  # noqa: ASYNC230  a line
                file.write(f"{json.dumps(read_user(prompt.user)[1])}\n")
        return await super().send(prompt, deadline=deadline)


def make_transport(task: Task, *, seconds: float = 0.0, faults: dict[str, str] | None = None) -> FakeTransport:
    """A gateway that labels by `annotate` and charges for each request."""

    def fault(prompt: Prompt, number: int) -> TransportError | None:
        kind = (faults or {}).get(str(number)) or (faults or {}).get("*")
        return None if kind is None else TransportError(Failure(kind), f"the gateway says: {kind}")

    return LoggedTransport(task, annotate, seconds=seconds, fault=fault, charge=CHARGE)


if __name__ == "__main__":

    def connect(*_: Any, **__: Any) -> FakeTransport:
        seconds = float(os.environ.get("FAKE_SECONDS", "0"))
        return make_transport(
            Task(["spam", "ham"]), seconds=seconds, faults=json.loads(os.environ.get("FAKE_FAULTS", "{}"))
        )

    connections.connect = connect
    sys.exit(main())
