"""A command on a pseudo-terminal, and the screen that its user sees: pyte is the terminal, and nothing else draws."""

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import pyte

_PATIENCE = 30.0  # seconds


class Terminal:
    """Runs `command` on a terminal of its own. `raw` is all that was written; `screen` what can be read of it now.

    The size is the terminal's and no variable's, as with a real one. A context manager: the command is gone at its end.
    """

    def __init__(self, command: Sequence[str], *, columns: int = 80, lines: int = 24, **variables: str) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        inherited = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
        self.process = subprocess.Popen(
            command,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**inherited, "TERM": "xterm-256color", **variables},
        )
        os.close(follower)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(_PATIENCE)
        os.close(self._leader)

    @property
    def screen(self) -> list[str]:
        """The lines that can be seen, from the top, without what is empty at their ends."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip().split("\n")

    @property
    def colours(self) -> set[str]:
        """In what is on the screen."""
        return {cell.fg for row in self._screen.buffer.values() for cell in row.values()}

    @property
    def has_cursor(self) -> bool:
        """Whether the cursor can be seen."""
        return not self._screen.cursor.hidden

    def wait_for(self, seen: Callable[[list[str]], bool]) -> list[str]:
        """The first screen that `seen` takes. Raises `AssertionError` where none comes."""
        deadline = time.monotonic() + _PATIENCE
        while not seen(self.screen):
            assert time.monotonic() < deadline, self.screen
            assert self._read(deadline) or seen(self.screen), self.screen
        return self.screen

    def finish(self) -> tuple[int, list[str]]:
        """The exit code, and the screen at the end."""
        deadline = time.monotonic() + _PATIENCE
        while self._read(deadline):
            pass
        return self.process.wait(_PATIENCE), self.screen

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._leader], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing is written: {self.screen}"
        with contextlib.suppress(OSError):  # Linux tells the end of a terminal so
            if chunk := os.read(self._leader, 1 << 16):
                self.raw += chunk
                self._stream.feed(chunk)
                return True
        return False
