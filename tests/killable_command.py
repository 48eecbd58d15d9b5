"""The command in processes that a test can kill: each is forked from one that has imported everything.

A start takes milliseconds that way and not a second, and is a real process all the same. The process that forks has one
thread. It is run as `python tests/killable_command.py`, reads an order a line, and answers with the number of the new
process and, once that has ended, with how. Only then is the process reaped: until the test has heard of its end, its
number cannot be another's, so that a kill never meets a stranger.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packer import batch_files, batches, failpoints
from packer.cli import main
from packer.tokens import count_tokens

KEY_VARIABLE = "KILLABLE_KEY"


@dataclass(frozen=True)
class Place:
    """Where a process dies: the `nth` time that it reaches `name` once it has passed `after` (empty: from the start).

    `pause` is in seconds, for which what other threads do goes on before it dies.
    """

    name: str
    nth: int = 1
    after: str = ""
    pause: float = 0.0


@dataclass(frozen=True)
class Ended:
    """How a process ended: `code` is its exit code, negative for a signal; `passed` are the failpoints in order."""

    code: int
    passed: Sequence[str]
    out: str
    err: str

    @property
    def was_killed(self) -> bool:
        """Whether it died by kill -9."""
        return self.code == -signal.SIGKILL


class Commands:
    """Runs commands one after the other, each in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders, self._answers = process.stdin, process.stdout
        self._alive: int | None = None
        self._lock = threading.Lock()

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        key: str,
        place: Place | None = None,
        began: Callable[[], object] = int,
    ) -> Ended:
        """`prompt-packer ARGUMENTS` in `folder`, until it ends or dies at `place`; `key` is what opens its account.

        `began` is called once the process is there and `kill` would meet it.
        """
        files = {name: folder / f".{name}" for name in ("passed", "out", "err")}
        for path in files.values():
            path.write_bytes(b"")
        order: dict[str, Any] = {"arguments": list(arguments), "folder": str(folder), "key": key}
        order |= {"files": {name: str(path) for name, path in files.items()}}
        self._tell(order | ({} if place is None else {"place": vars(place)}))
        with self._lock:
            self._alive = int(self._answers.readline())
        began()
        code = int(self._answers.readline())
        with self._lock:
            self._alive = None
        self._tell("reap")
        passed, out, err = (path.read_text(encoding="utf-8") for path in files.values())
        for path in files.values():
            path.unlink()
        return Ended(code, passed.splitlines(), out, err)

    def kill(self) -> None:
        """Kill the process that runs, if one does. For any thread."""
        with self._lock:
            if self._alive is not None:
                os.kill(self._alive, signal.SIGKILL)

    def interrupt(self) -> None:
        """Press Ctrl-C on the process that runs, if one does. For any thread."""
        with self._lock:
            if self._alive is not None:
                os.kill(self._alive, signal.SIGINT)

    def _tell(self, order: Any) -> None:
        self._orders.write(json.dumps(order) + "\n")
        self._orders.flush()


@contextlib.contextmanager
def killable_commands() -> Iterator[Commands]:
    """The process that forks, for as long as it is needed."""
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Commands(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def _serve() -> None:
    # what is loaded at its first use would be loaded by every process anew
    for name in ("openai.resources.chat", "rich.live", "packer.labelling", "packer.runner"):
        importlib.import_module(name)
    count_tokens(["warm"])
    # the waits of a batch are for people
    batch_files._FIRST_LOOK, batch_files._LONGEST_LOOK, batches._QUIET = 0.005, 0.05, 0.1
    assert threading.active_count() == 1, "a fork takes one thread along, and the locks of all"
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
        _say(child)
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        _say(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)
        sys.stdin.readline()
        os.waitpid(child, 0)


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _become(order: Mapping[str, Any]) -> None:
    code = 70
    try:
        os.chdir(order["folder"])
        os.environ[KEY_VARIABLE] = order["key"]
        descriptors = {name: os.open(path, os.O_WRONLY | os.O_APPEND) for name, path in order["files"].items()}
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(descriptors["out"], 1)
        os.dup2(descriptors["err"], 2)
        failpoints.put(_make_hook(descriptors["passed"], Place(**order["place"]) if "place" in order else None))
        code = main(order["arguments"])
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001  whoever runs the test reads it
        traceback.print_exc()
    finally:
        # not sys.exit: what the process that forked would do at its end is not for this one
        os._exit(code)


def _make_hook(passed: int, place: Place | None) -> Callable[[str], None]:
    seen = {"": 1}
    counted = 0

    def hook(name: str) -> None:
        nonlocal counted
        # one write: what was passed is known though the process dies
        os.write(passed, f"{name}\n".encode())
        seen[name] = seen.get(name, 0) + 1
        if place is not None and name == place.name and place.after in seen:
            counted += 1
            if counted == place.nth:
                time.sleep(place.pause)
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


if __name__ == "__main__":
    _serve()
